"""Draw the README's picture, docs/overview.png: a rendered face and a photograph, and what the weak parser finds.

usage: python -m tools.overview
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from wsfp_helpers.data.photograph import astronaut
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.parser import load_parser
from wsfp_helpers.plots import gallery, overlay
from wsfp_helpers.storage import atomic_path

OUT = Path(__file__).parents[1] / "docs" / "overview.png"
FACE = "celeb_test_00003_v0"


def main() -> None:
    """Write the picture."""
    parser, faces, photograph = load_parser("weak"), synthfaces("celeb/test"), astronaut()
    place = faces.ids.index(FACE)
    face, truth = faces.image(place), faces.label_map(place)
    guess, found = parser.predict(face)[0], parser.predict(photograph)[0]
    figure = gallery(
        [face, overlay(face, truth), overlay(face, guess), photograph, overlay(photograph, found)],
        ["rendered face", "truth", "learnt without masks", "photograph", "learnt without masks"],
        columns=5, size=2.3, classes=[k for k in np.unique([*truth.flat, *guess.flat, *found.flat]) if k],
    )  # fmt: skip
    with atomic_path(OUT) as part:
        figure.savefig(part, format="png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()

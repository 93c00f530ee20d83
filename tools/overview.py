"""Draw the pictures of the docs: what the parsers find, on faces that may be shown.

usage: python -m tools.overview          docs/ladder.png: a rendered face and a photograph through every step
       python -m tools.overview frl      docs/frl_side_by_side.png: real people, both parsers; needs FRL London
       python -m tools.overview terms    docs/terms.png: maps of the networks of Table 4, seed 0; trains those that
                                         `wsfp ablate table4` has not left in the cache, 3 minutes each

The people of FRL London consented, and their pictures are CC BY 4.0 (DeBruine and Jones 2017).  The four shown were
chosen by what they said of themselves, not by the result, from those by whom nothing was tuned.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import atomic_path
from wsfp_helpers.common.pictures import resize_label_map
from wsfp_helpers.data.frl import frl_london
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.notebook.ladder import climb, two_faces
from wsfp_helpers.notebook.plots import gallery, heat, overlay
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.profiles import profile
from wsfp_helpers.stages import SHIPPED, load_run, run_keyed
from wsfp_helpers.tooling.ablate import table3, table4
from wsfp_helpers.tooling.ladder import stored_scores

DOCS = Path(__file__).parents[1] / "docs"
LADDER_PART = "skin"
TERMS_FACE, TERMS_PARTS = 7, ("skin", "nose", "l_eye", "u_lip", "hair", "neck")
PEOPLE = ("008_03", "021_03", "107_03", "129_03")


def ladder() -> Figure:
    """A column for each step: maps of :data:`LADDER_PART` above, labels below, the stored mean F1 under them."""
    faces, scores = two_faces(), stored_scores()
    rungs, k, pictures = list(climb(faces)), COMPONENTS.index(LADDER_PART), []
    truths = [synthfaces("celeb/val").label_map(0), np.zeros(faces.image(1).shape[:2], np.uint8)]
    for i, truth in enumerate(truths):
        face = faces.image(i)
        below = overlay(face, truth, opacity=0.75) if truth.any() else np.full_like(face, 255)
        pictures += [face, *(heat(face, rung.maps[i, k]) for rung in rungs)]
        pictures += [below, *(overlay(face, rung.labels[i], opacity=0.75) for rung in rungs)]
    titles = ["rendered", *(rung.name.replace(", ", "\n") for rung in rungs)]
    titles += ["its truth", *[""] * len(rungs), "photograph", *[""] * (2 * len(rungs) + 1)]
    classes = _present(*(rung.labels for rung in rungs))
    title = f"The same two faces, step by step: maps of the {LADDER_PART} above, labels of all parts below"
    figure = gallery(pictures, titles, title, columns=1 + len(rungs), size=1.75, classes=classes)
    for axis, rung in zip(figure.axes[-len(rungs) :], rungs, strict=True):
        score, split = scores[rung.name]
        words = f"mean F1 {score}\n{split.replace(' of ', ' of' + chr(10)).replace(', ', ',' + chr(10))}"
        axis.text(0.5, -0.04, words, transform=axis.transAxes, ha="center", va="top", fontsize=8)
    return figure


def side_by_side() -> Figure:
    """Each of :data:`PEOPLE` with what the weak and the supervised parser find."""
    faces, parsers = frl_london(), [load_parser("weak"), load_parser("supervised")]
    pictures, maps = [], []
    for key in PEOPLE:
        photograph = faces.image(faces.ids.index(key))
        small = np.array(Image.fromarray(photograph).resize((240, 240), Image.Resampling.LANCZOS))
        pictures.append(small)
        for parser in parsers:
            maps.append(resize_label_map(parser.predict(photograph)[0], (240, 240)))
            pictures.append(overlay(small, maps[-1]))
    titles = ["photograph", "learnt without masks", "learnt with masks"] * len(PEOPLE)
    title = "Photographs: FRL London, DeBruine and Jones 2017, CC BY 4.0; colours added"
    return gallery(pictures, titles, title, columns=6, size=2, classes=_present(*maps))


def terms() -> Figure:
    """Maps of one training face: a row with CCD alone and for each row of Table 4, a column for each part."""
    config = profile("embedded")
    rows = [table3(config)[1], *table4(config)]
    faces = config.faces("train").weak.subset([TERMS_FACE])
    image, columns = faces.image(0), [COMPONENTS.index(part) for part in TERMS_PARTS]
    pictures, titles = [], []
    for row in rows:
        run = run_keyed(row.change(config, 0), SHIPPED, cache_dir() / "ablate")
        vit, _ = load_run(run)
        (fcam,) = extract(vit, faces, config.fcam)
        maps = dict(zip(fcam.classes, fcam.maps(), strict=True))
        pictures += [image, *(heat(image, maps[k]) for k in columns)]
        titles += [row.name, *TERMS_PARTS]
    title = "Maps of a training face, the terms of TCD added one by one (seed 0; yellow: 1, dark: 0)"
    return gallery(pictures, titles, title, columns=1 + len(columns), size=1.35)


def _present(*maps: np.ndarray) -> list[int]:
    return [k for k in np.unique(np.concatenate([each.ravel() for each in maps])) if k]


def main() -> None:
    """Write one picture; an argument that is none of them prints how it is used."""
    drawn = {"ladder": ("ladder", ladder), "frl": ("frl_side_by_side", side_by_side), "terms": ("terms", terms)}
    asked = sys.argv[1] if sys.argv[1:] else "ladder"
    if asked not in drawn:
        sys.exit(__doc__)
    name, draw = drawn[asked]
    figure = draw()
    with atomic_path(DOCS / f"{name}.png") as part:
        figure.savefig(part, format="png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

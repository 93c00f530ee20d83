"""Draw the pictures of the docs: what the parsers find, on faces that may be shown.

usage: python -m tools.overview          docs/ladder.png: a rendered face and a photograph through every step
       python -m tools.overview frl      docs/frl_side_by_side.png: real people, both parsers; needs FRL London
       python -m tools.overview before   docs/before_after.png: six photographs and six rendered faces, with the weak
                                         parser of today and the one that learnt from the paper's maps; needs FRL London
       python -m tools.overview terms    docs/terms.png: maps of the networks of Table 4, seed 0; trains those that
                                         `wsfp ablate table4` has not left in the cache, 3 minutes each

The people of FRL London consented, and their pictures are CC BY 4.0 (DeBruine and Jones 2017).  The four shown were
chosen by what they said of themselves, not by the result, from those by whom nothing was tuned.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import atomic_path
from wsfp_helpers.common.pictures import resize_label_map
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.frl import frl_london
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.notebook.ladder import climb, two_faces
from wsfp_helpers.notebook.plots import gallery, heat, overlay
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.parsing.zoom import FaceParser, ZoomSettings
from wsfp_helpers.profiles import profile
from wsfp_helpers.stages import SHIPPED, load_run, run_keyed
from wsfp_helpers.tooling.ablate import table3, table4
from wsfp_helpers.tooling.ladder import stored_scores

DOCS = Path(__file__).parents[1] / "docs"
LADDER_PART = "skin"
TERMS_FACE, TERMS_PARTS = 7, ("skin", "nose", "l_eye", "u_lip", "hair", "neck")
FRL = "Photographs: FRL London, DeBruine and Jones 2017, CC BY 4.0"
PEOPLE = ("008_03", "021_03", "107_03", "129_03")
BEFORE = "dc7ae14:wsfp_helpers/assets/parser_weak.safetensors"
"""The last weak parser in the history that learnt from the paper's maps, small parts from CCD's boxes."""
COMPARED = 6


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
        shown, found = _answers(faces, faces.ids.index(key), parsers)
        pictures, maps = [*pictures, *shown], [*maps, *found]
    titles = ["photograph", "learnt without masks", "learnt with masks"] * len(PEOPLE)
    return gallery(pictures, titles, f"{FRL}; colours added", columns=6, size=2, classes=_present(*maps))


def before_after() -> Figure:
    """A photograph and a face of celeb/test in each row: the weak parser before and now, and full supervision."""
    real, rendered = frl_london(), synthfaces("celeb/test")
    parsers = [_parser_before(), load_parser("weak"), load_parser("supervised")]
    held_back = [i for i in range(len(real)) if i % 3]  # the others chose settings
    pictures, maps = [], []
    for row in range(COMPARED):
        places = held_back[row * len(held_back) // COMPARED], row * len(rendered) // COMPARED
        for faces, place in zip((real, rendered), places, strict=True):
            shown, found = _answers(faces, place, parsers)
            pictures, maps = [*pictures, *shown], [*maps, *found]
        small, truth = _small(rendered, places[1]), rendered.label_map(places[1])
        pictures.append(overlay(small, resize_label_map(truth, small.shape[:2])))
    answers = ["before", "now", "with masks"]
    titles = ["photograph", *answers, "rendered", *answers, "its truth"] * COMPARED
    title = f"Learnt without masks, before and now.  {FRL}; colours added"
    return gallery(pictures, titles, title, columns=9, size=1.5, classes=_present(*maps))


def _answers(faces: Faces, index: int, parsers: Sequence[FaceParser]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A face and what each parser paints on it, and their label maps, all small enough for a figure."""
    small, settings = _small(faces, index), ZoomSettings(most=0) if faces.weak.framed else ZoomSettings()
    found = [parser.predict(faces.image(index), settings)[0] for parser in parsers]
    maps = [resize_label_map(each, small.shape[:2]) for each in found]
    return [small, *(overlay(small, each) for each in maps)], maps


def _small(faces: Faces, index: int) -> np.ndarray:
    return np.array(Image.fromarray(faces.image(index)).resize((240, 240), Image.Resampling.LANCZOS))


def _parser_before() -> FaceParser:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "parser_weak.safetensors"
        path.write_bytes(subprocess.run(["git", "show", BEFORE], cwd=DOCS, check=True, capture_output=True).stdout)
        return load_parser(path)


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
    drawn = {
        "ladder": ("ladder", ladder), "frl": ("frl_side_by_side", side_by_side), "terms": ("terms", terms),
        "before": ("before_after", before_after),
    }  # fmt: skip
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

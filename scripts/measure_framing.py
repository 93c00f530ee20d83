"""Measure how closely a photograph's face should be looked at, and write framing.json with its page; needs FRL London.

usage: python scripts/measure_framing.py [FOLDER]

FOLDER is where the results go, by default results/.  `wsfp parse` looks until the face is about 0.7 of the height of a
square, as in the training pictures, and then once more and closer.  Here both shipped parsers look at every third
photograph (settings are chosen on these, results reported on the others) with last squares of other sizes.
"""

import sys
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.frl import frl_london
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.parsing.light import LightParser, look_together
from wsfp_helpers.parsing.load import SHIPPED_PARSERS, load_parser
from wsfp_helpers.parsing.zoom import Parsed, ZoomSettings, enlarge_labels, parse_canvases, to_canvas
from wsfp_helpers.score.confusion import confusion, pooled
from wsfp_helpers.tooling.results import area_row, scored_rows, write_results

HEIGHTS = (0.7, 0.85, 1.0, 1.1, 1.2)
"""Heights of the face in the last square."""
LIPS = ("u_lip", "l_lip")


def looked_at(faces: Faces, index: int, parsers: list[LightParser]) -> list[dict[str, Tensor]]:
    """For each parser its probabilities ``(19, h, w)`` on the canvas, by what the row is called."""
    image = faces.image(index)
    canvas, size = to_canvas(image, image.shape[:2]), image.shape[:2]
    found: list[dict[str, Tensor]] = [{} for _ in parsers]
    for height in HEIGHTS:
        settings = ZoomSettings(last_height=height)
        answers: list[Parsed]
        (answers,) = parse_canvases(
            lambda pictures, flip: look_together(parsers, pictures, flip), parsers[0].size, [canvas], [size], settings
        )
        for each, answer in zip(found, answers, strict=True):
            each[f"{height}"] = answer.probability
    return found


def rows(faces: Faces) -> Iterable[dict]:
    """Scores of every framing for each parser, and the area of the lips in relation to their true one."""
    parsers = [parser for kind in SHIPPED_PARSERS if isinstance(parser := load_parser(kind), LightParser)]
    matrices: dict[tuple[str, str], list[np.ndarray]] = {}
    for index in range(len(faces)):
        truth = faces.label_map(index)
        for kind, by_row in zip(SHIPPED_PARSERS, looked_at(faces, index, parsers), strict=True):
            for name, probability in by_row.items():
                matrix = confusion(enlarge_labels(probability, truth.shape), truth, len(CELEBAMASK))
                matrices.setdefault((kind, name), []).append(matrix)
        print(f"{index + 1} of {len(faces)} photographs", flush=True)
    for (kind, name), of_all in matrices.items():
        yield from scored_rows(f"{kind}, face {name} of the last square", np.stack(of_all)[None], scored=faces.scored)
    for (kind, name), of_all in matrices.items():
        yield area_row(f"{kind}, face {name} of the last square", "lips", LIPS, [pooled(np.stack(of_all))])


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    target = sys.argv[1] if len(sys.argv) == 2 else "results"
    torch.set_num_threads(1)
    with exit_on_bad_input():
        people = frl_london()
        chosen = people.subset(range(0, len(people), 3))
        print(write_results("framing", "python scripts/measure_framing.py", [*rows(chosen)], target))

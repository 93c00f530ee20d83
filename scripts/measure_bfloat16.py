"""Measure what computing in bfloat16 changes in `wsfp parse`, and write bfloat16.json with its page.

usage: python scripts/measure_bfloat16.py [FOLDER]     both shipped parsers on rendered test faces, and on FRL London
                                                       where it is found; needs a processor that multiplies bfloat16

FOLDER is where the results go, by default results/.  Mean F1 in float32 and bfloat16, and how many percent of the
pixels have the same class in both: the mean over pictures, and of the picture in which the fewest have.
"""

import sys
from collections.abc import Iterable

import numpy as np

from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.common.machine import multiplies_bfloat16
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.frl import find_frl_london, frl_london
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.parsing.light import LightParser
from wsfp_helpers.parsing.load import SHIPPED_PARSERS, load_parser
from wsfp_helpers.parsing.zoom import ZoomSettings
from wsfp_helpers.score.confusion import evaluate_pairs
from wsfp_helpers.tooling.results import row, scores_row, write_results


def rows(name: str, faces: Faces, parsers: dict[str, LightParser]) -> Iterable[dict]:
    """Scores of each parser in both on a set of faces, and how far the maps agree."""
    settings, truths = ZoomSettings(most=0) if faces.weak.framed else ZoomSettings(), range(len(faces))
    for which, parser in parsers.items():
        maps = {}
        for kind in ("float32", "bfloat16"):
            parser.fast = kind == "bfloat16"
            maps[kind] = [parser.predict(faces.image(i), settings)[0] for i in truths]
            scores = evaluate_pairs(((maps[kind][i], faces.label_map(i)) for i in truths), scored=faces.scored)
            yield scores_row(f"{name}: {which}, {kind}", [scores])
        same = [100 * float((a == b).mean()) for a, b in zip(*maps.values(), strict=True)]
        yield row(f"{name}: {which}", "same class", "percent", [float(np.mean(same))])
        yield row(f"{name}: {which}", "same class, least", "percent", [min(same)])


def every_row() -> Iterable[dict]:
    """The rows of both sets of faces."""
    if not multiplies_bfloat16():
        raise InputError("this processor does not multiply bfloat16, so wsfp parse computes in float32 here anyway")
    shipped = {name: load_parser(name) for name in SHIPPED_PARSERS}
    parsers = {name: parser for name, parser in shipped.items() if isinstance(parser, LightParser)}
    yield from rows("celeb/test", synthfaces("celeb/test"), parsers)
    if find_frl_london():
        yield from rows("FRL London", frl_london(), parsers)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    target = sys.argv[1] if len(sys.argv) == 2 else "results"
    with exit_on_bad_input():
        print(write_results("bfloat16", "python scripts/measure_bfloat16.py", [*every_row()], target))

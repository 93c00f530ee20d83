"""Measure what the class weights of its training do to a parser's answers, and write balance.json with its page.

usage: python scripts/measure_balance.py [FOLDER]     needs FRL London

FOLDER is where the results go, by default results/.  The shipped parsers have their weights divided out for the parts
of the face.  Here they answer as they were trained, so, and with the weights divided out for all classes, on the faces
and photographs on which settings are chosen.  The weights are computed anew from how frequent classes are in the
rendered masks of celeb/train; those of the weak parser came from its region labels and differ a little.
"""

import sys
from collections.abc import Iterable

import numpy as np
import torch

from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.frl import frl_london
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.parsing.fit import class_weights
from wsfp_helpers.parsing.light import LightParser
from wsfp_helpers.parsing.load import SHIPPED_PARSERS, load_parser
from wsfp_helpers.parsing.zoom import FACE
from wsfp_helpers.score.confusion import pooled
from wsfp_helpers.stages import score_parser
from wsfp_helpers.tooling.results import area_row, scored_rows, write_results

LIPS = ("u_lip", "l_lip")


def biases(power: float) -> dict[str, np.ndarray]:
    """What is added to the scores ``(19,)`` of a shipped parser, by what the row is called."""
    faces = synthfaces("celeb/train")
    weight = class_weights((faces.label_map(index) for index in range(len(faces))), power).log().numpy()
    weight -= weight[CELEBAMASK.index("skin")]
    inner = np.isin(CELEBAMASK.classes, FACE)
    return {
        "as trained": np.where(inner, weight, 0),
        "weights undone for parts of the face": np.zeros_like(weight),
        "weights undone for all classes": np.where(inner, 0, -weight),
    }


def answers(parser: LightParser, faces: Faces, added: np.ndarray) -> np.ndarray:
    """Confusion matrices ``(n, 19, 19)`` of a parser with ``added`` to its scores."""
    bias = parser.network.get_parameter("head.bias")
    kept = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.add_(torch.from_numpy(added).float())
        return score_parser(parser, faces)
    finally:
        with torch.no_grad():
            bias.copy_(kept)


def rows(sets: Iterable[Faces]) -> Iterable[dict]:
    """Scores of each parser with each bias, and the area of the lips in relation to their true one."""
    parsers = {kind: parser for kind in SHIPPED_PARSERS if isinstance(parser := load_parser(kind), LightParser)}
    added = {kind: biases(parser.config.balance) for kind, parser in parsers.items()}
    areas = []
    for faces in sets:
        for kind, parser in parsers.items():
            for name, bias in added[kind].items():
                matrices, called = answers(parser, faces, bias), f"{kind}, {faces.name}, {name}"
                yield from scored_rows(called, matrices[None], scored=faces.scored)
                areas.append(area_row(called, "lips", LIPS, [pooled(matrices)]))
                print(called, flush=True)
    yield from areas


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    target = sys.argv[1] if len(sys.argv) == 2 else "results"
    with exit_on_bad_input():
        photographs = frl_london()
        chosen = [synthfaces("celeb/val"), photographs.subset(range(0, len(photographs), 3))]
        command = " ".join(["python scripts/measure_balance.py", *sys.argv[1:]])
        write_results("balance", command, list(rows(chosen)), target)

"""Checks of notebook 00."""

from collections.abc import Callable

import numpy as np

from wsfp_helpers.data.faces import Faces
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS
from wsfp_helpers.notebook.checks.common import array, choose, names, require

SIDED = {"l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"}


def largest(answer: object, truth: np.ndarray) -> None:
    """Three components that cover most of a label map."""
    require(answer != "background" and "background" not in (answer if isinstance(answer, set | list | tuple) else ()), (
        "the background is no component: it is what is left over"
    ))  # fmt: skip
    found = names(answer)
    require(len(found) == 3, f"three names are asked for, got {len(found)}")
    area = {name: int((truth == k).sum()) for k, name in enumerate(CELEBAMASK.classes) if k}
    wanted = set(sorted(area, key=lambda name: -area[name])[:3])
    small = sorted(found - wanted, key=lambda name: area[name])
    if small:
        share = 100 * area[small[0]] / truth.size
        require(False, f"{small[0]} has only {share:.1f} % of the pixels: importance for us is not size")


def image_labels(answer: Callable, faces: Faces) -> None:
    """The list of parts from a label map: 1 where a part has at least 10 pixels."""
    crumbs = np.zeros((20, 20), np.uint8)
    crumbs[0, :9], crumbs[1, :10], crumbs[2, :11] = 2, 3, 18  # nose 9, glasses 10, cloth 11 pixels
    found = np.asarray(answer(crumbs))
    require(found.shape != (19,), "19 numbers: the background is not on the list, so leave out class 0")
    found = array(found, (18,), "a label map")
    nose, glasses, cloth = found[1], found[2], found[17]
    require(not nose, "nine pixels are too few: a part counts from 10 pixels on (a single one may be a crumb)")
    require(cloth, "clothes have 11 pixels here; component k is class k + 1, for class 0 is the background")
    require(glasses, "exactly 10 pixels count: at least 10, so >= and not >")
    for i in range(8):
        found = array(answer(faces.label_map(i)), (18,), f"face {i}")
        wrong = [COMPONENTS[k] for k in np.flatnonzero(found.astype(int) != faces.labels[i])]
        require(not wrong, f"face {i}: {', '.join(wrong)} differ from the list of the data set")


def lost_by_mirror(answer: object) -> None:
    """The components whose score falls to nothing when a mirrored map keeps its classes."""
    found = names(answer)
    require("l_lip" not in found and "u_lip" not in found, "l_lip is the lower lip: mirroring leaves it where it is")
    require("ear_r" not in found, "ear_r is the earring, one class for both sides; the right ear is r_ear")
    centre = sorted(found - SIDED)
    require(not centre, f"{', '.join(centre)}: a class without a side is a class without a side in the mirror, too")
    missing = sorted(SIDED - found)
    require(not missing, f"not complete: which other parts come in pairs? ({len(missing)} are missing)")


def lazy_parser(answer: object) -> None:
    """What pixel accuracy and mean F1 say of a parser that knows three classes."""
    choose(answer, "accuracy high, mean F1 low", {
        "both high": "F1 is counted class by class and then averaged: fifteen classes have none right",
        "both low": "count pixels: hair, skin and background cover nearly all of the picture",
        "accuracy low, mean F1 high": "the other way round: which of the two lets a large class outvote small ones?",
    })  # fmt: skip

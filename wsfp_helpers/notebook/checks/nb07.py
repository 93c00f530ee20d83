"""Checks of notebook 07."""

from collections.abc import Callable, Mapping

import numpy as np

from wsfp_helpers.labels import CELEBAMASK, LAPA, to_lapa_table
from wsfp_helpers.notebook.checks.common import array, choose, given, require
from wsfp_helpers.score.confusion import Scores


def perfect_by_name(answer: object) -> None:
    """Mean F1 over ten classes of a perfect parser that is mapped name to name."""
    choose(answer, "60", {
        "100": "its pixels are perfect, but left_eye of the one is held against left_eye of the other: whose left?",
        "40": "count again: four of the ten classes have sides, and those are the ones that are lost",
        "0": "nose, skin, lips, mouth and hair have no side: the name is all there is",
    })  # fmt: skip


def geometric_table(answer: Callable) -> None:
    """The table of 19 class ids of LaPa that keeps every part in its place."""
    given(answer())
    table = array(answer(), (19,), "table")
    ids = {name: CELEBAMASK.index(name) for name in CELEBAMASK.classes}
    require(table[ids["cloth"]] == 0, "classes that LaPa lacks become background, 0")
    lower = LAPA.index("lower_lip")
    require(table[ids["l_lip"]] == lower, "l_lip is the lower lip: it has no side to be exchanged")
    by_name = to_lapa_table("by-name")
    require(not (table == by_name).all(), "name to name: the person's left eye is the viewer's right one")
    eyes = table[ids["l_eye"]] == LAPA.index("right_eye")
    brows = table[ids["l_brow"]] == LAPA.index("right_eyebrow")
    require(eyes == brows, "eyes and eyebrows both have sides: one pair is exchanged, the other is not")
    require(
        table[ids["r_eye"]] == LAPA.index("left_eye"), "only one of the two eyes is exchanged: pairs hold both ways"
    )
    require((table == to_lapa_table("geometric")).all(), "not the geometric table: look at the classes one by one")


def interval(answer: Callable, matrices: np.ndarray) -> None:
    """The bootstrap interval of mean F1 over images, from matrices ``(n, C, C)``."""
    small, large = np.zeros((2, 19, 19), int)
    small[1, 1], large[1, 0] = 1, 100  # one pixel right; a hundred missed
    pair = np.stack([small, large] * 10)
    given(answer(pair))
    ends = array(answer(pair), (2,), "interval")
    require(ends[0] <= ends[1], "the lower end comes first")
    require(ends[0] < ends[1], "no spread at all: draw the images anew for each of the samples")
    require(ends[1] < 10, "add the matrices of a draw first, and then take F1: no mean of the faces' own F1")
    n = len(matrices)
    draws = np.random.default_rng(1).integers(n, size=(300, n))
    means = sorted(Scores(matrices[draw].sum(0)).mean_f1 for draw in draws)
    low, high = answer(matrices)
    require(
        high - low < means[-1] - means[0] - 1e-9, "that is the smallest and the largest: leave out 2.5 % at each end"
    )
    require(means[6] <= low <= means[8], "the lower end: 2.5 % of the 300 means lie below it")
    require(means[291] <= high <= means[293], "the upper end: 2.5 % of the 300 means lie above it")


def by_pixels(answer: object) -> None:
    """What a bootstrap over pixels instead of images does to the interval."""
    choose(answer, "far too narrow", {
        "the same": "it would be, if pixels erred independently; those of one face err together",
        "far too wide": "more draws of smaller things make it narrower: 24 faces, but 600,000 pixels",
        "shifted": "the middle stays where it is; it is the width that lies",
    })  # fmt: skip


def differ(answer: Callable) -> None:
    """Pairs of groups that may be said to differ: ten images or more, and intervals that do not overlap."""
    groups: Mapping[str, tuple[int, float, float]] = {
        "a": (40, 70.0, 76.0), "b": (40, 60.0, 66.0), "c": (40, 65.0, 72.0), "d": (5, 20.0, 30.0),
    }  # fmt: skip
    given(found := answer(groups))
    require(found is not None, "your function returns None; does it end with `return`?")
    pairs = {frozenset(pair) for pair in found}
    require(all(len(pair) == 2 for pair in pairs), "a group is not compared with itself: pairs of two different names")
    require(
        not any("d" in pair for pair in pairs), "d has five images: too few to say anything, however far away it lies"
    )
    require(frozenset("ac") not in pairs, "a and c overlap from 70 to 72: no difference can be claimed")
    require(frozenset("bc") not in pairs, "b and c overlap by a point, from 65 to 66")
    require(frozenset("ab") in pairs, "a begins at 70 where b ends at 66: that pair differs")

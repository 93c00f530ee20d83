"""Checks of notebook 08."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from wsfp_helpers.notebook.checks.common import array, choose, close, given, require


def tells_sides(answer: object) -> None:
    """Which of four systems tells left from right."""
    choose(answer, "CLIMS", {
        "MCTformer+": "its lists name a left and a right eye in nearly every picture: what could tell them apart?",
        "MoRe": "its tokens collect patches, and nothing asks the left eye's token for other ones than the right eye's",
        "CLIP-ES": "it reads words, but asks what is in the whole picture; both eyes are in it",
        "WeakCLIP": "it learns from the baseline's labels: what these confuse, it is taught",
    })  # fmt: skip


def area_weight(answer: object, covers: Callable[[float], float], true_area: float) -> None:
    """A weight of the area term for which a map covers its part's share of the picture; ``covers`` trains with it."""
    given(answer)
    if not isinstance(answer, int | float):
        raise AssertionError("the weight is a number")
    require(answer >= 0, "a negative weight would reward large maps")
    area = covers(float(answer))
    require(area < true_area + 0.06, f"the map covers {100 * area:.0f} % of the picture, too much: raise the weight")
    require(area > true_area - 0.06, f"the map covers {100 * area:.0f} % of the picture, too little: lower the weight")


def shares(answer: Callable) -> None:
    """Shares ``(P,)`` of the present parts in CLIP-ES's softmax over parts and background."""
    generator = torch.Generator().manual_seed(0)
    v, parts, background = (F.normalize(torch.randn(n, 16, generator=generator), dim=-1) for n in (1, 5, 3))
    v, background, scale = v[0], F.normalize(background + v, dim=-1), 5.0  # the background is in sight
    none, every = torch.zeros(0, 16), torch.cat([parts, background]) @ v
    given(found := answer(v, parts, background, scale))
    require(np.shape(found) != (8,), "only the parts' shares are asked for: cut off those of the background at the end")
    found = array(found, (5,), "shares")
    alone = array(answer(v, parts, none, scale), (5,), "shares without background")
    require(close(alone.sum(), 1, 1e-4), "without background texts the parts' shares sum to 1: a softmax is missing")
    require(not close(found.sum(), 1, 1e-3), "the background takes its share, too: its texts belong into the softmax")
    require(not close(found, every.softmax(0)[:5]), "the cosines need the factor scale before the softmax")
    require(close(found, (scale * every).softmax(0)[:5], 1e-4), "not the shares of the parts: which texts come first?")


def without_background(answer: object) -> None:
    """What CLIP-ES's gradient maps of a face become without the background prompt."""
    choose(answer, "hardly anything", {
        "the wall lights up": "it would, if nothing else stood in the denominator: what else does?",
        "all maps become the same": "that needs a softmax over one text; thirteen others are still in it",
        "left and right are exchanged": "the background prompt knows no side",
    })  # fmt: skip


def failure(answer: Callable) -> None:
    """The name of what is wrong with maps, from what is found, what is right, and whose side it is on."""
    given(answer(0.5, 0.5, 1.0))
    require(answer(0.1, 0.9, 0.9) == "missed", "little is found, and that is right: this part was missed")
    require(answer(0.5, 0.1, 0.9) == "elsewhere", "much is found and little is right: the label is elsewhere as well")
    require(answer(0.5, 0.5, 0.5) == "both sides", "half of the pixels on the own side is what chance gives")
    require(answer(0.1, 0.1, 0.5) == "missed", "where several hold, the order of the text decides")
    require(answer(0.6, 0.3, 1.0) == "none of these", "a map may simply be coarse: no failure of the list holds")
    require(answer(0.15, 0.2, 0.65) == "none of these", "less than 15 %, fewer than 20 %, below 65 %: the bounds pass")

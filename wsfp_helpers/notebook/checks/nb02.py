"""Checks of notebook 02."""

from collections.abc import Callable

import numpy as np

from wsfp_helpers.detect.base import Detection
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.notebook.checks.common import array, choose, given, names, require

CONSTANT = {"skin", "hair", "neck"}


def beyond_ccd(answer: object) -> None:
    """The frequent classes whose label CCD never clears."""
    found = names(answer)
    lips = sorted(found & {"u_lip", "l_lip", "mouth"})
    require(not lips, f"{', '.join(lips)}: a box of the mouth hides the lips, too, so their labels go with it")
    boxed = sorted(found & {"nose", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"})
    require(not boxed, f"{', '.join(boxed)}: there is a box for that, so it is masked in half of the pictures")
    varied = sorted(found - CONSTANT)
    require(not varied, f"{', '.join(varied)}: that label differs from face to face already, so it needs no help")
    require(
        found == CONSTANT, f"right so far, but {len(CONSTANT - found)} more: what would need a box around the face?"
    )


def best_box(answer: object) -> None:
    """How often the best box of 'eye' is the left one."""
    choose(answer, "about half", {
        "nearly always": "the detector is asked for 'eye': nothing in the word or the score says which one",
        "hardly ever": "then it would be the right one nearly always; why should it prefer that?",
        "one in four": "each face has two eyes, and one of them has the better score",
    })  # fmt: skip


def equation_1(answer: Callable) -> None:
    """The filter of Eq. 1: score, and the middle of the box on the proper half."""

    def box(middle: float, score: float, width: float = 20) -> Detection:
        return Detection((middle - width / 2, 60.0, middle + width / 2, 70.0), score, "eye")

    left, right = box(110, 0.8), box(50, 0.7)
    given(found := answer([left, right], "r_eye", 160))
    nothing = answer([box(50, 0.2)], "l_eye", 160)
    require(
        nothing is None,
        "a weak candidate on the wrong half is taken: test score and side, and return None if none is left",
    )
    require(found != left, "r_eye is the person's right eye: it lies on the left half of the picture (Eq. 1: < W/2)")
    require(found == right, f"r_eye of two eyes at 50 and 110: expected the one at 50, got {found}")
    require(answer([left, right], "l_eye", 160) == left, "l_eye of two eyes at 50 and 110: the one at 110 is expected")
    nose = box(90, 0.9)
    require(answer([nose], "nose", 160) == nose, "a nose has no side: Eq. 1 keeps it wherever it is")
    wide = Detection((70.0, 60.0, 130.0, 70.0), 0.8, "eye")  # begins left of the line, its middle is right of it
    require(answer([wide], "l_eye", 160) == wide, "Eq. 1 asks for the middle of the box, not for its left edge")
    require(answer([box(110, 0.2)], "l_eye", 160) is None, "a score of 0.2 is below the threshold: no box at all")
    for part in (name for name in COMPONENTS if name.endswith("_eye")):
        require(answer([box(80, 0.9)], part, 160) is None, "a box exactly on the line W/2 belongs to neither side")
    require(answer([box(200, 0.9)], "r_eye", 480) is not None, "take the width that you are given, not 160")
    require(answer([box(120, 0.9), left], "l_eye", 160).score == 0.9, "the first that passes, not the last")


def equation_2(answer: Callable) -> None:
    """Masked picture and updated label from the boxes by component."""
    image = np.full((40, 60, 3), 200, np.uint8)
    y = np.ones(len(COMPONENTS), np.uint8)
    result = answer(image, y, {"nose": (10.0, 5.0, 20.0, 30.0)})
    given(result)
    require(isinstance(result, tuple) and len(result) == 2, "return two things: picture and label")
    require(int(image.min()) == 200, "your function paints on the picture that it was given: copy it first")
    require(int(y.min()) == 1, "your function changes the label that it was given: copy it first")
    x_hat, y_hat = array(result[0], image.shape, "picture"), array(result[1], y.shape, "label")
    require((x_hat[5:30, 10:20] != 200).any(), "the picture is not masked")
    require(
        not (x_hat[12:18, 22:28] != 200).any(), "a box is (x1, y1, x2, y2), an array has rows first: [y1:y2, x1:x2]"
    )
    require(not x_hat[5:30, 10:20].any(), "Eq. 2 paints black, the value 0")
    require((x_hat != 200).any(2).sum() == 250, "inside the box everything is black, outside nothing changes")
    require(not y_hat[COMPONENTS.index("nose")], "the part is gone from the picture, but not from the label")
    require(y_hat.sum() == len(y) - 1, "only what is masked leaves the label")
    _, y_hat = answer(image, y, {"mouth": (10.0, 5.0, 20.0, 30.0)})
    hidden = [COMPONENTS.index(name) for name in ("mouth", "u_lip", "l_lip")]
    require(not np.asarray(y_hat)[hidden].any(), "a box of the mouth hides the lips as well: u_lip and l_lip go, too")


def always_masked(answer: object) -> None:
    """What is wrong with probability 1."""
    choose(answer, "the label is constant again", {
        "there are too few boxes": "the nose has a box in every picture: that is not the problem",
        "more masking is more contrast": "contrast needs pictures with and pictures without: look at the bits",
        "the pictures are too dark": "ugly, but a network could live with it; look at the column of the nose",
    })  # fmt: skip


def bits_after(answer: Callable) -> None:
    """Bits of a label that was always 1, masked with probability p where a detector finds it (share r)."""
    given(one := answer(0.5, 1.0))
    require(one is not None, "your function returns None; does it end with `return`?")
    require(abs(answer(0.0, 1.0)) < 1e-9, "no masking: the label stays a constant, which tells nothing")
    require(abs(one - 1) < 1e-9, f"half of the pictures with and half without is a coin: one bit, not {one:.3g}")
    half_found = answer(0.5, 0.5)
    require(abs(half_found - 1) > 1e-9, "r makes no difference: a part that is not found cannot be masked")
    require(abs(half_found - 0.5) > 1e-9, "r times the bits? The share of zeros is p·r; bits follow from that share")
    best = max(np.arange(0, 1.001, 0.005), key=lambda p: answer(p, 0.8))
    require(
        abs(best - 0.625) < 0.006,
        f"for r = 0.8 your bits are highest at p = {best:.3f}: how many zeros is that?",
    )

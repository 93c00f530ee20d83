"""Checks of notebook 04."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wsfp_helpers.labels import CELEBAMASK, COMPONENTS
from wsfp_helpers.notebook.checks.common import choose, given, require


def found_by_base(answer: object) -> None:
    """Which part the baseline finds without CCD and text."""
    choose(answer, "mouth", {
        "nose": "its label is always 1: think of notebook 01, where it had the map of the skin",
        "l_eye": "the two eyes have nearly the same column, and nearly always 1",
        "skin": "always on the list: nothing tells the network where it is not",
    })  # fmt: skip


def gains_by_text(answer: object) -> None:
    """Which class gains most from + CCD to full in Table 3."""
    choose(answer, "skin", {
        "nose": "that was the gain of CCD; what it has won cannot be won again",
        "l_eye": "the eyes even lose: the judge likes context, and their maps grow wider",
        "hat": "a label that differs from face to face is enough; text adds nothing there",
    })  # fmt: skip


def own_share(answer: Callable) -> None:
    """Of the pixels where a map is above a threshold, the share that lies on the part."""
    truth = np.zeros((10, 10), np.uint8)
    truth[:, :4] = 2  # the nose on the left: 40 pixels
    activation = np.zeros((10, 10))
    activation[:5, :8] = 0.9  # 40 pixels, 20 of them on the nose
    activation[5:, :] = 0.5  # not above 0.5
    given(found := answer(activation, truth, "nose"))
    require(found is not None and np.ndim(found) == 0, "return one number, the share")
    require(not np.isclose(found, 20 / 90), "exactly 0.5 is not above 0.5: use >")
    require(not np.isclose(found, 0.2), "a share of the map, not of the picture: divide by the pixels above 0.5")
    require(
        not np.isclose(found, 0) or CELEBAMASK.index("nose") != 2, "class ids begin with the background: the nose is 2"
    )
    require(np.isclose(found, 0.5), f"20 of 40 pixels of this map lie on the nose, which is 0.5 and not {found:.3g}")
    activation[:] = 0
    activation[:2, :4] = 0.9
    found = answer(activation, truth, "nose")
    require(
        not np.isclose(found, 8 / 40), "that is how much of the part is covered (recall); asked is how much of the map"
    )
    require(np.isclose(found, 1), "a map that lies on the nose alone has a share of 1")


def fuse(answer: Callable) -> None:
    """Root of attention times the positive part of the patch map."""
    attention = torch.tensor([[0.04, 0.25, 0.0, 0.01]])
    patch = torch.tensor([[1.0, 4.0, 2.0, -3.0]])
    given(found := answer(attention, patch))
    require(isinstance(found, Tensor) and found.shape == patch.shape, "one value for each patch, as a tensor")
    require(not found.isnan().any(), "a negative patch value under the root is not a number: cut it off at 0 first")
    require(
        not torch.allclose(found, attention * patch.relu()), "the root is missing: weak but agreed evidence is squashed"
    )
    require(
        not torch.allclose(found, (attention + patch.relu()) / 2),
        "a mean: what only one of the two says stays in the map",
    )
    require(not found[0, 3] > 0, "a patch that speaks against the class (negative) must end at 0")
    require(torch.allclose(found, (attention * patch.relu()).sqrt()), "not √(attention · max(0, patch))")


def with_mirror(answer: Callable) -> None:
    """Sum of maps and of those of the mirror image, left and right exchanged."""
    generator = torch.Generator().manual_seed(0)
    plain, mirrored = torch.rand(2, 1, 18, 4, 4, generator=generator)
    given(total := answer(plain, mirrored))
    require(isinstance(total, Tensor) and total.shape == plain.shape, "expected maps of the shape (B, K, h, w)")
    nose, eye = COMPONENTS.index("nose"), COMPONENTS.index("l_eye")
    require(
        not torch.allclose(total[:, nose], plain[:, nose] + mirrored[:, nose]),
        "the mirrored maps must be mirrored back",
    )
    upside_down = mirrored.flip(-2)[:, nose]
    require(
        not torch.allclose(total[:, nose], plain[:, nose] + upside_down),
        "flipped upside down: columns are the last axis",
    )
    require(torch.allclose(total[:, nose], (plain + mirrored.flip(-1))[:, nose]), (
        "the nose has no side: its mirrored map is mirrored back and added, nothing else"
    ))  # fmt: skip
    require(
        not torch.allclose(total[:, eye], (plain + mirrored.flip(-1))[:, eye]), "left and right are still not exchanged"
    )
    both = plain[:, CELEBAMASK.flip_components] + mirrored.flip(-1)[:, CELEBAMASK.flip_components]
    require(not torch.allclose(total, both), "the plain maps have their sides already: exchange only the mirrored ones")
    require(
        torch.allclose(total, plain + mirrored.flip(-1)[:, CELEBAMASK.flip_components]),
        "not the sum for every component",
    )


def absent_part(answer: object) -> None:
    """The largest value of a necklace's map on a bare neck, after the stretching."""
    choose(answer, "1", {
        "0": "before the stretching it may be small, but min-max makes the largest value of any map the same",
        "about 0.1": "that would keep the evidence; min-max divides by the largest value and so throws it away",
        "it depends on the necklace": "there is no necklace, and still there is a most necklace-like place",
    })  # fmt: skip

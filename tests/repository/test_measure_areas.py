"""Maps narrowed to the area of boxes: the area that is asked for, and nothing else changed."""

import numpy as np
import pytest
import torch

from scripts.measure_areas import mean_areas, narrowed
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS
from wsfp_helpers.method.fcam import Fcam
from wsfp_helpers.method.pseudo import pseudo_label


def face(*names: str) -> Fcam:
    """Maps on a grid of 20 x 20 that fall from one corner each, of a picture of 100 x 100."""
    y, x = torch.meshgrid(torch.linspace(1, 0, 20), torch.linspace(1, 0, 20), indexing="ij")
    slopes = [(x + y) / 2, ((1 - x) + (1 - y)) / 2][: len(names)]
    classes = np.array([COMPONENTS.index(name) for name in names])
    return Fcam(id="a", classes=classes, grids=(torch.stack(slopes),), size=(100, 100))


def test_a_boxed_part_shrinks_to_its_share_and_no_other_does():
    plain, small = pseudo_label(face("l_eye", "hair"), 0.5), narrowed(face("l_eye", "hair"), {"l_eye": 0.1}, 0.5, 0.5)
    eye, hair = CELEBAMASK.index("l_eye"), CELEBAMASK.index("hair")
    assert (small == eye).mean() == pytest.approx(0.05, abs=0.01)
    assert (plain == eye).mean() > 0.3
    np.testing.assert_array_equal(small[plain == hair], hair)


def test_a_part_that_is_small_already_is_not_widened():
    maps = face("nose")
    np.testing.assert_array_equal(narrowed(maps, {"nose": 0.9}, 1.0, 0.5), pseudo_label(maps, 0.5))


def test_areas_are_means_over_the_pictures_that_have_a_box():
    boxes = [{"l_eye": (0, 0, 10, 10)}, {"l_eye": (0, 0, 20, 10), "mouth": (0, 0, 30, 10)}, {}]
    areas = mean_areas(boxes, [(100, 100)] * 3)
    assert areas == pytest.approx({"l_eye": 0.015, "mouth": 0.01, "u_lip": 0.01, "l_lip": 0.01})

"""Shapes in boxes: inside their box, of present classes only, and the regions left alone."""

import numpy as np
import pytest
import torch

from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.method.fcam import Fcam
from wsfp_helpers.method.shapes import DARK, draw_parts, draw_parts_by_maps

SIZE = (60, 60)
BOXES = {"nose": (26.0, 20.0, 36.0, 36.0), "l_eye": (38.0, 18.0, 50.0, 24.0), "r_eye": (12.0, 18.0, 24.0, 24.0),
         "l_brow": (37.0, 12.0, 51.0, 16.0), "mouth": (22.0, 40.0, 40.0, 50.0),
         "r_ear": (2.0, 18.0, 8.0, 32.0)}  # fmt: skip
SKIN, HAIR = COMPONENTS.index("skin") + 1, COMPONENTS.index("hair") + 1


def ids(*names):
    return [COMPONENTS.index(name) for name in names]


def regions():
    grid = np.full(SIZE, SKIN, np.uint8)
    grid[:, :5] = HAIR
    return grid


def grey():
    return np.random.default_rng(0).random(SIZE)


ALL = ids("nose", "l_eye", "r_eye", "l_brow", "mouth", "u_lip", "l_lip", "r_ear", "skin")


@pytest.mark.parametrize("shapes", [True, False])
def test_parts_stay_in_their_boxes_and_the_regions_are_not_written_to(shapes):
    before = regions()
    drawn = draw_parts(before, grey(), ALL, BOXES, shapes)
    np.testing.assert_array_equal(before, regions())
    outside = np.ones(SIZE, bool)
    for x1, y1, x2, y2 in BOXES.values():
        outside[int(y1) : int(y2), int(x1) : int(x2)] = False
    np.testing.assert_array_equal(drawn[outside], before[outside])
    for name in BOXES:
        assert (drawn == COMPONENTS.index(name) + 1).any(), name


def test_a_class_without_a_label_is_not_drawn():
    drawn = draw_parts(regions(), grey(), ids("nose"), BOXES)
    assert set(np.unique(drawn)) == {SKIN, HAIR, COMPONENTS.index("nose") + 1}


def test_an_eye_is_an_ellipse_in_its_box():
    drawn = draw_parts(regions(), grey(), ids("l_eye"), BOXES)
    eye = drawn == COMPONENTS.index("l_eye") + 1
    assert eye[20, 44] and not eye[18, 38] and not eye[23, 49]
    assert eye.sum() == pytest.approx(np.pi * 6 * 3, rel=0.1)
    assert draw_parts(regions(), grey(), ids("l_eye"), BOXES, shapes=False)[18, 38] == COMPONENTS.index("l_eye") + 1


def test_a_brow_is_the_dark_part_of_its_box():
    picture = grey()
    drawn = draw_parts(regions(), picture, ids("l_brow"), BOXES)
    inside = np.zeros(SIZE, bool)
    inside[12:16, 37:51] = True
    brow = drawn == COMPONENTS.index("l_brow") + 1
    assert brow.sum() == pytest.approx(DARK * inside.sum(), abs=1)
    assert picture[brow].max() <= picture[inside & ~brow].min()


def test_an_ear_takes_skin_but_no_hair():
    ear = draw_parts(regions(), grey(), ids("r_ear"), BOXES) == COMPONENTS.index("r_ear") + 1
    assert ear[20, 6] and not ear[20, 3]


def test_lips_lie_above_each_other_with_the_open_mouth_between_them():
    upper, lower, mouth = (COMPONENTS.index(name) + 1 for name in ("u_lip", "l_lip", "mouth"))
    opened = draw_parts(regions(), grey(), ids("u_lip", "l_lip", "mouth"), BOXES)[:, 31]
    rows = opened[(opened == upper) | (opened == lower) | (opened == mouth)]
    assert list(dict.fromkeys(rows)) == [upper, mouth, lower]
    closed = draw_parts(regions(), grey(), ids("u_lip", "l_lip"), BOXES)[:, 31]
    assert list(dict.fromkeys(closed[40:50])) == [upper, lower] and mouth not in closed


def test_without_boxes_skin_is_divided_by_the_maps():
    maps = np.zeros((3, *SIZE), np.float32)
    maps[0, 0, 0], maps[1, 20:30, 20:30], maps[2] = 1, 1, 0.5
    maps[2, 1, 1] = 1
    classes = np.array(ids("skin", "nose", "hair"))
    drawn = draw_parts_by_maps(regions(), Fcam("a", classes, (torch.from_numpy(maps),), SIZE))
    assert drawn[25, 25] == COMPONENTS.index("nose") + 1 and drawn[25, 2] == HAIR and drawn[0, 10] == SKIN

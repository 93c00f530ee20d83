"""Pseudo labels from maps and boxes, on faces of a few pixels whose answer can be written down."""

import numpy as np
import torch

from wsfp_helpers.labels import CELEBAMASK, COMPONENTS
from wsfp_helpers.method.fcam import Fcam
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.parsing.boxed import boxed_label

SIZE = (24, 24)


def fcam(**maps):
    """Maps on the picture's own grid; each must span [0, 1]."""
    names = sorted(maps, key=COMPONENTS.index)
    grid = np.stack([maps[name] for name in names]).astype(np.float32)
    return Fcam("face", np.array([COMPONENTS.index(name) for name in names]), (torch.from_numpy(grid),), SIZE)


def area(rows, columns, value=1.0):
    grid = np.zeros(SIZE)
    grid[slice(*rows), slice(*columns)] = value
    return grid


def ids(label_map, name):
    return label_map == CELEBAMASK.index(name)


def test_without_boxes_it_is_the_plain_pseudo_label():
    rng = np.random.default_rng(0)
    maps = {name: rng.random(SIZE) for name in ("skin", "nose", "hair", "l_eye")}
    face = fcam(**maps)
    np.testing.assert_array_equal(boxed_label(face, {}), pseudo_label(face))


def test_a_component_fills_its_box_and_is_nowhere_else():
    face = fcam(skin=area((4, 20), (4, 20), 0.7) + area((0, 1), (0, 1)), l_eye=area((4, 10), (12, 20)))
    found = ids(boxed_label(face, {"l_eye": (14, 9, 18, 12)}), "l_eye")
    np.testing.assert_array_equal(found, area((9, 12), (14, 18)) > 0)


def test_what_a_part_leaves_goes_to_the_next_map_not_to_the_background():
    face = fcam(skin=area((4, 20), (4, 20), 0.3) + area((0, 1), (0, 1)), l_eye=area((4, 10), (12, 20)))
    assert ids(boxed_label(face, {"l_eye": (14, 9, 18, 12)}), "skin")[5, 13]
    assert ids(pseudo_label(face), "l_eye")[5, 13]


def test_mouth_and_lips_share_the_box_of_the_mouth():
    face = fcam(u_lip=area((0, 15), (0, 24)), l_lip=area((15, 24), (0, 24)), mouth=area((14, 16), (8, 16), 2.0))
    found = boxed_label(face, {"mouth": (6, 12, 18, 18)})
    assert ids(found, "u_lip")[13, 7] and ids(found, "l_lip")[17, 7] and ids(found, "mouth")[15, 10]
    parts = ids(found, "u_lip") | ids(found, "l_lip") | ids(found, "mouth")
    np.testing.assert_array_equal(parts, area((12, 18), (6, 18)) > 0)


def test_between_the_parts_of_the_inner_face_there_is_skin():
    face = fcam(
        skin=area((0, 2), (0, 2)), neck=area((10, 24), (0, 24)), nose=area((8, 9), (8, 9)), l_eye=area((4, 5), (4, 5))
    )
    found = boxed_label(face, {"l_eye": (14, 4, 20, 7), "nose": (10, 12, 14, 18)})
    assert ids(found, "skin")[9, 14] and ids(found, "neck")[22, 3]


def test_a_class_that_is_not_in_the_label_does_not_occur():
    face = fcam(skin=area((4, 20), (4, 20)))
    found = boxed_label(face, {"nose": (8, 8, 12, 12), "mouth": (8, 14, 14, 18)})
    assert set(np.unique(found)) == {0, 1}

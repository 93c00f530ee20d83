"""Augmented copies: picture and target move together, sides are exchanged, types are kept."""

import numpy as np
import pytest
from fixtures import blocks, tiny_parser

from wsfp_helpers.labels import CELEBAMASK, IGNORE
from wsfp_helpers.parsing import augment as aug
from wsfp_helpers.parsing.augment import PLAIN, WITH_MASKS, AugmentConfig


@pytest.fixture
def parser():
    return tiny_parser()


def grey_of(label_map):
    return np.where(label_map == IGNORE, -1, label_map.astype(int) * 10)


def test_a_warp_moves_picture_and_target_together():
    agreement = []
    for seed in range(10):
        picture, target = blocks(np.random.default_rng(seed), 64)
        moved, labels = aug.warp(picture, target, np.random.default_rng(seed), AugmentConfig(elastic=0.005))
        known = labels != IGNORE
        agreement.append((abs(moved[..., 0].astype(int) - grey_of(labels)) < 15)[known].mean())
    assert np.mean(agreement) > 0.6  # borders of the blocks are mixed by the interpolation


def test_augmentation_exchanges_sides_when_it_flips():
    target = np.full((32, 32), CELEBAMASK.index("l_brow"), np.uint8)
    target[:, :16] = CELEBAMASK.index("skin")
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = 200
    sides = set()
    for seed in range(12):
        moved, labels = aug.augment(picture, target, np.random.default_rng(seed), PLAIN)
        bright = moved[..., 0] > 150
        known = (labels != IGNORE) & (labels != CELEBAMASK.index("skin")) & bright
        if not known.any():
            continue
        on_the_right = np.nonzero(bright)[1].mean() > np.nonzero(~bright)[1].mean() if (~bright).any() else None
        if on_the_right is not None:
            sides.add((bool(on_the_right), CELEBAMASK.classes[np.bincount(labels[known]).argmax()]))
    assert sides == {(True, "l_brow"), (False, "r_brow")}


def test_brows_fade_towards_the_skin_and_nothing_else_changes():
    target = np.full((64, 64), 1, np.uint8)
    target[20:24, 10:30] = CELEBAMASK.index("r_brow")
    picture = np.full((64, 64, 3), 200, np.uint8)
    picture[target != 1] = 20
    faded = aug.fade_brows(picture, target, np.random.default_rng(0))
    inside = faded[21:23, 15:25].astype(int)
    assert (inside > 25).all() and (inside < 200).all()
    assert abs(faded[40:].astype(int) - 200).max() <= 1


def test_only_the_background_is_replaced():
    target = np.zeros((64, 64), np.uint8)
    target[16:48, 16:48] = 1
    picture = np.full((64, 64, 3), 120, np.uint8)
    replaced = aug.replace_background(picture, target, np.random.default_rng(3))
    assert abs(replaced[22:42, 22:42].astype(int) - 120).max() <= 1
    assert abs(replaced[:8].astype(int) - 120).mean() > 5


def test_what_is_covered_is_ignored():
    picture, target = blocks(np.random.default_rng(0), 64)
    covered, labels = aug.occlude(picture, target, np.random.default_rng(0))
    assert 0 < (labels == IGNORE).mean() < 0.5
    np.testing.assert_array_equal(covered[labels != IGNORE], picture[labels != IGNORE])


@pytest.mark.parametrize("seed", range(4))
def test_augmentation_is_repeatable_and_keeps_types(seed):
    picture, target = blocks(np.random.default_rng(seed), 64)
    first = aug.augment(picture, target, np.random.default_rng(seed), WITH_MASKS)
    again = aug.augment(picture, target, np.random.default_rng(seed), WITH_MASKS)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0].dtype == first[1].dtype == np.uint8 and first[0].shape == (64, 64, 3)
    assert set(np.unique(first[1])) <= {*range(19), IGNORE}

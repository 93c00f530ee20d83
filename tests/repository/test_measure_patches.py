"""Patches by part: which part a patch is on, and how many the other people's means name right."""

import numpy as np
import pytest

from scripts.measure_patches import PARTS, part_of_patches, patch_tokens, scored
from tests.fixtures import tiny_faces, tiny_vit
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.method.vit import vit_inputs


def test_a_patch_is_of_the_part_that_covers_most_of_it():
    label_map = np.zeros((48, 48), np.uint8)
    label_map[:16, :9] = CELEBAMASK.index("l_eye")  # 9 of 16 columns
    label_map[:16, 16:24] = CELEBAMASK.index("nose")  # just half
    label_map[16:24, :16], label_map[24:32, :16] = CELEBAMASK.index("u_lip"), CELEBAMASK.index("l_lip")
    names = list(PARTS)
    assert part_of_patches(label_map).tolist() == [names.index("eyes"), -1, -1, names.index("lips"), *[-1] * 5]


def test_means_of_others_name_what_is_near_them():
    parts = np.tile(np.repeat(np.arange(len(PARTS)), 5), (4, 1))
    rng, truth = np.random.default_rng(0), np.eye(len(PARTS))[parts]
    found = scored("x", truth + 0.01 * rng.normal(size=truth.shape), parts)
    assert found["seeds"] == [100] and found["per_class"]["ears"] == [100]
    swapped = truth.copy()
    swapped[0, parts[0] == 0] = truth[0, parts[0] == 1][:1]
    found = scored("x", swapped, parts)
    assert found["per_class"]["skin"] == [75] and found["seeds"] == [pytest.approx(100 - 25 / len(PARTS))]
    chance = scored("x", rng.normal(size=(4, 35, 3)), parts)
    assert chance["seeds"][0] < 50


def test_tokens_are_those_of_each_block():
    vit, faces = tiny_vit(), tiny_faces(2)
    pictures = [faces.image(i) for i in range(2)]
    tokens = patch_tokens(vit, pictures)
    assert [each.shape for each in tokens] == [(2, 16, 24)] * 2
    last = vit(vit_inputs(vit, pictures)).patch_tokens.detach().numpy()
    assert np.allclose(tokens[-1], last, atol=1e-5) and not np.allclose(tokens[0], last, atol=1e-2)

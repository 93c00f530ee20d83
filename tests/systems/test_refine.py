"""Refinement of maps against loops over places."""

import numpy as np
import pytest
import torch

from wsfp_helpers.systems.refine import adaptive_weights, balanced, box_of, refine, spread


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_balanced_affinity_is_symmetric_and_its_rows_sum_to_one():
    affinity = balanced(torch.rand(2, 6, 6).softmax(-1), rounds=20)
    torch.testing.assert_close(affinity, affinity.mT)
    torch.testing.assert_close(affinity.sum(-1), torch.ones(2, 6))


def test_balanced_affinity_against_loops():
    attention = torch.rand(5, 5).double()
    a = attention.numpy().copy()
    for _ in range(3):
        for j in range(5):
            a[:, j] /= sum(a[i, j] for i in range(5))
        for i in range(5):
            a[i] /= sum(a[i, j] for j in range(5))
    expected = [[(a[i, j] + a[j, i]) / 2 for j in range(5)] for i in range(5)]
    torch.testing.assert_close(balanced(attention), torch.tensor(expected).double())


def test_box_is_the_smallest_one_around_strong_places():
    map_ = torch.zeros(6, 7)
    map_[1, 4], map_[3, 2], map_[5, 6] = 1.0, 0.5, 0.3
    expected = torch.zeros(6, 7, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(box_of(map_, 0.4), expected)
    assert box_of(map_, 0.6).nonzero().tolist() == [[1, 4]]


@pytest.mark.parametrize("steps", [1, 3])
def test_spread_against_loops(steps):
    maps, affinity = torch.rand(2, 3, 4).double(), torch.rand(12, 12).double()
    expected = maps.flatten(1).numpy()
    for _ in range(steps):
        expected = np.array([[sum(affinity[i, j] * m[j] for j in range(12)) for i in range(12)] for m in expected])
    expected = torch.from_numpy(expected).view(2, 3, 4)
    for k in range(2):
        expected[k][~box_of(maps[k], 0.9)] = 0
    torch.testing.assert_close(spread(maps, affinity, 0.9, steps), expected)


def around(y, x, h, w, dilations):
    """A pixel's neighbours; beyond the border there is the nearest pixel."""
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    for d in dilations:
        for dy, dx in steps:
            yield d, (dy, dx), (min(max(y + d * dy, 0), h - 1), min(max(x + d * dx, 0), w - 1))


def naive_weights(picture, dilations):
    """Kernel of every pixel, (8 n, H, W)."""
    _, h, w = picture.shape
    out = np.zeros((8 * len(dilations), h, w))
    for y, x in np.ndindex(h, w):
        near = [(d * np.hypot(*step), picture[:, v, u]) for d, step, (v, u) in around(y, x, h, w, dilations)]
        colours, distances = np.array([c for _, c in near]), np.array([d for d, _ in near])
        sigma = colours.std(0, ddof=1)
        colour = np.exp([-np.mean(((c - picture[:, y, x]) / (0.3 * sigma + 1e-8)) ** 2) for c in colours])
        place = np.exp(-((distances / (0.3 * distances.std(ddof=1))) ** 2))
        out[:, y, x] = colour / colour.sum() + 0.01 * place / place.sum()
    return out


def test_adaptive_weights_and_refinement_against_loops():
    picture, scores, dilations = torch.rand(1, 3, 5, 6).double(), torch.rand(1, 2, 5, 6).double(), (1, 2)
    weights = naive_weights(picture[0].numpy(), dilations)
    torch.testing.assert_close(adaptive_weights(picture, dilations)[0], torch.from_numpy(weights), atol=1e-6, rtol=0)
    expected = scores[0].numpy()
    for _ in range(3):
        before = expected.copy()
        for c, y, x in np.ndindex(2, 5, 6):
            places = around(y, x, 5, 6, dilations)
            expected[c, y, x] = sum(weights[n, y, x] * before[c, v, u] for n, (_, _, (v, u)) in enumerate(places))
    found = refine(scores.clone(), torch.from_numpy(weights)[None], dilations, rounds=3)
    torch.testing.assert_close(found[0], torch.from_numpy(expected))


def test_refinement_draws_a_coarse_map_to_the_edge_of_the_picture():
    picture = torch.zeros(1, 3, 16, 16)
    picture[..., 9:] = 1
    scores = torch.zeros(1, 2, 16, 16)
    scores[:, 0, :, :7], scores[:, 1, :, 7:] = 1, 1  # two columns off
    found = refine(scores, adaptive_weights(picture, (1, 2, 4)), (1, 2, 4)).argmax(1)
    assert (found[0, :, 9:] == 1).all() and not found[0, :, :9].any()

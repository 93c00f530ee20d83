"""Affinity and pixel-adaptive refinement against plain loops."""

import math

import pytest
import torch

from wsfp_helpers.systems.refine import adaptive_weights, balanced, box_of, refine, spread

AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def test_balanced_attention_is_symmetric_and_its_rows_sum_to_one():
    torch.manual_seed(0)
    affinity = balanced(torch.rand(2, 6, 6), rounds=50)
    assert torch.equal(affinity, affinity.transpose(1, 2))
    assert torch.allclose(affinity.sum(-1), torch.ones(2, 6), atol=1e-4)


def test_the_box_is_the_smallest_around_the_strong_part():
    map_ = torch.zeros(5, 6)
    map_[1, 2], map_[3, 4], map_[4, 0] = 1.0, 0.5, 0.3
    rows, columns = box_of(map_, 0.4).nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 3, 2, 4) and len(rows) == 9


def test_a_map_walks_along_the_affinity_inside_its_box_only():
    affinity = torch.zeros(9, 9)
    affinity[0, 4], affinity[8, 4] = 1.0, 1.0  # what patch 4 says goes to the corners 0 and 8
    maps = torch.zeros(1, 3, 3)
    maps[0, 1, 1], maps[0, 0, 0] = 1.0, 0.5
    walked = spread(maps, affinity, 0.5, steps=1)
    assert walked[0, 0, 0] == 1 and walked.sum() == 1  # the corner 8 is outside of the box
    assert torch.equal(spread(maps, affinity, 0.1, steps=0)[0, :2, :2], maps[0, :2, :2])


def naive_weights(picture, dilations, y, x):
    h, w = picture.shape[1:]

    def at(y, x):
        return [float(channel[min(max(y, 0), h - 1), min(max(x, 0), w - 1)]) for channel in picture]

    near = [at(y + d * dy, x + d * dx) for d in dilations for dy, dx in AROUND]
    distance = [d * math.hypot(dy, dx) for d in dilations for dy, dx in AROUND]

    def deviation(values):
        mean = sum(values) / len(values)
        return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))

    def softmax(values):
        e = [math.exp(v - max(values)) for v in values]
        return [v / sum(e) for v in e]

    spreads = [deviation([n[c] for n in near]) for c in range(3)]
    own = at(y, x)
    colour = softmax([-sum(((n[c] - own[c]) / (0.3 * spreads[c] + 1e-8)) ** 2 for c in range(3)) / 3 for n in near])
    place = softmax([-((d / (0.3 * deviation(distance))) ** 2) for d in distance])
    return [c + 0.01 * p for c, p in zip(colour, place, strict=True)]


@pytest.mark.parametrize(("y", "x"), [(0, 0), (3, 5), (6, 2)])
def test_weights_equal_a_loop(y, x):
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 7, 8)
    weights = adaptive_weights(picture, (1, 2))
    assert weights.shape == (1, 16, 7, 8)
    assert weights[0, :, y, x].tolist() == pytest.approx(naive_weights(picture[0], (1, 2), y, x), abs=1e-5)


def test_refinement_is_the_weighted_mean_of_the_neighbours():
    torch.manual_seed(0)
    scores, weights = torch.rand(1, 2, 4, 4), torch.rand(1, 8, 4, 4)
    found = refine(scores, weights, (1,), rounds=1)
    y, x = 2, 1
    wanted = sum(weights[0, n, y, x] * scores[0, :, y + dy, x + dx] for n, (dy, dx) in enumerate(AROUND))
    assert torch.allclose(found[0, :, y, x], wanted)
    assert torch.allclose(refine(found, weights, (1,), rounds=1), refine(scores, weights, (1,), rounds=2))


def test_scores_stop_at_an_edge_of_colour():
    picture = torch.zeros(1, 3, 8, 8)
    picture[..., 4:] = 1.0
    picture = picture + 0.02 * torch.rand(picture.shape, generator=torch.Generator().manual_seed(0))
    scores = torch.zeros(1, 1, 8, 8)
    scores[..., 1] = 1.0
    found = refine(scores, adaptive_weights(picture, (1, 2)), (1, 2), rounds=10)[0, 0]
    assert found[:, 4:].max() < 0.01 < 0.2 < found[:, :4].mean()

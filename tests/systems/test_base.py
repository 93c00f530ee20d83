"""What the systems share: one form for what they find, and batches that depend on seed and step alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import tiny_faces, tiny_parts

from wsfp_helpers.common.machine import device
from wsfp_helpers.systems.base import Batches, Found, found_by, found_in_probabilities, in_order, schedule


def inputs(pictures):
    return torch.stack([torch.from_numpy(pictures[i]).float().mean((0, 1)) for i in range(len(pictures))])


def test_label_is_the_strongest_score_after_enlargement():
    rng = np.random.default_rng(0)
    scores, back = (torch.from_numpy(rng.random(shape, np.float32)) for shape in ((2, 4, 5), (4, 5)))
    label = Found("a", np.array([3, 17]), scores, back, (9, 11)).label()
    assert label.dtype == np.uint8 and label.shape == (9, 11) and set(np.unique(label)) == {0, 4, 18}
    each = [F.interpolate(x[None, None], (9, 11), mode="bilinear")[0, 0] for x in (back, *scores)]
    for y, x in np.ndindex(9, 11):
        assert label[y, x] == [0, 4, 18][int(np.argmax([channel[y, x] for channel in each]))]


def test_label_without_components_is_background():
    found = Found("a", np.zeros(0, np.int64), torch.zeros(0, 4, 4), torch.zeros(4, 4), (6, 6))
    assert not found.label().any()


def test_absent_components_are_removed_and_the_background_stays():
    probabilities = torch.rand(19, 4, 4)
    labels = torch.zeros(18)
    labels[[2, 9]] = 1
    found = found_in_probabilities("a", probabilities, labels, (8, 8))
    assert found.classes.tolist() == [2, 9]
    assert torch.equal(found.scores, probabilities[[3, 10]]) and torch.equal(found.background, probabilities[0])


def test_every_picture_comes_once_an_epoch_in_an_order_of_seed_and_step():
    faces = tiny_faces()
    batches, again = Batches(faces, inputs, 4, 16, seed=1), Batches(faces, inputs, 4, 16, seed=1)
    assert batches.per_epoch == 3
    for epoch in range(3):
        seen = np.concatenate([batches(3 * epoch + step).index for step in range(3)])
        assert sorted(seen) == list(range(12))
    assert np.array_equal(again(7).index, batches(7).index)  # asked out of turn
    orders = [tuple(np.concatenate([each(s).index for s in (0, 1, 2)])) for each in (batches, Batches(faces, inputs, 4, 16, 2))]
    assert orders[0] != orders[1] and orders[0] != tuple(np.concatenate([batches(s).index for s in (3, 4, 5)]))


def test_a_batch_has_the_pictures_of_its_index():
    faces = tiny_faces()
    batch = Batches(faces, inputs, 4, 64).of(np.array([7, 2]))
    for row, i in enumerate((7, 2)):
        expected = torch.from_numpy(faces.image(i)).permute(2, 0, 1) / 255
        torch.testing.assert_close(batch.pictures[row].cpu(), expected)
        torch.testing.assert_close(batch.inputs[row].cpu(), expected.mean((1, 2)) * 255, atol=1e-2, rtol=0)
        assert batch.labels[row].tolist() == faces.labels[i].tolist()
    assert batch.labels.dtype == torch.float32


def test_a_set_smaller_than_a_batch_is_one_batch():
    batches = Batches(tiny_faces(3), inputs, 8, 16)
    assert batches.per_epoch == 1 and len(batches(5).index) == 3


def test_in_order_gives_all_pictures_with_their_sizes():
    faces = tiny_faces(5)
    pairs = list(in_order(faces, Batches(faces, inputs, 4, 16), 2))
    assert np.concatenate([batch.index for batch, _ in pairs]).tolist() == [0, 1, 2, 3, 4]
    assert [size for _, sizes in pairs for size in sizes] == [(64, 64)] * 5


def test_found_by_gives_each_picture_its_own_probabilities():
    faces = tiny_faces(3)

    def probabilities(batch):
        return (torch.arange(19.0) + 100 * torch.from_numpy(batch.index)[:, None]).to(device())[..., None, None]

    for i, found in enumerate(found_by(faces, Batches(faces, inputs, 4, 16), probabilities, 2)):
        assert found.id == faces.ids[i] and found.size == (64, 64)
        assert found.classes.tolist() == faces.labels[i].nonzero()[0].tolist()
        assert found.scores.flatten().tolist() == (100 * i + 1 + found.classes).tolist()
        assert found.background.item() == 100 * i
    assert i == 2


def test_a_decoder_takes_the_passes_of_the_profile():
    batches = Batches(tiny_faces(), inputs, 4, 16)
    config = schedule(tiny_parts(), batches, 3e-4)
    assert (config.steps, config.batch, config.lr) == (6, 4, pytest.approx(3e-4))

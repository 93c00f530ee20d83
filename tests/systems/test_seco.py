"""SeCo: teacher, queue, prototypes, crops and contrast on cases with known answers, and its way through training."""

import math

import pytest
import torch
import torch.nn.functional as F
from fixtures import tiny_faces, tiny_vit
from system_checks import EMBEDDED, check_finds, check_gradients, check_resumes, tiny_parts

from wsfp_helpers.systems.seco import SeCo, SecoConfig, SecoNetwork, contrast, cut, refined_labels, tag

CONFIG = SecoConfig(window=2, queue=30)


@pytest.fixture
def network():
    return SecoNetwork(tiny_vit(), 4)


def test_the_teacher_follows_the_student(network):
    before = [p.clone() for p in network.teacher.parameters()]
    with torch.no_grad():
        for p in [*network.vit.parameters(), *network.heads.parameters()]:
            p += 1
    network.follow(0.75)
    for old, new in zip(before, network.teacher.parameters(), strict=True):
        assert torch.allclose(new, old + 0.25, atol=1e-6)


def test_the_teacher_forgets_as_fast_as_in_a_training_of_its_authors(monkeypatch):
    system = SeCo(tiny_parts(), CONFIG)
    decays = []
    monkeypatch.setattr(system.network, "follow", decays.append)
    system.fit(tiny_faces())
    assert decays == pytest.approx([0.999 ** (20_000 / 6)] * 6)


def test_the_queue_keeps_what_comes_while_there_is_room(network):
    vectors = torch.eye(4, 128)
    network.remember(vectors[:3], torch.tensor([5, 6, 7]))
    assert network.tags.tolist() == [5, 6, 7, -1] and int(network.seen) == 3
    assert torch.equal(network.queue, torch.cat([vectors[:3], torch.zeros(1, 128)]))


def test_a_full_queue_is_a_fair_sample_of_all_that_came(network):
    torch.manual_seed(0)
    kept = torch.zeros(12)
    for _ in range(600):
        network.seen.zero_()
        network.remember(torch.arange(12.0)[:, None].expand(-1, 128), torch.arange(12))
        assert torch.equal(network.queue[:, 0].long(), network.tags)
        kept[network.tags] += 1
    # 4 of 12 stay, so each in a third of 600 trials: 200, with a standard deviation of 11.5
    assert kept.sum() == 2400 and (kept - 200).abs().max() < 50


def test_prototypes_take_their_first_mean_and_then_follow(network):
    x, y = torch.eye(2, 128)
    network.update_prototypes(torch.stack([3 * x, 3 * x + 8 * y, y]), torch.tensor([2, 2, 4]), 0.9)
    assert torch.allclose(network.prototypes[2], 0.6 * x + 0.8 * y)
    assert torch.allclose(network.prototypes[4], y)
    assert network.prototypes.any(-1).nonzero()[:, 0].tolist() == [2, 4]
    network.update_prototypes(5 * x[None], torch.tensor([4]), 0.75)
    assert torch.allclose(network.prototypes[4], (0.75 * y + 0.25 * x) / math.hypot(0.75, 0.25))


def test_a_crop_goes_to_the_class_of_which_it_holds_the_largest_part():
    region = torch.zeros(3, 8, 8)
    region[0, :6], region[1, 6, 6:], region[1, 7, :2] = 1, 1, 1  # 48 pixels and twice two
    assert tag(region, slice(0, 4), slice(0, 8)) == 0
    assert tag(region, slice(4, 8), slice(4, 8)) == 1  # half of the small one, and 8 of 48
    assert tag(region, slice(7, 8), slice(3, 6)) == -1


@pytest.mark.parametrize("pixels", [True, False])
def test_crops_are_windows_of_the_picture_with_the_tags_of_their_places(pixels):
    torch.manual_seed(0)
    place = torch.arange(16.0).view(1, 4, 4)  # of each token
    planes = torch.stack([place, 100 + place])  # (2, 1, 4, 4)
    inputs = (
        planes.repeat_interleave(16, 2).repeat_interleave(16, 3).expand(-1, 3, -1, -1)
        if pixels
        else planes.flatten(2).transpose(1, 2)
    )
    region = torch.zeros(2, 16, 8, 8)  # each token is its own class, at two pixels a token
    for k in range(16):
        region[:, k, k // 4 * 2 : k // 4 * 2 + 2, k % 4 * 2 : k % 4 * 2 + 2] = 1
    crops, tags = cut(inputs, region, 5, 2)
    assert crops.shape == ((10, 3, 32, 32) if pixels else (10, 4, 1))
    for i, (crop, found) in enumerate(zip(crops, tags.tolist(), strict=True)):
        corner = found + 100 * (i >= 5)
        held = crop[0, ::16, ::16].flatten() if pixels else crop[:, 0]
        assert held.tolist() == [corner, corner + 1, corner + 4, corner + 5]
    assert len(set(tags.tolist())) > 2


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a window of 5 x 5 tokens does not fit a grid of 4 x 4"):
        cut(torch.zeros(1, 16, 3), torch.zeros(1, 2, 8, 8), 1, 5)


def test_labels_are_where_a_present_class_is_strong_and_stop_at_edges():
    patch_map = torch.full((1, 3, 4, 4), -1.0)
    patch_map[0, 0, :, :2], patch_map[0, 1, 1, 3], patch_map[0, 2] = 2.0, 5.0, 9.0
    picture = torch.zeros(1, 3, 8, 8)
    picture[..., 4:] = 1.0
    found = refined_labels(patch_map, torch.tensor([[1.0, 1.0, 0.0]]), picture)
    assert set(found.unique().tolist()) == {0, 1} and found.sum(1).max() == 1
    assert found[0, 0, :, :3].all() and not found[0, 0, :, 5:].any()
    assert found[0, 1].any()  # however small
    assert not found[0, 2].any()


def test_contrast_equals_a_loop():
    torch.manual_seed(0)
    vectors, others = (F.normalize(torch.randn(n, 4).double(), dim=-1) for n in (3, 5))
    tags, other_tags = torch.tensor([1, 2, 9]), torch.tensor([2, 1, 1, 0, 2])  # no partner for the last
    terms = []
    for i in (0, 1):
        near = [math.exp(float(vectors[i] @ other) / 0.1) for other in others]
        partners = [j for j in range(5) if other_tags[j] == tags[i]]
        terms.append(-sum(math.log(near[j] / sum(near)) for j in partners) / len(partners))
    assert contrast(vectors, tags, others, other_tags, 0.1).item() == pytest.approx(sum(terms) / 2)
    assert contrast(vectors, tags, others[:0], other_tags[:0], 0.1) == 0


@pytest.mark.parametrize("world", [{}, EMBEDDED])
def test_gradients_reach_all_that_is_trained(world):
    check_gradients(SeCo(tiny_parts(**world), CONFIG))


def test_an_interrupted_training_equals_one_that_was_not(tmp_path, monkeypatch):
    check_resumes(lambda: SeCo(tiny_parts(), CONFIG), tmp_path, monkeypatch)


def test_contrasts_start_after_a_tenth_of_the_training(monkeypatch):
    system, steps = SeCo(tiny_parts(), CONFIG), []
    monkeypatch.setattr(system, "contrasts", lambda batch: steps.append(1) or torch.zeros(()))
    system.fit(tiny_faces())
    assert len(steps) == 5  # of six


def test_finds_the_components_on_the_list():
    check_finds(SeCo(tiny_parts(), CONFIG))

"""WeCLIP and WeCLIP+: the affinity loss against loops, the labels that teach, and the way through training."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from dense_models import batch_of, dense_parts
from fixtures import same, tiny_faces
from system_checks import check_finds

from wsfp_helpers.parsing.fit import FitConfig
from wsfp_helpers.systems import weclip
from wsfp_helpers.systems.clip_es import ClipEsConfig
from wsfp_helpers.systems.weclip import WeClip, WeClipConfig, WeClipPlus, affinity_loss, own_labels

SMALL = WeClipConfig(width=16, layers=1)


@pytest.fixture(autouse=True)
def no_trunk(monkeypatch, tmp_path):
    """A second branch without the shipped trunk: its tokens are the colours of the patches."""

    class Colours(torch.nn.Module):
        width, patch = 48, 16

    monkeypatch.setattr(weclip, "load_trunk", Colours)
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))

    def tokens(pictures, trunk, count, size):
        shown = torch.stack([torch.from_numpy(picture).permute(2, 0, 1).float() / 255 for picture in pictures])
        grid = F.adaptive_avg_pool2d(shown, (4 * size // 16, 4 * size // 16))
        return F.pixel_unshuffle(grid, 4).flatten(2).transpose(1, 2)

    monkeypatch.setattr(weclip, "features", tokens)


def test_the_affinity_loss_equals_loops():
    torch.manual_seed(0)
    affinity, labels = torch.rand(2, 5, 5), torch.tensor([[1, 1, 2, 255, 0], [3, 3, 3, 3, 255]])
    near, far = [], []
    for b in range(2):
        for i in range(5):
            for j in range(5):
                if 255 not in (labels[b, i], labels[b, j]):
                    pair = float(affinity[b, i, j])
                    near.append(1 - pair) if labels[b, i] == labels[b, j] else far.append(pair)
    assert affinity_loss(affinity, labels).item() == pytest.approx(sum(near) / len(near) + sum(far) / len(far))


def test_labels_that_are_all_unsure_cost_nothing():
    assert affinity_loss(torch.rand(1, 3, 3), torch.full((1, 3), 255)) == 0


def test_a_label_names_the_strongest_map_and_leaves_out_what_is_unsure():
    system = WeClip(dense_parts(), WeClipConfig(margin=0.2))
    batch = batch_of(system.dense, 8)
    batch.pictures[0, :, :, 4:] = 0.01 * batch.pictures[0, :, :, 4:]  # dark on the right: refinement stops at the edge
    batch.pictures[0, :, :, :4] = 1 - 0.01 * batch.pictures[0, :, :, :4]
    present = batch.labels[0].nonzero()[:, 0]
    maps = torch.zeros(len(present), 4, 4)
    maps[1, :, :2] = 1.0  # the left half is clearly the second present component, the right half nobody's
    system.maps[int(batch.index[0])] = maps
    label = system.label(batch, 0, None)
    assert (label[:, 0] == present[1] + 1).all() and (label[:, -1] == 0).all()
    system.maps[int(batch.index[0])] = torch.full((len(present), 4, 4), 0.5)
    assert (system.label(batch, 0, None) == 255).all()  # all maps are equal


def test_the_learned_affinity_carries_a_label_to_patches_that_are_alike():
    system = WeClip(dense_parts(), WeClipConfig(maps=ClipEsConfig(box=0.0)))
    batch = batch_of(system.dense, 8)
    present = batch.labels[0].nonzero()[:, 0]
    maps = torch.zeros(len(present), 4, 4)
    maps[1, 0, 0] = 1.0
    system.maps[int(batch.index[0])] = maps
    alike = torch.eye(16)
    alike[:, 0] = torch.arange(16) < 8  # the upper half looks like the first patch
    before, after = system.label(batch, 0, None), system.label(batch, 0, alike)
    assert (after == present[1] + 1).sum() > (before == present[1] + 1).sum()
    assert (after[-1] == present[1] + 1).sum() == 0


def test_own_labels_are_taken_where_they_are_sure_and_never_of_absent_classes():
    scores, targets = torch.zeros(1, 19, 2, 2), torch.full((1, 2, 2), 7)
    scores[0, 3, 0, 0], scores[0, 5, 0, 1], scores[0, 3, 1, 0] = 9.0, 9.0, 1.0
    labels = torch.zeros(1, 18)
    labels[0, 2] = 1  # class 3 is there, class 5 is not
    assert own_labels(scores, targets, labels, 0.75)[0].tolist() == [[3, 7], [7, 7]]


@pytest.mark.parametrize("kind", [WeClip, WeClipPlus])
def test_every_parameter_learns_and_no_frozen_one_does(kind):
    system = kind(dense_parts(), SMALL)
    system.steps, system.ids = 6, tiny_faces().ids
    loss = system.loss(batch_of(system.dense, 8), 5)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in system.network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in system.dense.parameters())


@pytest.mark.parametrize("kind", [WeClip, WeClipPlus])
def test_a_training_that_dies_goes_on_as_if_it_had_not(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(weclip, "FitConfig", partial(FitConfig, save_every=4))
    whole, broken, resumed = (kind(dense_parts(), SMALL, 1) for _ in range(3))
    whole.fit(tiny_faces())
    loss = broken.loss

    def dying(batch, step):
        if step == 5:
            raise KeyboardInterrupt
        return loss(batch, step)

    monkeypatch.setattr(broken, "loss", dying)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(tiny_faces(), tmp_path / "run")
    resumed.fit(tiny_faces(), tmp_path / "run")
    assert same(whole.network, resumed.network) and not same(whole.network, broken.network)


def test_gradient_maps_are_read_once(tmp_path, monkeypatch):
    first = WeClip(dense_parts(), SMALL)
    first.fit(tiny_faces())
    monkeypatch.setattr(weclip, "read_maps", lambda *_: pytest.fail("read again"))
    second = WeClip(dense_parts(), SMALL)
    second.fit(tiny_faces())
    assert same(first.network, second.network)


@pytest.mark.parametrize("kind", [WeClip, WeClipPlus])
def test_it_finds_what_is_on_the_list(kind):
    check_finds(kind(dense_parts(), SMALL))

"""MoRe: its graph and regularisers against loops, and its way through training."""

import math

import pytest
import torch
from fixtures import tiny_faces
from system_checks import EMBEDDED, check_finds, check_gradients, check_resumes, tiny_parts

from wsfp_helpers.systems.more import CategoryGraph, MoRe, MoReConfig, reliable_loss, uncertain_loss

B, K, N, D = 2, 3, 6, 4
TAU = 0.5


@pytest.fixture
def case():
    """Attention, patches, and regions: the third class of the second picture has none."""
    torch.manual_seed(0)
    attention, patches = torch.rand(B, K, N).double(), torch.randn(B, N, D).double()
    regions = torch.tensor(
        [
            [[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]],
            [[1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]],
        ]
    )
    return attention, patches, regions


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def share_of(attention, b, k, j, classes):
    """The share of class k in the attention to patch j: softmax(log a / τ) is a^(1 / τ), scaled."""
    return float(attention[b, k, j]) ** (1 / TAU) / sum(float(attention[b, m, j]) ** (1 / TAU) for m in classes)


def means(patches, regions, b):
    """Mean patch of each region of picture b, by class."""
    chosen = {k: [patches[b, j] for j in range(N) if regions[b, k, j]] for k in range(K)}
    return {k: sum(each) / len(each) for k, each in chosen.items() if each}


@pytest.mark.parametrize(("share", "kept"), [(0.5, 3), (0.01, 1), (1.0, 6)])
def test_a_class_token_collects_its_best_patches(case, share, kept):
    attention, patches, _ = case
    classes = torch.randn(B, K, D).double()
    graph = CategoryGraph(D, share).double()
    out = graph(classes, patches, attention)
    for b in range(B):
        for k in range(K):
            best = sorted(range(N), key=lambda j: -attention[b, k, j])[:kept]
            total = sum(attention[b, k, j] for j in best)
            collected = sum(attention[b, k, j] / total * patches[b, j] for j in best)
            expected = classes[b, k] + graph.mix.weight @ collected + graph.mix.bias
            assert torch.allclose(out[b, k], expected)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match=rf"share is {share}: expected a number in \(0, 1\]"):
        CategoryGraph(D, share)


def test_reliable_loss_equals_a_loop(case):
    attention, patches, regions = case
    terms = []
    for b in range(B):
        classes = list(means(patches, regions, b))
        for k in classes:
            logs = [math.log(share_of(attention, b, k, j, classes)) for j in range(N) if regions[b, k, j]]
            terms.append(-sum(logs) / len(logs))
    assert len(terms) == 5
    assert reliable_loss(attention, regions, TAU).item() == pytest.approx(sum(terms) / 5)


def test_uncertain_loss_equals_a_loop(case):
    attention, patches, regions = case
    unsure = torch.tensor([[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1]]).bool()
    terms = []
    for b, j in unsure.nonzero().tolist():
        centres = means(patches, regions, b)
        wanted = {k: math.exp(cosine(patches[b, j], centre) / TAU) for k, centre in centres.items()}
        logs = {k: math.log(share_of(attention, b, k, j, centres)) for k in centres}
        terms.append(-sum(wanted[k] / sum(wanted.values()) * logs[k] for k in centres))
    assert uncertain_loss(attention, patches, regions, unsure, TAU).item() == pytest.approx(sum(terms) / 3)


def test_a_picture_without_any_region_keeps_gradients_finite(case):
    attention, patches, regions = case
    attention.requires_grad_()
    nowhere, everywhere = torch.zeros_like(regions), torch.ones(B, N).bool()
    regions[1] = 0
    for these in (regions, nowhere):
        loss = reliable_loss(attention, these, TAU) + uncertain_loss(attention, patches, these, everywhere, TAU)
        (gradient,) = torch.autograd.grad(loss, attention)
        assert loss.isfinite() and gradient.isfinite().all()
    assert reliable_loss(attention, nowhere, TAU) == 0


@pytest.mark.parametrize("world", [{}, EMBEDDED])
def test_gradients_reach_all_that_is_trained(world):
    check_gradients(MoRe(tiny_parts(**world), MoReConfig()))


def test_an_interrupted_training_equals_one_that_was_not(tmp_path, monkeypatch):
    check_resumes(lambda: MoRe(tiny_parts(), MoReConfig()), tmp_path, monkeypatch)


def test_finds_the_components_on_the_list():
    check_finds(MoRe(tiny_parts(), MoReConfig()))


def test_maps_are_the_attention_of_class_tokens():
    system = MoRe(tiny_parts(), MoReConfig())
    found = list(system.find(tiny_faces(1)))
    torch.nn.init.zeros_(system.network.vit.patch_head.weight)
    again = list(system.find(tiny_faces(1)))
    assert torch.equal(found[0].scores, again[0].scores) and found[0].scores.std() > 0

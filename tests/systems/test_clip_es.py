"""CLIP-ES: its softmax and gradient against a naive version, and what it finds."""

import pytest
import torch
import torch.nn.functional as F
from dense_models import batch_of, dense_parts, tiny_dense
from fixtures import tiny_faces
from system_checks import check_finds

from wsfp_helpers.labels import PROMPTS
from wsfp_helpers.systems.clip_es import ClipEs, ClipEsConfig, gradient_maps, read_maps, scaled


@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_maps_equal_a_naive_version_with_one_backward_a_class(pool, blocks):
    dense = tiny_dense(pool)
    places = dense(batch_of(dense, 8).inputs)
    texts = torch.cat([dense.text(PROMPTS)[:5], dense.text(dense.background)])
    found = gradient_maps(dense, torch.stack([x[1] for x in places.tokens[-1 - blocks : -1]]), texts, 5)
    kept = {}
    norm = dense.visual.transformer.resblocks[-blocks].ln_1
    handle = norm.register_forward_hook(lambda *given: kept.update(a=given[2].requires_grad_()) or kept["a"])
    for k in range(5):
        x = places.tokens[-1 - blocks][1:2].detach()
        for block in dense.visual.transformer.resblocks[-blocks:]:
            x = block(x)
        x = dense.visual.ln_post(x)
        x = (x[:, 0] if pool == "tok" else x[:, 1:].mean(1)) @ dense.visual.proj
        logits = [dense.vlm.clip.logit_scale.exp() * F.cosine_similarity(x[0], text, dim=0) for text in texts]
        share = logits[k].exp() / sum(logit.exp() for logit in logits)
        (gradient,) = torch.autograd.grad(share, kept["a"])
        weight = gradient[0, 1:].mean(0)
        wanted = torch.stack([(weight * a).sum().relu() for a in kept["a"][0, 1:]])
        assert wanted.any()
        assert torch.allclose(found[k], scaled(wanted[None])[0], atol=1e-4)
    handle.remove()


def test_maps_are_of_present_components_between_0_and_1():
    dense = tiny_dense()
    batch = batch_of(dense, 8)
    present = batch.labels[0].nonzero()[:, 0]
    maps = read_maps(dense, dense(batch.inputs), 0, present, ClipEsConfig())
    assert maps.shape == (len(present), 4, 4) and maps.min() == 0 and maps.max() <= 1


def test_the_background_is_what_no_map_claims_to_a_power():
    faces = tiny_faces(2, 70)
    for alpha in (1.0, 3.0):
        for found in ClipEs(dense_parts(), ClipEsConfig(alpha=alpha)).find(faces):
            assert torch.allclose(found.background, (1 - found.scores.max(0).values) ** alpha, atol=1e-6)
            assert found.background.max() > 0


def test_it_finds_without_training():
    system = ClipEs(dense_parts(), ClipEsConfig(blocks=2, steps=1))
    system.fit(None)
    assert not list(system.network.parameters())
    check_finds(system)

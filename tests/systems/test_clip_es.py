"""CLIP-ES: the gradient of the softmax against one backward pass a class, and what the system gives."""

import numpy as np
import pytest
import torch
from fixtures import tiny_dense, tiny_faces, tiny_parts

from wsfp_helpers.labels import PROMPTS
from wsfp_helpers.systems.clip_es import ClipEs, ClipEsConfig, gradient_maps, raw_maps, read_maps, scaled, walked
from wsfp_helpers.systems.refine import balanced, spread


@pytest.fixture(scope="module", params=["tok", "avg"])
def world(request):
    dense = tiny_dense(pool_type=request.param)
    faces = tiny_faces(2)
    return dense, dense(dense.inputs([faces.image(0), faces.image(1)]))


def naive_map(dense, entering, texts, k):
    """GradCAM by hooks on the last block's own forward, one class at a time."""
    block = dense.visual.transformer.resblocks[-1]
    kept = []

    def keep(module, args, out):
        kept.append(out.requires_grad_())
        return kept[-1]

    handle = block.ln_1.register_forward_hook(keep)
    vector = dense.vector(block(entering[None]))[0]
    handle.remove()
    cosines = torch.stack([vector @ text for text in texts]) * dense.scale
    share = cosines[k].exp() / cosines.exp().sum()
    (gradient,) = torch.autograd.grad(share, kept[0])
    channels = gradient[0, 1:].mean(0)
    return torch.stack([(channels * place).sum().clamp(min=0) for place in kept[0][0, 1:].detach()])


def test_gradient_maps_against_one_backward_a_class(world):
    dense, places = world
    texts = torch.cat([dense.text(PROMPTS)[:5], dense.text(dense.background)])
    found = gradient_maps(dense, places.tokens[-2][1], texts, 5)
    assert found.shape == (5, 16) and found.any()
    for k in range(5):
        expected = naive_map(dense, places.tokens[-2][1].detach(), texts, k)
        torch.testing.assert_close(found[k], scaled(expected[None])[0], atol=1e-4, rtol=0)


def test_gradient_maps_work_without_gradients_around_them(world):
    dense, places = world
    texts = dense.text(PROMPTS)[:3]
    with torch.no_grad():
        inside = gradient_maps(dense, places.tokens[-2][0], texts, 2)
    torch.testing.assert_close(inside, gradient_maps(dense, places.tokens[-2][0], texts, 2))
    assert not inside.requires_grad


def test_other_texts_take_away_what_they_explain(world):
    dense, places = world
    texts = dense.text(PROMPTS)
    few, many = (gradient_maps(dense, places.tokens[-2][0], texts[:n], 2) for n in (2, 18))
    assert (few - many).abs().max() > 1e-3


def test_maps_are_the_raw_ones_spread_along_the_last_blocks(world):
    dense, places = world
    config, present = ClipEsConfig(layers=2, steps=3, box=0.2), torch.tensor([1, 4])
    attention = (places.attention[1, 0, 1:, 1:] + places.attention[2, 0, 1:, 1:]) / 2
    raw = raw_maps(dense, places, 0, present)
    assert raw.shape == (2, 4, 4)
    expected = scaled(spread(raw, balanced(attention), 0.2, 3))
    torch.testing.assert_close(walked(raw, attention, config), expected)
    torch.testing.assert_close(read_maps(dense, places, 0, present, config), expected)


def test_scaled_maps_go_from_zero_to_one_each():
    maps = torch.tensor([[[2.0, 4.0], [3.0, 2.0]], [[0.0, 0.0], [0.0, 0.1]]])
    expected = torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    torch.testing.assert_close(scaled(maps), expected)
    assert not scaled(torch.ones(1, 3, 3)).any()


def test_find_gives_present_components_and_the_background_score():
    faces = tiny_faces(3)
    found = {alpha: list(ClipEs(tiny_parts(), ClipEsConfig(alpha)).find(faces)) for alpha in (1.0, 3.0)}
    for i, (one, three) in enumerate(zip(found[1.0], found[3.0], strict=True)):
        assert one.id == faces.ids[i] and one.size == (64, 64)
        assert one.classes.tolist() == faces.labels[i].nonzero()[0].tolist()
        assert one.scores.amin() >= 0 and one.scores.amax() == pytest.approx(1)
        torch.testing.assert_close(one.background, 1 - one.scores.amax(0))
        torch.testing.assert_close(three.background, one.background**3)
        assert set(np.unique(one.label())) <= {0, *(one.classes + 1)}

"""Places: the opened image tower says what the closed one says, block by block."""

import pytest
import torch
import torch.nn.functional as F
from dense_models import batch_of, tiny_dense
from fixtures import tiny_faces

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.nets.dense import BACKGROUND, DenseModel, finish_block, run_block
from wsfp_helpers.nets.vlm import mini_flip


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_the_vector_is_that_of_the_closed_tower(pool):
    dense = tiny_dense(pool)
    inputs = batch_of(dense, 8).inputs
    closed = F.normalize(dense.vlm.clip.encode_image(inputs), dim=-1)
    assert torch.allclose(dense.vector(dense(inputs).tokens[-1]), closed, atol=1e-5)


def test_pooled_by_the_mean_the_patches_make_up_the_vector():
    dense = tiny_dense("avg")
    tokens = dense(batch_of(dense, 8).inputs).tokens[-1]
    patches = dense.visual.ln_post(tokens[:, 1:]) @ dense.visual.proj
    assert torch.allclose(F.normalize(patches.mean(1), dim=-1), dense.vector(tokens), atol=1e-5)
    assert torch.allclose(F.normalize(patches, dim=-1), dense.patches(tokens), atol=1e-5)


def test_attention_of_each_block_is_shared_out():
    dense = tiny_dense()
    places = dense(batch_of(dense, 8).inputs)
    assert places.grid == (4, 4) and len(places.tokens) == 4
    assert places.attention.shape == (3, 4, 17, 17) and (places.attention >= 0).all()
    assert torch.allclose(places.attention.sum(-1), torch.ones(3, 4, 17), atol=1e-5)


def test_another_grid():
    dense = tiny_dense()
    inputs = dense.inputs([tiny_faces().image(0)], 96)
    places = dense(inputs)
    assert inputs.shape == (1, 3, 96, 96) and places.grid == (6, 6) and places.tokens[-1].shape == (1, 37, 64)


def test_a_block_is_its_first_norm_and_the_rest():
    dense = tiny_dense()
    block, x = dense.visual.transformer.resblocks[0], torch.randn(2, 17, 64)
    whole, weights = run_block(block, x)
    rest, again = finish_block(block, x, block.ln_1(x))
    assert torch.equal(whole, rest) and torch.equal(weights, again)
    assert torch.allclose(whole, block(x), atol=1e-5)


def test_it_stays_frozen():
    dense = tiny_dense()
    dense.train()
    assert not any(module.training for module in dense.modules())
    assert not any(parameter.requires_grad for parameter in dense.parameters())


def test_a_tower_without_patches_is_refused():
    with pytest.raises(InputError, match="has an image tower without patch tokens: expected a ViT"):
        DenseModel(mini_flip(), 96, BACKGROUND)

"""Image-text models asked about places: the same vectors as open_clip's own forward, attention, grids, refusals."""

import open_clip
import pytest
import torch
from fixtures import picture, tiny_dense, tiny_vlm
from numpy import asarray
from torch import nn

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.nets.dense import DenseModel, run_block
from wsfp_helpers.nets.trunk import Trunk
from wsfp_helpers.nets.vlm import VisionLanguageModel, trunk_clip

PICTURES = [asarray(picture(seed, 80, 90)) for seed in range(3)]


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_vectors_are_those_of_open_clip(pool):
    dense = tiny_dense(pool_type=pool)
    inputs = dense.inputs(PICTURES)
    found = dense.vector(dense(inputs).tokens[-1])
    torch.testing.assert_close(found, dense.vlm.encode_image(inputs), atol=1e-5, rtol=0)


def test_only_the_pooling_differs_between_the_two_kinds():
    dense, inputs = tiny_dense(pool_type="avg"), tiny_dense().inputs(PICTURES)
    tokens = dense(inputs).tokens[-1]
    assert (dense.vector(tokens) - tiny_dense().vector(tokens)).abs().max() > 1e-3


def test_tokens_and_attention_have_their_shapes_and_attention_is_a_distribution():
    dense = tiny_dense()
    places = dense(dense.inputs(PICTURES))
    assert places.grid == (4, 4) and len(places.tokens) == 4
    assert all(tokens.shape == (3, 17, dense.width) for tokens in places.tokens)
    assert places.attention.shape == (3, 3, 17, 17) and (places.attention >= 0).all()
    torch.testing.assert_close(places.attention.sum(-1), torch.ones(3, 3, 17))


def test_attention_is_the_mean_over_heads_of_the_scaled_products():
    dense = tiny_dense(layers=1)
    block, x = dense.visual.transformer.resblocks[0], torch.randn(1, 5, 64)
    _, found = run_block(block, x)
    q, k, _ = nn.functional.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)[0].chunk(3, -1)
    heads = [q[:, part] @ k[:, part].T / 32**0.5 for part in (slice(0, 32), slice(32, 64))]
    torch.testing.assert_close(found[0], sum(head.softmax(-1) for head in heads) / 2)


def test_patches_of_the_mean_pooled_tower_average_to_its_vector_before_scaling():
    dense = tiny_dense(pool_type="avg")
    last = dense(dense.inputs(PICTURES)).tokens[-1]
    patches = dense.patches(last)
    assert patches.shape == (3, 16, 16)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(3, 16))
    unscaled = dense.visual.ln_post(last[:, 1:]) @ dense.visual.proj
    torch.testing.assert_close(nn.functional.normalize(unscaled.mean(1), dim=-1), dense.vector(last))


def test_another_grid_takes_interpolated_positions():
    dense = tiny_dense(size=96)
    with torch.no_grad():
        dense.visual.positional_embedding[1:] = dense.visual.positional_embedding[1]
    tokens, grid = dense.embed(dense.inputs(PICTURES))
    assert grid == (6, 6) and tokens.shape == (3, 37, 64)
    # Where all positions are equal, they are equal on any grid: a patch has the same token in the corner it is cut to.
    inputs = dense.inputs(PICTURES)
    corner, small = dense.embed(inputs[..., :64, :64])
    assert small == (4, 4)
    torch.testing.assert_close(tokens[:, 1:].unflatten(1, (6, 6))[:, :4, :4].flatten(1, 2), corner[:, 1:])
    torch.testing.assert_close(tokens[:, 0], corner[:, 0])


def test_positions_of_another_grid_keep_their_order():
    dense = tiny_dense()
    ramp = torch.arange(4.0).repeat(4)  # the column of each place
    with torch.no_grad():
        dense.visual.positional_embedding.zero_()
        dense.visual.positional_embedding[1:] = ramp[:, None]
        dense.visual.conv1.weight.zero_()
    dense.visual.ln_pre = nn.Identity()
    tokens, _ = dense.embed(torch.zeros(1, 3, 128, 128))
    columns = tokens[0, 1:, 0].view(8, 8)
    assert (columns.diff(dim=1) > 0).all()
    torch.testing.assert_close(columns, columns[:1].expand(8, 8))


def test_a_tower_behind_the_trunk_takes_its_tokens(tmp_cache):
    torch.manual_seed(0)
    trunk, base = Trunk(blocks=1, size=64), tiny_vlm()
    vision = {"image_size": 4, "patch_size": 1, "head_width": 16, "width": 32, "layers": 2}
    text = {"context_length": 16, "vocab_size": 40, "width": 32, "heads": 2, "layers": 1}
    clip = trunk_clip({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, trunk.width)
    vlm = VisionLanguageModel("tiny", clip, base.tokenize, 64, (0.5,) * 3, (0.5,) * 3)
    dense = DenseModel(vlm, 64, (), trunk)
    inputs = dense.inputs(PICTURES).float()
    assert inputs.shape == (3, 16, 384) and dense.patch == 16
    places = dense(inputs)
    assert places.grid == (4, 4)
    expected = clip.encode_image(inputs.transpose(1, 2).unflatten(2, (4, 4)), normalize=True)
    torch.testing.assert_close(dense.vector(places.tokens[-1]), expected, atol=1e-5, rtol=0)


def test_it_is_frozen_and_stays_in_eval_mode():
    dense = tiny_dense().train()
    assert not any(module.training for module in dense.modules())
    assert not any(parameter.requires_grad for parameter in dense.parameters())


def test_a_resnet_tower_is_refused():
    clip = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": (1, 1, 1, 1), "width": 8},
        text_cfg={"context_length": 16, "vocab_size": 40, "width": 32, "heads": 2, "layers": 1},
    )
    vlm = VisionLanguageModel("RN", clip, tiny_vlm().tokenize, 32, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(InputError, match="RN has an image tower without patch tokens"):
        DenseModel(vlm, 32, ())

"""The multi-class-token ViT: sizes of the paper's Table 5, attention against timm's own, pooling, first values."""

import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import IMAGENET_MEAN, IMAGENET_STD, to_tensor
from wsfp_helpers.labels import K
from wsfp_helpers.method.vit import MultiClassTokenViT, Projector, gwrp, load_pretrained, patch_attention, vit_inputs
from wsfp_helpers.nets.clip import FLIP_ARCHITECTURE
from wsfp_helpers.nets.trunk import WEIGHTS, load_trunk


@pytest.fixture
def small():
    torch.manual_seed(0)
    return MultiClassTokenViT(5, blocks=3, size=64, width=48, heads=3).eval()


def test_parameters_of_table_5():
    import open_clip

    with torch.device("meta"):
        vit, projector = MultiClassTokenViT(), Projector()
        flip = open_clip.CLIP(**open_clip.get_model_config(FLIP_ARCHITECTURE))
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    # MCTformer+ also registers a 197-token position table and a final norm that get no gradient: Table 5 counts them.
    unused = 197 * 384 + 2 * 384
    assert count(vit) + unused == 22_042_386
    assert round((count(vit) + unused + count(projector)) / 1e6, 1) == 22.5
    assert round((count(vit) + unused + count(projector) + count(flip)) / 1e6, 1) == 172.1


def test_multiply_adds_of_table_5():
    vit, macs = MultiClassTokenViT().eval(), []

    def count(module, inputs, output):
        if isinstance(module, nn.Linear):
            macs.append(module.weight.numel() * output.numel() // output.shape[-1])
        else:
            macs.append(module.weight.numel() * output.shape[-1] * output.shape[-2])

    for module in vit.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        vit(torch.zeros(1, 3, 448, 448))
    assert round(sum(macs) / 1e9, 1) == 17.3


def test_shapes_and_attention(small):
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        plain, read = small(images), small(images, attention=True)
    assert plain.class_tokens.shape == (3, 2, 5, 48)
    assert plain.patch_map.shape == (2, 5, 4, 6)
    assert read.class_attention.shape == (2, 5, 4, 6)
    assert read.affinity.shape == (2, 24, 24)
    for name in ("class_tokens", "patch_map", "class_logits", "patch_logits"):
        torch.testing.assert_close(getattr(plain, name), getattr(read, name), atol=1e-5, rtol=1e-5)
    assert plain.affinity is None


def test_attention_is_timms_own(small):
    """Rows of timm's unfused attention, seen by a hook on its dropout, which is applied to the weights."""
    seen = []
    for block in small.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output.mean(1)))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        small(images)
        read, last = small(images, attention=True), small(images, attention=True, attention_layers=1)
    torch.testing.assert_close(read.affinity, sum(seen)[:, 5:, 5:])
    torch.testing.assert_close(read.class_attention.flatten(2), (sum(seen) / 3)[:, :5, 5:])
    torch.testing.assert_close(last.class_attention.flatten(2), seen[-1][:, :5, 5:])


def test_class_logit_is_the_mean_of_its_token(small):
    with torch.no_grad():
        output = small(torch.randn(2, 3, 64, 64))
    assert output.class_logits[1, 3].item() == pytest.approx(float(output.class_tokens[-1, 1, 3].sum()) / 48, abs=1e-6)


def test_patch_attention_is_the_sigmoid_of_the_patch_head(small):
    """Eq. 4: a 3 x 3 convolution of the last patch tokens by its definition, place by place, and a sigmoid."""
    seen = []
    small.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output[:, 5:]))
    nn.init.normal_(small.patch_head.bias)
    with torch.no_grad():
        p = patch_attention(small(torch.randn(2, 3, 64, 96)).patch_map)
    tokens = seen[0].double().numpy().reshape(2, 4, 6, 48)  # 5 class tokens before the patches, row by row
    kernel, bias = (weight.detach().double().numpy() for weight in small.patch_head.parameters())
    assert p.shape == (2, 5, 4, 6)
    for b, k, i, j in np.ndindex(2, 5, 4, 6):
        score = bias[k]
        for di, dj in np.ndindex(3, 3):
            y, x = i + di - 1, j + dj - 1
            if 0 <= y < 4 and 0 <= x < 6:
                score += kernel[k, :, di, dj] @ tokens[b, y, x]
        assert p[b, k, i, j].item() == pytest.approx(1 / (1 + math.exp(-score)), abs=1e-5)
    assert p.std() > 0.1


def test_patch_attention_is_float32_at_every_precision():
    scores = torch.linspace(-20, 20, 40).view(1, 2, 4, 5)
    for dtype in (torch.float32, torch.bfloat16):
        p = patch_attention(scores.to(dtype))
        assert p.dtype == torch.float32
        torch.testing.assert_close(p, 1 / (1 + (-scores.to(dtype).double()).exp()), check_dtype=False)


def test_gwrp_equals_a_loop():
    maps = torch.randn(2, 3, 4, 5)
    for b in range(2):
        for k in range(3):
            scores = sorted(maps[b, k].flatten().tolist(), reverse=True)
            expected = sum(s * 0.9**j for j, s in enumerate(scores)) / sum(0.9**j for j in range(20))
            assert gwrp(maps, 0.9)[b, k].item() == pytest.approx(expected, abs=1e-6)


def test_every_parameter_gets_a_gradient(small):
    output = small.train()(torch.randn(2, 3, 64, 64))
    (output.class_logits.sum() + output.patch_logits.sum()).backward()
    assert [name for name, p in small.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_equal_tokens_stay_equal_without_noise():
    torch.manual_seed(0)
    vit = MultiClassTokenViT(4, blocks=2, size=64, width=48, heads=3, token_init_noise=0.0)
    vit.load_state_dict(vit.state_dict() | {"cls_token": vit.cls_token[:, :1].expand(-1, 4, -1)})
    with torch.no_grad():
        tokens = vit.eval()(torch.randn(1, 3, 64, 64)).class_tokens
    torch.testing.assert_close(tokens[:, :, 0], tokens[:, :, 3])


def deit(folder, suffix="safetensors", name="deit_small_patch16_224", **changes):
    torch.manual_seed(1)
    source = timm.create_model(name, num_classes=10, **changes)
    nn.init.normal_(source.cls_token)  # timm's own is almost 0, so that another one could pass for it
    path = folder / f"deit.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(source.state_dict(), path)
    return source, path


def test_loads_timm_deit_at_448(tmp_path):
    source, path = deit(tmp_path)
    vit = MultiClassTokenViT(token_init_noise=0.0)
    load_pretrained(vit, path)
    torch.testing.assert_close(vit.blocks[11].mlp.fc2.weight, source.blocks[11].mlp.fc2.weight)
    torch.testing.assert_close(vit.cls_token, source.cls_token.expand(-1, K, -1))
    torch.testing.assert_close(vit.pos_embed_cls[0, 7], source.pos_embed[0, 0])
    grid = vit.pos_embed_pat.unflatten(1, (28, 28))
    torch.testing.assert_close(grid[0, 27, 4], source.pos_embed[0, 1 + 13 * 14 + 2])
    vit.token_init_noise = 0.02
    load_pretrained(vit, path)
    assert (vit.cls_token[0, 0] - vit.cls_token[0, 1]).std().item() == pytest.approx(0.02 * 2**0.5, rel=0.2)


def test_dinov2_becomes_a_deit_with_the_same_answers(tmp_path):
    """Blocks: as timm's with their layer scales.  Patches: a patch of 14 enlarged to 16 gives what the patch gave."""
    shape = {"embed_dim": 128, "num_heads": 2, "depth": 2, "img_size": 56}
    source, path = deit(tmp_path, name="vit_small_patch14_dinov2", **shape)
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(-2, 2)
        save_file(source.state_dict(), path)
        vit = MultiClassTokenViT(blocks=2, size=64, width=128, heads=2, drop_path=0.0, token_init_noise=0.0)
        load_pretrained(vit, path)
        tokens, picture = torch.randn(1, 9, 128), torch.rand(1, 3, 14, 14)
        theirs, ours = tokens, tokens
        for their_block, our_block in zip(source.blocks, vit.blocks, strict=True):
            theirs, ours = their_block(theirs), our_block(ours)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        enlarged = F.interpolate(picture, (16, 16), mode="bicubic", antialias=True)
        theirs, ours = source.patch_embed.proj(picture), vit.patch_embed.proj(enlarged)
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(vit.pos_embed_pat, source.pos_embed[:, 1:])


def test_a_state_dict_of_torch_gives_the_same_values(tmp_path):
    networks = [MultiClassTokenViT(), MultiClassTokenViT()]
    for vit, suffix in zip(networks, ("safetensors", "pth"), strict=True):
        _, path = deit(tmp_path, suffix)
        if suffix == "pth":
            torch.save({"model": torch.load(path)}, path)  # as the authors of DeiT publish it
        torch.manual_seed(2)
        load_pretrained(vit, path)
    for name, parameter in networks[0].named_parameters():
        if not name.startswith("patch_head."):
            assert torch.equal(parameter, networks[1].get_parameter(name)), name


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"embed_dim": 192}, "its tokens are 192 wide, expected 384: set model.width"),
        ({"name": "deit_small_distilled_patch16_224"}, r"pos_embed is \(1, 198, 384\), expected"),
        ({"patch_size": 32}, r"patch_embed\.proj\.weight is \(384, 3, 32, 32\), expected \(384, 3, 16, 16\)"),
        ({"depth": 9}, r"blocks\.9\.\S+ is missing"),
    ],
)
def test_another_architecture_is_refused(changes, sentence, suffix, tmp_path):
    _, path = deit(tmp_path, suffix, **changes)
    vit = MultiClassTokenViT()
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    with pytest.raises(InputError, match=rf"deit\.{suffix}: {sentence}.*[:,] (or )?take DeiT-S/16"):
        load_pretrained(vit, path)
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())


def test_wrong_deit_files(tmp_path):
    _, path = deit(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"deit\.safetensors cannot be read as DeiT weights .* truncated"):
        load_pretrained(MultiClassTokenViT(), path)
    with pytest.raises(InputError, match="no DeiT weights"):
        load_pretrained(MultiClassTokenViT(), tmp_path / "none.pth")
    torch.save({"model": {"conv": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a timm ViT"):
        load_pretrained(MultiClassTokenViT(), tmp_path / "other.pth")


def test_pictures_are_resized_and_normalised():
    vit = MultiClassTokenViT(blocks=1, size=64, width=48, heads=3)
    rng = np.random.default_rng(0)
    fitting, grey = rng.integers(0, 256, (64, 64, 3), np.uint8), np.full((50, 40, 3), 51, np.uint8)
    inputs = vit_inputs(vit, [fitting, grey])
    assert inputs.shape == (2, 3, 64, 64)
    assert vit_inputs(vit, [grey], 96).shape == (1, 3, 96, 96)
    for c in range(3):
        expected = (fitting[..., c] / 255 - IMAGENET_MEAN[c]) / IMAGENET_STD[c]
        assert inputs[0, c].numpy() == pytest.approx(expected, abs=1e-5)
        assert inputs[1, c].numpy() == pytest.approx((0.2 - IMAGENET_MEAN[c]) / IMAGENET_STD[c], abs=1e-5)


def test_embedded_takes_trunk_features(tmp_cache):
    vit = MultiClassTokenViT(frozen_blocks=8, blocks=1, size=64)
    load_pretrained(vit)
    weights = load_file(WEIGHTS)
    assert torch.equal(vit.blocks[0].attn.qkv.weight, weights["blocks.8.attn.qkv.weight"].float())
    picture = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    pictures = [picture, picture[:, ::-1].copy()]
    inputs = vit_inputs(vit, pictures)
    assert inputs.shape == (2, 16, 384)
    trunk = load_trunk()
    expected = trunk(trunk.prepare(to_tensor(pictures), 64))
    torch.testing.assert_close(inputs.float(), expected, atol=2e-3, rtol=2e-3)
    assert vit_inputs(vit, pictures, 96).shape == (2, 36, 384)
    output = vit(inputs)
    assert output.patch_map.shape == (2, K, 4, 4)
    names = {name.split(".")[0] for name, _ in vit.named_parameters()}
    assert names == {"gain", "cls_token", "pos_embed_cls", "blocks", "patch_head"}

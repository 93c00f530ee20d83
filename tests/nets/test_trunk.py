"""The frozen trunk: equal to timm's first eight blocks, its cache, its errors."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import to_tensor
from wsfp_helpers.nets import trunk as module
from wsfp_helpers.nets.trunk import FROZEN_BLOCKS, WEIGHTS, as_grid, features, later_blocks, load_trunk


def pictures(n, size=48, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), np.uint8))


def test_equals_the_first_blocks_of_timms_vit():
    """Block by block with timm's own modules, positions resampled by timm."""
    weights = {name: value.float() for name, value in load_file(WEIGHTS).items()}
    reference = timm.create_model("deit_small_patch16_224", num_classes=0, dynamic_img_size=True).eval()
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} <= {"blocks", "norm"}
    trunk = load_trunk()
    prepared = trunk.prepare(to_tensor(pictures(2)), 64)
    with torch.no_grad():
        x = reference.norm_pre(reference.patch_drop(reference._pos_embed(reference.patch_embed(prepared))))
        for block in reference.blocks[:FROZEN_BLOCKS]:
            x = block(x)
    x = x[:, 1:]
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(trunk(prepared), expected, atol=1e-4, rtol=1e-4)


def test_frozen_and_always_in_eval_mode():
    trunk = load_trunk().train()
    assert not trunk.training
    assert not any(p.requires_grad for p in trunk.parameters())


def test_cached_once_by_content_and_size(tmp_path, monkeypatch):
    trunk, faces = load_trunk(), pictures(3)
    first = features(faces, trunk, len(faces), size=64, folder=tmp_path)
    assert first.shape == (3, 16, 384)
    assert first.dtype == torch.float16
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.setattr(module, "_half", lambda *_: pytest.fail("computed again"))
    assert torch.equal(features(reversed(faces), trunk, len(faces), size=64, folder=tmp_path), first.flip(0))
    with pytest.raises(pytest.fail.Exception):
        features(faces, trunk, len(faces), size=80, folder=tmp_path)
    with pytest.raises(pytest.fail.Exception):
        features(pictures(1, seed=5), trunk, 1, size=64, folder=tmp_path)


@pytest.mark.promise(
    "kills and faults", "half a file in the cache of features", "nothing; computed again", "the file whole"
)
def test_a_damaged_file_is_computed_again(tmp_path):
    trunk, faces = load_trunk(), pictures(1)
    first = features(faces, trunk, len(faces), size=64, folder=tmp_path)
    path = next(tmp_path.rglob("*.npy"))
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(features(faces, trunk, len(faces), size=64, folder=tmp_path), first)


def test_pictures_of_several_sizes_keep_their_order(tmp_path):
    trunk = load_trunk()
    mixed = [*pictures(2, 48), *pictures(1, 32, seed=1), *pictures(1, 48, seed=2)]
    together = features(mixed, trunk, len(mixed), size=64, folder=tmp_path / "a")
    for i, picture in enumerate(mixed):
        alone = features([picture], trunk, 1, size=64, folder=tmp_path / "b")[0]
        torch.testing.assert_close(together[i], alone, atol=2e-3, rtol=2e-3)


def test_as_grid_is_row_major():
    tokens = torch.arange(9).view(1, 9, 1)
    assert as_grid(tokens)[0, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_errors(tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        features([], load_trunk(), 0)
    with pytest.raises(InputError, match="no trunk weights"):
        load_trunk(tmp_path / "trunk.safetensors")
    short = tmp_path / "short.safetensors"
    short.write_bytes(WEIGHTS.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"short\.safetensors cannot be read as trunk weights .* truncated"):
        load_trunk(short)
    weights, other = load_file(WEIGHTS), tmp_path / "other.safetensors"
    save_file({name: value for name, value in weights.items() if name != "blocks.3.norm1.bias"}, other)
    with pytest.raises(
        InputError, match=r"other\.safetensors is of another network: for blocks\.3\.norm1\.bias it has"
    ):
        load_trunk(other)


def test_the_later_blocks_are_all_that_the_trunk_leaves():
    weights, later = load_file(WEIGHTS), later_blocks()
    assert later.keys() == weights.keys() - load_trunk().vit.state_dict().keys()
    assert {int(name.split(".")[1]) for name in later} == {FROZEN_BLOCKS, FROZEN_BLOCKS + 1}
    for name, value in later.items():
        assert value.dtype == torch.float32 and torch.equal(value, weights[name].float())

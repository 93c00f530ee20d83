"""The converter of the public ImageNet weights of ResNet38: MXNet's format is read, checked and renamed."""

import struct

import numpy as np
import pytest
import torch

from tests.fixtures import TinyResNet38
from wsfp_helpers.common.checkpoints import load_strictly, read_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.nets.resnet38 import ResNet38
from wsfp_helpers.profiles import profile
from wsfp_helpers.tooling.resnet38 import convert_mxnet, mxnet_name, read_mxnet


@pytest.fixture(scope="module")
def resnet38():
    with torch.device("meta"):
        return ResNet38()


def mxnet_bytes(arrays, version=0):
    types = {"float32": 0, "float16": 2, "int64": 6}
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        if version == 0:
            out += struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape)
        else:
            out += struct.pack("<I", 0xF993FAC7 + version)
            out += struct.pack("<i", 0) if version == 2 else b""
            out += struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
        out += struct.pack("<iii", 1, 0, types[str(array.dtype)]) + array.tobytes()
    out += struct.pack("<Q", len(arrays))
    for name in arrays:
        out += struct.pack("<Q", len(name)) + name.encode()
    return out


@pytest.mark.parametrize("version", [0, 1, 2])
def test_mxnet_files_of_every_version_are_read(tmp_path, version):
    rng = np.random.default_rng(version)
    arrays = {
        "arg:conv1a_weight": rng.normal(size=(2, 3, 3, 3)).astype(np.float32),
        "aux:bn7_moving_mean": rng.normal(size=5).astype(np.float16),
        "arg:counts": np.arange(4).reshape(2, 2),
    }
    (tmp_path / "a.params").write_bytes(mxnet_bytes(arrays, version))
    found = read_mxnet(tmp_path / "a.params")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-30], "truncated|ends in the middle"),
        (lambda b: b"PK" + b[2:], "not an MXNet"),
        (lambda b: b"", "ends"),
    ],
)
def test_damaged_mxnet_files_are_named(tmp_path, change, message):
    content = mxnet_bytes({"arg:conv1a_weight": np.ones((2, 3), np.float32)})
    (tmp_path / "a.params").write_bytes(change(content))
    with pytest.raises(InputError, match=message) as error:
        read_mxnet(tmp_path / "a.params")
    assert "a.params" in str(error.value)


def test_every_backbone_array_has_one_mxnet_name(resnet38):
    blocks = "2a 2b1 2b2 3a 3b1 3b2 4a 4b1 4b2 4b3 4b4 4b5 5a 5b1 5b2 6a 7a".split()
    names = ["arg:conv1a_weight"] + [f"{kind}:bn7_{part}" for kind, part in NORM]
    for block in blocks:
        branches = ["2a", "2b1", "2b2"] if block[0] in "67" else ["2a", "2b1"]
        shortcut = ["1"] if block[-1] == "a" else []
        names += [f"arg:res{block}_branch{branch}_weight" for branch in branches + shortcut]
        names += [f"{kind}:bn{block}_branch{branch}_{part}" for branch in branches for kind, part in NORM]
    expected = {name for name in resnet38.state_dict() if not name.endswith("num_batches_tracked")}
    mapped = [mxnet_name(name) for name in names]
    assert len(set(mapped)) == len(mapped) and set(mapped) == expected
    assert mxnet_name("arg:linear1000_weight") is None
    with pytest.raises(InputError, match="fc7"):
        mxnet_name("arg:fc7_weight")


NORM = [("arg", "gamma"), ("arg", "beta"), ("aux", "moving_mean"), ("aux", "moving_var")]


def tiny_arrays(rng):
    shapes = {"arg:conv1a_weight": (4, 3, 3, 3), "arg:res2a_branch2a_weight": (6, 4, 3, 3)}
    shapes |= {"arg:res2a_branch2b1_weight": (8, 6, 3, 3), "arg:res2a_branch1_weight": (8, 4, 1, 1)}
    for name, width in (("bn2a_branch2a", 4), ("bn2a_branch2b1", 6), ("bn7", 8)):
        shapes |= {f"{kind}:{name}_{part}": (width,) for kind, part in NORM}
    shapes["arg:linear1000_weight"] = (10, 8)
    return {name: rng.uniform(0.5, 1, shape).astype(np.float16).astype(np.float32) for name, shape in shapes.items()}


def test_the_converter_checks_the_sum_and_fills_every_weight(tmp_path):
    arrays = tiny_arrays(np.random.default_rng(0))
    (tmp_path / "a.params").write_bytes(mxnet_bytes(arrays))
    with pytest.raises(InputError, match="md5"):
        convert_mxnet(tmp_path / "a.params", tmp_path / "out.safetensors", backbone=TinyResNet38())
    assert not (tmp_path / "out.safetensors").exists()
    convert_mxnet(tmp_path / "a.params", tmp_path / "out.safetensors", md5=None, backbone=TinyResNet38())
    again = TinyResNet38()
    load_strictly(again, read_weights(tmp_path / "out.safetensors"), tmp_path, "why")
    state = again.state_dict()
    np.testing.assert_array_equal(state["blocks.2a.conv_b1.weight"], arrays["arg:res2a_branch2b1_weight"])
    np.testing.assert_array_equal(state["blocks.2a.shortcut.weight"], arrays["arg:res2a_branch1_weight"])
    np.testing.assert_array_equal(state["bn.running_var"], arrays["aux:bn7_moving_var"])
    np.testing.assert_array_equal(state["blocks.2a.bn_a.bias"], arrays["arg:bn2a_branch2a_beta"])


def test_the_papers_parser_starts_from_the_converted_backbone(tmp_path, monkeypatch):
    monkeypatch.setenv("WSFP_DATA", str(tmp_path))
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    for user in ("wsfp_helpers.tooling.resnet38", "wsfp_helpers.parsing.deeplab"):
        monkeypatch.setattr(f"{user}.ResNet38", TinyResNet38)
    config = profile("paper").parser
    with pytest.raises(InputError, match=r"resnet38_a1\.safetensors below \$WSFP_DATA"):
        config.build()
    arrays = tiny_arrays(np.random.default_rng(0))
    (tmp_path / "a.params").write_bytes(mxnet_bytes(arrays))
    convert_mxnet(tmp_path / "a.params", tmp_path / config.weights, md5=None)
    network, again, other = (config.build(seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(network.backbone.stem.weight.detach(), arrays["arg:conv1a_weight"])
    np.testing.assert_array_equal(network.backbone.bn.running_mean, arrays["aux:bn7_moving_mean"])
    assert network.head[0].weight.equal(again.head[0].weight)
    assert not network.head[0].weight.equal(other.head[0].weight)


@pytest.mark.parametrize("fault", ["missing", "shape"])
def test_the_converter_names_the_array_that_does_not_fit(tmp_path, fault):
    arrays = tiny_arrays(np.random.default_rng(0))
    if fault == "missing":
        del arrays["aux:bn7_moving_var"]
    else:
        arrays["aux:bn7_moving_var"] = np.ones(9, np.float32)
    (tmp_path / "a.params").write_bytes(mxnet_bytes(arrays))
    with pytest.raises(InputError, match=r"bn\.running_var"):
        convert_mxnet(tmp_path / "a.params", tmp_path / "out.safetensors", md5=None, backbone=TinyResNet38())

"""DeepLab with ResNet38, the reader of MXNet files, crops and test-time averaging, on very small networks."""

import struct

import numpy as np
import pytest
import torch
from torch import nn

from wsfp_helpers import deeplab
from wsfp_helpers.data.base import WeakFaces
from wsfp_helpers.deeplab import DeepLab, DeepLabConfig, ResNet38
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS, IGNORE
from wsfp_helpers.profiles import profile
from wsfp_helpers.segment import FitConfig
from wsfp_helpers.storage import InputError


@pytest.fixture(scope="module")
def resnet38():
    with torch.device("meta"):
        return ResNet38()


def test_the_trunk_has_the_papers_size_and_stride(resnet38):
    assert round(sum(p.numel() for p in resnet38.parameters()) / 1e6, 2) == 105.07
    with torch.device("meta"):
        scores = DeepLab(19, resnet38)(torch.empty(1, 3, 448, 448))
    assert resnet38(torch.empty(1, 3, 448, 448, device="meta")).shape == (1, 4096, 56, 56)
    assert scores.shape == (1, 19, 56, 56)


def test_batch_norms_and_first_convolution_never_train(resnet38):
    resnet38.train()
    norms = [m for m in resnet38.modules() if isinstance(m, nn.BatchNorm2d)]
    # two in each of 15 plain blocks, three in each of 2 bottlenecks, one at the end
    assert len(norms) == 37 and not any(m.training for m in norms)
    frozen = {name for name, p in resnet38.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in resnet38.named_parameters() if ".bn_" in n or n.startswith(("bn.", "stem."))}


def test_a_block_is_pre_activated_and_its_shortcut_starts_after_the_first_norm():
    torch.manual_seed(0)
    block = deeplab.Block(4, [(3, 6, 2, 1), (3, 8, 1, 2)]).eval()
    x = torch.randn(2, 4, 8, 8)
    active = torch.relu(block.bn_a(x))
    middle = torch.relu(block.bn_b1(block.conv_a(active)))
    expected = block.shortcut(active) + block.conv_b1(middle)
    torch.testing.assert_close(block(x), expected)
    same = deeplab.Block(4, [(3, 4, 1, 1), (3, 4, 1, 1)]).eval()
    assert same.shortcut is None
    torch.testing.assert_close(same(x) - x, same.conv_b1(torch.relu(same.bn_b1(same.conv_a(torch.relu(same.bn_a(x)))))))


# The file format, written independently of the reader: list magic, arrays, names.


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
    found = deeplab.read_mxnet(tmp_path / "a.params")
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
        deeplab.read_mxnet(tmp_path / "a.params")
    assert "a.params" in str(error.value)


def test_every_backbone_array_has_one_mxnet_name(resnet38):
    blocks = [
        "2a",
        "2b1",
        "2b2",
        "3a",
        "3b1",
        "3b2",
        "4a",
        *(f"4b{i}" for i in range(1, 6)),
        "5a",
        "5b1",
        "5b2",
        "6a",
        "7a",
    ]
    names = ["arg:conv1a_weight"] + [f"{kind}:bn7_{part}" for kind, part in NORM]
    for block in blocks:
        branches = ["2a", "2b1", "2b2"] if block[0] in "67" else ["2a", "2b1"]
        shortcut = ["1"] if block[-1] == "a" else []
        names += [f"arg:res{block}_branch{branch}_weight" for branch in branches + shortcut]
        names += [f"{kind}:bn{block}_branch{branch}_{part}" for branch in branches for kind, part in NORM]
    expected = {name for name in resnet38.state_dict() if not name.endswith("num_batches_tracked")}
    mapped = [deeplab.mxnet_name(name) for name in names]
    assert len(set(mapped)) == len(mapped) and set(mapped) == expected
    assert deeplab.mxnet_name("arg:linear1000_weight") is None
    with pytest.raises(InputError, match="fc7"):
        deeplab.mxnet_name("arg:fc7_weight")


NORM = [("arg", "gamma"), ("arg", "beta"), ("aux", "moving_mean"), ("aux", "moving_var")]


class Tiny(nn.Module):
    """A backbone with the names of ResNet38 and almost no weights."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=8, padding=1, bias=False)
        self.blocks = nn.ModuleDict({"2a": deeplab.Block(4, [(3, 6, 1, 1), (3, 8, 1, 1)])})
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(self.bn(self.blocks["2a"](self.stem(x))))


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
        deeplab.convert_mxnet(tmp_path / "a.params", tmp_path / "out.safetensors", backbone=Tiny())
    assert not (tmp_path / "out.safetensors").exists()
    deeplab.convert_mxnet(tmp_path / "a.params", tmp_path / "out.safetensors", md5=None, backbone=Tiny())
    again = Tiny()
    deeplab.load_weights(tmp_path / "out.safetensors", again)
    state = again.state_dict()
    np.testing.assert_array_equal(state["blocks.2a.conv_b1.weight"], arrays["arg:res2a_branch2b1_weight"])
    np.testing.assert_array_equal(state["blocks.2a.shortcut.weight"], arrays["arg:res2a_branch1_weight"])
    np.testing.assert_array_equal(state["bn.running_var"], arrays["aux:bn7_moving_var"])
    np.testing.assert_array_equal(state["blocks.2a.bn_a.bias"], arrays["arg:bn2a_branch2a_beta"])


def test_the_papers_parser_starts_from_the_converted_backbone(tmp_path, monkeypatch):
    monkeypatch.setenv("WSFP_DATA", str(tmp_path))
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(deeplab, "ResNet38", Tiny)
    config = profile("paper").parser
    with pytest.raises(InputError, match=r"resnet38_a1\.safetensors below \$WSFP_DATA"):
        config.build()
    arrays = tiny_arrays(np.random.default_rng(0))
    (tmp_path / "a.params").write_bytes(mxnet_bytes(arrays))
    deeplab.convert_mxnet(tmp_path / "a.params", tmp_path / config.weights, md5=None)
    network, again, other = (config.build(seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(network.backbone.stem.weight.detach(), arrays["arg:conv1a_weight"])
    np.testing.assert_array_equal(network.backbone.bn.running_mean, arrays["aux:bn7_moving_mean"])
    assert network.head[0].weight.equal(again.head[0].weight)
    assert not network.head[0].weight.equal(other.head[0].weight)


def test_resnet38_is_not_trained_from_random_weights():
    with pytest.raises(InputError, match="cannot be trained from random weights"):
        DeepLabConfig().build()
    assert DeepLabConfig("lraspp_mobilenet_v3_large").build().head_parameters()


@pytest.mark.parametrize("fault", ["missing", "shape"])
def test_the_converter_names_the_array_that_does_not_fit(tmp_path, fault):
    arrays = tiny_arrays(np.random.default_rng(0))
    if fault == "missing":
        del arrays["aux:bn7_moving_var"]
    else:
        arrays["aux:bn7_moving_var"] = np.ones(9, np.float32)
    (tmp_path / "a.params").write_bytes(mxnet_bytes(arrays))
    with pytest.raises(InputError, match=r"bn\.running_var"):
        deeplab.convert_mxnet(tmp_path / "a.params", tmp_path / "out.safetensors", md5=None, backbone=Tiny())


def test_a_crop_is_padded_with_the_mean_colour_and_255():
    picture = np.full((20, 30, 3), 200, np.uint8)
    target = np.full((20, 30), CELEBAMASK.index("l_eye"), np.uint8)
    config, seen = DeepLabConfig(size=30, crop=40, scale=(1, 1)), set()
    for seed in range(8):
        image, labels = deeplab.random_crop(picture, target, np.random.default_rng(seed), config)
        assert image.shape == (3, 40, 40) and labels.shape == (40, 40)
        inside = labels != IGNORE
        assert inside.sum() == 600 and (image[:, ~inside] == 0).all() and (image[:, inside] != 0).all()
        seen |= set(labels[inside].tolist())
    assert seen == {CELEBAMASK.index("l_eye"), CELEBAMASK.index("r_eye")}  # the flip exchanges the sides


def test_a_crop_of_a_larger_picture_keeps_picture_and_target_together():
    ramp = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    picture, target = np.stack([ramp] * 3, -1), (ramp // 20).astype(np.uint8)
    for seed in range(6):
        config = DeepLabConfig(size=200, crop=64, scale=(0.8, 1.2))
        image, labels = deeplab.random_crop(picture, target, np.random.default_rng(seed), config)
        grey = image[0] * deeplab.IMAGENET_STD[0] + deeplab.IMAGENET_MEAN[0]
        expected = (grey * 255 / 20).floor().long()
        back = torch.from_numpy(CELEBAMASK.flip)[labels] if grey[0, 0] > grey[0, -1] else labels
        assert (expected == back).float().mean() > 0.9


@pytest.mark.parametrize("side", [512, 1024])
def test_a_crop_of_the_papers_size_shows_most_of_a_face_whatever_the_pictures_size(side):
    target = np.zeros((side, side), np.uint8)
    target[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    picture, rng = target[..., None].repeat(3, 2) * 200, np.random.default_rng(0)
    for _ in range(8):
        image, labels = deeplab.random_crop(picture, target, rng, DeepLabConfig())
        assert image.shape == (3, 448, 448) and 0.7**2 * 224**2 * 0.95 < (labels == 1).sum() < 1.3**2 * 224**2 * 1.05
        assert ((image[0] > 0) == (labels == 1)).float().mean() > 0.98


def test_training_reaches_every_part_but_the_frozen_ones():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    faces = WeakFaces("three", ["0", "1", "2"], lambda key: pictures[int(key)], np.ones((3, len(COMPONENTS))))
    torch.manual_seed(0)
    network = DeepLab(19, Tiny(), width=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    config = DeepLabConfig(size=24, crop=24, fit=FitConfig(steps=2, batch=2, lr=0.1, head_factor=10))
    losses = deeplab.train_deeplab(network, faces, lambda i: np.full((24, 24), i, np.uint8), config)
    assert len(losses) == 2 and np.isfinite(losses).all()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name, _ in network.named_parameters()} <= changed


class Sided(nn.Module):
    """Says l_eye on the right half of any picture it sees and r_eye on the left one, with a margin by position."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        scores = torch.zeros(len(x), 19, *x.shape[-2:])
        half = x.shape[-1] // 2
        scores[:, CELEBAMASK.index("r_eye"), :, :half] = 3
        scores[:, CELEBAMASK.index("l_eye"), :, half:] = 3
        return scores


def test_flip_averaging_exchanges_left_and_right():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    plain = deeplab.predict_scales(Sided(), pictures, (1.0,), flip=False)
    flipped = deeplab.predict_scales(Sided(), pictures, (1.0,), flip=True)
    torch.testing.assert_close(plain, flipped)
    several = deeplab.predict_scales(Sided(), pictures, (0.5, 1.0, 1.5))
    assert several.shape == (2, 19, 16, 16)
    torch.testing.assert_close(several.sum(1), torch.ones(2, 16, 16))


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large"])
def test_a_light_network_gives_scores_and_names_its_head(name):
    network = deeplab.build_network(name).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 19, 64, 64)
    head = {id(p) for p in network.head_parameters()}
    assert head and all(id(p) not in head for p in network.body.backbone.parameters())


def test_unknown_network_is_refused():
    with pytest.raises(InputError, match="expected one of resnet38, lraspp"):
        deeplab.build_network("resnet1000")


def test_refinement_follows_an_edge_and_stays_a_distribution():
    picture = torch.zeros(1, 3, 16, 16)
    picture[..., 8:] = 1
    truth = (torch.arange(16) >= 8).float().expand(16, 16)
    noisy = torch.where(torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.2, 1 - truth, truth)
    probability = torch.stack([1 - noisy, noisy])[None] * 0.6 + 0.2
    refined = deeplab.refine(probability, picture, iterations=5)
    torch.testing.assert_close(refined.sum(1), torch.ones(1, 16, 16))
    assert (refined.argmax(1)[0] == truth).float().mean() > (noisy == truth).float().mean()
    assert (refined.argmax(1)[0] == truth).all()

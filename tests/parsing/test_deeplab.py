"""DeepLab with ResNet38, crops and test-time averaging, on very small networks."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.fixtures import TinyResNet38, run_in_processes
from wsfp_helpers.common.checkpoints import read_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import IMAGENET_MEAN, IMAGENET_STD
from wsfp_helpers.common.runs import read_metrics
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS, IGNORE
from wsfp_helpers.nets.resnet38 import Block, ResNet38
from wsfp_helpers.parsing import deeplab
from wsfp_helpers.parsing.deeplab import Crops, DeepLab, DeepLabConfig
from wsfp_helpers.parsing.fit import FitConfig
from wsfp_helpers.stages import train_parser


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
    block = Block(4, [(3, 6, 2, 1), (3, 8, 1, 2)]).eval()
    x = torch.randn(2, 4, 8, 8)
    active = torch.relu(block.bn_a(x))
    middle = torch.relu(block.bn_b1(block.conv_a(active)))
    expected = block.shortcut(active) + block.conv_b1(middle)
    torch.testing.assert_close(block(x), expected)
    same = Block(4, [(3, 4, 1, 1), (3, 4, 1, 1)]).eval()
    assert same.shortcut is None
    torch.testing.assert_close(same(x) - x, same.conv_b1(torch.relu(same.bn_b1(same.conv_a(torch.relu(same.bn_a(x)))))))


def test_resnet38_is_not_trained_from_random_weights():
    with pytest.raises(InputError, match="cannot be trained from random weights"):
        DeepLabConfig().build()
    assert DeepLabConfig("lraspp_mobilenet_v3_large").build().head_parameters()


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
        grey = image[0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
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
    network = DeepLab(19, TinyResNet38(), width=8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    config = DeepLabConfig(size=24, crop=24, fit=FitConfig(steps=2, batch=2, lr=0.1, head_factor=10))
    losses = deeplab.train_deeplab(network, faces, lambda i: np.full((24, 24), i, np.uint8), config)
    assert len(losses) == 2 and np.isfinite(losses).all()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name, _ in network.named_parameters()} <= changed


def few_faces():
    """Five noisy pictures, and targets with more and more pixels that are left out."""
    pictures = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
    faces = WeakFaces("five", list("01234"), lambda key: pictures[int(key)], np.ones((5, len(COMPONENTS))))

    def target(i):
        label_map = (pictures[i, ..., 0] // 14).astype(np.uint8)
        label_map[: 5 * i] = IGNORE
        return label_map

    return faces, target


@pytest.mark.promise(
    "determinism", "the crops of a parser's training, whatever the number of workers", "-", "the same crops"
)
def test_crops_do_not_depend_on_the_workers_and_come_again_after_a_break():
    config = DeepLabConfig(size=24, crop=24, fit=FitConfig(steps=4, batch=2, lr=0.1))
    crops, loaded = (Crops(*few_faces(), replace(config, workers=workers), 3) for workers in (0, 2))
    batches = list(crops.batches(0))
    assert [len(targets) for _, targets in batches] == [2] * 4
    for first in (0, 2):
        for ((images,), targets), ((again,), others) in zip(batches[first:], loaded.batches(first), strict=True):
            assert torch.equal(images, again) and torch.equal(targets, others)
    assert len({images.sum().item() for (images,), _ in batches}) == 4


PROCESSES = """
import os, signal
from tests.parsing.test_deeplab import train_small
from wsfp_helpers.parsing import fit
append = fit.append_metrics

def append_and_die(folder, row):
    append(folder, row)
    if row["step"] == {last}:
        os.kill(os.getpid(), signal.SIGKILL)

fit.append_metrics = append_and_die
train_small({out!r})
"""


def train_small(out):
    """Train a network of one convolution as ``wsfp parser`` does; the rows of its ``metrics.jsonl``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeepLabConfig, "build", lambda self, seed: torch.manual_seed(seed) and nn.Conv2d(3, 19, 8, 8))
        config = DeepLabConfig(size=24, crop=24, fit=FitConfig(steps=5, batch=4, lr=0.1, save_every=1))
        path = train_parser(config, *few_faces(), Path(out), {"labels": "few"})
    return path, read_metrics(out)


@pytest.mark.parametrize(("count", "last"), [(3, 3), (2, None)])
def test_processes_train_the_parser_of_one_which_may_go_on_alone(tmp_path, count, last):
    """Three processes, of which the first is killed after the third of five steps, and two that come to the end."""
    done = run_in_processes(PROCESSES.format(out=str(tmp_path / "several"), last=last), count, tmp_path)
    assert (done.returncode == 0) == (last is None), done.stderr[-2000:]
    assert [row["step"] for row in read_metrics(tmp_path / "several")] == [*range(1, (last or 5) + 1)]
    (several, rows), (one, expected) = (train_small(tmp_path / name) for name in ("several", "one"))
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=1e-6)
    assert sorted(each.name for each in several.parent.iterdir()) == sorted(each.name for each in one.parent.iterdir())
    found, wanted = (read_weights(path) for path in (several, one))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].float(), value.float(), atol=1e-3, rtol=0)  # files are at half precision


def test_a_batch_of_fewer_pictures_than_processes_is_refused(monkeypatch):
    monkeypatch.setattr(deeplab, "processes", lambda: SimpleNamespace(num_processes=5, process_index=0))
    crops = Crops(*few_faces(), DeepLabConfig(fit=FitConfig(steps=1, batch=4, lr=0.1)))
    with pytest.raises(InputError, match=r"a batch of 4 pictures on 5 processes: .* change parser\.fit\.batch"):
        next(crops.batches(0))


def test_mixed_precision_is_of_the_training_only():
    network, seen = nn.Sequential(nn.Conv2d(3, 19, 8, 8)), set()
    network[0].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    config = DeepLabConfig(size=24, crop=24, fit=FitConfig(steps=2, batch=2, lr=0.1), precision="bf16")
    deeplab.train_deeplab(network, *few_faces(), config)
    assert seen == {torch.bfloat16}
    seen.clear()
    network(torch.zeros(1, 3, 24, 24))
    assert seen == {each.dtype for each in network.parameters()} == {torch.float32}


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

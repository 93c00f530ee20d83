"""DeepLab-V1 with ResNet38, the paper's segmentation network, and lighter ones from torchvision (design notes, 5).

The backbone starts from a public ImageNet file in MXNet's format, which :func:`convert_mxnet` turns into safetensors
without MXNet.  The networks here need a GPU; :mod:`wsfp_helpers.parser` has the light one of the embedded
profile, and what makes a parser of both.
"""

import hashlib
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import segmentation

from wsfp_helpers.data.base import WeakFaces
from wsfp_helpers.data.cache import needed
from wsfp_helpers.labels import CELEBAMASK, IGNORE, Scheme, flip_image, flip_label_map
from wsfp_helpers.segment import Batch, FitConfig, fit, load_weights, save_network
from wsfp_helpers.storage import InputError, existing
from wsfp_helpers.trunk import IMAGENET_MEAN, IMAGENET_STD

MXNET_FILE = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
MXNET_MD5 = "ff21f45d6bf03284100dcbec571edfad"
LIGHT = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50")
"""Networks of torchvision that :func:`build_network` knows beside ``resnet38``."""
NETWORKS = ("resnet38", *LIGHT)


@dataclass(frozen=True)
class DeepLabConfig:
    """The paper's second stage: pictures are brought to ``size``, as in the paper, then scaled and cropped at random.

    What the paper leaves open follows MCTformer's head, rates and length (design note 5): 30 epochs of the 24,183
    training pictures in batches of 4.
    """

    network: str = "resnet38"
    weights: str | None = None
    """First values of the backbone: for ``resnet38`` a file below ``$WSFP_DATA``, else ``"DEFAULT"`` or ``None``."""
    size: int = 448
    """Long side in pixels of what the network sees at scale 1, in training and afterwards."""
    crop: int = 448
    scale: tuple[float, float] = (0.7, 1.3)
    test_scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    fit: FitConfig = field(
        # A state of this network takes 1 GB: kept every few minutes, not every 200 steps.
        default_factory=lambda: FitConfig(steps=181_372, batch=4, lr=7e-4, head_factor=10, save_every=2000)
    )

    def build(self, seed: int = 0) -> nn.Module:
        """The network with its pretrained backbone; what is random comes from ``seed``.

        Raises :class:`InputError` when the network is unknown, or ``resnet38`` has no weights.
        """
        if self.network == "resnet38" and self.weights is None:
            raise InputError(
                "resnet38 cannot be trained from random weights, its batch norms and first convolution never change: "
                "give the file of its backbone as weights (docs/data.md)"
            )
        torch.manual_seed(seed)
        return build_network(self.network, weights=needed(self.weights) if self.network == "resnet38" else self.weights)


class Block(nn.Module):
    """Pre-activation residual block: batch norm and ReLU come before each convolution and before the shortcut's.

    ``layers`` are (kernel, outputs, stride, dilation) of the convolutions a, b1 and b2; dropout acts before all but
    the first.  The shortcut is a 1x1 convolution where the shape changes.
    """

    def __init__(self, inputs: int, layers: Sequence[tuple[int, int, int, int]], dropout: float = 0.0) -> None:
        super().__init__()
        self.names, width = ("a", "b1", "b2")[: len(layers)], inputs
        for name, (kernel, outputs, stride, dilation) in zip(self.names, layers, strict=True):
            padding = dilation * (kernel // 2)
            self.add_module(f"bn_{name}", nn.BatchNorm2d(width))
            self.add_module(
                f"conv_{name}", nn.Conv2d(width, outputs, kernel, stride, padding, dilation=dilation, bias=False)
            )
            width = outputs
        self.dropout = nn.Dropout2d(dropout)
        stride = layers[0][2]
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if (inputs, stride) != (width, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        for name in self.names:
            x = F.relu(self.get_submodule(f"bn_{name}")(x))
            if name == "a" and self.shortcut is not None:
                shortcut = self.shortcut(x)
            x = self.get_submodule(f"conv_{name}")(x if name == "a" else self.dropout(x))
        return shortcut + x


def _stage(count: int, inputs: int, middle: int, outputs: int, stride: int, first: int, dilation: int) -> list[Block]:
    blocks = []
    for index in range(count):
        a = (3, middle, stride if index == 0 else 1, first if index == 0 else dilation)
        blocks.append(Block(inputs, [a, (3, outputs, 1, dilation)]))
        inputs = outputs
    return blocks


def _bottleneck(inputs: int, outputs: int, dropout: float) -> Block:
    return Block(inputs, [(1, outputs // 4, 1, 1), (3, outputs // 2, 1, 4), (1, outputs, 1, 1)], dropout)


class ResNet38(nn.Module):
    """Backbone of 105.07 M parameters: ``(B, 3, H, W)`` normalised RGB to ``(B, 4096, H / 8, W / 8)``.

    Batch norms never train and neither does the first convolution, as in the paper's code base.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        stages = {
            "2": _stage(3, 64, 128, 128, stride=2, first=1, dilation=1),
            "3": _stage(3, 128, 256, 256, stride=2, first=1, dilation=1),
            "4": _stage(6, 256, 512, 512, stride=2, first=1, dilation=1),
            "5": _stage(3, 512, 512, 1024, stride=1, first=1, dilation=2),
            "6": [_bottleneck(1024, 2048, 0.3)],
            "7": [_bottleneck(2048, 4096, 0.5)],
        }
        self.blocks = nn.ModuleDict()
        for stage, blocks in stages.items():
            for index, block in enumerate(blocks):
                self.blocks[stage + (f"b{index}" if index else "a")] = block
        self.bn = nn.BatchNorm2d(4096)
        self.stem.requires_grad_(False)
        for module in self._norms():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the batch norms."""
        super().train(mode)
        for module in self._norms():
            module.eval()
        return self

    def _norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks.values():
            x = block(x)
        return F.relu(self.bn(x))


class DeepLab(nn.Module):
    """DeepLab-V1 with LargeFOV: two 3x3 convolutions of dilation 12 on the backbone's map.

    ``(B, 3, H, W)`` normalised RGB to class scores ``(B, C, H / 8, W / 8)``.
    """

    def __init__(self, classes: int = len(CELEBAMASK), backbone: nn.Module | None = None, width: int = 4096) -> None:
        super().__init__()
        self.backbone = backbone or ResNet38()
        self.head = nn.Sequential(
            nn.Conv2d(width, 512, 3, padding=12, dilation=12),
            nn.ReLU(),
            nn.Conv2d(512, classes, 3, padding=12, dilation=12),
        )
        for layer in (self.head[0], self.head[2]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters that learn faster by ``FitConfig.head_factor``."""
        return list(self.head.parameters())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class LightNetwork(nn.Module):
    """A segmentation network of torchvision behind the same call: normalised RGB to class scores."""

    def __init__(self, name: str, classes: int = len(CELEBAMASK), backbone_weights: str | None = None) -> None:
        super().__init__()
        build = getattr(segmentation, name)
        self.body = build(weights=None, weights_backbone=backbone_weights, num_classes=classes)

    def head_parameters(self) -> list[nn.Parameter]:
        """All that is not the backbone."""
        return [p for name, p in self.body.named_parameters() if not name.startswith("backbone.")]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)["out"]


def build_network(
    name: str = "resnet38", classes: int = len(CELEBAMASK), weights: str | Path | None = None
) -> nn.Module:
    """``resnet38`` with the backbone of ``weights`` (a file from :func:`convert_mxnet`), or one of :data:`LIGHT`.

    For a light one ``weights="DEFAULT"`` fetches torchvision's ImageNet backbone.
    """
    if name in LIGHT:
        return LightNetwork(name, classes, weights)
    if name != "resnet38":
        raise InputError(f"unknown segmentation network {name!r}: expected one of {', '.join(NETWORKS)}")
    network = DeepLab(classes)
    if weights is not None:
        load_weights(weights, network.backbone)
    return network


_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}
_LIST, _V1, _V2 = 0x112, 0xF993FAC8, 0xF993FAC9


def read_mxnet(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by name of a file that MXNet's ``nd.save`` wrote (the 2016 layout, version 1 or 2; dense arrays).

    Names have the prefix ``arg:`` or ``aux:``.  Raises :class:`InputError` when the file is truncated or of another
    format.
    """
    data, place = memoryview(existing(path, "MXNet file").read_bytes()), 0

    def take(layout: str) -> tuple:
        nonlocal place
        values = struct.unpack_from("<" + layout, data, place)
        place += struct.calcsize("<" + layout)
        return values

    def array() -> np.ndarray:
        nonlocal place
        (first,) = take("I")
        if first == _V2 and (kind := take("i")[0]) != 0:
            raise InputError(f"{path} holds a sparse array (storage type {kind}): expected dense ones")
        dimensions = take("I")[0] if first in (_V1, _V2) else first
        shape = take(f"{dimensions}{'q' if first in (_V1, _V2) else 'I'}")
        if not dimensions:
            return np.empty(0, np.float32)
        _, _, kind = take("iii")
        values = np.frombuffer(data, _TYPES[kind], int(np.prod(shape)), place)
        place += values.nbytes
        return values.reshape(shape)

    try:
        if take("QQ")[0] != _LIST:
            raise InputError(f"{path} is not an MXNet parameter file (its first bytes are others): download it again")
        arrays = [array() for _ in range(take("Q")[0])]
        names = []
        for _ in range(take("Q")[0]):
            (length,) = take("Q")
            names.append(bytes(data[place : place + length]).decode())
            place += length
        return dict(zip(names, arrays, strict=True))
    except (struct.error, ValueError, KeyError, UnicodeDecodeError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} ends in the middle of an array or is damaged ({error}): download it again") from error


_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


def mxnet_name(name: str) -> str | None:
    """Name in :class:`ResNet38` of an array of the MXNet file; ``None`` for its ImageNet classifier."""
    name = name.split(":")[-1]
    if name == "conv1a_weight":
        return "stem.weight"
    if name.startswith("linear1000_"):
        return None
    if match := re.fullmatch(r"res(\d\w+)_branch(1|2(\w+))_weight", name):
        block, branch, layer = match.groups()
        return f"blocks.{block}.{'shortcut' if branch == '1' else f'conv_{layer}'}.weight"
    norm = "|".join(_NORM)
    if match := re.fullmatch(rf"bn(\d\w+)_branch2(\w+?)_({norm})", name):
        block, layer, value = match.groups()
        return f"blocks.{block}.bn_{layer}.{_NORM[value]}"
    if match := re.fullmatch(rf"bn7_({norm})", name):
        return f"bn.{_NORM[match[1]]}"
    raise InputError(f"the MXNet file has an array {name!r} that ResNet38 does not: expected {MXNET_FILE}")


def convert_mxnet(
    path: str | Path, out: str | Path, md5: str | None = MXNET_MD5, backbone: nn.Module | None = None
) -> Path:
    """Turn the public ImageNet file (:data:`MXNET_FILE`) into safetensors for :func:`build_network`; returns ``out``.

    Raises :class:`InputError` when the checksum, a name or a shape differs.
    """
    found = hashlib.md5(existing(path, "MXNet file").read_bytes(), usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        raise InputError(f"{path} has the md5 {found}, expected {md5} of {MXNET_FILE}: download it again")
    backbone = backbone or ResNet38()
    state = {key: value for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    arrays = {mxnet_name(name): array for name, array in read_mxnet(path).items()}
    arrays.pop(None, None)
    for key in sorted(state.keys() | arrays.keys()):
        here, there = (tuple(side[key].shape) if key in side else "nothing" for side in (state, arrays))
        if here != there:
            raise InputError(f"{path} has {there} for {key}, expected {here}: is it {MXNET_FILE}?")
    backbone.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in arrays.items()}, strict=False)
    save_network(out, backbone, {"network": type(backbone).__name__, "source": MXNET_FILE, "md5": found})
    return Path(out)


def normalised(picture: np.ndarray) -> Tensor:
    """Picture ``(H, W, 3)`` uint8 as ``(3, H, W)`` float32 with ImageNet's mean and deviation removed."""
    scaled = (picture.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return torch.from_numpy(scaled.astype(np.float32)).permute(2, 0, 1)


def random_crop(
    picture: np.ndarray,
    target: np.ndarray,
    rng: np.random.Generator,
    config: DeepLabConfig,
    scheme: Scheme = CELEBAMASK,
) -> tuple[Tensor, Tensor]:
    """Random flip with exchanged sides, scale and crop: ``(3, crop, crop)`` float32 and ``(crop, crop)`` int64.

    ``picture`` ``(H, W, 3)`` uint8, ``target`` ``(H, W)`` uint8.  At scale 1 their long side is ``config.size``: a crop
    must show most of a face, or left and right cannot be told.  Where the scaled picture is smaller than the crop it is
    padded with the mean colour (0 after normalisation) and the target with 255.
    """
    if rng.random() < 0.5:
        picture, target = flip_image(picture), flip_label_map(target, scheme)
    crop, factor = config.crop, rng.uniform(*config.scale) * config.size / max(target.shape)
    shape = round(target.shape[1] * factor), round(target.shape[0] * factor)
    image = normalised(np.array(Image.fromarray(picture).resize(shape, Image.Resampling.BILINEAR)))
    labels = torch.from_numpy(np.array(Image.fromarray(target).resize(shape, Image.Resampling.NEAREST))).long()
    missing = [max(crop - side, 0) for side in labels.shape]
    before = [int(rng.integers(gap + 1)) for gap in missing]
    margins = (before[1], missing[1] - before[1], before[0], missing[0] - before[0])
    image, labels = F.pad(image, margins), F.pad(labels, margins, value=IGNORE)
    top, left = (int(rng.integers(side - crop + 1)) for side in labels.shape)
    return image[:, top : top + crop, left : left + crop], labels[top : top + crop, left : left + crop]


def train_deeplab(
    network: nn.Module,
    faces: WeakFaces,
    target: Callable[[int], np.ndarray],
    config: DeepLabConfig,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
) -> list[float]:
    """Train ``network`` in place on random crops; ``target(i)`` gives the label map of picture ``i``.

    Returns the losses; resumes from ``folder`` (see :func:`wsfp_helpers.segment.fit`).
    """

    def batch_at(step: int) -> Batch:
        rng = np.random.default_rng([seed, step])
        chosen = rng.choice(len(faces), config.fit.batch, replace=len(faces) < config.fit.batch)
        crops = [random_crop(faces.image(i), target(i), rng, config, faces.scheme) for i in chosen]
        images, targets = zip(*crops, strict=True)
        return (torch.stack(images),), torch.stack(targets)

    return fit(network, batch_at, config.fit, seed=seed, folder=folder, desc=config.network)


@torch.no_grad()
def predict_scales(
    network: nn.Module, pictures: np.ndarray, scales: Sequence[float] = DeepLabConfig.test_scales, flip: bool = True
) -> Tensor:
    """Class probabilities ``(B, 19, H, W)`` of pictures ``(B, H, W, 3)`` uint8: mean of the softmax over the scales.

    ``flip``: over the mirrored pictures, too, whose maps are mirrored back and their left and right classes exchanged.
    No CRF.
    """
    device = next(network.parameters()).device
    network.eval()
    images, size = torch.stack([normalised(picture) for picture in pictures]).to(device), pictures.shape[1:3]
    order = torch.from_numpy(CELEBAMASK.flip).to(device)
    total, looks = 0, 0
    for factor in scales:
        shape = [max(1, round(side * factor)) for side in size]
        scaled = F.interpolate(images, shape, mode="bilinear", align_corners=False, antialias=True)
        for mirrored in (False, True) if flip else (False,):
            scores = network(scaled.flip(-1) if mirrored else scaled)
            if mirrored:
                scores = scores.flip(-1)[:, order]
            total = total + F.interpolate(scores, size, mode="bilinear", align_corners=False).softmax(1)
            looks += 1
    return (total / looks).cpu()


def refine(
    probability: Tensor,
    pictures: Tensor,
    iterations: int = 10,
    dilations: Sequence[int] = (1, 2, 4, 8),
    sharp: float = 0.3,
) -> Tensor:
    """Let class probabilities ``(B, C, H, W)`` follow the edges of ``pictures`` ``(B, 3, H, W)`` in [0, 1].

    Each pixel becomes the mean of its neighbours at the given distances, weighed by the softmax of how alike their
    colours are relative to the local spread (pixel-adaptive refinement, as SeCo and MoRe use instead of a CRF).
    ``sharp`` is the colour distance, in spreads, at which a neighbour counts 1 / e.  Rows of the result sum to 1.
    """
    near = _neighbours(pictures, dilations)
    spread = near.std(2, keepdim=True) + 1e-4
    distance = ((near - pictures[:, :, None]) / (sharp * spread)).square().mean(1)
    weight = (-distance).softmax(1)[:, None]
    for _ in range(iterations):
        probability = (_neighbours(probability, dilations) * weight).sum(2)
    return probability


def _neighbours(x: Tensor, dilations: Sequence[int]) -> Tensor:
    """``(B, C, 8 D, H, W)``: the eight neighbours of every pixel at each distance, the border repeated."""
    height, width = x.shape[-2:]
    found = []
    for d in dilations:
        padded = F.pad(x, (d, d, d, d), mode="replicate")
        found += [
            padded[..., d + dy : d + dy + height, d + dx : d + dx + width]
            for dy in (-d, 0, d)
            for dx in (-d, 0, d)
            if dy or dx
        ]
    return torch.stack(found, 2)

"""DeepLab-V1 with ResNet38, the paper's parser, and lighter networks from torchvision (docs/design.md, 5).

The backbone starts from a public ImageNet file, which ``wsfp weights convert`` turns into safetensors.  The
networks here need a GPU; :mod:`wsfp_helpers.parsing.light` has the parser of the embedded profile.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import segmentation

from wsfp_helpers.common.accelerator import own_share, processes
from wsfp_helpers.common.cache import require
from wsfp_helpers.common.checkpoints import load_strictly, read_weights, save_halved
from wsfp_helpers.common.configs import check_range
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.machine import device
from wsfp_helpers.common.pictures import flip_image, normalise, resize_label_map, to_tensor
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK, IGNORE, Scheme, flip_label_map
from wsfp_helpers.nets.resnet38 import ResNet38
from wsfp_helpers.parsing.fit import Batch, FitConfig, fit
from wsfp_helpers.parsing.zoom import FaceParser

LIGHT = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50")
"""Networks of torchvision that :func:`build_network` knows beside ``resnet38``."""
NETWORKS = ("resnet38", *LIGHT)


@dataclass(frozen=True)
class DeepLabConfig:
    """The paper's second stage: pictures are brought to ``size``, as in the paper, then scaled and cropped at random.

    What the paper leaves open follows MCTformer's head, rates and length (docs/design.md, 5): 30 epochs of the 24,183
    training pictures in batches of 4.
    """

    network: str = "resnet38"
    """One of :data:`NETWORKS`."""
    weights: str | None = None
    """First values of the backbone: for ``resnet38`` a file below ``$WSFP_DATA``, else ``"DEFAULT"`` or ``None``."""
    size: int = 448
    """Long side in pixels of what the network sees at scale 1, in training and afterwards."""
    crop: int = 448
    """Side in pixels of a training crop."""
    scale: tuple[float, float] = (0.7, 1.3)
    """Range of the random scale before the crop."""
    test_scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    """Scales whose probabilities are averaged when a picture is parsed."""
    fit: FitConfig = field(
        # A state of this network takes 1 GB: kept every few minutes, not every 200 steps.
        default_factory=lambda: FitConfig(steps=181_372, batch=4, lr=7e-4, head_factor=10, save_every=2000)
    )
    """Optimiser and length of the training."""
    precision: Literal["no", "bf16"] = "no"
    """accelerate's mixed precision, in training."""
    workers: int = 0
    """Processes that load crops."""

    def __post_init__(self) -> None:
        check_range(self, size=(16, 4096), crop=(16, 4096), scale=(0.05, 20), test_scales=(0.05, 20), workers=(0, 256))
        if self.scale[0] > self.scale[1]:
            raise InputError(f"scale is {self.scale}: expected the smaller one first")

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
        file = require(self.weights) if self.network == "resnet38" and self.weights else None
        return build_network(self.network, weights=file or self.weights)

    def train(
        self,
        faces: WeakFaces,
        target: Callable[[int], np.ndarray],
        *,
        seed: int = 0,
        folder: Path | None = None,
        desc: str = "parser",
    ) -> "DeepLabParser":
        """Train a parser; ``target(i)`` gives the label map ``(H, W)`` uint8 that picture ``i`` is trained with."""
        network = self.build(seed)
        train_deeplab(network, faces, target, self, seed=seed, folder=folder, desc=desc)
        return DeepLabParser(network, self)


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
        for name, parameter in self.head.named_parameters():
            (nn.init.zeros_ if name.endswith("bias") else nn.init.xavier_uniform_)(parameter)

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters that learn faster by ``FitConfig.head_factor``."""
        return list(self.head.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
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
        """``(B, C, H, W)`` of ``(B, 3, H, W)``."""
        return self.body(x)["out"]


def build_network(
    name: str = "resnet38", classes: int = len(CELEBAMASK), weights: str | Path | None = None
) -> nn.Module:
    """``resnet38`` with the backbone of ``weights``, or one of :data:`LIGHT`.

    For a light one ``weights="DEFAULT"`` fetches torchvision's ImageNet backbone.
    """
    if name in LIGHT:
        return LightNetwork(name, classes, None if weights is None else str(weights))
    if name != "resnet38":
        raise InputError(f"unknown segmentation network {name!r}: expected one of {', '.join(NETWORKS)}")
    if weights is None:
        return DeepLab(classes)
    advice = "give the backbone that `wsfp weights convert` wrote"
    values = read_weights(weights, "weights of ResNet38", advice)  # first: to fill a network of its size takes seconds
    network = DeepLab(classes)
    load_strictly(network.backbone, values, weights, advice)
    return network


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
    height, width = (round(side * factor) for side in target.shape)
    scaled = np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    image = normalise(to_tensor([scaled]))[0]
    labels = torch.from_numpy(resize_label_map(target, (height, width))).long()
    missing = [max(crop - side, 0) for side in labels.shape]
    before = [int(rng.integers(gap + 1)) for gap in missing]
    margins = (before[1], missing[1] - before[1], before[0], missing[0] - before[0])
    image, labels = F.pad(image, margins), F.pad(labels, margins, value=IGNORE)
    top, left = (int(rng.integers(side - crop + 1)) for side in labels.shape)
    return image[:, top : top + crop, left : left + crop], labels[top : top + crop, left : left + crop]


class Crops(Dataset):
    """Training crops ``(3, crop, crop)`` float32 and their targets ``(crop, crop)`` int64.

    An item is asked for by its step and its place in the batch, on which and on ``seed`` it depends, and on nothing
    else: not on the number of processes or workers.
    """

    def __init__(
        self, faces: WeakFaces, target: Callable[[int], np.ndarray], config: DeepLabConfig, seed: int = 0
    ) -> None:
        self.faces, self.target, self.config, self.seed = faces, target, config, seed

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        (step, number), batch, count = place, self.config.fit.batch, len(self.faces)
        index = np.random.default_rng([self.seed, step]).choice(count, batch, replace=count < batch)[number]
        rng = np.random.default_rng([self.seed, step, number])
        return random_crop(self.faces.image(index), self.target(index), rng, self.config, self.faces.scheme)

    def batches(self, first: int) -> Iterator[Batch]:
        """This process's share of the batch of every step from ``first`` on.

        Raises:
            InputError: There are more processes than pictures in a batch.
        """
        state, fit = processes(), self.config.fit
        if fit.batch < state.num_processes:
            raise InputError(
                f"a batch of {fit.batch} pictures on {state.num_processes} processes: expected at least one for each; "
                f"change parser.fit.batch or the number of processes"
            )
        numbers = range(fit.batch)[own_share(fit.batch)]
        places = ([(step, number) for number in numbers] for step in range(first, fit.steps))
        pin = torch.cuda.is_available()
        for images, targets in DataLoader(self, batch_sampler=places, num_workers=self.config.workers, pin_memory=pin):
            yield (images,), targets


def train_deeplab(
    network: nn.Module,
    faces: WeakFaces,
    target: Callable[[int], np.ndarray],
    config: DeepLabConfig,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    desc: str = "parser",
) -> list[float]:
    """Train ``network`` in place on random crops; ``target(i)`` gives the label map of picture ``i``.

    Of several processes (``accelerate launch``) each takes its share of every batch.  Returns the losses; resumes from
    ``folder`` (see :func:`wsfp_helpers.parsing.fit.fit`).
    """
    batches: Iterator[Batch] | None = None

    def batch_at(step: int) -> Batch:
        nonlocal batches
        batches = batches or Crops(faces, target, config, seed).batches(step)  # a resumed training starts later
        return next(batches)

    precision = config.precision
    return fit(network, batch_at, config.fit, seed=seed, folder=folder, desc=desc, precision=precision)


@torch.no_grad()
def predict_scales(
    network: nn.Module, pictures: np.ndarray, scales: Sequence[float] = DeepLabConfig.test_scales, flip: bool = True
) -> Tensor:
    """Class probabilities ``(B, 19, H, W)`` of pictures ``(B, H, W, 3)`` uint8: mean of the softmax over the scales.

    ``flip``: over the mirrored pictures, too, whose maps are mirrored back and their left and right classes exchanged.
    No CRF.
    """
    place = next(network.parameters()).device
    network.eval()
    images, size = normalise(to_tensor(pictures)).to(place), pictures.shape[1:3]
    order = torch.from_numpy(CELEBAMASK.flip).to(place)
    found = []
    for factor in scales:
        shape = [max(1, round(side * factor)) for side in size]
        scaled = F.interpolate(images, shape, mode="bilinear", align_corners=False, antialias=True)
        for mirrored in (False, True) if flip else (False,):
            scores = network(scaled.flip(-1) if mirrored else scaled)
            if mirrored:
                scores = scores.flip(-1)[:, order]
            found.append(F.interpolate(scores, size, mode="bilinear", align_corners=False).softmax(1))
    return torch.stack(found).mean(0).cpu()


class DeepLabParser(FaceParser):
    """A trained network of :data:`NETWORKS`, on the GPU where there is one; ``facts`` as of a light one."""

    def __init__(self, network: nn.Module, config: DeepLabConfig, facts: dict | None = None) -> None:
        self.network, self.config, self.facts = network.to(device()).eval(), config, facts or {}
        self.size = config.size

    def save(self, path: str | Path, **facts: object) -> None:
        """Write the network at half precision with its configuration and ``facts``."""
        own = {"network": self.config.network, "config": asdict(self.config)}
        save_halved(path, self.network, {**self.facts, **facts, **own})

    def probabilities(self, pictures: np.ndarray, flip: bool = True) -> Tensor:
        """As of :class:`FaceParser`: the mean over ``config.test_scales`` as well."""
        return predict_scales(self.network, pictures, self.config.test_scales, flip)


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

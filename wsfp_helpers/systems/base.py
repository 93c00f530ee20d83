"""What the compared systems share: their parts, their batches, and one form for what they find in a picture.

A system is trained on ``WeakFaces``, which have no way to a label map, and then gives :class:`Found` for any picture.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsfp_helpers.common.machine import device
from wsfp_helpers.common.pictures import Pictures, resize, to_tensor
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.method.fcam import Fcam, FcamConfig
from wsfp_helpers.method.vit import MultiClassTokenViT, vit_inputs
from wsfp_helpers.nets.dense import DenseModel
from wsfp_helpers.nets.vlm import VisionLanguageModel
from wsfp_helpers.parsing.fit import FitConfig, optimise


@dataclass(frozen=True, eq=False)
class Found:
    """What a system finds in one picture: a score for each present component and pixel, and one for the background."""

    id: str
    """Of the picture."""
    classes: np.ndarray
    """Present components ``(P,)`` int64, as indices 0 .. K - 1."""
    scores: Tensor
    """``(P, h, w)`` float32, at any resolution."""
    background: Tensor
    """``(h, w)`` float32, in the same units."""
    size: tuple[int, int]
    """Height and width of the picture."""

    def label(self) -> np.ndarray:
        """Label map ``(H, W)`` uint8: scores are enlarged (bilinear), and the strongest one counts."""
        stack = torch.cat([self.background[None], self.scores])[None].float()
        best = F.interpolate(stack, self.size, mode="bilinear", align_corners=False)[0].argmax(0)
        return np.concatenate([[0], self.classes + 1]).astype(np.uint8)[best.numpy()]


def found_in_fcam(fcam: Fcam, theta: float) -> Found:
    """Activation maps against the constant background ``theta`` in [0, 1] (paper 3.1)."""
    maps = torch.from_numpy(fcam.maps())
    return Found(fcam.id, fcam.classes, maps, torch.full(fcam.size, theta), fcam.size)


def found_in_probabilities(id_: str, probabilities: Tensor, labels: Tensor, size: tuple[int, int]) -> Found:
    """Probabilities ``(K + 1, h, w)``, the background first, of the components that ``labels`` ``(K,)`` names."""
    present = labels.nonzero()[:, 0]
    scores = probabilities.detach()
    return Found(id_, present.cpu().numpy(), scores[present + 1].cpu(), scores[0].cpu(), size)


def of_present(scores: Tensor, labels: Tensor) -> Tensor:
    """Probabilities ``(B, K + 1, h, w)`` of the background and of the components in ``labels`` ``(B, K)``.

    Classes that the image-level label does not name are removed before the softmax of ``scores`` ``(B, K + 1, h, w)``.
    """
    absent = F.pad(labels, (1, 0), value=1.0) == 0
    return scores.masked_fill(absent[:, :, None, None], -torch.inf).softmax(1)


def present_maps(patch_map: Tensor, labels: Tensor) -> Tensor:
    """Activation maps ``(B, K, h, w)`` in [0, 1] for a training step: what is positive, of present classes only.

    Each is scaled by its maximum, so that a present class with any evidence reaches 1.

    Args:
        patch_map: Output of the patch head ``(B, K, h, w)``.
        labels: ``(B, K)`` of 0 and 1.
    """
    maps = patch_map.relu() * labels[:, :, None, None]
    return maps / (maps.amax((2, 3), keepdim=True) + 1e-8)


@dataclass(frozen=True)
class Parts:
    """What all systems are built from: one backbone, one image-text model, in the sizes of one profile."""

    build_vit: Callable[[int], MultiClassTokenViT]
    """From a seed to the class-token ViT with its first values."""
    trained_vit: Callable[[bool, float, int], MultiClassTokenViT]
    """From (whether CCD and TCD are used, factor on the profile's learning rate, seed) to the trained network of the
    paper's method, or of its baseline."""
    vlm: VisionLanguageModel
    """Judges what a map cuts out of a picture."""
    dense: Callable[[], DenseModel]
    """Opens the image-text model that can be asked about places."""
    fcam: FcamConfig
    """How activation maps are read."""
    batch: int
    """Pictures of a training step."""
    epochs: int
    """Passes of the profile's own training, the measure of all others."""
    pace: float
    """Learning rate of the profile's own training, in units of that of ``embedded``."""
    backbone_lr: float
    """Factor on the learning rate of what is pretrained."""


class System(ABC):
    """A system: what it trains, the way to train it, and the way to ask it.

    Args:
        parts: Backbone and image-text model.
        settings: A frozen dataclass, the system's own.
        seed: Of first values and of everything random.
    """

    title: ClassVar[str]
    """Name in the tables of the paper."""
    paper: ClassVar[str]
    """Where it was published."""
    supervision: ClassVar[str]
    """``"I"`` image-level labels, ``"I+L"`` labels and language, as in Table 1, with ``"+B"`` for boxes."""
    models: ClassVar[Sequence[str]] = ()
    """Image-text models that it needs: ``"vlm"``, ``"dense"``."""
    tried: ClassVar[Sequence[Any]]
    """The settings between which ``val`` chose (``wsfp systems tune``)."""
    chosen: ClassVar[int] = 0
    """Which of them it chose."""
    reads: ClassVar[Sequence[str]] = ()
    """Settings that say how a trained network is read, on which its training does not depend."""

    network: nn.Module
    """All that is trained or has to be remembered, and nothing frozen: what a run keeps."""

    def __init__(self, parts: Parts, settings: Any, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.network = nn.Module()
        self.parts, self.settings, self.seed = parts, settings, seed

    @property
    def shipped(self) -> nn.Module:
        """The part of the network that :meth:`find` needs."""
        return self.network

    @abstractmethod
    def fit(self, faces: WeakFaces, folder: Path | None = None) -> None:
        """Train in place; with ``folder`` an interrupted training goes on from there."""

    @abstractmethod
    def find(self, faces: WeakFaces) -> Iterator[Found]:
        """What is found in each picture, in order, for the components on its list."""


@dataclass
class Batch:
    """Pictures of a training step."""

    index: np.ndarray
    """Which of the set, ``(B,)``."""
    inputs: Tensor
    """What the network takes."""
    pictures: Tensor
    """``(B, 3, S, S)`` in [0, 1]."""
    labels: Tensor
    """``(B, K)`` float32 of 0 and 1."""


class Batches:
    """The batch of a step, as a function of the seed and the step alone: every picture once an epoch.

    Args:
        faces: Pictures and image-level labels.
        inputs: From pictures to what the network takes (:func:`wsfp_helpers.method.vit.vit_inputs`,
            :meth:`DenseModel.inputs`); trunk features come from the disk cache.
        size: Pictures of a batch.
        side: S.
        seed: Of the order.
    """

    def __init__(
        self, faces: WeakFaces, inputs: Callable[[Pictures], Tensor], size: int, side: int, seed: int = 0
    ) -> None:
        self.faces, self.inputs, self.size, self.side, self.seed = faces, inputs, min(size, len(faces)), side, seed

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.faces) // self.size

    def __call__(self, step: int) -> Batch:
        """The batch of ``step``."""
        epoch, place = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.faces))
        return self.of(order[place * self.size :][: self.size])

    def of(self, index: np.ndarray) -> Batch:
        """The batch of the pictures at ``index`` ``(B,)``."""
        images = [self.faces.image(int(i)) for i in index]
        small = torch.cat([resize(to_tensor([image]), (self.side, self.side)) for image in images])
        labels, where = torch.from_numpy(self.faces.labels[index].astype(np.float32)), device()
        inputs = self.inputs(images).float()
        return Batch(np.asarray(index), inputs.to(where), small.clamp(0, 1).to(where), labels.to(where))


def in_order(faces: WeakFaces, batches: Batches, size: int = 8) -> Iterator[tuple[Batch, list[tuple[int, int]]]]:
    """All pictures in order, in batches, with the sizes of their files ``(H, W)``."""
    for start in range(0, len(faces), size):
        index = np.arange(start, min(start + size, len(faces)))
        yield batches.of(index), [faces.image(int(i)).shape[:2] for i in index]


class VitNetwork(nn.Module):
    """The class-token ViT, and by name the ``heads`` that a system adds to it."""

    def __init__(self, vit: MultiClassTokenViT, **heads: nn.Module) -> None:
        super().__init__()
        self.vit, self.heads = vit, nn.ModuleDict(heads)

    def head_parameters(self) -> list[nn.Parameter]:
        """All that is not pretrained, and learns faster."""
        return [*self.vit.patch_head.parameters(), *self.heads.parameters()]


class VitSystem(System):
    """A system that trains the class-token ViT with losses of its own, as long as the profile trains it."""

    network: VitNetwork
    steps: int
    """Of the training, known when it starts."""

    @property
    def shipped(self) -> nn.Module:
        """The ViT: what is beside it only helps to train it."""
        return self.network.vit

    @abstractmethod
    def loss(self, batch: Batch, step: int) -> Tensor:
        """Of the training step ``step``."""

    def after_step(self, step: int) -> None:
        """Do what has to be done when the weights have changed."""

    def train(self, faces: WeakFaces, folder: Path | None, lr: float, side: int) -> None:
        """Minimise :meth:`loss`, as fast as the profile trains its own network, and with its factor on the pretrained.

        Args:
            faces: Pictures and image-level labels.
            folder: Run directory of :func:`optimise`.
            lr: Learning rate of the heads in the profile ``embedded``.
            side: Of the pictures of a batch.

        Raises:
            InputError: As in :func:`optimise`.
        """
        batches = Batches(faces, partial(vit_inputs, self.network.vit), self.parts.batch, side, self.seed)
        self.steps = self.parts.epochs * batches.per_epoch
        slow = self.parts.backbone_lr
        config = FitConfig(
            self.steps, self.parts.batch, slow * self.parts.pace * lr, "adamw", weight_decay=0.05,
            head_factor=1 / slow, warmup=self.steps // 10,
        )  # fmt: skip

        def loss_at(_: nn.Module, step: int) -> Tensor:
            return self.loss(batches(step), step)

        optimise(
            self.network, loss_at, config,
            seed=self.seed, folder=folder, desc=self.title, after_step=self.after_step,
        )  # fmt: skip

"""The worlds of the course as typed configs: ``embedded`` (a CPU, nothing to download), ``frl`` and ``paper``.

A profile only puts the configs of the stages together; each is documented where its stage is.  It prints itself, and
``dataclasses.replace`` changes it.
"""

from dataclasses import dataclass, field, fields, is_dataclass

import torch

from wsfp_helpers import train
from wsfp_helpers.ccd import CCDConfig
from wsfp_helpers.data import open_dataset
from wsfp_helpers.data.base import Faces
from wsfp_helpers.data.cache import needed
from wsfp_helpers.deeplab import DeepLabConfig
from wsfp_helpers.fcam import FcamConfig
from wsfp_helpers.parser import ParserConfig
from wsfp_helpers.storage import InputError
from wsfp_helpers.train import TrainConfig
from wsfp_helpers.trunk import FROZEN_BLOCKS
from wsfp_helpers.vit import MultiClassTokenViT
from wsfp_helpers.vlm import (
    FLIP_ARCHITECTURE,
    VisionLanguageModel,
    flip_from_huggingface,
    mini_clip,
    mini_flip,
    open_clip_model,
)

FOLDERS = {"celebamask": "CelebAMask-HQ", "lapa": "LaPa", "helen": "Helen"}
"""Folder of each full-size data set below ``$WSFP_DATA``."""

DEIT, FLIP = "weights/deit_small_patch16_224.safetensors", "weights/FLIP-base-16"
CLIP, RESNET38 = "weights/CLIP-ViT-B-16-openai.safetensors", "weights/resnet38_a1.safetensors"
"""Weights of the full-size world below ``$WSFP_DATA``."""


@dataclass(frozen=True)
class Source:
    """A data set and its split, as :func:`wsfp_helpers.data.open_dataset` names them."""

    name: str
    split: str | None = None

    def open(self) -> Faces:
        """The data set; raises :class:`InputError` that names the folder where a full-size one was looked for."""
        return open_dataset(self.name, needed(FOLDERS[self.name]) if self.name in FOLDERS else None, self.split)

    def __str__(self) -> str:
        return f"{self.name} {self.split}" if self.split else self.name


@dataclass(frozen=True)
class ModelConfig:
    """The class-token ViT: ``blocks`` trained ones after ``frozen_blocks``; ``weights`` are its first values.

    ``weights=None`` takes the embedded trunk, else a file of timm's DeiT-S below ``$WSFP_DATA``.
    """

    frozen_blocks: int = FROZEN_BLOCKS
    blocks: int = 1
    size: int = 320
    token_init_noise: float = 0.02
    weights: str | None = None

    def empty(self) -> MultiClassTokenViT:
        """The network with random values, to load a trained model into."""
        return MultiClassTokenViT(
            frozen_blocks=self.frozen_blocks, blocks=self.blocks, size=self.size,
            token_init_noise=self.token_init_noise,
        )  # fmt: skip

    def build(self, seed: int = 0) -> MultiClassTokenViT:
        """The network with its pretrained first values; what is random comes from ``seed``."""
        torch.manual_seed(seed)
        vit = self.empty()
        vit.load_pretrained(None if self.weights is None else needed(self.weights))
        return vit


@dataclass(frozen=True)
class Profile:
    """Everything from pictures to a parser: ``theta`` is the background threshold of the pseudo labels.

    ``detector`` is ``"embedded"`` or ``"groundingdino"``, ``vlm`` one of :func:`load_vlm`.
    """

    name: str
    train_data: Source
    val_data: Source
    test_data: Source
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: train.preset("embedded"))
    ccd: CCDConfig = field(default_factory=CCDConfig)
    detector: str = "embedded"
    vlm: str = "mini_flip"
    fcam: FcamConfig = field(default_factory=FcamConfig)
    theta: float = 0.5
    parser: ParserConfig | DeepLabConfig = field(default_factory=ParserConfig)

    def faces(self, part: str = "train") -> Faces:
        """The data set of ``part``: ``"train"``, ``"val"`` or ``"test"``."""
        parts = {"train": self.train_data, "val": self.val_data, "test": self.test_data}
        if part not in parts:
            raise InputError(f"unknown part {part!r} of the data: expected one of {', '.join(parts)}")
        return parts[part].open()

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def profile(name: str) -> Profile:
    """``embedded``: rendered faces; ``frl``: the same, tested on real photographs; ``paper``: the full-size method."""
    train_data, val_data = Source("synthfaces", "celeb/train"), Source("synthfaces", "celeb/val")
    # The attention of one block trained for minutes is noise (docs/experiments.md): the patch map alone, one scale.
    patch = FcamConfig(scales=(1.0,), variant="patch", affinity=False)
    profiles = {
        "embedded": Profile("embedded", train_data, val_data, Source("synthfaces", "celeb/test"), fcam=patch),
        "frl": Profile("frl", train_data, val_data, Source("frl-london"), fcam=patch),
        "paper": Profile(
            "paper", Source("celebamask", "train"), Source("celebamask", "val"), Source("celebamask", "test"),
            ModelConfig(frozen_blocks=0, blocks=12, size=448, weights=DEIT), train.preset("paper"),
            detector="groundingdino", vlm="flip", parser=DeepLabConfig(weights=RESNET38),
        ),
    }  # fmt: skip
    if name not in profiles:
        raise InputError(f"unknown profile {name!r}: expected one of {', '.join(profiles)}")
    return profiles[name]


def load_vlm(name: str) -> VisionLanguageModel:
    """Vision-language model: ``mini_flip`` and ``mini_clip`` are shipped, ``flip`` and ``clip`` the user's copies."""
    models = {
        "mini_flip": mini_flip,
        "mini_clip": mini_clip,
        "flip": lambda: flip_from_huggingface(needed(FLIP)),
        "clip": lambda: open_clip_model(FLIP_ARCHITECTURE, needed(CLIP)),
    }
    if name not in models:
        raise InputError(f"unknown vision-language model {name!r}: expected one of {', '.join(models)}")
    return models[name]()


def _lines(config: object, indent: str = "") -> list[str]:
    lines = []
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value) and not isinstance(value, Source):
            lines += [f"{indent}{each.name}: {type(value).__name__}", *_lines(value, indent + "    ")]
        else:
            lines.append(f"{indent}{each.name:<{24 - len(indent)}} {value}")
    return lines

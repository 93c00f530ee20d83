"""The worlds of the course as typed configs: ``embedded`` (a CPU, nothing to download), ``frl`` and ``paper``.

A profile only puts the configs of the stages together; each is documented where its stage is.  It prints itself, and
``dataclasses.replace`` changes it.
"""

from dataclasses import dataclass, field

import torch

from wsfp_helpers.common.cache import require
from wsfp_helpers.common.configs import check_range, describe
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.sets import open_dataset
from wsfp_helpers.detect.base import DETECTORS
from wsfp_helpers.method.ccd import CCDConfig
from wsfp_helpers.method.fcam import FcamConfig
from wsfp_helpers.method.train import TrainConfig, preset
from wsfp_helpers.method.vit import PATCH, MultiClassTokenViT, load_pretrained
from wsfp_helpers.nets.clip import FLIP_ARCHITECTURE, flip_from_huggingface, open_clip_model
from wsfp_helpers.nets.dense import FACE_BACKGROUND, DenseModel, mini_flip_dense
from wsfp_helpers.nets.trunk import FROZEN_BLOCKS
from wsfp_helpers.nets.vlm import VisionLanguageModel, mini_clip, mini_flip, mini_flip_labels
from wsfp_helpers.parsing.deeplab import DeepLabConfig
from wsfp_helpers.parsing.light import ParserConfig

FOLDERS = {"celebamask": "CelebAMask-HQ", "lapa": "LaPa", "helen": "Helen"}
"""Folder of each full-size data set below ``$WSFP_DATA``."""
SHARDS = "shards"
"""Name of a set in shards, and folder of all of them below ``$WSFP_DATA``."""

DEIT, FLIP = "weights/deit_small_patch16_224.safetensors", "weights/FLIP-base-16"
CLIP, RESNET38 = "weights/CLIP-ViT-B-16-openai.safetensors", "weights/resnet38_a1.safetensors"
GROUNDING_DINO, BERT = "weights/groundingdino_swint_ogc.pth", "weights/bert-base-uncased"
"""Weights of the full-size world below ``$WSFP_DATA``."""

VLMS = {
    "mini_flip": mini_flip,
    "mini_clip": mini_clip,
    "mini_flip_labels": mini_flip_labels,
    "flip": lambda: flip_from_huggingface(require(FLIP)),
    "clip": lambda: open_clip_model(FLIP_ARCHITECTURE, require(CLIP)),
}
"""Image-text models: the mini ones are shipped, the others are the user's copies."""

DENSE_VLMS = {
    "mini_flip": mini_flip_dense,
    "flip": lambda: DenseModel(VLMS["flip"](), 448, FACE_BACKGROUND),
    "clip": lambda: DenseModel(VLMS["clip"](), 448, FACE_BACKGROUND),
}
"""The same models asked about places; the embedded one has a second tower for that."""


@dataclass(frozen=True)
class Source:
    """A data set and its split, as :func:`wsfp_helpers.data.sets.open_dataset` names them."""

    name: str
    """One of :data:`wsfp_helpers.data.sets.NAMES`."""
    split: str | None = None
    """``None``: the set's default; of ``shards`` their folder below ``$WSFP_DATA/shards``."""

    def open(self) -> Faces:
        """The data set; raises :class:`InputError` that names the folder where a full-size one was looked for."""
        if self.name == SHARDS:
            return open_dataset(self.name, require(f"{SHARDS}/{self.split or ''}"))
        return open_dataset(self.name, require(FOLDERS[self.name]) if self.name in FOLDERS else None, self.split)

    def __str__(self) -> str:
        return f"{self.name} {self.split}" if self.split else self.name


def source(text: str) -> Source:
    """A data set from ``NAME`` or ``NAME/SPLIT``, such as ``lapa/test``; :meth:`Source.open` says if there is none."""
    name, _, split = text.partition("/")
    return Source(name, split or None)


HEAD = 64
"""Channels of an attention head in every ViT of DeiT and DINOv2."""


@dataclass(frozen=True)
class ModelConfig:
    """The class-token ViT and its first values."""

    frozen_blocks: int = FROZEN_BLOCKS
    """Blocks of the frozen trunk before the class tokens enter; 0: the network takes pictures."""
    blocks: int = 1
    """Trained blocks."""
    size: int = 320
    """Side of the pictures in pixels."""
    token_init_noise: float = 0.02
    """Spread that keeps class tokens with equal labels apart."""
    weights: str | None = None
    """A file of timm's DeiT or DINOv2 below ``$WSFP_DATA``; ``None``: the embedded trunk's later blocks."""
    width: int = 384
    """Of the tokens, a head for every 64: 384 for ViT-S, 768 for ViT-B."""

    def __post_init__(self) -> None:
        check_range(
            self, frozen_blocks=(0, 12), blocks=(1, 12), size=(16, 2048), token_init_noise=(0, 10), width=(64, 2048)
        )
        if self.width % HEAD or (self.frozen_blocks and self.width != 384):
            raise InputError(f"width is {self.width}: expected a multiple of {HEAD}, and 384 behind the frozen trunk")
        if self.size % PATCH:
            raise InputError(f"size is {self.size}: expected a multiple of {PATCH}")

    def empty(self) -> MultiClassTokenViT:
        """The network with random values, to load a trained model into."""
        return MultiClassTokenViT(
            frozen_blocks=self.frozen_blocks, blocks=self.blocks, size=self.size,
            token_init_noise=self.token_init_noise, width=self.width, heads=self.width // HEAD,
        )  # fmt: skip

    def build(self, seed: int = 0) -> MultiClassTokenViT:
        """The network with its pretrained first values; what is random comes from ``seed``."""
        torch.manual_seed(seed)
        vit = self.empty()
        load_pretrained(vit, None if self.weights is None else require(self.weights))
        return vit


@dataclass(frozen=True)
class Profile:
    """Everything from pictures to a parser."""

    name: str
    """What the command line calls it."""
    train_data: Source
    """Pictures and image-level labels of stages 1-5."""
    val_data: Source
    """On which settings are chosen."""
    test_data: Source
    """On which results are reported."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The class-token ViT."""
    train: TrainConfig = field(default_factory=lambda: preset("embedded"))
    """Its training; ``train.tcd=None`` leaves out the text-guided losses."""
    ccd: CCDConfig | None = field(default_factory=CCDConfig)
    """Masking of frequent components; ``None`` leaves it out."""
    detector: str = "embedded"
    """``"embedded"`` or ``"groundingdino"``."""
    vlm: str = "mini_flip"
    """The image-text model, one of :data:`VLMS`."""
    fcam: FcamConfig = field(default_factory=FcamConfig)
    """How activation maps are read."""
    theta: float = 0.5
    """Background threshold of the pseudo labels."""
    parser: ParserConfig | DeepLabConfig = field(default_factory=ParserConfig)
    """The parser of stage 2."""
    general_vlm: str = "mini_clip"
    """The image-text model without faces that section 4.3.4 compares with."""
    subset: int = 229
    """Training pictures, evenly spread, whose pseudo labels the ablations score."""

    def __post_init__(self) -> None:
        check_range(self, theta=(0, 1), subset=(1, 10**6))
        for name, known in {"detector": DETECTORS, "vlm": VLMS, "general_vlm": VLMS}.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: expected one of {', '.join(known)}")

    def faces(self, part: str = "train") -> Faces:
        """The data set of ``part``: ``"train"``, ``"val"`` or ``"test"``."""
        parts = {"train": self.train_data, "val": self.val_data, "test": self.test_data}
        if part not in parts:
            raise InputError(f"unknown part {part!r} of the data: expected one of {', '.join(parts)}")
        return parts[part].open()

    def load_vlm(self) -> VisionLanguageModel:
        """The image-text model."""
        return VLMS[self.vlm]()

    def load_dense(self) -> DenseModel:
        """The image-text model that can be asked about places."""
        if self.vlm not in DENSE_VLMS:
            raise InputError(f"{self.vlm!r} cannot be asked about places: expected one of {', '.join(DENSE_VLMS)}")
        return DENSE_VLMS[self.vlm]()

    def __str__(self) -> str:
        return describe(self)


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
            ModelConfig(frozen_blocks=0, blocks=12, size=448, weights=DEIT), preset("paper"),
            detector="groundingdino", vlm="flip", parser=DeepLabConfig(weights=RESNET38, precision="bf16", workers=8),
            general_vlm="clip", subset=3_820,
        ),
    }  # fmt: skip
    if name not in profiles:
        raise InputError(f"unknown profile {name!r}: expected one of {', '.join(profiles)}")
    return profiles[name]

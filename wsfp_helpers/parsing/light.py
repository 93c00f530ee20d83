"""The light parser: a small decoder on the frozen trunk, and its training on augmented copies."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from tqdm.auto import tqdm

from wsfp_helpers.common.checkpoints import save_halved
from wsfp_helpers.common.configs import check_range
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.machine import multiplies_bfloat16
from wsfp_helpers.common.pictures import resize_label_map, to_tensor
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.nets.trunk import Trunk, as_grid, features, load_trunk
from wsfp_helpers.parsing.augment import AugmentConfig, augment
from wsfp_helpers.parsing.fit import Batch, FitConfig, class_weights, fit
from wsfp_helpers.parsing.zoom import FACE, FaceParser

NETWORK = "LightParser"
"""What the header of a light parser's file calls its network."""
RARE = ("eye_g", "hat", "neck_l")
"""Components whose pictures get further augmented copies."""


@dataclass(frozen=True)
class ParserConfig:
    """The light parser and its training."""

    size: int = 160
    """Side in pixels of what it sees and of what it answers."""
    width: int = 96
    """Channels of the decoder at its coarse end."""
    stem: int = 16
    """Channels of the stem, which sees the picture itself."""
    window: int = 80
    """Side in pixels of the part of each picture that a training step looks at."""
    dropout: float = 0.1
    """Of the trunk's tokens."""
    stem_dropout: float = 0.2
    """Probability that a training picture is seen without its stem, so that rendered texture is not all there is."""
    copies: int = 2
    """Augmented copies of each picture, beside the picture itself."""
    rare_copies: int = 1
    """Further copies of the pictures that show glasses, a hat or a necklace."""
    balance: float = 0.3
    """In the cross-entropy a class weighs its frequency to the power of minus this."""
    undo_balance: bool = False
    """Divide these weights out of the answers for the parts of the face, which are drawn too large by them."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Of the copies."""
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=600, batch=16, lr=2e-3, optimiser="adamw", weight_decay=0.02, warmup=50, dice=0.5
        )
    )
    """Optimiser and length of the training."""

    def __post_init__(self) -> None:
        check_range(
            self, size=(16, 2048), width=(4, 4096), stem=(1, 1024), window=(4, 2048), dropout=(0, 1),
            stem_dropout=(0, 1), copies=(0, 1000), rare_copies=(0, 1000), balance=(0, 10),
        )  # fmt: skip
        if self.size % 4 or self.window % 4:
            raise InputError(f"size is {self.size} and window {self.window}: expected multiples of 4")

    def train(
        self,
        faces: WeakFaces,
        target: Callable[[int], np.ndarray],
        *,
        seed: int = 0,
        folder: Path | None = None,
        desc: str = "parser",
    ) -> "LightParser":
        """Train a parser; ``target(i)`` gives the label map ``(H, W)`` uint8 that picture ``i`` is trained with."""
        trunk = load_trunk()
        copies = make_copies(faces, target, self, trunk)
        decoder, _ = train_decoder(copies, self, seed=seed, folder=folder, desc=desc)
        return LightParser(decoder, trunk, self)


class LightDecoder(nn.Module):
    """Decoder from trunk tokens ``(B, N, 384)`` and the picture ``(B, 3, S, S)`` to class scores ``(B, 19, S, S)``.

    The tokens say what a part is, the shallow stem on the picture where it ends.  The stem sees the picture with its
    own mean and deviation removed, because light and colour differ between renderings and photographs.
    """

    def __init__(self, config: ParserConfig, tokens: int = 384, classes: int = len(CELEBAMASK)) -> None:
        super().__init__()
        width, stem = config.width, config.stem
        self.stem_dropout = config.stem_dropout
        self.project = nn.Sequential(nn.Dropout(config.dropout), nn.Conv2d(tokens, width, 1))
        self.coarse = nn.Sequential(_block(width, width), _block(width, width))
        self.up2 = _block(width, 2 * width // 3)
        self.fine = _block(3, stem)
        self.middle = _block(stem, 2 * stem, stride=2)
        self.up4 = _block(2 * width // 3 + 2 * stem, width // 2)
        self.narrow = nn.Conv2d(width // 2, width // 4, 1)
        self.up8 = _block(width // 4 + stem, width // 4)
        self.head = nn.Conv2d(width // 4, classes, 1)

    def forward(self, tokens: Tensor, pictures: Tensor, window: Tensor | None = None) -> Tensor:
        """Scores of the whole picture, or of a part: ``window`` is (top, left, side) int64 in pixels, multiples of 4.

        Training on windows saves most of the time: what is expensive is the fine end of the decoder, and neighbouring
        pixels say the same.
        """
        size = pictures.shape[-1]
        top, left, side = window.tolist() if window is not None else (0, 0, size)
        centred = pictures - pictures.mean((1, 2, 3), keepdim=True)
        pictures = centred / (centred.std((1, 2, 3), keepdim=True) + 0.05)
        x = self.coarse(self.project(as_grid(tokens)))
        x = self.up2(_enlarge(x, size // 4))
        x = x[..., top // 4 : (top + side) // 4, left // 4 : (left + side) // 4]
        fine = self.fine(pictures[..., top : top + side, left : left + side])
        if self.training:
            fine = fine * (torch.rand(len(fine), 1, 1, 1, device=fine.device) >= self.stem_dropout)
        x = self.up4(torch.cat([_enlarge(x, side // 2), self.middle(fine)], 1))
        x = self.up8(torch.cat([_enlarge(self.narrow(x), side), fine], 1))
        return self.head(x)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), LayerNorm2d(outputs), nn.GELU(approximate="tanh")
    )


def _enlarge(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)


@dataclass(frozen=True, eq=False)
class Copies:
    """Augmented pictures ``(n, S, S, 3)`` and targets ``(n, S, S)`` uint8, and tokens ``(n, N, 384)`` float16."""

    pictures: np.ndarray
    targets: np.ndarray
    tokens: Tensor

    def batch_at(self, step: int, batch: int, window: int, seed: int) -> Batch:
        """The ``step``-th batch: every copy once an epoch, in an order that depends on ``seed`` and the epoch.

        Inputs are tokens, whole pictures and a random window of ``window`` pixels; the target is that of the window.
        """
        steps = max(len(self.targets) // batch, 1)
        order = np.random.default_rng([seed, step // steps]).permutation(len(self.targets))
        chosen = np.sort(order[step % steps * batch :][:batch])
        size = self.targets.shape[-1]
        top, left = 4 * np.random.default_rng([seed, step, 1]).integers((size - window) // 4 + 1, size=2)
        target = torch.from_numpy(self.targets[chosen, top : top + window, left : left + window]).long()
        tokens = self.tokens[torch.from_numpy(chosen)].float()
        return (tokens, to_tensor(self.pictures[chosen]), torch.tensor([top, left, window])), target


def make_copies(
    faces: WeakFaces,
    target: Callable[[int], np.ndarray],
    config: ParserConfig,
    trunk: Trunk,
    seed: int = 1,
    folder: Path | None = None,
) -> Copies:
    """Every picture and its augmented copies, of those with :data:`RARE` parts some more, and the tokens of all.

    Args:
        faces: Pictures, and the labels that say which parts are rare.
        target: Gives the label map ``(H, W)`` uint8 that a picture is trained with: a pseudo label, or for the upper
            bound a mask.
        config: Size, number and augmentation of the copies.
        trunk: Whose tokens are computed.
        seed: Of the augmentation alone: trainings with the same one share their tokens.
        folder: Where tokens are kept (default: the cache), so that an interrupted run goes on.

    Raises:
        InputError: A target has another size than its picture.
    """
    columns = [faces.scheme.components.index(name) for name in RARE]
    rare = np.flatnonzero(faces.labels[:, columns].any(1))
    order = np.concatenate([np.arange(len(faces))] * (1 + config.copies) + [rare] * config.rare_copies)
    rng = np.random.default_rng(seed)
    size, per_side = config.size, trunk.size // trunk.patch
    pictures = np.empty((len(order), size, size, 3), np.uint8)
    targets = np.empty((len(order), size, size), np.uint8)
    tokens = torch.empty((len(order), per_side**2, trunk.width), dtype=torch.float16)
    for place, index in enumerate(tqdm(order, desc="augmented copies", unit="image", leave=False)):
        picture, label_map = faces.image(index), target(index)
        if picture.shape[:2] != label_map.shape:
            raise InputError(
                f"{faces.name}: the target of {faces.ids[index]} is {label_map.shape}, its picture "
                f"{picture.shape[:2]}: expected equal sizes"
            )
        picture = np.array(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
        label_map = resize_label_map(label_map, (size, size))
        if place >= len(faces):
            picture, label_map = augment(picture, label_map, rng, config.augment)
        pictures[place], targets[place] = picture, label_map
    for start in range(0, len(order), 256):
        part = pictures[start : start + 256]
        tokens[start : start + 256] = features(part, trunk, len(part), f"tokens from {start}", folder=folder)
    return Copies(pictures, targets, tokens)


def train_decoder(
    copies: Copies, config: ParserConfig, *, seed: int = 0, folder: str | Path | None = None, desc: str = "parser"
) -> tuple[LightDecoder, list[float]]:
    """Train a decoder on augmented copies; returns it with the loss of every step.

    With ``folder`` an interrupted training goes on from where it was (see :func:`wsfp_helpers.parsing.fit.fit`).
    """
    torch.manual_seed(seed)
    decoder = LightDecoder(config, copies.tokens.shape[-1])
    weight = class_weights(copies.targets, config.balance)

    def batch_at(step: int) -> Batch:
        return copies.batch_at(step, config.fit.batch, config.window, seed)

    losses = fit(decoder, batch_at, config.fit, weight=weight, seed=seed, folder=folder, desc=desc)
    if config.undo_balance:
        undo_balance(decoder, weight)
    return decoder, losses


@torch.no_grad()
def undo_balance(decoder: LightDecoder, weight: Tensor) -> None:
    """Subtract the logarithm of class weights ``(19,)``, in relation to skin's, from the scores of :data:`FACE`.

    A cross-entropy whose class k weighs w_k is least where scores are those of probabilities p_k * w_k; subtracting
    log w_k gives p_k back ("logit adjustment", Menon et al., ICLR 2021).  So the parts that skin surrounds are no
    longer drawn too large.  Ears, hats and clothes keep their weights: where a photograph leaves the parser in doubt,
    they would be lost to hair and background.  So do classes that no target had, whose weight is 0.
    """
    bias, skin = decoder.head.get_parameter("bias"), weight[CELEBAMASK.index("skin")]
    for k in (CELEBAMASK.index(name) for name in FACE):
        if weight[k] * skin > 0:
            bias[k] -= (weight[k] / skin).log()


class LightParser(FaceParser):
    """A trained decoder with its trunk.  ``facts`` is what its file says of its training.

    With ``fast`` trunk and decoder compute in bfloat16 where the processor multiplies it: about twice as fast, and a
    few pixels in 1,000 get another class.  Nothing that is trained or scored is computed so.
    """

    fast = False

    def __init__(self, network: LightDecoder, trunk: Trunk, config: ParserConfig, facts: dict | None = None) -> None:
        self.network, self.trunk, self.config, self.facts = network.eval(), trunk, config, facts or {}
        self.size = config.size

    def save(self, path: str | Path, **facts: object) -> None:
        """Write the decoder at half precision with its configuration and ``facts``; the trunk stays in its own file."""
        own = {"network": NETWORK, "trunk": self.trunk.fingerprint, "config": asdict(self.config)}
        save_halved(path, self.network, {**self.facts, **facts, **own})

    @torch.no_grad()
    def probabilities(self, pictures: np.ndarray, flip: bool = True, tokens: Tensor | None = None) -> Tensor:
        """As of :class:`FaceParser`.

        ``tokens`` are the trunk's, ``(B, N, 384)``, where they are known; with ``flip`` those of the mirrored pictures
        come after them.
        """
        images = _with_mirrored(pictures, flip)
        tokens = self._tokens(images) if tokens is None else tokens
        with torch.autocast("cpu", torch.bfloat16, enabled=self._in_bfloat16):
            scores = self.network(tokens, images)
        probability = scores.float().softmax(1)
        if flip:
            straight, mirrored = probability.chunk(2)
            probability = (straight + mirrored.flip(-1)[:, torch.from_numpy(CELEBAMASK.flip)]) / 2
        return probability

    @property
    def _in_bfloat16(self) -> bool:
        return self.fast and multiplies_bfloat16()

    def _tokens(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._in_bfloat16):
            return self.trunk(self.trunk.prepare(images)).float()


def look_together(parsers: Sequence[LightParser], pictures: np.ndarray, flip: bool) -> list[Tensor]:
    """What each of several parsers of one trunk says of pictures (:meth:`LightParser.probabilities`).

    The trunk sees the pictures once.
    """
    tokens = parsers[0]._tokens(_with_mirrored(pictures, flip))
    return [parser.probabilities(pictures, flip, tokens) for parser in parsers]


def _with_mirrored(pictures: np.ndarray, flip: bool) -> Tensor:
    images = to_tensor(pictures)
    return torch.cat([images, images.flip(-1)]) if flip else images

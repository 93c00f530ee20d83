"""Face parsers: the light one, a small decoder on the frozen trunk, its training, and looking at photographs with any.

Two light ones are shipped.  Both have the same network and the same training; ``weak`` learnt from pseudo labels, that
is from image-level labels alone, ``supervised`` from the rendered masks: the difference is what pixel labels buy.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from tqdm.auto import tqdm

from wsfp_helpers.augment import AugmentConfig, augment
from wsfp_helpers.data.base import WeakFaces
from wsfp_helpers.deeplab import NETWORKS, DeepLabConfig, build_network, predict_scales
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.runs import device
from wsfp_helpers.segment import Batch, FitConfig, class_weights, fit, load_weights, read_facts, save_network
from wsfp_helpers.storage import InputError, existing_file
from wsfp_helpers.trunk import Trunk, as_grid, features, load_trunk, to_tensor

ASSETS = Path(__file__).parent / "assets"
SHIPPED = {name: ASSETS / f"parser_{name}.safetensors" for name in ("weak", "supervised")}
CLASSES = len(CELEBAMASK)
FACE = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
"""Classes inside the outline of a face: where they are is where the second look goes."""
RARE = ("eye_g", "hat", "neck_l")
CANVAS = 640
"""Long side in pixels on which the looks at a photograph are put together, so that memory does not grow with it."""


@dataclass(frozen=True)
class ParserConfig:
    """The light parser and its training; ``size`` is the side in pixels of what it sees and of what it answers."""

    size: int = 160
    width: int = 96
    stem: int = 16
    window: int = 80
    """Side in pixels of the part of each picture that a training step looks at."""
    dropout: float = 0.1
    stem_dropout: float = 0.2
    """Probability that a training picture is seen without its stem, so that rendered texture is not all there is."""
    copies: int = 2
    """Augmented copies of each picture, beside the picture itself."""
    rare_copies: int = 1
    """Further copies of the pictures that show glasses, a hat or a necklace."""
    balance: float = 0.3
    """In the cross-entropy a class weighs its frequency to the power of minus this."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=600, batch=16, lr=2e-3, optimiser="adamw", weight_decay=0.02, warmup=50, dice=0.5
        )
    )


class LightParser(nn.Module):
    """Decoder from trunk tokens ``(B, N, 384)`` and the picture ``(B, 3, S, S)`` to class scores ``(B, 19, S, S)``.

    The tokens say what a part is, the shallow stem on the picture where it ends.  The stem sees the picture with its
    own mean and deviation removed, because light and colour differ between renderings and photographs.
    """

    def __init__(self, config: ParserConfig, tokens: int = 384, classes: int = CLASSES) -> None:
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
        """Scores of the whole picture, or of a part: ``window`` is (top, left, side) int64 in pixels.

        They are multiples of 4.  Training on windows saves most of the time: what is
        expensive is the fine end of the decoder, and neighbouring pixels say the same.
        """
        size = pictures.shape[-1]
        top, left, side = window.tolist() if window is not None else (0, 0, size)
        centred = pictures - pictures.mean((1, 2, 3), keepdim=True)
        pictures = centred / (centred.std((1, 2, 3), keepdim=True) + 0.05)
        x = self.coarse(self.project(as_grid(tokens)))
        x = self.up2(_resize(x, (size // 4, size // 4)))
        x = x[..., top // 4 : (top + side) // 4, left // 4 : (left + side) // 4]
        fine = self.fine(pictures[..., top : top + side, left : left + side])
        if self.training:
            fine = fine * (torch.rand(len(fine), 1, 1, 1, device=fine.device) >= self.stem_dropout)
        x = self.up4(torch.cat([_resize(x, (side // 2, side // 2)), self.middle(fine)], 1))
        x = self.up8(torch.cat([_resize(self.narrow(x), (side, side)), fine], 1))
        return self.head(x)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), LayerNorm2d(outputs), nn.GELU(approximate="tanh")
    )


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Copies:
    """Augmented pictures ``(n, S, S, 3)`` and targets ``(n, S, S)`` uint8, and tokens ``(n, N, 384)`` float16."""

    pictures: np.ndarray
    targets: np.ndarray
    tokens: Tensor

    def batch_at(self, step: int, batch: int, window: int, seed: int) -> Batch:
        """The ``step``-th batch: every copy once an epoch, in an order that depends on ``seed`` and the epoch.

        Inputs are tokens, whole pictures and a random window of ``window`` pixels; the target is that of the window.
        """
        a_pass = max(len(self.targets) // batch, 1)
        order = np.random.default_rng([seed, step // a_pass]).permutation(len(self.targets))
        chosen = np.sort(order[step % a_pass * batch :][:batch])
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

    ``target(i)`` gives the label map ``(H, W)`` uint8 that picture ``i`` is trained with: a pseudo label, or for the
    upper bound a mask.  Tokens are kept in ``folder`` (default: the cache), so an interrupted run goes on, and
    trainings with the same ``seed`` (that of the augmentation alone) share them.
    """
    columns = [faces.scheme.components.index(name) for name in RARE]
    rare = np.flatnonzero(faces.labels[:, columns].any(1))
    order = np.concatenate([np.arange(len(faces))] * (1 + config.copies) + [rare] * config.rare_copies)
    rng = np.random.default_rng(seed)
    size, per_side = config.size, trunk.size // trunk.patch
    pictures = np.empty((len(order), size, size, 3), np.uint8)
    targets = np.empty((len(order), size, size), np.uint8)
    tokens = torch.empty(len(order), per_side**2, trunk.width, dtype=torch.float16)
    for place, index in enumerate(tqdm(order, desc="augmented copies", unit="image", leave=False)):
        picture, label_map = faces.image(index), target(index)
        if picture.shape[:2] != label_map.shape:
            raise InputError(
                f"{faces.name}: the target of {faces.ids[index]} is {label_map.shape}, its picture "
                f"{picture.shape[:2]}: expected equal sizes"
            )
        picture = np.array(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
        label_map = np.array(Image.fromarray(label_map).resize((size, size), Image.Resampling.NEAREST))
        if place >= len(faces):
            picture, label_map = augment(picture, label_map, rng, config.augment)
        pictures[place], targets[place] = picture, label_map
    for start in range(0, len(order), 256):
        part = pictures[start : start + 256]
        tokens[start : start + 256] = features(part, trunk, len(part), f"tokens from {start}", folder=folder)
    return Copies(pictures, targets, tokens)


def train_parser(
    copies: Copies, config: ParserConfig, *, seed: int = 0, folder: str | Path | None = None, desc: str = "parser"
) -> tuple[LightParser, list[float]]:
    """Train the decoder on augmented copies; returns it with the loss of every step.

    With ``folder`` an interrupted training goes on from where it was (see :func:`wsfp_helpers.segment.fit`).
    """
    torch.manual_seed(seed)
    network = LightParser(config, copies.tokens.shape[-1])
    weight = class_weights(copies.targets, config.balance)
    losses = fit(
        network,
        lambda step: copies.batch_at(step, config.fit.batch, config.window, seed),
        config.fit,
        weight=weight,
        seed=seed,
        folder=folder,
        desc=desc,
    )
    return network, losses


@dataclass(frozen=True)
class Looks:
    """How a photograph is looked at: first as a whole, then closer at the face that the first look found."""

    zoom: float = 0.7
    """Height of the face in the square of a closer look; 0.7 is the framing of the training pictures."""
    enough: float = 0.7
    """A closer look is the last one when it sees a face of at least this part of the height that was aimed at."""
    most: int = 3
    """At most so many closer looks: a face that is small in its picture is found step by step."""
    anchor: tuple[float, float] = (0.575, 0.5)
    """Where (y, x) in the square the middle of the face comes to lie: as in CelebA's crops."""
    flip: bool = True
    """Closer looks, or the only one, are the mean with the mirrored picture."""
    weight: float = 0.8
    """Weight of a closer look against what the looks before it said."""


@dataclass(frozen=True)
class Sight:
    """What the looks at a photograph of ``size`` (H, W) gave together.

    ``probability`` is ``(19, h, w)`` float32 on a canvas of at most :data:`CANVAS` pixels.  ``face`` is the box (top,
    bottom, left, right) on it where the closest look saw a face, ``None`` when none did; ``certainty`` the mean
    probability that this look alone gave to its choice in the box, where that is not the background (0 without a face).
    """

    probability: Tensor
    size: tuple[int, int]
    face: tuple[float, float, float, float] | None = None
    certainty: float = 0.0

    def label_map(self) -> tuple[np.ndarray, np.ndarray]:
        """Classes ``(H, W)`` uint8 and the probability of each ``(H, W)`` float32, enlarged strip by strip."""
        (height, width), rows = self.size, self.probability.shape[1]
        labels, confidence = np.empty(self.size, np.uint8), np.empty(self.size, np.float32)
        y = (torch.arange(height) + 0.5).mul(rows / height).sub(0.5).clamp(0, rows - 1)
        above = y.long()
        below, part = (above + 1).clamp(max=rows - 1), (y - above)[:, None]
        step = max(1, 4_000_000 // (CLASSES * width))
        for start in range(0, height, step):
            at = slice(start, start + step)
            strip = torch.lerp(self.probability[:, above[at]], self.probability[:, below[at]], part[at])
            best, index = _resize(strip[None], (strip.shape[1], width))[0].max(0)
            labels[at], confidence[at] = index.byte().numpy(), best.numpy()
        return labels, confidence


class FaceParser:
    """Looks at photographs with a trained ``network``: ``config.size`` is the side in pixels of what it sees."""

    network: nn.Module
    config: ParserConfig | DeepLabConfig

    def probabilities(self, pictures: np.ndarray, flip: bool = True) -> Tensor:
        """Class probabilities ``(B, 19, S, S)`` of pictures ``(B, S, S, 3)`` uint8, S being ``config.size``.

        ``flip``: mean with the mirrored picture, mirrored back and its left and right classes exchanged.
        """
        raise NotImplementedError

    def look(self, image: np.ndarray, looks: Looks = Looks()) -> Sight:
        """Look at a photograph ``(H, W, 3)`` uint8 of any size: as a whole, then closer and closer at its face."""
        size = image.shape[:2]
        scale = min(1.0, CANVAS / max(size))
        height, width = (max(1, round(side * scale)) for side in size)
        canvas = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3))
        side = max(height, width)
        box = (height - side) // 2, (width - side) // 2, side
        total = self._framed(canvas, box, looks.flip and not looks.most)[0]
        found, face, certainty = find_face(total), None, 0.0
        for _ in range(looks.most if found else 0):
            side = max(round((found[1] - found[0]) / looks.zoom), 16)
            top = round((found[0] + found[1]) / 2 - looks.anchor[0] * side)
            left = round((found[2] + found[3]) / 2 - looks.anchor[1] * side)
            closer, rows, columns = self._framed(canvas, (top, left, side), looks.flip)
            weight = looks.weight * _feather(rows, top, side)[:, None] * _feather(columns, left, side)
            total[:, rows, columns].lerp_(closer, weight)
            seen = find_face(closer)
            if seen is None:
                break
            found = seen[0] + rows.start, seen[1] + rows.start, seen[2] + columns.start, seen[3] + columns.start
            face, certainty = found, _certainty(closer, seen)
            if face[1] - face[0] >= looks.enough * looks.zoom * side:
                break
        return Sight(total, size, face, certainty)

    def predict(self, image: np.ndarray, looks: Looks = Looks()) -> tuple[np.ndarray, np.ndarray]:
        """Label map ``(H, W)`` uint8 of a photograph ``(H, W, 3)`` uint8 and its confidence ``(H, W)`` in [0, 1]."""
        return self.look(image, looks).label_map()

    def _framed(self, canvas: np.ndarray, box: tuple[int, int, int], flip: bool) -> tuple[Tensor, slice, slice]:
        """Probabilities of the part of the canvas inside the square ``box``, and its rows and columns there."""
        top, left, side = box
        rows = slice(max(top, 0), min(top + side, canvas.shape[0]))
        columns = slice(max(left, 0), min(left + side, canvas.shape[1]))
        margins = [(rows.start - top, top + side - rows.stop), (columns.start - left, left + side - columns.stop)]
        square = np.pad(canvas[rows, columns], [*margins, (0, 0)], mode="edge")
        shape = (self.config.size,) * 2
        picture = np.array(Image.fromarray(square).resize(shape, Image.Resampling.BICUBIC))
        whole = _resize(self.probabilities(picture[None], flip), (side, side))[0]
        return whole[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left], rows, columns


class Parser(FaceParser):
    """A trained light parser with its trunk.  ``facts`` is what its file says of its training."""

    def __init__(self, network: LightParser, trunk: Trunk, config: ParserConfig, facts: dict | None = None) -> None:
        self.network, self.trunk, self.config, self.facts = network.eval(), trunk, config, facts or {}

    def save(self, path: str | Path) -> None:
        """Write the decoder at half precision with its configuration and ``facts``; the trunk stays in its own file."""
        own = {"network": LightParser.__name__, "trunk": self.trunk.fingerprint, "config": asdict(self.config)}
        save_network(path, self.network, {**self.facts, **own})

    @torch.no_grad()
    def probabilities(self, pictures: np.ndarray, flip: bool = True, tokens: Tensor | None = None) -> Tensor:
        """As of :class:`FaceParser`.  ``tokens`` are the trunk's, where they are known.

        They are ``(B, N, 384)``, with ``flip`` those of the mirrored pictures after them.
        """
        images = to_tensor(pictures)
        if flip:
            images = torch.cat([images, images.flip(-1)])
        if tokens is None:
            tokens = self.trunk(self.trunk.prepare(images))
        probability = self.network(tokens, images).softmax(1)
        if flip:
            straight, mirrored = probability.chunk(2)
            probability = (straight + mirrored.flip(-1)[:, torch.from_numpy(CELEBAMASK.flip)]) / 2
        return probability


class DeepLabParser(FaceParser):
    """A trained network of :mod:`wsfp_helpers.deeplab`, on the GPU where there is one; ``facts`` as of a light one."""

    def __init__(self, network: nn.Module, config: DeepLabConfig, facts: dict | None = None) -> None:
        self.network, self.config, self.facts = network.to(device()).eval(), config, facts or {}

    def save(self, path: str | Path) -> None:
        """Write the network at half precision with its configuration and ``facts``."""
        save_network(path, self.network, {**self.facts, "network": self.config.network, "config": asdict(self.config)})

    def probabilities(self, pictures: np.ndarray, flip: bool = True) -> Tensor:
        """As of :class:`FaceParser`: the mean over ``config.test_scales`` as well."""
        return predict_scales(self.network, pictures, self.config.test_scales, flip)


def find_face(probability: Tensor) -> tuple[float, float, float, float] | None:
    """Box (top, bottom, left, right) of the largest face in ``(19, h, w)``, or ``None`` where there is none."""
    height, width = probability.shape[1:]
    inside = probability[[CELEBAMASK.index(name) for name in FACE]].sum(0)
    if max(height, width) > 200:
        inside = F.interpolate(inside[None, None], scale_factor=200 / max(height, width), mode="area")[0, 0]
    inside = inside.numpy()
    parts, count = ndimage.label(inside > 0.5)
    if not count:
        return None
    largest = parts == 1 + np.argmax(ndimage.sum(inside, parts, range(1, count + 1)))
    if largest.mean() < 0.002:
        return None
    rows, columns = (np.flatnonzero(along > 0.08 * along.max()) for along in (largest.sum(1), largest.sum(0)))
    y, x = height / inside.shape[0], width / inside.shape[1]
    return rows[0] * y, (rows[-1] + 1) * y, columns[0] * x, (columns[-1] + 1) * x


def _certainty(probability: Tensor, face: tuple[float, float, float, float]) -> float:
    """Mean probability of the chosen class in the box ``face`` of ``(19, h, w)`` where that is not the background."""
    top, bottom, left, right = (round(side) for side in face)
    best, index = probability[:, top:bottom, left:right].max(0)
    return best[index > 0].mean().item()


def _feather(along: slice, start: int, side: int, soft: float = 0.08) -> Tensor:
    distance = torch.arange(along.start, along.stop) + 0.5 - start
    return (torch.minimum(distance, side - distance) / (soft * side)).clamp(0, 1)


def load_parser(which: str | Path = "weak", trunk: Trunk | None = None) -> FaceParser:
    """A shipped parser, ``"weak"`` or ``"supervised"``, or one from a file that ``wsfp parser`` wrote.

    Raises :class:`InputError` when the file is missing, truncated, of another network or made for another trunk.
    """
    what = f"parser ({', '.join(SHIPPED)}, or a file of wsfp parser)"
    path = existing_file(SHIPPED.get(str(which), which), what, "parser.safetensors")
    facts = read_facts(path)
    if facts.get("network") == LightParser.__name__:
        return _load_light(path, facts, trunk or load_trunk())
    if facts.get("network") in NETWORKS:
        settings = dict(facts["config"])
        settings |= {name: tuple(settings[name]) for name in ("scale", "test_scales")}
        config = DeepLabConfig(**settings | {"fit": FitConfig(**settings["fit"])})
        network = build_network(config.network)
        load_weights(path, network)
        return DeepLabParser(network, config, facts)
    raise InputError(
        f"{path} holds a {facts.get('network')}: expected a {LightParser.__name__} or one of {', '.join(NETWORKS)}; "
        f"choose the file of a parser"
    )


def _load_light(path: Path, facts: dict, trunk: Trunk) -> Parser:
    if facts["trunk"] != trunk.fingerprint:
        raise InputError(
            f"{path} was trained on the trunk {facts['trunk']}, this one is {trunk.fingerprint}: train again"
        )
    settings = dict(facts["config"])
    settings |= {"augment": AugmentConfig(**settings["augment"]), "fit": FitConfig(**settings["fit"])}
    config = ParserConfig(**settings)
    network = LightParser(config, trunk.width)
    load_weights(path, network)
    return Parser(network, trunk, config, facts)

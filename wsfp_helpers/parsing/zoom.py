"""How a photograph is parsed: as a whole, then closer at the face that was found."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from wsfp_helpers.labels import CELEBAMASK

FACE = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
"""Classes inside the outline of a face: where they are is what a zoom aims at."""
_FACE = [CELEBAMASK.index(name) for name in FACE]
CANVAS = 640
"""Long side in pixels on which the views of a photograph are put together, so that memory does not grow with it."""


@dataclass(frozen=True)
class ZoomSettings:
    """How a photograph is parsed: first as a whole, then zoomed in on the face that was found."""

    face_height: float = 0.7
    """Height of the face in the square of a zoom; 0.7 is the framing of the training pictures."""
    last_height: float = 1.0
    """The same in one more zoom at the end, which sees small parts larger."""
    close_enough: float = 0.7
    """The last zoom follows one that sees a face of at least this part of the height that was aimed at."""
    most: int = 3
    """At most so many zooms before the last: a face that is small in its picture is found step by step."""
    anchor: tuple[float, float] = (0.575, 0.5)
    """Where (y, x) in the square the middle of the face comes to lie: as in CelebA's crops."""
    flip: bool = True
    """The last zoom, or the only view, is the mean with the mirrored picture."""
    weight: float = 0.8
    """Weight of a zoom against what the views before it said."""


Look = Callable[[np.ndarray, bool], Sequence[Tensor]]
"""What answers for pictures ``(B, S, S, 3)`` uint8, with their mirror images or without: class probabilities ``(B, 19,
S, S)`` of each of its parsers."""


Box = tuple[float, float, float, float]
"""Top, bottom, left and right on the canvas."""


@dataclass(frozen=True, eq=False)
class View:
    """A look at a square part of the canvas."""

    probability: Tensor
    """``(19, S, S)`` float32 of the whole square."""
    top: int
    left: int
    side: int
    """The square, which may reach beyond the canvas."""
    rows: slice
    columns: slice
    """What of the canvas lies in the square."""

    def enlarged(self, values: Tensor) -> Tensor:
        """Values ``(k, S, S)`` of the square as ``(k, h, w)`` of the part of the canvas in it."""
        whole = F.interpolate(values[None], (self.side, self.side), mode="bilinear", align_corners=False)[0]
        rows, columns = (
            slice(at.start - start, at.stop - start) for at, start in ((self.rows, self.top), (self.columns, self.left))
        )
        return whole[:, rows, columns]

    def inside(self, box: Box) -> Tensor:
        """Probabilities ``(19, h, w)`` in a box on the canvas, as they were seen."""
        scale = self.probability.shape[1] / self.side
        top, bottom = (max(0, round((y - self.top) * scale)) for y in box[:2])
        left, right = (max(0, round((x - self.left) * scale)) for x in box[2:])
        return self.probability[:, top:bottom, left:right]

    def weight(self) -> Tensor:
        """``(h, w)`` in [0, 1], falling to 0 at the border of the square."""
        return _feather(self.rows, self.top, self.side)[:, None] * _feather(self.columns, self.left, self.side)


@dataclass(frozen=True, eq=False)
class Parsed:
    """What the views of a photograph gave together."""

    views: Sequence[View]
    """As a whole, and closer and closer."""
    zoom: float
    """Weight of a zoom against what the views before it said."""
    size: tuple[int, int]
    """Height and width of the photograph."""
    face: Box | None = None
    """Box (top, bottom, left, right) on the canvas where the closest view saw a face; ``None`` when none did."""

    @cached_property
    def probability(self) -> Tensor:
        """``(19, h, w)`` float32 on a canvas of at most :data:`CANVAS` pixels."""
        whole, *closer = self.views
        total = whole.enlarged(whole.probability)
        for view in closer:
            total[:, view.rows, view.columns].lerp_(view.enlarged(view.probability), self.zoom * view.weight())
        return total

    @property
    def closest(self) -> tuple[Tensor, Tensor]:
        """Of the closest view in the box of the face ``(h, w)``: the largest probability, and its class."""
        return self.views[-1].inside(self.face).max(0) if self.face else (torch.zeros(0), torch.zeros(0))

    @property
    def certainty(self) -> float:
        """Mean probability that the closest view gave to its choice in the face, background left out; 0 without one."""
        best, index = self.closest
        return best[index > 0].mean().item() if self.face else 0.0

    def label_map(self) -> tuple[np.ndarray, np.ndarray]:
        """Classes ``(H, W)`` uint8 and the probability of each ``(H, W)`` float32, as of the enlarged probabilities."""
        return enlarge(self.probability, self.size)


def agree(a: np.ndarray, b: np.ndarray) -> float:
    """F1 of one label map ``(h, w)`` against another: the mean over the classes of either, background left out."""
    classes = len(CELEBAMASK)
    both = np.bincount(a[a == b], minlength=classes)
    either = np.bincount(a.ravel(), minlength=classes) + np.bincount(b.ravel(), minlength=classes)
    parts = either > 0
    parts[0] = False
    return float((2 * both[parts] / either[parts]).mean()) if parts.any() else 0.0


def enlarge(probability: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The most probable class ``(H, W)`` uint8 of probabilities ``(19, h, w)`` enlarged to ``size``, and how probable.

    Between four neighbours of one class that class stays the most probable, so all 19 are enlarged only where
    neighbours differ.
    """
    best, labels, mixed = _decide(probability, size)
    confidence = F.interpolate(best[None, None], size, mode="bilinear", align_corners=False)[0, 0].numpy()
    for place, sure, chosen in _compare(probability, size, mixed):
        labels[place], confidence[place] = chosen, sure
    return labels, confidence


def enlarge_labels(probability: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The first of what :func:`enlarge` gives, in a third of the time."""
    _, labels, mixed = _decide(probability, size)
    for place, _, chosen in _compare(probability, size, mixed):
        labels[place] = chosen
    return labels


def _decide(probability: Tensor, size: tuple[int, int]) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The largest probabilities ``(h, w)``; of the enlarged ones the class where it is known, and where it is not."""
    best, index = probability.max(0)
    classes = index.byte().numpy()
    below, right = (np.minimum(np.arange(count) + 1, count - 1) for count in classes.shape)
    mixed = classes != classes[below]
    mixed |= (classes != classes[:, right]) | mixed[:, right]
    first_row, first_column = (_between(*pair)[0].numpy() for pair in zip(size, classes.shape, strict=True))
    labels, unknown = (values.take(first_column, 1).take(first_row, 0) for values in (classes, mixed))
    return best, labels, unknown


def _compare(
    probability: Tensor, size: tuple[int, int], unknown: np.ndarray, most: int = 100_000
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]]:
    """Places (y, x), the largest enlarged probability there and its class, of all places that are ``unknown``."""
    (height, width), planes = probability.shape[1:], probability.reshape(len(probability), -1)
    (above, below, down), (left, right, across) = _between(size[0], height), _between(size[1], width)
    rows, columns = unknown.nonzero()
    for start in range(0, len(rows), most):
        place = rows[start : start + most], columns[start : start + most]
        y, x = map(torch.from_numpy, place)
        upper, lower = (
            torch.lerp(planes.index_select(1, at + left[x]), planes.index_select(1, at + right[x]), across[x])
            for at in (width * above[y], width * below[y])
        )
        sure, chosen = torch.lerp(upper, lower, down[y]).max(0)
        yield place, sure.numpy(), chosen.byte().numpy()


def _between(wanted: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``wanted`` places: the two of ``count`` places around it, and how far it is from first to second."""
    place = (torch.arange(wanted) + 0.5).mul(count / wanted).sub(0.5).clamp(0, count - 1)
    first = place.long()
    return first, (first + 1).clamp(max=count - 1), place - first


def to_canvas(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A photograph, read at its ``size`` (H, W) or a smaller one, with a long side of at most :data:`CANVAS` pixels.

    ``image`` and the canvas are ``(h, w, 3)`` uint8; the canvas of a small photograph has its ``size``.
    """
    scale = min(1.0, CANVAS / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3))


def parse_canvases(
    look: Look, side: int, canvases: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], settings: ZoomSettings
) -> list[list[Parsed]]:
    """Parse photographs together, each with every parser of ``look``: as a whole, then closer and closer at its face.

    Parsers look at the same places: where the mean of their probabilities sees the face.

    Args:
        look: Answers for pictures ``(B, side, side, 3)`` uint8.
        side: Of the pictures in pixels.
        canvases: Photographs ``(h, w, 3)`` uint8 as :func:`to_canvas` gives them.
        sizes: Height and width of each photograph.
        settings: How to look.

    Returns:
        For each photograph what each parser saw.
    """
    visits = [_visit(canvas, size, settings) for canvas, size in zip(canvases, sizes, strict=True)]
    found: list[list[Parsed]] = [[] for _ in visits]
    waiting = {number: next(visit) for number, visit in enumerate(visits)}
    while waiting:
        mirrored = settings.flip and all(last for _, last in waiting.values())
        ready = [number for number, (_, last) in waiting.items() if last == mirrored or not settings.flip]
        answers = look(np.stack([_cut(canvases[n], waiting[n][0], side) for n in ready]), mirrored)
        for number, answer in zip(ready, zip(*answers, strict=True), strict=True):
            del waiting[number]
            try:
                waiting[number] = visits[number].send(answer)
            except StopIteration as end:
                found[number] = end.value
    return found


Square = tuple[int, int, int]
"""Top, left and side of a square on the canvas, which may reach beyond it."""


def _visit(
    canvas: np.ndarray, size: tuple[int, int], settings: ZoomSettings
) -> Generator[tuple[Square, bool], Sequence[Tensor], list[Parsed]]:
    """Asks for one square after the other, and says whether it is the last; is sent what each parser says of it."""
    height, width = canvas.shape[:2]
    side = max(height, width)
    square = (height - side) // 2, (width - side) // 2, side
    views: list[list[View]] = []

    def closer(face: Box, share: float) -> Square:
        side = max(round((face[1] - face[0]) / share), 16)
        (y0, y1, x0, x1), (down, across) = face, settings.anchor
        return round((y0 + y1) / 2 - down * side), round((x0 + x1) / 2 - across * side), side

    while True:
        answers = yield square, not settings.most
        views.append([_view(answer, square, canvas) for answer in answers])
        here = views[-1][0]
        inside = torch.stack([answer[_FACE].sum(0) for answer in answers]).mean(0)
        seen = find_face(here.enlarged(inside[None])[0])
        top, left = here.rows.start, here.columns.start
        face = None if seen is None else (seen[0] + top, seen[1] + top, seen[2] + left, seen[3] + left)
        if face is None or len(views) > settings.most:
            break
        if len(views) > 1 and face[1] - face[0] >= settings.close_enough * settings.face_height * square[2]:
            break
        square = closer(face, settings.face_height)
    if len(views) == 1:
        face = None
    if face:
        square = closer(face, settings.last_height)
        views.append([_view(answer, square, canvas) for answer in (yield square, True)])
    return [Parsed(each, settings.weight, size, face) for each in zip(*views, strict=True)]


def _view(answer: Tensor, square: Square, canvas: np.ndarray) -> View:
    top, left, side = square
    rows = slice(max(top, 0), min(top + side, canvas.shape[0]))
    columns = slice(max(left, 0), min(left + side, canvas.shape[1]))
    return View(answer, top, left, side, rows, columns)


def _cut(canvas: np.ndarray, square: Square, wanted: int) -> np.ndarray:
    """The square of the canvas as a picture of ``wanted`` pixels; beyond the canvas its border is repeated."""
    (top, left, side), (height, width) = square, canvas.shape[:2]
    down, across = np.arange(top, top + side).clip(0, height - 1), np.arange(left, left + side).clip(0, width - 1)
    picture = canvas.take(down, 0).take(across, 1)
    return np.array(Image.fromarray(picture).resize((wanted, wanted), Image.Resampling.BICUBIC))


class FaceParser:
    """Parses pictures and photographs with a trained ``network``; ``facts`` is what its file says of its training."""

    network: nn.Module
    size: int
    """Side in pixels of what the network sees."""
    facts: dict

    def probabilities(self, pictures: np.ndarray, flip: bool = True) -> Tensor:
        """Class probabilities ``(B, 19, S, S)`` of pictures ``(B, S, S, 3)`` uint8, S being ``size``.

        ``flip``: mean with the mirrored picture, mirrored back and its left and right classes exchanged.
        """
        raise NotImplementedError

    def parse(self, image: np.ndarray, settings: ZoomSettings = ZoomSettings()) -> Parsed:
        """Parse a photograph ``(H, W, 3)`` uint8 of any size: as a whole, then closer and closer at its face."""
        size = image.shape[:2]
        look = lambda pictures, flip: [self.probabilities(pictures, flip)]  # noqa: E731
        return parse_canvases(look, self.size, [to_canvas(image, size)], [size], settings)[0][0]

    def predict(self, image: np.ndarray, settings: ZoomSettings = ZoomSettings()) -> tuple[np.ndarray, np.ndarray]:
        """Label map ``(H, W)`` uint8 of a photograph ``(H, W, 3)`` uint8 and its confidence ``(H, W)`` in [0, 1]."""
        return self.parse(image, settings).label_map()


def find_face(inside: Tensor) -> Box | None:
    """Box (top, bottom, left, right) of the largest face, or ``None`` where there is none.

    ``inside`` ``(h, w)`` in [0, 1] is the probability of :data:`FACE`, all its classes together.
    """
    height, width = inside.shape
    if max(height, width) > 200:
        inside = F.interpolate(inside[None, None], scale_factor=200 / max(height, width), mode="area")[0, 0]
    share = inside.numpy()
    parts, count = ndimage.label(share > 0.5)
    if not count:
        return None
    largest = parts == 1 + np.argmax(ndimage.sum(share, parts, range(1, count + 1)))
    if largest.mean() < 0.002:
        return None
    rows, columns = (np.flatnonzero(along > 0.08 * along.max()) for along in (largest.sum(1), largest.sum(0)))
    y, x = height / share.shape[0], width / share.shape[1]
    return rows[0] * y, (rows[-1] + 1) * y, columns[0] * x, (columns[-1] + 1) * x


def _feather(along: slice, start: int, side: int, soft: float = 0.08) -> Tensor:
    distance = torch.arange(along.start, along.stop) + 0.5 - start
    return (torch.minimum(distance, side - distance) / (soft * side)).clamp(0, 1)

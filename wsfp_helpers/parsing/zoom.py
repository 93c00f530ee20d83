"""How a photograph is parsed: as a whole, then closer at the face that was found."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from wsfp_helpers.labels import CELEBAMASK

FACE = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
"""Classes inside the outline of a face: where they are is what a zoom aims at."""
CANVAS = 640
"""Long side in pixels on which the views of a photograph are put together, so that memory does not grow with it."""


@dataclass(frozen=True)
class ZoomSettings:
    """How a photograph is parsed: first as a whole, then zoomed in on the face that was found."""

    face_height: float = 0.7
    """Height of the face in the square of a zoom; 0.7 is the framing of the training pictures."""
    close_enough: float = 0.7
    """A zoom is the last one when it sees a face of at least this part of the height that was aimed at."""
    most: int = 3
    """At most so many zooms: a face that is small in its picture is found step by step."""
    anchor: tuple[float, float] = (0.575, 0.5)
    """Where (y, x) in the square the middle of the face comes to lie: as in CelebA's crops."""
    flip: bool = True
    """Zooms, or the only view, are the mean with the mirrored picture."""
    weight: float = 0.8
    """Weight of a zoom against what the views before it said."""


@dataclass(frozen=True, eq=False)
class Parsed:
    """What the views of a photograph gave together."""

    probability: Tensor
    """``(19, h, w)`` float32 on a canvas of at most :data:`CANVAS` pixels."""
    size: tuple[int, int]
    """Height and width of the photograph."""
    face: tuple[float, float, float, float] | None = None
    """Box (top, bottom, left, right) on the canvas where the closest view saw a face; ``None`` when none did."""
    certainty: float = 0.0
    """Mean probability that the closest view gave to its choice in the box, background left out; 0 without a face."""

    def label_map(self) -> tuple[np.ndarray, np.ndarray]:
        """Classes ``(H, W)`` uint8 and the probability of each ``(H, W)`` float32, as of the enlarged probabilities.

        Between four neighbours of one class that class stays the most probable, so all 19 are enlarged only where
        neighbours differ.
        """
        (height, width), probability = self.size, self.probability
        labels, confidence = np.empty(self.size, np.uint8), np.empty(self.size, np.float32)
        best, index = probability.max(0)
        rows, columns = _between(height, best.shape[0]), _between(width, best.shape[1])
        corners = torch.stack([index[i][:, j] for i in _pairs(best.shape[0]) for j in _pairs(best.shape[1])])
        mixed, (left, right, across) = (corners != corners[0]).any(0), columns
        step = max(1, 1_000_000 // width)
        for start in range(0, height, step):
            at = slice(start, start + step)
            above, below, down = (each[at] for each in rows)
            strip = torch.lerp(best[above], best[below], down[:, None])
            sure, chosen = torch.lerp(strip[:, left], strip[:, right], across), index[above][:, left]
            y, x = mixed[above][:, left].nonzero(as_tuple=True)
            upper, lower = (
                torch.lerp(probability[:, row[y], left[x]], probability[:, row[y], right[x]], across[x])
                for row in (above, below)
            )
            sure[y, x], chosen[y, x] = torch.lerp(upper, lower, down[y]).max(0)
            labels[at], confidence[at] = chosen.byte().numpy(), sure.numpy()
        return labels, confidence


def _between(wanted: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``wanted`` places: the two of ``count`` places around it, and how far it is from first to second."""
    place = (torch.arange(wanted) + 0.5).mul(count / wanted).sub(0.5).clamp(0, count - 1)
    first = place.long()
    return first, (first + 1).clamp(max=count - 1), place - first


def _pairs(count: int) -> tuple[Tensor, Tensor]:
    first = torch.arange(count)
    return first, (first + 1).clamp(max=count - 1)


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
        scale = min(1.0, CANVAS / max(size))
        height, width = (max(1, round(side * scale)) for side in size)
        canvas = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3))
        side = max(height, width)
        box = (height - side) // 2, (width - side) // 2, side
        total = self._view(canvas, box, settings.flip and not settings.most)[0]
        found, face, certainty = find_face(total), None, 0.0
        for _ in range(settings.most):
            if found is None:
                break
            side = max(round((found[1] - found[0]) / settings.face_height), 16)
            top = round((found[0] + found[1]) / 2 - settings.anchor[0] * side)
            left = round((found[2] + found[3]) / 2 - settings.anchor[1] * side)
            closer, rows, columns = self._view(canvas, (top, left, side), settings.flip)
            weight = settings.weight * _feather(rows, top, side)[:, None] * _feather(columns, left, side)
            total[:, rows, columns].lerp_(closer, weight)
            seen = find_face(closer)
            if seen is None:
                break
            found = seen[0] + rows.start, seen[1] + rows.start, seen[2] + columns.start, seen[3] + columns.start
            face, certainty = found, _certainty(closer, seen)
            if found[1] - found[0] >= settings.close_enough * settings.face_height * side:
                break
        return Parsed(total, size, face, certainty)

    def predict(self, image: np.ndarray, settings: ZoomSettings = ZoomSettings()) -> tuple[np.ndarray, np.ndarray]:
        """Label map ``(H, W)`` uint8 of a photograph ``(H, W, 3)`` uint8 and its confidence ``(H, W)`` in [0, 1]."""
        return self.parse(image, settings).label_map()

    def _view(self, canvas: np.ndarray, box: tuple[int, int, int], flip: bool) -> tuple[Tensor, slice, slice]:
        """Probabilities of the part of the canvas inside the square ``box``, and its rows and columns there."""
        top, left, side = box
        rows = slice(max(top, 0), min(top + side, canvas.shape[0]))
        columns = slice(max(left, 0), min(left + side, canvas.shape[1]))
        margins = [(rows.start - top, top + side - rows.stop), (columns.start - left, left + side - columns.stop)]
        square = np.pad(canvas[rows, columns], [*margins, (0, 0)], mode="edge")
        shape = (self.size,) * 2
        picture = np.array(Image.fromarray(square).resize(shape, Image.Resampling.BICUBIC))
        whole = _enlarge(self.probabilities(picture[None], flip), (side, side))[0]
        return whole[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left], rows, columns


def find_face(probability: Tensor) -> tuple[float, float, float, float] | None:
    """Box (top, bottom, left, right) of the largest face in ``(19, h, w)``, or ``None`` where there is none."""
    height, width = probability.shape[1:]
    inside = probability[[CELEBAMASK.index(name) for name in FACE]].sum(0)
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


def _enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _certainty(probability: Tensor, face: tuple[float, float, float, float]) -> float:
    """Mean probability of the chosen class in the box ``face`` of ``(19, h, w)`` where that is not the background."""
    top, bottom, left, right = (round(side) for side in face)
    best, index = probability[:, top:bottom, left:right].max(0)
    return best[index > 0].mean().item()


def _feather(along: slice, start: int, side: int, soft: float = 0.08) -> Tensor:
    distance = torch.arange(along.start, along.stop) + 0.5 - start
    return (torch.minimum(distance, side - distance) / (soft * side)).clamp(0, 1)

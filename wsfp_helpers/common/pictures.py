"""Pictures and label maps: reading, writing, and the way from uint8 pictures to what a network takes."""

import logging
import os
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image
from torch import Tensor

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import atomic_path, existing_file

# Pillow refuses pictures of twice MAX_IMAGE_PIXELS, and warns of those between: they are read like any other.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Of odd metadata, with a line of Pillow's code: the picture is read, or refused with a sentence of ours.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that are read, whatever a file is called: others of Pillow's start programs (EPS) or hold no photographs."""

_DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is no image, only part of one, or too large."""


class Pictures(Protocol):
    """A list of pictures ``(H, W, 3)`` uint8, or anything like it that reads them one at a time."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> np.ndarray: ...


def read_image(path: str | Path, least: int | None = None, content: bytes | None = None) -> np.ndarray:
    """Read a picture as ``(H, W, 3)`` uint8 RGB with its EXIF orientation applied; 16-bit grey is scaled to 8 bits.

    With ``least`` a JPEG file may come at a half, a quarter or an eighth of its size, which is read so much faster, but
    with at least so many pixels on its shorter side.  With ``content`` these bytes are the file, and ``path`` names it.
    """
    with open_picture(path, least, content) as picture:
        if picture.mode == "F":
            raise InputError(
                f"{path} holds floating-point numbers (mode F), which say nothing of black and white: expected 8 or 16 "
                f"bits; save it as a PNG or JPEG file"
            )
        orientation = _orientation(picture)
        upright = picture.transpose(_TURNS[orientation]) if orientation > 1 else picture
        if upright.mode.startswith("I"):
            upright = Image.fromarray((np.array(upright) >> 8).clip(0, 255).astype(np.uint8))
        return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))  # which copies an RGB one as well


def picture_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a picture as :func:`read_image` gives it, from its header only."""
    existing_file(path, "image")
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return picture.size if _orientation(picture) >= 5 else picture.size[::-1]
    except _DAMAGED as error:
        raise _no_image(path, error) from error


_TURNS = dict(enumerate((
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), 2))  # fmt: skip
"""What brings a picture of each EXIF orientation upright."""


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 to 8; a picture whose metadata are damaged is taken as it is stored."""
    # Not ImageOps.exif_transpose, which reads and writes all other metadata as well and fails on damaged ones.
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except (*_DAMAGED, struct.error, TypeError, LookupError):
        return 1
    return found if type(found) is int and 1 <= found <= 8 else 1


def read_label_map(path: str | Path, classes: int) -> np.ndarray:
    """Read an index PNG as ``(H, W)`` uint8; every value must be below ``classes`` or 255 (= ignored)."""
    with open_picture(path) as picture:
        return as_label_map(picture, classes, path).copy()


def as_label_map(picture: Image.Image, classes: int, path: str | Path) -> np.ndarray:
    """An open index PNG as :func:`read_label_map` gives it, but read-only; ``path`` is for the sentence of an error."""
    check_png(picture.format, path)
    check_mode(picture.mode, path)
    label_map = np.asarray(picture)
    check_label_values(label_map, classes, path)
    return label_map


def check_png(form: str | None, path: str | Path) -> None:
    """Raise :class:`InputError` when an image of the format ``form`` is no PNG: JPEG changes class ids."""
    if form != "PNG":
        raise InputError(
            f"{path} is a {form} file, whatever its name says: expected a PNG, which keeps every class id; write it "
            f"again from the label map that it was made of"
        )


def check_mode(mode: str, path: str | Path) -> None:
    """Raise :class:`InputError` when an image of ``mode`` cannot be a label map."""
    if mode not in ("P", "L"):
        raise InputError(
            f"{path} is a label map of mode {mode}: expected 8-bit indexed or grey (mode P or L), "
            f"one class id a pixel; convert it, for RGB colours by their palette"
        )


def check_label_values(label_map: np.ndarray, classes: int, path: str | Path) -> None:
    """Raise :class:`InputError` when a label map has a value that is neither a class nor 255."""
    if label_map.size == 0 or label_map.max() < classes:
        return
    wrong = np.unique(label_map[(label_map >= classes) & (label_map != 255)])
    if len(wrong):
        raise InputError(
            f"{path} has label value {wrong[0]}: expected class ids 0 to {classes - 1} or 255 (ignored); "
            f"is it of another data set or a picture?"
        )


def write_index_png(path: str | Path, label_map: np.ndarray, palette: np.ndarray) -> None:
    """Write ``(H, W)`` uint8 class ids as an index PNG with ``palette`` ``(C, 3)`` uint8, atomically."""
    # With fewer colours Pillow would pack the ids into 4 bits and turn 255 into 15.
    colours = np.full((256, 3), 215, np.uint8)
    colours[: len(palette)] = palette
    picture = Image.fromarray(np.ascontiguousarray(label_map, np.uint8), mode="P")
    picture.putpalette(colours.tobytes())
    with atomic_path(path) as part:
        picture.save(part, format="PNG", optimize=False)


@contextmanager
def open_picture(path: str | Path, least: int | None = None, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open and decode an image; raises :class:`InputError` naming the file when it is missing or damaged.

    ``least`` and ``content`` as of :func:`read_image`.
    """
    if content is None and not os.path.isfile(path):  # reading a pipe would wait
        existing_file(path, "image")
    with ExitStack() as stack:
        try:
            picture = stack.enter_context(Image.open(path if content is None else BytesIO(content), formats=FORMATS))
            if least is not None:
                picture.draft(None, (least, least))
            picture.load()
        except _DAMAGED as error:
            if content is None:
                existing_file(path, "image")
            raise _no_image(path, error) from error
        yield picture


def _no_image(path: str | Path, error: Exception) -> InputError:
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return InputError(f"{path} has too many pixels: expected at most {most:,}; make the picture smaller")
    return InputError(f"{path} cannot be read as an image ({error}): replace or remove it")


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_tensor(pictures: Iterable[np.ndarray]) -> Tensor:
    """Pictures ``(H, W, 3)`` uint8 of one size as ``(B, 3, H, W)`` float32 in [0, 1]."""
    return torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).float() / 255


def resize(images: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Pictures ``(B, 3, h, w)`` in [0, 1] at ``size`` (H, W), antialiased and kept in [0, 1]."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode=mode, antialias=True).clamp(0, 1)


def normalise(images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Pictures ``(B, 3, H, W)`` in [0, 1] without the ``mean`` and at unit ``std`` of a network's training pictures."""
    centre, spread = (images.new_tensor(values).view(3, 1, 1) for values in (mean, std))
    return (images - centre) / spread


def square(image: np.ndarray) -> np.ndarray:
    """The picture ``(H, W, 3)`` uint8 in the middle of a black square; a square picture stays as it is."""
    height, width = image.shape[:2]
    if height == width:
        return image
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padded = np.zeros((side, side, 3), np.uint8)
    padded[top : top + height, left : left + width] = image
    return padded


def resize_label_map(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Label map ``(h, w)`` uint8 as ``(H, W)`` = ``size``, by the nearest pixel."""
    if label_map.shape == tuple(size):
        return label_map
    return np.array(Image.fromarray(label_map).resize((size[1], size[0]), Image.Resampling.NEAREST))


def flip_image(image: np.ndarray) -> np.ndarray:
    """Mirror an image ``(H, W)`` or ``(H, W, C)`` left to right; classes of a label map are *not* exchanged."""
    return image[:, ::-1].copy()

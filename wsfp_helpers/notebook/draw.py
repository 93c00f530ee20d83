"""Boxes on a picture, with words that do not cover each other."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from wsfp_helpers.detect.base import Box
from wsfp_helpers.notebook.plots import COLOURS

_PAD = 3
"""Pixels of white around a word."""


def draw_boxes(
    image: np.ndarray, boxes: Sequence[Box], words: Sequence[str] | None = None, width: int = 480
) -> np.ndarray:
    """A copy of ``(H, W, 3)`` uint8, ``width`` pixels wide, with each box in its own colour and its words beside it.

    A word stands where it covers least of other words and boxes: above its box, below, or at a side.  Words beginning
    with ``x`` (a rejected candidate) have a thin box.
    """
    scale = width / image.shape[1]
    picture = Image.fromarray(image).resize((width, round(image.shape[0] * scale)), Image.Resampling.BICUBIC)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=width / 22)
    drawn = [tuple(scale * value for value in box) for box in boxes]
    words = words or [""] * len(boxes)
    colours = [ImageColor.getrgb(COLOURS[i % len(COLOURS)]) for i in range(len(boxes))]
    for box, word, colour in zip(drawn, words, colours, strict=True):
        pen.rectangle(box, outline=colour, width=1 if word.startswith("x") else max(2, width // 160))
    taken: list[Box] = []
    for i, (box, word, colour) in enumerate(zip(drawn, words, colours, strict=True)):
        if not word:
            continue
        left, top, right, bottom = pen.textbbox((0, 0), word, font=font)
        size = (right - left + 2 * _PAD, bottom - top + 2 * _PAD)
        others = [*taken * 4, *(other for j, other in enumerate(drawn) if j != i)]  # a word on a word is worst
        places = list(_places(box, size, picture.size))
        place = places[int(np.argmin([sum(_shared(each, other) for other in others) for each in places]))]
        taken.append(place)
        pen.rectangle(place, fill="white")
        pen.text((place[0] + _PAD - left, place[1] + _PAD - top), word, fill=colour, font=font)
    return np.array(picture)


def _places(box: Box, size: tuple[float, float], picture: tuple[int, int]) -> Iterator[Box]:
    """Rectangles of a size beside a box and inside the picture, the best first."""
    (x1, y1, x2, y2), (w, h), gap = box, size, 2
    starts = (
        (x1, y1 - h - gap), (x2 - w, y1 - h - gap), (x1, y2 + gap), (x2 - w, y2 + gap),
        (x2 + gap, y1), (x1 - w - gap, y1), (x2 + gap, y2 - h), (x1 - w - gap, y2 - h),
    )  # fmt: skip
    for x, y in starts:
        x, y = min(max(0, x), picture[0] - w), min(max(0, y), picture[1] - h)
        yield (x, y, x + w, y + h)


def _shared(first: Box, second: Box) -> float:
    """Pixels that two rectangles have in common."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)

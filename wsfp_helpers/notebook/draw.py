"""Boxes on a picture, enlarged so that thin boxes and their words stay readable."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from wsfp_helpers.detect.base import Box
from wsfp_helpers.notebook.plots import COLOURS


def draw_boxes(
    image: np.ndarray, boxes: Sequence[Box], words: Sequence[str] | None = None, width: int = 480
) -> np.ndarray:
    """A copy of ``(H, W, 3)`` uint8, ``width`` pixels wide, with each box in its own colour and its words above it.

    Words beginning with ``x`` (a rejected candidate) have a thin box and stand below it.
    """
    scale = width / image.shape[1]
    picture = Image.fromarray(image).resize((width, round(image.shape[0] * scale)), Image.Resampling.BICUBIC)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=width / 20)
    for i, box in enumerate(boxes):
        colour, word = ImageColor.getrgb(COLOURS[i % len(COLOURS)]), words[i] if words else ""
        x1, y1, x2, y2 = (scale * value for value in box)
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=1 if word.startswith("x") else max(2, width // 160))
        if word:
            place = (x1, min(picture.height - width / 16, y2) if word.startswith("x") else max(0, y1 - width / 16))
            pen.rectangle(pen.textbbox(place, word, font=font), fill="white")
            pen.text(place, word, fill=colour, font=font)
    return np.array(picture)

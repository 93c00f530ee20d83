"""Small parts drawn into their accepted boxes: ellipses, a nose, dark brows, two lips (ours, not the paper's).

A box says where an eye is, and anyone knows that it does not fill the corners.  These shapes are prior knowledge, not
supervision; ``regions.py`` says so, and can do without.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from skimage.draw import ellipse, polygon2mask

from wsfp_helpers.detect.base import Box
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.method.fcam import Fcam

INNER = ("l_eye", "r_eye", "l_brow", "r_brow", "nose", "mouth")
"""Components between which there is skin: the hull of their boxes is the inner face."""
ON_SKIN = ("skin", *INNER, "u_lip", "l_lip", "l_ear", "r_ear", "neck")
"""What skin divides into where there are no boxes: the neck as well."""
NOSE = ((0.0, 0.4), (0.0, 0.6), (0.6, 0.95), (0.75, 1.0), (1.0, 0.9), (1.0, 0.1), (0.75, 0.0), (0.6, 0.05))
"""Outline of a nose in its box: down and across, as shares of the box."""
DARK = 0.6
"""Share of a brow's box that is brow: its darkest pixels."""
CLOSED, OPEN, WIDE = 0.45, (0.28, 0.63), 0.75
"""Where the lips meet, as a share of the mouth's box from above; from where to where an open mouth is between them, and
its width."""


def draw_parts(
    regions: np.ndarray, grey: np.ndarray, classes: Sequence[int], boxes: Mapping[str, Box], shapes: bool = True
) -> np.ndarray:
    """A copy of the label map ``(H, W)`` with the small parts drawn into their boxes.

    Args:
        regions: Class ids ``(H, W)`` uint8 of the regions.
        grey: The picture ``(H, W)`` in [0, 1].
        classes: Components ``(P,)`` that the image-level label names; others are not drawn.
        boxes: Accepted box (x1, y1, x2, y2) in pixels by component.
        shapes: Draws shapes; without it every part fills its box, in the order nose, brows, eyes, mouth.
    """
    drawn, present = regions.copy(), {COMPONENTS[k] for k in classes}
    skin = np.isin(regions, [COMPONENTS.index("skin") + 1, COMPONENTS.index("neck") + 1])

    def draw(name: str, mask: np.ndarray) -> None:
        if name in present:
            drawn[mask] = COMPONENTS.index(name) + 1

    for name in ("l_ear", "r_ear", "nose", "l_brow", "r_brow", "l_eye", "r_eye"):
        if name not in boxes:
            continue
        inside = _filled(boxes[name], drawn.shape)
        if name.endswith("ear"):
            inside &= skin
        elif shapes and name == "nose":
            inside = _polygon(boxes[name], drawn.shape)
        elif shapes and name.endswith("brow") and inside.any():
            inside &= grey <= np.quantile(grey[inside], DARK)
        elif shapes and name.endswith("eye"):
            inside = _oval(boxes[name], drawn.shape)
        draw(name, inside)
    if "mouth" in boxes:
        x1, y1, x2, y2 = boxes["mouth"]
        mouth = _oval(boxes["mouth"], drawn.shape) if shapes else _filled(boxes["mouth"], drawn.shape)
        rows, columns = np.indices(drawn.shape) + 0.5
        down, across = (rows - y1) / (y2 - y1), (columns - (x1 + x2) / 2) / ((x2 - x1) / 2)
        meet = sum(OPEN) / 2 if "mouth" in present else CLOSED
        draw("u_lip", mouth & (down < meet))
        draw("l_lip", mouth & (down >= meet))
        half = np.sqrt((1 - (across / WIDE) ** 2).clip(0)) * (OPEN[1] - OPEN[0]) / 2
        draw("mouth", mouth & (np.abs(down - meet) < half))
    return drawn


def draw_parts_by_maps(regions: np.ndarray, fcam: Fcam) -> np.ndarray:
    """A copy of the label map ``(H, W)`` where skin is divided among :data:`ON_SKIN` by their strongest FCAM."""
    rivals = [i for i, k in enumerate(fcam.classes) if COMPONENTS[k] in ON_SKIN]
    if not rivals:
        return regions.copy()
    strongest = fcam.classes[rivals][fcam.maps(regions.shape)[rivals].argmax(0)] + 1
    return np.where(regions == COMPONENTS.index("skin") + 1, strongest, regions).astype(np.uint8)


def _filled(box: Box, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    x1, y1, x2, y2 = (max(round(edge), 0) for edge in box)
    mask[y1:y2, x1:x2] = True
    return mask


def _oval(box: Box, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    x1, y1, x2, y2 = box
    mask[ellipse((y1 + y2 - 1) / 2, (x1 + x2 - 1) / 2, max((y2 - y1) / 2, 1), max((x2 - x1) / 2, 1), shape)] = True
    return mask


def _polygon(box: Box, shape: tuple[int, ...]) -> np.ndarray:
    x1, y1, x2, y2 = box
    return polygon2mask(shape, [(y1 + down * (y2 - y1) - 0.5, x1 + across * (x2 - x1) - 0.5) for down, across in NOSE])

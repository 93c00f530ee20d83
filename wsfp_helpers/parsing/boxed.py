"""Pseudo labels that respect the boxes of CCD: what the shipped weak parser learns from (an addition to the paper).

The FCAMs say well what belongs to the head and badly which small part is where: in the embedded world the maps of eyes
lie over the brows.  CCD has already asked a detector where those parts are (section 3.3).  Here an accepted box
(Eq. 1) settles its component, and the FCAMs settle the rest.  No label map is looked at.
"""

from collections.abc import Mapping

import numpy as np
from skimage.morphology import convex_hull_image

from wsfp_helpers.detect.base import BOX_CLASSES
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.method.fcam import Fcam

INNER = ("l_eye", "r_eye", "l_brow", "r_brow", "nose", "mouth")
"""Components between which there is skin: the hull of their boxes is the inner face."""
ON_SKIN = ("skin", "eye_g")


def boxed_label(fcam: Fcam, boxes: Mapping[str, tuple[float, float, float, float]], theta: float = 0.5) -> np.ndarray:
    """Pseudo label ``(H, W)`` uint8 from the maps of one face and its accepted boxes (x1, y1, x2, y2) by component.

    Inside the box of a component its classes (for the mouth the lips as well) compete with each other only; outside
    they do not occur.  Between the boxes of the inner face there is skin or glasses.  Everywhere else the
    strongest map wins, or the background where no map exceeds ``theta`` (``method/pseudo.py``).
    Classes that the image-level label does not name do not occur, with or without a box.
    """
    maps = fcam.maps()
    size, place = maps.shape[1:], {COMPONENTS[k]: i for i, k in enumerate(fcam.classes)}
    areas = {name: _area(box, size) for name, box in boxes.items()}
    rows = {name: [place[part] for part in BOX_CLASSES.get(name, (name,)) if part in place] for name in areas}
    areas = {name: area for name, area in areas.items() if rows[name]}
    inner = [areas[name] for name in INNER if name in areas]
    forced, strength = np.zeros(size, bool), maps.copy()
    if len(inner) > 1 and "skin" in place:
        forced = convex_hull_image(np.any(inner, 0))
        strength[[place[name] for name in ON_SKIN if name in place]] += forced
    for name, area in areas.items():
        strength[rows[name]] = np.where(area, maps[rows[name]] + 2, 0)
        forced |= area
    seen = (forced | (maps.max(0) > theta)) & (strength.max(0) > 0)
    return np.where(seen, np.asarray(fcam.classes)[strength.argmax(0)] + 1, 0).astype(np.uint8)


def _area(box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    x1, y1, x2, y2 = box
    area = np.zeros(size, bool)
    area[max(round(y1), 0) : round(y2), max(round(x1), 0) : round(x2)] = True
    return area

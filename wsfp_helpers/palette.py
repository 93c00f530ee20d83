"""The 19-colour palette of label maps, and how it looks under colour vision deficiencies."""

import numpy as np

from wsfp_helpers.labels import CELEBAMASK, LAPA, Scheme, to_lapa_table

DEFICIENCIES = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""Matrices on linear RGB for complete deficiencies (Machado, Oliveira and Fernandes 2009, severity 1.0)."""


IGNORED_COLOUR = (215, 215, 215)
"""Colour of pixels with label 255."""


def simulate_deficiency(rgb: np.ndarray, kind: str) -> np.ndarray:
    """How colours ``(..., 3)`` uint8 sRGB look to a person with ``kind`` of :data:`DEFICIENCIES`; uint8 again."""
    s = np.asarray(rgb) / 255
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(DEFICIENCIES[kind]).T, 0, 1)
    s = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(s * 255).astype(np.uint8)


PALETTE = np.array([
    (0, 0, 0),  # background
    (248, 214, 186),  # skin
    (218, 124, 65),  # nose
    (9, 30, 90),  # eye_g
    (13, 134, 246),  # l_eye
    (0, 204, 206),  # r_eye
    (110, 60, 160),  # l_brow
    (147, 118, 191),  # r_brow
    (255, 255, 93),  # l_ear
    (167, 187, 20),  # r_ear
    (88, 8, 26),  # mouth
    (194, 36, 52),  # u_lip
    (233, 139, 168),  # l_lip
    (90, 51, 15),  # hair
    (16, 127, 71),  # hat
    (230, 245, 255),  # ear_r
    (9, 243, 132),  # neck_l
    (185, 130, 105),  # neck
    (80, 105, 135),  # cloth
], np.uint8)  # fmt: skip
"""``(19, 3)`` uint8 in the order of CELEBAMASK, found by ``scripts/make_palette.py``: CIEDE2000 of at least 16 between
neighbours and 8 between any two colours, :data:`IGNORED_COLOUR` among them, in normal vision and three deficiencies."""

# Background first: the classes that LaPa lacks are mapped to 0 as well, and must not give it their colour.
LAPA_PALETTE = np.stack([PALETTE[np.flatnonzero(to_lapa_table() == k)[0]] for k in range(len(LAPA))])
"""``(11, 3)`` uint8: the same part in the same place of the picture has the same colour as in :data:`PALETTE`."""


def palette(scheme: Scheme = CELEBAMASK) -> np.ndarray:
    """Colours ``(C, 3)`` uint8 of a scheme's classes."""
    return {CELEBAMASK.name: PALETTE, LAPA.name: LAPA_PALETTE}[scheme.name]


def paint(label_map: np.ndarray, scheme: Scheme = CELEBAMASK) -> np.ndarray:
    """Colours ``(H, W, 3)`` uint8 of a label map ``(H, W)`` uint8; 255 (and any value that is no class) is grey."""
    colours = np.full((256, 3), IGNORED_COLOUR, np.uint8)
    colours[: len(scheme)] = palette(scheme)
    return colours[label_map]

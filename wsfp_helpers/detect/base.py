"""What every detector is: a picture and an unsided phrase in, candidate boxes by falling score out."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from wsfp_helpers.common.errors import InputError

PHRASES = ("eye", "eyebrow", "ear", "nose", "mouth")
"""The unsided components of paper 3.3.  No detector can tell a left from a right one: that is Eq. 1's work."""

DETECTORS = ("embedded", "groundingdino", "groundingdino-py")
"""Detectors that a profile can name."""

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels, ``x2`` and ``y2`` exclusive; the paper writes (h1, w1, h2, w2)."""


class Detection(NamedTuple):
    """One candidate: its box in pixels, its score in [0, 1] and the phrase that it answers."""

    box: Box
    score: float
    phrase: str


Candidates = dict[str, list[Detection]]
"""Candidates of one picture by phrase, each list by falling score."""


class Detector(Protocol):
    """Finds components of a face by their unsided phrases."""

    @property
    def name(self) -> str:
        """What the boxes file calls it."""

    @property
    def phrases(self) -> tuple[str, ...] | None:
        """Phrases that it knows; ``None``: any words."""

    def __call__(self, image: np.ndarray, phrase: str) -> list[Detection]:
        """Candidates for ``phrase`` in a picture ``(H, W, 3)`` uint8, by falling score; often several, or none."""

    def detect_batch(self, images: Sequence[np.ndarray], phrases: Sequence[str] = PHRASES) -> list[Candidates]:
        """The same for many pictures and phrases at once."""


def check_phrase(detector: Detector, phrase: str) -> None:
    """Raise :class:`InputError` for an empty phrase, or one that the detector was not trained for."""
    if not phrase.strip(" ."):
        raise InputError("empty phrase: a detector needs the words of a component, such as 'eye'")
    if detector.phrases is not None and phrase not in detector.phrases:
        raise InputError(
            f"the {detector.name} detector does not know {phrase!r}: expected one of {', '.join(detector.phrases)} "
            f"(without left or right; Eq. 1 finds the side); Grounding DINO takes any words"
        )


def clip_box(box: Sequence[float], height: int, width: int) -> Box | None:
    """The part of a box inside the picture as plain floats, or ``None`` when nothing of it is."""
    x1, y1, x2, y2 = (float(v) for v in box)
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


BOX_CLASSES = {
    "nose": ("nose",), "l_eye": ("l_eye",), "r_eye": ("r_eye",), "l_brow": ("l_brow",), "r_brow": ("r_brow",),
    "l_ear": ("l_ear",), "r_ear": ("r_ear",), "mouth": ("mouth", "u_lip", "l_lip"),
}  # fmt: skip
"""The eight components that CCD may mask (paper 3.3) and the classes that the box of each covers."""

PHRASE_OF = {name: {"l_brow": "eyebrow", "r_brow": "eyebrow"}.get(name, name.removeprefix("l_").removeprefix("r_"))
          for name in BOX_CLASSES}  # fmt: skip
"""The unsided phrase that a detector is asked for each of them."""

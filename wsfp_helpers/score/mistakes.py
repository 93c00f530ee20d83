"""Three mistakes of the field, told from label maps alone.

Sides exchanged (named from the other viewpoint), pictures mirrored without exchanging the classes, and the other order
of the 19 classes that is in circulation.  Where parts lie says which: on a set of faces brows are above eyes, and one
eye is right of the other.
"""

from dataclasses import dataclass

import numpy as np

from wsfp_helpers.labels import CELEBAMASK, Scheme

OTHER_ORDER = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r", "nose", "mouth",
    "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
"""The order of face-parsing.PyTorch, and of what was trained or converted with it."""
ABOVE = (
    ("l_brow", "l_eye"), ("r_brow", "r_eye"), ("l_brow", "nose"), ("r_brow", "nose"), ("l_eye", "nose"),
    ("r_eye", "nose"), ("nose", "u_lip"), ("u_lip", "l_lip"), ("hair", "neck"), ("hair", "nose"), ("l_lip", "neck"),
)  # fmt: skip
"""Pairs of parts of which the first is above the second in an upright face."""
FEWEST = 4
"""Maps with evidence below which nothing is said."""


@dataclass(frozen=True)
class Look:
    """Where the parts of one label map lie.

    ``sides`` is whether most left and right parts are on their side (``None``: none to see); ``heights`` are the shares
    of :data:`ABOVE` that hold, in the scheme's own order and in :data:`OTHER_ORDER`.
    """

    sides: bool | None
    heights: tuple[float, float] | None


def look(label_map: np.ndarray, scheme: Scheme = CELEBAMASK) -> Look:
    """Look at a label map ``(H, W)`` uint8; parts that lie scattered over each other tell nothing."""
    step = max(1, min(label_map.shape) // 128)
    label_map = label_map[::step, ::step]
    label_map = np.minimum(label_map, len(scheme))
    across, down = (_places(each, len(scheme) + 1) for each in (label_map, label_map.T))
    rights = [
        (gap > 0) == (scheme.picture_half(a) == "right")
        for a, b in scheme.pairs
        if (gap := _gap(across, scheme.index(b), scheme.index(a)))
    ]
    sides = None if 2 * sum(rights) == len(rights) else 2 * sum(rights) > len(rights)
    if scheme is not CELEBAMASK:
        return Look(sides, None)
    shares = []
    for order in (scheme.classes, OTHER_ORDER):
        falls = [gap > 0 for a, b in ABOVE if (gap := _gap(down, order.index(a), order.index(b)))]
        shares += [sum(falls) / len(falls)] if falls else []
    return Look(sides, (shares[0], shares[1]) if len(shares) == 2 else None)


def _places(label_map: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the column, as a share of the width, by class; NaN for one that is not there."""
    width = label_map.shape[1]
    joint = label_map * np.intp(width) + np.arange(width)
    counts = np.bincount(joint.reshape(-1), minlength=classes * width).reshape(classes, width)
    x = np.arange(width) / width
    with np.errstate(invalid="ignore"):
        total = counts.sum(1)
        mean = counts @ x / total
        return mean, np.sqrt(np.maximum(counts @ x**2 / total - mean**2, 0))


def _gap(places: tuple[np.ndarray, np.ndarray], a: int, b: int) -> float:
    """From the centre of class ``a`` to that of ``b``; 0 where they overlap too much to tell, or one is missing."""
    mean, spread = places
    gap = mean[b] - mean[a]
    return float(gap) if abs(gap) > (spread[a] + spread[b]) / 2 else 0.0


@dataclass
class Looks:
    """Where the parts of all label maps of a set lie: sums, whatever their number."""

    right: int = 0
    wrong: int = 0
    """Maps with most left and right parts on their side, and on the other one."""
    upright: int = 0
    """Maps with :attr:`Look.heights`."""
    heights: tuple[float, float] = (0.0, 0.0)
    """Sums of theirs."""

    def add(self, seen: Look) -> None:
        """Count one more label map."""
        self.right += seen.sides is True
        self.wrong += seen.sides is False
        if seen.heights is not None:
            self.upright += 1
            self.heights = (self.heights[0] + seen.heights[0], self.heights[1] + seen.heights[1])

    def mistakes(self, what: str) -> list[str]:
        """A sentence with its evidence for each mistake that the maps called ``what`` show."""
        if self.upright >= FEWEST:
            own, other = (total / self.upright for total in self.heights)
            if other > own + 0.2:
                return [
                    f"warning: {what} look as if they had the other order of the 19 classes (skin, l_brow, r_brow, "
                    f"l_eye, ..., hair, hat): brows, eyes, nose, lips, hair and neck are above each other as in a face "
                    f"in {100 * other:.0f} % of cases when read so, and in {100 * own:.0f} % as they are; renumber them"
                ]
        sides = self.right + self.wrong
        if sides < FEWEST or self.wrong < 0.1 * sides:
            return []
        if self.wrong > 0.9 * sides:
            return [
                f"warning: {what} have left and right exchanged: in {self.wrong:,} of {sides:,} the left parts are on "
                f"the side of the right ones; name sides from the subject in 19 classes and from the viewer in 11"
            ]
        return [
            f"warning: {what} look as if some were mirrored without exchanging left and right classes: in "
            f"{self.wrong:,} of {sides:,} the left parts are on the side of the right ones, in the others not; "
            f"exchange the classes when a map is mirrored"
        ]

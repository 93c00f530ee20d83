"""Three mistakes of the field, told from label maps alone.

Sides exchanged (named from the other viewpoint), pictures mirrored without exchanging the classes, and the other order
of the 19 classes that is in circulation.  Where parts lie says which: on a set of faces brows are above eyes, and one
eye is right of the other.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wsfp_helpers.labels import CELEBAMASK, Scheme
from wsfp_helpers.score.confusion import runs

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
    across, down = _places(np.minimum(label_map[::step, ::step], len(scheme)), len(scheme) + 1)
    right = scheme.picture_half(scheme.pairs[0][0]) == "right"
    rights = [(gap > 0) == right for a, b in _ids(scheme.pairs, scheme.classes) if (gap := _gap(across, b, a))]
    sides = None if 2 * sum(rights) == len(rights) else 2 * sum(rights) > len(rights)
    if scheme is not CELEBAMASK:
        return Look(sides, None)
    shares = []
    for order in (scheme.classes, OTHER_ORDER):
        falls = [gap > 0 for a, b in _ids(ABOVE, order) if (gap := _gap(down, a, b))]
        shares += [sum(falls) / len(falls)] if falls else []
    return Look(sides, (shares[0], shares[1]) if len(shares) == 2 else None)


@lru_cache
def _ids(pairs: tuple[tuple[str, str], ...], order: tuple[str, ...]) -> list[tuple[int, int]]:
    return [(order.index(a), order.index(b)) for a, b in pairs]


_Places = tuple[list[float], list[float]]
"""Mean and standard deviation by class of where its pixels lie along one axis; NaN for one that is not there."""


def _places(label_map: np.ndarray, classes: int) -> tuple[_Places, _Places]:
    """Where the classes lie across and down, as shares of width and height."""
    height, width = label_map.shape
    starts, lengths = runs(label_map)
    labels, (row, first) = label_map.reshape(-1)[starts].astype(np.intp), np.divmod(starts, width)

    def summed(weights: np.ndarray) -> np.ndarray:
        return np.bincount(labels, weights, minlength=classes)

    def along(centre: np.ndarray, spread: np.ndarray, size: int) -> _Places:
        # Of n numbers in steps of 1 the variance is (n^2 - 1) / 12.
        mean = summed(lengths * centre) / total
        variance = summed(lengths * (centre**2 + spread)) / total - mean**2
        return (mean / size).tolist(), (np.sqrt(np.maximum(variance, 0)) / size).tolist()

    with np.errstate(invalid="ignore"):
        total = summed(lengths)
        across = along(first + (lengths - 1) / 2, (lengths**2 - 1) / 12, width)
        return across, along(row, np.zeros(1), height)


def _gap(places: _Places, a: int, b: int) -> float:
    """From the centre of class ``a`` to that of ``b``; 0 where they overlap too much to tell, or one is missing."""
    mean, spread = places
    gap = mean[b] - mean[a]
    return gap if abs(gap) > (spread[a] + spread[b]) / 2 else 0.0


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

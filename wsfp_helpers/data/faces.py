"""Pictures with label maps: for reports, the upper bound and evaluation.  Nothing in ``method/`` can import this."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from wsfp_helpers.common.pictures import check_label_values
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK, Scheme


@dataclass(frozen=True, eq=False)
class Faces:
    """Pictures, image-level labels and label maps.  A training stage is given ``weak`` and nothing else."""

    weak: WeakFaces
    read_map: Callable[[str], np.ndarray]
    """From an id to its label map ``(H, W)`` uint8 in ``scheme`` (255 = ignored)."""
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Columns ``(n,)`` of facts about each image."""
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Names of groups ``(n,)``, one an image, by what they are groups of: for results by group."""
    scored: tuple[str, ...] | None = None
    """Classes of the mean F1 where the label maps outline only some of them (``None``: all)."""

    def __len__(self) -> int:
        return len(self.weak)

    @property
    def name(self) -> str:
        """Name of the set."""
        return self.weak.name

    @property
    def ids(self) -> Sequence[str]:
        """Unique names, one a picture."""
        return self.weak.ids

    @property
    def labels(self) -> np.ndarray:
        """Image-level labels ``(n, K)`` uint8."""
        return self.weak.labels

    @property
    def licence(self) -> str:
        """One line."""
        return self.weak.licence

    @property
    def scheme(self) -> Scheme:
        """Classes of labels and label maps."""
        return self.weak.scheme

    def image(self, index: int) -> np.ndarray:
        """Picture ``(H, W, 3)`` uint8 RGB."""
        return self.weak.image(index)

    def label_map(self, index: int) -> np.ndarray:
        """Label map ``(H, W)`` uint8; raises :class:`InputError` for a value that is neither a class nor 255."""
        label_map = self.read_map(self.ids[index])
        check_label_values(label_map, len(self.scheme), f"{self.name}: the label map of {self.ids[index]}")
        return label_map

    def subset(self, indices: ArrayLike) -> "Faces":
        """The same set with only the images at ``indices`` ``(m,)``, in that order."""
        chosen = np.asarray(indices, int)
        columns = [{key: column[chosen] for key, column in some.items()} for some in (self.attributes, self.groups)]
        return replace(self, weak=self.weak.subset(chosen), attributes=columns[0], groups=columns[1])


def present_classes(label_map: np.ndarray, scheme: Scheme = CELEBAMASK, minimum: int = 1) -> np.ndarray:
    """Image-level labels ``(K,)`` uint8 of a label map: a class is present from ``minimum`` pixels on."""
    counts = np.bincount(label_map.ravel(), minlength=256)
    return (counts[1 : len(scheme)] >= minimum).astype(np.uint8)


@cache
def announce(licence: str) -> None:
    """Print the licence line of a research-only data set, once a session."""
    print(licence)

"""Pictures with image-level labels: all that stages 1-5 may see."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.labels import CELEBAMASK, Scheme


@dataclass(frozen=True, eq=False)
class WeakFaces:
    """Pictures and their image-level labels.  There is no way from here to a label map.

    Raises:
        InputError: There are no images, an id comes twice, or the label table has another shape.
    """

    name: str
    ids: Sequence[str]
    """Unique names, one a picture."""
    read: Callable[[str], np.ndarray]
    """From an id to its picture ``(H, W, 3)`` uint8 RGB."""
    labels: np.ndarray
    """Image-level labels ``(n, K)`` uint8: 1 where class k + 1 of the scheme is present."""
    scheme: Scheme = CELEBAMASK
    licence: str = ""
    """One line."""
    framed: bool = True
    """Whether every face fills its picture as in CelebA-HQ, so that a parser need not look for it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))
        object.__setattr__(self, "labels", np.asarray(self.labels, np.uint8))
        if not self.ids:
            raise InputError(f"{self.name} has no images: check the folder and the split")
        if len(set(self.ids)) != len(self.ids):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise InputError(f"{self.name} lists the id {twice!r} twice: remove the duplicate")
        if self.labels.shape != (expected := (len(self.ids), len(self.scheme) - 1)):
            raise InputError(f"{self.name}: the label table has shape {self.labels.shape}, expected {expected}")

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Picture ``(H, W, 3)`` uint8 RGB."""
        return self.read(self.ids[index])

    def subset(self, indices: ArrayLike) -> "WeakFaces":
        """The same set with only the images at ``indices`` ``(m,)``, in that order."""
        chosen = np.asarray(indices, int)
        return replace(self, ids=[self.ids[i] for i in chosen], labels=self.labels[chosen])


def uniform_subset(n: int, count: int) -> np.ndarray:
    """``(count,)`` indices spread evenly over ``n`` sorted images: ``floor(i * n / count)`` (docs/design.md, 6.1)."""
    if not 0 < count <= n:
        raise InputError(f"a subset of {count} images was asked for: expected 1 to {n}, the size of the split")
    return np.arange(count) * n // count

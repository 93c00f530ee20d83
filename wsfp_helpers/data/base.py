"""One interface for every data set: pictures, image-level labels and, where they exist, label maps."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Self

import numpy as np

from wsfp_helpers.labels import CELEBAMASK, Scheme
from wsfp_helpers.storage import InputError, check_label_values


class WeakFaces:
    """Pictures and their image-level labels: all that stages 1-5 may see.

    ``ids`` are unique names, ``read(id)`` gives a picture ``(H, W, 3)`` uint8 RGB, ``labels`` is the table of
    image-level labels ``(n, K)`` uint8 (1 = present, column k = class k + 1 of ``scheme``), ``licence`` one line.
    There is no way from here to a label map.
    """

    def __init__(
        self,
        name: str,
        ids: Sequence[str],
        read: Callable[[str], np.ndarray],
        labels: np.ndarray,
        scheme: Scheme = CELEBAMASK,
        licence: str = "",
    ) -> None:
        self.name, self.ids, self.scheme, self.licence = name, tuple(ids), scheme, licence
        self.labels = np.asarray(labels, np.uint8)
        self._read = read
        if not self.ids:
            raise InputError(f"{name} has no images: check the folder and the split")
        if len(set(self.ids)) != len(self.ids):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise InputError(f"{name} lists the id {twice!r} twice: remove the duplicate")
        if self.labels.shape != (len(self.ids), len(scheme) - 1):
            raise InputError(
                f"{name}: the label table has shape {self.labels.shape}, expected {(len(self.ids), len(scheme) - 1)}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Picture ``(H, W, 3)`` uint8 RGB."""
        return self._read(self.ids[index])

    def subset(self, indices: Sequence[int]) -> Self:
        """The same set with only the images at ``indices``, in that order."""
        indices = np.asarray(indices, int)
        return type(self)(
            self.name, [self.ids[i] for i in indices], self._read, self.labels[indices], self.scheme, self.licence
        )


class Faces(WeakFaces):
    """Pictures with label maps: for the statistics of a report, the parser's upper bound, and evaluation.

    ``read_map(id)`` gives the label map ``(H, W)`` uint8 in ``scheme`` (255 = ignored); ``attributes`` are columns
    of facts about each image, used for results by group.
    """

    def __init__(
        self,
        name: str,
        ids: Sequence[str],
        read: Callable[[str], np.ndarray],
        labels: np.ndarray,
        scheme: Scheme = CELEBAMASK,
        licence: str = "",
        *,
        read_map: Callable[[str], np.ndarray],
        attributes: Mapping[str, Sequence] | None = None,
    ) -> None:
        super().__init__(name, ids, read, labels, scheme, licence)
        self._read_map = read_map
        self.attributes = {key: np.asarray(column) for key, column in (attributes or {}).items()}

    def label_map(self, index: int) -> np.ndarray:
        """Label map ``(H, W)`` uint8; raises :class:`InputError` for a value that is neither a class nor 255."""
        label_map = self._read_map(self.ids[index])
        check_label_values(label_map, len(self.scheme), f"{self.name}: the label map of {self.ids[index]}")
        return label_map

    def subset(self, indices: Sequence[int]) -> Self:
        """The same set with only the images at ``indices``, in that order."""
        indices = np.asarray(indices, int)
        attributes = {key: column[indices] for key, column in self.attributes.items()}
        return type(self)(
            self.name, [self.ids[i] for i in indices], self._read, self.labels[indices], self.scheme, self.licence,
            read_map=self._read_map, attributes=attributes,
        )  # fmt: skip

    def weak(self) -> WeakFaces:
        """Pictures and image-level labels only: what a training stage is given."""
        return WeakFaces(self.name, self.ids, self._read, self.labels, self.scheme, self.licence)


def present_classes(label_map: np.ndarray, scheme: Scheme = CELEBAMASK, minimum: int = 1) -> np.ndarray:
    """Image-level labels ``(K,)`` uint8 of a label map: a class is present from ``minimum`` pixels on."""
    counts = np.bincount(label_map.ravel(), minlength=256)
    return (counts[1 : len(scheme)] >= minimum).astype(np.uint8)


def uniform_subset(n: int, count: int) -> np.ndarray:
    """``(count,)`` indices spread evenly over ``n`` sorted images: ``floor(i * n / count)`` (design notes 6.1)."""
    if not 0 < count <= n:
        raise InputError(f"a subset of {count} images was asked for: expected 1 to {n}, the size of the split")
    return np.arange(count) * n // count


@cache
def announce(licence: str) -> None:
    """Print the licence line of a research-only data set, once a session."""
    print(licence)

"""Statistics of image-level labels: which components are always there together (paper 3.1, Fig. 1 c).

All functions work on a table of image-level labels ``(n, K)`` or on the counts ``(K, K)`` of images that have class k
*and* class l (class k alone on the diagonal), so a set of which only counts are published can be compared too.  They
raise ``ValueError`` for a table that cannot be one.
"""

import numpy as np


def joint_counts(labels: np.ndarray) -> np.ndarray:
    """Fig. 1: images that have both classes ``(K, K)`` int64, from image-level labels ``(n, K)`` of 0 and 1."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"expected a table of image-level labels (n, K) of 0 and 1, got shape {labels.shape}")
    return labels.T.astype(np.int64) @ labels.astype(np.int64)


def class_frequency(counts: np.ndarray, n: int) -> np.ndarray:
    """Share of the ``n`` images that have each class, P(k), ``(K,)`` in [0, 1]."""
    return np.diagonal(_checked(counts, n)) / n


def conditional(counts: np.ndarray) -> np.ndarray:
    """P(l | k), row k and column l, ``(K, K)`` in [0, 1]: of the images that have k, the share that also has l.

    1 on the diagonal; NaN in the row of a class that no image has.
    """
    counts = _checked(counts)
    alone = np.diagonal(counts)[:, None]
    return np.divide(counts, alone, out=np.full(counts.shape, np.nan), where=alone > 0)


def lift(counts: np.ndarray, n: int) -> np.ndarray:
    """P(k, l) / (P(k) P(l)), ``(K, K)``: 1 when independent, above 1 when the classes attract each other.

    A class that every image has gets 1 with all others, however often they come together: frequency tells the image
    nothing, and only lift shows that.  NaN where a class is absent.
    """
    counts = _checked(counts, n)
    expected = np.outer(np.diagonal(counts), np.diagonal(counts)) / n
    return np.divide(counts, expected, out=np.full(counts.shape, np.nan), where=expected > 0)


def mean_conditional(counts: np.ndarray) -> float:
    """One number for co-occurrence: the mean of P(l | k) over all pairs of different classes, in [0, 1]."""
    table = conditional(counts)
    return float(np.nanmean(table[~np.eye(len(table), dtype=bool)]))


def label_information(frequency: np.ndarray) -> np.ndarray:
    """Bits that one label carries, ``(K,)`` in [0, 1]: the binary entropy of P(k); 0 for a class in all images."""
    p = np.asarray(frequency, float)
    q = 1 - p
    return -(p * np.log2(p, out=np.zeros_like(p), where=p > 0) + q * np.log2(q, out=np.zeros_like(q), where=q > 0))


def label_set_entropy(labels: np.ndarray) -> float:
    """Bits that the whole label set of an image carries: the entropy of the distinct rows of ``(n, K)``.

    At most the sum of :func:`label_information`, with equality when classes are independent, and at most log2(n),
    which is what bounds it in a small table.  The gap to that sum is what the labels tell twice.
    """
    _, times = np.unique(np.asarray(labels), axis=0, return_counts=True)
    p = times / times.sum()
    return float(-(p * np.log2(p)).sum())


def imbalance(frequency: np.ndarray) -> float:
    """How uneven the classes are: Gini coefficient of P(k) over the classes, 0 (all equal) to 1 - 1/K (one class)."""
    p = np.sort(np.asarray(frequency, float))
    if not p.sum() > 0:
        raise ValueError("no class occurs in any image: there is no imbalance to measure")
    ranks = np.arange(1, len(p) + 1)
    return float(2 * (ranks * p).sum() / (len(p) * p.sum()) - (len(p) + 1) / len(p))


def _checked(counts: np.ndarray, n: int | None = None) -> np.ndarray:
    counts = np.asarray(counts, float)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not np.allclose(counts, counts.T):
        raise ValueError(f"expected a symmetric matrix of counts (K, K), got shape {counts.shape}")
    alone = np.diagonal(counts)
    if counts.min() < 0 or (counts > np.minimum(alone[:, None], alone) + 1e-9).any():
        raise ValueError("a pair of classes comes more often than one of them alone: check the diagonal of the counts")
    if n is not None and alone.max() > n:
        raise ValueError(f"a class comes {alone.max():.0f} times in {n} images: check the number of images")
    return counts

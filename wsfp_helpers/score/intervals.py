"""Bootstrap intervals over images, and scores by group."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.labels import CELEBAMASK, Scheme
from wsfp_helpers.score.confusion import Scores, class_counts, f1_percent, known_means, pooled


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals in percent: ``mean_f1`` is (low, high), ``f1`` ``(C, 2)``, at confidence ``level``."""

    mean_f1: tuple[float, float]
    f1: np.ndarray
    level: float
    samples: int


def bootstrap(
    matrices: np.ndarray,
    scheme: Scheme = CELEBAMASK,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    scored: Sequence[str] | None = None,
) -> Intervals:
    """Percentile intervals of F1 when the images, not the pixels, are drawn again with replacement.

    ``matrices`` ``(n, C, C)`` from :func:`confusions`, or ``(S, n, C, C)`` of S seeds: then the intervals are those of
    the mean over the seeds, all of which see the same drawn images.  They tell about other images, not about other
    seeds.  A class absent from a sample is skipped in that sample.
    """
    matrices = matrices.reshape(-1, *np.shape(matrices)[-3:])
    n = matrices.shape[1]
    if n < 2:
        raise InputError(f"a bootstrap over images needs at least 2 images, got {n}")
    rng = np.random.default_rng(seed)
    times_drawn = rng.multinomial(n, np.full(n, 1 / n), size=samples)
    f1 = f1_percent(*(times_drawn @ counts.astype(np.int64) for counts in class_counts(matrices)))
    columns = [scheme.index(name) for name in scored or scheme.components]
    ends = [50 * (1 - level), 50 * (1 + level)]
    low, high = _quantiles(known_means(known_means(f1[..., columns]), 0), ends)
    by_class = np.stack([_quantiles(column, ends) for column in known_means(f1, 0).T])
    return Intervals((float(low), float(high)), by_class, level, samples)


def _quantiles(values: np.ndarray, percents: Sequence[float]) -> np.ndarray:
    known = values[~np.isnan(values)]
    return np.percentile(known, percents) if len(known) else np.full(len(percents), np.nan)


def by_group(
    matrices: np.ndarray, groups: Iterable, scheme: Scheme = CELEBAMASK, scored: Sequence[str] | None = None
) -> Mapping[str, Scores]:
    """Scores of each group of images: ``groups`` has one value per image, e.g. ``faces.attributes["gender"]``.

    Groups come in sorted order; ``scores.images`` is the size of the group, to be printed beside its score.
    """
    names = np.asarray([str(group) for group in groups])
    if len(names) != len(matrices):
        raise ValueError(f"{len(names)} group names for {len(matrices)} images: expected one per image")
    return {str(name): pooled(matrices[names == name], scheme, scored) for name in np.unique(names)}

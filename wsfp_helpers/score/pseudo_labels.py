"""Scores of pseudo labels: reports that read label maps, never part of training."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.labels import CELEBAMASK, IGNORE
from wsfp_helpers.method.fcam import Fcam
from wsfp_helpers.method.pseudo import read_targets, strongest
from wsfp_helpers.score.confusion import Scores, evaluate_pairs


def sweep_matrices(fcams: Iterable[Fcam], faces: Faces, thresholds: ArrayLike) -> np.ndarray:
    """Confusion matrices ``(T, C, C)`` int64 of the pseudo labels at every threshold, in one pass over the maps.

    A pixel is its strongest class at every threshold below that value, and background from there on: a histogram of
    (true class, strongest class, value), summed from the top, holds the counts of all thresholds at once.
    """
    rising, classes = np.asarray(thresholds, np.float32), len(CELEBAMASK)
    if rising.ndim != 1 or not len(rising) or (np.diff(rising) < 0).any():
        raise ValueError("thresholds must be a list in rising order")
    bins = len(rising) + 1
    histogram = np.zeros(classes * classes * bins, np.int64)
    for fcam, truth in _with_truth(fcams, faces):
        best, values = strongest(fcam, truth.shape)
        scored = truth != IGNORE
        passed = np.searchsorted(rising, values[scored])
        joint = (truth[scored].astype(np.int64) * classes + best[scored]) * bins + passed
        histogram += np.bincount(joint, minlength=len(histogram))
    joint = histogram.reshape(classes, classes, bins)
    matrices = joint[..., ::-1].cumsum(-1)[..., ::-1][..., 1:].transpose(2, 0, 1).copy()
    matrices[:, :, 0] = joint.sum((1, 2)) - matrices[:, :, 1:].sum(2)
    return matrices


def sweep_thresholds(fcams: Iterable[Fcam], faces: Faces, thresholds: ArrayLike) -> np.ndarray:
    """Mean F1 ``(T,)`` in percent of the pseudo labels at every threshold (rising): a report, not a way to choose one.

    ``faces`` must hold every id of the maps; its label maps are read here and go nowhere else.
    """
    return np.array([Scores(matrix).mean_f1 for matrix in sweep_matrices(fcams, faces, thresholds)])


def pair_labels(labels: str | Path, faces: Faces) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pseudo label and label map ``(H, W)`` uint8 of every face, from a folder of index PNGs ``ID.png``.

    Raises:
        InputError: Pseudo labels are missing.
    """
    target = read_targets(labels, faces.weak)
    return ((target(i), faces.label_map(i)) for i in range(len(faces)))


def score_pseudo_labels(labels: str | Path | Iterable[np.ndarray], faces: Faces) -> Scores:
    """Scores of pseudo labels against the label maps of ``faces``: a report on a training set, never part of training.

    ``labels`` is a folder of index PNGs ``ID.png``, one for every face, or label maps in the order of ``faces``.
    """
    if isinstance(labels, str | Path):
        return evaluate_pairs(pair_labels(labels, faces), faces.scheme)
    truths = (faces.label_map(i) for i in range(len(faces)))
    return evaluate_pairs(zip(labels, truths, strict=True), faces.scheme)


def _with_truth(fcams: Iterable[Fcam], faces: Faces) -> Iterator[tuple[Fcam, np.ndarray]]:
    places = {key: i for i, key in enumerate(faces.ids)}
    for fcam in fcams:
        if fcam.id not in places:
            raise InputError(
                f"{faces.name} has no image {fcam.id!r}, of which there is a map: give the set it was made of"
            )
        yield fcam, faces.label_map(places[fcam.id])

"""Scores of label maps: one confusion matrix over all images, F1 by class (docs/design.md, 7).

The policy behind every number: pixels whose true label is 255 are ignored; one matrix over the whole set, not a mean
over images; a class that is absent from both the truth and the predictions is NaN, skipped in every mean and listed; a
class that occurs in only one of the two scores 0.  ``mean_f1`` leaves out the background, ``mean_iou`` does not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import resize_label_map
from wsfp_helpers.labels import CELEBAMASK, HELEN_MERGED, IGNORE, LAPA, Scheme

POLICY = (
    "one confusion matrix over all images; true label 255 ignored; classes absent from both truth and predictions "
    "skipped, classes in only one of them 0; mean F1 without the background, mean IoU with it"
)


def confusion(prediction: np.ndarray, truth: np.ndarray, classes: int, ignore: int = IGNORE) -> np.ndarray:
    """Confusion matrix ``(C, C)`` int64 of two label maps of one shape: rows truth, columns prediction.

    Pixels whose truth is ``ignore`` do not count.  A predicted 255 ("no class") counts as background.  Raises
    :class:`InputError` for maps of different shapes and for other values beyond the classes.
    """
    prediction, truth = _as_uint8(prediction, "prediction"), _as_uint8(truth, "truth")
    if prediction.shape != truth.shape:
        raise InputError(
            f"the prediction has shape {prediction.shape}, the truth {truth.shape}: resize the prediction to the truth"
        )
    if prediction.size and prediction.max() >= classes:
        prediction = np.where(prediction == IGNORE, 0, prediction).astype(np.uint8)
        if prediction.max() >= classes:
            raise InputError(f"a prediction has label value {prediction.max()}: expected 0 to {classes - 1}")
    # A run of pixels with one truth and one prediction counts as one number, its length as the weight.  Ignored and
    # impossible truths fall into rows of their own.
    starts, lengths = runs(truth, prediction)
    joint = truth.reshape(-1)[starts] * np.intp(classes) + prediction.reshape(-1)[starts]
    flat = np.bincount(joint, lengths, minlength=256 * classes).astype(np.int64)
    counts = flat.reshape(256, classes)
    seen = np.flatnonzero(counts[classes:].any(1)) + classes
    if wrong := [value for value in seen if value != ignore]:
        raise InputError(f"a true label map has value {wrong[0]}: expected 0 to {classes - 1}, or {ignore} (ignored)")
    matrix = counts[:classes].copy()
    if ignore < classes:
        matrix[ignore] = 0
    return matrix


def runs(*label_maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of neighbours in a row of ``(H, W)`` at which no map changes: the pixel where each starts, and its length.

    Label maps have few, so that counting runs takes a fraction of the time of counting pixels.
    """
    border = np.empty(label_maps[0].size + 1, bool)
    first, *others = (label_map.reshape(-1) for label_map in label_maps)
    np.not_equal(first[1:], first[:-1], out=border[1:-1])
    for other in others:
        border[1:-1] |= other[1:] != other[:-1]
    border[:: label_maps[0].shape[-1] or 1] = True
    edges = np.flatnonzero(border)
    return edges[:-1], edges[1:] - edges[:-1]


def _as_uint8(label_map: np.ndarray, what: str) -> np.ndarray:
    label_map = np.asarray(label_map)
    if label_map.dtype == np.uint8:
        return label_map
    if label_map.dtype.kind not in "iu" or (label_map.size and not 0 <= label_map.min() <= label_map.max() <= 255):
        raise InputError(f"the {what} is not a label map: expected integers from 0 to 255, got {label_map.dtype}")
    return label_map.astype(np.uint8)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix ``(C, C)`` (rows truth, columns prediction) says; every score is in percent.

    ``scored`` names the classes of ``mean_f1``: all but the background unless the truth outlines fewer (FRL London).
    ``images`` is how many label maps went in, ``notes`` what a reader of the numbers must know.
    """

    matrix: np.ndarray
    scheme: Scheme = CELEBAMASK
    images: int | None = None
    notes: tuple[str, ...] = ()
    scored: tuple[str, ...] | None = None

    @cached_property
    def f1(self) -> np.ndarray:
        """``(C,)`` F1 = 2 TP / (true + predicted pixels), background first; NaN where a class is in neither."""
        return f1_percent(*class_counts(self.matrix))

    @cached_property
    def iou(self) -> np.ndarray:
        """``(C,)`` intersection over union, background first; NaN where a class is in neither."""
        hits, true, predicted = class_counts(self.matrix)
        return _percent(hits, true + predicted - hits)

    @property
    def columns(self) -> list[int]:
        """Class ids that ``mean_f1`` is a mean of."""
        return [self.scheme.index(name) for name in self.scored or self.scheme.components]

    @property
    def mean_f1(self) -> float:
        """Mean of ``f1`` over the scored classes, absent ones skipped; NaN when there is none."""
        return _mean(self.f1[self.columns])

    @property
    def mean_iou(self) -> float:
        """Mean of ``iou`` over all classes and the background, absent ones skipped."""
        return _mean(self.iou)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels with a true label that have the right one."""
        return float(_percent(np.trace(self.matrix), self.matrix.sum()))

    @property
    def absent(self) -> tuple[str, ...]:
        """Scored classes that neither the truth nor the predictions have: skipped in the means."""
        return tuple(self.scheme.classes[k] for k in self.columns if np.isnan(self.f1[k]))

    @property
    def merged(self) -> dict[str, float]:
        """F1 of the merged classes that the Helen tradition lists (empty for other schemes)."""
        if self.scheme.name != LAPA.name:
            return {}
        scores = {}
        for name, parts in HELEN_MERGED.items():
            group = [self.scheme.index(part) for part in parts]
            hits = self.matrix[np.ix_(group, group)].sum()
            scores[name] = float(f1_percent(hits, self.matrix[group].sum(), self.matrix[:, group].sum()))
        return scores

    @property
    def per_class(self) -> dict[str, float]:
        """F1 of each scored class by name."""
        return {self.scheme.classes[k]: float(self.f1[k]) for k in self.columns}

    def as_dict(self) -> dict[str, object]:
        """Everything as plain values for JSON; ``None`` stands for a class that is absent."""
        _, true, predicted = class_counts(self.matrix)
        names = self.scheme.classes
        return {
            "labels": self.scheme.name,
            "images": self.images,
            "mean_f1": _plain(self.mean_f1),
            "per_class": {name: _plain(value) for name, value in self.per_class.items()},
            "background_f1": _plain(self.f1[0]),
            "mean_iou": _plain(self.mean_iou),
            "iou": {name: _plain(value) for name, value in zip(names, self.iou, strict=True)},
            "pixel_accuracy": _plain(self.pixel_accuracy),
            "absent": list(self.absent),
            "merged": {name: _plain(value) for name, value in self.merged.items()},
            "true_pixels": dict(zip(names, true.tolist(), strict=True)),
            "predicted_pixels": dict(zip(names, predicted.tolist(), strict=True)),
            "policy": POLICY,
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """The scores as text, one class a line."""
        _, true, predicted = class_counts(self.matrix)
        lines = [f"{'class':<15}{'F1':>8}{'IoU':>8}{'true px':>14}{'predicted px':>14}"]
        for k, name in enumerate(self.scheme.classes):
            lines.append(f"{name:<15}{_text(self.f1[k])}{_text(self.iou[k])}{true[k]:>14,}{predicted[k]:>14,}")
        counted = [name for name in self.per_class if name not in self.absent]
        lines += ["", f"{'mean F1':<15}{_text(self.mean_f1)}   over {len(counted)} classes, without the background"]
        lines += [f"{'mean IoU':<15}{_text(self.mean_iou)}   with the background"]
        lines += [f"{'pixel accuracy':<15}{_text(self.pixel_accuracy)}"]
        lines += [f"{name + ' (F1)':<15}{_text(value)}   merged as in Helen" for name, value in self.merged.items()]
        if self.images is not None:
            lines.append(f"{'images':<15}{self.images:>8,}")
        if self.absent:
            lines.append(f"absent from both truth and predictions, skipped: {', '.join(self.absent)}")
        return "\n".join([*lines, *self.notes])


def class_counts(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, true and predicted pixels of each class, ``(..., C)`` each, from matrices ``(..., C, C)``."""
    return np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-1), matrix.sum(-2)


def f1_percent(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 = 2 hits / (true + predicted) in percent, of pixels ``(..., C)``; NaN where a class is in neither."""
    return _percent(2 * hits, true + predicted)


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return 100 * np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean(values: np.ndarray) -> float:
    return float(known_means(values))


def known_means(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Means along an axis without the NaNs; NaN where there is nothing else."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(axis), known.sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=np.asarray(count) > 0)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _text(value: float) -> str:
    return f"{'-':>8}" if np.isnan(value) else f"{value:8.2f}"


def confusions(pairs: Iterable[tuple[np.ndarray, np.ndarray]], scheme: Scheme = CELEBAMASK) -> np.ndarray:
    """One confusion matrix an image, ``(n, C, C)`` int32: what :func:`bootstrap` and :func:`by_group` need."""
    return np.array([confusion(p, t, len(scheme)).astype(np.int32) for p, t, _ in _resized(pairs)]).reshape(
        -1, len(scheme), len(scheme)
    )


def pooled(matrices: np.ndarray, scheme: Scheme = CELEBAMASK, scored: Sequence[str] | None = None) -> Scores:
    """Scores of all images together, from one matrix an image ``(n, C, C)``; warns of exchanged sides."""
    matrix = matrices.sum(0, dtype=np.int64)
    warning = side_warning(matrix, scheme)
    return Scores(
        matrix, scheme, len(matrices), (warning,) if warning else (), None if scored is None else tuple(scored)
    )


def map_matrices(matrices: np.ndarray, table: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrices ``(..., c, c)`` as if both label maps had gone through ``table`` first.

    ``table`` ``(C,)`` has the new class of each old one, as :func:`wsfp_helpers.labels.to_lapa_table` gives it.
    """
    sums = np.eye(classes, dtype=np.int64)[table]
    return np.einsum("...ij,ik,jl->...kl", matrices, sums, sums, optimize=True)


def evaluate_pairs(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    scheme: Scheme = CELEBAMASK,
    scored: Sequence[str] | None = None,
) -> Scores:
    """Scores of ``(prediction, truth)`` label maps ``(H, W)`` uint8, taken one pair at a time.

    A prediction of another size is resized to its truth by the nearest pixel, and counted in the notes.  ``scored``
    limits ``mean_f1`` to some classes (``frl.SCORED`` for FRL London, whose points outline 11 of the 18).
    """
    matrix = np.zeros((len(scheme), len(scheme)), np.int64)
    images = resized = 0
    for prediction, truth, other_size in _resized(pairs):
        matrix += confusion(prediction, truth, len(scheme))
        images += 1
        resized += other_size
    return scores_of(matrix, images, resized, scheme, scored)


def scores_of(
    matrix: np.ndarray, images: int, resized: int, scheme: Scheme, scored: Sequence[str] | None = None
) -> Scores:
    """Scores from the matrix ``(C, C)`` of ``images`` pairs, ``resized`` of which had predictions of another size."""
    notes = []
    if resized:
        notes.append(f"note: {resized:,} of {images:,} predictions had another size and were resized (nearest pixel)")
    if warning := side_warning(matrix, scheme):
        notes.append(warning)
    return Scores(matrix, scheme, images, tuple(notes), None if scored is None else tuple(scored))


def sized(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, bool]:
    """The prediction at the size of its truth, by the nearest pixel, and whether it had another one."""
    return resize_label_map(_as_uint8(prediction, "prediction"), truth.shape), prediction.shape != truth.shape


def _resized(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterable[tuple[np.ndarray, np.ndarray, bool]]:
    for prediction, truth in pairs:
        prediction, other_size = sized(prediction, truth)
        yield prediction, truth, other_size


def side_warning(matrix: np.ndarray, scheme: Scheme) -> str | None:
    """A sentence with the likely cause when left and right look exchanged, else ``None``.

    They do when exchanging the predicted sides would at least double the mean F1 of the sided classes and add 5 points.
    """
    sided = [scheme.index(name) for pair in scheme.pairs for name in pair]
    as_is, exchanged = (_mean(f1_percent(*class_counts(m))[sided]) for m in (matrix, matrix[:, scheme.flip]))
    if not exchanged >= max(2 * as_is, as_is + 5):
        return None
    return (
        f"warning: left and right look exchanged: the sided classes have a mean F1 of {as_is:.1f}, and {exchanged:.1f} "
        f"when the predicted sides are exchanged; likely cause: the predictions name sides from the other viewpoint "
        f"(CelebAMask-HQ: the subject's; LaPa, Helen: the viewer's), for example a 19 -> 11 map by name instead of "
        f"geometric, or pictures were flipped without exchanging the classes"
    )

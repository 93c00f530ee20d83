"""Scores of label maps: one confusion matrix over all images, F1 by class, intervals, groups (design notes, section 7).

The policy behind every number: pixels whose true label is 255 are ignored; one matrix over the whole set, not a mean
over images; a class that is absent from both the truth and the predictions is NaN, skipped in every mean and listed; a
class that occurs in only one of the two scores 0.  ``mean_f1`` leaves out the background, ``mean_iou`` does not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsfp_helpers.colour import palette
from wsfp_helpers.labels import CELEBAMASK, HELEN_MERGED, IGNORE, LAPA, SCHEMES, Scheme, to_lapa
from wsfp_helpers.storage import InputError, existing, read_label_map

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
    # One integer a pixel, truth * C + prediction: ignored and impossible truths fall into rows of their own, so that
    # neither needs a pass over the pixels.  torch counts 32-bit integers without widening them first.
    joint = torch.add(torch.from_numpy(prediction), torch.from_numpy(truth).int(), alpha=classes)
    counts = torch.bincount(joint.reshape(-1), minlength=256 * classes).numpy().reshape(256, classes)
    seen = np.flatnonzero(counts[classes:].any(1)) + classes
    if wrong := [value for value in seen if value != ignore]:
        raise InputError(f"a true label map has value {wrong[0]}: expected 0 to {classes - 1}, or {ignore} (ignored)")
    matrix = counts[:classes].copy()
    if ignore < classes:
        matrix[ignore] = 0
    return matrix


def _as_uint8(label_map: np.ndarray, what: str) -> np.ndarray:
    label_map = np.asarray(label_map)
    if label_map.dtype == np.uint8:
        return label_map if label_map.flags.c_contiguous and label_map.flags.writeable else label_map.copy()
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
        return _f1(*_counts(self.matrix))

    @cached_property
    def iou(self) -> np.ndarray:
        """``(C,)`` intersection over union, background first; NaN where a class is in neither."""
        hits, true, predicted = _counts(self.matrix)
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
            scores[name] = float(_f1(hits, self.matrix[group].sum(), self.matrix[:, group].sum()))
        return scores

    @property
    def per_class(self) -> dict[str, float]:
        """F1 of each scored class by name."""
        return {self.scheme.classes[k]: float(self.f1[k]) for k in self.columns}

    def as_dict(self) -> dict[str, object]:
        """Everything as plain values for JSON; ``None`` stands for a class that is absent."""
        _, true, predicted = _counts(self.matrix)
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
        _, true, predicted = _counts(self.matrix)
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


def _counts(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, true and predicted pixels of each class, ``(..., C)`` each, from matrices ``(..., C, C)``."""
    return np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-1), matrix.sum(-2)


def _f1(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return _percent(2 * hits, true + predicted)


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return 100 * np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean(values: np.ndarray) -> float:
    return float(_means(values))


def _means(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Means along an axis without the NaNs; NaN where there is nothing else."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(axis), known.sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=np.asarray(count) > 0)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _text(value: float) -> str:
    return f"{'-':>8}" if np.isnan(value) else f"{value:8.2f}"


def resize_label_map(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Label map ``(h, w)`` uint8 as ``(H, W)`` = ``size``, by the nearest pixel."""
    if label_map.shape == tuple(size):
        return label_map
    return np.array(Image.fromarray(label_map).resize((size[1], size[0]), Image.Resampling.NEAREST))


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


def mapped(matrices: np.ndarray, table: np.ndarray, classes: int) -> np.ndarray:
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
    notes = []
    if resized:
        notes.append(f"note: {resized:,} of {images:,} predictions had another size and were resized (nearest pixel)")
    if warning := side_warning(matrix, scheme):
        notes.append(warning)
    return Scores(matrix, scheme, images, tuple(notes), None if scored is None else tuple(scored))


def _resized(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterable[tuple[np.ndarray, np.ndarray, bool]]:
    for prediction, truth in pairs:
        other_size = prediction.shape != truth.shape
        yield resize_label_map(_as_uint8(prediction, "prediction"), truth.shape), truth, other_size


def evaluate_folders(
    pred: str | Path,
    gt: str | Path,
    labels: str = "celebamask",
    pred_labels: str | None = None,
    mode: str = "geometric",
    ears_to_skin: bool = False,
) -> Scores:
    """Scores of a folder of index PNGs against a folder of label maps with the same file names.

    ``labels`` is the scheme of ``gt`` (``celebamask`` or ``lapa``), ``pred_labels`` that of ``pred`` (default: the
    same).  Predictions in 19 classes against LaPa or Helen are mapped to 11 by ``mode`` (see
    :func:`wsfp_helpers.labels.to_lapa_table`) and the mode is noted.  Raises :class:`InputError` naming the file for
    missing or extra predictions and for anything that is not an index PNG of the scheme, and for a ``mode`` or
    ``ears_to_skin`` where nothing is mapped.
    """
    scheme, source = _scheme(labels), _scheme(pred_labels or labels)
    if source.name == LAPA.name != scheme.name:
        raise InputError("11-class predictions cannot be held against 19-class label maps: give --labels lapa")
    mapped = source.name != scheme.name
    if not mapped and (mode != "geometric" or ears_to_skin):
        raise InputError(
            "--mode and --ears-to-skin say how 19 classes become 11, and nothing is mapped here: leave them out, or "
            "give --labels lapa --pred-labels celebamask"
        )
    names = _matching_names(Path(pred), Path(gt))
    repainted, repainted_truth, resized = 0, 0, []

    def pairs() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        nonlocal repainted, repainted_truth
        for name in names:
            prediction = read_label_map(Path(pred) / name, len(source))
            repainted += _other_palette(Path(pred) / name, source)
            truth = read_label_map(Path(gt) / name, len(scheme))
            repainted_truth += _other_palette(Path(gt) / name, scheme)
            if prediction.shape != truth.shape:
                resized.append((name, prediction.shape, truth.shape))
            yield to_lapa(prediction, mode, ears_to_skin) if mapped else prediction, truth

    scores = evaluate_pairs(pairs(), scheme)
    notes = list(scores.notes)
    if mapped:
        ears = ", ears counted as skin" if ears_to_skin else ""
        notes.insert(0, f"note: predictions mapped from 19 to 11 classes, mode {mode}{ears}")
    if resized:
        # The first that was stretched says more than one that was only enlarged.
        name, (h, w), (height, width) = next((r for r in resized if _stretched(*r[1:])), resized[0])
        notes.append(f"note: a resized prediction is {name}, {w} x {h} for a label map of {width} x {height}")
    if repainted_truth:
        notes.append(
            f"note: {repainted_truth:,} label maps of the truth have another palette than {scheme.name}: class ids "
            f"were read, not colours; is --labels right?"
        )
    if repainted:
        notes.append(f"note: {repainted:,} predictions have another palette: class ids were read, not colours")
    return replace(scores, notes=tuple(notes))


def _stretched(small: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether ``small`` has other proportions than ``size``, by more than rounding would do."""
    factor = min(small[0] / size[0], small[1] / size[1])
    return max(small[0] - factor * size[0], small[1] - factor * size[1]) > 1


def _scheme(name: str) -> Scheme:
    if name not in SCHEMES:
        raise InputError(f"unknown labels {name!r}: expected {' or '.join(SCHEMES)}")
    return SCHEMES[name]


def _matching_names(pred: Path, gt: Path) -> list[str]:
    predictions, truths = _pngs(pred, "predictions"), _pngs(gt, "label maps")
    if missing := sorted(truths - predictions):
        raise InputError(
            f"{len(missing):,} of {len(truths):,} label maps in {gt} have no prediction in {pred}, the first is "
            f"{missing[0]}: a prediction has the file name of its label map"
        )
    if extra := sorted(predictions - truths):
        raise InputError(
            f"{len(extra):,} predictions in {pred} have no label map in {gt}, the first is {extra[0]}: "
            f"remove them or name the folder of the whole set"
        )
    return sorted(truths)


def _pngs(folder: Path, what: str) -> set[str]:
    if not existing(folder, f"folder of {what}").is_dir():
        raise InputError(f"{folder} is a file: expected a folder of {what} (index PNGs)")
    names = {path.name for path in folder.glob("*.png") if not path.name.startswith(".")}
    if not names:
        raise InputError(f"{folder} holds no PNG files: expected a folder of {what} (index PNGs)")
    return names


def _other_palette(path: Path, scheme: Scheme) -> bool:
    """Whether an index PNG has colours of its own; raises :class:`InputError` if it has ours in another order."""
    with Image.open(path) as picture:
        if picture.mode != "P":
            return False
        colours = np.reshape(picture.getpalette("RGB"), (-1, 3))[: len(scheme)]
    for known in (scheme, *SCHEMES.values()):
        shared = min(len(colours), len(known))
        if np.array_equal(colours[:shared], palette(known)[:shared]):
            return known.name != scheme.name
    places = {tuple(colour): k for k, colour in enumerate(palette(scheme).tolist())}
    moved = [k for k, colour in enumerate(colours.tolist()) if places.get(tuple(colour), k) != k]
    if len(moved) > 1:
        names = scheme.classes
        was = names[places[tuple(colours[moved[0]].tolist())]]
        raise InputError(
            f"{path} has the colours of our classes in another order (id {moved[0]} has the colour of {was}, not of "
            f"{names[moved[0]]}): a tool has renumbered its palette; write it again without optimising the palette"
        )
    return True


def side_warning(matrix: np.ndarray, scheme: Scheme) -> str | None:
    """A sentence with the likely cause when left and right look exchanged, else ``None``.

    They do when exchanging the predicted sides would at least double the mean F1 of the sided classes and add 5 points.
    """
    sided = [scheme.index(name) for pair in scheme.pairs for name in pair]
    as_is, exchanged = (_mean(_f1(*_counts(m))[sided]) for m in (matrix, matrix[:, scheme.flip]))
    if not exchanged >= max(2 * as_is, as_is + 5):
        return None
    return (
        f"warning: left and right look exchanged: the sided classes have a mean F1 of {as_is:.1f}, and {exchanged:.1f} "
        f"when the predicted sides are exchanged; likely cause: the predictions name sides from the other viewpoint "
        f"(CelebAMask-HQ: the subject's; LaPa, Helen: the viewer's), for example a 19 -> 11 map by name instead of "
        f"geometric, or pictures were flipped without exchanging the classes"
    )


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
    f1 = _f1(*(times_drawn @ counts.astype(np.int64) for counts in _counts(matrices)))
    columns = [scheme.index(name) for name in scored or scheme.components]
    ends = [50 * (1 - level), 50 * (1 + level)]
    low, high = _quantiles(_means(_means(f1[..., columns]), 0), ends)
    by_class = np.stack([_quantiles(column, ends) for column in _means(f1, 0).T])
    return Intervals((float(low), float(high)), by_class, level, samples)


def _quantiles(values: np.ndarray, percents: Sequence[float]) -> np.ndarray:
    known = values[~np.isnan(values)]
    return np.percentile(known, percents) if len(known) else np.full(len(percents), np.nan)


def by_group(
    matrices: np.ndarray, groups: Sequence, scheme: Scheme = CELEBAMASK, scored: Sequence[str] | None = None
) -> Mapping[str, Scores]:
    """Scores of each group of images: ``groups`` has one value an image, e.g. ``faces.attributes["gender"]``.

    Groups come in sorted order; ``scores.images`` is the size of the group, to be printed beside its score.
    """
    groups = np.asarray([str(group) for group in groups])
    if len(groups) != len(matrices):
        raise InputError(f"{len(groups)} group names for {len(matrices)} images: expected one an image")
    return {str(group): pooled(matrices[groups == group], scheme, scored) for group in np.unique(groups)}

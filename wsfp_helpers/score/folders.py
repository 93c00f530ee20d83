"""Scores of a folder of predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import existing
from wsfp_helpers.common.pictures import as_label_map, open_picture
from wsfp_helpers.common.threads import in_threads
from wsfp_helpers.labels import LAPA, SCHEMES, Scheme, to_lapa
from wsfp_helpers.palette import palette
from wsfp_helpers.score.confusion import Scores, confusion, scores_of, sized
from wsfp_helpers.score.mistakes import Look, Looks, look


def evaluate_folders(
    pred: str | Path,
    gt: str | Path,
    labels: str = "celebamask",
    pred_labels: str | None = None,
    mode: str = "geometric",
    ears_to_skin: bool = False,
    ids: Sequence[str] | None = None,
) -> Scores:
    """Scores of a folder of index PNGs against a folder of label maps with the same file names.

    ``labels`` is the scheme of ``gt`` (``celebamask`` or ``lapa``), ``pred_labels`` that of ``pred`` (default: the
    same).  Predictions in 19 classes against LaPa or Helen are mapped to 11 by ``mode`` (see
    :func:`wsfp_helpers.labels.to_lapa_table`) and the mode is noted.  Raises :class:`InputError` naming the file for
    missing or extra predictions and for anything that is not an index PNG of the scheme, and for a ``mode`` or
    ``ears_to_skin`` where nothing is mapped.  ``ids`` are the names, without ``.png``, of all that is scored, whatever
    else the folders hold (default: everything, and neither may hold more than the other).
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
    pred, gt = Path(pred), Path(gt)
    names = _matching_names(pred, gt, ids)

    def score(name: str) -> _Pair:
        prediction, repainted = _read(pred / name, source)
        truth, repainted_truth = _read(gt / name, scheme)
        looks = look(prediction, source), look(truth, scheme)
        shapes = _shape(prediction), _shape(truth)
        prediction = sized(to_lapa(prediction, mode, ears_to_skin) if mapped else prediction, truth)[0]
        return _Pair(confusion(prediction, truth, len(scheme)), looks, (repainted, repainted_truth), shapes)

    matrix, repainted, resized, example = np.zeros((len(scheme),) * 2, np.int64), np.zeros(2, int), 0, None
    looks = {"the predictions": Looks(), "the label maps": Looks()}
    for name, pair in zip(names, in_threads(score, names), strict=True):
        matrix += pair.matrix
        repainted += pair.repainted
        for side, seen in zip(looks.values(), pair.looks, strict=True):
            side.add(seen)
        if pair.shapes[0] != pair.shapes[1]:
            resized += 1
            # The first that was stretched says more than one that was only enlarged.
            if example is None or (_stretched(*pair.shapes) and not _stretched(*example[1:])):
                example = (name, *pair.shapes)
    _check_scored(matrix, gt)
    scores = scores_of(matrix, len(names), resized, scheme)
    notes = [*scores.notes]
    for what, side in looks.items():
        notes += side.mistakes(what)
    if mapped:
        ears = ", ears counted as skin" if ears_to_skin else ""
        notes.insert(0, f"note: predictions mapped from 19 to 11 classes, mode {mode}{ears}")
    notes += _about_files(example, repainted, scheme)
    return replace(scores, notes=tuple(notes))


def _check_scored(matrix: np.ndarray, gt: str | Path) -> None:
    if not matrix.any():
        raise InputError(f"every pixel of the label maps of {gt} is 255 (ignored): there is nothing to score")


def _about_files(example: tuple | None, repainted: np.ndarray, scheme: Scheme) -> list[str]:
    """Notes on a prediction ``(name, shape, true shape)`` of another size, and on foreign palettes of either side."""
    notes = []
    if example is not None:
        name, (h, w), (height, width) = example
        notes.append(f"note: a resized prediction is {name}, {w} x {h} for a label map of {width} x {height}")
    if repainted[1]:
        notes.append(
            f"note: {repainted[1]:,} label maps of the truth have another palette than {scheme.name}: class ids "
            f"were read, not colours; is --labels right?"
        )
    if repainted[0]:
        notes.append(f"note: {repainted[0]:,} predictions have another palette: class ids were read, not colours")
    return notes


@dataclass(frozen=True, eq=False)
class _Pair:
    """Matrix ``(C, C)`` of a prediction and its truth, and of both: look, whether the palette is foreign, shape."""

    matrix: np.ndarray
    looks: tuple[Look, Look]
    repainted: tuple[bool, bool]
    shapes: tuple[tuple[int, int], tuple[int, int]]


def _shape(label_map: np.ndarray) -> tuple[int, int]:
    height, width = label_map.shape
    return height, width


def _read(path: Path, scheme: Scheme) -> tuple[np.ndarray, bool]:
    """A label map ``(H, W)`` uint8 of the scheme, and whether its palette is another one."""
    with open_picture(path) as picture:
        label_map = as_label_map(picture, len(scheme), path)
        return label_map, picture.mode == "P" and _other_palette(picture, scheme, path)


def _stretched(small: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether ``small`` has other proportions than ``size``, by more than rounding would do."""
    factor = min(small[0] / size[0], small[1] / size[1])
    return max(small[0] - factor * size[0], small[1] - factor * size[1]) > 1


def _scheme(name: str) -> Scheme:
    if name not in SCHEMES:
        raise InputError(f"unknown labels {name!r}: expected {' or '.join(SCHEMES)}")
    return SCHEMES[name]


def _matching_names(pred: Path, gt: Path, ids: Sequence[str] | None) -> list[str]:
    predictions, truths = _pngs(pred, "predictions"), _pngs(gt, "label maps")
    if ids is not None:
        wanted = {f"{key}.png" for key in ids}
        if unknown := sorted(wanted - truths):
            raise InputError(
                f"{len(unknown):,} of the {len(wanted):,} pictures to score have no label map in {gt}, the first is "
                f"{unknown[0]}: choose the folder of their part"
            )
        truths, predictions = wanted, predictions & wanted
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


def _other_palette(picture: Image.Image, scheme: Scheme, path: Path) -> bool:
    """Whether an index PNG has other colours than ours; raises :class:`InputError` if it has ours in another order."""
    other, moved = _compare_palette(bytes(picture.getpalette("RGB") or b""), scheme)
    if moved is not None:
        now, was = (scheme.classes[k] for k in moved)
        raise InputError(
            f"{path} has the colours of our classes in another order (id {moved[0]} has the colour of {was}, not of "
            f"{now}): a tool has renumbered its palette; write it again without optimising the palette"
        )
    return other


@lru_cache
def _compare_palette(colours: bytes, scheme: Scheme) -> tuple[bool, tuple[int, int] | None]:
    """Whether a palette is another one, and of one in another order an id and the class whose colour it has."""
    table = np.frombuffer(colours, np.uint8).reshape(-1, 3)[: len(scheme)]
    for known in (scheme, *SCHEMES.values()):
        shared = min(len(table), len(known))
        if np.array_equal(table[:shared], palette(known)[:shared]):
            return known.name != scheme.name, None
    places = {tuple(colour): k for k, colour in enumerate(palette(scheme).tolist())}
    moved = [k for k, colour in enumerate(table.tolist()) if places.get(tuple(colour), k) != k]
    return True, (moved[0], places[tuple(table[moved[0]].tolist())]) if len(moved) > 1 else None

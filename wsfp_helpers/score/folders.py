"""Scores of a folder of predictions."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import existing
from wsfp_helpers.common.pictures import open_picture, read_label_map
from wsfp_helpers.labels import LAPA, SCHEMES, Scheme, to_lapa
from wsfp_helpers.palette import palette
from wsfp_helpers.score.confusion import Scores, evaluate_pairs
from wsfp_helpers.score.mistakes import Look, look, name_mistakes


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
    names = _matching_names(Path(pred), Path(gt), ids)
    repainted, repainted_truth, resized = 0, 0, []
    looks: tuple[list[Look], list[Look]] = [], []

    def pairs() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        nonlocal repainted, repainted_truth
        for name in names:
            prediction = read_label_map(Path(pred) / name, len(source))
            repainted += _other_palette(Path(pred) / name, source)
            truth = read_label_map(Path(gt) / name, len(scheme))
            repainted_truth += _other_palette(Path(gt) / name, scheme)
            looks[0].append(look(prediction, source))
            looks[1].append(look(truth, scheme))
            if prediction.shape != truth.shape:
                resized.append((name, prediction.shape, truth.shape))
            yield to_lapa(prediction, mode, ears_to_skin) if mapped else prediction, truth

    scores = evaluate_pairs(pairs(), scheme)
    notes = [*scores.notes, *name_mistakes(looks[0], "the predictions"), *name_mistakes(looks[1], "the label maps")]
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


def _other_palette(path: Path, scheme: Scheme) -> bool:
    """Whether an index PNG has other colours than ours; raises :class:`InputError` if it has ours in another order."""
    with open_picture(path) as picture:
        if picture.mode != "P":
            return False
        colours = np.array(picture.getpalette("RGB"), int).reshape(-1, 3)[: len(scheme)]
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

"""From activation maps to pseudo labels: a threshold for the background, then the strongest class (paper 3.1).

Channel 0 is the constant theta, channel k + 1 the map of component k, and every pixel takes the strongest channel
(design notes 1.6, 9.17).  The maps hold only classes that the image-level label names, so an absent class is never
written.  Label maps come in only where a report asks for them (:func:`threshold_curve`, :func:`pseudo_quality`).
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from wsfp_helpers.colour import PALETTE
from wsfp_helpers.data.base import Faces
from wsfp_helpers.evaluate import Scores, evaluate_pairs
from wsfp_helpers.fcam import Fcam, FcamFolder
from wsfp_helpers.labels import CELEBAMASK, IGNORE
from wsfp_helpers.storage import InputError, claim_folder, existing, read_label_map, write_index_png


def pseudo_label(fcam: Fcam, theta: float = 0.5, size: tuple[int, int] | None = None) -> np.ndarray:
    """Pseudo label ``(H, W)`` uint8 of one face: the class with the strongest map where it exceeds ``theta``, else 0.

    ``size`` is ``(H, W)``, by default that of the picture.  Each map spans [0, 1], so for ``theta`` below 1 every
    present class has at least one pixel above it.
    """
    _check_theta(theta)
    classes, values = strongest(fcam, size)
    return np.where(values > np.float32(theta), classes, 0).astype(np.uint8)


def strongest(fcam: Fcam, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Class id ``(H, W)`` uint8 and value ``(H, W)`` float32 in [0, 1] of the strongest map of every pixel.

    Of equal maps the first class counts; without any present class both are 0.
    """
    if not len(fcam.classes):
        shape = tuple(size or fcam.size)
        return np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    values, positions = torch.from_numpy(fcam.maps(size)).max(0)
    class_ids = torch.from_numpy(np.asarray(fcam.classes, np.int64) + 1).to(torch.uint8)
    return class_ids[positions].numpy(), values.numpy()


def write_pseudo_labels(
    fcams: FcamFolder | str | Path,
    out: str | Path,
    theta: float = 0.5,
    size: tuple[int, int] | None = None,
    workers: int = 1,
) -> Path:
    """Write the pseudo label of every map of a folder as an index PNG ``OUT/ID.png``; returns ``out``.

    Streams with one face at a time in each of ``workers`` processes.  Started again, it keeps every PNG that is whole
    and not older than its map.  Raises :class:`InputError` when ``out`` holds labels made with another setting.
    """
    _check_theta(theta)
    if workers < 1:
        raise InputError(f"{workers} processes for pseudo labels: expected 1 or more")
    folder, out = fcams if isinstance(fcams, FcamFolder) else FcamFolder(fcams), Path(out)
    folder[0]  # so that weights of anything else are refused before the folder is claimed
    source = folder.paths[0].parent.resolve()
    settings = {"theta": float(theta), "size": None if size is None else list(size), "fcams": str(source)}
    claim_folder(out, settings, "pseudo labels", "*.png")
    chunks = [list(chunk) for chunk in np.array_split(range(len(folder)), min(len(folder), 32 * workers))]
    work = partial(_write_chunk, source, out, theta, size)
    with tqdm(total=len(folder), desc="pseudo labels", unit="image", leave=False) as bar:
        if workers == 1:
            for chunk in chunks:
                bar.update(work(chunk))
        else:
            # Spawned, not forked: a fork of a process whose threads are at work inside torch can hang.
            with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
                for done in pool.map(work, chunks):
                    bar.update(done)
    return out


def _write_chunk(path: Path, out: Path, theta: float, size: tuple[int, int] | None, indices: Sequence[int]) -> int:
    folder = FcamFolder(path)
    for i in indices:
        target = out / f"{folder.ids[i]}.png"
        if not _is_whole(target, folder.paths[i]):
            write_index_png(target, pseudo_label(folder[i], theta, size), PALETTE)
    return len(indices)


def _is_whole(png: Path, source: Path) -> bool:
    if not png.exists() or png.stat().st_mtime_ns < source.stat().st_mtime_ns:
        return False
    try:
        read_label_map(png, len(CELEBAMASK))
    except InputError:
        return False
    return True


def _check_theta(theta: float) -> None:
    if not 0 <= theta <= 1:
        raise InputError(f"theta is {theta}: expected a threshold from 0 to 1, the range of the maps")


def threshold_matrices(fcams: Iterable[Fcam], faces: Faces, thresholds: Sequence[float]) -> np.ndarray:
    """Confusion matrices ``(T, C, C)`` int64 of the pseudo labels at every threshold, in one pass over the maps.

    A pixel is its strongest class at every threshold below that value, and background from there on: a histogram of
    (true class, strongest class, value), summed from the top, holds the counts of all thresholds at once.
    """
    thresholds, classes = np.asarray(thresholds, np.float32), len(CELEBAMASK)
    if thresholds.ndim != 1 or not len(thresholds) or (np.diff(thresholds) < 0).any():
        raise InputError("thresholds must be a list in rising order")
    bins = len(thresholds) + 1
    histogram = np.zeros(classes * classes * bins, np.int64)
    for fcam, truth in _with_truth(fcams, faces):
        best, values = strongest(fcam, truth.shape)
        scored = truth != IGNORE
        passed = np.searchsorted(thresholds, values[scored])
        joint = (truth[scored].astype(np.int64) * classes + best[scored]) * bins + passed
        histogram += np.bincount(joint, minlength=len(histogram))
    histogram = histogram.reshape(classes, classes, bins)
    matrices = histogram[..., ::-1].cumsum(-1)[..., ::-1][..., 1:].transpose(2, 0, 1).copy()
    matrices[:, :, 0] = histogram.sum((1, 2)) - matrices[:, :, 1:].sum(2)
    return matrices


def threshold_curve(fcams: Iterable[Fcam], faces: Faces, thresholds: Sequence[float]) -> np.ndarray:
    """Mean F1 ``(T,)`` in percent of the pseudo labels at every threshold (rising): a report, not a way to choose one.

    ``faces`` must hold every id of the maps; its label maps are read here and go nowhere else.
    """
    return np.array([Scores(matrix).mean_f1 for matrix in threshold_matrices(fcams, faces, thresholds)])


def pseudo_quality(labels: str | Path | Iterable[np.ndarray], faces: Faces) -> Scores:
    """Scores of pseudo labels against the label maps of ``faces``: a report on a training set, never part of training.

    ``labels`` is a folder of index PNGs ``ID.png``, one for every face, or label maps in the order of ``faces``.
    """
    if isinstance(labels, str | Path):
        folder = existing(labels, "folder of pseudo labels")
        missing = [key for key in faces.ids if not (folder / f"{key}.png").exists()]
        if missing:
            raise InputError(
                f"{folder} lacks {len(missing):,} of {len(faces):,} pseudo labels, the first is {missing[0]}.png: "
                f"run `wsfp pseudo` again, it goes on where it stopped"
            )
        labels = (read_label_map(folder / f"{key}.png", len(faces.scheme)) for key in faces.ids)
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

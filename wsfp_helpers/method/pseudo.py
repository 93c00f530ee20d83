"""From activation maps to pseudo labels: a threshold for the background, then the strongest class (paper 3.1).

Channel 0 is the constant theta, channel k + 1 the map of component k, and every pixel takes the strongest channel
(docs/design.md, 1.6 and 9.17).  The maps hold only classes that the image-level label names, so an absent class is
never written.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import claim_folder, existing, hold_folder
from wsfp_helpers.common.pictures import read_label_map, write_index_png
from wsfp_helpers.common.threads import in_processes
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.method.fcam import Fcam, FcamFolder, fcam_path, read_fcam
from wsfp_helpers.palette import PALETTE


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

    Streams with one face at a time in each of ``workers`` processes.  A PNG gets the time of change of its map; started
    again, it keeps every PNG that is whole and still has that time.  Raises :class:`InputError` when ``out`` holds
    labels made with another setting.
    """
    _check_theta(theta)
    if workers < 1:
        raise InputError(f"{workers} processes for pseudo labels: expected 1 or more")
    folder, out = fcams if isinstance(fcams, FcamFolder) else FcamFolder(fcams), Path(out)
    folder[0]  # so that weights of anything else are refused before the folder is claimed
    source = folder.folder.resolve()
    settings = {"theta": float(theta), "size": None if size is None else list(size), "fcams": str(source)}
    with hold_folder(out):
        claim_folder(out, settings, "pseudo labels", "*.png")
        _write_all(folder, out, theta, size, workers)
    return out


def _write_all(folder: FcamFolder, out: Path, theta: float, size: tuple[int, int] | None, workers: int) -> None:
    places = np.array_split(range(len(folder)), min(len(folder), 32 * workers))
    chunks = [folder.ids[each[0] : each[-1] + 1] for each in places]
    work = partial(_write_chunk, folder.folder, out, theta, size)
    with tqdm(total=len(folder), desc="pseudo labels", unit="image", leave=False) as bar:
        if workers == 1:
            for chunk in chunks:
                bar.update(work(chunk))
        else:
            with in_processes(workers) as pool:
                for done in [pool.submit(work, chunk) for chunk in chunks]:
                    bar.update(done.result())


def _write_chunk(folder: Path, out: Path, theta: float, size: tuple[int, int] | None, keys: Sequence[str]) -> int:
    for key in keys:
        source, target = fcam_path(folder, key), out / f"{key}.png"
        made = source.stat().st_mtime_ns
        if not _is_whole(target, made):
            write_index_png(target, pseudo_label(read_fcam(source), theta, size), PALETTE)
            os.utime(target, ns=(made, made))  # equal, not newer: clocks are set back
    return len(keys)


def _is_whole(png: Path, made: int) -> bool:
    if not png.exists() or png.stat().st_mtime_ns != made:
        return False
    try:
        read_label_map(png, len(CELEBAMASK))
    except InputError:
        return False
    return True


def _check_theta(theta: float) -> None:
    if not 0 <= theta <= 1:
        raise InputError(f"theta is {theta}: expected a threshold from 0 to 1, the range of the maps")


def read_targets(labels: str | Path, faces: WeakFaces) -> Callable[[int], np.ndarray]:
    """The pseudo label ``(H, W)`` uint8 of the i-th face, from ``labels/ID.png``.

    Raises:
        InputError: There is no such folder, or a label is missing.
    """
    folder = existing(labels, "folder of pseudo labels")
    if missing := [key for key in faces.ids if not (folder / f"{key}.png").exists()]:
        raise InputError(
            f"{folder} lacks {len(missing):,} of {len(faces):,} pseudo labels, the first is {missing[0]}.png: run "
            f"`wsfp pseudo` or `wsfp regions` on the FCAMs of the whole training set, it goes on where it stopped"
        )

    def target(index: int) -> np.ndarray:
        return read_label_map(folder / f"{faces.ids[index]}.png", len(faces.scheme))

    return target

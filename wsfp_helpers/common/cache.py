"""Where downloads and computed tables live: never inside the user's data folder."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pooch
from tqdm.auto import tqdm

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import write_array
from wsfp_helpers.common.threads import in_threads


def cache_place() -> Path:
    """Where the cache is to be: ``$WSFP_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("WSFP_CACHE") or pooch.os_cache("wsfp"))


def cache_dir() -> Path:
    """Folder of everything wsfp downloads or computes once; it is made where it is not there.

    Raises:
        InputError: It cannot be made.
    """
    folder = cache_place()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the cache cannot be in {folder} ({error.strerror}): set WSFP_CACHE to another place"
        ) from error
    return folder


def keep_array(path: Path, array: np.ndarray) -> None:
    """Write an array ``.npy`` of the cache; raises :class:`InputError` that says how to have the cache elsewhere."""
    try:
        write_array(path, array)
    except InputError as error:
        raise InputError(f"{error} for the cache, which WSFP_CACHE names") from error


def data_dirs() -> list[Path]:
    """Folders searched for data sets, in order: ``$WSFP_DATA`` when it is set, then :func:`cache_place`."""
    named = os.environ.get("WSFP_DATA")
    return [*([Path(named)] if named else []), cache_place()]


def find(place: str) -> Path | None:
    """``place`` in the first of :func:`data_dirs` that holds it, or ``None``."""
    return next((folder / place for folder in data_dirs() if (folder / place).exists()), None)


def require(place: str) -> Path:
    """``place`` where :func:`find` finds it; raises :class:`InputError` when it does not."""
    path = find(place)
    if path is None:
        ways = "run `wsfp weights list` to see how to get it" if place.startswith("weights/") else "put your copy there"
        raise InputError(f"no {place} below $WSFP_DATA: {ways}, or run `wsfp doctor` to see what is found")
    return path


def label_table(name: str, ids: Sequence[str], row: Callable[[str], np.ndarray], sources: Iterable[Path]) -> np.ndarray:
    """Image-level labels ``(n, K)`` uint8, row i being ``row(ids[i])``: computed once and kept in the cache.

    The table is computed anew when ``ids`` or the path, size or time of one of the ``sources`` (the files, or the
    folders when there are too many files) change.  It is written at the end, at once, so an interrupted run leaves
    nothing behind.  Whatever ``row`` raises is passed on.
    """
    from wsfp_helpers.common.accelerator import processes  # accelerate takes a while to import

    key = hashlib.sha256("\n".join(ids).encode())
    for source in sources:
        status = source.stat()
        key.update(f"{source.resolve()}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    path = cache_dir() / "labels" / f"{name}-{key.hexdigest()[:20]}.npy"
    with processes().local_main_process_first():  # of the processes of a machine one reads the files
        if path.is_file():
            with suppress(ValueError, EOFError):  # damaged: computed anew
                return np.load(path, allow_pickle=False)
        rows = tqdm(in_threads(row, ids), f"{name}: image-level labels", len(ids), leave=False)
        table = np.array(list(rows), np.uint8)
        keep_array(path, table)
    return table

"""Files that are written whole or not at all, and folders that belong to one command and its settings."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wsfp_helpers.common.errors import InputError

ASSETS = Path(__file__).parents[1] / "assets"
"""What comes with the package: weights, model cards, boxes, SynthFaces-19."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it there on success, remove it on any failure.

    Raises :class:`InputError` when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        # Before there is a temporary file the error is ours; then unless it names another file.
        if temporary is None or error.filename is None or str(error.filename) == name:
            why = error.strerror or str(error)
            raise InputError(
                f"could not write {path} ({why}): it is as it was; free space or choose another place"
            ) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: object) -> None:
    """Write ``content`` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=_plain) + "\n"
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def read_json(path: str | Path) -> Any:
    """Read a JSON file; raises :class:`InputError` naming the file when it is missing or not JSON."""
    try:
        return json.loads(existing_file(path, "JSON file").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error}): write it again or restore it") from error


def read_rows(path: str | Path, what: str, pattern: str, form: str) -> list[tuple[str, ...]]:
    """Groups of the regular expression ``pattern`` in each line of a text file; blank lines are left out.

    Raises :class:`InputError` when there is no such file, and naming a line that is not of the ``form``.
    """
    rows = []
    for number, line in enumerate(existing_file(path, what).read_text("utf-8", errors="replace").splitlines(), 1):
        if match := re.fullmatch(pattern, line.strip()):
            rows.append(match.groups())
        elif line.strip():
            raise InputError(f"{path} line {number} is {line!r}: expected {form}; download it again")
    return rows


def claim_folder(folder: str | Path, settings: Mapping[str, object], files: str, pattern: str) -> None:
    """Make ``folder`` the one of ``files`` (say "pseudo labels", ``"*.png"``) of ``settings``, or find that it is.

    Writes ``settings.json`` there.  Raises :class:`InputError` when the folder holds such files of other settings, or
    of settings that nobody knows.
    """
    path, wanted = Path(folder) / "settings.json", json.loads(json.dumps(settings))
    if path.exists():
        if (found := read_json(path)) != wanted:
            raise InputError(f"{folder} holds {files} made with {found}, not {wanted}: choose another folder")
    elif any(Path(folder).glob(pattern)):
        raise InputError(f"{folder} holds {pattern} files that are not {files} of this command: choose another folder")
    write_json(path, wanted)


def existing(path: str | Path, what: str = "file") -> Path:
    """``path`` if it exists, else an :class:`InputError` that names it."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"no {what} at {path}: check the path")
    return path


def existing_file(path: str | Path, what: str = "file", inside: str = "") -> Path:
    """``path`` if it is there and no folder; ``inside`` is the name that a file of this kind has in its folder."""
    path = existing(path, what)
    if path.is_dir():
        hint = f"; did you mean {path / inside}?" if inside and (path / inside).exists() else ""
        raise InputError(f"{path} is a folder: expected the {what} itself{hint}")
    return path


def sha256_of(path: str | Path) -> str:
    """SHA-256 of the content of a file, in hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write an array as ``.npy``, atomically."""
    with atomic_path(path) as part, part.open("wb") as file:
        np.save(file, array, allow_pickle=False)

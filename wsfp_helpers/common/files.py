"""Files that are written whole or not at all, and folders that belong to one command, its settings and one process."""

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from wsfp_helpers.common.errors import InputError

ASSETS = Path(__file__).parents[1] / "assets"
"""What comes with the package: weights, model cards, boxes, SynthFaces-19."""
_CLONE = Path(__file__).parents[2]
COURSE = _CLONE if (_CLONE / "pyproject.toml").exists() else ASSETS.with_name("course")
"""The folder of ``notebooks/`` and ``docs/``: the clone, or the copy that a wheel brings along."""
SETTINGS = "settings.json"
"""The file that says of which settings the files of a folder are."""
CONFIG = "config.json"
"""The file that says of which run a folder is."""
LOCK = ".wsfp.lock"
"""The file that says which process is writing in a folder."""
ESCAPE = "backslashreplace"
"""How files are encoded: bytes of a file's name that are no UTF-8 become escapes, which JSON reads back."""
_SHARE = ".wsfp.{}-of-{}.lock"
_TEMPORARY = (".wsfp-", ".part")
"""Beginning and end of the names of files that are being written."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it there on success, remove it on any failure, and new folders too.

    Its content is on disk before it gets the name, so after a power cut, too, the file is whole or as it was.  What a
    kill leaves is taken up when the same ``path`` is written again, or removed by :func:`hold_folder`.

    Raises :class:`InputError` when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary, lock, placed = None, None, False
    made: list[Path] = []
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EINVAL, "it is no file")  # but a device or a pipe, which a file would replace
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        made = [each for each in path.parents if not each.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _take_temporary(path)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
        placed = True
    except OSError as error:
        # Before there is a temporary file the error is ours; then unless it names another file.
        if temporary is None or error.filename is None or str(error.filename) == str(temporary):
            why = error.strerror or str(error)
            raise InputError(
                f"could not write {path} ({why}): it is as it was; free space or choose another place"
            ) from error
        raise
    finally:
        if temporary is not None and not placed:  # else another process may have the name by now
            temporary.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)
        if not placed:
            _remove_empty(made)


def _take_temporary(path: Path) -> tuple[Path, int | None]:
    """An empty file beside ``path``, and what to close when it is done with.

    Its name follows from that of ``path``, so that what killed processes leave is used again and does not add up; it is
    another one where a living process has that file.
    """
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    temporary = path.parent.absolute() / digest.join(_TEMPORARY)
    with ExitStack() as opened, suppress(OSError, ImportError):
        import fcntl  # which Windows does not have

        lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        opened.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(lock)
        ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid()
        if ours and os.path.samestat(found, temporary.stat()):  # not renamed since it was opened
            os.ftruncate(lock, 0)
            opened.pop_all()
            return temporary, lock
    handle, name = tempfile.mkstemp(_TEMPORARY[1], _TEMPORARY[0], path.parent)
    os.close(handle)
    return Path(name), None


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A new folder in ``folder``, which is held: removed at the end, or after a kill by who holds ``folder`` next."""
    with tempfile.TemporaryDirectory(_TEMPORARY[1], _TEMPORARY[0], folder) as place:
        yield Path(place)


def write_json(path: str | Path, content: object) -> None:
    """Write ``content`` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=_plain) + "\n"
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", errors=ESCAPE)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def read_json(path: str | Path) -> Any:
    """Read a JSON file; raises :class:`InputError` naming the file when it is missing, unreadable or not JSON."""
    content = existing_file(path, "JSON file").read_bytes()
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): write it again or restore it") from error


def append_row(path: str | Path, row: object) -> None:
    """Add ``row`` to a file of JSON lines, on disk when this returns; raises :class:`InputError` when it cannot be.

    Half a line at the end, which a kill leaves, is cut off.
    """
    path, line = Path(path), json.dumps(row, ensure_ascii=False) + "\n"
    cut_half_row(path)
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8", errors=ESCAPE) as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, size)
        raise InputError(
            f"could not write {path} ({error.strerror}): free space, then the same command goes on"
        ) from error


def cut_half_row(path: Path) -> None:
    """Cut off half a line at the end of a file of JSON lines, if it is there, so that rows can be added."""
    if not path.exists():
        return
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        whole = file.read() in (b"", b"\n")
    if not whole:
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def read_whole_rows(path: str | Path, what: str) -> list[dict]:
    """Objects of a file of JSON lines; half a line at the end, which a kill leaves, does not count.

    Raises :class:`InputError` when there is no such file, and for a line that is not a JSON object.
    """
    rows = []
    content = existing_file(path, what).read_bytes()
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is no JSON object: restore the file, or remove it to start again")
        rows.append(row)
    return rows


def read_rows(path: str | Path, what: str, pattern: str, form: str) -> list[tuple[str, ...]]:
    """Groups of the regular expression ``pattern`` in each line of a text file; blank lines are left out.

    Raises :class:`InputError` when there is no such file, and naming a line that is not of the ``form``.
    """
    rows = []
    for number, line in enumerate(existing_file(path, what).read_text("utf-8", errors="replace").splitlines(), 1):
        if match := re.fullmatch(pattern, line.strip()):
            rows.append(match.groups())
        elif line.strip():
            raise InputError(f"{path} line {number} is {line[:80]!r}: expected {form}; download it again")
    return rows


def claim_folder(folder: str | Path, settings: Mapping[str, object], files: str, pattern: str) -> None:
    """Make ``folder`` the one of ``files`` (say "pseudo labels", ``"*.png"``) of ``settings``, or find that it is.

    Writes ``settings.json`` there, once.  Raises :class:`InputError` as :func:`check_folder` does.
    """
    check_folder(folder, settings, files, pattern)
    if not (Path(folder) / SETTINGS).exists():
        write_json(Path(folder) / SETTINGS, settings)


def check_folder(folder: str | Path, settings: Mapping[str, object], files: str, pattern: str) -> None:
    """Raise :class:`InputError` when ``folder`` holds ``files`` of other settings, or of settings that nobody knows."""
    path, wanted = Path(folder) / SETTINGS, json.loads(json.dumps(settings))
    if path.exists():
        if (found := read_json(path)) != wanted:
            raise InputError(f"{folder} holds {files} made with {found}, not {wanted}: choose another folder")
    elif any(Path(folder).glob(pattern)):
        raise InputError(f"{folder} holds {pattern} files that are not {files} of this command: choose another folder")


@contextmanager
def hold_folder(folder: str | Path, share: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """Keep other processes from writing in ``folder`` until the block ends; a folder that stays empty is removed.

    The lock is the operating system's and ends with the process, however that ends.  ``share=(i, n)`` keeps out who
    does the whole and who does the same i-th of n shares, not who does another.  What a killed process was about to
    write there is removed, and after an :class:`InputError` so is the claim on a folder that got nothing else.

    Raises:
        InputError: Another process has the folder (its host, number, command and start are said), or it cannot be
            written.
    """
    folder, (number, count) = Path(folder), share
    with ExitStack() as held:
        try:
            made = [each for each in (folder, *folder.parents) if not each.exists()]
            held.callback(_remove_empty, made)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        if count == 1:
            held.enter_context(_locked(folder / LOCK))
            for other in folder.glob(_SHARE.format("*", "*")):
                with _locked(other):
                    pass
            _remove_parts(folder)
            held.enter_context(_unclaimed_on_bad_input(folder))
        else:
            with _locked(folder / LOCK, passing=True):
                held.enter_context(_locked(folder / _SHARE.format(number, count)))
        yield


@contextmanager
def _locked(path: Path, passing: bool = False) -> Iterator[None]:
    """Hold the lock ``path`` of its folder, and say in it who does; the file is removed at the end.

    ``passing``: for a moment, without a name in it; others that pass are waited for, half a minute at most.
    """
    lock, before = FileLock(path, timeout=0.5, poll_interval=0.01), _holder(path)
    for left in reversed(range(60 if passing else 1)):
        try:
            lock.acquire()
            break
        except Timeout:
            who = _holder(path) or before  # filelock before 3.30 empties the file when it is refused
            if who or not left:
                raise InputError(
                    f"{path.parent} is in use by {who or 'another process'}: wait for its end, stop it, or choose "
                    f"another folder"
                ) from None
        except OSError as error:
            raise _unwritable(path.parent, error) from error
    try:
        try:
            path.write_text("" if passing else _this_process(), encoding="utf-8", errors=ESCAPE)
        except OSError as error:
            raise _unwritable(path.parent, error) from error
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"could not write {folder} ({error.strerror}): check the path, its permissions and free space, or choose "
        f"another folder"
    )


def _remove_parts(folder: Path) -> None:
    """Remove what a killed process was about to write in ``folder``, and in those below that nobody else holds."""
    below = [each for each in folder.iterdir() if each.is_dir() and not any(each.glob(".wsfp*.lock"))]
    for part in [part for each in (folder, *below) for part in each.glob("*".join(_TEMPORARY))]:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


@contextmanager
def _unclaimed_on_bad_input(folder: Path) -> Iterator[None]:
    # Some bad input is met only after the folder was claimed, and mended, say another label map, it is another claim.
    claims = [path for path in (folder / SETTINGS, folder / CONFIG) if not path.exists()]
    try:
        yield
    except InputError:
        if all(path in claims or path.name == LOCK for path in folder.iterdir()):
            for path in claims:
                path.unlink(missing_ok=True)
        raise


def _remove_empty(folders: list[Path]) -> None:
    for each in folders:
        with suppress(OSError):
            each.rmdir()


def _this_process() -> str:
    command = " ".join(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]).split())[:200]
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {now} ({command})"


def existing(path: str | Path, what: str = "file") -> Path:
    """``path`` if it exists, else an :class:`InputError` that names it and says why it cannot be read."""
    path = Path(path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"no {what} at {path}: check the path") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, error) from error
    return path


def existing_file(path: str | Path, what: str = "file", inside: str = "") -> Path:
    """``path`` if it is a file that may be read; ``inside`` is the name that a file of this kind has in its folder."""
    path = existing(path, what)
    if path.is_dir():
        hint = f"; did you mean {path / inside}?" if inside and (path / inside).exists() else ""
        raise InputError(f"{path} is a folder: expected the {what} itself{hint}")
    if not path.is_file():
        raise InputError(f"{path} is a pipe or device: expected the {what} itself, a plain file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise _unreadable(path, what, error) from error
    return path


def _unreadable(path: Path, what: str, error: Exception) -> InputError:
    why = getattr(error, "strerror", None) or error
    return InputError(f"{path} cannot be opened as {what} ({why}): check its name and permissions")


def sha256_of(path: str | Path) -> str:
    """SHA-256 of the content of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_array(path: str | Path) -> np.ndarray:
    """Read what :func:`write_array` wrote; raises :class:`InputError` when it is missing, damaged or something else."""
    path = existing_file(path, "array")
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is no array, or not whole: remove it, and the same command makes it again") from error
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path} is no array, but an archive of some: remove it, and the same command makes it again")
    return found


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write an array as ``.npy``, atomically."""
    with atomic_path(path) as part, part.open("wb") as file:
        np.save(file, array, allow_pickle=False)

"""Reading and writing files so that nothing half-written stays behind, and errors that say what to do."""

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

# Pillow refuses pictures of twice MAX_IMAGE_PIXELS, and warns of those between: they are read like any other.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is no image, only part of one, or too large."""


class InputError(ValueError):
    """Bad input from the user: the message is one sentence with what was expected, what came, and what to do."""


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """For scripts: :class:`InputError` ends the process with its sentence on stderr and exit code 2, as in ``wsfp``."""
    try:
        yield
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


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


def read_json(path: str | Path) -> object:
    """Read a JSON file; raises :class:`InputError` naming the file when it is missing or not JSON."""
    try:
        return json.loads(existing_file(path, "JSON file").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error}): write it again or restore it") from error


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


def read_image(path: str | Path) -> np.ndarray:
    """Read a picture as ``(H, W, 3)`` uint8 RGB with its EXIF orientation applied; 16-bit grey is scaled to 8 bits."""
    with open_picture(path) as picture:
        if picture.mode == "F":
            raise InputError(
                f"{path} holds floating-point numbers (mode F), which say nothing of black and white: expected 8 or 16 "
                f"bits; save it as a PNG or JPEG file"
            )
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):
            upright = Image.fromarray((np.array(upright) >> 8).clip(0, 255).astype(np.uint8))
        return np.array(upright.convert("RGB"))


def picture_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a picture as :func:`read_image` gives it, from its header only."""
    existing_file(path, "image")
    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return picture.size if turned else picture.size[::-1]
    except _DAMAGED as error:
        raise _no_image(path, error) from error


def read_label_map(path: str | Path, classes: int) -> np.ndarray:
    """Read an index PNG as ``(H, W)`` uint8; every value must be below ``classes`` or 255 (= ignored)."""
    with open_picture(path) as picture:
        check_mode(picture.mode, path)
        label_map = np.array(picture)
    check_label_values(label_map, classes, path)
    return label_map


def check_mode(mode: str, path: str | Path) -> None:
    """Raise :class:`InputError` when an image of ``mode`` cannot be a label map."""
    if mode not in ("P", "L"):
        raise InputError(
            f"{path} is a label map of mode {mode}: expected 8-bit indexed or grey (mode P or L), "
            f"one class id a pixel; convert it, for RGB colours by their palette"
        )


def check_label_values(label_map: np.ndarray, classes: int, path: str | Path) -> None:
    """Raise :class:`InputError` when a label map has a value that is neither a class nor 255."""
    wrong = np.unique(label_map[(label_map >= classes) & (label_map != 255)])
    if len(wrong):
        raise InputError(
            f"{path} has label value {wrong[0]}: expected class ids 0 to {classes - 1} or 255 (ignored); "
            f"is it of another data set or a picture?"
        )


def write_index_png(path: str | Path, label_map: np.ndarray, palette: np.ndarray) -> None:
    """Write ``(H, W)`` uint8 class ids as an index PNG with ``palette`` ``(C, 3)`` uint8, atomically."""
    # With fewer colours Pillow would pack the ids into 4 bits and turn 255 into 15.
    colours = np.full((256, 3), 215, np.uint8)
    colours[: len(palette)] = palette
    picture = Image.fromarray(np.ascontiguousarray(label_map, np.uint8), mode="P")
    picture.putpalette(colours.tobytes())
    with atomic_path(path) as part:
        picture.save(part, format="PNG", optimize=False)


@contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """Open and decode an image; raises :class:`InputError` naming the file when it is missing or damaged."""
    existing_file(path, "image")
    with ExitStack() as stack:
        try:
            picture = stack.enter_context(Image.open(path))
            picture.load()
        except _DAMAGED as error:
            raise _no_image(path, error) from error
        yield picture


def _no_image(path: str | Path, error: Exception) -> InputError:
    if isinstance(error, Image.DecompressionBombError):
        return InputError(
            f"{path} has too many pixels: expected at most {2 * Image.MAX_IMAGE_PIXELS:,}; make the picture smaller"
        )
    return InputError(f"{path} cannot be read as an image ({error}): replace or remove it")

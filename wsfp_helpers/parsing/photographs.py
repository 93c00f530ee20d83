"""``wsfp parse``: label maps of one's own photographs, and sheets to look at them; ``wsfp predict``: of a test set."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from wsfp_helpers.common.accelerator import processes
from wsfp_helpers.common.checkpoints import fingerprint
from wsfp_helpers.common.configs import key_of
from wsfp_helpers.common.errors import InputError, one_line
from wsfp_helpers.common.files import (
    SETTINGS,
    append_row,
    atomic_path,
    claim_folder,
    cut_half_row,
    existing,
    hold_folder,
    read_whole_rows,
)
from wsfp_helpers.common.pictures import read_image, read_label_map, resize_label_map, write_index_png
from wsfp_helpers.data.folder import SUFFIXES
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.palette import PALETTE, paint
from wsfp_helpers.parsing.light import LightParser
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.parsing.zoom import FaceParser, Parsed, ZoomSettings

SMALL, FLAT = 32, 4.0
"""A photograph with a shorter side in pixels, or a standard deviation of every colour, below these shows no face."""
SHEETS = "sheets"
UNFINISHED = "unfinished.jsonl"
"""What a call has done so far; it goes on from there after a kill, and removes the file at its end."""
PER_SHEET = 20
FILMS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
"""Ends of names of video files, which get a sentence of their own."""
SURE = 0.75
"""A photograph whose face has less mean confidence than this in the closest look gets a warning."""

_TILE, _LINE = 240, 18


@dataclass
class ParseReport:
    """What was done: label maps written, and by photograph's name what was doubtful and what could not be read.

    ``skipped`` are the names of files in the folder that are not in a format that is read.
    """

    skipped: list[str]
    written: list[Path] = field(default_factory=list)
    sheets: list[Path] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict] = field(default_factory=dict)
    """By photograph's name and class: ``area``, its share of the picture, and ``confidence``, the mean there."""

    def as_dict(self) -> dict:
        """Everything by photograph's name, for a JSON file."""
        photographs = {
            name: {"map": path.name, "warning": self.warnings.get(name, ""), "parts": parts}
            for path, (name, parts) in zip(self.written, self.parts.items(), strict=True)
        }
        return {"photographs": photographs, "failed": self.failed, "skipped": self.skipped}

    def __str__(self) -> str:
        lines = [f"{len(self.written)} label maps written, to look at: {', '.join(map(str, self.sheets)) or 'none'}"]
        lines += [f"warning: {name}: {text}" for name, text in self.warnings.items()]
        lines += [f"failed: {name}: {text}" for name, text in self.failed.items()]
        if self.skipped:
            lines.append(
                f"skipped: {len(self.skipped)} files of other formats than {', '.join(SUFFIXES)}, the first is "
                f"{self.skipped[0]}: convert photographs to JPEG"
            )
        return "\n".join(map(one_line, lines))


def parse_photographs(source: str | Path, out: str | Path, parser: str | Path | FaceParser = "weak") -> ParseReport:
    """Parse a photograph or every photograph of a folder; write ``out/NAME.png`` and overlay sheets in ``out/sheets``.

    A label map is an index PNG of the 19 classes with the size that the photograph has on a screen (its EXIF
    orientation applied).  A photograph that cannot be read is named in ``failed`` and the others go on; one without a
    clear face gets an answer and a warning.  ``out`` may hold what this parser has written before: maps of the same
    names are replaced, sheets are kept and numbered on.  After a kill the same call goes on.

    Raises:
        InputError: There is nothing to do, ``out`` is the folder of the photographs, in use, or holds PNG files of
            anything else, another parser's maps among them, or two photographs would get the same name.
    """
    photographs, skipped = find_photographs(source)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: expected a folder for the label maps; choose another")
    if out.exists() and out.samefile(photographs[0].parent):
        raise InputError(
            f"{out} is the folder of the photographs, which could be overwritten: choose another for --out"
        )
    stems = [path.stem for path in photographs]
    if len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"two photographs in {source} are called {twice!r}, and so would be their maps: rename one")
    if not isinstance(parser, FaceParser):
        parser = load_parser(parser)
        if isinstance(parser, LightParser):
            parser.fast = True
    report = ParseReport(skipped)
    with hold_folder(out):
        _parse_all(photographs, out, parser, report)
    return report


def _parse_all(photographs: list[Path], out: Path, parser: FaceParser, report: ParseReport) -> None:
    settings, progress, tiles = {"parser": fingerprint(parser.network)}, out / UNFINISHED, []
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in photographs]
    call = key_of({"photographs": facts, "rows": "with parts", **settings})
    done = _done_before(progress, call)
    first = next((row["sheet"] for row in done.values()), None) or _free_number(out / SHEETS)

    def finish(photograph: Path, image: np.ndarray, parsed: Parsed | None) -> tuple[Path, dict, Image.Image]:
        path = out / f"{photograph.stem}.png"
        if parsed is None:
            label_map, row = read_label_map(path, len(CELEBAMASK)), done[photograph.name]
        else:
            label_map, confidence = parsed.label_map()
            row = {"call": call, "sheet": first, "photograph": photograph.name, "warning": find_doubt(parsed, image)}
            row["parts"] = measure_parts(label_map, confidence)
            write_index_png(path, label_map, PALETTE)
            append_row(progress, row)
        return path, row, _tile(image, label_map, photograph.name, row["warning"])

    def take(photograph: Path, finished: tuple[Path, dict, Image.Image]) -> None:
        nonlocal tiles
        path, row, tile = finished
        report.written.append(path)
        report.parts[photograph.name] = row["parts"]
        if row["warning"]:
            report.warnings[photograph.name] = row["warning"]
        tiles.append(tile)
        if len(tiles) == PER_SHEET:
            report.sheets.append(_write_sheet(tiles, _sheet_path(out / SHEETS, first + len(report.sheets))))
            tiles = []

    before: tuple[Path, Future] | None = None
    with ThreadPoolExecutor(1) as beside:
        for photograph, image in _read_ahead(photographs, beside, report):
            known = photograph.name in done and (out / f"{photograph.stem}.png").exists()
            parsed = None if known else parser.parse(image)
            if before is None:  # only now, so that a call that can read no photograph leaves no folder behind
                claim_folder(out, settings, "label maps", "*.png")
            else:
                take(before[0], before[1].result())
            before = photograph, beside.submit(finish, photograph, image, parsed)
        if before is not None:
            take(before[0], before[1].result())
    if tiles:
        report.sheets.append(_write_sheet(tiles, _sheet_path(out / SHEETS, first + len(report.sheets))))
    progress.unlink(missing_ok=True)


def _done_before(progress: Path, call: str) -> dict[str, dict]:
    """What a killed ``call`` has done, by photograph's name."""
    if progress.exists() and not (progress.parent / SETTINGS).exists():
        raise InputError(f"{progress} is not of wsfp parse, which would remove it: rename it or choose another folder")
    cut_half_row(progress)
    rows = read_whole_rows(progress, "progress of wsfp parse") if progress.exists() else []
    return {row["photograph"]: row for row in rows if row.get("call") == call}


def _read_ahead(
    photographs: list[Path], beside: ThreadPoolExecutor, report: ParseReport
) -> Iterator[tuple[Path, np.ndarray]]:
    """Photographs and their pixels, each read while the caller is busy with the one before."""
    reading = beside.submit(read_image, photographs[0])
    alone = len(photographs) == 1
    for number, photograph in enumerate(tqdm(photographs, "parse", unit="photograph", leave=False, disable=alone), 1):
        try:
            image = reading.result()
        except (InputError, ValueError, MemoryError, Image.DecompressionBombError) as error:
            report.failed[photograph.name], image = str(error), None
        if number < len(photographs):
            reading = beside.submit(read_image, photographs[number])
        if image is not None:
            yield photograph, image


def predict_set(faces: WeakFaces, out: str | Path, parser: str | Path | FaceParser) -> Path:
    """Write the label map of every picture of a test set as ``out/ID.png``, with the picture's size; returns ``out``.

    Photographs are parsed as :func:`parse_photographs` does.  Faces framed as the training pictures are seen once, as
    a whole, averaged with the mirror image.  Maps that are there are kept.  Of several processes (``accelerate
    launch``) each takes its share.  Raises :class:`InputError` when ``out`` holds maps of another parser or set.
    """
    state = processes()
    out, parser = Path(out), parser if isinstance(parser, FaceParser) else load_parser(parser)
    settings = ZoomSettings(most=0) if faces.framed else ZoomSettings()
    with hold_folder(out, (state.process_index, state.num_processes)):
        claim_folder(out, {"parser": fingerprint(parser.network), "faces": faces.name}, "label maps", "*.png")
        mine = range(state.process_index, len(faces), state.num_processes)
        for index in tqdm(mine, desc=f"predict, {faces.name}", unit="face", leave=False):
            path = out / f"{faces.ids[index]}.png"
            if not path.exists():
                write_index_png(path, parser.predict(faces.image(index), settings)[0], PALETTE)
    state.wait_for_everyone()
    return out


def find_photographs(source: str | Path) -> tuple[list[Path], list[str]]:
    """The photograph ``source``, or those directly in the folder ``source``, by name; and the names of other files.

    Hidden files are left out.
    """
    source = existing(source, "photograph or folder")
    files = [source] if source.is_file() else [p for p in source.iterdir() if p.is_file() and p.name[0] != "."]
    found = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
    if not found and (films := [path.name for path in files if path.suffix.lower() in FILMS]):
        raise InputError(
            f"{films[0]} is a film: expected photographs; take single pictures out of it, say with "
            f"ffmpeg -i {films[0]} -vf fps=1 frames/%04d.jpg"
        )
    if not found:
        raise InputError(f"no photographs at {source}: expected {', '.join(SUFFIXES)} files; convert others to JPEG")
    return found, sorted(path.name for path in files if path.suffix.lower() not in SUFFIXES)


def measure_parts(label_map: np.ndarray, confidence: np.ndarray) -> dict[str, dict[str, float]]:
    """Of each class in a map ``(H, W)`` uint8: ``area``, its share of the pixels, and its mean ``confidence``."""
    counts = np.bincount(label_map.reshape(-1), minlength=len(CELEBAMASK))
    sums = np.bincount(label_map.reshape(-1), confidence.reshape(-1), len(CELEBAMASK))
    return {
        CELEBAMASK.classes[k]: {
            "area": round(float(counts[k] / label_map.size), 6), "confidence": round(float(sums[k] / counts[k]), 4)
        }
        for k in np.flatnonzero(counts)
    }  # fmt: skip


def find_doubt(parsed: Parsed, image: np.ndarray) -> str:
    """Why the answer for a photograph ``(H, W, 3)`` uint8 may be wrong, in one sentence, or an empty text."""
    height, width = image.shape[:2]
    if min(height, width) < SMALL:
        return f"too small ({width} x {height} pixels): the map is a guess"
    if image[::4, ::4].std((0, 1)).max() < FLAT:
        return "hardly any contrast: the map is a guess"
    if parsed.face is None:
        return "no face was found: the map is a guess"
    if parsed.certainty < SURE:
        return f"low confidence ({parsed.certainty:.2f}): is the face frontal, sharp and well lit?"
    return ""


def _tile(image: np.ndarray, label_map: np.ndarray, name: str, doubt: str) -> Image.Image:
    """Photograph and overlay side by side with the name below, ``2 * _TILE`` pixels wide."""
    photograph = Image.fromarray(image)
    photograph.thumbnail((_TILE, _TILE), Image.Resampling.BICUBIC, reducing_gap=3)
    colours = Image.fromarray(paint(resize_label_map(label_map, photograph.size[::-1])))
    overlay = Image.blend(photograph, colours, 0.6)
    tile = Image.new("RGB", (2 * _TILE, _TILE + _LINE), "white")
    for start, picture in ((0, photograph), (_TILE, overlay)):
        tile.paste(picture, (start + (_TILE - picture.width) // 2, (_TILE - picture.height) // 2))
    text = one_line(f"{name}  (!) {doubt.partition(':')[0]}" if doubt else name)
    ImageDraw.Draw(tile).text((4, _TILE + 2), text[:76], "#b00000" if doubt else "black", ImageFont.load_default(12))
    return tile


def _free_number(folder: Path) -> int:
    return next(number for number in count(1) if not _sheet_path(folder, number).exists())


def _sheet_path(folder: Path, number: int) -> Path:
    return folder / f"sheet_{number:03d}.png"


def _write_sheet(tiles: list[Image.Image], path: Path) -> Path:
    columns = min(2, len(tiles))
    rows = -(-len(tiles) // columns)
    legend = list(_legend(2 * _TILE * columns))
    sheet = Image.new("RGB", (2 * _TILE * columns, rows * tiles[0].height + _LINE * (1 + legend[-1][1])), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * tile.width, place // columns * tile.height))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for k, (x, line) in enumerate(legend):
        y = rows * tiles[0].height + line * _LINE
        draw.rectangle((x, y + 2, x + 12, y + 14), tuple(PALETTE[k].tolist()), "black")
        draw.text((x + 16, y + 1), CELEBAMASK.words[k], "black", font)
    with atomic_path(path) as part:
        sheet.save(part, format="PNG")
    return path


def _legend(width: int) -> Iterator[tuple[int, int]]:
    """Places (x in pixels, line) of the colour keys of the 19 classes."""
    columns = width // 110
    for k in range(len(CELEBAMASK)):
        yield 4 + k % columns * 110, k // columns

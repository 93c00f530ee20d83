"""``wsfp parse``: label maps of one's own photographs, and sheets to look at them; ``wsfp predict``: of a test set."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm.auto import tqdm

from wsfp_helpers.common.accelerator import processes
from wsfp_helpers.common.checkpoints import fingerprint
from wsfp_helpers.common.configs import key_of
from wsfp_helpers.common.errors import InputError, one_line
from wsfp_helpers.common.files import (
    SETTINGS,
    append_row,
    atomic_path,
    check_folder,
    claim_folder,
    cut_half_row,
    existing,
    hold_folder,
    read_whole_rows,
)
from wsfp_helpers.common.pictures import (
    picture_size,
    read_image,
    read_label_map,
    resize_label_map,
    write_index_png,
)
from wsfp_helpers.data.folder import SUFFIXES
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.palette import PALETTE, paint
from wsfp_helpers.parsing.light import LightParser, look_together
from wsfp_helpers.parsing.load import SHIPPED_PARSERS, load_parser
from wsfp_helpers.parsing.zoom import (
    CANVAS,
    FaceParser,
    Look,
    Parsed,
    ZoomSettings,
    agree,
    enlarge_labels,
    parse_canvases,
    to_canvas,
)

TITLES = {"weak": "learnt without masks", "supervised": "learnt with masks"}
"""What the shipped parsers are called where people look."""
SMALL, FLAT = 32, 4.0
"""A photograph with a shorter side in pixels, or a standard deviation of every colour, below these shows no face."""
SHEETS = "sheets"
UNFINISHED = "unfinished.jsonl"
"""What a call has done so far; it goes on from there after a kill, and removes the file at its end."""
PER_SHEET = 20
TOGETHER = 4
"""Photographs that go through the network together; more are hardly faster on a CPU."""
FILMS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
"""Ends of names of video files, which get a sentence of their own."""
AGREED = 0.46
"""A photograph gets a warning when both parsers agree less than this in the closest look at the face."""
SURE = 0.75
"""A face in which one parser, asked alone, has less mean confidence than this in the closest look gets a warning."""
EYES = 0.004
"""A photograph gets a warning when less than this share of the face is called an eye, in the mean of the parsers."""

_EYES = [CELEBAMASK.index(name) for name in CELEBAMASK.components if name.endswith("_eye")]
_TILE, _LINE = 240, 18


@dataclass
class ParseReport:
    """What was done: label maps written, and by photograph's name what was doubtful and what could not be read.

    ``skipped`` are the names of files in the folder that are not in a format that is read.
    """

    folders: Mapping[str, Path]
    """Where the label maps of each parser are."""
    skipped: list[str]
    written: list[Path] = field(default_factory=list)
    sheets: list[Path] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[str, dict]] = field(default_factory=dict)
    """By photograph's name, parser and class: ``area``, its share of the picture, and its mean ``confidence``."""

    def as_dict(self) -> dict:
        """Everything by photograph's name, for a JSON file."""
        photographs = {
            name: {
                "warning": self.warnings.get(name, ""),
                "parsers": {
                    parser: {"map": str(_map_path(self.folders[parser], Path(name))), "parts": parts}
                    for parser, parts in by_parser.items()
                },
            }
            for name, by_parser in self.parts.items()
        }
        return {"photographs": photographs, "failed": self.failed, "skipped": self.skipped}

    def __str__(self) -> str:
        named = {f"{folder} ({TITLES.get(name, name)})" for name, folder in self.folders.items()}
        where = f" in {' and '.join(sorted(named))}" if len(self.folders) > 1 and self.written else ""
        lines = [
            f"{len(self.written)} label maps written{where}, to look at: {', '.join(map(str, self.sheets)) or 'none'}"
        ]
        lines += [f"warning: {name}: {text}" for name, text in self.warnings.items()]
        lines += [f"failed: {name}: {text}" for name, text in self.failed.items()]
        if self.skipped:
            lines.append(
                f"skipped: {len(self.skipped)} files of other formats than {', '.join(SUFFIXES)}, the first is "
                f"{self.skipped[0]}: convert photographs to JPEG"
            )
        return "\n".join(map(one_line, lines))


def parse_photographs(
    source: str | Path, out: str | Path, parser: str | Path | FaceParser | None = None
) -> ParseReport:
    """Parse a photograph or every photograph of a folder; write label maps, and sheets to look at in ``out/sheets``.

    With one ``parser`` maps are ``out/NAME.png``.  Without one both shipped parsers answer, side by side on the sheets:
    ``out/weak/NAME.png`` learnt without masks, ``out/supervised/NAME.png`` learnt with masks.

    A label map is an index PNG of the 19 classes with the size that the photograph has on a screen (its EXIF
    orientation applied).  A photograph that cannot be read is named in ``failed`` and the others go on; one without a
    clear face gets an answer and a warning.  ``out`` may hold what these parsers have written before: maps of the same
    names are replaced, sheets are kept and numbered on.  After a kill the same call goes on.

    Raises:
        InputError: There is nothing to do, ``out`` is the folder of the photographs, in use, or holds PNG files of
            anything else, another parser's maps among them, or two photographs would get the same name.
    """
    photographs, skipped = find_photographs(source)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: expected a folder for the label maps; choose another")
    folders = {name: out / name for name in SHIPPED_PARSERS} if parser is None else {_name(parser): out}
    for folder in (out, *folders.values()):
        if folder.exists() and folder.samefile(photographs[0].parent):
            raise InputError(
                f"{folder} is the folder of the photographs, which could be overwritten: choose another for --out"
            )
    stems = [path.stem for path in photographs]
    if len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"two photographs in {source} are called {twice!r}, and so would be their maps: rename one")
    parsers = [parser] if isinstance(parser, FaceParser) else _load([parser] if parser else list(SHIPPED_PARSERS))
    report = ParseReport(folders, skipped)
    with hold_folder(out):
        _parse_all(photographs, out, dict(zip(folders, parsers, strict=True)), report)
    return report


def _name(parser: str | Path | FaceParser) -> str:
    return "parser" if isinstance(parser, FaceParser) else str(parser)


def _load(names: Sequence[str | Path]) -> list[FaceParser]:
    parsers = [load_parser(name) for name in names]
    for parser in parsers:
        if isinstance(parser, LightParser):
            parser.fast = True
    return parsers


@dataclass(frozen=True, eq=False)
class _Finished:
    """A photograph that was parsed, or that could not be read."""

    photograph: Path
    failed: str = ""
    row: dict = field(default_factory=dict)
    """What is said of it, as in :data:`UNFINISHED`."""
    maps: Sequence[np.ndarray] = ()
    """A label map ``(H, W)`` uint8 of each parser where they are not on disk."""
    tile: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class _Worker:
    """Does everything but writing, which is done in order."""

    parsers: Mapping[str, FaceParser]
    folders: Mapping[str, Path]
    done: Mapping[str, dict]
    """What is known of a killed call, by photograph's name."""
    call: dict
    """What every row has."""
    stop: Event = field(default_factory=Event)
    """Set when the call is left: each thread ends before its next look."""

    def __call__(self, photographs: Sequence[Path]) -> list[_Finished]:
        """Photographs that go through the network together, all of them again when one is not done.

        Otherwise their maps could differ in the last bit from those of a call that was not killed.
        """
        read = {photograph: self._read(photograph) for photograph in photographs}
        shown = {photograph: content for photograph, content in read.items() if not isinstance(content, str)}
        again = not all(self._is_done(photograph) for photograph in shown)
        found = dict(zip(shown, self._parse(list(shown.values())), strict=True)) if again else {}
        return [
            _Finished(photograph, content) if isinstance(content, str) else self._finish(
                photograph, *content, found.get(photograph)
            )
            for photograph, content in read.items()
        ]  # fmt: skip

    def paths(self, photograph: Path) -> list[Path]:
        """Where the maps of a photograph are written."""
        return [_map_path(folder, photograph) for folder in self.folders.values()]

    def _is_done(self, photograph: Path) -> bool:
        return photograph.name in self.done and all(path.exists() for path in self.paths(photograph))

    def _parse(self, shown: Sequence[tuple[np.ndarray, tuple[int, int]]]) -> list[list[Parsed]]:
        if not shown:
            return []
        parsers = list(self.parsers.values())
        light = [parser for parser in parsers if isinstance(parser, LightParser)]
        look: Look = lambda pictures, flip: [parser.probabilities(pictures, flip) for parser in parsers]  # noqa: E731
        if len(light) == len(parsers) > 1:
            look = partial(look_together, light)

        def look_on(pictures: np.ndarray, flip: bool) -> Sequence[Tensor]:
            self._go_on()
            return look(pictures, flip)

        canvases, sizes = zip(*shown, strict=True)
        return parse_canvases(look_on, parsers[0].size, canvases, sizes, ZoomSettings())

    def _read(self, photograph: Path) -> tuple[np.ndarray, tuple[int, int]] | str:
        self._go_on()
        return _read(photograph)

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise CancelledError

    def _finish(
        self, photograph: Path, canvas: np.ndarray, size: tuple[int, int], parsed: Sequence[Parsed] | None
    ) -> _Finished:
        if parsed is None:
            row, new = self.done[photograph.name], []
            maps = [read_label_map(path, len(CELEBAMASK)) for path in self.paths(photograph)]
        else:
            row = {**self.call, "photograph": photograph.name, "warning": find_doubt(parsed, canvas, size)}
            row["parts"] = {name: measure_parts(each) for name, each in zip(self.parsers, parsed, strict=True)}
            maps = new = [enlarge_labels(each.probability, size) for each in parsed]
        return _Finished(photograph, "", row, new, _tile(canvas, maps, photograph.name, row["warning"]))


def _parse_all(photographs: list[Path], out: Path, parsers: Mapping[str, FaceParser], report: ParseReport) -> None:
    prints = {name: fingerprint(parser.network) for name, parser in parsers.items()}
    owners = {report.folders[name]: {"parser": each} for name, each in prints.items()}
    if len(parsers) > 1:
        owners[out] = prints
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in photographs]
    call = key_of({"photographs": facts, "rows": "parts by parser", **owners[out]})
    done = _done_before(out / UNFINISHED, call)
    first = next((row["sheet"] for row in done.values()), None) or _free_number(out / SHEETS)
    for folder, settings in owners.items():
        check_folder(folder, settings, "label maps", "*.png")
    work, tiles = _Worker(parsers, report.folders, done, {"call": call, "sheet": first}), []
    chunks = [photographs[start : start + TOGETHER] for start in range(0, len(photographs), TOGETHER)]
    alone = len(photographs) == 1
    with closing(_in_order(work, chunks)) as groups:
        every = (one for group in groups for one in group)
        for one in tqdm(every, "parse", len(photographs), unit="photograph", leave=False, disable=alone):
            if one.tile is None:
                report.failed[one.photograph.name] = one.failed
                continue
            if not report.written:  # only now, so that a call that can read no photograph leaves no folder behind
                for folder, settings in owners.items():
                    claim_folder(folder, settings, "label maps", "*.png")
            _write(one, work.paths(one.photograph), out / UNFINISHED, report)
            tiles.append(one.tile)
            if len(tiles) == PER_SHEET:
                report.sheets.append(
                    _write_sheet(tiles, parsers, _sheet_path(out / SHEETS, first + len(report.sheets)))
                )
                tiles = []
    if tiles:
        report.sheets.append(_write_sheet(tiles, parsers, _sheet_path(out / SHEETS, first + len(report.sheets))))
    (out / UNFINISHED).unlink(missing_ok=True)


def _write(one: _Finished, paths: Sequence[Path], progress: Path, report: ParseReport) -> None:
    """Write the maps of a photograph where they are not there, and say so in the report."""
    name = one.photograph.name
    if one.maps:
        for path, label_map in zip(paths, one.maps, strict=True):
            write_index_png(path, label_map, PALETTE)
        append_row(progress, one.row)
    report.written += paths
    report.parts[name] = one.row["parts"]
    if one.row["warning"]:
        report.warnings[name] = one.row["warning"]


def _map_path(folder: Path, photograph: Path) -> Path:
    return folder / f"{photograph.stem}.png"


def _read(photograph: Path) -> tuple[np.ndarray, tuple[int, int]] | str:
    """Canvas and size of a photograph, or why it cannot be read."""
    try:
        size = picture_size(photograph)
        return to_canvas(read_image(photograph, CANVAS), size), size
    except (InputError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        return str(error)


def _in_order(work: _Worker, items: Sequence[Sequence[Path]]) -> Generator[list[_Finished], None, None]:
    """``work(item)`` of every item, in order, a few at a time, each on its share of torch's threads."""
    threads = torch.get_num_threads()
    workers = min(threads, len(items))
    waiting: deque[Future[list[_Finished]]] = deque()
    pool, whole = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)), False
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        whole = True
    finally:
        work.stop.set()
        pool.shutdown(wait=whole, cancel_futures=True)  # else a look takes a second, and nobody wants its answer
        torch.set_num_threads(threads)  # which a thread sets for all that start later


def _done_before(progress: Path, call: str) -> dict[str, dict]:
    """What a killed ``call`` has done, by photograph's name."""
    if progress.exists() and not (progress.parent / SETTINGS).exists():
        raise InputError(f"{progress} is not of wsfp parse, which would remove it: rename it or choose another folder")
    cut_half_row(progress)
    rows = read_whole_rows(progress, "progress of wsfp parse") if progress.exists() else []
    return {row["photograph"]: row for row in rows if row.get("call") == call}


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
        with state.main_process_first():
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


def measure_parts(parsed: Parsed) -> dict[str, dict[str, float]]:
    """Of each class on the canvas: ``area``, its share of the picture, and ``confidence``, its mean there."""
    best, index = parsed.probability.max(0)
    counts = np.bincount(index.reshape(-1), minlength=len(CELEBAMASK))
    sums = np.bincount(index.reshape(-1), best.reshape(-1), len(CELEBAMASK))
    return {
        CELEBAMASK.classes[k]: {
            "area": round(float(counts[k] / counts.sum()), 6), "confidence": round(float(sums[k] / counts[k]), 4)
        }
        for k in np.flatnonzero(counts)
    }  # fmt: skip


def find_doubt(parsed: Sequence[Parsed], canvas: np.ndarray, size: tuple[int, int]) -> str:
    """Why the answers for a photograph may be wrong, in one sentence, or an empty text.

    ``canvas`` ``(h, w, 3)`` uint8 and ``size`` (H, W) are those of the photograph.
    """
    height, width = size
    if min(size) < SMALL:
        return f"too small ({width} x {height} pixels): the map is a guess"
    if canvas[::2, ::2].std((0, 1)).max() < FLAT:
        return "hardly any contrast: the map is a guess"
    if parsed[0].face is None:
        return "no face was found: the map is a guess"
    if len(parsed) > 1:
        agreement = agree(*(each.closest[1].numpy() for each in parsed))
        if agreement < AGREED:
            return f"the parsers disagree ({agreement:.2f}): is the face upright, uncovered, sharp and well lit?"
    elif parsed[0].certainty < SURE:
        return f"low confidence ({parsed[0].certainty:.2f}): is the face frontal, sharp and well lit?"
    if np.mean([np.isin(each.closest[1], _EYES).mean() for each in parsed]) < EYES:
        return "hardly any eyes were found: are they covered or closed?"
    return ""


def _tile(canvas: np.ndarray, maps: Sequence[np.ndarray], name: str, doubt: str) -> Image.Image:
    """Photograph and overlays side by side with the name below, each ``_TILE`` pixels wide."""
    photograph = Image.fromarray(canvas)
    photograph.thumbnail((_TILE, _TILE), Image.Resampling.BICUBIC)
    colours = [Image.fromarray(paint(resize_label_map(each, photograph.size[::-1]))) for each in maps]
    overlays = [Image.blend(photograph, each, 0.6) for each in colours]
    tile = Image.new("RGB", ((1 + len(maps)) * _TILE, _TILE + _LINE), "white")
    for place, picture in enumerate((photograph, *overlays)):
        tile.paste(picture, (place * _TILE + (_TILE - picture.width) // 2, (_TILE - picture.height) // 2))
    text = one_line(f"{name}  (!) {doubt.partition(':')[0]}" if doubt else name)
    ImageDraw.Draw(tile).text((4, _TILE + 2), text[:76], "#b00000" if doubt else "black", ImageFont.load_default(12))
    return tile


def _free_number(folder: Path) -> int:
    return next(number for number in count(1) if not _sheet_path(folder, number).exists())


def _sheet_path(folder: Path, number: int) -> Path:
    return folder / f"sheet_{number:03d}.png"


def _write_sheet(tiles: list[Image.Image], parsers: Iterable[str], path: Path) -> Path:
    """Tiles below the colours of the classes and the names of the columns."""
    (width, height), columns = tiles[0].size, min(2, len(tiles))
    legend = list(_legend(width * columns))
    top = _LINE * (2 + legend[-1][1])
    sheet = Image.new("RGB", (width * columns, top + -(-len(tiles) // columns) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for k, (x, line) in enumerate(legend):
        y = line * _LINE
        draw.rectangle((x, y + 2, x + 12, y + 14), tuple(PALETTE[k].tolist()), "black")
        draw.text((x + 16, y + 1), CELEBAMASK.words[k], "black", font)
    for column in range(columns):
        for place, name in enumerate(("photograph", *parsers)):
            draw.text((column * width + place * _TILE + 4, top - _LINE + 1), TITLES.get(name, name)[:38], "black", font)
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * width, top + place // columns * height))
    with atomic_path(path) as part:
        sheet.save(part, format="PNG", compress_level=1)
    return path


def _legend(width: int) -> Iterator[tuple[int, int]]:
    """Places (x in pixels, line) of the colour keys of the 19 classes."""
    columns = width // 110
    for k in range(len(CELEBAMASK)):
        yield 4 + k % columns * 110, k // columns

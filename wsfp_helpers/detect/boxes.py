"""The boxes file: detection is done once, kept as JSON lines, resumed after a kill, and split over processes.

One line is one picture; coordinates are pixels of the picture as it was given to the detector::

    {"id": "00012", "size": [H, W], "detector": NAME, "boxes": {"eye": [[x1, y1, x2, y2, score], ...], "ear": [], ...}}

Every phrase that was asked has a key, so an empty list means that nothing was found.  A line counts from its line
feed on: half a line at the end is what a kill leaves, and :func:`detect_dataset` drops it and goes on.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS, ESCAPE, atomic_path, existing_file, hold_folder
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import PHRASES, Candidates, Detection, Detector


@dataclass(frozen=True)
class BoxRecord:
    """The candidates of one picture: its ``id``, its ``size`` (H, W), the detector's name, candidates by phrase."""

    id: str
    size: tuple[int, int]
    detector: str
    candidates: Candidates

    def line(self) -> str:
        """The record as one line of a boxes file: tenths of a pixel, thousandths of a score."""
        rounded = {
            phrase: [[*(round(v, 1) for v in d.box), round(d.score, 3)] for d in found]
            for phrase, found in self.candidates.items()
        }
        boxes = {phrase: [b for b in rows if b[0] < b[2] and b[1] < b[3]] for phrase, rows in rounded.items()}
        content = {"id": self.id, "size": list(self.size), "detector": self.detector, "boxes": boxes}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


Boxes = Mapping[str, BoxRecord]
"""Records by the id of their picture."""


class BoxesFile(Boxes):
    """The records of a boxes file, of which only the places are in memory: each is read when it is asked for."""

    def __init__(self, path: Path, places: Mapping[str, int]) -> None:
        self.path, self.places = path, places

    def __getitem__(self, key: str) -> BoxRecord:
        place = self.places[key]
        with self.path.open("rb") as file:
            file.seek(place)
            record = _parse(file.readline(), f"{self.path}, byte {place}")
        if record.id != key:
            raise InputError(f"{self.path} was changed while it was read: start the same command again")
        return record

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def read_boxes(path: str | Path) -> Boxes:
    """All records of a boxes file, every line checked once; they are read from the file when they are asked for.

    Raises :class:`InputError` with the number of the line for half a line, a duplicate id, a box outside its picture
    or anything else that is not the format.
    """
    boxes, kept = _read(path)
    if kept < Path(path).stat().st_size:
        raise InputError(
            f"the last line of {path} is cut: the detection was killed; run it again with the same file, it goes on "
            f"after {len(boxes)} images"
        )
    return boxes


def _read(path: str | Path, check: Callable[[BoxRecord], None] = lambda record: None) -> tuple[Boxes, int]:
    """Records of the whole lines, each given to ``check``, and their length in bytes."""
    places, end = dict[str, int](), 0
    with existing_file(path, "boxes file", "boxes.jsonl").open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            where = f"{path}, line {number}"
            record = _parse(line, where)
            if record.id in places:
                raise InputError(f"{where}: the id {record.id!r} is there twice; remove one of the two lines")
            check(record)
            places[record.id] = end
            end += len(line)
    return BoxesFile(Path(path), places), end


def _parse(line: bytes, where: str) -> BoxRecord:
    try:
        content = json.loads(line.rstrip(b"\r\n"))
        key, (height, width), name, found = (content[k] for k in ("id", "size", "detector", "boxes"))
        candidates = {
            phrase: [Detection((x1, y1, x2, y2), score, phrase) for x1, y1, x2, y2, score in boxes]
            for phrase, boxes in found.items()
        }
        if not isinstance(key, str) or not isinstance(name, str):
            raise TypeError("expected texts as id and detector")
        if type(height) is not int or type(width) is not int or not 0 < min(height, width) <= max(height, width) < 1e6:
            raise ValueError(f"expected the height and width of a picture, got {height} and {width}")
        if candidates.keys() != set(PHRASES):
            raise ValueError(f"expected the phrases {', '.join(PHRASES)}, got {', '.join(candidates) or 'none'}")
        for phrase, detections in candidates.items():
            for (x1, y1, x2, y2), score, _ in detections:
                if not {type(each) for each in (x1, y1, x2, y2, score)} <= {int, float} or not 0 <= score <= 1:
                    raise ValueError(f"expected four numbers and a score from 0 to 1, got {[x1, y1, x2, y2, score]}")
                if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
                    raise InputError(
                        f"{where}: the {phrase} box [{x1}, {y1}, {x2}, {y2}] of {key} is not inside its picture of "
                        f"{width} x {height} pixels; expected x1, y1, x2, y2 in pixels"
                    )
            detections.sort(key=lambda d: -d.score)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f'{where} is not a line of a boxes file ({error}): expected {{"id", "size": [H, W], "detector", "boxes": '
            f'{{"eye": [[x1, y1, x2, y2, score], ...], ...}}}}; remove the line'
        ) from error
    return BoxRecord(key, (height, width), name, candidates)


def detect_dataset(
    faces: WeakFaces,
    detector: Detector,
    out: str | Path,
    phrases: Sequence[str] = PHRASES,
    shard: tuple[int, int] = (0, 1),
    batch: int = 8,
) -> Path:
    """Write the candidates of every picture to a boxes file and return its path; pictures already there are skipped.

    ``shard=(i, n)`` is the i-th of n processes: it takes every n-th picture and writes :func:`shard_path`;
    :func:`gather_boxes` joins them.  ``batch`` pictures are shown to the detector at a time, fewer where a GPU has too
    little memory.  Raises :class:`InputError` when the file is of other pictures or another detector.
    """
    number, count = shard
    if not 0 <= number < count:
        raise InputError(f"shard {number} of {count}: expected a number from 0 to {count - 1}")
    path = Path(out) if count == 1 else shard_path(out, number, count)
    mine = range(number, len(faces), count)
    with hold_folder(path.parent, shard):
        done = _resume(path, [faces.ids[i] for i in mine], detector.name, phrases)
        todo = [i for i in mine if faces.ids[i] not in done]
        if not mine:
            _append(path, [])  # a share without pictures has a file as well
        with tqdm(total=len(mine), initial=len(done), desc=path.name) as bar:
            start = 0
            while chosen := todo[start : start + batch]:
                images = [faces.image(i) for i in chosen]
                try:
                    found = detector.detect_batch(images, phrases)
                except torch.cuda.OutOfMemoryError:
                    if len(chosen) == 1:
                        raise
                    batch = len(chosen) // 2
                    torch.cuda.empty_cache()
                    bar.write(f"{len(chosen)} pictures at a time are too many for the GPU: now {batch}", sys.stderr)
                    continue
                named = zip(chosen, images, found, strict=True)
                _append(
                    path, [BoxRecord(faces.ids[i], image.shape[:2], detector.name, each) for i, image, each in named]
                )
                start += len(chosen)
                bar.update(len(chosen))
    return path


def _append(path: Path, records: Sequence[BoxRecord]) -> None:
    try:
        with path.open("a", encoding="utf-8", errors=ESCAPE) as file:
            file.write("".join(record.line() for record in records))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"could not write {path} ({error.strerror}): free space, then the same command goes on, or choose another "
            f"folder"
        ) from error


def _resume(path: Path, ids: Sequence[str], detector: str, phrases: Sequence[str]) -> Boxes:
    if not path.exists():
        return {}
    wanted = set(ids)

    def check(record: BoxRecord) -> None:
        if record.id not in wanted or record.detector != detector or set(record.candidates) != set(phrases):
            raise InputError(
                f"{path} holds boxes of other pictures or another detector (image {record.id!r}, detector "
                f"{record.detector!r}): choose another file, or remove it to start again"
            )

    boxes, kept = _read(path, check)
    os.truncate(path, kept)
    return boxes


def shard_path(out: str | Path, number: int, count: int) -> Path:
    """File of one process: ``boxes.jsonl`` becomes ``boxes.0-of-4.jsonl``."""
    out = Path(out)
    return out.with_name(f"{out.stem}.{number}-of-{count}{out.suffix}")


def gather_boxes(out: str | Path, faces: WeakFaces, detector: str) -> Boxes:
    """Join what ``out`` and the files of shares beside it hold, in the order of ``faces``; only ``out`` is left.

    So a detection goes on with another number of processes.

    Raises:
        InputError: A share is being written, or a file is of other pictures or not of ``detector`` (its name).
    """
    out, found = Path(out), dict[str, Boxes]()
    pattern = re.escape(out.stem) + r"\.[0-9]{1,6}-of-[0-9]{1,6}" + re.escape(out.suffix)
    with hold_folder(out.parent):
        shares = [path for path in sorted(out.parent.iterdir()) if re.fullmatch(pattern, path.name)]
        boxes = _resume(out, faces.ids, detector, PHRASES)
        for each in (boxes, *(_resume(path, faces.ids, detector, PHRASES) for path in shares)):
            found |= dict.fromkeys(each, each)
        if shares or list(found) != [key for key in faces.ids if key in found]:
            with atomic_path(out) as part, part.open("w", encoding="utf-8", errors=ESCAPE) as file:
                file.writelines(found[key][key].line() for key in faces.ids if key in found)
            boxes = read_boxes(out)
        for path in shares:
            path.unlink()
    return boxes


def check_complete(boxes: Boxes, faces: WeakFaces, where: object = "the boxes") -> None:
    """Raise :class:`InputError` when a picture of ``faces`` has no record."""
    missing = [key for key in faces.ids if key not in boxes]
    if missing:
        raise InputError(
            f"{where} lack {len(missing)} of the {len(faces)} images of {faces.name}, the first is {missing[0]!r}: "
            f"run the detection for them (it skips those that are there)"
        )


SHIPPED_BOXES = {
    "celeb/train": ASSETS / "boxes_synthfaces_train.jsonl",
    "celeb/val": ASSETS / "boxes_synthfaces_val.jsonl",
    "lapa/test": ASSETS / "boxes_synthfaces_lapa_test.jsonl",
}
"""Boxes of the embedded detector that come with the package, by the split of SynthFaces-19."""


def shipped_boxes(split: str | None) -> Boxes:
    """The shipped boxes of a split; raises :class:`InputError` for one that has none."""
    if split not in SHIPPED_BOXES:
        raise InputError(
            f"the shipped boxes are those of SynthFaces-19 ({', '.join(SHIPPED_BOXES)}), not of {split}: run "
            f"`wsfp ccd` first and give its boxes.jsonl"
        )
    return read_boxes(SHIPPED_BOXES[split])

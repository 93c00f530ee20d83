"""``wsfp data verify``: go through a copy of a data set and list everything that is wrong with it."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import existing
from wsfp_helpers.common.pictures import check_label_values, check_mode, open_picture, picture_size, read_image
from wsfp_helpers.data import celebamask, frl, helen, lapa
from wsfp_helpers.data.folder import pictures_by_id
from wsfp_helpers.labels import CELEBAMASK, LAPA

KINDS = {
    "missing": "missing files",
    "unreadable": "unreadable files",
    "values": "label maps with a value out of range, or of a wrong mode",
    "size": "label maps of a wrong size",
    "duplicate id": "ids that come twice",
    "duplicate picture": "pictures that are byte for byte another one",
    "orphan": "label maps without a picture",
    "lists": "faults of the lists and the splits",
    "hash": "files that are not those of the registry",
}
"""Kinds of faults, with the words of the report."""

SHOWN = 20
"""Faults of one kind that the printed report shows; :attr:`Report.faults` has them all."""


@dataclass(frozen=True)
class Fault:
    """One fault: a key of :data:`KINDS`, the file or id, and a sentence."""

    kind: str
    where: str
    text: str


@dataclass
class Report:
    """What :func:`verify` found: the layout, counts by name, and all faults; ``print`` it."""

    path: Path
    layout: str
    counts: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def add(self, kind: str, where: object, text: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(kind, str(where), text))

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.layout}", *(f"  {n:>7,} {name}" for name, n in self.counts.items())]
        for kind, words in KINDS.items():
            found = [fault for fault in self.faults if fault.kind == kind]
            if found:
                lines += [f"{words}: {len(found)}", *(f"  {fault.text}" for fault in found[:SHOWN])]
                lines += [f"  and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
        return "\n".join([*lines, "no fault found" if self.ok else f"faults found: {len(self.faults)}"])


@dataclass(frozen=True)
class _Map:
    """A file of a label map and what it may hold: class ids below ``classes``, or 0 and 255, or anything."""

    path: Path
    classes: int | None = None
    binary: bool = False
    size: tuple[int, int] | None = None


def verify(path: str | Path) -> Report:
    """Check a copy of a data set in one of the known layouts; never stops at the first fault.

    Reads every picture and label map to its end.  Raises :class:`InputError` only when there is no such folder, or
    its layout is none of CelebAMask-HQ, LaPa, Helen, FRL London, or ``images/`` with ``labels/``.
    """
    path = existing(path, "folder")
    check = next((check for known, check in _LAYOUTS if known(path)), None)
    if check is None:
        raise InputError(
            f"{path} has no known layout: expected CelebAMask-HQ ({celebamask.IMAGES}/), LaPa (train/images/), Helen "
            f"(exemplars.txt, or train/*_image.jpg), FRL London (inst/neutral_front/), or images/ with labels/"
        )
    report = Report(path, "")
    check(report)
    return report


def _celebamask(report: Report) -> None:
    root, merged = report.path, celebamask.merged_only(report.path)
    report.layout = "CelebAMask-HQ, merged label maps" if merged else "CelebAMask-HQ, part masks"
    ids = {file.stem for file in (root / celebamask.IMAGES).glob("*.jpg")}
    try:
        for name, split in celebamask.split_ids(root, counts=None).items():
            report.counts[f"pictures of the {name} split"] = len(split)
            ids |= set(split)
        celebamask.split_ids(root)
    except InputError as error:
        report.add("lists", root, str(error))
    found = _merged(root) if merged else _parts(report)
    pictures = {key: root / celebamask.IMAGES / f"{key}.jpg" for key in sorted(ids, key=lambda k: (len(k), k))}
    for key in pictures:
        if key not in found:
            report.add("missing", key, f"picture {key} has no label map or part mask")
    _check_files(report, pictures, found)


def _merged(root: Path) -> dict[str, list[_Map]]:
    size = (celebamask.MAP_SIZE, celebamask.MAP_SIZE)
    return {file.stem: [_Map(file, len(CELEBAMASK), size=size)] for file in (root / celebamask.MERGED).glob("*.png")}


def _parts(report: Report) -> dict[str, list[_Map]]:
    folder, found = report.path / celebamask.PART_MASKS, defaultdict(list)
    for file in sorted(folder.glob("*/*.png")):
        key, _, part = file.stem.partition("_")
        if key.isdigit() and part in CELEBAMASK.components and file == celebamask.part_path(report.path, key, part):
            found[str(int(key))].append(_Map(file, binary=True, size=(celebamask.MAP_SIZE, celebamask.MAP_SIZE)))
        else:
            report.add("orphan", file, f"{file} is no part mask: expected {{id // 2000}}/{{id:05d}}_{{part}}.png")
    report.counts["part masks"] = sum(map(len, found.values()))
    return found


def _lapa(report: Report) -> None:
    report.layout = "LaPa"
    folders = {split: (report.path / split / "images", report.path / split / "labels") for split in lapa.SPLITS}
    _paired(report, folders, classes=len(LAPA))
    _check_counts(report, lapa.COUNTS)


def _helen_relabelled(report: Report) -> None:
    report.layout = "Helen, relabelled"
    # test_resize holds the pictures of test in another size, under the same ids.
    folders = {split: (report.path / split,) * 2 for split in helen.RELABELLED if (report.path / split).is_dir()}
    _paired(report, folders, len(LAPA), "_image", "_label", copies=("test_resize",))


def _folder(report: Report) -> None:
    report.layout = "pictures and index PNGs"
    _paired(report, {"folder": (report.path / "images", report.path / "labels")}, len(CELEBAMASK))


def _paired(
    report: Report,
    folders: dict[str, tuple[Path, Path]],
    classes: int,
    picture_ending: str = "",
    map_ending: str = "",
    copies: Iterable[str] = (),
) -> None:
    pictures, maps, seen = {}, {}, Counter()
    for split, (images, labels) in folders.items():
        if not images.is_dir():
            report.add("missing", images, f"no folder of pictures at {images}")
            continue
        found = pictures_by_id(images, picture_ending)
        if not found:
            report.add("missing", images, f"no picture in {images}")
        report.counts[f"pictures of {split}"] = sum(map(len, found.values()))
        for key, paths in found.items():
            seen[key] += len(paths) if split not in copies else 0
            pictures |= {str(path): path for path in paths}
            expected = _Map(labels / f"{key}{map_ending}.png", classes, size=_size(paths[0]))
            maps |= {str(path): [expected] for path in paths}
        orphans = sorted(labels.glob(f"*{map_ending}.png")) if labels.is_dir() else []
        for file in orphans:
            if file.stem.removesuffix(map_ending) not in found:
                report.add("orphan", file, f"{file} belongs to no picture in {images}")
    _twice(report, seen)
    _check_files(report, pictures, maps)


def _size(picture: Path) -> tuple[int, int] | None:
    try:
        return picture_size(picture)
    except InputError:
        return None


def _helen_smith(report: Report) -> None:
    root, seen = report.path, Counter()
    report.layout = "Helen, soft label maps"
    for split, name in helen.LISTS.items():
        try:
            ids = helen.read_list(root / name)
            report.counts[f"pictures of {split}"] = len(ids)
            seen.update(ids)
        except InputError as error:
            report.add("lists", root / name, str(error))
    _check_counts(report, helen.COUNTS)
    _twice(report, seen)
    pictures = {key: helen.picture_path(root, key) for key in seen}
    maps = {
        key: [_Map(path, size=_size(picture)) for path in helen.soft_paths(root, key)]
        for key, picture in pictures.items()
    }
    _check_files(report, pictures, maps)


def _frl(report: Report) -> None:
    report.layout = "FRL London"
    report.counts["files of the registry"] = len(frl.registry())
    for name, digest in frl.registry().items():
        path = report.path / name
        if not path.is_file():
            report.add("missing", path, f"no file at {path}")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            report.add("hash", path, f"{path} is not the published file: remove it, and run wsfp data get frl-london")


def _check_counts(report: Report, expected: Mapping[str, int]) -> None:
    got = {split: report.counts.get(f"pictures of {split}", 0) for split in expected}
    if wrong := [f"{split} {got[split]} instead of {n}" for split, n in expected.items() if got[split] != n]:
        text = f"the splits in {report.path} do not match ({', '.join(wrong)}): check that the copy is whole"
        report.add("lists", report.path, text)


def _twice(report: Report, seen: Counter) -> None:
    for key, n in seen.items():
        if n > 1:
            report.add("duplicate id", key, f"the id {key} comes {n} times")


def _check_files(report: Report, pictures: dict[str, Path], maps: dict[str, list[_Map]]) -> None:
    """Read all pictures and label maps; ``maps`` of keys that ``pictures`` lacks are orphans."""
    for key in maps.keys() - pictures.keys():
        files = ", ".join(file.path.name for file in maps[key])
        report.add("orphan", maps[key][0].path, f"no picture {key} for {files} in {maps[key][0].path.parent}")
    jobs = [partial(_check_picture, path) for path in pictures.values()]
    jobs += [partial(_check_map, file) for files in maps.values() for file in files]
    first: dict[str, Path] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda job: job(), jobs)
        for faults, path, digest in tqdm(results, report.layout, len(jobs), unit="file", leave=False):
            report.faults += faults
            if digest is not None and first.setdefault(digest, path) != path:
                report.add("duplicate picture", path, f"{path} is the same picture as {first[digest]}")
    report.counts["pictures"] = len(pictures)
    report.counts["files of label maps"] = len(jobs) - len(pictures)


def _check_picture(path: Path) -> tuple[list[Fault], Path, str | None]:
    if not path.is_file():
        return [Fault("missing", str(path), f"no picture at {path}")], path, None
    try:
        read_image(path)
        return [], path, hashlib.sha256(path.read_bytes()).hexdigest()
    except (InputError, OSError) as error:
        return [Fault("unreadable", str(path), str(error))], path, None


def _check_map(file: _Map) -> tuple[list[Fault], Path, None]:
    path, faults = file.path, []
    if not path.is_file():
        return [Fault("missing", str(path), f"no label map at {path}")], path, None
    try:
        with open_picture(path) as picture:
            mode, values, grey = picture.mode, np.array(picture), np.array(picture.convert("L"))
    except InputError as error:
        return [Fault("unreadable", str(path), str(error))], path, None
    if file.classes is not None:
        try:
            check_mode(mode, path)
            check_label_values(values, file.classes, path)
        except InputError as error:
            faults.append(Fault("values", str(path), str(error)))
    if file.binary and np.any((grey != 0) & (grey != 255)):
        faults.append(Fault("values", str(path), f"{path} has values between 0 and 255: expected a mask of 0 and 255"))
    if file.size is not None and values.shape[:2] != file.size:
        got, expected = (f"{width} x {height}" for height, width in (values.shape[:2], file.size))
        faults.append(Fault("size", str(path), f"{path} is {got}: expected {expected}"))
    return faults, path, None


_LAYOUTS = (
    (lambda path: (path / celebamask.IMAGES).is_dir(), _celebamask),
    (helen.is_smith, _helen_smith),
    (lambda path: any((path / split / "images").is_dir() for split in lapa.SPLITS), _lapa),
    (lambda path: any(any((path / s).glob("*_image.*")) for s in helen.RELABELLED), _helen_relabelled),
    (lambda path: (path / "inst" / "neutral_front").is_dir(), _frl),
    (lambda path: (path / "images").is_dir(), _folder),
)

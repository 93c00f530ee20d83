"""``wsfp data verify``: go through a copy of a data set and list everything that is wrong with it."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.contrib.concurrent import thread_map

from wsfp_helpers.common.errors import InputError, one_line
from wsfp_helpers.common.files import existing, sha256_of
from wsfp_helpers.common.machine import cpu_count
from wsfp_helpers.common.pictures import (
    check_label_values,
    check_mode,
    check_png,
    open_picture,
    picture_size,
    read_image,
)
from wsfp_helpers.data import celebamask, frl, helen, lapa
from wsfp_helpers.data.folder import pictures_by_id
from wsfp_helpers.labels import CELEBAMASK, LAPA, Scheme
from wsfp_helpers.score.mistakes import Look, Looks, look

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
    "mistake": "signs of a mistake in all label maps",
}
"""Kinds of faults, with the words of the report."""

SHOWN = 20
"""Faults of one kind that the printed report shows; :attr:`Report.faults` has them all."""


@dataclass(frozen=True)
class Fault:
    """One fault: a key of :data:`KINDS`, and a sentence that names the file or id."""

    kind: str
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

    def add(self, kind: str, text: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(kind, text))

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.layout}", *(f"  {n:>7,} {name}" for name, n in self.counts.items())]
        for kind, words in KINDS.items():
            found = [fault.text for fault in self.faults if fault.kind == kind]
            if found:
                lines += [f"{words}: {len(found)}", *(f"  {text}" for text in found[:SHOWN])]
                lines += [f"  and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
        lines.append("no fault found" if self.ok else f"faults found: {len(self.faults)}")
        return "\n".join(map(one_line, lines))


@dataclass(frozen=True)
class _Map:
    """A file of a label map and what it may hold: class ids of ``scheme``, or 0 and 255, or anything."""

    path: Path
    scheme: Scheme | None = None
    binary: bool = False
    size: tuple[int, int] | None = None


def verify(path: str | Path) -> Report:
    """Check a copy of a data set in one of the known layouts; never stops at the first fault.

    Reads every picture and label map to its end.  Raises :class:`InputError` only when there is no such folder, or
    its layout is none of CelebAMask-HQ, LaPa, Helen, FRL London, or ``images/`` with ``labels/``.
    """
    path = existing(path, "folder")
    for layout, known, check in _LAYOUTS:
        if known(path):
            report = Report(path, layout)
            check(report)
            return report
    raise InputError(
        f"{path} has no known layout: expected CelebAMask-HQ ({celebamask.IMAGES}/), LaPa (train/images/), Helen "
        f"(exemplars.txt, or train/*_image.jpg), FRL London (inst/neutral_front/), or images/ with labels/"
    )


def _celebamask(report: Report) -> None:
    root, merged = report.path, celebamask.merged_only(report.path)
    report.layout += ", merged label maps" if merged else ", part masks"
    ids = {file.stem for file in (root / celebamask.IMAGES).glob("*.jpg")}
    try:
        for name, split in celebamask.split_ids(root, counts=None).items():
            report.counts[f"pictures of the {name} split"] = len(split)
            ids |= set(split)
        celebamask.split_ids(root)
    except InputError as error:
        report.add("lists", str(error))
    maps = _merged(root) if merged else _parts(report)
    for key in sorted(ids - maps.keys()):
        report.add("missing", f"picture {key} has no label map or part mask")
    for key in sorted(maps.keys() - ids):
        files = ", ".join(file.path.name for file in maps[key])
        report.add("orphan", f"no picture {key} for {files} in {maps[key][0].path.parent}")
    pictures = [root / celebamask.IMAGES / f"{key}.jpg" for key in sorted(ids, key=lambda key: (len(key), key))]
    _check_files(report, pictures, [file for files in maps.values() for file in files])


_CELEBAMASK_SIZE = (celebamask.MAP_SIZE, celebamask.MAP_SIZE)


def _merged(root: Path) -> dict[str, list[_Map]]:
    files = sorted((root / celebamask.MERGED).glob("*.png"))
    return {file.stem: [_Map(file, CELEBAMASK, size=_CELEBAMASK_SIZE)] for file in files}


def _parts(report: Report) -> dict[str, list[_Map]]:
    found = defaultdict(list)
    for file in sorted((report.path / celebamask.PART_MASKS).glob("*/*.png")):
        key, _, part = file.stem.partition("_")
        if (
            re.fullmatch("[0-9]{1,9}", key)
            and part in CELEBAMASK.components
            and file == celebamask.part_path(report.path, key, part)
        ):
            found[str(int(key))].append(_Map(file, binary=True, size=_CELEBAMASK_SIZE))
        else:
            report.add("orphan", f"{file} is no part mask: expected {{id // 2000}}/{{id:05d}}_{{part}}.png")
    report.counts["part masks"] = sum(map(len, found.values()))
    return found


def _lapa(report: Report) -> None:
    folders = {split: (report.path / split / "images", report.path / split / "labels") for split in lapa.SPLITS}
    _check_paired(report, folders, LAPA)
    _check_counts(report, lapa.COUNTS)


def _helen(report: Report) -> None:
    folders = {split: (report.path / split,) * 2 for split in helen.RELABELLED if (report.path / split).is_dir()}
    # test_resize holds the pictures of test in another size, under the same ids.
    _check_paired(report, folders, LAPA, "_image", "_label", copies=("test_resize",))


def _folder(report: Report) -> None:
    _check_paired(report, {"folder": (report.path / "images", report.path / "labels")}, CELEBAMASK)


def _check_paired(
    report: Report,
    folders: Mapping[str, tuple[Path, Path]],
    scheme: Scheme,
    picture_ending: str = "",
    map_ending: str = "",
    copies: Collection[str] = (),
) -> None:
    pictures: list[Path] = []
    maps: list[_Map] = []
    ids: list[str] = []
    for split, (images, labels) in folders.items():
        found = pictures_by_id(images, picture_ending) if images.is_dir() else {}
        if not found:
            report.add("missing", f"no picture in {images}")
        for key, paths in found.items():
            pictures += paths
            maps.append(_Map(labels / f"{key}{map_ending}.png", scheme, size=_size(paths[0])))
            ids += [key] * len(paths) if split not in copies else []
        report.counts[f"pictures of {split}"] = sum(map(len, found.values()))
        for file in sorted(labels.glob(f"*{map_ending}.png")):
            if file.stem.removesuffix(map_ending) not in found:
                report.add("orphan", f"{file} belongs to no picture in {images}")
    _check_ids(report, ids)
    _check_files(report, pictures, maps)


def _size(picture: Path) -> tuple[int, int] | None:
    try:
        return picture_size(picture)
    except InputError:  # a fault of the picture, not of its label map
        return None


def _helen_smith(report: Report) -> None:
    root, ids = report.path, []
    for split, name in helen.LISTS.items():
        try:
            listed = helen.read_list(root / name)
        except InputError as error:
            report.add("lists", str(error))
        else:
            report.counts[f"pictures of {split}"] = len(listed)
            ids += listed
    _check_counts(report, helen.COUNTS)
    _check_ids(report, ids)
    pictures = {key: helen.picture_path(root, key) for key in ids}
    maps = [_Map(path, size=_size(pictures[key])) for key in pictures for path in helen.soft_paths(root, key)]
    _check_files(report, list(pictures.values()), maps)


def _frl(report: Report) -> None:
    report.counts["files of the registry"] = len(frl.registry())
    for name, digest in frl.registry().items():
        path = report.path / name
        if not path.is_file():
            report.add("missing", f"no file at {path}")
        elif sha256_of(path) != digest:
            report.add("hash", f"{path} is not the published file: remove it, and run wsfp data get frl-london")


def _check_counts(report: Report, expected: Mapping[str, int]) -> None:
    got = {split: report.counts.get(f"pictures of {split}", 0) for split in expected}
    if wrong := [f"{split} {got[split]} instead of {n}" for split, n in expected.items() if got[split] != n]:
        text = f"the splits in {report.path} do not match ({', '.join(wrong)}): check that the copy is whole"
        report.add("lists", text)


def _check_ids(report: Report, ids: Iterable[str]) -> None:
    for key, n in Counter(ids).items():
        if n > 1:
            report.add("duplicate id", f"the id {key} comes {n} times")


def _check_files(report: Report, pictures: Collection[Path], maps: Collection[_Map]) -> None:
    """Read all pictures and label maps to their ends."""
    report.counts |= {"pictures": len(pictures), "files of label maps": len(maps)}
    options = {"max_workers": cpu_count(), "unit": "file", "leave": False}
    first: dict[str, Path] = {}
    for path, found in zip(pictures, thread_map(_check_picture, pictures, desc="pictures", **options), strict=True):
        if isinstance(found, Fault):
            report.faults.append(found)
        elif (other := first.setdefault(found, path)) != path:
            report.add("duplicate picture", f"{path} is the same picture as {other}")
    looks = Looks()
    for faults, seen in thread_map(_check_map, maps, desc="label maps", **options):
        report.faults += faults
        if seen is not None:
            looks.add(seen)
    for text in looks.mistakes("the label maps"):
        report.add("mistake", text.removeprefix("warning: "))


def _check_picture(path: Path) -> str | Fault:
    """The digest of a picture, or what is wrong with it."""
    if not path.is_file():
        return Fault("missing", f"no picture at {path}")
    try:
        read_image(path)
        return sha256_of(path)
    except (InputError, OSError) as error:
        return Fault("unreadable", str(error))


def _check_map(file: _Map) -> tuple[list[Fault], Look | None]:
    """What is wrong with a label map, and where its parts lie if it can be looked at."""
    path, faults = file.path, []
    if not path.is_file():
        return [Fault("missing", f"no label map at {path}")], None
    try:
        with open_picture(path) as picture:
            mode, values, grey = picture.mode, np.array(picture), np.array(picture.convert("L"))
            check_png(picture.format, path)
    except InputError as error:
        return [Fault("unreadable", str(error))], None
    seen = None
    if file.scheme is not None:
        try:
            check_mode(mode, path)
            check_label_values(values, len(file.scheme), path)
            seen = look(values, file.scheme)
        except InputError as error:
            faults.append(Fault("values", str(error)))
    if file.binary and np.any((grey != 0) & (grey != 255)):
        faults.append(Fault("values", f"{path} has values between 0 and 255: expected a mask of 0 and 255"))
    if file.size is not None and values.shape[:2] != file.size:
        got, expected = (f"{width} x {height}" for height, width in (values.shape[:2], file.size))
        faults.append(Fault("size", f"{path} is {got}: expected {expected}"))
    return faults, seen


_LAYOUTS = (
    ("CelebAMask-HQ", lambda path: (path / celebamask.IMAGES).is_dir(), _celebamask),
    ("Helen, soft label maps", helen.is_smith, _helen_smith),
    ("LaPa", lambda path: any((path / split / "images").is_dir() for split in lapa.SPLITS), _lapa),
    (
        "Helen, relabelled",
        lambda path: any(any((path / split).glob("*_image.*")) for split in helen.RELABELLED),
        _helen,
    ),
    ("FRL London", lambda path: (path / "inst" / "neutral_front").is_dir(), _frl),
    ("pictures and index PNGs", lambda path: (path / "images").is_dir(), _folder),
)

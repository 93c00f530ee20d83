"""CelebAMask-HQ from the user's own copy: part masks merged in the official order, split by joining the two lists.

Layout, order, split and licence: docs/design.md, 6.1.  Expected below the folder:

* ``CelebA-HQ-img/{id}.jpg`` (30,000 pictures 1024 x 1024),
* ``CelebAMask-HQ-mask-anno/{id // 2000}/{id:05d}_{part}.png`` (512 x 512, 0 or 255), or, when that folder is absent,
  maps that the official script has merged, ``CelebAMaskHQ-mask/{id}.png``,
* ``CelebA-HQ-to-CelebA-mapping.txt``, and CelebA's ``list_eval_partition.txt`` beside it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from wsfp_helpers.common.cache import label_table
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import claim_folder, existing, hold_folder, read_rows
from wsfp_helpers.common.pictures import check_png, open_picture, read_label_map, write_index_png
from wsfp_helpers.common.threads import in_threads
from wsfp_helpers.data.faces import Faces, announce, present_classes
from wsfp_helpers.data.folder import PictureFiles, check_there
from wsfp_helpers.data.weak import WeakFaces, uniform_subset
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS
from wsfp_helpers.palette import PALETTE

IMAGES, PART_MASKS, MERGED = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebAMaskHQ-mask"
MAPPING, PARTITION = "CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt"
SPLITS = ("train", "val", "test")
COUNTS = {"train": 24_183, "val": 2_993, "test": 2_824}
MAP_SIZE = 512
LICENCE = "CelebAMask-HQ: for non-commercial research and education only; the pictures may not be passed on"

_Reader = Callable[[Path, str], np.ndarray]


def celebamask(
    root: str | Path, split: str = "train", subset: int | None = None, counts: Mapping[str, int] | None = COUNTS
) -> Faces:
    """CelebAMask-HQ: one split, pictures as they are (1024 x 1024), label maps 512 x 512.

    A class has label 1 when its part file is there and not empty; the table is computed once and cached.  ``subset``
    takes that many images, evenly spread (:func:`uniform_subset`; the paper evaluates pseudo masks on 3,820).  Raises
    :class:`InputError` when files are missing, or the three splits do not have ``counts`` images (``None``: no check).
    """
    root = Path(root)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of CelebAMask-HQ: expected one of {', '.join(SPLITS)}")
    ids = split_ids(root, counts)[split]
    if subset is not None:
        ids = [ids[i] for i in uniform_subset(len(ids), subset)]
    name, pictures = f"CelebAMask-HQ {split}", {key: root / IMAGES / f"{key}.jpg" for key in ids}
    check_there(name, pictures.values(), "pictures")
    row, read_map, sources = _masks(root)
    labels = label_table(f"celebamask-{split}", ids, partial(row, root), sources)
    announce(LICENCE)
    weak = WeakFaces(name, ids, PictureFiles(pictures), labels, licence=LICENCE)
    return Faces(weak, partial(read_map, root))


def merge(root: str | Path, out: str | Path, counts: Mapping[str, int] = COUNTS) -> dict[str, str]:
    """Write every label map as an index PNG ``out/SPLIT/ID.png``; returns what is wrong with those left out, by id.

    Started again it goes on, with those that were left out, too.  Raises :class:`InputError` when the splits do not
    have ``counts`` images, when there are no masks, and when ``out`` holds the maps of another copy.
    """
    root, out = Path(root), Path(out)
    splits = split_ids(root, counts)
    _, read_map, _ = _masks(root)

    def fault_of(split: str, key: str) -> str | None:
        path = out / split / f"{key}.png"
        if path.exists():
            return None
        try:
            label_map = read_map(root, key)
        except InputError as error:
            return str(error)
        write_index_png(path, label_map, PALETTE)
        return None

    jobs = [(split, key) for split, ids in splits.items() for key in ids]
    with hold_folder(out):
        claim_folder(out, {"source": str(root.resolve())}, "label maps", "*/*.png")
        found = in_threads(lambda job: fault_of(*job), jobs)
        faults = list(tqdm(found, "label maps", len(jobs), unit="image", leave=False))
    return {key: fault for (_, key), fault in zip(jobs, faults, strict=True) if fault is not None}


def split_ids(root: Path, counts: Mapping[str, int] | None = COUNTS) -> dict[str, list[str]]:
    """Ids of each split in numeric order: the file of CelebA that a picture comes from decides.

    Joins the column ``orig_file`` of the mapping with CelebA's partition (the 0-based ``orig_idx`` would shift both
    boundaries by one).  Raises :class:`InputError` when the numbers of images are not ``counts`` (``None``: no check).
    """
    mapping = read_mapping(root / MAPPING)
    partition = read_partition(root / PARTITION)
    splits: dict[str, list[str]] = {name: [] for name in SPLITS}
    for key in sorted(mapping, key=int):
        if mapping[key] not in partition:
            raise InputError(
                f"{root / PARTITION} does not list {mapping[key]}, from which picture {key} was made: "
                f"is it the file of CelebA (202,599 lines)?"
            )
        splits[partition[mapping[key]]].append(key)
    got = {name: len(ids) for name, ids in splits.items()}
    if counts is not None and got != dict(counts):
        wrong = ", ".join(
            f"{name} {got[name]} instead of {counts[name]}" for name in SPLITS if got[name] != counts[name]
        )
        raise InputError(
            f"the splits of CelebAMask-HQ in {root} do not match ({wrong}): check that {MAPPING} and {PARTITION} are "
            f"the whole original files"
        )
    return splits


def read_mapping(path: Path) -> dict[str, str]:
    """File of CelebA by id of CelebA-HQ; raises :class:`InputError` for a wrong line or an id that comes twice."""
    pattern, form = r"idx\s+orig_idx\s+orig_file|([0-9]{1,9})\s+[0-9]+\s+(\S+)", "the columns idx, orig_idx, orig_file"
    rows = [row for row in read_rows(path, "list that leads from CelebA-HQ to CelebA", pattern, form) if any(row)]
    twice = [key for key, n in Counter(key for key, _ in rows).items() if n > 1]
    if twice:
        raise InputError(f"{path} lists {len(twice)} ids twice, the first is {twice[0]}: download it again")
    return {key: file for key, file in rows}


def read_partition(path: Path) -> dict[str, str]:
    """Split (train, val or test) by file of CelebA; raises :class:`InputError` for a wrong line."""
    rows = read_rows(path, "partition of CelebA", r"(\S+)\s+([012])", "a file name and 0, 1 or 2")
    return {file: SPLITS[int(code)] for file, code in rows}


def merged_only(root: Path) -> bool:
    """Whether only maps merged by the official script are there, not the part masks."""
    return not (root / PART_MASKS).is_dir() and (root / MERGED).is_dir()


def _masks(root: Path) -> tuple[_Reader, _Reader, list[Path]]:
    """How the labels and the label map of an id are read, and the folders that they come from."""
    if merged_only(root):
        return _merged_labels, read_merged_map, [root / MERGED]
    parts = existing(root / PART_MASKS, "folder of part masks")
    return part_labels, read_part_map, [parts, *sorted(p for p in parts.iterdir() if p.is_dir())]


def part_path(root: Path, key: str, name: str) -> Path:
    """Where the mask of one part of an image lies."""
    return root / PART_MASKS / str(int(key) // 2000) / f"{int(key):05d}_{name}.png"


def read_part(path: Path) -> np.ndarray:
    """Where a part mask is set: bool ``(512, 512)``; it may be stored as grey, RGB or 1 bit."""
    with open_picture(path) as picture:
        if picture.size != (MAP_SIZE, MAP_SIZE):
            raise InputError(f"{path} is {picture.width} x {picture.height}: expected {MAP_SIZE} x {MAP_SIZE}")
        check_png(picture.format, path)
        return np.array(picture.convert("L")) != 0


def read_parts(root: Path, key: str) -> dict[str, np.ndarray]:
    """The part masks that an image has, by class name in the official order."""
    paths = {name: part_path(root, key, name) for name in COMPONENTS}
    return {name: read_part(path) for name, path in paths.items() if path.is_file()}


def read_part_map(root: Path, key: str) -> np.ndarray:
    """Label map ``(512, 512)`` uint8: the parts painted in the official order, later ones over earlier ones."""
    parts = read_parts(root, key)
    if not parts:
        raise InputError(f"picture {key} has no part mask in {root / PART_MASKS / str(int(key) // 2000)}: restore them")
    label_map = np.zeros((MAP_SIZE, MAP_SIZE), np.uint8)
    for name, mask in parts.items():
        label_map[mask] = CELEBAMASK.index(name)
    return label_map


def part_labels(root: Path, key: str) -> np.ndarray:
    """Image-level labels ``(K,)`` uint8: the part file is there and not empty, whatever was painted over it later."""
    parts = read_parts(root, key)
    return np.array([name in parts and parts[name].any() for name in COMPONENTS], np.uint8)


def read_merged_map(root: Path, key: str) -> np.ndarray:
    """Label map ``(512, 512)`` uint8 that the official script has merged."""
    return read_label_map(root / MERGED / f"{key}.png", len(CELEBAMASK))


def _merged_labels(root: Path, key: str) -> np.ndarray:
    return present_classes(read_merged_map(root, key))

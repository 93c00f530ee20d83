"""Helen from the user's own copy: the 11 classes of LaPa, sides named from the viewer, the skin has no ears.

Two layouts (docs/design.md, 6.3): that of Smith et al. 2013 (``images/{id}.jpg``, ``labels/{id}/{id}_lblXX.png`` with
eleven soft maps, ``exemplars.txt``, ``tuning.txt`` and ``testing.txt``), and the relabelled one
(``{train,test}/{id}_image.jpg`` with ``{id}_label.png``).
"""

from functools import partial
from pathlib import Path

import numpy as np

from wsfp_helpers.common.cache import label_table
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import claim_folder, existing, hold_folder, read_rows
from wsfp_helpers.common.pictures import open_picture, picture_size, write_index_png
from wsfp_helpers.data.faces import Faces, announce, present_classes
from wsfp_helpers.data.folder import PictureFiles, check_there, find_pictures, paired
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import LAPA
from wsfp_helpers.palette import LAPA_PALETTE

LISTS = {"train": "exemplars.txt", "val": "tuning.txt", "test": "testing.txt"}
COUNTS = {"train": 2_000, "val": 230, "test": 100}
RELABELLED = ("train", "test", "test_resize")
LICENCE = "Helen: for non-commercial research only; the pictures may not be passed on"


def helen(root: str | Path, split: str = "test") -> Faces:
    """Helen: one split in scheme LAPA, 2,000 / 230 / 100 images, or the relabelled train, test and test_resize."""
    root = existing(root, "folder of Helen")
    splits = tuple(LISTS) if is_smith(root) else RELABELLED
    if split not in splits:
        raise InputError(f"unknown split {split!r} of Helen in {root}: expected one of {', '.join(splits)}")
    if is_smith(root):
        faces = _smith(root, split)
    else:
        pictures = find_pictures(root / split, "_image")
        maps = {key: root / split / f"{key}_label.png" for key in pictures}
        faces = paired(f"Helen relabelled {split}", pictures, maps, LAPA, LICENCE, framed=False)
    announce(LICENCE)
    return faces


def merge(root: str | Path, out: str | Path) -> None:
    """Write every label map as an index PNG ``out/SPLIT/ID.png``; maps that are there are kept.

    Raises :class:`InputError` as :func:`helen`, and when ``out`` holds the maps of another copy.
    """
    root, out = Path(root), Path(out)
    splits = LISTS if is_smith(root) else [split for split in RELABELLED if (root / split).is_dir()]
    every = {split: helen(root, split) for split in splits}  # all, so that a fault is told before anything is written
    with hold_folder(out):
        claim_folder(out, {"source": str(root.resolve())}, "label maps", "*/*.png")
        for split, faces in every.items():
            for i, key in enumerate(faces.ids):
                path = out / split / f"{key}.png"
                if not path.exists():
                    write_index_png(path, faces.label_map(i), LAPA_PALETTE)


def is_helen(root: Path) -> bool:
    """Whether a folder has one of the two layouts."""
    return is_smith(root) or any(any((root / split).glob("*_label.png")) for split in RELABELLED)


def is_smith(root: Path) -> bool:
    """Whether a folder has the layout of Smith et al., told by its lists."""
    return any((root / name).is_file() for name in LISTS.values())


def _smith(root: Path, split: str) -> Faces:
    name, ids = f"Helen {split}", read_list(root / LISTS[split])
    pictures = {key: picture_path(root, key) for key in ids}
    check_there(name, pictures.values(), "pictures")
    maps = [path for key in ids for path in soft_paths(root, key)]
    check_there(name, maps, "soft label maps")
    read_map = partial(read_soft_map, root)
    labels = label_table(f"helen-{split}", ids, lambda key: present_classes(read_map(key), LAPA), maps)
    weak = WeakFaces(name, ids, PictureFiles(pictures), labels, LAPA, LICENCE, framed=False)
    return Faces(weak, read_map)


def read_list(path: Path) -> list[str]:
    """Ids of a list with lines ``index , name``; raises :class:`InputError` naming a line of another form."""
    return [name for (name,) in read_rows(path, "list of Helen", r"\d+\s*,\s*(\w[\w.-]*)", "'index , name'")]


def picture_path(root: Path, key: str) -> Path:
    """Picture of an id in the layout of Smith et al."""
    return root / "images" / f"{key}.jpg"


def soft_paths(root: Path, key: str) -> list[Path]:
    """The eleven soft maps of an id, in the order of the classes."""
    return [root / "labels" / key / f"{key}_lbl{c:02d}.png" for c in range(len(LAPA))]


def read_soft_map(root: Path, key: str) -> np.ndarray:
    """Label map ``(H, W)`` uint8: the class with the highest of the eleven soft maps, the lowest class on a tie.

    Raises :class:`InputError` when a map is damaged or has another size than the picture.
    """
    size = picture_size(picture_path(root, key))
    maps = []
    for path in soft_paths(root, key):
        with open_picture(path) as picture:
            maps.append(np.array(picture.convert("L")))
        if maps[-1].shape != size:
            found, wanted = (f"{width} x {height}" for height, width in (maps[-1].shape, size))
            raise InputError(f"{path} is {found}, but its picture is {wanted}: expected one size")
    return np.argmax(maps, 0).astype(np.uint8)

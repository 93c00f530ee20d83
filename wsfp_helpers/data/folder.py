"""A plain folder of pictures, and index PNGs beside them: one's own data, and what LaPa and Helen come down to."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from wsfp_helpers.common.cache import label_table
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import existing
from wsfp_helpers.common.pictures import picture_size, read_image, read_label_map
from wsfp_helpers.data.faces import Faces, present_classes
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK, Scheme

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def folder(
    images: str | Path, labels: str | Path | None = None, scheme: Scheme = CELEBAMASK, licence: str = ""
) -> Faces:
    """Pictures of a folder and the index PNGs of the same names; image-level labels come from the maps, cached.

    Without ``labels``, ``images`` is a folder that holds ``images/`` and ``labels/``.  Raises :class:`InputError` for
    an empty folder, a picture without label map, and two pictures of one name; for a label map of another size, mode
    or range when the map is read, which the label table does once for all.
    """
    images = Path(images)
    if labels is None:
        images, labels = images / "images", images / "labels"
    pictures = find_pictures(images)
    maps = {key: Path(labels) / f"{key}.png" for key in pictures}
    return paired(images.parent.name or "folder", pictures, maps, scheme, licence)


def find_pictures(path: str | Path, ending: str = "") -> dict[str, Path]:
    """Pictures of a folder by id, in order of their names; the id is the name without suffix (and ``ending``).

    Hidden files are left out.  Raises :class:`InputError` when there is no folder, no picture, or two of one name.
    """
    path = existing(path, "folder of pictures")
    if not path.is_dir():
        raise InputError(f"{path} is a file: expected a folder of pictures")
    found = pictures_by_id(path, ending)
    if not found:
        raise InputError(f"no picture in {path}: expected files like {'name' + ending}.jpg ({', '.join(SUFFIXES)})")
    twice = next((paths for paths in found.values() if len(paths) > 1), None)
    if twice:
        raise InputError(f"{twice[0]} and {twice[1].name} would have the same id: rename or remove one of them")
    return {key: paths[0] for key, paths in found.items()}


def pictures_by_id(path: Path, ending: str = "") -> dict[str, list[Path]]:
    """All pictures of a folder by id: more than one path where names differ in the suffix only."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in SUFFIXES and file.stem.endswith(ending) and not file.name.startswith("."):
            found[file.stem.removesuffix(ending)].append(file)
    return dict(found)


def paired(
    name: str,
    pictures: Mapping[str, Path],
    maps: Mapping[str, Path],
    scheme: Scheme,
    licence: str = "",
    framed: bool = True,
) -> Faces:
    """Faces from paths of pictures and index PNGs by id; a label map must have the size of its picture.

    ``framed`` is as in :class:`WeakFaces`.  Raises :class:`InputError` when label maps are missing, with their number
    and the first of them.
    """
    check_there(name, maps.values(), "label maps")
    ids, read_map = list(pictures), partial(_read_map, pictures, maps, scheme)
    sources = maps.values()
    labels = label_table(name.replace(" ", "-"), ids, lambda key: present_classes(read_map(key), scheme), sources)
    return Faces(WeakFaces(name, ids, PictureFiles(pictures), labels, scheme, licence, framed), read_map)


def check_there(name: str, paths: Iterable[Path], what: str) -> None:
    """Raise :class:`InputError` with the number and the first of the ``paths`` that do not exist."""
    paths = list(paths)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{name}: {len(missing)} of {len(paths)} {what} are missing, the first is {missing[0]}: restore them "
            f"(`wsfp data verify` names them all)"
        )


class PictureFiles(dict[str, Path]):
    """Files of pictures by id; called with an id it reads the picture ``(H, W, 3)`` uint8."""

    def __call__(self, key: str) -> np.ndarray:
        """See the class."""
        return read_image(self[key])


def _read_map(pictures: Mapping[str, Path], maps: Mapping[str, Path], scheme: Scheme, key: str) -> np.ndarray:
    label_map = read_label_map(maps[key], len(scheme))
    height, width = picture_size(pictures[key])
    if label_map.shape != (height, width):
        raise InputError(
            f"{maps[key]} is {label_map.shape[1]} x {label_map.shape[0]}, but its picture {pictures[key].name} is "
            f"{width} x {height}: expected the same size"
        )
    return label_map

"""Pictures in tar files of a thousand each, for sets with more files than a file system likes: ``wsfp data shard``.

A shard ``000000.tar`` holds the picture files as they are, ``ID.jpg``, so that the library webdataset reads it as well.
``index.npz`` has the ids, image-level labels, and where the bytes of each picture are: one seek and one read a
picture, in any order.  There are no label maps in shards, so that stages 1-5 can run where there are none at all.
"""

import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from tqdm.auto import tqdm

from wsfp_helpers.common.configs import key_of
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import atomic_path, claim_folder, existing_file, hold_folder
from wsfp_helpers.common.pictures import read_image
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.folder import PictureFiles
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import SCHEMES

INDEX = "index.npz"
A_SHARD = 1000
"""Pictures of a shard: 0.3 GB of CelebA-HQ."""


@dataclass(frozen=True, eq=False)
class ShardedPictures:
    """Pictures of shards by id; called with an id it reads the picture ``(H, W, 3)`` uint8."""

    folder: Path
    rows: Mapping[str, int]
    """Row of ``places`` by id."""
    places: np.ndarray
    """Number of the shard, first byte and bytes of every picture, ``(n, 3)`` int64."""

    def __call__(self, key: str) -> np.ndarray:
        """See the class."""
        number, start, count = self.places[self.rows[key]].tolist()
        path = shard_path(self.folder, number)
        with path.open("rb") as file:
            file.seek(start)
            return read_image(f"{key} in {path}", content=file.read(count))


def shard_path(folder: Path, number: int) -> Path:
    """File of a shard by its number."""
    return folder / f"{number:06}.tar"


def write_shards(faces: WeakFaces, out: str | Path, a_shard: int = A_SHARD) -> Path:
    """Copy the picture files of a set into shards of ``a_shard`` pictures in the folder ``out``, which is returned.

    Started again it goes on.  Raises :class:`InputError` when the pictures are no files of their own, one is missing,
    or ``out`` holds the shards of another set.
    """
    files, out = faces.read, Path(out)
    if not isinstance(files, PictureFiles):
        raise InputError(f"the pictures of {faces.name} are no files of their own: there is nothing to put into shards")
    chunks = [faces.ids[start : start + a_shard] for start in range(0, len(faces), a_shard)]
    places = np.empty((len(faces), 3), np.int64)
    with hold_folder(out):
        claim_folder(out, {"data": faces.name, "pictures": key_of(faces.ids), "a_shard": a_shard}, "shards", "*.tar")
        for number, keys in enumerate(tqdm(chunks, "shards", unit="shard", leave=False)):
            path = shard_path(out, number)
            if not path.exists():
                _write_shard(path, [(key, files[key]) for key in keys])
            places[number * a_shard : number * a_shard + len(keys)] = _places(path, number, len(keys))
        facts = {"name": faces.name, "scheme": faces.scheme.name, "licence": faces.licence, "framed": faces.framed}
        sizes = [shard_path(out, number).stat().st_size for number in range(len(chunks))]
        with atomic_path(out / INDEX) as part, part.open("wb") as file:
            np.savez(
                file, facts=json.dumps(facts), ids=np.array(faces.ids), labels=faces.labels, places=places, sizes=sizes
            )
    return out


def _write_shard(path: Path, files: list[tuple[str, Path]]) -> None:
    with atomic_path(path) as part, tarfile.open(part, "w") as tar:
        for key, source in files:
            with existing_file(source, "picture").open("rb") as file:
                member = tarfile.TarInfo(f"{key}{source.suffix.lower()}")
                member.size = source.stat().st_size
                tar.addfile(member, file)


def _places(path: Path, number: int, count: int) -> list[tuple[int, int, int]]:
    advice = "remove it, and the same command writes it again"
    try:
        with tarfile.open(path, "r:") as tar:
            found = [(number, member.offset_data, member.size) for member in tar]
    except tarfile.TarError as error:
        raise InputError(f"{path} cannot be read as a shard ({error}): {advice}") from error
    if len(found) != count:
        raise InputError(f"{path} holds {len(found):,} pictures instead of {count:,}: {advice}")
    return found


def shards(folder: str | Path) -> Faces:
    """The set that :func:`write_shards` made: the same name, ids, pictures and image-level labels; no label maps.

    Raises :class:`InputError` when ``folder`` is none, or a shard is missing or not whole.
    """
    folder = Path(folder)
    path = existing_file(folder / INDEX, "index of shards (`wsfp data shard` writes it)")
    try:
        with np.load(path, allow_pickle=False) as index:
            facts, ids, labels = json.loads(str(index["facts"])), index["ids"].tolist(), index["labels"]
            places, sizes = index["places"], index["sizes"].tolist()
        name, scheme, licence, framed = (facts[key] for key in ("name", "scheme", "licence", "framed"))
        known = SCHEMES[scheme]
        if labels.shape != (len(ids), len(known.components)):
            raise ValueError("labels of other pictures")
        number, start, count = places.reshape(len(ids), 3).T
        if places.dtype != np.int64 or (places < 0).any() or (start + count > np.array(sizes)[number]).any():
            raise ValueError("places that are in no shard")
        if len({*ids}) < len(ids) or not all(re.fullmatch(r"[^/\\\0]+", key) for key in ids):
            raise ValueError("ids that are no names of files, or not each its own")
    except (ValueError, LookupError, TypeError, OSError, EOFError, RuntimeError, zlib.error, BadZipFile) as error:
        raise InputError(
            f"{path} is no index of shards, or not whole: write it again with `wsfp data shard`"
        ) from error
    for number, size in enumerate(sizes):
        shard = existing_file(shard_path(folder, number), "shard")
        if shard.stat().st_size != size:
            raise InputError(f"{shard} has {shard.stat().st_size:,} bytes instead of {size:,}: copy it again")
    read = ShardedPictures(folder, {key: row for row, key in enumerate(ids)}, places)
    return Faces(WeakFaces(name, ids, read, labels, known, licence, framed), partial(_no_map, folder))


def _no_map(folder: Path, key: str) -> np.ndarray:
    raise InputError(f"{folder} holds no label maps: for that of {key} open the set that the shards were made of")

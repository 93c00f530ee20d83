"""SynthFaces-19: rendered faces with exact 19-class maps, shipped inside the package (CC0; see its CARD.md)."""

import csv
import io
import os
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image

from wsfp_helpers.data.base import Faces
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.storage import InputError

PACK = Path(__file__).parents[1] / "assets" / "synthfaces19.zip"
SPLITS = ("celeb/pretrain", "celeb/train", "celeb/val", "celeb/test", "lapa/test", "helen/test")
LICENCE = "SynthFaces-19: rendered faces, no real person; CC0 1.0"


def synthfaces(split: str = "celeb/train", pack: str | Path = PACK) -> Faces:
    """One split of SynthFaces-19, opened lazily: 160 x 160 pictures, label maps, a table of attributes.

    ``celeb/pretrain`` is for the stand-ins only; ``train``, ``val`` and ``test`` are the benchmark.  A class is
    present from 10 pixels on (column ``has_<class>`` of the pack's metadata).
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of SynthFaces-19: expected one of {', '.join(SPLITS)}")
    rows = [row for row in _metadata(str(pack)) if f"{row['domain']}/{row['split']}" == split]
    folder = {row["id"]: row for row in rows}
    return Faces(
        f"SynthFaces-19 {split}",
        list(folder),
        lambda key: np.array(_picture(pack, folder[key]["image"]).convert("RGB")),
        np.array([[int(row[f"has_{name}"]) for name in COMPONENTS] for row in rows], np.uint8),
        licence=LICENCE,
        read_map=lambda key: np.array(_picture(pack, folder[key]["mask"]).getchannel(0)),
        attributes={key: [row[key] for row in rows] for key in rows[0]},
    )


@cache
def _metadata(pack: str) -> list[dict[str, str]]:
    with ZipFile(pack) as archive:
        return list(csv.DictReader(io.StringIO(archive.read("metadata.csv").decode())))


def _picture(pack: str | Path, member: str) -> Image.Image:
    with _archive(str(pack), os.getpid()).open(member) as file:
        return Image.open(io.BytesIO(file.read()))


@cache
def _archive(pack: str, process: int) -> ZipFile:
    return ZipFile(pack)

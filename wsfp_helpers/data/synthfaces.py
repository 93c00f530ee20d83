"""SynthFaces-19: rendered faces with exact 19-class maps, shipped inside the package (CC0; see its CARD.md)."""

import csv
import io
import os
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from PIL import Image

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS, existing
from wsfp_helpers.common.pictures import FORMATS
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import COMPONENTS

PACK = ASSETS / "synthfaces19.zip"
SPLITS = ("celeb/pretrain", "celeb/train", "celeb/val", "celeb/test", "lapa/test", "helen/test")
TONES = (2, 4, 6)
"""Where skin tones (0 light to 10 dark) are cut into bands."""
LONG_HAIR = ("long", "wavy", "curly", "bob", "medium")
LICENCE = "SynthFaces-19: rendered faces, no real person; CC0 1.0"


def synthfaces(split: str = "celeb/train", pack: str | Path = PACK) -> Faces:
    """One split of SynthFaces-19, opened lazily: 160 x 160 pictures, label maps, a table of attributes.

    ``celeb/pretrain`` is for the stand-ins only; ``train``, ``val`` and ``test`` are the benchmark.  A class is
    present from 10 pixels on (column ``has_<class>`` of the pack's metadata).
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of SynthFaces-19: expected one of {', '.join(SPLITS)}")
    rows = [row for row in _metadata(str(pack)) if f"{row['domain']}/{row['split']}" == split]
    weak = WeakFaces(
        f"SynthFaces-19 {split}",
        [row["id"] for row in rows],
        partial(_image, str(pack), {row["id"]: row["image"] for row in rows}),
        np.array([[int(row[f"has_{name}"]) for name in COMPONENTS] for row in rows], np.uint8),
        licence=LICENCE,
    )
    facts = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    ends = (0, *TONES, 10)
    bands = np.array([f"{low} to {high}" for low, high in pairwise(ends)])
    groups = {
        "skin tone": bands[np.digitize(facts["skin_tone"].astype(float), TONES)],
        "hair": np.where(np.isin(facts["hair_style"], LONG_HAIR), "longer", "short or none"),
        "glasses": facts["glasses"],
    }
    return Faces(weak, partial(_label_map, str(pack), {row["id"]: row["mask"] for row in rows}), facts, groups)


@cache
def _metadata(pack: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(_archive(pack, os.getpid()).read("metadata.csv").decode())))


def _image(pack: str, members: dict[str, str], key: str) -> np.ndarray:
    return np.array(_picture(pack, members[key]).convert("RGB"))


def _label_map(pack: str, members: dict[str, str], key: str) -> np.ndarray:
    return np.array(_picture(pack, members[key]).getchannel(0))


def _picture(pack: str, member: str) -> Image.Image:
    return Image.open(io.BytesIO(_archive(pack, os.getpid()).read(member)), formats=FORMATS)


@cache
def _archive(pack: str, process: int) -> ZipFile:
    # One handle per process: workers made by fork would share the position of the parent's.
    try:
        return ZipFile(existing(pack, "pack of SynthFaces-19"))
    except BadZipFile as error:
        raise InputError(f"{pack} is no complete pack of SynthFaces-19 ({error}): install the package again") from error

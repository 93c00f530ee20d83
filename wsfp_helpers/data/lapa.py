"""LaPa from the user's own copy: 11 classes, sides named from the viewer, the skin includes the ears.

Layout: ``{train,val,test}/images/*.jpg`` with ``labels/*.png`` of the same names (docs/design.md, 6.2).
"""

from pathlib import Path

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.faces import Faces, announce
from wsfp_helpers.data.folder import find_pictures, paired
from wsfp_helpers.labels import LAPA

SPLITS = ("train", "val", "test")
COUNTS = {"train": 18_176, "val": 2_000, "test": 2_000}
LICENCE = "LaPa: for non-commercial research and education only; the pictures may not be passed on"


def lapa(root: str | Path, split: str = "train") -> Faces:
    """LaPa: one split in scheme LAPA (18,176 / 2,000 / 2,000 images); see :func:`wsfp_helpers.data.folder.folder`."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of LaPa: expected one of {', '.join(SPLITS)}")
    folder = Path(root) / split
    pictures = find_pictures(folder / "images")
    maps = {key: folder / "labels" / f"{key}.png" for key in pictures}
    faces = paired(f"LaPa {split}", pictures, maps, LAPA, LICENCE, framed=False)
    announce(LICENCE)
    return faces

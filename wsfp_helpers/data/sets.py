"""Data sets behind one interface: picture, image-level labels, optional label map, id."""

import re
from pathlib import Path

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.faces import Faces

NAMES = ("synthfaces", "frl-london", "celebamask", "lapa", "helen", "folder", "shards")
"""Data sets that :func:`open_dataset` knows."""


def open_dataset(name: str, root: str | Path | None = None, split: str | None = None) -> Faces:
    """Open a data set of :data:`NAMES`; everything below is read lazily.

    ``root`` is the folder of the user's own copy; only ``synthfaces`` and ``frl-london`` do without.  ``split`` is
    ``celeb/train`` and so on for ``synthfaces`` and ``train``, ``val`` or ``test`` for ``celebamask``, ``lapa`` and
    ``helen``, each with a default; ``train-3820`` takes that many images of CelebAMask-HQ, evenly spread, on
    which the paper evaluates pseudo masks (4.1.1).  Raises :class:`InputError` for an unknown name or split, and a
    missing folder or file.
    """
    if name not in NAMES:
        raise InputError(f"unknown data set {name!r}: expected one of {', '.join(NAMES)}")
    if root is None and name not in ("synthfaces", "frl-london"):
        raise InputError(f"data set {name!r} needs the folder of your own copy as root")
    own = "" if root is None else root
    if split is not None and name in ("frl-london", "folder", "shards"):
        raise InputError(f"data set {name!r} has no splits, got {split!r}: leave the split out")
    match name:
        case "synthfaces":
            from wsfp_helpers.data.synthfaces import PACK, synthfaces

            return synthfaces(split or "celeb/train", PACK if root is None else root)
        case "frl-london":
            from wsfp_helpers.data.frl import frl_london

            return frl_london(root)
        case "celebamask":
            return _celebamask(own, split or "train")
        case "lapa":
            from wsfp_helpers.data.lapa import lapa

            return lapa(own, split or "train")
        case "helen":
            from wsfp_helpers.data.helen import helen

            return helen(own, split or "test")
        case "shards":
            from wsfp_helpers.data.shards import shards

            return shards(own)
        case _:
            from wsfp_helpers.data.folder import folder

            return folder(own)


def _celebamask(root: str | Path, split: str) -> Faces:
    from wsfp_helpers.data.celebamask import celebamask

    part, dash, count = split.partition("-")
    if dash and not re.fullmatch("[0-9]{1,9}", count):
        raise InputError(f"unknown split {split!r} of CelebAMask-HQ: expected for example train or train-3820")
    return celebamask(root, part, int(count) if count else None)

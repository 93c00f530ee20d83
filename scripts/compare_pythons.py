"""Do two environments (Python, torch, processor) give the same label maps?  Both shipped parsers, one thread.

usage: python scripts/compare_pythons.py write FOLDER    30 rendered faces of celeb/test, three photographs
       python scripts/compare_pythons.py compare A B     share of equal pixels of two such folders
"""

import platform
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.common.files import existing
from wsfp_helpers.data.photograph import astronaut
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.parsing.load import SHIPPED_PARSERS
from wsfp_helpers.parsing.photographs import parse_photographs, predict_set

FACES = 30


def write(out: Path) -> None:
    """Write the label maps of both parsers below ``out``: ``PARSER/faces`` and ``PARSER/photographs``."""
    torch.set_num_threads(1)
    whole = Image.fromarray(astronaut(whole=True))
    photographs = out / "in"
    photographs.mkdir(parents=True)
    Image.fromarray(astronaut()).save(photographs / "face.png")
    whole.save(photographs / "whole.png")
    whole.resize((1600, 1600), Image.Resampling.BICUBIC).save(photographs / "large.png")
    faces = synthfaces("celeb/test").weak
    some = faces.subset(range(0, len(faces), len(faces) // FACES)[:FACES])
    for parser in SHIPPED_PARSERS:
        parse_photographs(photographs, out / parser / "photographs", parser)
        predict_set(some, out / parser / "faces", parser)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}: {out}")


def compare(one: Path, other: Path) -> None:
    """Print the share of equal pixels by parser and kind of picture."""
    for parser in SHIPPED_PARSERS:
        for kind in ("faces", "photographs"):
            equal = []
            for path in sorted(existing(one / parser / kind, "label maps").glob("*.png")):
                twin = existing(other / parser / kind / path.name, "label map")
                equal.append(np.asarray(Image.open(path)) == np.asarray(Image.open(twin)))
            if not equal:
                raise InputError(f"no label maps in {one / parser / kind}: write them first")
            share = 100 * sum(int(each.sum()) for each in equal) / sum(each.size for each in equal)
            same = sum(bool(each.all()) for each in equal)
            print(f"{parser:12}{kind:13}{same} of {len(equal)} maps equal, {share:.4f} % of the pixels")


if __name__ == "__main__":
    with exit_on_bad_input():
        match sys.argv[1:]:
            case ["write", folder]:
                write(Path(folder))
            case ["compare", one, other]:
                compare(Path(one), Path(other))
            case _:
                sys.exit(__doc__)

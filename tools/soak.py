"""Put many pictures through stages, and say how fast and with how much memory: it should stay the same.

usage: python -m tools.soak [--photographs 2000] [--pictures 30000]

``--photographs`` are parsed as ``wsfp parse`` does: an astronaut in three sizes under other names.  ``--pictures`` are
simulated: a detector that answers at once (``detect``), Eq. 1 and masks (``mask``), pseudo labels from one face's maps
under other names (``pseudo``), and these against one label map (``evaluate``).  A line at 10 %, 50 % and 100 %; the
boxes of all pictures are in memory from ``mask`` on.
"""

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import numpy as np
import psutil
import torch
from PIL import Image

from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.data.photograph import astronaut
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import PHRASES, Candidates, Detection
from wsfp_helpers.detect.boxes import detect_dataset, read_boxes
from wsfp_helpers.labels import K
from wsfp_helpers.method import pseudo
from wsfp_helpers.method.ccd import mask_faces
from wsfp_helpers.method.fcam import Fcam, save_fcam
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing import photographs
from wsfp_helpers.score import folders

P, R = ParamSpec("P"), TypeVar("R")
SIDE = 320
"""Of the simulated pictures in pixels, as those of the profile ``embedded``."""


def watched(call: Callable[P, R], name: str, total: int) -> Callable[P, R]:
    """``call``, which says after 10 %, 50 % and 100 % of ``total`` calls how long they took and the memory in use."""
    marks, lock = {max(1, round(total * share)) for share in (0.1, 0.5, 1)}, threading.Lock()
    process, start, done = psutil.Process(), time.perf_counter(), 0

    def counted(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal done
        result = call(*args, **kwargs)
        with lock:
            done += 1
            if done in marks:
                seconds, megabytes = time.perf_counter() - start, process.memory_info().rss / 2**20
                print(f"{name:<10}{done:>8,} pictures {done / seconds:>9.1f} a second {megabytes:>9.1f} MB", flush=True)
        return result

    return counted


def under_names(file: Path, names: Sequence[str], folder: Path) -> None:
    """Link ``file`` into ``folder`` under each of ``names``, its suffix behind them."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}{file.suffix}").hardlink_to(file)


def soak_parse(count: int, place: Path) -> None:
    """``wsfp parse`` on ``count`` photographs."""
    person = Image.fromarray(astronaut(whole=True))
    for number, side in enumerate((256, 512, 2048)):
        person.resize((side, side)).save(place / f"{number}.jpg", quality=92)
        names = [f"{i:05}" for i in range(number, count, 3)]
        under_names(place / f"{number}.jpg", names, place / "photographs")
    with patch.object(photographs, "write_index_png", watched(write_index_png, "parse", count)):
        photographs.parse_photographs(place / "photographs", place / "parts")


class Answers:
    """A detector that finds every component in the middle of every picture."""

    name, phrases = "soak", None

    def __call__(self, image: np.ndarray, phrase: str) -> list[Detection]:
        """One box of an eighth of the side."""
        height, width = image.shape[:2]
        box = (width * 7 / 16, height * 7 / 16, width * 9 / 16, height * 9 / 16)
        return [Detection(box, 0.5, phrase)]

    def detect_batch(self, images: Sequence[np.ndarray], phrases: Sequence[str] = PHRASES) -> list[Candidates]:
        """The same for each."""
        return [{phrase: self(image, phrase) for phrase in phrases} for image in images]


def soak_stages(count: int, place: Path) -> None:
    """CCD, pseudo labels and their scores for ``count`` simulated pictures."""
    names, picture = [f"{i:05}" for i in range(count)], np.full((SIDE, SIDE, 3), 128, np.uint8)
    every = np.ones((count, K), np.uint8)
    faces = WeakFaces("soak", names, watched(lambda key: picture.copy(), "detect", count), every)
    records = read_boxes(detect_dataset(faces, Answers(), place / "ccd" / "boxes.jsonl"))
    masked = mask_faces(WeakFaces("soak", names, lambda key: picture.copy(), every), records)
    read = watched(masked.image, "mask", count)
    for i in range(count):
        read(i)
    grid = torch.rand(K, SIDE // 16, SIDE // 16, generator=torch.Generator().manual_seed(0))
    save_fcam(Fcam("one", np.arange(K), (grid,), (SIDE, SIDE)), place)
    under_names(place / "one.safetensors", names, place / "fcams")
    with patch.object(pseudo, "write_index_png", watched(write_index_png, "pseudo", count)):
        pseudo.write_pseudo_labels(place / "fcams", place / "labels")
    write_index_png(place / "one.png", np.zeros((SIDE, SIDE), np.uint8), PALETTE)
    under_names(place / "one.png", names, place / "truth")
    with patch.object(folders, "confusion", watched(folders.confusion, "evaluate", count)):
        folders.evaluate_folders(place / "labels", place / "truth")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=2000)
    parser.add_argument("--pictures", type=int, default=30_000)
    chosen = parser.parse_args(arguments)
    soaks = {"photographs": soak_parse, "pictures": soak_stages}
    for option in soaks:
        if getattr(chosen, option) < 1:
            raise InputError(f"--{option} is {getattr(chosen, option)}: expected 1 or more")
    for option, soak in soaks.items():
        with TemporaryDirectory() as place:
            soak(getattr(chosen, option), Path(place))


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

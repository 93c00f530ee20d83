"""Put many pictures through stages, and say how fast and with how much memory: it should stay the same.

usage: python -m tools.soak [--photographs 2000] [--pictures 30000] [--kernels 20]       0 leaves a part out

``--photographs`` are parsed as ``wsfp parse`` does: an astronaut in three sizes under other names.  ``--pictures`` are
simulated: a detector that answers at once (``detect``), Eq. 1 and masks (``mask``), pseudo labels from one face's maps
under other names (``pseudo``), and these against one label map (``evaluate``).  A line at 10 %, 50 % and 100 %; the
boxes of all pictures are in memory from ``mask`` on.  ``--kernels`` are opened one after another by JupyterLab, each
draws a face, and is closed; exits with 2 when a process or file of one is left.
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
import requests
import torch
from jupyter_client import BlockingKernelClient
from PIL import Image

from tools.lab_check import serve
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
DRAWS = """
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.notebook.plots import face_and_map, show
faces = synthfaces("celeb/val")
show(face_and_map(faces.image(0), faces.label_map(0), title="A face"), "A face beside its label map.")
"""
"""What each kernel runs."""
WAIT = 120
"""Seconds that a kernel or an answer may take."""


def marks(total: int) -> set[int]:
    """10 %, 50 % and 100 % of ``total``."""
    return {max(1, round(total * share)) for share in (0.1, 0.5, 1)}


def watched(call: Callable[P, R], name: str, total: int) -> Callable[P, R]:
    """``call``, which says after 10 %, 50 % and 100 % of ``total`` calls how long they took and the memory in use."""
    lock = threading.Lock()
    process, start, done = psutil.Process(), time.perf_counter(), 0

    def counted(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal done
        result = call(*args, **kwargs)
        with lock:
            done += 1
            if done in marks(total):
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


def soak_kernels(count: int, place: Path) -> None:
    """Open and close ``count`` kernels; stops the program when a process or a file of one stays behind."""
    (place / "root").mkdir(parents=True)
    with serve(place / "root", place) as (address, process), requests.Session() as session:
        session.get(f"{address}/lab", timeout=WAIT).raise_for_status()
        session.headers["X-XSRFToken"] = session.cookies["_xsrf"]
        server, kernels, before = psutil.Process(process.pid), f"{address}/api/kernels", _files(place)
        for number in range(1, count + 1):
            started = session.post(kernels, json={"name": "python3"}, timeout=WAIT)
            started.raise_for_status()
            kernel = started.json()["id"]
            client = BlockingKernelClient(connection_file=str(place / "runtime" / f"kernel-{kernel}.json"))
            client.load_connection_file()
            client.start_channels()
            answer = client.execute(DRAWS, reply=True, timeout=WAIT)
            client.stop_channels()
            used = server.children(recursive=True)
            session.delete(f"{kernels}/{kernel}", timeout=WAIT).raise_for_status()
            _, alive = psutil.wait_procs(used, 10)
            left = [*(each.name() for each in alive), *sorted(_files(place) - before)]
            if answer["content"]["status"] != "ok" or not used or left:
                raise InputError(f"kernel {number} ended with {answer['content']}; left behind: {left}")
            if number in marks(count):
                print(
                    f"kernels   {number:>8,} closed {server.memory_info().rss / 2**20:>11.1f} MB of the server, "
                    f"{server.num_fds()} open files, {server.num_threads()} threads, nothing left behind",
                    flush=True,
                )


def _files(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for folder in ("runtime", "tmp") for path in (place / folder).rglob("*")}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=2000)
    parser.add_argument("--pictures", type=int, default=30_000)
    parser.add_argument("--kernels", type=int, default=20)
    chosen = parser.parse_args(arguments)
    soaks = {"photographs": soak_parse, "pictures": soak_stages, "kernels": soak_kernels}
    for option in soaks:
        if getattr(chosen, option) < 0:
            raise InputError(f"--{option} is {getattr(chosen, option)}: expected 0 or more")
    for option, soak in soaks.items():
        if count := getattr(chosen, option):
            with TemporaryDirectory() as place:
                soak(count, Path(place))


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

"""Put many pictures through stages, and say how fast and with how much memory: it should stay the same.

usage: python -m tools.soak [--photographs 2000] [--pictures 30000] [--kernels 20]       0 leaves a part out

``--photographs`` are parsed as ``wsfp parse`` does: an astronaut in three sizes under other names, a line at 10 %, 50 %
and 100 %.  ``--pictures`` go through the stages in miniature, which tools/scale.py explains.  ``--kernels`` are opened
one after another by JupyterLab, each draws a face, and is closed; exits with 2 when a process or file of one is left.
"""

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import psutil
import requests
from jupyter_client import BlockingKernelClient
from PIL import Image

from tools.lab_check import serve
from tools.scale import soak_stages
from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.common.files import append_row
from wsfp_helpers.data.photograph import astronaut
from wsfp_helpers.parsing import photographs

P, R = ParamSpec("P"), TypeVar("R")
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
    # A row of progress follows the maps of a photograph, of which there are as many as parsers.
    with patch.object(photographs, "append_row", watched(append_row, "parse", count)):
        photographs.parse_photographs(place / "photographs", place / "parts")


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

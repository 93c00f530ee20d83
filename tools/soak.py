"""Put many pictures through stages, and say how fast and with how much memory: it should stay the same.

usage: python -m tools.soak [--photographs 2000] [--pictures 30000]

``--photographs`` are parsed as ``wsfp parse`` does: an astronaut in three sizes under other names, a line at 10 %, 50 %
and 100 %.  ``--pictures`` go through the stages in miniature, which tools/scale.py explains.
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
from PIL import Image

from tools.scale import soak_stages
from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.data.photograph import astronaut
from wsfp_helpers.parsing import photographs

P, R = ParamSpec("P"), TypeVar("R")


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

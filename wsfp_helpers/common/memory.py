"""How much memory the machine has, and how much a piece of work takes."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def all_memory() -> int:
    """Bytes of the machine, or of the container where that may use fewer."""
    found = [psutil.virtual_memory().total]
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
            found.append(int(path.read_text(encoding="utf-8")))
    return min(found)


def memory_in_use() -> int:
    """Bytes of this process, and what the processes that it started do not share with it."""
    process = psutil.Process()
    total = process.memory_info().rss
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            total += child.memory_full_info().uss
    return total


class PeakMemory:
    """In a ``with`` block: watches the bytes that ``measure`` gives, whose highest value is ``most`` afterwards."""

    def __init__(self, measure: Callable[[], int] = memory_in_use) -> None:
        self.most, self._measure = 0, measure

    def __enter__(self) -> "PeakMemory":
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, self._measure())
            if self._ended.wait(0.1):
                return

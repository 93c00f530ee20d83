"""The same call for many items, in threads or in processes."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import TypeVar

from wsfp_helpers.common.machine import cpu_count

Item = TypeVar("Item")
Result = TypeVar("Result")
AT_ONCE = 1024
"""Items that wait at a time: a pool keeps a kilobyte for each, and every result that nobody has taken yet."""


def in_threads(call: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """``call(item)`` of every item, in order, a thread a core; the first exception ends it."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        try:
            for start in range(0, len(items), AT_ONCE):
                yield from pool.map(call, items[start : start + AT_ONCE])
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def in_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``count`` processes of one thread each, which an interrupt of this one ends in the midst of their work.

    For ``submit``: ``map`` cancels what waits before it is ended, at which Python 3.11 stumbles.  Spawned, not forked:
    a fork of a process whose threads are at work inside torch can hang.
    """
    others = active_children()
    with ProcessPoolExecutor(count, get_context("spawn"), _begin) as pool:
        try:
            yield pool
        except KeyboardInterrupt:  # the pool would wait for them
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise


def _begin() -> None:
    import torch  # here, for threads alone do without

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal
    torch.set_num_threads(1)

"""The same call for many items, in threads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

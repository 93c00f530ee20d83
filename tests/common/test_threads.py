"""The same call for many items: in order, a few at a time, and no further than the first failure."""

import threading
import time

import pytest

from wsfp_helpers.common import threads


def test_results_come_in_order(monkeypatch):
    monkeypatch.setattr(threads, "AT_ONCE", 3)

    def slowest_first(i):
        time.sleep(0.002 * (7 - i))
        return i

    assert list(threads.in_threads(slowest_first, range(8))) == list(range(8))
    assert list(threads.in_threads(slowest_first, [])) == []


def test_what_nobody_takes_is_not_computed_and_a_failure_ends_it(monkeypatch):
    monkeypatch.setattr(threads, "AT_ONCE", 4)
    seen, lock = [], threading.Lock()

    def note(i):
        with lock:
            seen.append(i)
        if i == 5:
            raise ValueError("five")
        return i

    found = threads.in_threads(note, range(100))
    assert next(found) == 0 and max(seen) < 4
    with pytest.raises(ValueError, match="five"):
        list(found)
    assert max(seen) < 8

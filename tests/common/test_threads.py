"""The same call for many items: in order, a few at a time, and no further than the first failure."""

import signal
import threading
import time
from multiprocessing import active_children

import pytest
import torch

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


def test_an_interrupt_does_not_wait_for_processes():
    with pytest.raises(KeyboardInterrupt), threads.in_processes(2) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
        sleeps = [pool.submit(time.sleep, 250) for _ in range(2)]  # longer than a test may take
        while not all(each.running() for each in sleeps):
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert not active_children()


def test_a_failure_in_a_process_cancels_what_waits():
    with pytest.raises(ValueError, match="length"), threads.in_processes(1) as pool:
        sleeps = [pool.submit(time.sleep, seconds) for seconds in (-1, *[0.1] * 20)]
        sleeps[0].result()
    assert sleeps[-1].cancelled()

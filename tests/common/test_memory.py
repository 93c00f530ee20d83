"""Memory of the machine and of work: against the kernel's own numbers, and children that take some."""

import subprocess
import sys

import psutil
import pytest

from wsfp_helpers.common import memory


def test_a_container_may_have_less_than_the_machine(monkeypatch, tmp_path):
    machine = psutil.virtual_memory().total
    paths = [tmp_path / "max", tmp_path / "none", tmp_path / "limit"]
    paths[0].write_text("max\n")
    monkeypatch.setattr(memory, "_LIMITS", paths)
    assert memory.all_memory() == machine
    paths[2].write_text("1000000\n")
    assert memory.all_memory() == 1_000_000


BLOCK = "import time; block = b'x' * 10**8; time.sleep(0.6)"
MEASURE = """
import subprocess, sys, time
from wsfp_helpers.common.memory import PeakMemory, memory_in_use
with PeakMemory() as before:
    time.sleep(0.3)
with PeakMemory() as peak:
    {work}
    block = None
    time.sleep(0.1)
print(before.most, peak.most, memory_in_use())
"""


@pytest.mark.parametrize("work", [BLOCK, f"subprocess.run([sys.executable, '-c', {BLOCK!r}], check=True)"])
def test_a_peak_that_has_passed_is_seen(work):
    # In a process of its own: this one may free the memory of other tests meanwhile.
    done = subprocess.run([sys.executable, "-c", MEASURE.format(work=work)], check=True, capture_output=True, text=True)
    before, peak, after = map(int, done.stdout.split())
    assert before + 0.9e8 < peak < before + 2.5e8
    assert after < before + 0.5e8

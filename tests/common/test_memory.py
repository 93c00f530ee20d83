"""Memory of the machine and of work: against the kernel's own numbers, and children that take some."""

import subprocess
import sys
import time

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


@pytest.mark.parametrize("where", ["here", "in a child"])
def test_a_peak_that_has_passed_is_seen(where):
    with memory.PeakMemory() as before:
        time.sleep(0.3)
    with memory.PeakMemory() as peak:
        if where == "here":
            block = b"x" * 10**8
            time.sleep(0.4)
            del block
        else:
            subprocess.run([sys.executable, "-c", "import time; b = b'x' * 10**8; time.sleep(0.6)"], check=True)
        time.sleep(0.1)
    assert before.most + 0.9e8 < peak.most < before.most + 2.5e8
    assert memory.memory_in_use() < peak.most

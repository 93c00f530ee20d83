"""`wsfp plan`: arithmetic, what does not fit, and what would.  That it times every stage: test_full_size.py."""

import mmap
import time

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from wsfp_helpers import cli
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.profiles import profile
from wsfp_helpers.tooling import plan
from wsfp_helpers.tooling.plan import MANY, Cost, Plan, Spent

MAPS = Cost("fcam", "picture", lambda n: n, 0.5, bytes_a_unit=1e6, memory=10**9)
TRAIN = Cost("train", "step", lambda n: 45 * (n // 36), 0.8, bytes_once=2 * 10**9, gpu=2**34, memory=5 * 10**9)
ENOUGH = 16 * 10**9
"""Bytes of memory."""


def test_hours_and_disk_of_the_papers_set_and_of_ten_million():
    made = Plan((MAPS, TRAIN), (), 10**12, ENOUGH)
    assert MAPS.hours(24_183) == pytest.approx(24_183 / 7200) and TRAIN.hours(24_183) == pytest.approx(671 * 45 / 4500)
    assert made.disk(24_183) == pytest.approx(26.183e9) and made.disk(MANY) == pytest.approx(10_002e9)
    assert made.fitting() == 998_000 and made.problems == []
    lines = str(made).splitlines()
    total = next(line for line in lines if line.startswith("all"))
    assert total.split() == ["all", "10.1", "26.2", "4,166.7", "10,002.0"]
    split = next(line for line in lines if "8 GPUs" in line)
    assert split.split()[-2:] == ["1.3", "520.8"] and split.index("1.3") == total.index("10.1") + 1
    row = next(line for line in lines if line.startswith("train")).split()
    assert row[3:5] == ["16.0", "5.0"] and "for 10,000,000 pictures a process needs up to 15.0 GB" in lines[-1]


def test_a_disk_that_is_too_small_is_said_with_what_it_would_hold():
    made = Plan((MAPS, TRAIN), (), 3 * 10**9, ENOUGH)
    (problem,) = made.problems
    assert "need 26 GB" in problem and "3 GB are free" in problem and "at most 1,000 pictures" in problem


def test_a_disk_without_room_for_the_weights_holds_nothing():
    assert Plan((MAPS, TRAIN), (), 10**9, ENOUGH).fitting() == 0


def test_a_memory_that_is_too_small_is_said_with_the_stages_that_need_more():
    (problem,) = Plan((MAPS, TRAIN), (), 10**12, 4 * 10**9).problems
    assert problem.startswith("train need up to 5.0 GB of memory, the machine has 4.0 GB: ")
    assert "--set train.workers=0" in problem


def test_what_a_call_takes_is_watched():
    def work():
        with mmap.mmap(-1, 2 * 10**8) as block:  # fresh pages, not what an earlier test has left to the allocator
            block[:: mmap.PAGESIZE] = b"x" * len(range(0, len(block), mmap.PAGESIZE))
            time.sleep(0.4)
            return block[0]

    before, _ = plan._timed(lambda: None)
    spent, result = plan._timed(work)
    assert result == ord("x") and spent.seconds > 0 and spent.gpu == 0
    assert 10**8 < before.memory and before.memory + 10**8 < spent.memory < before.memory + 4 * 10**8


def test_a_batch_that_does_not_fit_is_taken_in_the_fewest_pieces_that_do(monkeypatch, tmp_path):
    tried = []

    def time_steps(config, faces, size, run):
        tried.append(size)
        if size > 9:
            raise torch.cuda.OutOfMemoryError
        return Spent(2.0, 7, 8)

    monkeypatch.setattr(plan, "_time_steps", time_steps)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cost = plan._training(profile("paper"), None, tmp_path)
    assert tried == [36, 18, 12, 9] and "--set train.batch_size=9 --set train.accumulate=4" in cost.advice
    assert cost.hours(24_183) == pytest.approx(45 * (24_183 // 9) * 2 / 3600)
    assert any("train.accumulate=4" in problem for problem in Plan((cost,), (), 10**12, ENOUGH).problems)


@pytest.mark.parametrize(("free", "code"), [(10**12, 0), (10**9, 1)])
def test_the_command_ends_with_1_where_the_run_does_not_fit(monkeypatch, free, code):
    monkeypatch.setattr(
        plan, "make_plan", lambda config, out, work: Plan((MAPS, TRAIN), ("nothing is real",), free, ENOUGH)
    )
    result = CliRunner().invoke(cli.app, ["plan", "--profile", "paper"])
    assert result.exit_code == code and "nothing is real" in result.stdout
    assert ("does not fit: " in result.stdout) == bool(code)


def test_pictures_are_repeated_with_their_labels():
    faces = plan._repeated(_faces(3), 7)
    assert faces.ids == tuple("0123456") and [faces.image(i)[0, 0, 0] for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert faces.labels[:, 0].tolist() == [0, 1, 0, 0, 1, 0, 0]


def _faces(count):
    labels = np.zeros((count, 18), np.uint8)
    labels[1::2, 0] = 1
    return WeakFaces("x", list("abc")[:count], lambda key: np.full((4, 4, 3), ord(key) - ord("a"), np.uint8), labels)

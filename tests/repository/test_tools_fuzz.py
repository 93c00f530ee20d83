"""Damaged files: a few of each kind in every test run, and all that once broke a reader."""

import numpy as np
import pytest

from tools import fuzz


@pytest.mark.parametrize("name", fuzz.READERS)
def test_damaged_files_are_read_or_refused(name):
    rng, seeds = np.random.default_rng(0), fuzz.READERS[name][2]
    assert all(fuzz.breaks(name, seed) is None for seed in seeds)
    assert not [error for _ in range(60) if (error := fuzz.breaks(name, fuzz.damaged(seeds, rng))) is not None]


def test_files_that_once_broke_a_reader_do_not():
    assert not [(name, error) for name, content in fuzz.corpus() if (error := fuzz.breaks(name, content)) is not None]


def test_a_reader_that_breaks_is_noticed(monkeypatch):
    def broken(path):
        return {}[path.read_bytes()]

    monkeypatch.setitem(fuzz.READERS, "broken", ("a", broken, [b"x"]))
    assert isinstance(fuzz.breaks("broken", b"x"), KeyError)

"""Commands in odd surroundings: a terminal of ASCII only, no home, no threads, a file in place of the cache."""

import os
import subprocess
import sys

import numpy as np
import pytest

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.palette import PALETTE


@pytest.mark.parametrize(
    "changes",
    [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"HOME": None}, {"OMP_NUM_THREADS": "0"}],
    ids=str,
)
def test_a_command_does_not_mind_its_surroundings(changes, tmp_path):
    write_index_png(tmp_path / "ü ñ 面.png", np.full((8, 8), 3, np.uint8), PALETTE)
    surroundings = {key: value for key, value in (os.environ | changes).items() if value is not None}
    command = [sys.executable, "-m", "wsfp_helpers.cli", "evaluate", "--pred", str(tmp_path), "--gt", str(tmp_path)]
    done = subprocess.run(command, env=surroundings, capture_output=True, timeout=300)
    assert done.returncode == 0 and b"100" in done.stdout, done.stderr


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_file_in_place_of_the_cache_is_named(below, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "file" / below))
    with pytest.raises(InputError, match=r"file is no folder: set WSFP_CACHE"):
        cache_dir()

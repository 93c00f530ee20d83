"""Commands in odd surroundings: a terminal of ASCII only, no home, no threads, a file in place of the cache."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.bad_inputs import photograph
from wsfp_helpers.cli import app
from wsfp_helpers.common.cache import cache_dir, keep_array
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.palette import PALETTE


@pytest.mark.parametrize(
    "changes",
    [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"HOME": None}, {"OMP_NUM_THREADS": "0"}],
    ids=str,
)
@pytest.mark.promise(
    "surroundings", "`LC_ALL=C`, no `HOME`, `OMP_NUM_THREADS=0`, names in other alphabets", "the usual", "the usual"
)
def test_a_command_does_not_mind_its_surroundings(changes, tmp_path):
    write_index_png(tmp_path / "ü ñ 面.png", np.full((8, 8), 3, np.uint8), PALETTE)
    surroundings = {key: value for key, value in (os.environ | changes).items() if value is not None}
    command = [sys.executable, "-m", "wsfp_helpers.cli", "evaluate", "--pred", str(tmp_path), "--gt", str(tmp_path)]
    done = subprocess.run(command, env=surroundings, capture_output=True, timeout=300)
    assert done.returncode == 0 and b"100" in done.stdout, done.stderr


@pytest.mark.parametrize("below", ["", "deep/er"])
@pytest.mark.promise(
    "surroundings", "a file in place of the cache", "`the cache cannot be in ...: set WSFP_CACHE ...`", "as it was"
)
def test_a_file_in_place_of_the_cache_is_named(below, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "file" / below))
    with pytest.raises(InputError, match=r"the cache cannot be in .*file.*: set WSFP_CACHE"):
        cache_dir()


@pytest.mark.parametrize("place", ["/proc/cache", "x" * 300, "loop"])
@pytest.mark.promise(
    "surroundings",
    "a cache that cannot be made (/proc, 300 characters, a link to itself)",
    "`the cache cannot be in ...: set WSFP_CACHE ...`, exit code 2",
    "as it was",
)
def test_a_cache_that_cannot_be_made_is_named_before_anything_is_written(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    monkeypatch.setenv("WSFP_CACHE", place)
    result = CliRunner().invoke(app, ["train", "--out", "out"])
    assert result.exit_code == 2 and "the cache cannot be in " in result.stderr and "WSFP_CACHE" in result.stderr
    assert os.listdir() == ["loop"]


@pytest.mark.promise(
    "surroundings",
    "a file in place of a folder of the cache",
    "`choose another place for the cache, which WSFP_CACHE names`",
    "as it was",
)
def test_an_array_that_the_cache_does_not_take_says_how_to_move_it(tmp_path):
    (tmp_path / "features").touch()
    with pytest.raises(InputError, match="choose another place for the cache, which WSFP_CACHE names"):
        keep_array(tmp_path / "features" / "a.npy", np.zeros(1))


@pytest.mark.parametrize("launch", [{"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, {"WORLD_SIZE": "x"}], ids=str)
@pytest.mark.promise(
    "surroundings",
    "`WORLD_SIZE` left over, or no number",
    "`unset WORLD_SIZE, RANK and LOCAL_RANK`, exit code 2",
    "as it was",
)
def test_a_launch_that_is_none_is_a_sentence(launch, tmp_path):
    command = [sys.executable, "-m", "wsfp_helpers.cli", "ccd", "--out", str(tmp_path / "out")]
    surroundings = os.environ | {"RANK": "0", "LOCAL_RANK": "0"} | launch
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "unset WORLD_SIZE, RANK and LOCAL_RANK" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.promise(
    "surroundings",
    "a current folder that was removed",
    "`the current folder was removed: change to another one`, exit code 2",
    "as it was",
)
def test_a_folder_that_was_removed_is_a_sentence(tmp_path):
    code = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); from wsfp_helpers.cli import app; app()"
    surroundings = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, "profile"], cwd=tmp_path, env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr == "wsfp: the current folder was removed: change to another one\n"


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed: apt install faketime")
@pytest.mark.promise(
    "surroundings", "a clock of 2050, then of 1970, and a photograph of 1970", "the usual", "the same maps"
)
def test_a_clock_that_is_set_back_to_1970_is_no_matter(tmp_path):
    def run(when, command):
        told = ["faketime", "-f", f"@{when}-01-01 00:00:00", sys.executable, "-m", "wsfp_helpers.cli", *command.split()]
        surroundings = os.environ | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        done = subprocess.run(told, env=surroundings, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    def maps():
        return {path.name: path.read_bytes() for path in (tmp_path / "maps").glob("*.png")}

    for name in "ab":
        photograph(str(tmp_path / "in" / f"{name}.jpg"))
    run(2050, "parse in --parser weak --out maps")
    before = maps()
    os.utime(tmp_path / "in" / "b.jpg", (0, 0))
    run(1970, "parse in --parser weak --out maps")
    assert maps() == before and len(before) == 2
    run(1970, "evaluate --pred maps --gt maps --json scores.json")

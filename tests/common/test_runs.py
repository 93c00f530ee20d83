"""Run directories: another config is refused, the same one resumes, nothing half-written stays."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from wsfp_helpers.common import runs
from wsfp_helpers.common.errors import InputError


@dataclass(frozen=True)
class Config:
    lr: float = 1e-3
    scales: tuple[float, ...] = (1.0, 0.75)
    where: Path = Path("somewhere")


def test_a_run_says_what_it_is(tmp_path):
    folder = runs.start_run(tmp_path / "run", Config(), seed=3)
    content = json.loads((folder / "config.json").read_text())
    assert content["seed"] == 3
    assert content["config"] == {"lr": 1e-3, "scales": [1.0, 0.75], "where": "somewhere"}
    assert torch.__version__.startswith(content["versions"]["torch"])  # which may lack the build, "+cpu"
    assert content["revision"] and content["machine"] and content["date"]


def test_the_same_run_resumes_and_keeps_its_files(tmp_path):
    folder = runs.start_run(tmp_path / "run", Config())
    before = (folder / "config.json").read_bytes()
    runs.append_metrics(folder, {"step": 1, "loss": 0.5})
    assert runs.start_run(folder, Config()) == folder
    assert (folder / "config.json").read_bytes() == before
    assert runs.read_metrics(folder) == [{"step": 1, "loss": 0.5}]


@pytest.mark.parametrize(
    ("config", "seed", "words"), [(Config(lr=2e-3), 0, "config.lr = 0.001"), (Config(), 1, "seed = 0, this one has 1")]
)
def test_another_run_is_refused(tmp_path, config, seed, words):
    runs.start_run(tmp_path / "run", Config())
    with pytest.raises(InputError, match=words):
        runs.start_run(tmp_path / "run", config, seed)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="not the folder of a run"):
        runs.start_run(tmp_path, Config())
    with pytest.raises(InputError, match="not the folder of a run"):
        runs.start_run(tmp_path / "holiday.jpg", Config())


@pytest.mark.promise(
    "kills and faults", "half a line at the end of `metrics.jsonl`", "nothing", "the half line is dropped"
)
def test_a_line_cut_by_a_kill_is_dropped_on_resume(tmp_path):
    folder = runs.start_run(tmp_path / "run", Config())
    runs.append_metrics(folder, {"step": 1, "loss": 0.5})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert [row["step"] for row in runs.read_metrics(folder)] == [1]
    runs.start_run(folder, Config())
    runs.append_metrics(folder, {"step": 2, "loss": 0.25})
    assert [row["loss"] for row in runs.read_metrics(folder)] == [0.5, 0.25]


def test_of_repeated_steps_the_last_counts(tmp_path):
    folder = runs.start_run(tmp_path / "run", Config())
    for step, loss in ((1, 3.0), (2, 2.0), (2, 1.0)):
        runs.append_metrics(folder, {"step": step, "loss": loss})
    assert [row["loss"] for row in runs.read_metrics(folder)] == [3.0, 1.0]


@pytest.mark.promise(
    "kills and faults",
    "a full disk in the middle of `metrics.jsonl`",
    "`... (No space left on device)`",
    "the lines before",
)
def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    folder = runs.start_run(tmp_path / "run", Config())
    runs.append_metrics(folder, {"step": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        runs.append_metrics(folder, {"step": 2})
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1}\n'

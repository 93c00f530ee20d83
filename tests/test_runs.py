"""Run directories: another config is refused, the same one resumes, nothing half-written stays."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from wsfp_helpers import runs
from wsfp_helpers.storage import InputError


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


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    folder = runs.start_run(tmp_path / "run", Config())
    runs.append_metrics(folder, {"step": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        runs.append_metrics(folder, {"step": 2})
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_weights_round_trip_with_their_description(tmp_path):
    weights = {"a": torch.randn(2, 3), "half": torch.randn(4).half(), "view": torch.randn(4, 4).t()}
    runs.save_weights(tmp_path / "w.safetensors", weights, profile=Config(), classes=["skin", "nose"])
    found, about = runs.load_weights(tmp_path / "w.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) and found[name].dtype == weights[name].dtype for name in weights)
    assert about["classes"] == ["skin", "nose"] and about["profile"]["lr"] == 1e-3


def test_shared_tensors_can_be_saved(tmp_path):
    tied = torch.randn(3)
    runs.save_weights(tmp_path / "w.safetensors", {"a": tied, "b": tied})
    assert torch.equal(runs.load_weights(tmp_path / "w.safetensors")[0]["b"], tied)


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = tmp_path / "w.safetensors"
    runs.save_weights(path, {"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"w\.safetensors cannot be read.*truncated"):
        runs.load_weights(path)
    with pytest.raises(InputError, match="no weights at"):
        runs.load_weights(tmp_path / "missing.safetensors")


def test_a_checkpoint_of_another_architecture_is_refused_untouched(tmp_path):
    path = tmp_path / "w.safetensors"
    runs.save_weights(path, torch.nn.Linear(3, 2).state_dict())
    model = torch.nn.Linear(4, 2)
    before = model.weight.clone()
    with pytest.raises(InputError, match=r"another architecture: weight has shape \(2, 3\), this model has \(2, 4\)"):
        runs.load_into(model, path)
    assert torch.equal(model.weight, before)
    with pytest.raises(InputError, match="bias has shape"):
        runs.load_into(torch.nn.Linear(3, 2, bias=False), path)


def test_weights_reach_the_model(tmp_path):
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    runs.save_weights(tmp_path / "w.safetensors", source.state_dict(), step=7)
    assert runs.load_into(target, tmp_path / "w.safetensors") == {"step": 7}
    assert torch.equal(source.weight, target.weight)


def test_the_revision_marks_changed_files(tmp_path, monkeypatch):
    import subprocess

    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)

    git("init", "-q")
    (tmp_path / "runs.py").write_text("1\n")
    git("add", "runs.py")
    git("commit", "-q", "-m", "Start")
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    runs.revision.cache_clear()
    clean = runs.revision()
    (tmp_path / "runs.py").write_text("2\n")
    runs.revision.cache_clear()
    changed = runs.revision()
    runs.revision.cache_clear()
    assert len(clean) == 12 and changed == f"{clean}-dirty"


def test_fingerprint_changes_with_the_weights():
    def layer(seed):
        torch.manual_seed(seed)
        return torch.nn.Linear(3, 2)

    assert runs.fingerprint(layer(0)) == runs.fingerprint(layer(0)) != runs.fingerprint(layer(1))

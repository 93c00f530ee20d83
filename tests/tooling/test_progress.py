"""Reports on a training under way: from its last checkpoint, beside it, and without changing it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from wsfp_helpers import cli, stages
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.method.train import CHECKPOINT, MODEL
from wsfp_helpers.profiles import Source, profile
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels
from wsfp_helpers.tooling import progress


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of four steps on eight faces at 64 px, with a checkpoint at each step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSFP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(Source, "open", lambda self: synthfaces(self.split).subset(range(8)))
        config = profile("embedded")
        training = replace(config.train, batch_size=2, epochs=1, save_every=1)
        config = replace(config, train=training, model=replace(config.model, size=64))
        yield stages.run_train(config, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def reported(run):
    """What the folder held before the report, and the report."""
    return bytes_of(run), progress.report(run, 6)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_report_is_that_of_the_weights_and_leaves_the_run_alone(run, reported):
    (before, row), after = reported, bytes_of(run)
    assert after.keys() - before.keys() == {"report.jsonl", "report-4.png"}
    assert all(after[name] == content for name, content in before.items())
    assert [json.loads(line) for line in after["report.jsonl"].splitlines()] == [row]

    vit, config = stages.load_run(run)
    faces = config.faces("val").subset([0, 1, 2, 4, 5, 6])
    labels = [pseudo_label(each, config.theta) for each in extract(vit, faces.weak, config.fcam)]
    expected = score_pseudo_labels(labels, faces)
    assert row["step"] == 4 and row["mean_f1"] == pytest.approx(expected.mean_f1, abs=0.01)
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert row["loss"] == pytest.approx(sum(losses) / 4)
    assert set(row["gradients"]) > {"class_mlsm", "pos_ffc", "reg"} and 0 < row["dead"]["v_cls"] < 1
    text = progress.format_report(row)
    assert "step 4: loss" in text and "pos_ffc" in text and "patch head" in text
    assert Image.open(run / "report-4.png").size > (400, 400)


def test_under_way_the_last_checkpoint_is_asked(run, reported, tmp_path):
    """That of the last step holds the weights of the end."""
    for name in ("config.json", "metrics.jsonl", CHECKPOINT):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert progress.report(tmp_path, 6) == reported[1]


@pytest.mark.parametrize(
    "line",
    ["{}", '{"step": 1}', '{"step": Infinity, "loss": 1}', '{"step": "x", "loss": 1}', '{"step": 1, "loss": []}'],
)
def test_metrics_that_were_edited_are_named(line, run, tmp_path):
    for name in ("config.json", CHECKPOINT):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"metrics.jsonl has a line without the numbers step and loss"):
        progress.report(tmp_path, 6)


def test_maps_of_a_checkpoint_say_so(run, tmp_path):
    """Those of the last step are those of the end; without being asked for they are refused."""
    under_way = tmp_path / "run"
    under_way.mkdir()
    for name in ("config.json", CHECKPOINT):
        (under_way / name).write_bytes((run / name).read_bytes())
    command = ["fcam", "--run", str(under_way), "--out", str(tmp_path / "fcams"), "--part", "val"]
    refused = CliRunner().invoke(cli.app, command)
    assert refused.exit_code == 2 and "has not ended: wait" in refused.stderr and "--checkpoint" in refused.stderr
    said = CliRunner().invoke(cli.app, [*command, "--checkpoint"])
    note = "of step 4 of a training that had not ended"
    assert said.exit_code == 0 and f"8 pictures in {tmp_path / 'fcams'}, {note}" in said.stdout
    stages.run_fcam(run, tmp_path / "ended", "val", checkpoint=True)
    maps = [path.name for path in (tmp_path / "fcams").glob("*.safetensors")]
    assert len(maps) == 8
    assert all((tmp_path / "fcams" / name).read_bytes() == (tmp_path / "ended" / name).read_bytes() for name in maps)
    for folder, words in (("fcams", note), ("ended", "")):
        labels = tmp_path / f"labels-of-{folder}"
        said = CliRunner().invoke(cli.app, ["pseudo", "--fcams", str(tmp_path / folder), "--out", str(labels)])
        assert said.exit_code == 0 and said.stdout.strip() == f"{labels}{words and ', ' + words}"
    with pytest.raises(InputError, match="has no checkpoint yet"):
        (under_way / CHECKPOINT).unlink()
        stages.run_fcam(under_way, tmp_path / "fcams", "val", checkpoint=True)


def test_following_ends_with_the_training(run, reported, tmp_path, monkeypatch):
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    arrives = [CHECKPOINT, None, MODEL]

    def wait(_):
        name = arrives.pop(0)
        if name:
            (tmp_path / name).write_bytes((run / name).read_bytes())

    monkeypatch.setattr(progress.time, "sleep", wait)
    monkeypatch.setattr(progress, "report", lambda *_: reported[1])
    texts = list(progress.follow(tmp_path, 6))
    assert len(texts) == 2 and arrives == []  # one for the checkpoint, one for the end


def test_what_is_no_run_and_what_has_not_begun(run, tmp_path):
    with pytest.raises(InputError, match="no run directory"):
        progress.report(tmp_path / "none", 6)
    with pytest.raises(InputError, match="no run directory"):
        next(progress.follow(tmp_path / "none", 6))
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(InputError, match="has no checkpoint yet: one is written every 1 steps"):
        progress.report(tmp_path, 6)

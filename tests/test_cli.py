"""The command line: help at once, bad input as one sentence and exit code 2, results where they were asked for."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from fixtures import CELEBA_COUNTS, make_celebamask
from typer.testing import CliRunner

from wsfp_helpers import cli, profiles
from wsfp_helpers.common.checkpoints import read_weights, save_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.common.runs import read_metrics
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.method.fcam import FcamConfig
from wsfp_helpers.palette import PALETTE


def wsfp(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WSFP_DATA", raising=False)


def commands(app=cli.app, prefix=()):
    for info in app.registered_commands:
        yield (*prefix, info.name or info.callback.__name__)
    for group in app.registered_groups:
        yield from commands(group.typer_instance, (*prefix, group.name))


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_explains_itself(command):
    result = wsfp(*command, "--help")
    assert result.exit_code == 0 and len(result.output.split()) > 15


def test_help_needs_no_torch():
    code = "import sys, wsfp_helpers.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "get", "frl-berlin"],
        ["evaluate", "--pred", "/no", "--gt", "/no"],
        ["ablate", "vlm", "--seeds", "0;1"],
        ["fcam", "--run", "/no", "--out", "x", "--shard", "4/4"],
        ["data", "verify", "/no"],
        ["parse", "/no", "--out", "x"],
        ["train", "--out", "x", "--profile", "no"],
        ["trian"],
        ["data", "verfy", "x"],
        ["--sed", "1"],
        ["train", "--sed", "1"],
        ["train", "--out"],
        ["parse", "a", "b", "--out", "x"],
        ["profile", "embedded", "frl"],
        ["profile", "--set", "train.batch_size"],
        ["profile", "paper", "--set", "parser.scale=[1.3,0.7]"],
        ["profile", "paper", "--set", "ccd.min_area=0.5"],
        ["train", "--out", "x", "--set", "train.batchsize=3"],
        ["export", "--out", "x", "--weights", "float8"],
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments):
    result = wsfp(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("wsfp: ") and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", ["--results", "--work"])
@pytest.mark.parametrize("command", [["ablate", "no table"], ["systems", "run", "no system"]], ids=" ".join)
def test_a_file_in_place_of_a_folder_is_said_before_anything_else(command, option):
    result = wsfp(*command, option, __file__)
    assert result.exit_code == 2 and f"'{option}'" in result.stderr and "is a file" in result.stderr


def test_a_folder_in_place_of_a_file_is_said_before_anything_else(tmp_path):
    result = wsfp("doctor", "--json", tmp_path)
    assert result.exit_code == 2 and result.stdout == "" and "'--json'" in result.stderr


@pytest.mark.parametrize("group", [[], ["data"], ["systems"]], ids=str)
def test_a_group_without_a_command_explains_itself(group):
    result = wsfp(*group)
    assert "Usage: " in result.stdout and not result.stderr.startswith("wsfp:")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
@pytest.mark.parametrize("command", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_that_cannot_be_shown_is_a_sentence(command):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "wsfp_helpers.cli", *command]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith("wsfp: could not use the output (No space")


INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {name!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from wsfp_helpers.__main__ import main
main()
"""


@pytest.mark.promise(
    "kills and faults",
    "Ctrl-C while a command is still being imported",
    "`stopped before anything was done`, exit code 130",
    "as it was",
)
@pytest.mark.parametrize("name", ["wsfp_helpers.cli", "typer", "wsfp_helpers.common.errors"])
def test_an_interrupt_while_the_command_line_is_imported_is_quiet(name):
    command = [sys.executable, "-c", INTERRUPTED.format(name=name), "profile"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (130, "wsfp: stopped before anything was done\n")


def test_the_installed_command_shows_no_traceback():
    command = [sys.executable, "-m", "wsfp_helpers", "data", "get", "frl-berlin"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "frl-london" in done.stderr


@pytest.mark.promise(
    "kills and faults", "Ctrl-C in a download", "a sentence that says how to go on, exit code 130", "what was whole"
)
def test_an_interrupt_is_quiet(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsfp_helpers.data.frl.fetch_frl_london", stop)
    monkeypatch.setattr("wsfp_helpers.cli._leave", sys.exit)
    result = wsfp("data", "get", "frl-london")
    assert isinstance(result.exception, SystemExit) and result.exit_code == 130
    assert "Traceback" not in result.output and "the same command goes on" in result.output


def test_other_errors_are_not_hidden(monkeypatch):
    def broken():
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("wsfp_helpers.data.frl.fetch_frl_london", broken)
    assert isinstance(wsfp("data", "get", "frl-london").exception, ZeroDivisionError)


@pytest.mark.promise(
    "kills and faults", "a GPU without enough memory", "a sentence with the setting that needs less", "whole files"
)
def test_a_gpu_that_is_too_small_is_a_sentence(monkeypatch):
    def too_large():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. And more")

    monkeypatch.setattr("wsfp_helpers.data.frl.fetch_frl_london", too_large)
    result = wsfp("data", "get", "frl-london")
    assert result.exit_code == 2 and result.stderr.splitlines()[-1].endswith("parser.crop=320 (CUDA out of memory)")


@pytest.mark.parametrize("profile", ["paper", "embedded"])
def test_a_full_size_stage_on_a_cpu_says_why(monkeypatch, tmp_path, profile):
    monkeypatch.setattr("wsfp_helpers.common.machine.torch.cuda.is_available", lambda: False)
    result = wsfp("parser", "--labels", tmp_path / "none", "--out", tmp_path / "out", "--profile", profile)
    assert result.exit_code == 2 and ("computing on the CPU: torch" in result.stderr) == (profile == "paper")


@pytest.mark.parametrize(
    ("name", "width"),
    [("vit_small_patch14_dinov2", 384), ("vit_base_patch14_dinov2", 768), ("deit_base_patch16_224", 768)],
)
def test_another_backbone_is_trained_and_read_by_one_setting(monkeypatch, tmp_path, name, width):
    """A step of the paper profile, but for its size: one block of timm's network, two small pictures, mini-FLIP."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, depth=1).state_dict()
    save_weights(tmp_path / "weights/other.safetensors", theirs)
    monkeypatch.setenv("WSFP_DATA", str(tmp_path))
    monkeypatch.setattr(profiles.Source, "open", lambda self: synthfaces(self.split).subset(range(2)))
    settings = (
        "model.weights=weights/other.safetensors", f"model.width={width}", "model.blocks=1", "model.size=64",
        "train_data.name=synthfaces", "train_data.split=celeb/train", "vlm=mini_flip", "train.epochs=1",
        "train.batch_size=2", "train.workers=0", "train.precision=no", "train.tcd.max_classes_per_image=1",
    )  # fmt: skip
    run, options = tmp_path / "run", [word for setting in settings for word in ("--set", setting)]
    result = wsfp("train", "--profile", "paper", "--out", run, *options)
    assert result.exit_code == 0, result.output
    (row,) = read_metrics(run)
    assert np.isfinite([value for key, value in row.items() if key != "epoch"]).all()
    ours = read_weights(run / "model.safetensors")
    torch.testing.assert_close(
        ours["vit.blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"], atol=1e-5, rtol=0
    )
    assert ours["projector.0.weight"].shape == (512, width)
    assert wsfp("fcam", "--run", run, "--out", tmp_path / "maps", "--set", "fcam.scales=[1.0]").exit_code == 0
    assert len(list((tmp_path / "maps").glob("*.safetensors"))) == 2


def test_data_get_without_network_says_so(monkeypatch):
    def offline():
        raise InputError("could not download x: check the network")

    monkeypatch.setattr("wsfp_helpers.data.frl.fetch_frl_london", offline)
    result = wsfp("data", "get", "frl-london")
    assert result.exit_code == 2
    *licence, said = result.stderr.splitlines()
    assert said == "wsfp: could not download x: check the network" and "CC BY 4.0" in licence[0]


def test_an_ablation_is_run_for_its_seeds_and_its_page_printed(tmp_path, monkeypatch):
    seen = []
    page = tmp_path / "table3.md"
    page.write_text("| the page |")
    monkeypatch.setattr("wsfp_helpers.tooling.ablate.ablate", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr("wsfp_helpers.tooling.ablate.write_table", lambda *a: seen.append(a) or page)
    monkeypatch.chdir(tmp_path)
    result = wsfp("ablate", "table3", "--seeds", "3, 5")
    assert result.exit_code == 0 and "the page" in result.stdout
    (table, config, boxes, seeds, work), (*_, folder) = seen
    assert (table, config.name, seeds, boxes, work) == ("table3", "embedded", [3, 5], "shipped", None)
    assert str(folder) == "results"  # never docs/results unless it is asked for


def test_evaluate_prints_the_table_and_writes_json(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        truth = rng.integers(0, 19, (16, 16), dtype=np.uint8)
        write_index_png(tmp_path / "gt" / f"{name}.png", truth, PALETTE)
        write_index_png(tmp_path / "pred" / f"{name}.png", np.where(truth == 5, 4, truth), PALETTE)
    arguments = ["--pred", tmp_path / "pred", "--gt", tmp_path / "gt", "--json", tmp_path / "scores.json"]
    result = wsfp("evaluate", *arguments)
    assert result.exit_code == 0 and "r_eye" in result.stdout
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert 0 < scores["mean_f1"] < 100


def test_other_sets_and_subsets_are_named_with_their_split(tmp_path, monkeypatch):
    opened, predicted, scored = [], [], []
    faces = SimpleNamespace(weak="faces", ids=("b",))
    monkeypatch.setattr(profiles.Source, "open", lambda self: opened.append(str(self)) or faces)
    monkeypatch.setattr("wsfp_helpers.parsing.photographs.predict_set", lambda *arguments: predicted.append(arguments))
    monkeypatch.setattr("wsfp_helpers.score.folders.evaluate_folders", lambda *arguments: scored.append(arguments[-1]))
    for options in ([], ["--data", "lapa/test"], ["--data", "frl-london"]):
        assert wsfp("predict", "--parser", "weak", "--out", "o", *options).exit_code == 0
    assert opened == ["synthfaces celeb/test", "lapa test", "frl-london"] and predicted[0][0] == "faces"
    wsfp("evaluate", "--pred", "p", "--gt", "g", "--subset", "celebamask/train-3820")
    assert opened[-1] == "celebamask train-3820" and scored == [("b",)]


def test_doctor_reports_and_its_exit_code_says_whether_anything_is_missing(tmp_path, monkeypatch):
    result = wsfp("doctor", "--json", tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert "SynthFaces-19" in result.stdout and result.exit_code == (0 if content["ok"] else 1)
    monkeypatch.setattr("wsfp_helpers.tooling.doctor.version", lambda package: None)
    assert wsfp("doctor").exit_code == 1


@pytest.fixture
def trained(monkeypatch):
    """What ``wsfp train`` would train."""
    seen = []
    monkeypatch.setattr("wsfp_helpers.stages.run_train", lambda *arguments: seen.append(arguments))
    return seen


def test_training_is_the_papers_method_unless_parts_are_turned_off(trained):
    assert wsfp("train", "--out", "x", "--seed", 4).exit_code == 0
    assert wsfp("train", "--out", "x", "--no-tcd", "--redraw").exit_code == 0
    assert wsfp("train", "--out", "x", "--no-ccd", "--no-tcd", "--profile", "frl").exit_code == 0
    (full, _, boxes, redraw, mix), (ccd, _, _, redrawn, _), (base, *_) = trained
    assert full.ccd is not None and full.train.tcd is not None and full.train.seed == 4
    assert (boxes, redraw, mix) == ("shipped", False, False)
    assert ccd.ccd is not None and ccd.train.tcd is None and redrawn
    assert (base.name, base.ccd, base.train.tcd, base.train.seed) == ("frl", None, None, 0)


def test_settings_reach_the_training_and_are_said(trained):
    result = wsfp("train", "--out", "x", "--set", "train.batch_size=35", "--set", "train.lr=1e-5", "--no-ccd")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == ["train.batch_size: 35 (not 8)", "train.lr: 1e-05 (not 0.002)"]
    ((config, *_),) = trained
    assert (config.train.batch_size, config.train.lr, config.ccd) == (35, 1e-5, None)


@pytest.mark.parametrize(
    ("command", "stage"),
    [
        (["ccd", "--out", "o"], "run_ccd"), (["regions", "--fcams", "f", "--out", "o"], "run_regions"),
        (["parser", "--labels", "l", "--out", "o"], "run_parser"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_reach_every_stage_that_has_a_profile(command, stage, monkeypatch):
    seen = []
    monkeypatch.setattr(f"wsfp_helpers.stages.{stage}", lambda config, *_, **__: seen.append(config.theta))
    assert wsfp(*command, "--set", "theta=0.25").exit_code == 0
    assert seen == [0.25]


def test_the_settings_of_a_run_can_be_read_with_others(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("wsfp_helpers.stages.read_run", lambda folder: profiles.profile("embedded"))
    monkeypatch.setattr("wsfp_helpers.stages.run_fcam", lambda *arguments: seen.append(arguments[-2]) or [])
    assert wsfp("fcam", "--run", "r", "--out", "o", "--set", "fcam.scales=[1.0, 0.5]").exit_code == 0
    assert seen == [replace(profiles.profile("embedded"), fcam=FcamConfig((1.0, 0.5), variant="patch", affinity=False))]


def test_a_profile_is_printed_with_its_settings():
    result = wsfp("profile", "paper", "--set", "train.tcd=null")
    assert "    tcd                  None" in result.stdout.splitlines()


def test_the_full_size_method_needs_boxes_of_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("WSFP_DATA", str(tmp_path))
    make_celebamask(tmp_path / "CelebAMask-HQ")
    monkeypatch.setattr("wsfp_helpers.data.celebamask.COUNTS", CELEBA_COUNTS)
    monkeypatch.setattr("wsfp_helpers.data.celebamask.celebamask.__defaults__", ("train", None, CELEBA_COUNTS))
    result = wsfp("train", "--profile", "paper", "--out", tmp_path / "run")
    assert result.exit_code == 2 and "run `wsfp ccd` first" in result.stderr and not (tmp_path / "run").exists()


def test_pseudo_labels_take_the_threshold_of_the_run_unless_they_are_told_another(monkeypatch):
    seen = []
    monkeypatch.setattr("wsfp_helpers.stages.run_pseudo", lambda *arguments: seen.append(arguments))
    assert wsfp("pseudo", "--fcams", "f", "--out", "o").exit_code == 0
    assert wsfp("pseudo", "--fcams", "f", "--out", "o", "--theta", "0.3").exit_code == 0
    assert [theta for _, _, theta, _ in seen] == [None, 0.3]

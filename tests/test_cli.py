"""The command line: help at once, bad input as one sentence and exit code 2, results where they were asked for."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from wsfp_helpers import cli
from wsfp_helpers.colour import PALETTE
from wsfp_helpers.storage import InputError, write_index_png


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
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments):
    result = wsfp(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("wsfp: ") and len(result.stderr.splitlines()) == 1


def test_the_installed_command_shows_no_traceback():
    command = [sys.executable, "-c", "from wsfp_helpers.cli import app; app()", "data", "get", "frl-berlin"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "frl-london" in done.stderr


def test_an_interrupt_is_quiet(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsfp_helpers.data.frl.fetch_frl_london", stop)
    result = wsfp("data", "get", "frl-london")
    assert isinstance(result.exception, SystemExit) and result.exit_code in (1, 130)
    assert "Traceback" not in result.output


def test_other_errors_are_not_hidden(monkeypatch):
    def broken():
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("wsfp_helpers.data.frl.fetch_frl_london", broken)
    assert isinstance(wsfp("data", "get", "frl-london").exception, ZeroDivisionError)


def test_data_get_without_network_says_so(monkeypatch):
    def offline():
        raise InputError("could not download x: check the network")

    monkeypatch.setattr("wsfp_helpers.data.frl.fetch_frl_london", offline)
    result = wsfp("data", "get", "frl-london")
    assert result.exit_code == 2 and result.stderr == "wsfp: could not download x: check the network\n"


def test_an_ablation_is_run_for_its_seeds_and_its_page_printed(tmp_path, monkeypatch):
    seen = []
    page = tmp_path / "table3.md"
    page.write_text("| the page |")
    monkeypatch.setattr("wsfp_helpers.ablate.ablate", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr("wsfp_helpers.ablate.write_table", lambda *_: page.with_suffix(".json"))
    result = wsfp("ablate", "table3", "--seeds", "3, 5")
    assert result.exit_code == 0 and "the page" in result.stdout
    ((table, config, boxes, seeds, _),) = seen
    assert (table, config.name, seeds) == ("table3", "embedded", [3, 5]) and len(boxes) == 686


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


def test_doctor_reports_and_its_exit_code_says_whether_anything_is_missing(tmp_path, monkeypatch):
    result = wsfp("doctor", "--json", tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert "SynthFaces-19" in result.stdout and result.exit_code == (0 if content["ok"] else 1)
    monkeypatch.setattr("wsfp_helpers.doctor.version", lambda package: None)
    assert wsfp("doctor").exit_code == 1

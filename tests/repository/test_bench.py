"""The bench: its fast and literal sides agree, and its rows are what results files and users read."""

import json
import subprocess
import sys
from contextlib import nullcontext
from itertools import count

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from tests.fixtures import tiny_vlm
from tools import bench
from tools.bench import Comparison, compare
from tools.browser import find_chromium
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.nets.trunk import load_trunk
from wsfp_helpers.parsing.page import SOURCES
from wsfp_helpers.score.confusion import evaluate_pairs
from wsfp_helpers.tooling.results import KEYS


def test_a_tcd_step_equals_the_loops_over_pictures_components_and_prompts():
    comparison = bench.tcd_step(repeats=1)
    assert comparison.name == "tcd_step" and comparison.max_abs_diff < 1e-5


def test_maps_equal_those_of_one_forward_for_every_scale_and_flip():
    comparison = bench.fcam_extraction(images=1, repeats=1)
    assert comparison.name == "fcam_extraction" and comparison.max_abs_diff < 1e-4


def test_the_confusion_matrix_equals_boolean_passes():
    comparison = bench.confusion_matrix(repeats=1)
    assert comparison.name == "confusion_matrix" and comparison.max_abs_diff == 0


def test_both_sides_take_turns_and_their_first_results_are_compared():
    calls = []

    def side(name):
        calls.append(name)
        return len(calls)

    comparison = compare("x", lambda: side("fast"), lambda: side("literal"), lambda a, b: abs(a - b), repeats=4)
    assert calls == ["fast", "literal"] * 5
    assert comparison.max_abs_diff == 1
    calls.clear()
    compare("x", lambda: side("fast"), lambda: side("literal"), lambda a, b: 0.0, seconds=0, repeats=9)
    assert calls == ["fast", "literal"] * 4


HUNGRY = """
import time
import numpy as np
from tools.bench import compare

def hungry():
    held = np.ones(2**25)
    time.sleep(0.1)  # numpy keeps the interpreter to itself while it fills; torch, which the bench runs, does not
    return float(held.sum())

comparison = compare("x", hungry, lambda: 0.0, lambda a, b: a - b, repeats=1)
print(comparison.megabytes, comparison.reference_megabytes)
"""


def test_memory_is_what_a_side_adds_at_its_highest():
    """In its own process: a long test run holds memory that the system may take back meanwhile."""
    done = subprocess.run([sys.executable, "-c", HUNGRY], capture_output=True, text=True, check=True)
    added, reference = map(float, done.stdout.split())
    assert 200 < added < 400 and reference < 100


def test_a_comparison_says_ratio_difference_and_memory():
    rows = Comparison("tcd_step", 0.5, 2.0, 3e-6, 10, 20, first_seconds=4).rows()
    found = {each["metric"]: each["seeds"] for each in rows}
    assert {each["name"] for each in rows} == {"tcd_step"}
    assert found == {
        "speedup": [4.0], "max_abs_diff": [3e-6], "seconds": [0.5], "reference_seconds": [2.0], "memory": [10.0],
        "reference_memory": [20.0], "first_seconds": [4.0],
    }  # fmt: skip
    line = Comparison("tcd_step", 0.5, 2.0, 3e-6, 10, 20).line()
    assert "4.0x" in line and "3.0e-06" in line and "10 MB against 20 MB" in line


def test_the_command_writes_the_three_rows(tmp_path, monkeypatch, capsys):
    names = ("tcd_step", "fcam_extraction", "confusion_matrix")
    for name in names:
        monkeypatch.setattr(bench, name, lambda name=name: Comparison(name, 1, 5, 0, 1, 1))
    bench.main(["--results", str(tmp_path)])
    content = json.loads((tmp_path / "bench.json").read_text())
    assert tuple(content) == KEYS and content["command"] == "python -m tools.bench"
    assert [each["name"] for each in content["rows"] if each["metric"] == "speedup"] == list(names)
    said = capsys.readouterr().out
    assert all(name in said for name in names) and (tmp_path / "bench.md").exists()


def test_without_a_folder_the_command_writes_nothing(tmp_path, monkeypatch):
    for name in ("tcd_step", "fcam_extraction", "confusion_matrix"):
        monkeypatch.setattr(bench, name, lambda name=name: Comparison(name, 1, 5, 0, 1, 1))
    monkeypatch.chdir(tmp_path)
    bench.main([])
    assert list(tmp_path.iterdir()) == []


def test_streaming_scores_every_pair_and_says_how_much_memory_it_holds():
    said = []
    rows = bench.stream(40, (32, 48), said.append)
    assert [each["metric"] for each in rows] == ["seconds", "memory_growth"]
    assert sum(" MB" in line and " pairs " in line for line in said) == 10
    expected = evaluate_pairs(bench.label_pairs(40, (32, 48))).mean_f1
    assert any(f"mean F1 {expected:.2f}" in line for line in said)


def test_the_stream_is_a_command_too(tmp_path):
    bench.main(["--pairs", "3", "--results", str(tmp_path)])
    content = json.loads((tmp_path / "stream.json").read_text())
    assert content["command"] == "python -m tools.bench --pairs 3" and content["rows"][0]["name"] == "3 label pairs"
    with pytest.raises(InputError, match="at least 1 label pair"):
        bench.main(["--pairs", "0"])


def test_evaluate_counts_what_a_plain_loop_counts_and_ends_the_processes_beside_it(tmp_path, monkeypatch):
    before = {child.pid for child in psutil.Process().children()}
    idle, beside = bench.evaluation(pairs=5, size=70, repeats=1)
    assert (idle.name, beside.name) == ("evaluate, 5 pairs", "evaluate, 5 pairs, busy")
    assert idle.max_abs_diff == beside.max_abs_diff == 0 and idle.seconds > 0
    assert {child.pid for child in psutil.Process().children()} <= before
    monkeypatch.setattr(bench, "evaluation", lambda: [idle, beside])
    bench.main(["--evaluate", "--results", str(tmp_path)])
    assert json.loads((tmp_path / "evaluate.json").read_text())["command"] == "python -m tools.bench --evaluate"


def test_the_trunk_s_share_is_its_time_and_its_work_that_of_a_vit(tmp_path, monkeypatch):
    def parse(source, out, parser):
        for batch in (2, 2, 1):
            load_trunk()(torch.zeros(batch, 3, 64, 64))

    peaks, clock, process = [], count(), iter((0, 12))
    monkeypatch.setattr(bench, "parse_photographs", parse)
    monkeypatch.setattr(bench, "products_peak", lambda tokens, width: peaks.append((tokens, width)) or 1e9)
    monkeypatch.setattr(bench, "thread_time", lambda: next(clock))  # a second for each look of the trunk
    monkeypatch.setattr(bench, "process_time", lambda: next(process))
    rows = bench.trunk_share(tmp_path, None, "x")
    # Eight blocks of width d on t = 16 + 1 tokens: 12 d^2 + 2 t d multiply-adds a token, and the patch embedding.
    work = 2 * (8 * 17 * (12 * 384**2 + 2 * 17 * 384) + 16 * 3 * 16**2 * 384)
    assert [each["seeds"][0] for each in rows] == pytest.approx([100 * 3 / 12, 100 * 5 * work / 3 / 1e9, 1])
    assert peaks == [(2 * 17, 384)]


def test_the_trunk_s_share_is_a_command_for_one_parser_and_for_both(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "some_of_frl", lambda photographs: nullcontext(tmp_path))
    monkeypatch.setattr(
        bench, "trunk_share", lambda source, parser, name: [bench.row(name, str(parser), "percent", [60])]
    )
    bench.main(["--trunk", "--results", str(tmp_path)])
    content = json.loads((tmp_path / "trunk.json").read_text())
    assert content["command"] == "python -m tools.bench --trunk"
    assert [each["metric"] for each in content["rows"]] == ["weak", "None"]


def test_products_reach_no_more_than_a_processor_can():
    assert 1e8 < bench.products_peak(64, 64, repeats=2) < 1e15


@pytest.mark.parametrize("size", [(512, 512), (33, 70)])
def test_synthetic_pairs_are_label_maps_of_19_classes(size):
    pairs = list(bench.label_pairs(2, size))
    for prediction, truth in pairs:
        assert prediction.shape == truth.shape == size and prediction.dtype == truth.dtype == np.uint8
        assert prediction.max() < 19 and set(np.unique(truth)) <= {*range(19), 255}
    assert 0.7 < (pairs[0][0] == pairs[0][1]).mean() < 0.9


SMALL = ["model.size=64", "model.blocks=1", "train.workers=0", "train.precision=no"]


def test_a_paper_step_says_speed_memory_and_its_share_of_the_matrix_peak(monkeypatch):
    monkeypatch.setattr(bench, "random_flip", tiny_vlm)
    peaks, said = [], []
    monkeypatch.setattr(bench, "matrix_peak", lambda precision: peaks.append(precision) or 1e9)
    rows = bench.paper_step(2, SMALL, said.append)
    found = {each["metric"]: each["seeds"][0] for each in rows if each["name"] == "paper step, batch 2"}
    assert found.keys() == {"images_per_second", "memory", "share_of_matrix_peak"} and peaks == ["no"]
    worst = next(each["seeds"][0] for each in rows if each["metric"] == "max_abs_diff")
    assert worst < 1e-5 and "images a second" in said[0] and "paper_tcd" in said[1]
    # One block of width d on t = 16 + 18 tokens: 12 d^2 + 2 t d multiply-adds a token, three times with backward.
    block = 3 * 2 * 34 * (12 * 384**2 + 2 * 34 * 384)
    share = 100 * block * found["images_per_second"] / 1e9
    assert share < found["share_of_matrix_peak"] < 3 * share


def test_the_matrix_peak_is_that_of_products_of_the_precision():
    assert 1e8 < bench.matrix_peak("no", 1) < 1e15


def test_the_paper_step_is_a_command_that_keeps_its_settings(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "paper_step", lambda *given: asked.append(given) or [])
    bench.main(["--paper", "36", "--set", "train.precision=no", "--results", str(tmp_path)])
    assert asked == [(36, ["train.precision=no"])]
    content = json.loads((tmp_path / "paper_step.json").read_text())
    assert content["command"] == "python -m tools.bench --paper 36 --set train.precision=no"


@pytest.mark.skipif(sys.platform == "darwin", reason="does not tell of children that have ended")
def test_the_work_of_a_process_that_has_ended_below_another_stays_counted():
    work = "import time\nwhile time.process_time() < 0.5: pass"
    two = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}])\nprint('ended', flush=True)\ninput()"
    )
    command = [sys.executable, "-c", two]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        before = bench._seconds_of_children()
        assert process.stdout.readline() == "ended\n"
        assert bench._seconds_of_children() - before > 0.4
        process.communicate("\n")


@pytest.mark.skipif(not find_chromium(), reason="needs chromium")
@pytest.mark.timeout(600)
def test_answers_of_a_page_are_timed_until_they_are_shown(tmp_path, monkeypatch):
    def write(out):
        out.mkdir()
        (out / "serve.py").write_bytes((SOURCES / "serve.py").read_bytes())
        Image.new("RGB", (8, 8)).save(out / "example.jpg")
        (out / "index.html").write_text('<input id="file" type="file"><script src="app.js"></script>')
        (out / "app.js").write_text(
            """const body = document.body.dataset;
            let number = 0;
            setTimeout(() => (body.ready = 2), 200);
            document.getElementById("file").onchange = () => setTimeout(() => (body.parsed = ++number), 500);"""
        )

    monkeypatch.setattr(bench, "write_page", write)
    measured = bench.answers(visits=2)
    rows = {each["name"]: each["seeds"] for each in measured if each["metric"] != "processor"}
    loaded = rows.pop("page, files that are loaded")
    assert 1e-4 < loaded[0] < 1e-3 and len(rows) == 3
    assert all(0 <= seconds < 60 for each in measured if each["metric"] == "processor" for seconds in each["seeds"])
    ready, first, phone = rows.values()
    assert all(0.2 < each < 60 for each in ready) and all(0.5 < each < 60 for each in first + phone)
    assert "page, first answer, 512 x 512, 2 threads" in rows


def test_the_page_is_timed_by_a_command(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "answers", lambda: [bench.row("page, until it is ready", "seconds", "s", [1, 2])])
    bench.main(["--page", "--results", str(tmp_path)])
    assert json.loads((tmp_path / "page.json").read_text())["command"] == "python -m tools.bench --page"

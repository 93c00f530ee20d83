"""Running notebooks: what failed is named, pages are written anyway, memory and time are measured."""

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import run_notebooks


def write(path, *cells):
    nbformat.write(new_notebook(cells=[new_markdown_cell("## A section"), *map(new_code_cell, cells)]), path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    good = write(folder / "00_good.ipynb", "import time\nblock = b'x' * 300_000_000\ntime.sleep(1)", "print(6 * 7)")
    bad = write(folder / "01_bad.ipynb", "x = 1", "# the failing cell\nx / 0", "print('never')")
    return folder / "build", run_notebooks.run(good, folder / "build"), run_notebooks.run(bad, folder / "build")


def test_a_good_notebook_leaves_its_outputs_and_a_page(runs):
    build, good, _ = runs
    assert good.error is None and good.seconds > 0
    notebook = nbformat.read(build / "00_good.ipynb", as_version=4)
    assert notebook.cells[2].outputs[0].text == "42\n"
    assert "42" in (build / "00_good.html").read_text()


def test_peak_memory_is_that_of_the_kernel(runs):
    _, good, _ = runs
    assert 150e6 < good.peak < psutil.virtual_memory().total


def test_a_failing_cell_is_named_and_ends_the_page(runs):
    build, _, bad = runs
    assert bad.error == (
        "FAILED in cell 3 of 4 under 'A section' (# the failing cell): ZeroDivisionError: division by zero"
    )
    page = (build / "01_bad.html").read_text()
    assert "ZeroDivisionError" in page
    assert nbformat.read(build / "01_bad.ipynb", as_version=4).cells[3].outputs == []


def test_the_exit_code_and_the_table(tmp_path, monkeypatch, capsys):
    results = {"a": None, "b": "FAILED in cell 2"}
    monkeypatch.setattr(
        run_notebooks, "run", lambda path, build: run_notebooks.Run(path.stem, 60, 2e8, results[path.stem])
    )
    assert run_notebooks.main([str(tmp_path / "a.ipynb")], tmp_path) == 0
    assert run_notebooks.main([str(tmp_path / "a.ipynb"), str(tmp_path / "b.ipynb")], tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["a", "1.00", "200", "MB", "ok"]
    assert any(line.split()[:2] == ["b", "1.00"] and "FAILED in cell 2" in line for line in lines)
    assert any("1 of 2 failed" in line for line in lines)


def test_a_missing_notebook_is_a_sentence(tmp_path, capsys):
    assert run_notebooks.main([str(tmp_path / "no.ipynb")], tmp_path / "build") == 1
    assert "no.ipynb" in capsys.readouterr().err and not (tmp_path / "build").exists()

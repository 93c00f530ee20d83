"""The notebooks between two cells that watch their widgets, and move them."""

import inspect

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import moved, run_notebooks
from tools.notebooks import NOTEBOOKS
from wsfp_helpers.notebook import explorers

DRAW = """\
from ipywidgets import interact
from wsfp_helpers.notebook.plots import bars, show
height = 1


def draw(n=2):
    show(bars({'a': [n * height]}, ['x'], 't', 'y'), alt='a bar')"""


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([DRAW, "interact(draw, n=(1, 3))  # explorers."], None),
        ([DRAW, "interact(draw, n=(1, 3))  # explorers.", "height = 2"], "draws something else"),
        (
            [DRAW.replace("n=2", "n=2, colour=1"), "interact(draw, n=(1, 3), colour=(1, 2))  # explorers."],
            "moving colour changes nothing",
        ),
        (["x = 'explorers.ladder'"], "AssertionError: 0"),
        (["import warnings\nwarnings.warn('old')"], "UserWarning('old')"),
    ],
    ids=["good", "looks up a name", "dead control", "no widget", "warns"],
)
def test_what_is_wrong_with_a_widget_is_caught(cells, why, tmp_path):
    notebook = moved.moved(new_notebook(cells=[new_code_cell(text) for text in cells]))
    nbformat.write(notebook, tmp_path / "one.ipynb")
    error = run_notebooks.run(tmp_path / "one.ipynb", tmp_path / "build").error
    assert (error is None) if why is None else (error and why in error)


def test_the_notebooks_call_every_explorer(tmp_path, monkeypatch):
    monkeypatch.setattr(moved, "BUILD", tmp_path)
    assert moved.main() == 0
    notebooks = [nbformat.read(path, as_version=4) for path in sorted(tmp_path.glob("*.ipynb"))]
    assert len(notebooks) == len(list(NOTEBOOKS.glob("*.ipynb"))) > 0
    code = "\n".join(cell.source for notebook in notebooks for cell in notebook.cells if cell.cell_type == "code")
    public = [name for name in vars(explorers) if inspect.isfunction(vars(explorers)[name]) and name[0] != "_"]
    own = [name for name in public if vars(explorers)[name].__module__ == explorers.__name__]
    assert own and [name for name in own if f"explorers.{name}(" not in code] == []

"""Masters for otter-grader: a correct and a wrong submission, graded by the tool itself where it is installed."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

from tools import grading
from tools.notebooks import NOTEBOOKS
from wsfp_helpers.common.errors import InputError

SOURCE = """\
# %% [markdown]
# # 00 Title

# %%
import numpy as np
from wsfp_helpers.notebook.exercises import checking

numbers, factor = [2, 3], 2

# %% tags=["exercise"]
def double(x):
    # BEGIN SOLUTION
    return factor * np.asarray(x)
    # END SOLUTION

# %% tags=["check"]
with checking("Exercise 1"):
    for number in numbers:
        assert np.isclose(double(number), number + number), f"{double(number)} is not twice {number}"
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "src").mkdir()
    path = tmp_path / "src" / "00_a.py"
    path.write_text(SOURCE)
    return path


def test_a_check_becomes_a_function_of_what_it_takes_from_the_notebook():
    check = 'with checking("Exercise 2"):\n    for i in range(3):\n        assert f(i, key=lambda k: k) == np.pi, "no"'
    assert grading.question_name(check) == "exercise_2"
    answer = "def f(i, key):\n    return np.e * scale"
    text = grading.test_function("exercise_2", answer, check, {"np": "import numpy as np"})
    assert text.startswith("def test_exercise_2(f, scale):\n")
    space, given = {}, {"scale": 2}
    exec(text, space)
    exec(answer, given)  # as otter-grader hands it on: without the notebook's modules
    with pytest.raises(AssertionError, match="no"):
        space["test_exercise_2"](given["f"], 2)


def test_every_import_is_found_by_the_name_that_it_binds():
    code = ["import os\nimport numpy as np, sys", "x = 1", "from a.b import c, d as e"]
    assert grading.imported(code) == {
        "os": "import os", "np": "import numpy as np", "sys": "import sys", "c": "from a.b import c",
        "e": "from a.b import d as e",
    }  # fmt: skip


def test_a_malformed_exercise_is_refused(source):
    source.write_text(SOURCE.replace('# %% tags=["check"]', "# %%"))
    with pytest.raises(InputError, match="must follow each other"):
        grading.master(source)


@pytest.mark.parametrize("path", sorted((NOTEBOOKS / "src").glob("*.py")), ids=lambda path: path.stem)
def test_every_exercise_is_a_question(path):
    cells = grading.master(path).cells
    raw = [cell.source.splitlines()[0] for cell in cells if cell.cell_type == "raw"]
    exercises = path.read_text().count('tags=["exercise"]')
    assert raw.count("# BEGIN QUESTION") == raw.count("# BEGIN TESTS") == raw.count("# BEGIN SOLUTION") == exercises
    names = [cell.source for cell in cells if cell.source.startswith("# BEGIN QUESTION")]
    assert len(set(names)) == len(names) > 0


def test_figures_with_controls_are_not_run_by_otter(source):
    source.write_text(SOURCE + '\n# %%\nx = 1\nexplorers.ladder(x)\n\n# %%\nquiz("00")\n\n# %%\nprint("explorers.")\n')
    ignored = [cell.source for cell in grading.master(source).cells if "otter_ignore" in cell.metadata.get("tags", [])]
    assert ignored == ["x = 1\nexplorers.ladder(x)", 'quiz("00")']


@pytest.mark.skipif(find_spec("otter") is None, reason="otter-grader is not installed: pip install -e '.[teach]'")
def test_otter_grades_a_correct_and_a_wrong_submission(source, tmp_path):
    (path,) = grading.write(tmp_path / "otter", tmp_path)
    otter([path, tmp_path / "dist"], "assign", "--no-pdfs")
    given = tmp_path / "dist" / "student" / "00_a.ipynb"
    text = given.read_text()
    assert (
        "np.asarray" not in text
        and r"raise NotImplementedError(\"your code here\")" in text
        and "otter" not in "".join(cell.source for cell in nbformat.read(given, as_version=4).cells)
    )
    (archive,) = (tmp_path / "dist" / "autograder").glob("*.zip")
    for answer, points, words in (("np.add(x, x)", 1, "passed"), ("x * x", 0, "9 is not twice 3")):
        notebook = nbformat.read(given, as_version=4)
        (cell,) = [cell for cell in notebook.cells if cell.source.startswith("def double")]
        cell.source = f"def double(x):\n    return {answer}"
        nbformat.write(notebook, tmp_path / "submission.ipynb")
        otter(["-a", archive, "-o", tmp_path, tmp_path / "submission.ipynb"], "run")
        tests = json.loads((tmp_path / "results.json").read_text())["tests"]
        (question,) = [each for each in tests if each["name"] == "exercise_1"]
        assert question["score"] == points and words in question["output"]


def otter(arguments: list, *command: str) -> None:
    program = [sys.executable, "-c", "import sys; from otter.cli import cli; cli(sys.argv[1:])"]
    run = [*program, command[0], *command[1:], *map(str, arguments)]
    done = subprocess.run(run, cwd=Path(arguments[-1]).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

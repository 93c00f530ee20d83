"""Editions for a class: no solution reaches students, and instructors see minutes and typical mistakes."""

import nbformat
import pytest

from tools import editions
from tools.notebooks import NOTEBOOKS, generate

SOURCE = """\
# %% [markdown]
# # 00 Title
#
# Words with a [page](../docs/limits.md) and a [notebook](01_b.ipynb).

# %%
x = 1

# %% [markdown]
# ## Tasks
# **Exercise 1** (9 minutes).  Double a number.

# %% tags=["exercise"]
def double(x):
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION

# %% tags=["check"]
with checking("Exercise 1"):
    assert double(2) != 2, "that is the number itself"
    assert double(3) == 6, f"{double(3)} is not twice 3"
"""


@pytest.fixture
def notebook(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "00_a.py").write_text(SOURCE)
    for path, text in generate(tmp_path).items():
        path.write_text(text)
    return tmp_path / "00_a.ipynb"


def test_students_get_no_solution(notebook, tmp_path):
    (path,) = editions.write("student", tmp_path / "out", notebook.parent)
    made = nbformat.read(path, as_version=4)
    assert [tag for cell in made.cells for tag in cell.metadata.get("tags", [])] == ["exercise", "check"]
    assert not any("2 * x" in cell.source for cell in made.cells)
    assert "Open in" not in made.cells[0].source and made.cells[0].source.startswith("# 00 Title\n\nWords")
    assert "[page](../../docs/limits.md) and a [notebook](01_b.ipynb)" in made.cells[0].source


def test_instructors_get_answer_minutes_and_mistakes(notebook, tmp_path):
    (path,) = editions.write("instructor", tmp_path / "out", notebook.parent)
    cells = nbformat.read(path, as_version=4).cells
    plan, note, answer = cells[1].source, cells[-2].source, cells[-1]
    assert "estimates" in plan and "| Tasks | 9 |" in plan
    assert note.endswith("* that is the number itself\n* … is not twice 3")
    assert "2 * x" in answer.source and "jupyter" not in answer.metadata


def test_what_a_checks_function_says_counts_as_well():
    checks = (
        "def double(answer):\n    require(answer, f'{answer} is nothing')\n"
        "    choose(answer, 'a', {'b': 'why not b'})\n"
        "def other():\n    require(0, 'another task')\n"
    )
    assert list(editions.messages("with checking('Task 1'):\n    checks.double(x)", checks)) == [
        "… is nothing",
        "why not b",
    ]


def test_longer_text_takes_longer():
    words = nbformat.v4.new_markdown_cell(f"## Section\n{'word ' * (3 * editions.WORDS_A_MINUTE - 2)}")
    code = nbformat.v4.new_code_cell("x")
    (section,) = editions.sections(nbformat.v4.new_notebook(cells=[words, code]))
    assert section.title == "Section" and section.minutes == pytest.approx(3 + editions.MINUTES_A_CELL)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_has_both_editions(path):
    complete = nbformat.read(path, as_version=4)
    solutions = [cell.source for cell in complete.cells if editions.has(cell, "solution")]
    checks = (editions.CHECKS / f"nb{path.stem[:2]}.py").read_text()
    theirs, ours = editions.student(complete), editions.instructor(complete, checks)
    assert len(theirs.cells) == len(complete.cells) - len(solutions) and solutions
    assert len(ours.cells) == len(complete.cells) + len(solutions) + 1
    minutes = sum(section.minutes for section in editions.sections(complete))
    assert 15 < minutes < 150
    assert [cell.source for cell in complete.cells if editions.has(cell, "solution")] == solutions

"""The generator: the same bytes every time, exercises with a gap and a folded solution, differences found."""

import re

import nbformat
import pytest

from tools import address, notebooks
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.tooling.results import row, write_results

SOURCE = """\
# %% [markdown]
# # Title

# %%
x = 1

# %% tags=["exercise"]
def double(x):
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION

# %% tags=["check"]
with checking("Exercise 1"):
    assert double(2) == 4
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "00_a.py").write_text(SOURCE)
    return tmp_path


def write(folder):
    for path, text in notebooks.generate(folder).items():
        path.write_text(text)


def test_the_same_source_gives_the_same_bytes(folder):
    assert notebooks.generate(folder) == notebooks.generate(folder)


def test_the_notebook_is_valid_and_has_no_outputs(folder):
    (text,) = notebooks.generate(folder).values()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert code[0].source == address.read().bootstrap()


def test_an_exercise_becomes_a_gap_a_check_and_a_folded_solution(folder):
    (text,) = notebooks.generate(folder).values()
    gap, check, solution = nbformat.reads(text, as_version=4).cells[-3:]
    assert 'raise NotImplementedError("your code here")' in gap.source and "2 * x" not in gap.source
    assert check.source.startswith('with checking("Exercise 1"):')
    assert solution.source == (
        '# @title Solution\nwith checking("Exercise 1", solution=globals()):\n'
        "    def double(x):\n        return 2 * x\n\n    assert double(2) == 4"
    )
    assert solution.metadata.jupyter.source_hidden and solution.metadata.tags == ["solution"]
    assert "SOLUTION" not in gap.source + solution.source


def test_an_answer_that_is_no_function_keeps_its_name(folder):
    code = 'first, mine = 1, 2\n# BEGIN SOLUTION\nguess = "nose"\nwhy = {\n    "a": 1,\n}\n# END SOLUTION'
    (folder / "src" / "00_a.py").write_text(re.sub(r"def double(?s:.)*?END SOLUTION", lambda _: code, SOURCE))
    (text,) = notebooks.generate(folder).values()
    gap = nbformat.reads(text, as_version=4).cells[-3]
    assert gap.source == "first, mine = 1, 2\nguess = ...  # your answer\nwhy = ...  # your answer"


def test_an_inserted_cell_leaves_the_other_ids(folder):
    (before,) = notebooks.generate(folder).values()
    (folder / "src" / "00_a.py").write_text(SOURCE.replace("# %%\nx = 1", "# %%\ny = 0\n\n# %%\nx = 1"))
    (after,) = notebooks.generate(folder).values()
    ids = [{cell.id for cell in nbformat.reads(text, as_version=4).cells} for text in (before, after)]
    assert ids[0] < ids[1] and len(ids[1] - ids[0]) == 1


def test_equal_cells_get_different_ids(folder):
    (folder / "src" / "00_a.py").write_text("# %%\nx = 1\n\n# %%\nx = 1\n")
    (text,) = notebooks.generate(folder).values()
    ids = [cell.id for cell in nbformat.reads(text, as_version=4).cells]
    assert len(set(ids)) == len(ids) == 3


def test_differences_are_named(folder):
    assert notebooks.differences(folder) == ["00_a.ipynb is missing"]
    write(folder)
    assert notebooks.differences(folder) == []
    (folder / "src" / "00_a.py").write_text(SOURCE.replace("x = 1", "x = 2"))
    (folder / "01_b.ipynb").write_text("{}")
    assert notebooks.differences(folder) == [
        "00_a.ipynb differs from src/00_a.py",
        "01_b.ipynb has no source src/01_b.py",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('# %% tags=["check"]', "# %%"), "exercise and one tagged check must follow"),
        (("    # END SOLUTION\n", ""), "equally indented '# BEGIN SOLUTION'"),
        (("with checking", "if checking"), "exactly one line"),
        (('# %% tags=["check"]\nwith checking("Exercise 1"):\n    assert double(2) == 4\n', ""), "has no check"),
    ],
)
def test_a_malformed_exercise_is_refused(folder, change, words):
    (folder / "src" / "00_a.py").write_text(SOURCE.replace(*change))
    with pytest.raises(InputError, match=words):
        notebooks.generate(folder)


def test_sizes_count_what_is_there():
    code, text = nbformat.v4.new_code_cell("a\nb\nc"), nbformat.v4.new_markdown_cell("two words")
    line = notebooks.sizes(nbformat.writes(nbformat.v4.new_notebook(cells=[code, text])))
    assert line.startswith("  2 cells, code lines median 3 longest 3, 2 words")


NUMBERS = """\
# %% [markdown]
# ## Numbers
# From {{t | base}} to {{ t | full }}, hats {{t | full | hat}}, skin {{t|full|skin}}; $\\frac{a}{b}$ and $x_{ij}$ stay.

# %%
print("{{t | base}}")
"""
PER_CLASS = {"skin": [1, 4], "hat": [None, None]}


@pytest.fixture
def numbers(tmp_path, monkeypatch):
    rows = [
        row("base", "mean_f1", "percent", [12.34]),
        row("full", "mean_f1", "percent", [30, 32], PER_CLASS),
        row("twice", "seconds", "s", [1]),
        row("twice", "memory", "MB", [2]),
    ]
    write_results("t", "wsfp x", rows, tmp_path / "results")
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "results")
    (tmp_path / "a.py").write_text(NUMBERS)
    return tmp_path / "a.py"


def test_numbers_in_prose_come_from_the_results_files(numbers):
    text, _, code = (cell.source for cell in notebooks.build(numbers).cells)
    assert text.endswith("From 12.34 to 31.00 ± 1.41, hats –, skin 2.50 ± 2.12; $\\frac{a}{b}$ and $x_{ij}$ stay.")
    assert code == 'print("{{t | base}}")'  # code is left alone


def test_a_new_measurement_makes_the_notebook_differ(numbers, tmp_path):
    (tmp_path / "src").mkdir()
    numbers.rename(tmp_path / "src" / "a.py")
    write(tmp_path)
    assert notebooks.differences(tmp_path) == []
    rows = [row("base", "mean_f1", "percent", [12.35]), row("full", "mean_f1", "percent", [30, 32], PER_CLASS)]
    write_results("t", "wsfp x", rows, tmp_path / "results")
    assert notebooks.differences(tmp_path) == ["a.ipynb differs from src/a.py"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("{{u | base}}", r"no results file at .*u\.json"),
        ("{{t | best}}", r"t\.json has no row 'best'; it has base, full, twice$"),
        ("{{t | full | ear}}", "no class 'ear'; it has skin, hat"),
        ("{{t | base | skin}}", "no class 'skin'; it has none"),
        ("{{t | twice}}", r"2 rows 'twice' \(seconds, memory\): a number must be one row"),
        ("{{t}}", r"expected \{\{FILE \| ROW\}\} or \{\{FILE \| ROW \| CLASS\}\}"),
        ("{{t | full | skin | hat}}", r"expected \{\{FILE"),
        ("{{}}", r"expected \{\{FILE"),
    ],
)
def test_a_number_that_is_in_no_results_file_is_named(numbers, wrong, words):
    numbers.write_text(NUMBERS.replace("{{t | base}} to", f"{wrong} to"))
    with pytest.raises(InputError, match=rf"a\.py, cell starting \['## Numbers'\]: {re.escape(wrong)}: .*{words}"):
        notebooks.build(numbers)

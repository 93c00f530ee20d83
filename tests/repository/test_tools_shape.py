"""The table of the notebooks' shapes in CONTRIBUTING.md is that of the notebooks."""

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import shape


def test_the_table_is_that_of_the_notebooks():
    text = shape.PAGE.read_text()
    assert shape.page(text) == text, "run `make notebooks`"
    assert text.count("\n| 0") >= 8


def test_what_is_counted():
    cells = [
        new_markdown_cell("# two words"),
        new_code_cell('%pip list\nquiz("02")'),
        new_code_cell("explorers.masks(a)\nexplorers.losses(b)\nx = 1\ny = 2"),
        new_code_cell("...", metadata={"tags": ["exercise"]}),
    ]
    assert shape.shape(new_notebook(cells=cells)) == (4, 2, 4, 3, 1, 2, 5)

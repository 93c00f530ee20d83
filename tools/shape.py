"""Write the shape of every notebook into CONTRIBUTING.md.

usage: python -m tools.shape            write the table (`make notebooks` does, too)
       python -m tools.shape --check    exit with 1 when it is not that of the notebooks
"""

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from tools.notebooks import NOTEBOOKS
from wsfp_helpers.common.files import atomic_path
from wsfp_helpers.notebook.quiz import questions

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
BEGIN, END = "<!-- shape: written by python -m tools.shape -->\n", "<!-- end of shape -->"
HEADS = ("notebook", "cells", "lines a code cell, median", "longest", "words", "tasks", "widgets", "questions")


def shape(notebook: NotebookNode) -> tuple[int, ...]:
    """Cells, lines of a code cell (median, longest), words of text, tasks, widgets and multiple-choice questions."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    lines = [len(cell.source.splitlines()) for cell in code]
    words = sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")
    tasks = sum("exercise" in cell.metadata.get("tags", []) for cell in code)
    calls = [call for cell in code for call in _calls(cell.source)]
    widgets = sum(ast.unparse(call.func).startswith("explorers.") for call in calls)
    asked = [ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "quiz"]
    count = sum(len(questions(number)) for number in asked)
    return len(notebook.cells), round(statistics.median(lines)), max(lines), words, tasks, widgets, count


def _calls(source: str) -> Iterator[ast.Call]:
    """The calls in a cell."""
    for node in ast.walk(ast.parse(TransformerManager().transform_cell(source))):
        if isinstance(node, ast.Call):
            yield node


def table(folder: Path = NOTEBOOKS) -> str:
    """The table of all notebooks as Markdown."""
    rows = [HEADS, ["---", *["---:"] * (len(HEADS) - 1)]]
    for path in sorted(folder.glob("*.ipynb")):
        rows.append([path.stem, *map(str, shape(nbformat.read(path, as_version=4)))])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def page(text: str) -> str:
    """The text of CONTRIBUTING.md with the table of the notebooks as they are."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if arguments == ["--check"]:
        print("the table is that of the notebooks" if old == new else "CONTRIBUTING.md: run `make notebooks`")
        return int(old != new)
    with atomic_path(PAGE) as part:
        part.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Write the editions of the notebooks for a class, from the complete ones in notebooks/.

usage: python -m tools.editions student      build/student/: no solutions
       python -m tools.editions instructor   build/instructor/: answers unfolded, minutes by section, what checks answer
                                             to typical mistakes

Minutes are estimates from what there is to read and to do; a task that names its own minutes counts as it says.
"""

import argparse
import ast
import copy
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import atomic_path

ROOT = Path(__file__).parents[1]
WORDS_A_MINUTE, MINUTES_A_CELL, MINUTES_A_TASK = 150, 0.4, 6.0
"""Reading with formulas in it; running a code cell and looking at its output; a task that does not name its minutes."""
MINUTES_A_QUIZ = 5.0
CHECKS = ROOT / "wsfp_helpers" / "notebook" / "checks"
_MINUTES = re.compile(r"\b(\d+) min(?:utes)?\b")


@dataclass(frozen=True)
class Section:
    """A section of a notebook: its heading and how many minutes it takes, by estimate."""

    title: str
    minutes: float


def has(cell: NotebookNode, tag: str) -> bool:
    """Whether the cell has the tag."""
    return tag in cell.metadata.get("tags", [])


def student(notebook: NotebookNode) -> NotebookNode:
    """A copy without the cells that hold solutions, and without the badges, which open the complete notebook."""
    notebook = copy.deepcopy(notebook)
    notebook.cells = [cell for cell in notebook.cells if not has(cell, "solution")]
    notebook.cells[0].source = re.sub(r"(?m)^\[!\[Open in .*\n+", "", notebook.cells[0].source)
    return notebook


def instructor(notebook: NotebookNode, checks: str = "") -> NotebookNode:
    """A copy with a plan on top, answers unfolded, and below each check what it says to typical mistakes.

    ``checks`` is the code of the notebook's module of checks.
    """
    notebook = copy.deepcopy(notebook)
    cells, check = [], None
    for cell in notebook.cells:
        if has(cell, "check"):
            check = cell
        if has(cell, "solution"):
            cell.metadata = NotebookNode(tags=["solution"])
            cells.append(_note(check, checks))
        cells.append(cell)
    cells.insert(1, new_markdown_cell(_plan(sections(notebook)), id="plan"))
    notebook.cells = cells
    return notebook


def sections(notebook: NotebookNode) -> list[Section]:
    """The parts between headings of the first and second level, with an estimate of their minutes."""
    found: list[Section] = []
    title, minutes = "", 0.0
    for cell in notebook.cells:
        heading = re.match(r"##? +(.+)", cell.source) if cell.cell_type == "markdown" else None
        if heading:
            if title:
                found.append(Section(title, minutes))
            title, minutes = heading[1], 0.0
        minutes += _estimate(cell)
    return [*found, Section(title, minutes)]


def _estimate(cell: NotebookNode) -> float:
    if has(cell, "check") or has(cell, "solution"):
        return 0.0
    if has(cell, "exercise"):
        return MINUTES_A_TASK
    if cell.cell_type == "code":
        return MINUTES_A_QUIZ if cell.source.startswith("quiz(") else MINUTES_A_CELL
    minutes = len(cell.source.split()) / WORDS_A_MINUTE
    if re.search(r"(?m)^(\*\*|#+ )(Exercise|Task) [\d.]+", cell.source) and (named := _MINUTES.search(cell.source)):
        minutes += float(named[1]) - MINUTES_A_TASK  # the cell of the task itself adds the usual minutes
    return minutes


def _plan(parts: list[Section]) -> str:
    rows = "\n".join(f"| {part.title} | {max(1, round(part.minutes))} |" for part in parts)
    total = round(sum(part.minutes for part in parts))
    return (
        f"**Instructor edition.**  Minutes by section, all of them *estimates* (reading at {WORDS_A_MINUTE} words a "
        f"minute, {MINUTES_A_CELL} minutes a code cell, {MINUTES_A_TASK:.0f} a task unless it says otherwise, "
        f"{MINUTES_A_QUIZ:.0f} for the questions), "
        f"{total} in all:\n\n| section | minutes |\n|---|---:|\n{rows}"
    )


def _note(check: NotebookNode, checks: str) -> NotebookNode:
    mistakes = "\n".join(f"* {sentence}" for sentence in dict.fromkeys(messages(check.source, checks)))
    text = "**For the instructor.**  An answer is in the next cell."
    if mistakes:
        text += f"  What the check says to typical mistakes (`…` stands for what it found):\n\n{mistakes}"
    return new_markdown_cell(text, id=f"note-{check.id}"[:64])


def messages(code: str, checks: str = "") -> Iterator[str]:
    """The sentences with which a check fails, with ``…`` for what is filled in.

    They stand in its assertions, and in the functions of the module ``checks`` that it calls as ``checks.NAME``.
    """
    functions = {node.name: node for node in ast.parse(checks).body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assert) and node.msg is not None:
            yield from _sentence(node.msg)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("checks."):
            for call in ast.walk(functions[ast.unparse(node.func).removeprefix("checks.")]):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "require":
                    yield from _sentence(call.args[1])
                elif isinstance(call, ast.Call) and ast.unparse(call.func) == "choose":
                    for answer in getattr(call.args[2], "values", []):
                        yield from _sentence(answer)


def _sentence(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


EDITIONS = ("student", "instructor")


def write(edition: str, folder: Path, notebooks: Path = ROOT / "notebooks") -> list[Path]:
    """Write one edition of every notebook; pictures that they show are linked from where they stand."""
    written = []
    for path in sorted(notebooks.glob("*.ipynb")):
        complete = nbformat.read(path, as_version=4)
        checks = CHECKS / f"nb{path.stem[:2]}.py"
        code = checks.read_text(encoding="utf-8") if checks.exists() else ""
        made = student(complete) if edition == "student" else instructor(complete, code)
        for cell in made.cells:
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace("](../", "](../../")  # from build/EDITION/ to the clone
        nbformat.validate(made)
        with atomic_path(folder / path.name) as part:
            part.write_text(nbformat.writes(made) + "\n", encoding="utf-8")
        written.append(folder / path.name)
    return written


def main(arguments: list[str] | None = None, build: Path = ROOT / "build") -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edition", choices=EDITIONS)
    edition = parser.parse_args(arguments).edition
    with exit_on_bad_input():
        paths = write(edition, build / edition)
    print(f"{len(paths)} notebooks in {build / edition}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

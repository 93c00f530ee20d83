"""Write notebooks/NN_name.ipynb from notebooks/src/NN_name.py (the format: notebooks/src/README.md).

usage: python -m tools.notebooks           write them and print their sizes
       python -m tools.notebooks --check   exit with 1 when a committed notebook is not what its source gives
"""

import argparse
import hashlib
import re
import statistics
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from tools import address, diagrams
from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.common.files import atomic_path
from wsfp_helpers.tooling.results import FOLDER, read_results, summary

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
}
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # JupyterLab's key, and Colab's

_DRAWING = re.compile(r"\]\((figures/\w+\.svg)\)")
_NUMBER = re.compile(r"\{\{([^{}]*)\}\}")
SOLUTION = re.compile(r"^([ \t]*)# BEGIN SOLUTION\n.*?^\1# END SOLUTION$", re.MULTILINE | re.DOTALL)
_MARKER = re.compile(r"^[ \t]*# (BEGIN|END) SOLUTION\n?", re.MULTILINE)
_CHECK = re.compile(r'^with checking\(("[^"]+")\):$', re.MULTILINE)


def build(source: Path, expand: Callable[[list[NotebookNode], Path], list[NotebookNode]] | None = None) -> NotebookNode:
    """Notebook of one ``py:percent`` source: no outputs, diagrams in it, the same bytes every time.

    ``expand`` makes of the cells, exercises among them, what is wanted (by default :func:`expand_exercises`).  Raises
    :class:`InputError` when an exercise lacks its solution block or its check, and when a number of the prose is in no
    results file.
    """
    text = source.read_text(encoding="utf-8")
    cells = (expand or expand_exercises)(jupytext.reads(text, fmt="py:percent").cells, source)
    pictures = diagrams.embedded()
    for cell in cells:
        if cell.cell_type == "markdown":
            where = _place(cell, source)
            cell.source = _DRAWING.sub(lambda found: f"]({pictures.get(found[1], found[1])})", cell.source)
            cell.source = _NUMBER.sub(lambda found, where=where: _number_of(found, where), cell.source)
    where = address.read()
    if cells and cells[0].cell_type == "markdown":
        title, *rest = cells[0].source.split("\n")
        cells[0].source = "\n".join([title, "", where.badges(f"notebooks/{source.stem}.ipynb"), *rest])
    first_code = next((i for i, cell in enumerate(cells) if cell.cell_type == "code"), len(cells))
    cells.insert(first_code, new_code_cell(where.bootstrap()))
    _number(cells)
    return new_notebook(cells=cells, metadata=METADATA)


def _place(cell: NotebookNode, source: Path) -> str:
    return f"{source.name}, cell starting {cell.source.splitlines()[:1]}"


def _number_of(found: re.Match, where: str) -> str:
    """What ``{{table3 | Base. + CCD}}`` or ``{{table3 | Base. + CCD | skin}}`` stands for: mean ± spread over seeds."""
    where = f"{where}: {found[0]}"
    parts = [part.strip() for part in found[1].split("|")]
    if len(parts) not in (2, 3):
        raise InputError(f"{where}: expected {{{{FILE | ROW}}}} or {{{{FILE | ROW | CLASS}}}}")
    name, title, *wanted = parts
    try:
        content = read_results(name, FOLDER)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    rows = [row for row in content["rows"] if row["name"] == title]
    if not rows:
        titles = dict.fromkeys(row["name"] for row in content["rows"])
        raise InputError(f"{where}: {name}.json has no row {title!r}; it has {', '.join(titles)}")
    if len(rows) > 1:
        metrics = ", ".join(row["metric"] for row in rows)
        raise InputError(f"{where}: {name}.json has {len(rows)} rows {title!r} ({metrics}): a number must be one row")
    values, classes = rows[0]["seeds"], rows[0]["per_class"]
    if wanted:
        if wanted[0] not in classes:
            raise InputError(f"{where}: that row has no class {wanted[0]!r}; it has {', '.join(classes) or 'none'}")
        values = classes[wanted[0]]
    return summary(values)


def expand_exercises(cells: list[NotebookNode], source: Path) -> list[NotebookNode]:
    """Each exercise and the check after it become three cells: exercise with a gap, check, folded solution."""
    expanded, waiting = [], None
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        where = _place(cell, source)
        if (waiting is not None) != ("check" in tags):
            raise InputError(f"{where}: a cell tagged exercise and one tagged check must follow each other directly")
        if "exercise" in tags:
            waiting = cell.source
            open_task, blocks = SOLUTION.subn(gap, waiting)
            if not blocks or _MARKER.search(open_task):
                raise InputError(f"{where}: an exercise needs equally indented '# BEGIN SOLUTION' and '# END SOLUTION'")
            cell.source = open_task
        expanded.append(cell)
        if "check" in tags:
            answer = textwrap.indent(_MARKER.sub("", waiting).strip(), "    ")
            strict, found = _CHECK.subn(
                lambda line, answer=answer: f"with checking({line[1]}, solution=globals()):\n{answer}\n", cell.source
            )
            if found != 1:
                raise InputError(f"{where}: a check needs exactly one line 'with checking(\"NAME\"):'")
            expanded.append(new_code_cell(f"# @title Solution\n{strict}", metadata={"tags": ["solution"], **FOLDED}))
            waiting = None
    if waiting is not None:
        raise InputError(f"{source.name}: the last exercise has no check")
    return expanded


def gap(block: re.Match) -> str:
    """What stands in an open task in place of a solution block, a match of :data:`SOLUTION`."""
    indent = block[1]
    if indent:
        return f'{indent}raise NotImplementedError("your code here")'
    names = re.findall(r"^(\w+) = ", block[0], re.MULTILINE)
    return "\n".join(f"{name} = ...  # your answer" for name in names) or "...  # your code here"


def _number(cells: list[NotebookNode]) -> None:
    """Ids from the content, so that an inserted cell does not change the ids of all that follow."""
    seen: dict[str, int] = {}
    for cell in cells:
        key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[key] = seen.get(key, 0) + 1
        cell.id = key if seen[key] == 1 else f"{key}-{seen[key]}"


def generate(folder: Path = NOTEBOOKS) -> dict[Path, str]:
    """Path and text of every notebook that the sources in ``folder/src`` give."""
    sources = sorted((folder / "src").glob("*.py"))
    return {folder / f"{source.stem}.ipynb": nbformat.writes(build(source)) + "\n" for source in sources}


def differences(folder: Path = NOTEBOOKS) -> list[str]:
    """One sentence for each notebook that is missing, out of date, or without a source."""
    wanted = generate(folder)
    found = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.ipynb"))}
    both = [path for path in wanted if path in found]
    return [
        *(f"{path.name} is missing" for path in wanted if path not in found),
        *(f"{path.name} differs from src/{path.stem}.py" for path in both if found[path] != wanted[path]),
        *(f"{path.name} has no source src/{path.stem}.py" for path in found if path not in wanted),
    ]  # fmt: skip


def sizes(text: str) -> str:
    """Cells, lines of code in a cell (median and longest), words of text and kB of a notebook, as one line."""
    cells = nbformat.reads(text, as_version=4).cells
    lines = [len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code"]
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    return (
        f"{len(cells):3d} cells, code lines median {statistics.median(lines):g} longest {max(lines)}, "
        f"{words} words, {len(text.encode()) / 1000:.0f} kB"
    )


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; compare")
    with exit_on_bad_input():
        if parser.parse_args().check:
            found = differences()
            print("\n".join([*found, "run `make notebooks`"]) if found else "the notebooks are what their sources give")
            return bool(found)
        for path, text in generate().items():
            with atomic_path(path) as part:
                part.write_text(text, encoding="utf-8")
            print(f"{path.stem:24} {sizes(text)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

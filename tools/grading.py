"""Write masters for otter-grader, from the notebooks' one source and with the notebooks' own checks.

usage: python -m tools.grading    build/otter/NAME/NAME.ipynb for every notebook

Then, with `pip install otter-grader`, for a class (CONTRIBUTING and the instructor guide say more):

    otter assign build/otter/NAME/NAME.ipynb build/otter/NAME/dist    the students' notebook and the autograder
    otter run -a build/otter/NAME/dist/autograder/*.zip SUBMISSION    the grade of one submission, without Docker

Students need no otter-grader: in their notebook each question keeps its check.
"""

import ast
import builtins
import re
import sys
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_raw_cell

from tools.notebooks import NOTEBOOKS, SOLUTION, build, expand_exercises, gap
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import atomic_path

BUILD = Path(__file__).parents[1] / "build" / "otter"
_WIDGET = re.compile(r"^(explorers\.\w+|quiz)\(", re.MULTILINE)
"""What otter-grader must not run: a figure with controls can keep it waiting (tools/run_notebooks.py says why)."""


def master(source: Path) -> NotebookNode:
    """Master notebook of one source, as ``otter assign`` takes it; raises :class:`InputError` as ``build`` does."""
    notebook = build(source, _questions)
    config = {
        "name": source.stem, "tests": {"ok_format": False}, "init_cell": False, "check_all_cell": False,
        "export_cell": False, "solutions_pdf": False, "template_pdf": False, "generate": {"pdf": False},
    }  # fmt: skip
    notebook.cells.insert(0, _raw("ASSIGNMENT CONFIG", config, id="config"))
    return notebook


def _raw(words: str, content: dict | None = None, **more: str) -> NotebookNode:
    return new_raw_cell(f"# {words}\n{yaml.safe_dump(content) if content else ''}".strip(), **more)


def _questions(cells: list[NotebookNode], source: Path) -> list[NotebookNode]:
    """Each exercise and the check after it become a question of otter-grader, and the check follows once more."""
    expand_exercises([NotebookNode(cell) for cell in cells], source)  # refuses what is malformed
    imports = imported([cell.source for cell in cells if cell.cell_type == "code"])
    found: list[NotebookNode] = []
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if "exercise" not in cell.metadata.get("tags", []):
            if cell.cell_type == "code" and _WIDGET.search(cell.source):
                cell.metadata.setdefault("tags", []).append("otter_ignore")
            found.append(cell)
            continue
        name = question_name(following.source)
        test = test_function(name, cell.source, following.source, imports)
        found += [
            _raw("BEGIN QUESTION", {"name": name, "points": 1, "check_cell": False}),
            _raw("BEGIN SOLUTION"), new_code_cell(SOLUTION.sub(_prompt, cell.source)), _raw("END SOLUTION"),
            _raw("BEGIN TESTS"), new_code_cell(test), _raw("END TESTS"),
            _raw("END QUESTION"),
        ]  # fmt: skip
    return found


def _prompt(block: re.Match) -> str:
    """A solution block, before it what students find in its place, both as otter-grader marks them."""
    indent, solution = block[1], block[0].replace("# BEGIN SOLUTION", "# BEGIN SOLUTION NO PROMPT", 1)
    return f'{indent}""" # BEGIN PROMPT\n{gap(block)}\n{indent}""" # END PROMPT\n{solution}'


def question_name(check: str) -> str:
    """``exercise_1`` for a check of ``Exercise 1``."""
    title = re.search(r'checking\("([^"]+)"', check)[1]
    return re.sub(r"\W+", "_", title).strip("_").lower()


def imported(cells: list[str]) -> dict[str, str]:
    """For each name that the code imports the statement that does it."""
    found = {}
    for node in (node for cell in cells for node in ast.parse(cell).body):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            one = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], 0)
            found[alias.asname or alias.name] = ast.unparse(one)
    return found


def test_function(name: str, exercise: str, check: str, imports: dict[str, str]) -> str:
    """The body of a check as a test function of otter-grader, whose arguments are what it and the answer take.

    otter-grader hands on nothing else of the notebook, and no modules: what is imported is imported once more, also for
    the functions that it hands on.
    """
    (block,) = [node for node in ast.parse(check).body if isinstance(node, ast.With)]
    body = ast.Module(block.body, [])
    needed = sorted((_free(body) | _free(ast.parse(exercise))) - imports.keys())
    lines = [
        "given = dict(locals())", *imports.values(),
        "for each in given.values():", "    getattr(each, '__globals__', {}).update(locals())",
        *ast.unparse(body).splitlines(),
    ]  # fmt: skip
    return "\n".join([f"def test_{name}({', '.join(needed)}):", *(f"    {line}" for line in lines)])


def _free(code: ast.Module) -> set[str]:
    """Names that the code takes from elsewhere."""
    names = [node for node in ast.walk(code) if isinstance(node, ast.Name)]
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    made |= {node.arg for node in ast.walk(code) if isinstance(node, ast.arg)}
    made |= {node.name for node in ast.walk(code) if isinstance(node, ast.FunctionDef)}
    return {node.id for node in names} - made - set(dir(builtins))


def write(folder: Path = BUILD, notebooks: Path = NOTEBOOKS) -> list[Path]:
    """Write the master of every notebook into a folder of its own."""
    written = []
    for source in sorted((notebooks / "src").glob("*.py")):
        path = folder / source.stem / f"{source.stem}.ipynb"
        with atomic_path(path) as part:
            part.write_text(nbformat.writes(master(source)) + "\n", encoding="utf-8")
        written.append(path)
    return written


def main() -> int:
    """Run the command line; returns the exit code."""
    with exit_on_bad_input():
        paths = write()
    print(f"{len(paths)} masters in {BUILD}; next: otter assign {paths[0]} {paths[0].parent / 'dist'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

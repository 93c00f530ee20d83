"""Write the tables of docs/reliability.md from the tests.

usage: python -m tools.reliability

A test marked with ``promise(table, what happens, what the user sees, what is on disk)`` is a row of that table.  Each
bad input is run, and what the user then sees is what is written.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bad_inputs import CASES, Case, Outcome, run

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
TABLES = ("kills and faults", "two at once", "determinism", "surroundings", "security", "memory", "data sets")
PROMISES = "<!-- promises: written by python -m tools.reliability -->\n"
BAD_INPUTS = """
## Bad inputs

Exactly one sentence on stderr, no traceback, and the folder stays as it was.  Errors of libraries are shortened to
(...).

"""
BEGIN = "<!-- bad inputs: written by python -m tools.reliability -->\n"


def promises() -> Iterator[list[str]]:
    """Table, what goes wrong, what the user sees, what is on disk, and the test, of every test that is marked."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for test in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in test.decorator_list if isinstance(test, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
                    place = f"{path.relative_to(ROOT / 'tests').as_posix()}::{test.name}"
                    yield [*map(ast.literal_eval, mark.args), place.replace("_", "_<wbr>")]  # a long line may break


def promise_tables() -> str:
    """The tables of what tests promise."""
    rows, text = list(promises()), ""
    for table in TABLES:
        text += (
            f"\n## {table.capitalize()}\n\n| what happens | what the user sees | on disk | test |\n|---|---|---|---|\n"
        )
        text += "".join(f"| {' | '.join(row[1:])} |\n" for row in rows if row[0] == table)
    return text


def row(case: Case, outcome: Outcome) -> str:
    """The line of the table for one bad input."""
    what, said = (text.replace("|", "\\|").replace("<", "&lt;") for text in (case.what, outcome.sentence))
    return f"| {what} | {said} | {', '.join(outcome.changed) or 'as it was'} |"


def main() -> int:
    """Run the command line; returns the exit code."""
    text = PAGE.read_text(encoding="utf-8").partition(PROMISES)[0] + PROMISES + promise_tables() + BAD_INPUTS + BEGIN
    text += f"\n{len(CASES)} inputs.  Exit code 2, or 1 where a sentence begins with `failed` and the rest goes on.\n"
    for group in dict.fromkeys(case.group for case in CASES):
        text += f"\n### {group.capitalize()}\n\n| input | what the user sees | on disk |\n|---|---|---|\n"
        text += "".join(row(case, run(case)) + "\n" for case in CASES if case.group == group)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

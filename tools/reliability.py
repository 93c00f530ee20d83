"""Write the table of bad inputs in docs/reliability.md: each is run, and what the user then sees is what is written.

usage: python -m tools.reliability
"""

import sys
from pathlib import Path

from tests.bad_inputs import CASES, Case, Outcome, run

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN = "<!-- bad inputs: written by python -m tools.reliability -->\n"


def row(case: Case, outcome: Outcome) -> str:
    """The line of the table for one bad input."""
    what, said = (text.replace("|", "\\|").replace("<", "&lt;") for text in (case.what, outcome.sentence))
    return f"| {what} | {said} | {', '.join(outcome.changed) or 'as it was'} |"


def main() -> int:
    """Run the command line; returns the exit code."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0] + BEGIN
    text += f"\n{len(CASES)} inputs.  Exit code 2, or 1 where a sentence begins with `failed` and the rest goes on.\n"
    for group in dict.fromkeys(case.group for case in CASES):
        text += f"\n### {group.capitalize()}\n\n| input | what the user sees | on disk |\n|---|---|---|\n"
        text += "".join(row(case, run(case)) + "\n" for case in CASES if case.group == group)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

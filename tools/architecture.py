"""Draw the rooms of the package and the imports between them into docs/architecture.md.

usage: python -m tools.architecture            write the picture
       python -m tools.architecture --check    exit with 1 when it is not that of the code
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wsfp_helpers"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: written by python -m tools.architecture -->\n", "<!-- end of rooms -->"

LAYERS = (
    ("common",), ("labels", "nets"), ("palette",), ("data",), ("detect",), ("method",), ("parsing", "score"),
    ("profiles", "systems"), ("stages",), ("notebook",), ("tooling",), ("cli",),
)  # fmt: skip
"""Rooms from the ground up: a room imports from lower layers only."""


def modules() -> dict[str, set[str]]:
    """Every module of the package, and the modules of the package that it imports, anywhere in its code.

    Programs, which nothing imports, are left out: ``__main__``, and those among the assets.
    """
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if not {"assets", "__main__.py"} & {*path.parts}]
    paths = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    names = {name.removesuffix(".__init__") for name in paths.values()}
    found: dict[str, set[str]] = {}
    for path, name in paths.items():
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsfp_helpers"):
                imported |= {
                    inner if (inner := f"{node.module}.{a.name}") in names else node.module for a in node.names
                }
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names if alias.name in names}
        found[name.removesuffix(".__init__")] = imported - {"wsfp_helpers"}
    return found


def room(module: str) -> str:
    """The folder of a module below the package, or the module itself where it stands alone."""
    return module.split(".")[1] if "." in module else ""


def arrows(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    pairs = {(room(a), room(b)) for a, imported in graph.items() for b in imported}
    return {(a, b) for a, b in pairs if a != b and a and b}


def picture() -> str:
    """The rooms as a mermaid flow chart; an arrow leads from a room to one that it imports.

    Arrows that follow from others are left out.
    """
    pairs = arrows(modules())
    below = {a: {b for x, b in pairs if x == a} for a, _ in pairs}

    def reached(start: str) -> set[str]:
        direct = below.get(start, set())
        return direct.union(*(reached(each) for each in direct)) if direct else set()

    kept = sorted((a, b) for a, b in pairs if not any(b in reached(c) for c in below[a] - {b}))
    return "\n".join(["```mermaid", "flowchart TB", *(f"  {a} --> {b}" for a, b in kept), "```", ""])


def main() -> int:
    """Run the command line; returns the exit code."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    wanted = before + BEGIN + picture() + END + rest.partition(END)[2]
    if "--check" in sys.argv[1:]:
        print("the picture is that of the code" if text == wanted else "run python -m tools.architecture")
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

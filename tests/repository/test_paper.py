"""Find it in ten seconds: every item of the paper begins one public docstring, and the index leads there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE, PAGE = ROOT / "wsfp_helpers", ROOT / "docs" / "paper.md"
ITEMS = [
    *(f"Eq. {n}" for n in range(1, 17)), *(f"Table {n}" for n in range(1, 6)), *(f"Fig. {n}" for n in range(1, 7)),
    "CelebAMask-HQ", "LaPa", "Helen",
]  # fmt: skip
HEAD = re.compile(r"((?:Eq\. \d+|Table \d+|Fig\. \d+|CelebAMask-HQ|LaPa|Helen)(?:, (?:Eq|Table|Fig)\.? \d+)*): ")


def docstrings():
    """``(item, file, name)`` of every public function, class and method whose docstring begins with items."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                match = HEAD.match(ast.get_docstring(node) or "")
                for item in match[1].split(", ") if match else ():
                    yield item, str(path.relative_to(PACKAGE)), node.name


FOUND = list(docstrings())
ROWS = re.findall(r"^\| ([^|]+?) \| [^|]+ \| `([^`]+)` `([^`]+)` \| ([^|]*) \| ([^|]*)\|$", PAGE.read_text(), re.M)


@pytest.mark.parametrize("item", ITEMS)
def test_an_item_begins_exactly_one_public_docstring(item):
    assert len([each for each in FOUND if each[0] == item]) == 1


def test_the_index_has_every_item_once_in_order():
    assert [row[0] for row in ROWS] == ITEMS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_index_leads_to_the_docstring(row):
    item, path, name, notebook, results = row
    assert (item, path, name) in FOUND
    for target in re.findall(r"\(([^)]+)\)", notebook + results):
        assert (PAGE.parent / target).exists()


def test_every_equation_has_its_formula():
    """In ``method/`` and the text vectors: in the docstring, or in a comment above the line that computes it."""
    for item, path, name in FOUND:
        if item.startswith("Eq. "):
            source = (PACKAGE / path).read_text(encoding="utf-8")
            node = next(n for n in ast.walk(ast.parse(source)) if getattr(n, "name", "") == name)
            text = ast.get_source_segment(source, node)
            assert re.search(r"(C\^i|x̂|P_k|v_\w+\^k|L|L_\w+(\^\w+)?) = ", text), item


def test_the_room_of_the_method_begins_with_a_table_from_equation_to_function():
    lines = re.findall(r"^(Eq\. \d+) +(\S+?)(?:: |\.)(\w+) ", (PACKAGE / "method/__init__.py").read_text(), re.M)
    there = {(item, Path(path).stem, name) for item, path, name in FOUND if item.startswith("Eq. ")}
    assert len(lines) == 16 and {(item, path.split(".")[-1], name) for item, path, name in lines} == there

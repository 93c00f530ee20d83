"""Every section of docs/design.md that the code, the docs or the notebooks cite is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECTIONS = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", (ROOT / "docs/design.md").read_text(), re.M))
CITED = re.compile(r"docs/design\.md, ((?:\d+(?:\.\d+)*(?:, | and | to )?)+)")


def citations():
    files = [*ROOT.glob("wsfp_helpers/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("tools/*.py")]
    files += [*ROOT.glob("scripts/*.py"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/src/*.py")]
    for path in files:
        if path != Path(__file__):
            text = " ".join(path.read_text(encoding="utf-8").split())
            for match in CITED.finditer(text):
                for number in re.findall(r"\d+(?:\.\d+)*", match[1]):
                    yield str(path.relative_to(ROOT)), number.rstrip(".")


def test_every_cited_section_exists():
    cited = list(citations())
    assert len({path for path, _ in cited}) > 10  # the search finds what is there
    assert [(path, number) for path, number in cited if number not in SECTIONS] == []


def test_nothing_cites_notes_that_are_not_here():
    files = [*ROOT.glob("wsfp_helpers/**/*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("scripts/*.py")]
    assert [str(path) for path in files if re.search(r"[Dd]esign note", path.read_text(encoding="utf-8"))] == []


def test_sections_are_numbered_without_gaps():
    tops = sorted(int(number) for number in SECTIONS if "." not in number)
    assert tops == list(range(1, len(tops) + 1)) and {"1.5", "2.3", "6.4", "9.1", "9.20"} <= SECTIONS

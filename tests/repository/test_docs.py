"""README and docs: links lead to files, and every command that they show exists with the options that they show."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from wsfp_helpers import cli

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PAGES = [ROOT / "README.md", ROOT / "notebooks/src/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()) if "://" not in target]
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shown_commands_exist(page):
    commands = get_command(cli.app).commands
    for words in re.findall(r"(?m)(?:^|`|do )wsfp +([^`#&;\n]+)", page.read_text()):
        name, *rest = words.split()
        assert name in commands, f"wsfp {words}"
        command = commands[name]
        if hasattr(command, "commands"):
            assert rest[0] in command.commands, f"wsfp {words}"
            command = command.commands[rest[0]]
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= known, f"wsfp {words}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "Makefile", *WORKFLOWS], ids=lambda page: str(page.relative_to(ROOT)))
def test_named_programs_exist(page):
    text = page.read_text()
    named = set(re.findall(r"\b(?:wsfp_helpers|tools|scripts|tests)/[\w/]+\.\w+", text))
    named |= {
        f"{module.replace('.', '/')}.py"
        for module in re.findall(r"python3? -m ((?:tools|tests|wsfp_helpers)\.\S+\w)", text)
    }
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]

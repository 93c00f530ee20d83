"""The repository's address stands in pyproject.toml, and everything else that names it is written from there."""

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools import address, notebooks
from wsfp_helpers.common.errors import InputError

ROOT = Path(__file__).parents[2]
MINE = address.Address("https://github.com/somebody/their.course", "9.9.9")


def test_every_file_names_the_same_address():
    assert address.differences() == [], "run `make notebooks`"


def test_no_other_file_has_a_placeholder_or_the_address():
    here = address.read()
    written = {path.relative_to(ROOT).as_posix() for path in address.generate(here)}
    written |= {path.relative_to(ROOT).as_posix() for path in notebooks.generate()}
    words = rf"{re.escape(here.slug)}\b|ADDRESS[-_]OF|YOUR[-_](NAME|ORG|USER)|<(user|owner|org)>|\bOWNER/"
    listed = subprocess.run(
        ["git", "grep", "-lIE", words, "--", ":!tools/address.py", ":!tests/repository/test_address.py"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert set(listed.stdout.split()) - written == {"pyproject.toml"}


def test_a_fork_changes_one_line(tmp_path, monkeypatch):
    for name in ("README.md", "CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    before = address.read()
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace(before.url, MINE.url).replace(f'"{before.version}"', '"9.9.9"', 1))
    assert address.read(project) == MINE
    assert len(address.differences(tmp_path)) == 2
    for path, text in address.generate(MINE, tmp_path).items():
        path.write_text(text)
        assert before.slug not in text and MINE.url in text
    assert address.differences(tmp_path) == []

    monkeypatch.setattr(address, "read", lambda: MINE)
    for text in notebooks.generate().values():
        assert before.slug not in text and f"git+{MINE.url}@v9.9.9" in text


def test_links_have_the_form_that_the_services_want():
    assert MINE.colab("notebooks/a.ipynb") == (
        "https://colab.research.google.com/github/somebody/their.course/blob/v9.9.9/notebooks/a.ipynb"
    )
    assert MINE.binder("notebooks/a.ipynb") == (
        "https://mybinder.org/v2/gh/somebody/their.course/v9.9.9?urlpath=lab%2Ftree%2Fnotebooks%2Fa.ipynb"
    )


@pytest.mark.parametrize("url", ["", "https://github.com/me", "https://github.com/me/x.git/", "git@github.com:me/x"])
def test_an_address_of_another_form_is_refused(url, tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text(f'[project]\nversion = "1"\n[project.urls]\nRepository = "{url}"\n')
    with pytest.raises(InputError, match=r"expected https://github\.com/OWNER/NAME"):
        address.read(path)


@pytest.mark.parametrize("there", [True, False])
def test_the_first_cell_installs_only_where_the_course_is_missing(there, monkeypatch, tmp_path):
    """Run as IPython runs it, with a recorder in the place of %pip."""
    from IPython.core.inputtransformer2 import TransformerManager

    asked, space = [], {"get_ipython": lambda: Recorder(asked)}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: there or None)
    for folder, source in (((ROOT / "notebooks"), ".."), (tmp_path, f"git+{MINE.url}@v9.9.9")):
        monkeypatch.chdir(folder)
        exec(TransformerManager().transform_cell(MINE.bootstrap()), space)
        assert asked == ([] if there else [("pip", "install -q {course}")])
        assert there or space["course"] == source
        asked.clear()


@dataclasses.dataclass
class Recorder:
    asked: list

    def run_line_magic(self, name, line):
        self.asked.append((name, line))

"""The base dependencies add to what Colab has, and change nothing there."""

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FREEZE = Path(__file__).with_name("colab_freeze.txt")
NEW = {"dacite", "ftfy", "jedi", "open-clip-torch"}
"""All that is installed on Colab beside the course itself: small, and pure Python."""


def pinned(text):
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in re.findall(r"(?m)^(\S+)==(\S+)", text)}


def resolve(requirements, tmp_path):
    """uv's answer for Colab's Python and system, with all that Colab has as constraints."""
    if find_spec("uv") is None:
        pytest.skip("uv is not installed: pip install uv")
    (tmp_path / "base.in").write_text("\n".join(requirements))
    command = [sys.executable, "-m", "uv", "pip", "compile", "base.in", "--constraint", str(FREEZE), "--no-header"]
    system = [
        "--python-version",
        "3.13",
        "--python-platform",
        "x86_64-manylinux_2_28",
        "--no-annotate",
        "--no-python-downloads",
    ]
    done = subprocess.run([*command, *system], cwd=tmp_path, capture_output=True, text=True)
    if done.returncode and re.search(r"(?i)failed to fetch|error sending request|dns error|timed out", done.stderr):
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    return done


def base():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def test_nothing_that_colab_has_is_replaced(tmp_path):
    done = resolve(base(), tmp_path)
    assert done.returncode == 0, done.stderr
    found, there = pinned(done.stdout), pinned(FREEZE.read_text())
    assert {name: found[name] for name in found.keys() & there.keys()} == {
        name: there[name] for name in found.keys() & there.keys()
    }
    # PyPI's torch names another CUDA than Colab's build of the same version, which is kept.
    new = {name for name in found.keys() - there.keys() if not name.startswith(("nvidia-", "cuda-"))}
    assert new == NEW


def test_what_colab_cannot_give_is_noticed(tmp_path):
    done = resolve([*base(), "numpy>=2.4"], tmp_path)
    assert done.returncode != 0 and "numpy" in done.stderr


def test_jupyterlab_and_groundingdino_are_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", each, maxsplit=1)[0] for each in project["dependencies"]}
    assert not names & {"jupyterlab", "transformers", "groundingdino-py"}
    assert {"lab", "detector", "groundingdino"} <= project["optional-dependencies"].keys()
    tools = {"pytest", "ruff", "mypy"}
    lab = {re.split(r"[^\w-]", each, maxsplit=1)[0] for each in project["optional-dependencies"]["lab"]}
    assert not lab & tools

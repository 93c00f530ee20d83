"""What Binder is told: one core, the small builds of torch, nothing that only tests need."""

import os
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
BINDER = ROOT / "binder"


def test_only_the_base_is_installed():
    lines = [line for line in (BINDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["--extra-index-url https://download.pytorch.org/whl/cpu", "-e ."]


def test_its_python_is_one_of_ours():
    version = (BINDER / "runtime.txt").read_text().strip().removeprefix("python-")
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == ">=3.11,<3.14" and version in {"3.11", "3.12", "3.13"}


def test_what_starts_gets_one_thread():
    run = ["bash", str(BINDER / "start"), "printenv", "OMP_NUM_THREADS", "HF_HUB_OFFLINE"]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.split() == ["1", "1"]
    assert all(os.access(BINDER / name, os.X_OK) for name in ("start", "postBuild"))

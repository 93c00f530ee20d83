"""What Codespaces and JupyterHub are told."""

import json
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_codespaces_gets_two_cores_and_the_python_of_the_constraints():
    told = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert told["hostRequirements"] == {"cpus": 2, "memory": "8gb"}
    assert re.search(r"python:3\.11\b", told["image"]) and "CPython 3.11" in (ROOT / "constraints.txt").read_text()
    assert all((ROOT / file).exists() for file in told["customizations"]["codespaces"]["openFiles"])


def test_the_hub_s_image_takes_what_is_there():
    text = (ROOT / "jupyterhub" / "Dockerfile").read_text()
    for source in re.findall(r"(?m)^COPY (?:--\S+ )*(\S+) ", text):
        assert (ROOT / source).exists()


def test_a_user_gets_the_notebooks_once(tmp_path):
    script = (
        (ROOT / "jupyterhub" / "copy_notebooks").read_text().replace("/opt/wsfp/notebooks", str(ROOT / "notebooks"))
    )
    for words in ("", "mine"):
        subprocess.run(["sh", "-c", script], env=os.environ | {"HOME": str(tmp_path)}, check=True)
        mine = tmp_path / "wsfp" / "00_start_here.ipynb"
        assert mine.read_text() == (words or (ROOT / "notebooks" / "00_start_here.ipynb").read_text())
        mine.write_text("mine")

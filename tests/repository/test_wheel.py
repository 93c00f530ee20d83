"""The wheel: all that the course reads is in it and is found without the clone."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
LOOK = """\
import wsfp_helpers
from wsfp_helpers.common.files import ASSETS, COURSE
from wsfp_helpers.tooling import results
print(wsfp_helpers.__file__)
print(*sorted(path.name for path in (COURSE / "notebooks").glob("*.ipynb")))
print(*sorted(path.name for path in (COURSE / "docs").glob("*.png")))
print(len(results.read_results("table3")["rows"]), (ASSETS / "parser_weak.safetensors").stat().st_size)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_what_the_course_reads_is_found_without_the_clone(wheel, tmp_path):
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{LOOK}"]
    done = subprocess.run(run, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    found, notebooks, pictures, results = done.stdout.splitlines()
    assert Path(found).is_relative_to(tmp_path)
    assert notebooks.split() == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert pictures.split() == sorted(path.name for path in (ROOT / "docs").glob("*.png"))
    assert all(int(number) > 0 for number in results.split())


def test_nothing_else_is_in_it(wheel):
    names = ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"wsfp_helpers"}
    assert not [name for name in names if "__pycache__" in name or ".ipynb_checkpoints" in name]

"""The processes of accelerate share the work of a stage, and give what one alone gives."""

from pathlib import Path

import pytest

from tests.fixtures import block_faces, run_in_processes, tiny_parser
from tests.test_stages import FakeDetector
from wsfp_helpers import stages
from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.configs import plain
from wsfp_helpers.common.runs import start_run
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.detect.boxes import detect_dataset
from wsfp_helpers.method.train import MODEL, DisFaceRep
from wsfp_helpers.parsing.photographs import predict_set
from wsfp_helpers.profiles import Source, profile


def run_stages(out):
    """Boxes, activation maps and label maps of five pictures each, below ``out``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Source, "open", lambda self: synthfaces(self.split).subset(range(5)))
        patch.setattr(stages, "load_detector", lambda *_: FakeDetector())
        report = stages.run_ccd(profile("embedded"), Path(out) / "ccd")
        stages.run_fcam(Path(out).parent / "run", Path(out) / "fcams")
        predict_set(block_faces(5)[0], Path(out) / "maps", tiny_parser())
    return report


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_run(tmp_path):
    config = profile("embedded")
    start_run(tmp_path / "run", {"profile": plain(config), "boxes": None})
    save_weights(tmp_path / "run" / MODEL, DisFaceRep(config.model.build()).state_dict())


KILLED = """
import os, signal
from {module} import {name}
import {module} as module
from tests.test_processes import run_stages
calls = []

def once(*arguments):
    if calls:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append({name}(*arguments))

module.{name} = once
run_stages({out!r})
"""


@pytest.mark.parametrize(
    ("module", "name", "folder"),
    [
        ("wsfp_helpers.method.fcam", "save_fcam", "fcams"),
        ("wsfp_helpers.parsing.photographs", "write_index_png", "maps"),
    ],
)
@pytest.mark.promise(
    "kills and faults",
    "`kill -9` of two processes under accelerate",
    "nothing; one process goes on to the same bytes",
    "the pictures that were whole",
)
def test_one_process_goes_on_where_two_were_killed(tmp_path, module, name, folder):
    make_run(tmp_path)
    code = KILLED.format(module=module, name=name, out=str(tmp_path / "several"))
    assert run_in_processes(code, 2, tmp_path).returncode != 0
    left = [path for path in (tmp_path / "several" / folder).iterdir() if path.suffix in (".png", ".safetensors")]
    assert 1 <= len(left) <= 2
    run_stages(tmp_path / "several")
    run_stages(tmp_path / "one")
    several, one = contents(tmp_path / "several"), contents(tmp_path / "one")
    assert several.keys() == one.keys() and [name for name in one if several[name] != one[name]] == []


NOTED = """
import os
from pathlib import Path
from tests.test_processes import run_stages
replace = os.replace

def noted(source, target):
    with open(Path({log!r}) / str(os.getpid()), "a") as log:
        log.write(f"{{target}}\\n")
    replace(source, target)

os.replace = noted
run_stages({out!r})
"""


@pytest.mark.promise(
    "two at once",
    "three processes of accelerate on one folder",
    "nothing; what one alone gives",
    "every file written by one of them",
)
def test_three_processes_write_what_one_writes_and_go_on_from_shares_of_four(tmp_path):
    make_run(tmp_path)
    (tmp_path / "log").mkdir()
    five = synthfaces("celeb/train").subset(range(5)).weak
    detect_dataset(five, FakeDetector(), tmp_path / "several/ccd/boxes.jsonl", shard=(2, 4))
    code = NOTED.format(log=str(tmp_path / "log"), out=str(tmp_path / "several"))
    done = run_in_processes(code, 3, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    written = [set(log.read_text().splitlines()) for log in (tmp_path / "log").iterdir()]
    assert len(written) == 3 and sum(map(len, written)) == len(set.union(*written)) > 10, "two processes wrote one file"
    assert run_stages(tmp_path / "one")["images"] == 5
    several, one = contents(tmp_path / "several"), contents(tmp_path / "one")
    assert several.keys() == one.keys() and len(one) == 2 + 5 + 2 + 5 + 1
    assert [name for name in one if several[name] != one[name]] == []

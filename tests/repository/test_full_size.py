"""Every command of docs/full_size.md, in its order, on miniatures of data and weights in their true form."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tests import full_size
from tests.fixtures import run_in_processes
from wsfp_helpers import cli

PAGE = Path(__file__).parents[2] / "docs" / "full_size.md"
SMALLER = {
    "train-3820": "train-2", "--workers 8": "--workers 1", "--pictures 20": "--pictures 4",
    "systems tune": "systems tune mctformer+", "systems run": "systems run mctformer+ --seeds 0",
}  # fmt: skip
"""What a miniature has less of."""


def shown_commands():
    """The lines of the page's shell blocks that run something, without comments, in order."""
    blocks = re.findall(r"(?s)```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"))
    lines = (line.partition("#")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def with_settings(words):
    """The command with the settings of the miniature, where it takes any."""
    command, rest = get_command(cli.app), list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    options = {each.name for each in command.params}
    if {"settings", "profile"} <= options or {"settings", "pictures"} <= options:
        words = [*words, *(word for setting in full_size.SMALL for word in ("--set", setting))]
    return words


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder to work in, data and an empty folder of weights below $WSFP_DATA, and a hub."""
    full_size.shrink(monkeypatch)
    full_size.make_hub(tmp_path / "hub")
    full_size.make_data(tmp_path / "data")
    hub = full_size.serve(tmp_path / "hub")
    full_size.offer(monkeypatch, f"http://127.0.0.1:{hub.server_port}")
    monkeypatch.setenv("WSFP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    hub.shutdown()
    hub.server_close()


LAUNCHED = """
import pytest
from tests import full_size
from wsfp_helpers.cli import app
with pytest.MonkeyPatch.context() as patch:
    full_size.shrink(patch)
    app({words!r})
"""


@pytest.mark.timeout(900)  # twenty commands, of which one starts two processes
def test_the_commands_of_the_page_lead_from_a_bare_machine_to_the_table(world):
    """GPUs are not there: what accelerate launches is launched in two processes of the CPU by torchrun."""
    done = 0
    for line in shown_commands():
        start = time.process_time()
        for long, short in SMALLER.items():
            line = line.replace(long, short)
        line = line.replace("$WSFP_DATA", str(world / "data"))
        words = shlex.split(line)
        if words[0] == "export":
            continue
        if words[:2] == ["accelerate", "launch"]:
            code = LAUNCHED.format(words=with_settings(words[words.index("wsfp_helpers.cli") + 1 :]))
            launched = run_in_processes(code, 2, world)
            assert launched.returncode == 0, f"{line}: {launched.stderr[-2000:]}"
        else:
            assert words[0] == "wsfp", line
            result = CliRunner().invoke(cli.app, with_settings(words[1:]), input="y\n" * 9)
            assert result.exit_code == 0, f"{line}: {result.output[-2000:]} {result.exception!r}"
        print(f"{time.process_time() - start:6.1f} s  {line}", flush=True)
        done += 1
    assert done > 15


SRUN = """#!/bin/bash
# In place of SLURM: the command on two machines at once, which are this one.
while [[ $1 == --* ]]; do if [[ $1 == *=* ]]; then shift; else shift 2; fi; done
for rank in 0 1; do SLURM_PROCID=$rank SLURM_JOB_NODELIST=these "$@" & done
wait %1 && wait %2
"""
SCONTROL = """#!/bin/bash
[[ $* == "show hostnames these" ]] && printf '127.0.0.1\\nanother\\n'
"""
JOB = """
import sys
from accelerate.utils import gather_object
from wsfp_helpers.common.accelerator import processes
state = processes()
seen = gather_object([(state.process_index, state.num_processes)])
if state.is_main_process:
    print(*seen, *sys.argv[1:])
"""


def test_the_line_for_slurm_starts_processes_that_know_each_other(tmp_path):
    """GPUs and SLURM are not there: one process a machine, on this one's CPU."""
    (line,) = re.findall(r"(?s)```text\n(srun .*?)```", PAGE.read_text(encoding="utf-8"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    smaller = {"--num_processes 16": "--num_processes 2", "port 29500": f"port {port}", "-m wsfp_helpers.cli": "job.py"}
    for long, short in smaller.items():
        assert long in line
        line = line.replace(long, short)
    (tmp_path / "job.py").write_text(JOB)
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    package = str(PAGE.parents[1])
    environment = os.environ | {"PATH": path, "PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("(0, 2) (1, 2) train --profile paper --out runs/several --boxes"), done.stdout

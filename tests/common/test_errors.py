"""Bad input ends a script with its sentence and exit code 2; a bug does not hide behind it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsfp_helpers.common.errors import InputError, exit_on_bad_input


def test_bad_input_is_a_sentence_on_stderr_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_bad_input():
        raise InputError("expected this, got that")
    assert stop.value.code == 2 and capsys.readouterr().err == "expected this, got that\n"


def test_a_bug_is_not_hidden():
    with pytest.raises(ValueError, match="a bug"), exit_on_bad_input():
        raise ValueError("a bug")


def test_a_script_answers_bad_input_with_one_sentence(tmp_path):
    root = Path(__file__).parents[2]
    call = [sys.executable, root / "scripts/train_parsers.py", "weak", "--fcams", "nowhere"]
    variables = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, env=variables)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "nowhere" in done.stderr

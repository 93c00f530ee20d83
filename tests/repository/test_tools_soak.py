"""The soak: every stage sees every picture, and the lines say when."""

import sys

import pytest

from tools import soak
from tools.soak import main, soak_kernels, soak_parse, watched
from wsfp_helpers.common.errors import InputError


def test_a_watched_call_is_the_call(capsys):
    twice = watched(lambda x: 2 * x, "twice", 10)
    assert [twice(x) for x in range(10)] == [2 * x for x in range(10)]
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1", "5", "10"]


def test_photographs_are_counted_and_not_their_maps(tmp_path, monkeypatch):
    lines = []
    maps = lambda line, **_: lines.append((line.split()[1], len(list(tmp_path.rglob("*.png")))))  # noqa: E731
    monkeypatch.setattr(soak, "print", maps, raising=False)
    soak_parse(3, tmp_path)
    assert lines == [("1", 2), ("2", 4), ("3", 6)]


@pytest.mark.skipif(sys.platform == "win32", reason="counts open files as Unix does")
def test_what_a_kernel_leaves_behind_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(soak, "DRAWS", "x = 1")
    soak_kernels(1, tmp_path / "a")
    assert capsys.readouterr().out.split()[:3] == ["kernels", "1", "closed"]
    leaves = "import subprocess, tempfile; tempfile.mkdtemp('left'); "
    monkeypatch.setattr(soak, "DRAWS", leaves + "subprocess.Popen(['sleep', '20'], start_new_session=True)")
    with pytest.raises(InputError, match=r"kernel 1 ended with .*'ok'.*left behind: \['sleep', 'tmp/tmp\w+left'\]"):
        soak_kernels(1, tmp_path / "b")


@pytest.mark.parametrize("option", ["--photographs", "--pictures", "--kernels"])
def test_less_than_nothing_is_a_sentence(option):
    with pytest.raises(InputError, match=f"{option} is -1: expected 0 or more"):
        main(["--photographs", "1", option, "-1"])

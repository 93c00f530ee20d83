"""The soak: every stage sees every picture, and the lines say when."""

import pytest

from tools.soak import main, soak_stages, watched
from wsfp_helpers.common.errors import InputError


def test_three_lines_a_stage(tmp_path, capsys):
    soak_stages(20, tmp_path)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    stages = ("detect", "mask", "pseudo", "evaluate")
    assert [line[:3] for line in lines] == [[name, n, "pictures"] for name in stages for n in ("2", "10", "20")]
    assert all(line[-1] == "MB" and float(line[-2]) > 0 for line in lines)
    assert len(list((tmp_path / "labels").glob("*.png"))) == 20


def test_a_watched_call_is_the_call(capsys):
    twice = watched(lambda x: 2 * x, "twice", 10)
    assert [twice(x) for x in range(10)] == [2 * x for x in range(10)]
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1", "5", "10"]


@pytest.mark.parametrize("option", ["--photographs", "--pictures"])
def test_no_pictures_is_a_sentence(option):
    with pytest.raises(InputError, match=f"{option} is 0: expected 1 or more"):
        main(["--photographs", "1", option, "0"])

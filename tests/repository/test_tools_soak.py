"""The soak: every stage sees every picture, and the lines say when."""

import pytest

from tools.soak import main, watched
from wsfp_helpers.common.errors import InputError


def test_a_watched_call_is_the_call(capsys):
    twice = watched(lambda x: 2 * x, "twice", 10)
    assert [twice(x) for x in range(10)] == [2 * x for x in range(10)]
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1", "5", "10"]


@pytest.mark.parametrize("option", ["--photographs", "--pictures"])
def test_no_pictures_is_a_sentence(option):
    with pytest.raises(InputError, match=f"{option} is 0: expected 1 or more"):
        main(["--photographs", "1", option, "0"])

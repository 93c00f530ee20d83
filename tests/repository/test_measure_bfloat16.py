"""What bfloat16 changes: the script compares it with float32 on the same pictures."""

import pytest

from scripts import measure_bfloat16
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.parsing import light
from wsfp_helpers.parsing.load import load_parser


def test_both_trunks_are_scored_on_the_same_faces_and_their_maps_compared(monkeypatch):
    monkeypatch.setattr(light, "multiplies_bfloat16", lambda: True)
    faces, parser = synthfaces("celeb/test").subset(range(2)), load_parser("weak")
    exact, fast, same, least = measure_bfloat16.rows("two faces", faces, {"weak": parser})
    assert (exact["name"], fast["name"]) == ("two faces: weak, float32", "two faces: weak, bfloat16")
    assert exact["seeds"] != fast["seeds"] and abs(exact["seeds"][0] - fast["seeds"][0]) < 0.5
    assert 99 < least["seeds"][0] <= same["seeds"][0] < 100


def test_where_the_processor_does_not_multiply_them_there_is_nothing_to_measure(monkeypatch):
    monkeypatch.setattr(measure_bfloat16, "multiplies_bfloat16", lambda: False)
    with pytest.raises(InputError, match="does not multiply bfloat16"):
        list(measure_bfloat16.every_row())

"""Framings of a photograph: what a row is called is what it is."""

import torch

from scripts.measure_framing import HEIGHTS, looked_at, rows
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.parsing.load import load_parser


def test_each_row_is_what_wsfp_parse_sees_in_that_framing():
    faces, parser = synthfaces("celeb/val").subset([0]), load_parser("weak")
    (found,) = looked_at(faces, 0, [parser])
    assert torch.equal(found["1.0"], parser.parse(faces.image(0)).probability)
    assert not torch.equal(found["0.7"], found["1.0"])


def test_both_parsers_have_a_row_for_each_framing():
    table = list(rows(synthfaces("celeb/val").subset([0, 1])))
    names = {row["name"] for row in table}
    for kind in ("weak", "supervised"):
        assert {f"{kind}, face {height} of the last square" for height in HEIGHTS} <= names
    assert all(row["seeds"][0] > 0 for row in table if row["metric"] == "area")

"""Boxes on pictures: every word is readable, beside its box and inside the picture."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsfp_helpers.notebook.draw import _places, _shared, draw_boxes

BLACK = np.zeros((160, 160, 3), np.uint8)
EYES = [(50.0, 70.0, 70.0, 80.0), (64.0, 70.0, 90.0, 100.0)]


def white(picture):
    return (picture == 255).all(-1).sum()


def test_words_of_neighbours_do_not_cover_each_other():
    alone = [white(draw_boxes(BLACK, [box], [word])) for box, word in zip(EYES, ("r_eye", "nose"), strict=True)]
    both = white(draw_boxes(BLACK, EYES, ["r_eye", "nose"]))
    assert both > 0.98 * sum(alone)


def test_without_words_there_is_no_white():
    assert white(draw_boxes(BLACK, EYES)) == 0


corners = st.tuples(*[st.floats(0, 400)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@given(corners, st.tuples(st.floats(1, 90), st.floats(1, 30)))
def test_a_word_stands_inside_the_picture(box, size):
    for x1, y1, x2, y2 in _places(box, size, (480, 480)):
        assert 0 <= x1 < x2 <= 480 + 1e-6 and 0 <= y1 < y2 <= 480 + 1e-6


def test_what_rectangles_share():
    assert _shared((0, 0, 4, 4), (2, 1, 9, 3)) == 4 and _shared((0, 0, 1, 1), (2, 2, 3, 3)) == 0

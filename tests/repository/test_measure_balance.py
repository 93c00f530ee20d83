"""What class weights do to a parser's answers: the rows say what they are, and leave the parser as it was."""

import numpy as np
import pytest

from scripts.measure_balance import answers, biases
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.parsing.zoom import FACE


def test_weights_come_back_for_parts_of_the_face_or_go_for_the_others():
    added = biases(0.3)
    inner = np.isin(CELEBAMASK.classes, FACE)
    eye, ear, skin = (CELEBAMASK.index(name) for name in ("l_eye", "l_ear", "skin"))
    assert added["as trained"][eye] > 1 and not added["as trained"][~inner].any()
    assert (
        added["weights undone for all classes"][ear] < -1 and not added["weights undone for all classes"][inner].any()
    )
    assert all(value[skin] == 0 for value in added.values())


def test_a_larger_score_draws_a_part_larger_and_is_taken_back():
    faces, parser = synthfaces("celeb/val").subset([0, 1]), load_parser("weak")
    before = parser.network.state_dict()["head.bias"].clone()
    added, eye = np.zeros(19), CELEBAMASK.index("l_eye")
    plain = answers(parser, faces, added)
    added[eye] = 3
    larger = answers(parser, faces, added)
    assert larger[:, :, eye].sum() > plain[:, :, eye].sum()
    assert parser.network.state_dict()["head.bias"].tolist() == pytest.approx(before.tolist(), abs=0)

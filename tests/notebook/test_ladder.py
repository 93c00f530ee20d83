"""The ladder's pair of faces."""

import numpy as np

from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.notebook.ladder import two_faces
from wsfp_helpers.parsing.load import load_parser


def test_the_photograph_s_list_is_what_the_supervised_parser_finds_or_a_person_sees():
    faces = two_faces()
    assert [faces.image(i).shape for i in range(2)] == [(160, 160, 3)] * 2
    found = np.bincount(load_parser("supervised").predict(faces.image(1))[0].ravel(), minlength=19)[1:]
    listed = {COMPONENTS[k] for k in np.flatnonzero(faces.labels[1])}
    assert {COMPONENTS[k] for k in np.flatnonzero(found >= 20)} - listed <= {"l_ear", "r_ear"}  # both are under hair
    assert {"ear_r", "necklace", "hat", "eye_g"}.isdisjoint(listed)

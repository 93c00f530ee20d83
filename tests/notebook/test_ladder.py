"""The ladder's pair of faces, and its rungs."""

import numpy as np

from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.notebook.ladder import NETWORKS, PARSERS, climb, two_faces
from wsfp_helpers.parsing.load import load_parser


def test_the_photograph_s_list_is_what_the_supervised_parser_finds_or_a_person_sees():
    faces = two_faces()
    assert [faces.image(i).shape for i in range(2)] == [(160, 160, 3)] * 2
    found = np.bincount(load_parser("supervised").predict(faces.image(1))[0].ravel(), minlength=19)[1:]
    listed = {COMPONENTS[k] for k in np.flatnonzero(faces.labels[1])}
    assert {COMPONENTS[k] for k in np.flatnonzero(found >= 20)} - listed <= {"l_ear", "r_ear"}  # both are under hair
    assert {"ear_r", "necklace", "hat", "eye_g"}.isdisjoint(listed)


def test_the_plain_parser_gives_back_the_labels_that_it_learnt_from():
    faces = synthfaces("celeb/train").subset(range(3))
    rungs = {rung.name: rung for rung in climb(faces.weak)}
    assert list(rungs) == [*NETWORKS, *PARSERS]
    truths = np.stack([faces.label_map(i) for i in range(3)])
    plain, taught = rungs["parser, plain labels"].labels, rungs["+ TCD"].labels
    assert (plain == taught).mean() > (plain == truths).mean() > (rungs["baseline"].labels == truths).mean()
    for rung in rungs.values():
        assert rung.maps.shape == (3, 18, 160, 160) and 0 <= rung.maps.min() <= rung.maps.max() <= 1

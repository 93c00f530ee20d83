"""What systems share: labels from scores, batches, names."""

import numpy as np
import pytest
import torch
from dense_models import dense_parts, tiny_dense
from fixtures import tiny_faces

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.method.fcam import Fcam
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.systems.base import Batches, Found, found_in_fcam, found_in_probabilities
from wsfp_helpers.systems.every import SYSTEMS, find_system, make_system


def test_the_strongest_score_counts_and_the_background_may_win():
    scores = torch.tensor([[[0.9, 0.1], [0.2, 0.2]], [[0.1, 0.8], [0.1, 0.3]]])
    found = Found("x", np.array([2, 16]), scores, torch.full((2, 2), 0.25), (2, 2))
    assert found.label().tolist() == [[3, 17], [0, 17]]


def test_a_map_against_theta_is_the_pseudo_label():
    torch.manual_seed(0)
    fcam = Fcam("x", np.array([0, 4, 9]), (torch.rand(3, 5, 5), torch.rand(3, 3, 3)), (20, 20))
    assert (found_in_fcam(fcam, 0.6).label() == pseudo_label(fcam, 0.6)).all()


def test_absent_classes_are_taken_out_of_probabilities():
    probabilities = torch.zeros(19, 2, 2)
    probabilities[3], probabilities[5], probabilities[0] = 0.5, 0.3, 0.2
    labels = torch.zeros(18)
    labels[4] = 1
    found = found_in_probabilities("x", probabilities, labels, (2, 2))
    assert found.classes.tolist() == [4] and (found.label() == 5).all()


def test_every_picture_comes_once_an_epoch_and_a_step_is_the_same_again():
    faces = tiny_faces()
    batches = Batches(faces, tiny_dense().inputs, 4, 8, seed=3)
    epoch = [batches(step) for step in range(batches.per_epoch)]
    seen = np.concatenate([batch.index for batch in epoch])
    assert len(set(seen)) == len(seen) == 4 * (len(faces) // 4)
    again = batches(1)
    assert torch.equal(again.inputs, epoch[1].inputs) and (again.index == epoch[1].index).all()
    assert (batches(1).labels.numpy() == faces.labels[epoch[1].index]).all()
    assert (batches(batches.per_epoch).index != epoch[0].index).any()


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_tried_as_many_settings(name):
    system = SYSTEMS[name]
    assert len(system.tried) == len(set(map(str, system.tried))) == 4
    assert 0 <= system.chosen < 4
    fields = vars(system.tried[0])
    assert set(system.reads) <= set(fields)
    for settings in system.tried:
        make_system(name, dense_parts(), settings)


def test_an_unknown_system_is_named_with_its_neighbour():
    with pytest.raises(InputError, match="unknown system 'clipes': did you mean 'clip-es'"):
        find_system("clipes")
    assert find_system("CLIP-ES") is SYSTEMS["clip-es"]

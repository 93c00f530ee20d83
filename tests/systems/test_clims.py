"""CLIMS: its losses against plain loops, and its way through training."""

import math

import pytest
import torch
import torch.nn.functional as F
from fixtures import same, tiny_faces, tiny_vit
from system_checks import EMBEDDED, check_finds, check_gradients, check_resumes, tiny_parts

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.systems.clims import Clims, ClimsConfig, background_text, cooccurring, object_text

B, K, D = 3, 5, 4


@pytest.fixture
def case():
    """Vectors whose cosines lie on both sides of all thresholds, texts, and pairs that are rendered."""
    torch.manual_seed(0)
    v, text = F.normalize(torch.randn(B, K, D, dtype=torch.float64), dim=-1), torch.randn(K, D, dtype=torch.float64)
    rendered = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    return v, F.normalize(text, dim=-1), rendered


def pairs(rendered):
    return [(b, k) for b in range(B) for k in range(K) if rendered[b, k]]


def test_object_text_matching_equals_a_loop(case):
    v, text, rendered = case
    cosines = [float(v[b, k] @ text[k]) for b, k in pairs(rendered)]
    assert min(cosines) < 0 < max(cosines)
    terms = [-math.log(min(max(c, 1e-4), 0.9999)) for c in cosines]
    assert object_text(*case).item() == pytest.approx(sum(terms) / len(terms))


def test_background_text_matching_equals_a_loop(case):
    v, text, rendered = case
    terms = [-math.log(1 - min(max(float(v[b, k] @ text[k]), 1e-4), 0.9999)) for b, k in pairs(rendered)]
    assert background_text(*case).item() == pytest.approx(sum(terms) / len(terms))


def test_cooccurring_background_is_a_sum_over_other_texts_that_are_seen(case):
    v, text, rendered = case
    cosines = [float(v[b, k] @ text[m]) for b, k in pairs(rendered) for m in range(K) if m != k]
    assert min(cosines) < 0.26 < max(cosines)
    assert cooccurring(*case).item() == pytest.approx(sum(-math.log(1 - c) for c in cosines if c > 0.26))


def test_nothing_that_cooccurs_costs_nothing(case):
    _, _, rendered = case
    own = torch.eye(K, dtype=torch.float64)
    assert cooccurring(own.expand(B, -1, -1), own, rendered) == 0


def test_training_starts_from_the_baseline(monkeypatch):
    parts, asked = tiny_parts(), []

    def trained(*key):
        asked.append(key)
        return tiny_vit(7)

    system = Clims(tiny_parts(), ClimsConfig(), seed=3)
    system.parts = type(parts)(**{**vars(parts), "trained_vit": trained})
    monkeypatch.setattr(system, "train", lambda *_: None)
    system.fit(tiny_faces())
    assert asked == [(False, 1.0, 3)]
    assert same(system.network.vit, tiny_vit(7))


@pytest.mark.parametrize("world", [{}, EMBEDDED])
def test_gradients_reach_all_that_is_trained(world):
    check_gradients(Clims(tiny_parts(**world), ClimsConfig(renders=2)))


def test_an_interrupted_training_equals_one_that_was_not(tmp_path, monkeypatch):
    check_resumes(lambda: Clims(tiny_parts(), ClimsConfig(renders=2)), tmp_path, monkeypatch)


def test_finds_the_components_on_the_list():
    check_finds(Clims(tiny_parts(), ClimsConfig()))


def test_a_training_that_diverges_says_so():
    with pytest.raises(InputError, match="lower the learning rate"):
        Clims(tiny_parts(), ClimsConfig(otm=math.nan)).fit(tiny_faces())

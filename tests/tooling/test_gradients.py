"""The gradients by term: together they are that of the loss, and where there is no way there is no gradient."""

import pytest
import torch
from fixtures import tiny_faces, tiny_vit, tiny_vlm

from wsfp_helpers.labels import COMPONENTS, PROMPTS
from wsfp_helpers.method.tcd import Objective, TcdConfig
from wsfp_helpers.method.train import DisFaceRep
from wsfp_helpers.method.vit import Projector
from wsfp_helpers.tooling.gradients import EYES, PARTS, WIDEN, cosines, gradients, weights


@pytest.fixture(scope="module")
def case():
    """A network of two trained blocks, its loss, a batch of two pictures, and the gradients of its terms."""
    config, vlm, model = TcdConfig(), tiny_vlm(), DisFaceRep(tiny_vit(), Projector(24, 8, 16)).eval()
    torch.manual_seed(0)
    labels = torch.from_numpy(tiny_faces(2).labels).float()
    labels[:, EYES] = 1
    batch = {"input": torch.randn(2, 3, 64, 64), "picture": torch.rand(2, 3, 32, 32), "labels": labels}
    objective = Objective(config, vlm)
    return model, objective, batch, gradients(model, objective, batch, weights(config))


def test_the_terms_add_up_to_the_loss(case):
    model, objective, batch, found = case
    loss, _ = objective(*model(batch["input"]), batch["picture"], batch["labels"])
    loss.backward()
    for part, begins in PARTS.items():
        own = [each.grad.flatten() for name, each in model.named_parameters() if name.startswith(begins)]
        torch.testing.assert_close(sum(each[part] for each in found.values()), torch.cat(own), atol=1e-6, rtol=1e-4)
    model.zero_grad()


def test_class_terms_do_not_reach_the_patch_head(case):
    norms = {term: float(by_part["patch head"].norm()) for term, by_part in case[3].items()}
    reached = {term for term, norm in norms.items() if norm > 0}
    assert reached == {"patch_mlsm", "pos_ffc", "neg_ffc", "neg_bfc", "reg"}


def test_cosines_equal_loops(case):
    model, objective, batch, _ = case
    found = cosines(model, objective.vlm, batch, 0)
    with torch.no_grad():
        v_cls, text = model(batch["input"])[1], objective.vlm.text(PROMPTS)
    own, others = [], []
    for b, k in batch["labels"].nonzero().tolist():
        for m in range(len(text)):
            value = float(v_cls[b, k] @ text[m] / v_cls[b, k].norm() / text[m].norm())
            (own if m == k else others).append(value)
    assert found["v_cls", "cosine with its own text"] == pytest.approx(sum(own) / len(own), abs=1e-5)
    assert found["v_cls", "cosine with other texts"] == pytest.approx(sum(others) / len(others), abs=1e-5)
    below = sum(value <= 0 for value in others) / len(others)
    assert found["v_cls", "share of other texts not above 0"] == pytest.approx(below, abs=1e-3)


def test_the_regularisation_narrows_the_maps_of_the_eyes(case):
    assert [COMPONENTS[k] for k in EYES] == ["l_eye", "r_eye"]
    gradient = case[3]["reg"][WIDEN]
    assert gradient.shape == (2, 2, 4, 4) and (gradient > 0).all()

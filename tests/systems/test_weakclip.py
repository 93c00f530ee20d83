"""WeakCLIP: texts with a learned context against the tower's own, and the way through training."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from dense_models import batch_of, dense_parts, tiny_dense
from fixtures import same, tiny_faces
from system_checks import check_finds

from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.parsing.fit import FitConfig
from wsfp_helpers.systems import weakclip
from wsfp_helpers.systems.weakclip import LearnedTexts, WeakClip, WeakClipConfig

SMALL = WeakClipConfig(width=8)


def test_a_context_that_is_the_words_of_a_prompt_gives_the_prompts_vectors():
    dense = tiny_dense()
    clip, tokenize = dense.vlm.clip, dense.vlm.tokenize
    texts = LearnedTexts(clip, tokenize, CELEBAMASK.words, 3)
    with torch.no_grad():
        texts.context.copy_(clip.token_embedding(tokenize(["a photo of"])[0, 1:4]))
        found = texts()
    assert torch.allclose(found, dense.text([f"a photo of {word}" for word in CELEBAMASK.words]), atol=1e-5)


def test_another_context_gives_other_vectors_of_unit_length():
    dense = tiny_dense()
    torch.manual_seed(1)
    texts = LearnedTexts(dense.vlm.clip, dense.vlm.tokenize, CELEBAMASK.words, 8)()
    assert torch.allclose(texts.norm(dim=-1), torch.ones(19))
    plain = dense.text(CELEBAMASK.words)
    assert (F.cosine_similarity(texts, plain, dim=-1) < 0.999).all()


def test_similarities_are_cosines_over_the_temperature():
    system = WeakClip(dense_parts(), SMALL)
    batch = batch_of(system.dense, 8)
    with torch.no_grad():
        scores, similarity = system.read(batch)
        texts = system.texts()
    assert scores.shape == (4, 19, 8, 8) and similarity.shape == (4, 19, 4, 4)
    patches = system.dense.patches(system.dense(batch.inputs).tokens[-1])
    assert similarity[1, 3, 2, 1].item() == pytest.approx(float(patches[1, 9] @ texts[3]) / 0.07, abs=1e-4)


def test_the_identity_loss_is_that_of_the_similarities():
    system, targets = WeakClip(dense_parts(), SMALL), torch.randint(0, 19, (4, 8, 8))
    batch = batch_of(system.dense, 8)
    scores, similarity = system.read(batch)
    enlarged = F.interpolate(similarity, (8, 8), mode="bilinear")
    wanted = F.cross_entropy(scores, targets) + 0.4 * F.cross_entropy(enlarged, targets)
    assert system.loss(batch, targets).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_every_parameter_learns_and_no_frozen_one_does():
    system = WeakClip(dense_parts(), SMALL)
    system.loss(batch_of(system.dense, 8), torch.randint(0, 19, (4, 8, 8))).backward()
    for name, parameter in system.network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in system.dense.parameters())


def test_a_training_that_dies_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    monkeypatch.setattr(weakclip, "FitConfig", partial(FitConfig, save_every=4))
    whole, broken, resumed = (WeakClip(dense_parts(), SMALL, 1) for _ in range(3))
    whole.fit(tiny_faces())
    loss, steps = broken.loss, []

    def dying(batch, targets):
        steps.append(len(steps))
        if len(steps) == 6:
            raise KeyboardInterrupt
        return loss(batch, targets)

    monkeypatch.setattr(broken, "loss", dying)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(tiny_faces(), tmp_path)
    resumed.fit(tiny_faces(), tmp_path)
    assert same(whole.network, resumed.network) and not same(whole.network, broken.network)


def test_the_baseline_teaches(monkeypatch):
    asked, parts = [], dense_parts()
    trained = parts.trained_vit

    def noted(*key):
        asked.append(key)
        return trained(*key)

    object.__setattr__(parts, "trained_vit", noted)
    WeakClip(parts, SMALL, 2).fit(tiny_faces())
    assert asked == [(False, 1.0, 2)]


def test_it_finds_what_is_on_the_list():
    check_finds(WeakClip(dense_parts(), SMALL))

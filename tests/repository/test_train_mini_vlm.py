"""What the embedded image-text models are trained on: who opens label maps, and what captions say."""

import pytest
import torch

from scripts import train_mini_vlm, vlm_pictures
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK

COUNT = 12


@pytest.fixture
def faces():
    return synthfaces("celeb/pretrain").subset(range(COUNT))


@pytest.mark.parametrize("name", ["mini_flip_labels", "mini_clip"])
def test_honest_models_never_open_a_label_map(faces, name, monkeypatch):
    monkeypatch.setattr(Faces, "label_map", lambda *_: pytest.fail("a label map was opened"))
    source = train_mini_vlm.SOURCES[name](faces)
    pictures, state = source.draw(torch.Generator().manual_seed(0), 16)
    assert pictures.shape == (16, 3, vlm_pictures.SIZE, vlm_pictures.SIZE) and pictures.isfinite().all()
    assert state.shape == (16, len(source.things))


def test_the_shipped_model_opens_them(faces, monkeypatch):
    opened = []
    read = Faces.label_map
    monkeypatch.setattr(Faces, "label_map", lambda self, i: opened.append(i) or read(self, i))
    train_mini_vlm.SOURCES["mini_flip"](faces)
    assert opened == list(range(COUNT))


def test_labels_of_a_mirrored_face_change_sides(faces, monkeypatch):
    """Of a set of one face, each state is its list or, where the picture is mirrored, the list of the other side."""
    one = next(i for i in range(COUNT) if (faces.labels[i] != faces.labels[i][CELEBAMASK.flip_components]).any())
    source = vlm_pictures.LabelledFaces(faces.subset([one]).weak)
    cut, mirrored = vlm_pictures.crop, []
    monkeypatch.setattr(vlm_pictures, "crop", lambda *a, **k: mirrored.append(got := cut(*a, **k)) or got)
    _, state = source.draw(torch.Generator().manual_seed(0), 16)
    labels = torch.from_numpy(faces.labels[one]).float()
    for row, flipped in zip(state, mirrored[0][2], strict=True):
        assert row[0] == 1
        assert torch.equal(row[1:], labels[CELEBAMASK.flip_components.copy()] if flipped else labels)
    assert 0 < mirrored[0][2].sum() < 16


def test_a_caption_names_only_what_is_shown_and_knows_all_its_words(faces):
    source = vlm_pictures.Everyday(faces.weak)
    rng = torch.Generator().manual_seed(1)
    _, state = source.draw(rng, 48)
    captions, named = vlm_pictures.write_captions(rng, state, source)
    assert (state[named] == 1).all() and named.any(1).all()
    assert {word for text in captions for word in text.replace(",", "").split()} <= set(vlm_pictures.vocabulary(source))
    are_faces = state[:, 1 : len(vlm_pictures.PARTS)].any(1)
    assert 0 < are_faces.sum() < 16  # faces are rare
    assert (state[are_faces][:, len(vlm_pictures.PARTS) :] == 0).all()
    assert (state[are_faces].sum(1) <= source.most).all()


def test_a_stopped_training_goes_on_from_its_state_as_if_it_had_not_stopped(tmp_cache, monkeypatch):
    monkeypatch.setattr(train_mini_vlm, "SAVE_EVERY", 2)

    def train(stop=None):
        torch.manual_seed(0)
        model, rng, done = torch.nn.Linear(3, 1), torch.Generator().manual_seed(0), []
        optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-1, 7)
        for step, _ in train_mini_vlm.resumable("x", {"model": model}, optimiser, schedule, rng, 7, 0):
            if step == stop:
                break
            optimiser.zero_grad()
            model(torch.randn(8, 3, generator=rng)).square().mean().backward()
            optimiser.step()
            schedule.step()
            done.append(step)
        return done, model.weight.tolist()

    whole = train()
    assert whole[0] == [1, 2, 3, 4, 5, 6, 7] and not list(tmp_cache.glob("vlm/*/*"))
    assert train(stop=6)[0] == [1, 2, 3, 4, 5]
    assert train() == ([5, 6, 7], whole[1])


def test_where_nothing_is_certain_the_background_is_named(faces):
    source = vlm_pictures.LabelledFaces(faces.weak)
    captions, named = vlm_pictures.write_captions(
        torch.Generator().manual_seed(0), torch.full((3, 19), torch.nan), source
    )
    assert named[:, 0].all() and not named[:, 1:].any()
    assert all("background" in caption for caption in captions)


def test_a_caption_is_true_only_of_pictures_that_show_all_of_it():
    state = torch.tensor([[1.0, 1.0, 0.0], [1.0, torch.nan, 1.0]])
    named = torch.tensor([[True, True, False], [False, False, True], [False, True, True]])
    found = train_mini_vlm.truth(state, named)
    assert found[0].tolist() == [1.0, 0.0, 0.0]
    assert found[1].isnan().tolist() == [True, False, True] and found[1, 1] == 1.0

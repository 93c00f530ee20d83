"""Profiles: frozen, printable, from the paper where it says something, and buildable."""

import dataclasses

import pytest

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.profiles import Profile, Source, profile


@pytest.fixture(autouse=True)
def _no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path))
    monkeypatch.delenv("WSFP_DATA", raising=False)


@pytest.mark.parametrize("name", ["embedded", "frl", "paper"])
def test_a_profile_prints_all_its_fields(name):
    text = str(profile(name))
    for part in (profile(name), profile(name).train, profile(name).ccd, profile(name).fcam, profile(name).parser):
        assert all(field.name in text for field in dataclasses.fields(part))
    assert text.splitlines()[0].split() == ["name", name]


def test_a_profile_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile("embedded").theta = 0.4
    assert dataclasses.replace(profile("embedded"), theta=0.4).theta == 0.4


def test_unknown_names_are_listed():
    with pytest.raises(InputError, match="expected one of embedded, frl, paper"):
        profile("imagenet")
    with pytest.raises(InputError, match="expected one of mini_flip, mini_clip, mini_flip_labels, flip"):
        dataclasses.replace(profile("embedded"), vlm="gpt").load_vlm()


def test_what_the_paper_says():
    paper = profile("paper")
    assert (paper.model.size, paper.model.blocks, paper.model.frozen_blocks) == (448, 12, 0)
    assert (paper.train.batch_size, paper.train.lr, paper.theta) == (36, 5e-6, 0.5)
    tcd = paper.train.tcd
    weights = [tcd.alpha0, tcd.alpha1, tcd.beta0, tcd.beta1, tcd.beta2, tcd.reg]
    assert weights == [1.2, 0.2, 2.1, 0.1, 0.017, 0.05]
    assert paper.parser.network == "resnet38" and paper.detector == "groundingdino" and paper.vlm == "flip"


def test_frl_differs_from_embedded_in_what_is_tested():
    changed = dataclasses.replace(profile("frl"), name="embedded", test_data=Source("synthfaces", "celeb/test"))
    assert changed == profile("embedded") and isinstance(changed, Profile)


def test_the_embedded_world_opens_and_builds():
    embedded = profile("embedded")
    sizes = [len(source.open()) for source in (embedded.train_data, embedded.val_data, embedded.test_data)]
    assert sizes == [686, 228, 228]
    vit, again = embedded.model.build(seed=1), embedded.model.build(seed=1)
    assert len(vit.blocks) == embedded.model.blocks and vit.size == embedded.model.size
    assert all(a.equal(b) for a, b in zip(vit.parameters(), again.parameters(), strict=True))


def test_full_size_parts_say_where_they_are_looked_for(tmp_path):
    paper = profile("paper")
    for open_it in (paper.train_data.open, paper.model.build, paper.parser.build, paper.load_vlm):
        with pytest.raises(InputError, match=r"below \$WSFP_DATA"):
            open_it()

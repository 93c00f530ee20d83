"""A system's way through a run directory: trained once, read again, refused when it is another's."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixtures import tiny_faces
from system_checks import tiny_parts

from wsfp_helpers import stages
from wsfp_helpers.cli import app
from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import read_label_map
from wsfp_helpers.method.train import MODEL
from wsfp_helpers.profiles import profile
from wsfp_helpers.systems import every
from wsfp_helpers.systems.base import Found, System
from wsfp_helpers.systems.more import MoRe, MoReConfig


@dataclass(frozen=True)
class Level:
    start: float = 1.0
    background: float = 0.5


class Bias(System):
    """Learns one number and calls every pixel the first present component where it is above the background."""

    title, paper, supervision, tried, reads = "Bias", "nowhere", "I", (Level(),), ("background",)
    trainings = 0

    def __init__(self, parts, settings, seed=0):
        super().__init__(parts, settings, seed)
        self.network = torch.nn.Linear(1, 1)

    def fit(self, faces, folder=None):
        Bias.trainings += 1
        torch.nn.init.constant_(self.network.weight, self.settings.start)

    def find(self, faces):
        for key, labels in zip(faces.ids, faces.labels, strict=True):
            score = self.network.weight.detach().expand(1, 4, 4)
            back = torch.full((4, 4), self.settings.background)
            yield Found(key, labels.nonzero()[0][:1], score, back, (8, 8))


@pytest.fixture
def bias(monkeypatch):
    Bias.trainings = 0
    monkeypatch.setitem(every.SYSTEMS, "bias", Bias)
    return profile("embedded")


def test_a_system_is_trained_once_and_read_again(bias, tmp_path):
    first, out = stages.run_system("bias", bias, tmp_path, seed=1)
    again, same = stages.run_system("bias", bias, tmp_path, seed=1, settings=Level(background=2.0))
    assert out == same and Bias.trainings == 1  # the background only says how it is read
    assert torch.equal(again.network.weight, first.network.weight)
    other = stages.run_system("bias", bias, tmp_path, seed=2)[1]
    third = stages.run_system("bias", bias, tmp_path, seed=1, settings=Level(start=3.0))[1]
    assert len({out, other, third}) == 3 and Bias.trainings == 3


def test_a_system_without_weights_has_one_run_for_all_seeds(bias, tmp_path, monkeypatch):
    monkeypatch.setattr(Bias, "__init__", System.__init__)
    monkeypatch.setattr(Bias, "fit", lambda self, faces, folder=None: None)
    assert len({stages.run_system("bias", bias, tmp_path, seed=seed)[1] for seed in (0, 1, 2)}) == 1


def test_weights_of_another_system_are_refused(bias, tmp_path):
    _, out = stages.run_system("bias", bias, tmp_path)
    save_weights(out / MODEL, {"other.weight": torch.zeros(3)})
    with pytest.raises(InputError, match=r"is of another network.*train bias again"):
        stages.run_system("bias", bias, tmp_path)


def test_a_run_directory_of_another_system_is_refused(bias, tmp_path):
    _, out = stages.run_system("bias", bias, tmp_path)
    config = out / "config.json"
    config.write_text(config.read_text().replace('"system": "bias"', '"system": "clims"'))
    with pytest.raises(InputError, match="'clims', this one has 'bias'"):
        stages.run_system("bias", bias, tmp_path)


def test_label_maps_that_are_there_are_kept_and_settings_have_their_own(bias, tmp_path, monkeypatch):
    system, out = stages.run_system("bias", bias, tmp_path)
    faces = tiny_faces(3)
    labels = stages.label_faces(system, faces, out)
    for i, key in enumerate(faces.ids):
        assert (read_label_map(labels / f"{key}.png", 19) == faces.labels[i].nonzero()[0][0] + 1).all()
    (labels / f"{faces.ids[1]}.png").unlink()
    asked = []
    find = system.find
    monkeypatch.setattr(system, "find", lambda some: asked.extend(some.ids) or find(some))
    assert stages.label_faces(system, faces, out) == labels and asked == [faces.ids[1]]
    empty, _ = stages.run_system("bias", bias, tmp_path, settings=Level(background=2.0))
    others = stages.label_faces(empty, faces, out)
    assert others != labels and not np.any(read_label_map(others / f"{faces.ids[0]}.png", 19))


def test_training_is_given_no_label_map(bias, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(Bias, "fit", lambda self, faces, folder=None: given.append(faces))
    stages.run_system("bias", bias, tmp_path)
    assert not hasattr(given[0], "label_map") and not hasattr(given[0], "read_map")


def test_the_command_trains_one_system_and_prints_the_folder_of_its_labels(bias, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("wsfp_helpers.profiles.Source.open", lambda self: SimpleNamespace(weak=tiny_faces(3)))
    app(["systems", "train", "bias", "--work", str(tmp_path)], standalone_mode=False)
    folder = Path(capsys.readouterr().out.strip())
    assert folder.is_relative_to(tmp_path) and len(list(folder.glob("*.png"))) == 3 and Bias.trainings == 1


@pytest.mark.parametrize(("name", "slow", "fast"), [("embedded", 2e-4, 2e-3), ("paper", 5e-6, 5e-6)])
def test_each_profile_trains_other_systems_as_fast_as_its_own(name, slow, fast, monkeypatch):
    given = []
    monkeypatch.setattr("wsfp_helpers.systems.base.optimise", lambda _, __, config, **___: given.append(config))
    config = profile(name)
    parts = replace(
        tiny_parts(), pace=config.train.lr / profile("embedded").train.lr, backbone_lr=config.train.backbone_lr
    )
    system = MoRe(parts, MoReConfig())
    system.fit(tiny_faces())
    assert given[0].lr == pytest.approx(slow) and given[0].lr * given[0].head_factor == pytest.approx(fast)

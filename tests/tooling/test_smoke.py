"""`wsfp smoke`: what it links, what it replaces and says so, and rendered faces in CelebAMask-HQ's form.

That the stages run from one end to the other is shown by tests/repository/test_full_size.py.
"""

import os

import numpy as np
import pytest
from typer.testing import CliRunner

from wsfp_helpers import cli
from wsfp_helpers.data.celebamask import celebamask
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.profiles import BERT, DEIT, FLIP, GROUNDING_DINO, profile
from wsfp_helpers.tooling import smoke
from wsfp_helpers.tooling.smoke import RANDOM_DINO, full_size_trial
from wsfp_helpers.tooling.verify import verify


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """No data and no weights, and random ones that take no time."""
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WSFP_DATA", str(tmp_path / "mine"))
    for name in ("_random_deit", "_random_flip", "_random_dino"):
        monkeypatch.setattr(smoke, name, lambda path: path.write_bytes(b"random"))
    monkeypatch.setattr(smoke, "save_halved", lambda path, *_: path.write_bytes(b"random"))
    monkeypatch.setattr(smoke, "ResNet38", lambda: None)
    return tmp_path


def test_what_is_missing_is_replaced_and_said(empty):
    with full_size_trial(empty / "data", 10, profile("paper")) as trial:
        assert os.environ["WSFP_DATA"] == str(empty / "data")
        assert {part: len(trial.config.faces(part)) for part in ("train", "val", "test")} == {
            "train": 8, "val": 1, "test": 1,
        }  # fmt: skip
        assert trial.detector == empty / "data" / RANDOM_DINO
    assert os.environ["WSFP_DATA"] == str(empty / "mine")
    text = "\n".join(trial.replaced)
    assert len(trial.replaced) == 5 and text.count("random weights") == 4 and "rendered faces" in text


def test_what_is_there_is_linked_and_not_changed(empty):
    for place in (DEIT, FLIP, GROUNDING_DINO, BERT):
        (empty / "mine" / place).parent.mkdir(parents=True, exist_ok=True)
        (empty / "mine" / place).write_bytes(b"real")
    with full_size_trial(empty / "data", 3, profile("paper")) as trial:
        assert trial.detector is None and (empty / "data" / DEIT).read_bytes() == b"real"
        assert [place for place in (DEIT, FLIP) if place in "\n".join(trial.replaced)] == []
    assert len(trial.replaced) == 2  # ResNet38 and the pictures


def test_rendered_faces_have_the_form_of_celebamask_hq(empty):
    with full_size_trial(empty / "data", 5, profile("paper")):
        pass
    root, rendered = empty / "data" / "CelebAMask-HQ", synthfaces("celeb/train")
    report = verify(root)
    assert {fault.kind for fault in report.faults} == {"lists"}  # the counts, and nothing else
    faces = celebamask(root, "train", counts=None)
    assert faces.ids == ("0", "1", "2") and faces.image(0).shape == (1024, 1024, 3)
    for i in range(3):
        ours, theirs = faces.label_map(i), rendered.label_map(i)
        near = np.linspace(0, theirs.shape[0] - 1, 9)[1:-1].round().astype(int)
        far = np.clip(((near + 0.5) * 512 / theirs.shape[0]).astype(int), 0, 511)
        assert (ours[np.ix_(far, far)] == theirs[np.ix_(near, near)]).mean() > 0.9
        assert set(faces.labels[i].nonzero()[0] + 1) == {value for value in np.unique(theirs) if 0 < value < 19}


def test_only_the_paper_profile_needs_one(tmp_path):
    result = CliRunner().invoke(cli.app, ["smoke", "--profile", "embedded", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and "expected paper" in result.stderr and not (tmp_path / "out").exists()

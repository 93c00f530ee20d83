"""The capstone: a rule is scored and kept, and one that makes no label map is refused in a sentence."""

import json

import numpy as np
import pytest

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.notebook import capstone

NECK, SKIN = CELEBAMASK.index("neck"), CELEBAMASK.index("skin")


@pytest.fixture(autouse=True)
def two_faces(monkeypatch):
    """Material of two faces whose pseudo label is the truth, but with the neck on all of the skin."""
    faces = synthfaces("celeb/val").subset([0, 1])
    labels = tuple(np.where(faces.label_map(i) == SKIN, NECK, faces.label_map(i)) for i in range(2))
    boxes = ({"mouth": (50.0, 100.0, 90.0, 115.0)}, {})
    given = capstone.Material(faces, labels, boxes)
    monkeypatch.setattr(capstone, "material", lambda: given)
    return given


def mend(label, boxes, y):
    if "mouth" in boxes:
        label[:115][label[:115] == NECK] = SKIN
    return label


def test_a_rule_is_scored_by_class_and_kept(tmp_path, capsys):
    board = tmp_path / "scores.json"
    before = capstone.score(lambda label, boxes, y: label, "nothing", board)
    after = capstone.score(mend, "mend", board)
    assert after.per_class["skin"] > before.per_class["skin"] + 20 and after.mean_f1 > before.mean_f1
    assert [entry["name"] for entry in json.loads(board.read_text())] == ["mend", "nothing"]
    text = capsys.readouterr().out
    assert "nothing changes" in text and "skin +" in text and "1. " in text.split("mend: mean F1")[1]


def test_the_same_name_again_replaces_its_entry(tmp_path):
    board = tmp_path / "scores.json"
    capstone.score(lambda label, boxes, y: label, "me", board)
    better = capstone.score(mend, "me", board)
    (entry,) = json.loads(board.read_text())
    assert entry["mean_f1"] == pytest.approx(better.mean_f1)


def test_a_rule_cannot_spoil_what_the_next_one_gets(two_faces):
    kept = two_faces.labels[0].copy(), two_faces.faces.labels.copy(), dict(two_faces.boxes[0])

    def vandal(label, boxes, y):
        label[:], y[:] = 0, 0
        boxes.clear()
        return label

    capstone.apply(vandal)
    assert (two_faces.labels[0] == kept[0]).all() and (two_faces.faces.labels == kept[1]).all()
    assert two_faces.boxes[0] == kept[2]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda label, boxes, y: None, "NoneType"),
        (lambda label, boxes, y: label[:80], r"\(80, 160\).*expected \(160, 160\)"),
        (lambda label, boxes, y: label.astype(int) + 10, "ids outside 0 to 18"),
    ],
)
def test_what_is_no_label_map_is_refused(rule, words, tmp_path):
    with pytest.raises(InputError, match=words):
        capstone.score(rule, "me", tmp_path / "scores.json")
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else_is_no_scoreboard(tmp_path):
    board = tmp_path / "scores.json"
    board.write_text('{"a": 1}')
    with pytest.raises(InputError, match="not a scoreboard"):
        capstone.score(mend, "me", board)
    assert board.read_text() == '{"a": 1}'


@pytest.mark.parametrize("entry", ['{"name": "a", "mean_f1": "x"}', '{"name": "a", "mean_f1": null}', '{"name": "a"}'])
def test_a_scoreboard_that_was_edited_is_named(entry, tmp_path):
    board = tmp_path / "scores.json"
    board.write_text(f"[{entry}]")
    with pytest.raises(InputError, match="not a scoreboard"):
        capstone.score(mend, "me", board)

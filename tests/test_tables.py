"""Tables 1 and 2: every parser on every set, in the classes of the set, kept and not computed twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsfp_helpers import tables
from wsfp_helpers.colour import PALETTE
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.evaluate import Scores
from wsfp_helpers.labels import CELEBAMASK, LAPA
from wsfp_helpers.parser import load_parser
from wsfp_helpers.profiles import Source, profile
from wsfp_helpers.results import read_results
from wsfp_helpers.storage import InputError, write_index_png
from wsfp_helpers.trunk import Trunk

COUNT = 4


class Oracle:
    """A parser that knows the truth of all faces, or with ``mirrored`` says the other side."""

    def __init__(self, mirrored=False):
        self.truth, self.asked, self.mirrored = {}, 0, mirrored
        for split in ("celeb/val", "celeb/test", "lapa/test", "helen/test"):
            faces = synthfaces(split).subset(range(COUNT))
            self.truth |= {faces.image(i).tobytes(): faces.label_map(i) for i in range(COUNT)}

    def answer(self, image):
        self.asked += 1
        truth = self.truth[image.tobytes()]
        exchange = np.arange(256, dtype=np.uint8)
        exchange[[4, 5, 6, 7, 8, 9]] = [5, 4, 7, 6, 9, 8]
        return exchange[truth] if self.mirrored else truth

    def predict(self, image):
        answer = self.answer(image)
        return answer, np.ones(answer.shape, np.float32)

    def probabilities(self, pictures, tokens):
        maps = torch.from_numpy(np.stack([self.answer(picture) for picture in pictures]))
        return F.one_hot(maps.long(), len(CELEBAMASK)).movedim(-1, 1)

    trunk = None


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Few faces, no copy of FRL London, results below the test's folder, and oracles instead of trained parsers."""
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WSFP_DATA", raising=False)
    monkeypatch.setattr(Source, "open", lambda self: synthfaces(self.split).subset(range(COUNT)))
    write = tables.write_results
    monkeypatch.setattr(tables, "write_results", lambda *arguments: write(*arguments[:3], tmp_path / "results"))
    oracles = {tables.BASELINE: Oracle(mirrored=True), tables.FULL: Oracle(), tables.SUPERVISED: Oracle()}
    monkeypatch.setattr(tables, "features", lambda pictures, trunk: torch.zeros(len(pictures)))

    def parser(self, method, seed):
        folder = tmp_path / f"{method[:5]}{seed}"
        folder.mkdir(exist_ok=True)
        (folder / "parser.safetensors").write_bytes(weights)
        return oracles[method], folder

    weights = b"a parser"
    monkeypatch.setattr(tables.Study, "parser", parser)

    def labels(self, method, seed):
        faces = self.config.faces("train")
        for i, key in enumerate(faces.ids):
            write_index_png(tmp_path / "labels" / f"{key}.png", faces.label_map(i), PALETTE)
        return tmp_path / "labels"

    monkeypatch.setattr(tables.Study, "labels", labels)
    return oracles, tmp_path


def rows(name, folder, metric="mean_f1"):
    content = read_results(name, folder / "results")
    assert len({row["name"] for row in content["rows"]}) == len(content["rows"])
    return {row["name"]: row for row in content["rows"] if row["metric"] == metric}


def test_table_1_scores_masks_and_parsers(study):
    oracles, folder = study
    tables.table1(profile("embedded"), {}, (0, 1))
    found = rows("table1", folder)
    assert list(found) == [
        f"{tables.BASELINE}: pseudo masks", f"{tables.FULL}: pseudo masks",
        *(f"{method}: {part}" for method in oracles for part in ("val", "test")),
    ]  # fmt: skip
    assert found[f"{tables.FULL}: pseudo masks"]["seeds"] == found[f"{tables.FULL}: val"]["seeds"] == [100, 100]
    mirrored = found[f"{tables.BASELINE}: test"]
    assert mirrored["per_class"]["l_eye"] == [0, 0] and mirrored["per_class"]["nose"] == [100, 100]


def test_table_2_is_in_eleven_classes_by_place(study):
    _, folder = study
    tables.table2(profile("embedded"), {}, (3,))
    found = rows("table2", folder)
    assert [name.split(": ")[1] for name in found] == ["LaPa-like", "Helen-like"] * 3
    assert found[f"{tables.FULL}: LaPa-like"]["seeds"] == [100]
    assert list(found[f"{tables.FULL}: LaPa-like"]["per_class"]) == list(LAPA.components)
    assert found[f"{tables.BASELINE}: Helen-like"]["per_class"]["left_eyebrow"] == [0]


def test_a_score_is_not_computed_twice(study):
    oracles, folder = study
    tables.table2(profile("embedded"), {}, (0,))
    asked = oracles[tables.FULL].asked
    before = json.loads((folder / "results" / "table2.json").read_text())
    tables.table2(profile("embedded"), {}, (0,))
    assert oracles[tables.FULL].asked == asked == 3 * COUNT
    assert json.loads((folder / "results" / "table2.json").read_text())["rows"] == before["rows"]


def test_a_parser_that_was_trained_again_is_scored_again(study, monkeypatch):
    oracles, folder = study
    faces = synthfaces("celeb/val").subset(range(COUNT))
    study = tables.Study(profile("embedded"), {}, folder)
    study.matrices(tables.FULL, (0,), faces)
    again = folder / "DisFa0" / "parser.safetensors"
    monkeypatch.setattr(
        tables.Study, "parser", lambda *_: (oracles[tables.BASELINE], again.write_bytes(b"other") and again.parent)
    )
    matrices = study.matrices(tables.FULL, (0,), faces)
    assert oracles[tables.BASELINE].asked == COUNT
    assert Scores(matrices[0].sum(0)).per_class["l_eye"] == 0


def test_every_row_has_its_interval(study):
    _, folder = study
    tables.table2(profile("embedded"), {}, (0, 1))
    found = rows("table2", folder)
    assert list(rows("table2", folder, "mean_f1_low")) == [f"{name} [95 % low]" for name in found]
    assert list(rows("table2", folder, "mean_f1_high")) == [f"{name} [95 % high]" for name in found]


def test_groups_are_written_with_table_2(study):
    _, folder = study
    tables.table2(profile("embedded"), {}, (0, 1))
    found = rows("groups", folder)
    tones = synthfaces("celeb/test").subset(range(COUNT)).attributes["skin_tone"].astype(float)
    for low, high in ((0, 2), (2, 4), (4, 6), (6, 10)):
        count = sum(low <= tone < high for tone in tones)
        names = [name for name in found if f"{tables.FULL}, SynthFaces test, skin tone = {low} to {high} (" in name]
        assert len(names) == bool(count)
        assert all(f"(n = {count}: too few to compare)" in name for name in names)
    assert all(row["seeds"] == [100, 100] for name, row in found.items() if tables.FULL in name)


def test_groups_of_real_people():
    faces = synthfaces("celeb/test").subset(range(COUNT))
    faces.attributes = {"age": [1] * 4, "age_band": list("abcd"), "gender": list("ffmf"), "ethnicity": list("wxyz")}
    groups = tables.groups_of(faces)
    assert list(groups) == ["gender", "age band", "ethnicity"] and list(groups["gender"]) == list("ffmf")


def test_tokens_of_the_cache_give_what_a_parser_answers_by_itself(tmp_path, monkeypatch):
    """Two pictures in two batches, against a whole forward pass for each picture."""
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path))
    parser, faces = load_parser("supervised"), synthfaces("lapa/test").subset(range(2))
    fast = np.stack(list(tables.framed(parser, faces, 1)))
    slow = np.stack([parser.probabilities(faces.image(i)[None])[0].argmax(0).numpy() for i in range(2)])
    assert fast.shape == slow.shape and len(np.unique(slow)) > 10
    assert (fast == slow).mean() > 0.998  # tokens are kept at half precision
    monkeypatch.setattr(Trunk, "forward", lambda *_: pytest.fail("computed again"))
    assert (np.stack(list(tables.framed(parser, faces, 2))) == fast).mean() > 0.9999


def test_real_photographs_are_looked_at_as_parse_does_and_scored_in_what_their_points_outline(study, monkeypatch):
    _, folder = study
    monkeypatch.setattr(Oracle, "probabilities", lambda *_: pytest.fail("looked at as a rendered face"))
    faces = synthfaces("celeb/test").subset(range(COUNT))
    faces.name = "FRL London"
    found = tables.Study(profile("embedded"), {}, folder).matrices(tables.FULL, (0, 2), faces)
    assert found.shape == (2, COUNT, 19, 19)
    scores = Scores(found[1].sum(0), scored=tables.scored(faces))
    assert "hair" not in scores.per_class and scores.mean_f1 == 100


def test_the_tables_are_of_the_embedded_world():
    other = replace(profile("embedded"), train_data=Source("celebamask", "train"))
    with pytest.raises(InputError, match="trains on synthfaces"):
        tables.Study(other, {})

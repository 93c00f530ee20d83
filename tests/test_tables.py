"""Tables 1 and 2: every parser on every set, in the classes of the set, kept and not computed twice."""

from dataclasses import replace

import numpy as np
import pytest

from wsfp_helpers import tables
from wsfp_helpers.colour import PALETTE
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.evaluate import Scores
from wsfp_helpers.labels import LAPA
from wsfp_helpers.profiles import Source, profile
from wsfp_helpers.results import read_results
from wsfp_helpers.storage import InputError, write_index_png

COUNT = 4


class Oracle:
    """A parser that knows the truth of all faces, or with ``mirrored`` says the other side."""

    def __init__(self, mirrored=False):
        self.truth, self.asked, self.mirrored = {}, 0, mirrored
        for split in ("celeb/val", "celeb/test", "lapa/test", "helen/test"):
            faces = synthfaces(split).subset(range(COUNT))
            self.truth |= {faces.image(i).tobytes(): faces.label_map(i) for i in range(COUNT)}

    def predict(self, image):
        self.asked += 1
        truth = self.truth[image.tobytes()]
        exchange = np.arange(256, dtype=np.uint8)
        exchange[[4, 5, 6, 7, 8, 9]] = [5, 4, 7, 6, 9, 8]
        return (exchange[truth] if self.mirrored else truth), np.ones(truth.shape, np.float32)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Few faces, no copy of FRL London, results below the test's folder, and oracles instead of trained parsers."""
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WSFP_DATA", raising=False)
    monkeypatch.setattr(Source, "open", lambda self: synthfaces(self.split).subset(range(COUNT)))
    write = tables.write_results
    monkeypatch.setattr(tables, "write_results", lambda *arguments: write(*arguments, tmp_path / "results"))
    oracles = {tables.BASELINE: Oracle(mirrored=True), tables.FULL: Oracle(), tables.SUPERVISED: Oracle()}
    monkeypatch.setattr(
        tables.Study, "parser", lambda self, method, seed: (oracles[method], tmp_path / f"{method[:5]}{seed}")
    )

    def labels(self, method, seed):
        faces = self.config.faces("train")
        for i, key in enumerate(faces.ids):
            write_index_png(tmp_path / "labels" / f"{key}.png", faces.label_map(i), PALETTE)
        return tmp_path / "labels"

    monkeypatch.setattr(tables.Study, "labels", labels)
    return oracles, tmp_path


def rows(name, folder):
    return {row["name"]: row for row in read_results(name, folder / "results")["rows"]}


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
    before = (folder / "results" / "table2.json").read_text()
    tables.table2(profile("embedded"), {}, (0,))
    assert oracles[tables.FULL].asked == asked == 2 * COUNT
    assert '"mean_f1"' in before


def test_real_photographs_are_scored_in_what_their_points_outline(study):
    _, folder = study
    faces = synthfaces("celeb/test").subset(range(COUNT))
    faces.name = "FRL London"
    found = tables.Study(profile("embedded"), {}, folder).score(tables.FULL, 0, "FRL London (real)", faces, None)
    assert isinstance(found, Scores) and "hair" not in found.per_class and found.mean_f1 == 100


def test_the_tables_are_of_the_embedded_world():
    other = replace(profile("embedded"), train_data=Source("celebamask", "train"))
    with pytest.raises(InputError, match="trains on synthfaces"):
        tables.Study(other, {})

"""The ablations: which weights a row has, rows trained once, label maps opened only after training."""

from dataclasses import asdict, replace

import pytest

from wsfp_helpers import ablate as module
from wsfp_helpers.ablate import FIG6, Row, ablate, fig6, folder_of, measure, table3, table4, variants, vlm, write_table
from wsfp_helpers.data.base import Faces
from wsfp_helpers.profiles import profile
from wsfp_helpers.results import check_pages, read_results
from wsfp_helpers.storage import InputError
from wsfp_helpers.train import DisFaceRep, save_model

WEIGHTS = ("alpha0", "alpha1", "beta0", "beta1", "beta2", "reg")
PAPER = dict(zip(WEIGHTS, (1.2, 0.2, 2.1, 0.1, 0.017, 0.05), strict=True))


def test_rows_of_table_3():
    base, ccd, full = table3(profile("embedded"))
    assert (base.ccd, base.tcd) == (False, None)
    assert (ccd.ccd, ccd.tcd) == (True, None)
    assert (full.ccd, full.tcd) == (True, profile("embedded").train.tcd)


def test_rows_of_table_4_add_one_term_each():
    """The ticks of the paper's Table 4, in its order."""
    order = ("alpha0", "alpha1", "beta0", "beta1", "beta2", "reg")
    rows = table4(profile("embedded"))
    for i, row in enumerate(rows):
        assert row.ccd
        assert {name for name in WEIGHTS if getattr(row.tcd, name)} == set(order[: i + 1])
        assert all(getattr(row.tcd, name) in (0.0, PAPER[name]) for name in WEIGHTS)
    assert rows[-1].tcd == profile("embedded").train.tcd


def test_fig6_changes_one_weight_at_a_time():
    for row in fig6(profile("embedded")):
        changed = {name for name in WEIGHTS if getattr(row.tcd, name) != PAPER[name]}
        assert len(changed) <= 1
    assert all(PAPER[name] in values for name, values in FIG6.items())


@pytest.fixture
def log(monkeypatch, tmp_cache):
    """Trainings and openings of label maps in their order; a training saves the network as it was built."""
    events = []

    def train(vit, faces, config, run, vlm):
        assert not isinstance(faces, Faces)
        events.append(("train", config.tcd is not None, vlm is not None, config.seed))
        save_model(DisFaceRep(vit), run / "model.safetensors")

    opened = Faces.label_map
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(Faces, "label_map", lambda self, i: events.append(("map", i)) or opened(self, i))
    return events


@pytest.fixture
def config():
    """The embedded profile at 64 px: maps of 4 x 4 tokens."""
    embedded = profile("embedded")
    return replace(embedded, model=replace(embedded.model, size=64))


def boxes():
    from wsfp_helpers.detect.boxes import shipped_boxes

    return shipped_boxes("celeb/train")


def test_a_row_is_trained_once_and_maps_are_opened_after_it(log, config, tmp_path):
    full = table3(config)[2]
    first = measure(full, config, boxes(), 0, tmp_path, 2)
    assert [event[0] for event in log] == ["train", "map", "map"]
    assert log[0] == ("train", True, True, 0)
    assert first.images == 2 and first.matrix.sum() == 2 * 160 * 160
    log.clear()
    again = measure(table4(config)[-1], config, boxes(), 0, tmp_path, 2)
    assert (again.matrix == first.matrix).all() and log == []
    measure(full, config, boxes(), 1, tmp_path, 2)
    assert log[0] == ("train", True, True, 1)


def test_variants_share_one_training(log, config, tmp_path):
    rows = variants(config)
    assert len({str(asdict(row)) for row in rows}) == 6
    for row in rows[:3]:
        measure(row, config, boxes(), 0, tmp_path, 1)
    assert [event[0] for event in log] == ["train", "map", "map", "map"]


def test_a_table_is_written_with_one_value_a_seed(log, config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_results", lambda *args: write_results(*args[:3], folder=tmp_path / "docs"))
    from wsfp_helpers.results import write_results

    scores = ablate("table3", config, boxes(), (0, 1), tmp_path, 1)
    write_table("table3", scores, (0, 1), config)
    rows = read_results("table3", tmp_path / "docs")["rows"]
    assert [row["name"] for row in rows] == ["Base.", "Base. + CCD", "Base. + CCD + TCD"]
    assert all(len(row["seeds"]) == 2 and row["metric"] == "mean_f1" for row in rows)
    assert check_pages(tmp_path / "docs") == []


def test_another_profile_has_its_own_models_subset_and_folder(config):
    """Section 4.3.4 compares CLIP with FLIP; 4.1.1 scores 3,820 training pictures."""
    assert [(row.name, row.vlm) for row in vlm(config)] == [
        ("mini-CLIP (general)", "mini_clip"), ("mini-FLIP (faces)", "mini_flip"),
    ]  # fmt: skip
    paper = profile("paper")
    assert [(row.name, row.vlm) for row in vlm(paper)] == [("CLIP (general)", "clip"), ("FLIP (faces)", "flip")]
    assert module.SUBSETS[paper.train_data.name] == 3_820 and module.SUBSETS[config.train_data.name] == 686 // 3 + 1
    assert folder_of(config) != folder_of(paper)


def test_unknown_table(config):
    with pytest.raises(InputError, match="unknown ablation 'table5'"):
        ablate("table5", config, {})


def test_baseline_needs_no_image_text_model(log, config, tmp_path):
    measure(Row("Base.", ccd=False), config, boxes(), 0, tmp_path, 1)
    assert log[0] == ("train", False, False, 0)

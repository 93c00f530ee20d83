"""The ablations: which weights a row has, rows trained once, label maps opened only after training."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from wsfp_helpers import stages
from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.configs import differences, plain
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.boxes import SHIPPED_BOXES
from wsfp_helpers.method.train import DisFaceRep
from wsfp_helpers.profiles import profile
from wsfp_helpers.score.confusion import Scores
from wsfp_helpers.stages import load_run
from wsfp_helpers.tooling import results
from wsfp_helpers.tooling.ablate import (
    FIG6,
    THETAS,
    TUNED,
    Row,
    ablate,
    blocks,
    eyes,
    fig6,
    measure,
    mended,
    read_scores,
    start,
    sums,
    sweep,
    table3,
    table4,
    tuned,
    variants,
    vlm,
    write_table,
)
from wsfp_helpers.tooling.results import COLUMNS, check_pages, read_results

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


def test_rows_with_sums_are_those_of_table_4():
    """Only what is added up differs, and the sum over present components stays a mean."""
    table, embedded = {row.name: row.tcd for row in table4(profile("embedded"))}, profile("embedded")
    for row in sums(embedded):
        name, reduction = row.name.split(", ")
        assert row.ccd and row.tcd.reduction == {"sums over l": "sum_texts", "means over l": "mean"}[reduction]
        assert replace(row.tcd, reduction="mean") == table[{"all terms": "+ reg"}.get(name, name)]


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
        assert type(faces) is WeakFaces
        events.append(("train", config.tcd is not None, vlm is not None, config.seed))
        save_weights(run / "model.safetensors", DisFaceRep(vit).state_dict())

    opened = Faces.label_map
    monkeypatch.setattr(stages, "train", train)
    monkeypatch.setattr(Faces, "label_map", lambda self, i: events.append(("map", i)) or opened(self, i))
    return events


@pytest.fixture
def config():
    """The embedded profile at 64 px: maps of 4 x 4 tokens."""
    embedded = profile("embedded")
    return replace(embedded, model=replace(embedded.model, size=64))


def test_a_row_is_trained_once_and_maps_are_opened_after_it(log, config, tmp_path):
    full = table3(config)[2]
    first = measure(full, config, "shipped", 0, tmp_path, 2)
    assert [event[0] for event in log] == ["train", "map", "map"]
    assert log[0] == ("train", True, True, 0)
    assert first.images == 2 and first.matrix.sum() == 2 * 160 * 160
    log.clear()
    again = measure(table4(config)[-1], config, "shipped", 0, tmp_path, 2)
    assert (again.matrix == first.matrix).all() and log == []
    measure(full, config, "shipped", 1, tmp_path, 2)
    assert log[0] == ("train", True, True, 1)


def test_what_a_training_depends_on_is_not_shared(log, config, tmp_path):
    base, _, full = table3(config)
    again = tmp_path / "same.jsonl"
    again.write_bytes(SHIPPED_BOXES["celeb/train"].read_bytes())
    measure(full, config, "shipped", 0, tmp_path, 1)
    measure(full, config, again, 0, tmp_path, 1)  # another file, whatever is in it
    measure(full, replace(config, theta=0.4), "shipped", 0, tmp_path, 1)
    measure(full, replace(config, name="mine"), "shipped", 0, tmp_path, 1)
    measure(base, config, "shipped", 0, tmp_path, 1)
    measure(base, config, again, 0, tmp_path, 1)  # the baseline uses no boxes
    assert [event[0] for event in log if event[0] == "train"] == ["train"] * 5


def test_variants_share_one_training(log, config, tmp_path):
    rows = variants(config)
    assert len({str(asdict(row)) for row in rows}) == 6
    for row in rows[:3]:
        measure(row, config, "shipped", 0, tmp_path, 1)
    assert [event[0] for event in log] == ["train", "map", "map", "map"]


@pytest.mark.parametrize(
    "content",
    [
        [], {}, 3, {"matrix": None}, {"matrix": "x"}, {"matrix": [[1] * 19] * 18}, {"matrix": [[0.5] * 19] * 19},
        {"matrix": [[-1] * 19] * 19}, {"matrix": [["1"] * 19] * 19}, {"matrix": [[1] * 19] * 18 + [[1]]},
        {"matrix": [[10**400] * 19] * 19}, {"matrix": [[True] * 19] * 19},
    ],
    ids=lambda content: str(content)[:30],
)  # fmt: skip
def test_scores_edited_by_hand_are_refused(tmp_path, content):
    (tmp_path / "known.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"known\.json does not hold a confusion matrix of 19 classes: remove it"):
        read_scores(tmp_path / "known.json", 3)


def test_settings_are_swept_on_val_with_one_training_each(log, config, tmp_path):
    """The same trainings and thresholds for each line of Table 3; another threshold reads the same maps."""
    rows = sweep(config)
    assert {row.part for row in rows} == {"val"}
    offers = [
        {(tuple(r.train.items()), r.theta) for r in rows if (r.ccd, r.tcd) == (t.ccd, t.tcd)} for t in table3(config)
    ]
    assert offers[0] == offers[1] == offers[2] and len(rows) == 3 * len(offers[0])
    scores = [measure(row, config, "shipped", 0, tmp_path, 2) for row in rows[: len(THETAS) + 1]]
    assert [event[0] for event in log if event[0] == "train"] == ["train"] * 2
    background = [each.matrix[:, 0].sum() for each in scores[: len(THETAS)]]
    assert background == sorted(background) and background[0] < background[-1]
    known = {path.name.split("_")[0] for path in tmp_path.glob("*/*.json")} - {"config.json"}
    assert known == {"val"}


def test_a_table_is_written_with_one_value_per_seed(log, config, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "knows_revision", lambda name: True)
    scores = ablate("table3", config, "shipped", (0, 1), tmp_path, 1)
    write_table("table3", scores, (0, 1), config, tmp_path / "docs")
    rows = read_results("table3", tmp_path / "docs")["rows"]
    assert [row["name"] for row in rows] == ["Base.", "Base. + CCD", "Base. + CCD + TCD"]
    assert all(len(row["seeds"]) == 2 and row["metric"] == "mean_f1" for row in rows)
    assert check_pages(tmp_path / "docs") == []


def test_tuned_rows_are_rows_of_the_sweep_on_the_training_subset():
    config = profile("embedded")
    offered = [replace(row, name="", part="train") for row in sweep(config)]
    rows = tuned(config)
    assert [(row.ccd, row.tcd) for row in rows] == [(row.ccd, row.tcd) for row in table3(config)]
    assert all(replace(row, name="") in offered for row in rows)


def test_what_is_tuned_is_best_in_the_sweep():
    found = {row["name"]: row["seeds"][0] for row in read_results("sweep")["rows"]}
    for line, (setting, theta) in TUNED.items():
        own = {name: value for name, value in found.items() if name.startswith(f"{line}, ")}
        assert max(own, key=own.get) == f"{line}, {setting}, theta {theta}"


def test_the_area_of_the_eyes_is_a_row_of_its_own(tmp_path):
    """20 pixels are called an eye, 8 are one: it is the same area whichever of them are right."""
    matrix = np.zeros((19, 19), int)
    matrix[0, 4], matrix[1, 5], matrix[4, 4], matrix[5, 4], matrix[4, 0] = 9, 5, 4, 2, 2
    write_table("eyes", {"full": [Scores(matrix), Scores(2 * matrix)]}, (0, 1), profile("embedded"), tmp_path)
    area = read_results("eyes", tmp_path)["rows"][1]
    assert (area["name"], area["metric"], area["seeds"]) == ("full: area of the eyes", "area", [20 / 8, 20 / 8])


def test_eyes_are_looked_at_on_val_and_only_the_regulariser_grows():
    ccd, foreground, *stronger = eyes(profile("embedded"))
    assert ccd.tcd is None and {name for name in WEIGHTS if getattr(foreground.tcd, name)} == {"alpha0", "alpha1"}
    assert all(replace(row.tcd, reg=0.05) == profile("embedded").train.tcd for row in stronger)
    assert [row.tcd.reg for row in stronger] == sorted({row.tcd.reg for row in stronger})
    assert {row.part for row in (ccd, foreground, *stronger)} == {"val"}


def test_more_blocks_are_trained_where_a_row_says_so(log, config, tmp_path):
    rows = {row.name: row for row in blocks(config)}
    two = rows["2 trained, fused"]
    measure(two, config, "shipped", 0, tmp_path, 1)
    (run,) = tmp_path.iterdir()
    assert len(load_run(run)[0].blocks) == two.blocks == 2
    assert rows["1 trained, patch"].change(config, 0) == table3(config)[2].change(config, 0)
    without = rows["2 trained, fused, without neg_cls"]
    assert without.tcd == replace(two.tcd, beta0=0) != two.tcd and replace(without, name=two.name, tcd=two.tcd) == two


def test_rows_of_the_start_change_one_thing_each():
    config = profile("embedded")
    full, *others = (each.change(config, 0) for each in start(config))
    assert all(row.part == "val" for row in start(config)) and full.train == config.train
    changed = [{key: new for key, _, new in differences(plain(full), plain(each))} for each in others]
    assert changed == [
        {"train.clip": 5.0}, {"train.clip": 0.5}, {"train.warmup_epochs": 1.0}, {"train.tcd.sim_mode": "clims"}
    ]  # fmt: skip


def test_mended_rows_change_one_thing_each():
    ccd, full, stronger, higher = mended(profile("embedded"))
    assert (ccd.tcd, full.tcd) == (None, profile("embedded").train.tcd)
    assert stronger == replace(full, name=stronger.name, tcd=replace(full.tcd, reg=stronger.tcd.reg))
    assert higher == replace(full, name=higher.name, theta=higher.theta)


def test_a_table_of_many_rows_is_written_without_classes(tmp_path):
    seeds = {f"row {i}": [Scores(np.eye(19, dtype=int))] for i in range(COLUMNS + 1)}
    write_table("many", seeds, (0,), profile("embedded"), tmp_path)
    assert not any(row["per_class"] for row in read_results("many", tmp_path)["rows"])
    assert "## By class" not in (tmp_path / "many.md").read_text()


def test_another_profile_has_its_own_models_and_subset(config):
    """Section 4.3.4 compares CLIP with FLIP; 4.1.1 scores 3,820 training pictures."""
    assert [(row.name, row.vlm) for row in vlm(config)] == [
        ("without (CCD alone)", None), ("mini-CLIP (general)", "mini_clip"),
        ("mini-FLIP-LABELS (faces, captions from labels)", "mini_flip_labels"), ("mini-FLIP (faces)", "mini_flip"),
    ]  # fmt: skip
    paper = profile("paper")
    assert [(row.name, row.vlm) for row in vlm(paper)[1:]] == [("CLIP (general)", "clip"), ("FLIP (faces)", "flip")]
    assert [row.tcd is None for row in vlm(paper)] == [True, False, False]
    assert paper.subset == 3_820 and config.subset == 686 // 3 + 1


def test_unknown_table(config):
    with pytest.raises(InputError, match="unknown ablation 'table5'"):
        ablate("table5", config, "shipped")


def test_baseline_needs_no_image_text_model(log, config, tmp_path):
    measure(Row("Base.", ccd=False), config, "shipped", 0, tmp_path, 1)
    assert log[0] == ("train", False, False, 0)

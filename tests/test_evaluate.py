"""Scores against per-class boolean passes, known answers, and every kind of bad folder."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from wsfp_helpers import evaluate
from wsfp_helpers.colour import LAPA_PALETTE, PALETTE
from wsfp_helpers.evaluate import Scores, confusion, evaluate_folders, evaluate_pairs
from wsfp_helpers.labels import CELEBAMASK, LAPA, flip_image, to_lapa, to_lapa_table
from wsfp_helpers.reference import confusion_by_class
from wsfp_helpers.storage import InputError, write_index_png, write_json


def random_pairs(n, classes=19, size=(24, 17), agree=0.6, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        truth = rng.integers(0, classes, size, dtype=np.uint8)
        prediction = np.where(rng.random(size) < agree, truth, rng.integers(0, classes, size)).astype(np.uint8)
        truth[rng.random(size) < 0.1] = 255
        yield prediction, truth


def write_folder(folder, maps, palette=PALETTE):
    for k, label_map in enumerate(maps):
        write_index_png(folder / f"{k}.png", label_map, palette)
    return folder


@pytest.mark.parametrize("classes", [2, 11, 19])
def test_confusion_equals_boolean_passes(classes):
    for prediction, truth in random_pairs(4, classes):
        assert (confusion(prediction, truth, classes) == confusion_by_class(prediction, truth, classes)).all()


def test_confusion_counts_every_scored_pixel_once_by_row_and_column():
    truth = np.array([[0, 1, 1], [2, 255, 2]], np.uint8)
    prediction = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    matrix = confusion(prediction, truth, 3)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]
    assert confusion(prediction, np.minimum(truth, 2), 3, ignore=0)[0].sum() == 0


def test_confusion_takes_int64_views_and_undecided_predictions():
    truth = np.array([[1, 1], [0, 2]])
    prediction = np.array([[1, 255], [255, 2]])[:, ::-1]
    matrix = confusion(prediction[:, ::-1], truth, 3)
    assert matrix.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("prediction", "truth", "words"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), "resize the prediction"),
        (np.full((2, 2), 19, np.uint8), np.zeros((2, 2), np.uint8), "prediction has label value 19"),
        (np.full((2, 2), 254, np.uint8), np.zeros((2, 2), np.uint8), "prediction has label value 254"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 19, np.uint8), "true label map has value 19"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 254, np.uint8), "true label map has value 254"),
        (np.full((2, 2), -1), np.zeros((2, 2), np.uint8), "integers from 0 to 255"),
        (np.zeros((2, 2)), np.zeros((2, 2), np.uint8), "float64"),
    ],
)
def test_confusion_refuses_what_is_no_label_map(prediction, truth, words):
    with pytest.raises(InputError, match=words):
        confusion(prediction, truth, 19)


def test_scores_equal_counts_of_single_masks():
    pairs = list(random_pairs(5))
    scores = evaluate_pairs(pairs)
    prediction, truth = (np.concatenate([m.ravel() for m in maps]) for maps in zip(*pairs, strict=True))
    prediction, truth = prediction[truth != 255], truth[truth != 255]
    for k in range(19):
        hit, either = ((prediction == k) & (truth == k)).sum(), ((prediction == k) | (truth == k)).sum()
        precision, recall = hit / (prediction == k).sum(), hit / (truth == k).sum()
        assert scores.f1[k] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
        assert scores.iou[k] == pytest.approx(100 * hit / either)
    assert scores.mean_f1 == pytest.approx(sum(scores.f1[1:]) / 18)
    assert scores.mean_iou == pytest.approx(sum(scores.iou) / 19)
    assert scores.pixel_accuracy == pytest.approx(100 * (prediction == truth).mean())
    assert scores.images == 5 and scores.absent == ()


def test_absent_classes_are_skipped_and_one_sided_ones_are_zero():
    truth = np.array([[1, 1, 2, 0]], np.uint8)
    prediction = np.array([[1, 1, 3, 0]], np.uint8)
    scores = evaluate_pairs([(prediction, truth)])
    assert scores.f1[[0, 1, 2, 3]].tolist() == [100, 100, 0, 0]
    assert np.isnan(scores.f1[4:]).all()
    assert scores.mean_f1 == pytest.approx(100 / 3)
    assert scores.mean_iou == pytest.approx(50)
    assert scores.absent == CELEBAMASK.classes[4:]
    assert "hat" in scores.table().splitlines()[-1]


def test_an_empty_matrix_has_no_score():
    scores = Scores(np.zeros((19, 19), np.int64))
    assert math.isnan(scores.mean_f1) and math.isnan(scores.mean_iou) and math.isnan(scores.pixel_accuracy)
    assert scores.as_dict()["mean_f1"] is None


def test_the_mean_can_be_limited_to_the_classes_that_the_truth_outlines():
    truth = np.array([[1, 1, 2, 0]], np.uint8)
    prediction = np.array([[1, 1, 2, 13]], np.uint8)
    assert evaluate_pairs([(prediction, truth)]).mean_f1 == pytest.approx(200 / 3)
    limited = evaluate_pairs([(prediction, truth)], scored=["skin", "nose", "neck"])
    assert (
        limited.mean_f1 == 100 and limited.absent == ("neck",) and list(limited.per_class) == ["skin", "nose", "neck"]
    )
    with pytest.raises(InputError, match="unknown class"):
        _ = evaluate_pairs([(prediction, truth)], scored=["noze"]).mean_f1


def test_helen_merges_sum_the_masks():
    pairs = list(random_pairs(3, 11))
    scores = evaluate_pairs(pairs, LAPA)
    for name, ids in {"brows": [2, 3], "eyes": [4, 5], "mouth_all": [7, 8, 9], "overall": range(2, 10)}.items():
        hit = size = 0
        for prediction, truth in pairs:
            in_prediction, in_truth = np.isin(prediction, ids) & (truth != 255), np.isin(truth, ids)
            hit, size = hit + (in_prediction & in_truth).sum(), size + in_prediction.sum() + in_truth.sum()
        assert scores.merged[name] == pytest.approx(100 * 2 * hit / size)
    assert evaluate_pairs(random_pairs(1)).merged == {}


def test_a_prediction_of_another_size_is_resized_and_counted():
    truth = np.kron(np.array([[1, 2], [3, 0]], np.uint8), np.ones((6, 4), np.uint8))
    small = np.array([[1, 2], [3, 0]], np.uint8)
    scores = evaluate_pairs([(small, truth), (truth, truth)])
    assert scores.pixel_accuracy == 100
    assert any("1 of 2 predictions had another size" in note for note in scores.notes)


def test_json_is_strict_and_holds_every_number(tmp_path):
    scores = evaluate_pairs(random_pairs(2, 11), LAPA)
    write_json(tmp_path / "scores.json", scores.as_dict())
    read = json.loads((tmp_path / "scores.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert read["mean_f1"] == pytest.approx(np.mean(list(read["per_class"].values())))
    assert list(read["per_class"]) == list(LAPA.components) and list(read["iou"]) == list(LAPA.classes)
    assert sum(read["true_pixels"].values()) == scores.matrix.sum() and read["images"] == 2
    empty = Scores(np.zeros((19, 19), np.int64)).as_dict()
    write_json(tmp_path / "empty.json", empty)
    json.loads((tmp_path / "empty.json").read_text(), parse_constant=lambda text: pytest.fail(text))


def test_folders_give_the_scores_of_their_pairs(tmp_path):
    pairs = list(random_pairs(4))
    pred = write_folder(tmp_path / "pred", [p for p, _ in pairs])
    gt = write_folder(tmp_path / "gt", [t for _, t in pairs])
    scores = evaluate_folders(pred, gt)
    assert (scores.matrix == evaluate_pairs(pairs).matrix).all() and scores.images == 4 and scores.notes == ()
    for path in (tmp_path / "pred").iterdir():
        Image.fromarray(np.array(Image.open(path))).save(path)
    assert evaluate_folders(pred, gt).mean_f1 == scores.mean_f1


def face(scheme=CELEBAMASK):
    """A label map whose left and right differ: brows and eyes of different sizes, nose and lips in the middle."""
    label_map = np.zeros((40, 60), np.uint8)
    label_map[5:38, 5:55] = 1
    for name, box in {
        "l_brow": (8, 10, 35, 50), "r_brow": (8, 11, 12, 25), "l_eye": (13, 17, 36, 48), "r_eye": (14, 17, 14, 22),
        "nose": (18, 26, 27, 33), "u_lip": (28, 30, 22, 38), "mouth": (30, 32, 22, 38), "l_lip": (32, 34, 22, 38),
    }.items():  # fmt: skip
        top, bottom, left, right = box
        label_map[top:bottom, left:right] = CELEBAMASK.index(name)
    return label_map


def test_19_classes_against_11_need_the_geometric_map(tmp_path):
    gt = write_folder(tmp_path / "gt", [to_lapa(face())], LAPA_PALETTE)
    pred = write_folder(tmp_path / "pred", [face()])
    right = evaluate_folders(pred, gt, labels="lapa", pred_labels="celebamask")
    assert right.mean_f1 == 100
    assert right.notes == ("note: predictions mapped from 19 to 11 classes, mode geometric",)
    wrong = evaluate_folders(pred, gt, labels="lapa", pred_labels="celebamask", mode="by-name")
    sided = [LAPA.index(name) for pair in LAPA.pairs for name in pair]
    assert wrong.f1[sided].tolist() == [0, 0, 0, 0]
    assert "mode by-name" in wrong.notes[0]
    assert "left and right look exchanged" in wrong.table() and "by name instead of geometric" in wrong.table()


def test_ears_count_as_skin_when_asked(tmp_path):
    label_map = face()
    label_map[15:25, 0:5] = CELEBAMASK.index("r_ear")
    truth = to_lapa(face())
    truth[15:25, 0:5] = LAPA.index("skin")
    gt, pred = write_folder(tmp_path / "gt", [truth], LAPA_PALETTE), write_folder(tmp_path / "pred", [label_map])
    assert evaluate_folders(pred, gt, "lapa", "celebamask").mean_f1 < 100
    scores = evaluate_folders(pred, gt, "lapa", "celebamask", ears_to_skin=True)
    assert scores.mean_f1 == 100 and "ears counted as skin" in scores.notes[0]


def test_a_flip_without_exchange_is_noticed_and_a_weak_result_is_not():
    exchanged = flip_image(flip_image(CELEBAMASK.flip[face()].astype(np.uint8)))
    warning = evaluate_pairs([(exchanged, face())]).notes[-1]
    assert "left and right look exchanged" in warning and "viewpoint" in warning
    assert evaluate_pairs([(face(), face())]).notes == ()
    assert evaluate_pairs(random_pairs(3, agree=0.05)).notes == ()
    no_sides = np.ones((4, 4), np.uint8)
    assert evaluate_pairs([(no_sides, no_sides)]).notes == ()


@pytest.fixture
def folders(tmp_path):
    pairs = list(random_pairs(3))
    return write_folder(tmp_path / "pred", [p for p, _ in pairs]), write_folder(tmp_path / "gt", [t for _, t in pairs])


def save_rgb(path):
    Image.new("RGB", (17, 24)).save(path)


def save_16_bit(path):
    Image.fromarray(np.zeros((24, 17), np.uint16)).save(path)


def save_class_19(path):
    write_index_png(path, np.full((24, 17), 19, np.uint8), PALETTE)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def write_text(path):
    path.write_text("not a picture")


@pytest.mark.parametrize("side", ["pred", "gt"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (save_rgb, "mode RGB"),
        (save_16_bit, "expected 8-bit"),
        (save_class_19, "label value 19"),
        (cut, "cannot be read"),
        (write_text, "cannot be read"),
    ],
)
def test_a_bad_file_is_named(folders, side, spoil, words):
    pred, gt = folders
    path = {"pred": pred, "gt": gt}[side] / "1.png"
    spoil(path)
    with pytest.raises(InputError, match=words) as error:
        evaluate_folders(pred, gt)
    assert str(path) in str(error.value)


def test_missing_extra_and_empty_folders_are_named(folders, tmp_path):
    pred, gt = folders
    (gt / "2.png").unlink()
    with pytest.raises(InputError, match=r"1 predictions in .* have no label map in .* first is 2\.png"):
        evaluate_folders(pred, gt)
    (pred / "2.png").unlink()
    (pred / "0.png").unlink()
    with pytest.raises(InputError, match=r"1 of 2 label maps in .* have no prediction in .* first is 0\.png"):
        evaluate_folders(pred, gt)
    with pytest.raises(InputError, match="no folder of predictions"):
        evaluate_folders(tmp_path / "none", gt)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no PNG files"):
        evaluate_folders(pred, tmp_path / "empty")
    with pytest.raises(InputError, match="is a file"):
        evaluate_folders(pred / "1.png", gt)
    with pytest.raises(InputError, match="unknown labels 'helen'"):
        evaluate_folders(pred, gt, labels="helen")
    with pytest.raises(InputError, match="11-class predictions"):
        evaluate_folders(pred, gt, labels="celebamask", pred_labels="lapa")


def test_the_palette_of_the_truth_is_looked_at_too(folders):
    pred, gt = folders
    write_index_png(gt / "1.png", np.zeros((24, 17), np.uint8), LAPA_PALETTE)
    notes = evaluate_folders(pred, gt).notes
    assert any("1 label maps of the truth have another palette" in note and "--labels" in note for note in notes)
    order = np.random.default_rng(2).permutation(19)
    write_index_png(gt / "0.png", np.zeros((24, 17), np.uint8), PALETTE[order])
    with pytest.raises(InputError, match=r"gt/0\.png has the colours of our classes in another order"):
        evaluate_folders(pred, gt)


def test_a_stretched_prediction_is_named(folders):
    pred, gt = folders
    write_index_png(pred / "0.png", np.zeros((12, 9), np.uint8), PALETTE)  # half the size, rounded
    assert any("0.png, 9 x 12 for a label map of 17 x 24" in note for note in evaluate_folders(pred, gt).notes)
    write_index_png(pred / "2.png", np.zeros((10, 20), np.uint8), PALETTE)
    assert any("2.png, 20 x 10 for a label map of 17 x 24" in note for note in evaluate_folders(pred, gt).notes)


@pytest.mark.parametrize("option", [{"mode": "by-name"}, {"mode": "xyz"}, {"ears_to_skin": True}])
def test_options_of_the_map_to_11_classes_need_one(folders, option):
    with pytest.raises(InputError, match="nothing is mapped here: leave them out"):
        evaluate_folders(*folders, **option)


def test_another_palette_is_noted_and_a_renumbered_one_refused(folders):
    pred, gt = folders
    expected = evaluate_folders(pred, gt).mean_f1
    map_0 = np.array(Image.open(pred / "0.png"))
    write_index_png(pred / "0.png", map_0, np.random.default_rng(1).integers(0, 256, (19, 3)))
    write_index_png(pred / "1.png", np.array(Image.open(pred / "1.png")), LAPA_PALETTE)
    scores = evaluate_folders(pred, gt)
    assert scores.mean_f1 == expected
    assert any("2 predictions have another palette" in note for note in scores.notes)
    order = np.random.default_rng(2).permutation(19)
    write_index_png(pred / "0.png", np.argsort(order)[map_0], PALETTE[order])
    with pytest.raises(InputError, match="renumbered its palette") as error:
        evaluate_folders(pred, gt)
    assert str(pred / "0.png") in str(error.value)


def test_the_interval_of_several_seeds_is_that_of_their_mean():
    rng = np.random.default_rng(4)
    matrices = rng.integers(0, 9, (3, 8, 19, 19)) * (rng.random((3, 8, 19, 1)) > 0.2)
    draws = np.random.default_rng(5).multinomial(8, [1 / 8] * 8, size=200)
    means = [np.mean([Scores((times[:, None, None] * each).sum(0)).mean_f1 for each in matrices]) for times in draws]
    found = evaluate.bootstrap(matrices, samples=200, seed=5)
    assert found.mean_f1 == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert found.f1.shape == (19, 2)


@pytest.mark.parametrize("ears", [False, True])
def test_matrices_are_mapped_as_label_maps_are(ears):
    rng = np.random.default_rng(6)
    pairs = [[rng.integers(0, 19, (9, 7)).astype(np.uint8) for _ in range(2)] for _ in range(3)]
    wanted = evaluate.confusions(
        ((to_lapa(p, "geometric", ears), to_lapa(t, "geometric", ears)) for p, t in pairs), LAPA
    )
    found = evaluate.mapped(evaluate.confusions(pairs), to_lapa_table("geometric", ears), len(LAPA))
    assert (found == wanted).all()


def test_bootstrap_draws_images_again():
    matrices = evaluate.confusions(random_pairs(30, size=(6, 6)))
    assert matrices.shape == (30, 19, 19)
    intervals = evaluate.bootstrap(matrices, samples=300, seed=3)
    rng, means = np.random.default_rng(3), []
    for _ in range(300):
        times = rng.multinomial(30, np.full(30, 1 / 30))
        means.append(Scores(sum(t * m.astype(np.int64) for t, m in zip(times, matrices, strict=True))).mean_f1)
    assert intervals.mean_f1 == pytest.approx(np.percentile(means, [2.5, 97.5]))
    low, high = intervals.mean_f1
    assert low < Scores(matrices.sum(0)).mean_f1 < high
    assert intervals.f1.shape == (19, 2) and (intervals.f1[:, 0] <= intervals.f1[:, 1]).all()
    same = np.repeat(matrices[:1], 5, axis=0)
    assert evaluate.bootstrap(same, samples=50).mean_f1 == pytest.approx([Scores(matrices[0]).mean_f1] * 2)
    with pytest.raises(InputError, match="at least 2 images"):
        evaluate.bootstrap(matrices[:1])


def test_groups_add_up_to_the_whole():
    matrices = evaluate.confusions(random_pairs(7))
    groups = evaluate.by_group(matrices, ["f", "m", "f", "m", "m", "f", "m"])
    assert {name: scores.images for name, scores in groups.items()} == {"f": 3, "m": 4}
    assert (groups["f"].matrix + groups["m"].matrix == matrices.sum(0)).all()
    assert groups["f"].mean_f1 == pytest.approx(Scores(matrices[[0, 2, 5]].sum(0)).mean_f1)
    with pytest.raises(InputError, match="2 group names for 7 images"):
        evaluate.by_group(matrices, ["f", "m"])


def test_an_ignored_pixel_survives_a_small_palette(tmp_path):
    write_index_png(tmp_path / "map.png", np.array([[255, 10, 0]], np.uint8), LAPA_PALETTE)
    assert np.array(Image.open(tmp_path / "map.png")).tolist() == [[255, 10, 0]]


def test_pairs_are_taken_one_at_a_time():
    alive = []

    def pairs():
        for pair in random_pairs(5):
            alive.append(pair[0])
            yield pair

    scores = evaluate_pairs(pairs())
    assert scores.images == len(alive) == 5

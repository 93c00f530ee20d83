"""Scores against per-class boolean passes and known answers."""

import json
import math
import weakref

import numpy as np
import pytest
from fixtures import face_map, random_pairs

from tools.reference import confusion_by_class
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import write_json
from wsfp_helpers.labels import CELEBAMASK, LAPA, to_lapa, to_lapa_table
from wsfp_helpers.score.confusion import (
    Scores,
    confusion,
    confusions,
    evaluate_pairs,
    map_matrices,
)


@pytest.mark.parametrize(("classes", "size"), [(2, (24, 17)), (11, (24, 17)), (19, (300, 250)), (200, (24, 17))])
def test_confusion_equals_boolean_passes(classes, size):
    for prediction, truth in random_pairs(4, classes, size):
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


def test_a_flip_without_exchange_is_noticed_and_a_weak_result_is_not():
    exchanged = CELEBAMASK.flip[face_map()].astype(np.uint8)
    warning = evaluate_pairs([(exchanged, face_map())]).notes[-1]
    assert "left and right look exchanged" in warning and "viewpoint" in warning
    assert evaluate_pairs([(face_map(), face_map())]).notes == ()
    assert evaluate_pairs(random_pairs(3, agree=0.05)).notes == ()
    no_sides = np.ones((4, 4), np.uint8)
    assert evaluate_pairs([(no_sides, no_sides)]).notes == ()


@pytest.mark.parametrize("ears", [False, True])
def test_matrices_are_mapped_as_label_maps_are(ears):
    rng = np.random.default_rng(6)
    pairs = [[rng.integers(0, 19, (9, 7)).astype(np.uint8) for _ in range(2)] for _ in range(3)]
    wanted = confusions(((to_lapa(p, "geometric", ears), to_lapa(t, "geometric", ears)) for p, t in pairs), LAPA)
    found = map_matrices(confusions(pairs), to_lapa_table("geometric", ears), len(LAPA))
    assert (found == wanted).all()


def test_pairs_are_taken_one_at_a_time():
    taken, most = [], 0

    def pairs():
        nonlocal most
        for prediction, truth in random_pairs(5):
            taken.append(weakref.ref(prediction))
            most = max(most, sum(each() is not None for each in taken))
            yield prediction, truth

    assert evaluate_pairs(pairs()).images == len(taken) == 5
    assert most <= 2  # the one that comes and the one before it

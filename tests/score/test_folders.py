"""Folders of predictions: the scores of their pairs, and a sentence for every kind of bad folder."""

import numpy as np
import pytest
from fixtures import face_map, random_pairs
from PIL import Image

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.labels import CELEBAMASK, LAPA, to_lapa
from wsfp_helpers.palette import LAPA_PALETTE, PALETTE
from wsfp_helpers.score.confusion import evaluate_pairs
from wsfp_helpers.score.folders import evaluate_folders


def write_folder(folder, maps, palette=PALETTE):
    for k, label_map in enumerate(maps):
        write_index_png(folder / f"{k}.png", label_map, palette)
    return folder


def test_folders_give_the_scores_of_their_pairs(tmp_path):
    pairs = list(random_pairs(4))
    pred = write_folder(tmp_path / "pred", [p for p, _ in pairs])
    gt = write_folder(tmp_path / "gt", [t for _, t in pairs])
    scores = evaluate_folders(pred, gt)
    assert (scores.matrix == evaluate_pairs(pairs).matrix).all() and scores.images == 4 and scores.notes == ()
    for path in (tmp_path / "pred").iterdir():
        Image.fromarray(np.array(Image.open(path))).save(path)
    assert evaluate_folders(pred, gt).mean_f1 == scores.mean_f1


def test_only_the_pictures_of_a_subset_are_scored(tmp_path):
    pairs = list(random_pairs(4))
    write_folder(tmp_path / "pred", [prediction for prediction, _ in pairs[:3]])
    write_folder(tmp_path / "gt", [truth for _, truth in pairs])
    names = sorted(path.stem for path in (tmp_path / "gt").iterdir())
    scores = evaluate_folders(tmp_path / "pred", tmp_path / "gt", ids=names[1:3])
    assert np.array_equal(scores.matrix, evaluate_pairs(pairs[1:3]).matrix) and scores.images == 2
    with pytest.raises(InputError, match=r"1 of 2 label maps in .* have no prediction"):
        evaluate_folders(tmp_path / "pred", tmp_path / "gt", ids=names[2:])
    with pytest.raises(InputError, match=r"1 of the 1 pictures to score have no label map in .* is x\.png: choose"):
        evaluate_folders(tmp_path / "pred", tmp_path / "gt", ids=["x"])


def test_19_classes_against_11_need_the_geometric_map(tmp_path):
    gt = write_folder(tmp_path / "gt", [to_lapa(face_map())], LAPA_PALETTE)
    pred = write_folder(tmp_path / "pred", [face_map()])
    right = evaluate_folders(pred, gt, labels="lapa", pred_labels="celebamask")
    assert right.mean_f1 == 100
    assert right.notes == ("note: predictions mapped from 19 to 11 classes, mode geometric",)
    wrong = evaluate_folders(pred, gt, labels="lapa", pred_labels="celebamask", mode="by-name")
    sided = [LAPA.index(name) for pair in LAPA.pairs for name in pair]
    assert wrong.f1[sided].tolist() == [0, 0, 0, 0]
    assert "mode by-name" in wrong.notes[0]
    assert "left and right look exchanged" in wrong.table() and "by name instead of geometric" in wrong.table()


def test_ears_count_as_skin_when_asked(tmp_path):
    label_map = face_map()
    label_map[15:25, 0:5] = CELEBAMASK.index("r_ear")
    truth = to_lapa(face_map())
    truth[15:25, 0:5] = LAPA.index("skin")
    gt, pred = write_folder(tmp_path / "gt", [truth], LAPA_PALETTE), write_folder(tmp_path / "pred", [label_map])
    assert evaluate_folders(pred, gt, "lapa", "celebamask").mean_f1 < 100
    scores = evaluate_folders(pred, gt, "lapa", "celebamask", ears_to_skin=True)
    assert scores.mean_f1 == 100 and "ears counted as skin" in scores.notes[0]


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


def test_an_ignored_pixel_survives_a_small_palette(tmp_path):
    write_index_png(tmp_path / "map.png", np.array([[255, 10, 0]], np.uint8), LAPA_PALETTE)
    assert np.array(Image.open(tmp_path / "map.png")).tolist() == [[255, 10, 0]]

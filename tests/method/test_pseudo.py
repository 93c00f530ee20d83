"""Pseudo labels against the literal argmax over channels, their folder, and the threshold curve."""

import os
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

from tools.reference import confusion_by_class
from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import COMPONENTS, K
from wsfp_helpers.method import pseudo
from wsfp_helpers.method.fcam import Fcam, FcamFolder, save_fcams
from wsfp_helpers.method.pseudo import pseudo_label, write_pseudo_labels
from wsfp_helpers.score.confusion import evaluate_pairs
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels, sweep_matrices, sweep_thresholds


def make_fcams(n=4, size=(40, 30), seed=0):
    rng = np.random.default_rng(seed)
    for i in range(n):
        classes = np.sort(rng.choice(K, rng.integers(2, 9), replace=False))
        grids = tuple(torch.from_numpy(rng.random((len(classes), side, side), np.float32) ** 3) for side in (5, 8))
        yield Fcam(f"face_{i}", classes, grids, size)


def make_faces(n=4, size=(40, 30), seed=1):
    rng = np.random.default_rng(seed)
    maps = {f"face_{i}": rng.integers(0, K + 1, size, dtype=np.uint8) for i in range(n)}
    for label_map in maps.values():
        label_map[rng.random(size) < 0.1] = 255
    weak = WeakFaces("faces", list(maps), lambda key: np.zeros((*size, 3), np.uint8), np.ones((n, K)))
    return Faces(weak, read_map=maps.__getitem__)


def literal_label(fcam, theta, size=None):
    """All 19 channels at full size, absent classes 0, background the constant theta; the first of equals wins."""
    maps = fcam.maps(size)
    channels = np.zeros((K + 1, *maps.shape[1:]), np.float32)
    channels[0] = theta
    for position, k in enumerate(fcam.classes):
        channels[k + 1] = maps[position]
    return channels.argmax(0)


@pytest.fixture
def folder(tmp_path):
    save_fcams(make_fcams(), tmp_path / "maps")
    return FcamFolder(tmp_path / "maps")


@pytest.mark.parametrize("theta", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("size", [None, (17, 23)])
def test_equals_the_literal_argmax(theta, size):
    for fcam in make_fcams():
        label_map = pseudo_label(fcam, theta, size)
        assert label_map.dtype == np.uint8 and label_map.shape == (size or fcam.size)
        assert (label_map == literal_label(fcam, theta, size)).all()


def test_only_present_classes_are_written_and_none_of_them_is_ever_empty():
    lone = [
        Fcam("x", np.array([k]), (torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(k)),), (24, 24))
        for k in range(K)
    ]
    for k, fcam in enumerate(lone):
        assert set(np.unique(pseudo_label(fcam))) == {0, k + 1}
    for fcam in make_fcams():
        assert set(np.unique(pseudo_label(fcam, 0.01))) <= {0, *(fcam.classes + 1)}


def test_a_face_without_classes_is_background():
    empty = Fcam("x", np.zeros(0, np.int64), (torch.zeros(0, 5, 5),), (12, 9))
    assert pseudo_label(empty).shape == (12, 9) and not pseudo_label(empty).any()
    assert not pseudo_label(empty, 0).any()


@pytest.mark.parametrize("theta", [-0.1, 1.5, float("nan")])
def test_theta_outside_the_range_of_the_maps_is_refused(theta, folder, tmp_path):
    with pytest.raises(InputError, match="theta is"):
        pseudo_label(next(make_fcams()), theta)
    with pytest.raises(InputError, match="theta is"):
        write_pseudo_labels(folder, tmp_path / "out", theta)
    assert not (tmp_path / "out").exists()


def test_refused_input_claims_no_folder(folder, tmp_path):
    with pytest.raises(InputError, match="0 processes"):
        write_pseudo_labels(folder, tmp_path / "out", workers=0)
    save_weights(tmp_path / "run" / "model.safetensors", {"weight": torch.zeros(2)})
    with pytest.raises(InputError, match=r"model\.safetensors is not a saved FCAM"):
        write_pseudo_labels(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def read(path):
    return np.array(Image.open(path))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_holds_the_label_of_every_face(folder, tmp_path, workers):
    out = write_pseudo_labels(folder.paths[0].parent, tmp_path / "out", workers=workers)
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(folder.ids)
    for fcam in folder:
        assert (read(out / f"{fcam.id}.png") == pseudo_label(fcam)).all()
    picture = Image.open(out / "face_0.png")
    assert picture.mode == "P" and picture.size == (30, 40)
    assert not list(out.glob(".*"))


def test_an_interrupted_folder_is_completed_and_whole_files_are_kept(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    made, real = [], pseudo.pseudo_label

    def stops_after_two(fcam, *arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(fcam.id)
        return real(fcam, *arguments)

    monkeypatch.setattr(pseudo, "pseudo_label", stops_after_two)
    with pytest.raises(KeyboardInterrupt):
        write_pseudo_labels(folder, out)
    assert len(list(out.glob("*.png"))) == 2
    first, second = (out / f"{key}.png" for key in made)
    second.write_bytes(second.read_bytes()[:-30])
    before = first.stat().st_ino
    monkeypatch.setattr(pseudo, "pseudo_label", real)
    write_pseudo_labels(folder, out)
    assert first.stat().st_ino == before  # another file would have been moved there
    for fcam in folder:
        assert (read(out / f"{fcam.id}.png") == pseudo_label(fcam)).all()


@pytest.mark.parametrize("year", [1970, 2100])
def test_labels_of_maps_that_changed_are_made_again_whatever_the_clock_says(folder, tmp_path, year):
    out = write_pseudo_labels(folder, tmp_path / "out")
    save_fcams(make_fcams(seed=5), folder.paths[0].parent)
    seconds = datetime(year, 1, 2).timestamp()
    for path in folder.paths[0].parent.iterdir():
        os.utime(path, (seconds, seconds))
    write_pseudo_labels(folder.paths[0].parent, out)
    for fcam in FcamFolder(folder.paths[0].parent):
        assert (read(out / f"{fcam.id}.png") == pseudo_label(fcam)).all()


def test_labels_of_another_setting_are_not_mixed(folder, tmp_path):
    out = write_pseudo_labels(folder, tmp_path / "out")
    before = read(out / "face_0.png")
    with pytest.raises(InputError, match=r"made with .*0\.5.*choose another folder"):
        write_pseudo_labels(folder, out, theta=0.4)
    assert (read(out / "face_0.png") == before).all()
    (tmp_path / "foreign").mkdir()
    write_index_png(tmp_path / "foreign" / "a.png", before, np.zeros((19, 3)))
    with pytest.raises(InputError, match="not pseudo labels of this command"):
        write_pseudo_labels(folder, tmp_path / "foreign")
    with pytest.raises(InputError, match="no folder of FCAMs"):
        write_pseudo_labels(tmp_path / "none", tmp_path / "out2")


def test_one_histogram_gives_the_counts_of_every_threshold():
    fcams, faces = list(make_fcams()), make_faces()
    values = np.concatenate([fcam.maps().ravel() for fcam in fcams])
    thresholds = np.sort([0, 0.1, 0.2, 0.5, 0.5, 0.77, 1, *values[::4001]]).astype(np.float32)
    matrices = sweep_matrices(fcams, faces, thresholds)
    assert matrices.shape == (len(thresholds), K + 1, K + 1)
    for threshold, matrix in zip(thresholds, matrices, strict=True):
        expected = sum(
            confusion_by_class(literal_label(fcam, threshold), faces.label_map(i), K + 1)
            for i, fcam in enumerate(fcams)
        )
        assert (matrix == expected).all()


def test_the_curve_is_the_mean_f1_at_each_threshold():
    fcams, faces, thresholds = list(make_fcams()), make_faces(), np.linspace(0, 1, 11)
    curve = sweep_thresholds(fcams[::-1], faces, thresholds)
    for theta, value in zip(thresholds, curve, strict=True):
        pairs = [(pseudo_label(fcam, theta), faces.label_map(i)) for i, fcam in enumerate(fcams)]
        assert value == pytest.approx(evaluate_pairs(pairs).mean_f1)


def test_the_curve_refuses_unsorted_thresholds_and_unknown_faces():
    with pytest.raises(ValueError, match="rising order"):
        sweep_thresholds(make_fcams(), make_faces(), [0.5, 0.1])
    with pytest.raises(InputError, match="no image 'face_2'"):
        sweep_thresholds(make_fcams(), make_faces(2), [0.5])


def test_quality_of_a_folder_equals_that_of_its_maps(folder, tmp_path):
    faces = make_faces()
    out = write_pseudo_labels(folder, tmp_path / "out")
    scores = score_pseudo_labels(out, faces)
    assert (scores.matrix == score_pseudo_labels((pseudo_label(fcam) for fcam in folder), faces).matrix).all()
    assert scores.images == 4
    (out / "face_2.png").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of 4 .* face_2\.png"):
        score_pseudo_labels(out, faces)
    with pytest.raises(InputError, match="no folder"):
        score_pseudo_labels(tmp_path / "none", faces)


def test_component_maps_become_their_class():
    k = COMPONENTS.index("hair")
    grid = torch.zeros(1, 4, 4)
    grid[0, 0] = 1
    label_map = pseudo_label(Fcam("x", np.array([k]), (grid,), (4, 4)))
    assert label_map.tolist() == [[13] * 4, [0] * 4, [0] * 4, [0] * 4]

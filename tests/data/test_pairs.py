"""LaPa, Helen and plain folders: readers of pictures with label maps beside them."""

import pickle
import re

import numpy as np
import pytest
from fixtures import disc, lapa_map, make_folder, make_helen, make_helen_relabelled, make_lapa, picture, save
from PIL import Image

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import read_label_map
from wsfp_helpers.data.faces import announce
from wsfp_helpers.data.folder import find_pictures, folder
from wsfp_helpers.data.helen import LICENCE as HELEN_LICENCE
from wsfp_helpers.data.helen import helen, is_helen, merge
from wsfp_helpers.data.lapa import LICENCE as LAPA_LICENCE
from wsfp_helpers.data.lapa import lapa
from wsfp_helpers.data.sets import open_dataset
from wsfp_helpers.labels import CELEBAMASK, LAPA

pytestmark = pytest.mark.usefixtures("tmp_cache")

MAKERS = {
    "lapa": (make_lapa, "train"),
    "helen": (make_helen, "train"),
    "helen relabelled": (make_helen_relabelled, "test"),
    "folder": (make_folder, None),
}


@pytest.mark.parametrize("name", MAKERS)
def test_reader(name, tmp_path):
    make, split = MAKERS[name]
    faces = open_dataset(name.split()[0], make(tmp_path / "copy"), split)
    twin = pickle.loads(pickle.dumps(faces))
    for i in range(len(faces)):
        image, label_map = faces.image(i), faces.label_map(i)
        assert image.dtype == label_map.dtype == np.uint8 and image.shape == (*label_map.shape, 3)
        present = {k for k in np.unique(label_map) if k not in (0, 255)}
        assert set(np.flatnonzero(faces.labels[i]) + 1) == present and len(present) >= 4
        assert np.array_equal(twin.image(i), image) and np.array_equal(twin.label_map(i), label_map)


@pytest.mark.parametrize("name", ["lapa", "helen", "helen relabelled"])
def test_sides_are_the_viewers(name, tmp_path):
    make, split = MAKERS[name]
    faces = open_dataset(name.split()[0], make(tmp_path), split)
    label_map = faces.label_map(0)
    middle = label_map.shape[1] / 2
    assert faces.scheme is LAPA
    for part in ("eye", "eyebrow"):
        left, right = (np.nonzero(label_map == LAPA.index(f"{side}_{part}"))[1] for side in ("left", "right"))
        assert left.max() < middle < right.min()


def test_licences_are_printed_once(tmp_path, capsys):
    announce.cache_clear()
    make_lapa(tmp_path / "lapa")
    make_helen(tmp_path / "helen")
    for _ in range(2):
        faces = [open_dataset(name, tmp_path / name) for name in ("lapa", "helen")]
    assert capsys.readouterr().out.splitlines() == [LAPA_LICENCE, HELEN_LICENCE]
    assert [f.licence for f in faces] == [LAPA_LICENCE, HELEN_LICENCE]


def test_splits_of_lapa(tmp_path):
    make_lapa(tmp_path)
    ids = {split: open_dataset("lapa", tmp_path, split).ids for split in ("train", "val", "test")}
    assert ids == {"train": ("100_0", "101_1"), "val": ("102_0",), "test": ("9",)}
    with pytest.raises(InputError, match="unknown split 'all' of LaPa: expected one of train, val, test"):
        open_dataset("lapa", tmp_path, "all")


def test_splits_of_helen(tmp_path):
    make_helen(tmp_path / "smith")
    make_helen_relabelled(tmp_path / "new")
    ids = {split: helen(tmp_path / "smith", split).ids for split in ("train", "val", "test")}
    assert ids == {"train": ("10_1", "11_2"), "val": ("12_1",), "test": ("13_1",)}
    assert helen(tmp_path / "new").ids == helen(tmp_path / "new", "test_resize").ids == ("13_1",)
    assert helen(tmp_path / "new").image(0).shape != helen(tmp_path / "new", "test_resize").image(0).shape
    with pytest.raises(InputError, match=r"unknown split 'test_resize'.*expected one of train, val, test"):
        helen(tmp_path / "smith", "test_resize")
    with pytest.raises(InputError, match=r"unknown split 'val'.*expected one of train, test, test_resize"):
        helen(tmp_path / "new", "val")


@pytest.mark.parametrize(
    ("make", "splits"),
    [(make_helen, ("test", "train", "val")), (make_helen_relabelled, ("test", "test_resize", "train"))],
)
def test_both_layouts_of_helen_are_merged(make, splits, tmp_path):
    root, out = make(tmp_path / "helen"), tmp_path / "maps"
    assert is_helen(root) and not is_helen(out)
    for _ in range(2):
        merge(root, out)
        assert sorted(path.name for path in out.iterdir() if path.is_dir()) == list(splits)
        for split in splits:
            faces = helen(root, split)
            assert sorted(path.stem for path in (out / split).iterdir()) == sorted(faces.ids)
            for i, key in enumerate(faces.ids):
                assert np.array_equal(read_label_map(out / split / f"{key}.png", 11), faces.label_map(i))
    with pytest.raises(InputError, match="choose another folder"):
        merge(make(tmp_path / "other"), out)


def test_a_parser_looks_for_the_faces_of_lapa_and_helen(tmp_path):
    helens = [helen(make(tmp_path / make.__name__)) for make in (make_helen, make_helen_relabelled)]
    assert [faces.weak.framed for faces in (lapa(make_lapa(tmp_path / "lapa")), *helens)] == [False] * 3


def test_soft_maps_take_the_highest_and_the_lowest_class_on_a_tie(tmp_path):
    make_helen(tmp_path)
    rng = np.random.default_rng(0)
    soft = rng.integers(0, 6, (11, 96, 72), dtype=np.uint8)
    for c in range(11):
        save(soft[c], tmp_path / "labels" / "13_1" / f"13_1_lbl{c:02d}.png")
    label_map = helen(tmp_path).label_map(0)
    for y, x in rng.integers(0, 72, (200, 2)):
        values = soft[:, y, x].tolist()
        assert label_map[y, x] == values.index(max(values))


def test_faults_of_helen(tmp_path):
    make_helen(tmp_path)
    soft = tmp_path / "labels" / "13_1" / "13_1_lbl03.png"
    save(np.zeros((72, 96), np.uint8), soft)
    with pytest.raises(InputError, match=r"13_1_lbl03\.png is 96 x 72, but its picture is 72 x 96"):
        helen(tmp_path)
    soft.unlink()
    with pytest.raises(InputError, match=r"1 of 11 soft label maps are missing, the first is .*lbl03\.png"):
        helen(tmp_path)
    (tmp_path / "images" / "13_1.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 1 pictures are missing, the first is .*13_1\.jpg"):
        helen(tmp_path)
    (tmp_path / "tuning.txt").write_text("1 12_1\n")
    with pytest.raises(InputError, match=r"tuning\.txt line 1 is '1 12_1': expected 'index , name'"):
        helen(tmp_path, "val")


@pytest.mark.parametrize("key", ["../13_1", "a/b", "/etc/passwd", "a\\b"])
def test_an_id_of_a_list_is_no_path(tmp_path, key):
    make_helen(tmp_path)
    (tmp_path / "testing.txt").write_text(f"1 , {key}\n")
    with pytest.raises(InputError, match=r"testing\.txt line 1 is '.*': expected 'index , name'"):
        helen(tmp_path)


def test_id_that_a_list_has_twice(tmp_path):
    make_helen(tmp_path)
    (tmp_path / "testing.txt").write_text("1 , 13_1\n2 , 13_1\n")
    with pytest.raises(InputError, match="lists the id '13_1' twice"):
        helen(tmp_path)


def test_folder_reads_every_suffix_and_leaves_out_what_is_no_picture(tmp_path):
    faces = open_dataset("folder", make_folder(tmp_path / "mine"))
    assert faces.ids == ("a", "b", "c", "d") and faces.scheme is CELEBAMASK and "mine" in faces.name
    assert faces.label_map(0)[0, 0] == 255
    left, right = (np.nonzero(faces.label_map(0) == CELEBAMASK.index(name))[1] for name in ("l_eye", "r_eye"))
    assert left.min() > 15 > right.max()


def test_folder_with_two_paths_and_another_scheme(tmp_path):
    save(picture(0, 20, 30), tmp_path / "p" / "a.jpg")
    save(lapa_map(20, 30), tmp_path / "m" / "a.png")
    faces = folder(tmp_path / "p", tmp_path / "m", LAPA)
    assert faces.labels.shape == (1, 10) and np.array_equal(faces.label_map(0), lapa_map(20, 30))


def test_label_map_of_a_turned_photograph_has_the_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    picture(0, 30, 40).save(tmp_path / "images" / "a.jpg", exif=exif)
    save(np.zeros((40, 30), np.uint8), tmp_path / "labels" / "a.png")
    faces = open_dataset("folder", tmp_path)
    assert faces.image(0).shape == (40, 30, 3) and faces.label_map(0).shape == (40, 30)


@pytest.mark.parametrize(
    "bad, sentence",
    [
        (np.zeros((30, 40), np.uint8), r"b\.png is 40 x 30, but its picture b\.png is 30 x 40: expected the same size"),
        (np.full((40, 30), 19, np.uint8), r"b\.png has label value 19: expected class ids 0 to 18 or 255"),
        (np.zeros((40, 30), np.uint16), r"b\.png is a label map of mode I;16: expected 8-bit"),
        (np.zeros((40, 30, 3), np.uint8), r"b\.png is a label map of mode RGB: expected 8-bit"),
        (None, r"1 of 4 label maps are missing, the first is .*b\.png"),
    ],
)
def test_bad_label_map_of_a_folder(tmp_path, bad, sentence):
    path = make_folder(tmp_path) / "labels" / "b.png"
    path.unlink()
    if bad is not None:
        save(bad, path)
    with pytest.raises(InputError, match=sentence):
        folder(tmp_path)


def test_bad_folders(tmp_path):
    for wrong, sentence in {
        tmp_path / "none": "no folder of pictures at",
        tmp_path / "empty": re.escape("no picture in") + r".*expected files like name\.jpg",
        tmp_path / "file.jpg": "is a file: expected a folder of pictures",
    }.items():
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "file.jpg").write_bytes(b"")
        with pytest.raises(InputError, match=sentence):
            find_pictures(wrong)
    make_folder(tmp_path / "two")
    save(picture(9, 40, 30), tmp_path / "two" / "images" / "b.jpg")
    with pytest.raises(InputError, match=r"b\.jpg and b\.png would have the same id"):
        folder(tmp_path / "two")


def test_cut_picture_names_the_file(tmp_path):
    file = make_folder(tmp_path) / "images" / "a.JPG"
    faces = folder(tmp_path)
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(InputError, match=r"a\.JPG cannot be read as an image"):
        faces.image(0)


def test_reference_shapes_of_the_small_copies():
    # The tests above rest on it: the subject's left eye lies in the right half.
    assert np.nonzero(disc("l_eye", 50, 60))[1].min() > 30 > np.nonzero(disc("r_eye", 50, 60))[1].max()

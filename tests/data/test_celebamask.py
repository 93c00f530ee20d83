import pickle
import shutil

import numpy as np
import pytest
from fixtures import CELEBA_COUNTS, PARTS, disc, make_celebamask, picture, save
from PIL import Image

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import read_label_map
from wsfp_helpers.data.celebamask import COUNTS, LICENCE, celebamask, merge, split_ids
from wsfp_helpers.data.faces import announce
from wsfp_helpers.data.sets import open_dataset
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_celebamask(tmp_path_factory.mktemp("celeba"))


@pytest.fixture
def copy(original, tmp_path, tmp_cache):
    """A copy of the small set that a test may damage."""
    return shutil.copytree(original, tmp_path / "copy")


def test_split_joins_the_file_names_not_the_shifted_index(original, tmp_cache):
    assert split_ids(original, CELEBA_COUNTS) == {"train": ["0", "2001"], "val": ["1"], "test": ["2"]}


def test_pictures_and_maps(original, tmp_cache, capsys):
    announce.cache_clear()
    faces = celebamask(original, "train", counts=CELEBA_COUNTS)
    celebamask(original, "val", counts=CELEBA_COUNTS)
    assert capsys.readouterr().out.count(LICENCE) == 1
    assert faces.ids == ("0", "2001") and faces.scheme is CELEBAMASK and faces.licence == LICENCE
    assert faces.image(1).shape == (1024, 1024, 3) and faces.label_map(1).shape == (512, 512)
    expected = np.zeros((512, 512), np.uint8)
    for k, name in enumerate(COMPONENTS, 1):
        if name in PARTS:
            expected = np.where(disc(name, 512, 512), k, expected)
    assert np.array_equal(faces.label_map(0), expected)


def test_sides_are_the_subjects(original, tmp_cache):
    label_map = celebamask(original, "test", counts=CELEBA_COUNTS).label_map(0)
    for name in ("eye", "brow"):
        left = np.nonzero(label_map == CELEBAMASK.index(f"l_{name}"))[1]
        right = np.nonzero(label_map == CELEBAMASK.index(f"r_{name}"))[1]
        assert left.min() > 256 > right.max()


def test_later_parts_of_the_official_order_win(copy):
    folder = copy / "CelebAMask-HQ-mask-anno" / "0"
    for name in ("eye_g", "l_eye", "hair", "hat", "skin", "neck"):
        save(np.full((512, 512, 3), 255, np.uint8), folder / f"00000_{name}.png")
    assert np.unique(celebamask(copy, counts=CELEBA_COUNTS).label_map(0)).tolist() == [CELEBAMASK.index("neck")]
    (folder / "00000_neck.png").unlink()
    left = np.unique(celebamask(copy, counts=CELEBA_COUNTS).label_map(0))
    assert [CELEBAMASK.classes[k] for k in left] == ["hat", "ear_r"]


def test_labels_come_from_files_that_are_not_empty(original, tmp_cache):
    train, test = (celebamask(original, split, counts=CELEBA_COUNTS) for split in ("train", "test"))
    present = [[name for name, y in zip(COMPONENTS, row, strict=True) if y] for row in [*train.labels, *test.labels]]
    assert set(present[0]) == set(PARTS)
    assert set(present[1]) == set(PARTS) - {"hair"}
    assert set(present[2]) == set(PARTS) - {"l_ear", "r_ear", "ear_r"}


def test_a_part_that_is_painted_over_keeps_its_label(copy):
    save(np.full((512, 512, 3), 255, np.uint8), copy / "CelebAMask-HQ-mask-anno" / "0" / "00000_cloth.png")
    faces = celebamask(copy, counts=CELEBA_COUNTS)
    assert np.unique(faces.label_map(0)).tolist() == [18] and faces.labels[0].sum() == len(PARTS) + 1


def test_label_table_is_kept_outside_the_users_folder_and_follows_changes(copy, tmp_cache):
    before = sorted(path for path in copy.rglob("*"))
    first = celebamask(copy, counts=CELEBA_COUNTS).labels
    assert sorted(path for path in copy.rglob("*")) == before and list(tmp_cache.rglob("*.npy"))
    (copy / "CelebAMask-HQ-mask-anno" / "0" / "00000_hair.png").unlink()
    second = celebamask(copy, counts=CELEBA_COUNTS).labels
    assert first[0, COMPONENTS.index("hair")] == 1 and second[0, COMPONENTS.index("hair")] == 0


def test_counts_of_the_real_set(copy):
    assert COUNTS == {"train": 24_183, "val": 2_993, "test": 2_824} and sum(COUNTS.values()) == 30_000
    with pytest.raises(InputError, match=r"train 2 instead of 24183, val 1 instead of 2993, test 1 instead of 2824"):
        open_dataset("celebamask", copy)
    with pytest.raises(InputError, match=r"\(val 1 instead of 3\)"):
        celebamask(copy, counts=CELEBA_COUNTS | {"val": 3})


def test_subset_and_split_names(copy):
    assert celebamask(copy, subset=1, counts=CELEBA_COUNTS).ids == ("0",)
    with pytest.raises(InputError, match=r"subset of 3 images.*expected 1 to 2"):
        celebamask(copy, subset=3, counts=CELEBA_COUNTS)
    with pytest.raises(InputError, match="unknown split 'training'"):
        celebamask(copy, "training", counts=CELEBA_COUNTS)


def test_split_names_of_open_dataset(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("wsfp_helpers.data.celebamask.celebamask", lambda *arguments: calls.append(arguments))
    for split in (None, "test", "train-3820"):
        open_dataset("celebamask", tmp_path, split)
    assert calls == [(tmp_path, "train", None), (tmp_path, "test", None), (tmp_path, "train", 3820)]


def test_merged_layout_gives_the_same_maps(original, tmp_path, tmp_cache):
    merged = make_celebamask(tmp_path / "merged", merged=True)
    for split in CELEBA_COUNTS:
        a, b = (celebamask(root, split, counts=CELEBA_COUNTS) for root in (original, merged))
        assert a.ids == b.ids and np.array_equal(a.labels, b.labels)
        assert all(np.array_equal(a.label_map(i), b.label_map(i)) for i in range(len(a)))


def test_faces_travel_to_worker_processes(original, tmp_cache):
    faces = celebamask(original, "test", counts=CELEBA_COUNTS)
    twin = pickle.loads(pickle.dumps(faces))
    assert np.array_equal(twin.image(0), faces.image(0)) and np.array_equal(twin.label_map(0), faces.label_map(0))


def test_missing_pictures_are_counted(copy):
    (copy / "CelebA-HQ-img" / "2001.jpg").unlink()
    with pytest.raises(
        InputError, match=r"CelebAMask-HQ train: 1 of 2 pictures are missing, the first is .*2001\.jpg: .*data verify"
    ):
        celebamask(copy, counts=CELEBA_COUNTS)
    shutil.rmtree(copy / "CelebA-HQ-img")
    with pytest.raises(InputError, match=r"CelebAMask-HQ train: 2 of 2 pictures are missing, the first is .*/0\.jpg"):
        celebamask(copy, counts=CELEBA_COUNTS)


def test_damaged_and_missing_part_files(copy):
    part = copy / "CelebAMask-HQ-mask-anno" / "0" / "00000_hair.png"
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"00000_hair\.png cannot be read as an image"):
        celebamask(copy, counts=CELEBA_COUNTS)
    save(np.zeros((256, 512), np.uint8), part)
    with pytest.raises(InputError, match=r"00000_hair\.png is 512 x 256: expected 512 x 512"):
        celebamask(copy, counts=CELEBA_COUNTS)
    for file in part.parent.glob("00000_*"):
        file.unlink()
    with pytest.raises(InputError, match="picture 0 has no part mask in"):
        celebamask(copy, counts=CELEBA_COUNTS).label_map(0)
    shutil.rmtree(part.parents[1])
    with pytest.raises(InputError, match="no folder of part masks at"):
        celebamask(copy, counts=CELEBA_COUNTS)


def test_damaged_lists(copy):
    mapping, partition = copy / "CelebA-HQ-to-CelebA-mapping.txt", copy / "list_eval_partition.txt"
    text = mapping.read_text()
    for bad, sentence in {
        text.replace(
            "orig_file", "file"
        ): r"line 1 is 'idx +orig_idx +file': expected the columns idx, orig_idx, orig_file",
        text + "x 1 000001.jpg\n": "line 6 is 'x 1 000001.jpg': expected the columns",
        text + "5 1\n": "line 6 is '5 1': expected the columns",
        text + "0 1 000001.jpg\n": "lists 1 ids twice, the first is 0",
        text + "9" * 5000 + " 1 000001.jpg\n": "line 6 is '9999",
        text + "٣ 1 000001.jpg\n": "line 6 is '٣ 1",
        text + "5 1 999999.jpg\n": "does not list 999999.jpg, from which picture 5 was made",
        "": r"train 0 instead of 2, .*check that CelebA-HQ-to-CelebA-mapping\.txt",
    }.items():
        mapping.write_text(bad)
        with pytest.raises(InputError, match=sentence):
            celebamask(copy, counts=CELEBA_COUNTS)
    mapping.write_text(text)
    partition.write_text("000001.jpg 0\n000002.jpg 3\n")
    with pytest.raises(InputError, match=r"line 2 is '000002\.jpg 3': expected a file name and 0, 1 or 2"):
        celebamask(copy, counts=CELEBA_COUNTS)
    partition.unlink()
    with pytest.raises(InputError, match="no partition of CelebA at"):
        celebamask(copy, counts=CELEBA_COUNTS)


def test_turned_picture_is_set_upright(copy):
    exif = Image.Exif()
    exif[0x0112] = 3
    shown = picture(0, 1024, 1024)
    shown.rotate(180).save(copy / "CelebA-HQ-img" / "0.jpg", exif=exif, quality=98)
    image = celebamask(copy, counts=CELEBA_COUNTS).image(0)
    assert np.abs(image.astype(int) - np.array(shown)).mean() < 3


def test_merged_maps_are_those_of_the_reader_by_split(copy, tmp_path):
    out = tmp_path / "maps"
    assert merge(copy, out, CELEBA_COUNTS) == {}
    assert sorted(str(path.relative_to(out)) for path in out.glob("*/*")) == [
        "test/2.png", "train/0.png", "train/2001.png", "val/1.png",
    ]  # fmt: skip
    for split in CELEBA_COUNTS:
        faces = celebamask(copy, split, counts=CELEBA_COUNTS)
        for i, key in enumerate(faces.ids):
            np.testing.assert_array_equal(read_label_map(out / split / f"{key}.png", 19), faces.label_map(i))


def test_merging_names_faulty_pictures_and_goes_on_where_it_was(copy, tmp_path):
    out, part = tmp_path / "maps", copy / "CelebAMask-HQ-mask-anno" / "0" / "00001_skin.png"
    whole = part.read_bytes()
    part.write_bytes(whole[:100])
    faults = merge(copy, out, CELEBA_COUNTS)
    assert list(faults) == ["1"] and str(part) in faults["1"]
    assert not (out / "val").exists() and len(list(out.glob("*/*.png"))) == 3
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/*.png")}
    part.write_bytes(whole)
    assert merge(copy, out, CELEBA_COUNTS) == {} and (out / "val" / "1.png").exists()
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_merging_refuses_other_splits_no_masks_and_another_copys_folder(copy, tmp_path):
    out = tmp_path / "maps"
    with pytest.raises(InputError, match="splits of CelebAMask-HQ"):
        merge(copy, out)
    save(np.zeros((512, 512), np.uint8), out / "test" / "7.png")
    with pytest.raises(InputError, match="not label maps of this command"):
        merge(copy, out, CELEBA_COUNTS)
    shutil.rmtree(copy / "CelebAMask-HQ-mask-anno")
    with pytest.raises(InputError, match="no folder of part masks"):
        merge(copy, tmp_path / "new", CELEBA_COUNTS)
    assert not (tmp_path / "new").exists()


def test_maps_of_the_official_script_are_sorted_by_split(tmp_path):
    root = make_celebamask(tmp_path / "merged", merged=True)
    assert merge(root, tmp_path / "maps", CELEBA_COUNTS) == {}
    found = read_label_map(tmp_path / "maps" / "test" / "2.png", 19)
    np.testing.assert_array_equal(found, read_label_map(root / "CelebAMaskHQ-mask" / "2.png", 19))

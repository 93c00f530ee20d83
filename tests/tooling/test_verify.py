import shutil

import numpy as np
import pytest
from fixtures import make_celebamask, make_folder, make_helen, make_helen_relabelled, make_lapa, picture, save
from PIL import Image

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data import frl, helen, lapa
from wsfp_helpers.tooling.verify import SHOWN, Report, verify

pytestmark = pytest.mark.usefixtures("tmp_cache")


def kinds(report):
    return sorted(fault.kind for fault in report.faults)


def texts(report, kind):
    return [fault.text for fault in report.faults if fault.kind == kind]


@pytest.fixture
def small_counts(monkeypatch):
    """The copies of the tests have few pictures."""
    monkeypatch.setattr(lapa, "COUNTS", {"train": 2, "val": 1, "test": 1})
    monkeypatch.setattr(helen, "COUNTS", {"train": 2, "val": 1, "test": 1})


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize(
    "make, layout, count",
    [
        (make_lapa, "LaPa", 4),
        (make_helen, "Helen, soft label maps", 4),
        (make_helen_relabelled, "Helen, relabelled", 3),
        (make_folder, "pictures and index PNGs", 4),
    ],
)
def test_sound_copies_have_no_fault(make, layout, count, tmp_path):
    report = verify(make(tmp_path))
    assert report.ok, str(report)
    assert report.layout == layout and report.counts["pictures"] == count
    assert "no fault found" in str(report) and layout in str(report)


@pytest.mark.parametrize(
    ("make", "wrong"), [(make_lapa, "train 2 instead of 18176"), (make_helen, "test 1 instead of")]
)
def test_splits_of_another_size_are_a_fault(make, wrong, tmp_path):
    report = verify(make(tmp_path))
    assert kinds(report) == ["lists"] and wrong in str(report)


@pytest.mark.parametrize("folder", ["images", "train/images"])
def test_an_empty_copy_is_a_fault(folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    report = verify(tmp_path)
    assert f"no picture in {tmp_path / folder}" in texts(report, "missing") and not report.ok


@pytest.mark.parametrize("merged", [False, True])
def test_small_celebamask_has_only_wrong_counts(tmp_path, merged):
    report = verify(make_celebamask(tmp_path, merged))
    assert kinds(report) == ["lists"] and "train 2 instead of 24183" in str(report)
    assert report.counts["pictures of the train split"] == 2 and report.counts["pictures"] == 4


@pytest.mark.promise(
    "data sets", "`data verify` of a folder with ten faults", "each of them, with its file", "as it was"
)
def test_every_fault_of_a_folder_is_found_at_once(tmp_path):
    root = make_folder(tmp_path)
    size = (40, 30)
    save(np.full(size, 19, np.uint8), root / "labels" / "a.png")
    save(np.zeros((30, 40), np.uint8), root / "labels" / "b.png")
    (root / "labels" / "c.png").unlink()
    (root / "images" / "d.tiff").write_bytes(b"no picture")
    for name, bad in {"e": np.zeros((*size, 3), np.uint8), "f": np.zeros(size, np.uint16)}.items():
        save(picture(ord(name), *size), root / "images" / f"{name}.png")
        save(bad, root / "labels" / f"{name}.png")
    save(picture(99, *size), root / "images" / "b.jpg")
    shutil.copy(root / "images" / "a.JPG", root / "images" / "g.jpg")
    (root / "labels" / "g.png").write_bytes((root / "labels" / "b.png").read_bytes()[:30])
    save(np.zeros(size, np.uint8), root / "labels" / "lonely.png")
    report = verify(root)
    assert not report.ok
    found = {kind: [text.split("/")[-1] for text in texts(report, kind)] for kind in set(kinds(report))}
    assert len(found.pop("unreadable")) == 2
    assert [t.split()[0] for t in found.pop("missing")] == ["c.png"]
    assert sorted(t.split()[0] for t in found.pop("values")) == ["a.png", "e.png", "f.png"]
    assert [t.split()[0] for t in found.pop("size")] == ["b.png"]  # once, although two pictures have it
    assert texts(report, "duplicate picture")[0].endswith("a.JPG") and found.pop("duplicate picture")
    assert found.pop("duplicate id") == ["the id b comes 2 times"]
    assert "lonely.png" in texts(report, "orphan")[0] and found.pop("orphan")
    assert not found
    assert f"faults found: {len(report.faults)}" in str(report)


@pytest.mark.promise(
    "data sets", "`data verify` of CelebAMask-HQ with ten faults", "each of them, with its file", "as it was"
)
def test_every_fault_of_celebamask_is_found_at_once(tmp_path):
    root = make_celebamask(tmp_path)
    parts = root / "CelebAMask-HQ-mask-anno"
    (root / "CelebA-HQ-img" / "1.jpg").unlink()
    shutil.copy(root / "CelebA-HQ-img" / "0.jpg", root / "CelebA-HQ-img" / "2.jpg")
    cut = parts / "0" / "00000_nose.png"
    cut.write_bytes(cut.read_bytes()[:100])
    save(np.zeros((512, 256), np.uint8), parts / "0" / "00000_skin.png")
    save(np.full((512, 512), 7, np.uint8), parts / "0" / "00000_hair.png")
    save(np.zeros((512, 512), np.uint8), parts / "0" / "02001_skin.png")
    save(np.zeros((512, 512), np.uint8), parts / "0" / "00000_lefteye.png")
    save(np.zeros((512, 512), np.uint8), parts / "0" / "00777_skin.png")
    for file in (parts / "1").glob("*.png"):
        file.unlink()
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("idx orig_idx orig_file\n0 0 000001.jpg\n0 0 000001.jpg\n")
    report = verify(root)
    expected = ["duplicate picture", "lists", "missing", *["orphan"] * 4, "size", "unreadable", "values"]
    assert kinds(report) == expected, str(report)
    # With a damaged list nothing says that a picture 1 should be there, but its part masks are.
    assert any("no picture 1 for" in text for text in texts(report, "orphan"))
    assert "lists 1 ids twice" in texts(report, "lists")[0]
    assert texts(report, "missing") == ["picture 2001 has no label map or part mask"]


@pytest.mark.usefixtures("small_counts")
def test_lists_of_helen_that_overlap(tmp_path):
    root = make_helen(tmp_path)
    (root / "testing.txt").write_text("1 , 13_1\n2 , 10_1\n3 , 14_1\n")
    (root / "tuning.txt").write_text("12_1\n")
    report = verify(root)
    assert texts(report, "duplicate id") == ["the id 10_1 comes 2 times"]
    assert len(texts(report, "missing")) == 12
    damaged, counts = texts(report, "lists")
    assert "is '12_1'" in damaged and "(val 0 instead of 1, test 3 instead of 1)" in counts


def test_id_in_two_splits_of_lapa_and_a_missing_split(tmp_path):
    root = make_lapa(tmp_path)
    shutil.copy(root / "train" / "images" / "100_0.jpg", root / "val" / "images" / "100_0.jpg")
    shutil.copy(root / "train" / "labels" / "100_0.png", root / "val" / "labels" / "100_0.png")
    shutil.rmtree(root / "test")
    assert kinds(verify(root)) == ["duplicate id", "duplicate picture", "lists", "missing"]


@pytest.mark.promise("data sets", "`data verify` of FRL London with a damaged file", "the file", "as it was")
def test_files_of_frl_london_are_held_against_the_registry(tmp_path):
    name = next(iter(frl.registry()))
    path = tmp_path / name
    (tmp_path / "inst" / "neutral_front").mkdir(parents=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("another file")
    report = verify(tmp_path)
    assert len(texts(report, "hash")) == 1 and len(texts(report, "missing")) == len(frl.registry()) - 1


def test_long_lists_are_cut_in_print_only(tmp_path):
    report = Report(tmp_path, "LaPa")
    for i in range(SHOWN + 5):
        report.add("missing", f"number {i}")
    assert len(report.faults) == SHOWN + 5
    assert "and 5 more" in str(report) and f"number {SHOWN}" not in str(report) and str(SHOWN + 5) in str(report)


def test_unknown_layouts(tmp_path):
    with pytest.raises(InputError, match="no folder at"):
        verify(tmp_path / "none")
    with pytest.raises(InputError, match="has no known layout: expected CelebAMask-HQ"):
        verify(tmp_path)


def test_names_of_any_bytes_are_one_line_of_the_report(tmp_path):
    root = make_celebamask(tmp_path / "c")
    names = ("\u00b2_skin.png", "\u0663_skin.png", "a\nb\x1b[2J.png")
    for name in names:
        (root / "CelebAMask-HQ-mask-anno" / "0" / name).write_bytes(b"")
    report = verify(root)
    assert len(texts(report, "orphan")) == len(names)
    assert "\x1b" not in str(report) and "a\\nb\\x1b[2J.png is no part mask" in str(report)


def test_a_label_map_that_is_a_jpeg_is_a_fault(tmp_path):
    root = make_folder(tmp_path / "f")
    with Image.open(root / "labels" / "a.png") as label_map:
        label_map.copy().save(root / "labels" / "a.png", "JPEG")
    assert ["JPEG" in text for text in texts(verify(root), "unreadable")] == [True]

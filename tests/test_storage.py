import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsfp_helpers import storage
from wsfp_helpers.storage import (
    InputError,
    atomic_path,
    picture_size,
    read_image,
    read_json,
    read_label_map,
    write_index_png,
    write_json,
)

PALETTE = np.arange(57, dtype=np.uint8).reshape(19, 3)


def no_leftovers(folder):
    return not [p for p in folder.rglob("*") if p.name.endswith(".part")]


def test_atomic_path_replaces_on_success(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with atomic_path(target) as part:
        part.write_text("one")
        assert not target.exists()
    with atomic_path(target) as part:
        part.write_text("two")
        assert target.read_text() == "one"
    assert target.read_text() == "two" and no_leftovers(tmp_path)


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_atomic_path_leaves_the_old_file_when_interrupted(tmp_path, stop):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(stop), atomic_path(target) as part:
        part.write_text("half")
        raise stop
    assert target.read_text() == "old" and no_leftovers(tmp_path)


def test_disk_full_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"could not write .*No space left on device.*free space"):
        with atomic_path(target) as part:
            part.write_text("half")
            full()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        write_json(target, {"a": 1})
    assert not target.exists() and no_leftovers(tmp_path)


def test_folder_that_is_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not write"):
        write_json(tmp_path / "file" / "a.json", {})


@pytest.mark.parametrize("target", ["folder", "file/a.json", "file/deep/a.json"])
def test_a_relative_path_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("old")
    Path("folder").mkdir()
    with pytest.raises(InputError, match=f"could not write {target} .*it is as it was"):
        write_json(target, {})
    assert Path("file").read_text() == "old" and sorted(os.listdir()) == ["file", "folder"]


@pytest.mark.parametrize("call", [(Path, "mkdir"), (storage.tempfile, "mkstemp"), (os, "replace")])
def test_a_folder_without_permission_is_a_sentence(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)

    def denied(*arguments, **keywords):
        # As the system does: the folder above for mkdir, else the temporary file with its absolute name.
        named = tmp_path.parent if call[1] == "mkdir" else next(tmp_path.rglob("*.part"), tmp_path / "out" / "x.part")
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(named))

    monkeypatch.setattr(*call, denied)
    with pytest.raises(InputError, match=r"could not write out/a\.json \(Permission denied\)"):
        write_json("out/a.json", {})
    assert no_leftovers(tmp_path)


def test_errors_about_other_files_are_passed_on(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out" / "a.txt"):
        open("/nowhere/at/all")


def test_json_round_trip_with_numpy_values(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": np.float32(0.5), "b": np.arange(3), "c": "ä", "d": tmp_path})
    assert read_json(path) == {"a": 0.5, "b": [0, 1, 2], "c": "ä", "d": str(tmp_path)}
    assert "ä" in path.read_text(encoding="utf-8")


def test_bad_json_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": ')
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        read_json(path)
    with pytest.raises(InputError, match="no JSON file at"):
        read_json(tmp_path / "b.json")
    with pytest.raises(InputError, match="is a folder: expected the JSON file itself"):
        read_json(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[8:, 16:] = (255, 0, 0), (0, 0, 255)
    # How a camera held in that way stores the upright picture: the inverse of each turn.
    stored = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(read_image(path), upright)
    assert picture_size(path) == (16, 24)


def test_every_mode_of_picture_becomes_rgb(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([grey] * 4)).save(tmp_path / "alpha.png")
    for name in ("grey", "deep", "alpha"):
        assert np.array_equal(read_image(tmp_path / f"{name}.png"), np.dstack([grey] * 3)), name


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_truncated_and_foreign_files_are_sentences(tmp_path, suffix):
    good, cut, text = (tmp_path / f"{name}{suffix}" for name in ("good", "cut", "text"))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(good)
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    text.write_text("no picture")
    for path in (cut, text):
        with pytest.raises(InputError, match=f"{path.name} cannot be read as an image"):
            read_image(path)
    with pytest.raises(InputError, match="no image at"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="no image at"):
        picture_size(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder: expected the image itself"):
        read_image(tmp_path)


def test_index_png_round_trip(tmp_path):
    label_map = np.random.default_rng(0).choice([*range(19), 255], (9, 7)).astype(np.uint8)
    path = tmp_path / "a.png"
    write_index_png(path, label_map, PALETTE)
    assert np.array_equal(read_label_map(path, 19), label_map)
    with Image.open(path) as picture:
        assert picture.mode == "P" and picture.getpalette()[:57] == PALETTE.ravel().tolist()
    assert no_leftovers(tmp_path)


def test_grey_label_map_is_read_and_255_is_allowed(tmp_path):
    label_map = np.array([[0, 18, 255]], np.uint8)
    Image.fromarray(label_map).save(tmp_path / "a.png")
    assert np.array_equal(read_label_map(tmp_path / "a.png", 19), label_map)


@pytest.mark.parametrize("value", [19, 254])
def test_label_value_out_of_range(tmp_path, value):
    Image.fromarray(np.array([[0, value]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a\.png has label value {value}: expected class ids 0 to 18 or 255"):
        read_label_map(tmp_path / "a.png", 19)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "LA", "1"])
def test_label_map_of_another_mode(tmp_path, mode):
    dtype = np.uint16 if mode == "I;16" else np.uint8
    picture = Image.fromarray(np.zeros((4, 4), dtype))
    (picture if mode == "I;16" else picture.convert(mode)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a\.png is a label map of mode {mode}: expected 8-bit"):
        read_label_map(tmp_path / "a.png", 19)


def test_picture_bomb_is_a_sentence(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(storage.Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (read_image, picture_size):
        with pytest.raises(InputError, match=r"a\.png has too many pixels: expected at most 2,000; make .* smaller"):
            read(tmp_path / "a.png")


def test_a_large_picture_is_read_without_a_warning(tmp_path):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    code = "from wsfp_helpers.storage import Image, read_image; Image.MAX_IMAGE_PIXELS = 4000; read_image('a.png')"
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stderr) == (0, "")


def test_floating_point_numbers_are_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).random((8, 8), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match=r"a\.tiff holds floating-point numbers .*save it as"):
        read_image(tmp_path / "a.tiff")


def test_a_script_answers_bad_input_with_one_sentence(tmp_path):
    root = Path(__file__).parents[1]
    call = [sys.executable, root / "scripts/train_parsers.py", "weak", "--fcams", "nowhere"]
    variables = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, env=variables)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "nowhere" in done.stderr

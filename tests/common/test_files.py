"""Files are whole or as they were; folders belong to one command and its settings."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from wsfp_helpers.common import files
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import atomic_path, claim_folder, existing_file, read_json, read_rows, write_json


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


@pytest.mark.parametrize("call", [(Path, "mkdir"), (files.tempfile, "mkstemp"), (os, "replace")])
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


def test_rows_of_a_text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1 , a\n\n  22 , b c  \n")
    assert read_rows(path, "list", r"(\d+) , (.+)", "'index , name'") == [("1", "a"), ("22", "b c")]
    path.write_text("1 , a\n\nb , 2\n")
    with pytest.raises(InputError, match=r"a\.txt line 3 is 'b , 2': expected 'index , name'; download it again"):
        read_rows(path, "list", r"(\d+) , (.+)", "'index , name'")
    path.write_text("1 , a and more\n")
    with pytest.raises(InputError, match="line 1 is '1 , a and more'"):
        read_rows(path, "list", r"(\d+) , (\w)", "'index , name'")
    with pytest.raises(InputError, match="no list at"):
        read_rows(tmp_path / "b.txt", "list", ".*", "anything")


def test_a_folder_belongs_to_one_command_and_its_settings(tmp_path):
    folder = tmp_path / "out"
    for _ in range(2):
        claim_folder(folder, {"theta": 0.4, "sizes": (1, 2)}, "pseudo labels", "*.png")
    assert read_json(folder / "settings.json") == {"theta": 0.4, "sizes": [1, 2]}
    with pytest.raises(
        InputError, match=r"out holds pseudo labels made with .*0\.4.*, not .*0\.5.*: choose another folder"
    ):
        claim_folder(folder, {"theta": 0.5, "sizes": (1, 2)}, "pseudo labels", "*.png")
    (folder / "settings.json").unlink()
    (folder / "a.png").touch()
    with pytest.raises(InputError, match=r"\*\.png files that are not pseudo labels of this command"):
        claim_folder(folder, {"theta": 0.4}, "pseudo labels", "*.png")
    assert [path.name for path in folder.iterdir()] == ["a.png"]


def test_a_folder_in_place_of_a_file_names_the_file_in_it(tmp_path):
    with pytest.raises(InputError, match=r"is a folder: expected the boxes file itself$"):
        existing_file(tmp_path, "boxes file", "boxes.jsonl")
    (tmp_path / "boxes.jsonl").touch()
    with pytest.raises(InputError, match=r"expected the boxes file itself; did you mean .*boxes\.jsonl\?$"):
        existing_file(tmp_path, "boxes file", "boxes.jsonl")
    assert existing_file(tmp_path / "boxes.jsonl", "boxes file") == tmp_path / "boxes.jsonl"

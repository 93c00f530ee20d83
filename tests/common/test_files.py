"""Files are whole or as they were; folders belong to one command and its settings."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from wsfp_helpers.common import files
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import (
    append_row,
    atomic_path,
    claim_folder,
    existing_file,
    hold_folder,
    read_json,
    read_rows,
    read_whole_rows,
    temporary_folder,
    write_json,
)
from wsfp_helpers.common.runs import start_run


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


@pytest.mark.promise(
    "kills and faults",
    "a power cut between content and name (the order of fsync and rename)",
    "nothing",
    "the file whole, or as it was",
)
def test_content_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append(os.fstat(file).st_size), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("renamed"), replace(*paths)))
    with atomic_path(tmp_path / "a") as part:
        part.write_bytes(b"12345")
    assert order == [5, "renamed"]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
@pytest.mark.promise("kills and faults", "an error or Ctrl-C while a file is written anew", "the error", "the old file")
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


@pytest.mark.parametrize("call", [(Path, "mkdir"), (os, "open"), (os, "replace")])
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


def test_names_that_are_no_utf_8_come_back(tmp_path):
    name = b"a\xff\xfe".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "a.json", {name: name})
    append_row(tmp_path / "rows.jsonl", {name: name})
    assert read_json(tmp_path / "a.json") == {name: name} == read_whole_rows(tmp_path / "rows.jsonl", "rows")[0]
    with hold_folder(tmp_path / name):
        assert (tmp_path / name).exists()


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
    path.write_text("9" * 5000)
    with pytest.raises(InputError, match="line 1 is '9999") as error:
        read_rows(path, "list", r"(\d+) , (.+)", "'index , name'")
    assert len(str(error.value)) < 200 + len(str(path))
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


def test_the_settings_of_a_folder_are_written_once(tmp_path):
    claim_folder(tmp_path, {"theta": 0.4}, "pseudo labels", "*.png")
    os.utime(tmp_path / "settings.json", ns=(7, 7))
    claim_folder(tmp_path, {"theta": 0.4}, "pseudo labels", "*.png")
    assert (tmp_path / "settings.json").stat().st_mtime_ns == 7


def test_a_folder_in_place_of_a_file_names_the_file_in_it(tmp_path):
    with pytest.raises(InputError, match=r"is a folder: expected the boxes file itself$"):
        existing_file(tmp_path, "boxes file", "boxes.jsonl")
    (tmp_path / "boxes.jsonl").touch()
    with pytest.raises(InputError, match=r"expected the boxes file itself; did you mean .*boxes\.jsonl\?$"):
        existing_file(tmp_path, "boxes file", "boxes.jsonl")
    assert existing_file(tmp_path / "boxes.jsonl", "boxes file") == tmp_path / "boxes.jsonl"


def test_two_processes_cannot_write_one_folder(tmp_path):
    folder = tmp_path / "out"
    words = rf"out is in use by process {os.getpid()} on {socket.gethostname()} since \d{{4}}-.* \(.*\): wait for"
    with hold_folder(folder):
        with pytest.raises(InputError, match=words), hold_folder(folder):
            pass
        with hold_folder(tmp_path / "other"):
            pass
        write_json(folder / "a.json", {})
    with hold_folder(folder):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "out"]


@pytest.mark.promise(
    "two at once", "one share (`--shard`) twice", "`... is in use by process ...`", "as the first leaves it"
)
def test_shares_of_one_folder_are_held_apart(tmp_path):
    with hold_folder(tmp_path, (0, 2)), hold_folder(tmp_path, (1, 2)):
        with pytest.raises(InputError, match="in use"), hold_folder(tmp_path, (1, 2)):
            pass


@pytest.mark.promise("two at once", "64 shares that start at once", "nothing; all work", "the shares")
def test_shares_that_start_together_wait_for_each_other(tmp_path):
    """Of 64 that started at once on a busy machine, 54 were told that the folder was in use."""
    taken = threading.Event()

    def pass_slowly():
        with files._locked(tmp_path / files.LOCK, passing=True):
            taken.set()
            time.sleep(0.8)

    other = threading.Thread(target=pass_slowly)
    other.start()
    taken.wait()
    with hold_folder(tmp_path, (0, 64)):
        pass
    other.join()


@pytest.mark.parametrize(("first", "second"), [((0, 1), (0, 2)), ((0, 2), (0, 1)), ((1, 4), (0, 1))])
@pytest.mark.promise(
    "two at once", "a share beside the whole", "`... is in use by process ...`", "as the first leaves it"
)
def test_a_share_and_the_whole_keep_each_other_out(tmp_path, first, second):
    with hold_folder(tmp_path, first), atomic_path(tmp_path / "a") as part:
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} on"), hold_folder(tmp_path, second):
            pass
        part.write_text("whole")
    with hold_folder(tmp_path, second):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.promise(
    "two at once", "a command beside one that writes a folder below", "nothing", "what the other is writing stays"
)
def test_what_another_process_is_writing_below_a_folder_is_left_alone(tmp_path):
    with hold_folder(tmp_path / "run"), atomic_path(tmp_path / "run" / "a") as part:
        (tmp_path / "sheets").mkdir()
        (tmp_path / "sheets" / ".wsfp-1.part").touch()  # of a killed one
        with hold_folder(tmp_path):
            pass
        assert part.exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "run", "sheets"]


@pytest.mark.promise(
    "kills and faults", "a disk too full for a lock", "`could not write ... (No space left on device)`", "as it was"
)
def test_a_full_disk_leaves_no_lock_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(InputError, match=r"could not write .*out \(No space left"), hold_folder(tmp_path / "out"):
            pass
    assert not list(tmp_path.iterdir())
    with hold_folder(tmp_path / "out"):
        pass


def test_a_lock_that_ends_while_it_is_looked_at_is_still_a_sentence(tmp_path, monkeypatch):
    with hold_folder(tmp_path):
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: open(tmp_path / "gone"))
        with pytest.raises(InputError, match="in use by another process"), hold_folder(tmp_path):
            pass


HOLDS_AND_WAITS = """
import sys, time
from wsfp_helpers.common.files import atomic_path, hold_folder
with hold_folder(sys.argv[1]), atomic_path(sys.argv[1] + "/a") as part:
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.promise(
    "kills and faults",
    "`kill -9` of a process that holds a folder",
    "nothing; the folder is free at once",
    "its lock, and a `.part` file, which the next command removes",
)
def test_a_killed_process_frees_its_folder_and_leaves_nothing_half_written(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_AND_WAITS, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"in use by process {process.pid} on"), hold_folder(tmp_path):
            pass
        process.kill()
    assert len(list(tmp_path.iterdir())) == 2  # its lock, which counts no more, and half a file
    (tmp_path / ".theirs.part").touch()
    with hold_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".theirs.part"]


WRITES_AND_IS_KILLED = """
import os, signal, sys
from wsfp_helpers.common.files import atomic_path
with atomic_path(sys.argv[1]) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_kills_leave_beside_a_file_does_not_add_up(tmp_path):
    target = tmp_path / "a.json"
    for _ in range(2):
        call = [sys.executable, "-c", WRITES_AND_IS_KILLED, target]
        assert subprocess.run(call, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 1
    with atomic_path(target) as part:
        assert part.read_bytes() == b""
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and target.read_text() == "whole"


def test_two_that_write_one_file_at_once_do_not_meet(tmp_path):
    target = tmp_path / "a"
    with atomic_path(target) as first, atomic_path(target) as second:
        first.write_text("first")
        second.write_text("second")
        assert first.read_text() == "first"
    assert target.read_text() == "first" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("plant", ["symlink_to", "hardlink_to"])
def test_a_link_in_place_of_a_temporary_file_is_not_written_through(tmp_path, plant):
    (tmp_path / "theirs").write_text("theirs")
    with atomic_path(tmp_path / "a") as part:
        pass
    getattr(part, plant)(tmp_path / "theirs")
    write_json(tmp_path / "a", {})
    assert (tmp_path / "theirs").read_text() == "theirs" and read_json(tmp_path / "a") == {}


def test_a_folder_that_a_killed_process_was_filling_is_removed(tmp_path):
    with temporary_folder(tmp_path) as place:
        (place / "deep").mkdir()
        (place / "deep" / "a").write_text("half")
        shutil.copytree(place, place.with_name(".wsfp-2.part"))
    assert [path.name for path in tmp_path.iterdir()] == [".wsfp-2.part"]
    with hold_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["run", "maps"])
def test_bad_input_gives_a_claimed_folder_back(tmp_path, how):
    def claim(folder):
        start_run(folder, {}) if how == "run" else claim_folder(folder, {}, "maps", "*.png")

    folder = tmp_path / "out"
    with pytest.raises(InputError, match="bad"), hold_folder(folder):
        claim(folder)
        raise InputError("bad")
    assert not folder.exists()
    with hold_folder(folder):
        claim(folder)
    before = sorted(os.listdir(folder))
    with pytest.raises(InputError, match="bad"), hold_folder(folder):
        raise InputError("bad")
    assert sorted(os.listdir(folder)) == before and len(before) == 1
    with pytest.raises(InputError, match="bad"), hold_folder(tmp_path / "other"):
        claim(tmp_path / "other")
        write_json(tmp_path / "other" / "a.json", {})
        raise InputError("bad")
    assert len(os.listdir(tmp_path / "other")) == 2


def test_half_a_line_is_cut_off_before_the_next(tmp_path):
    path = tmp_path / "rows.jsonl"
    for left in ("", '{"a"', '{"a": 1}\n', '{"a": 1}\n{"a"'):
        path.write_text(left)
        append_row(path, {"b": 2})
        assert read_whole_rows(path, "rows") == [{"a": 1}] * (":" in left) + [{"b": 2}]


def test_a_folder_that_nothing_was_written_to_does_not_stay(tmp_path):
    with pytest.raises(ValueError, match="no"), hold_folder(tmp_path / "a" / "b"):
        raise ValueError("no")
    (tmp_path / "c").mkdir()
    with hold_folder(tmp_path / "c"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("place", ["file", "file/deep", "loop", "x" * 300, "/".join(["x" * 100] * 50), "/proc/none"])
def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"could not write .* \(\w.*\): check the path"), hold_folder(tmp_path / place):
        pass


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "\U0001f600" * 63])
def test_a_name_of_any_legal_length_can_be_written(tmp_path, name):
    write_json(tmp_path / name, {})
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("place", ["x" * 300, "loop", "null\0byte", "/".join(["x" * 100] * 50)])
def test_a_path_that_cannot_be_opened_is_not_called_missing(tmp_path, place):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"cannot be opened as label map \(\w.*\): check its name and permissions"):
        existing_file(tmp_path / place, "label map")


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("{}")

    def denied(self, *_):  # chmod does not keep root out
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", denied)
    for read in (existing_file, read_json):
        with pytest.raises(
            InputError, match=r"a\.json cannot be opened as .*file \(Permission denied\): check its name"
        ):
            read(tmp_path / "a.json")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is a pipe or device: expected the label map itself, a plain file"):
        existing_file(tmp_path / "pipe", "label map")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe{", b"{'a': 1}", b"[" * 200_000, b'{"a":' * 200_000, b"1" * 10_000, b"\0"], ids=len
)
def test_whatever_is_no_json_is_one_sentence(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is not valid JSON \(.*\): write it again"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("line", [b"[1]", b"3", b"{", b"\xff", b"[" * 200_000, b""], ids=len)
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    append_row(path, {"a": "ä"})
    assert read_whole_rows(path, "rows") == [{"a": "ä"}]
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2 is no JSON object: restore the file, or remove it"):
        read_whole_rows(path, "rows")


def test_an_array_that_is_damaged_is_named(tmp_path):
    array = np.arange(12.0).reshape(3, 4)
    files.write_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(files.read_array(tmp_path / "a.npy"), array)
    whole = (tmp_path / "a.npy").read_bytes()
    for content in (b"", b"text", whole[:20], whole[:-8]):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npy is no array, or not whole: remove it"):
            files.read_array(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npy", array)
    with pytest.raises(InputError, match="archive of some"):
        files.read_array(tmp_path / "b.npy.npz")
    with pytest.raises(InputError, match="no array at"):
        files.read_array(tmp_path / "c.npy")

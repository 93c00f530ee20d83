"""Shards give what the files give, without a label map, and other tools read them."""

import json
import tarfile

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.fixtures import make_celebamask, make_folder
from tests.test_stages import FakeDetector
from wsfp_helpers import cli, stages
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data import celebamask
from wsfp_helpers.data.folder import folder
from wsfp_helpers.data.shards import INDEX, shard_path, shards, write_shards
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.profiles import Source, source


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    return folder(make_folder(tmp_path / "mine"))


def test_the_same_set_in_any_order(files, tmp_path):
    sharded = shards(write_shards(files.weak, tmp_path / "shards", a_shard=3))
    assert type(sharded.weak) is WeakFaces and sharded.name == files.name and sharded.ids == files.ids
    assert np.array_equal(sharded.labels, files.labels) and sharded.scheme is files.scheme
    for i in (3, 0, 2, 1):
        assert np.array_equal(sharded.image(i), files.image(i))
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        "000000.tar", "000001.tar", INDEX, "settings.json"
    ]  # fmt: skip


@pytest.mark.promise("security", "shards of a set with label maps", "-", "no label map in them")
def test_there_is_no_label_map_in_shards(files, tmp_path):
    made = write_shards(files.weak, tmp_path / "shards")
    with tarfile.open(shard_path(made, 0)) as tar:
        assert [member.name for member in tar] == ["a.jpg", "b.png", "c.webp", "d.tiff"]
    with np.load(made / INDEX) as index:
        assert max(index[name].size for name in index.files) <= 4 * 18
    with pytest.raises(InputError, match="holds no label maps: for that of a open the set"):
        shards(made).label_map(0)


def test_the_library_webdataset_reads_them(files, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    made = write_shards(files.weak, tmp_path / "shards", a_shard=2)
    urls = [str(shard_path(made, number)) for number in range(2)]
    found = {sample["__key__"]: sample for sample in webdataset.WebDataset(urls, shardshuffle=False)}
    assert list(found) == list(files.ids)
    original = (tmp_path / "mine/images/a.JPG").read_bytes()
    assert found["a"]["jpg"] == original


def test_writing_goes_on_and_keeps_other_sets_out(files, tmp_path, monkeypatch):
    out = tmp_path / "shards"
    write_shards(files.weak, out, a_shard=2)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / INDEX).unlink()
    shard_path(out, 1).unlink()
    first = shard_path(out, 0).stat().st_mtime_ns
    write_shards(files.weak, out, a_shard=2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert shard_path(out, 0).stat().st_mtime_ns == first
    with pytest.raises(InputError, match="choose another folder"):
        write_shards(files.weak.subset([0, 1]), out, a_shard=2)
    with pytest.raises(InputError, match="no files of their own"):
        write_shards(synthfaces().weak, tmp_path / "other")


def test_what_is_not_whole_is_a_sentence(files, tmp_path):
    out = write_shards(files.weak, tmp_path / "shards", a_shard=2)
    whole = shard_path(out, 1).read_bytes()
    shard_path(out, 1).write_bytes(whole[:-512])
    with pytest.raises(InputError, match=r"000001\.tar has .* bytes instead of .*: copy it again"):
        shards(out)
    shard_path(out, 1).write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"000001\.tar cannot be read as a shard .*: remove it"):
        write_shards(files.weak, out, a_shard=2)
    shard_path(out, 1).write_bytes(shard_path(out, 0).read_bytes()[:1024] + bytes(10_240))
    with pytest.raises(InputError, match="instead of 2: remove it"):
        write_shards(files.weak, out, a_shard=2)
    shard_path(out, 1).unlink()
    with pytest.raises(InputError, match=r"no shard at .*000001\.tar"):
        shards(out)
    for content in (b"", b"no index", (out / INDEX).read_bytes()[:-40]):
        (out / INDEX).write_bytes(content)
        with pytest.raises(InputError, match=r"index\.npz is no index of shards, or not whole: write it again"):
            shards(out)
    np.savez(out / INDEX, facts=json.dumps({"name": "x"}), ids=np.array(["a"]), labels=0, places=0, sizes=0)
    with pytest.raises(InputError, match="is no index of shards"):
        shards(out)
    (out / INDEX).unlink()
    with pytest.raises(InputError, match=r"no index of shards \(`wsfp data shard` writes it\) at"):
        shards(out)


def test_a_damaged_picture_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    root = make_folder(tmp_path / "mine")
    faces = folder(root)
    (root / "images/b.png").write_bytes(b"no picture")
    sharded = shards(write_shards(faces.weak, tmp_path / "shards"))
    with pytest.raises(InputError, match=r"b in .*000000\.tar cannot be read as an image"):
        sharded.image(1)
    (root / "images/c.webp").unlink()
    with pytest.raises(InputError, match=r"no picture at .*c\.webp"):
        write_shards(faces.weak, tmp_path / "others")
    assert not list((tmp_path / "others").glob("*.tar"))


def test_a_stage_never_knows(tmp_path, monkeypatch):
    """The command makes shards of CelebAMask-HQ, and CCD gives the same from them as from the files, bit for bit."""
    counts = {"train": 2, "val": 1, "test": 1}
    monkeypatch.setattr(celebamask.split_ids, "__defaults__", (counts,))
    monkeypatch.setattr(celebamask.celebamask, "__defaults__", ("train", None, counts))
    monkeypatch.setenv("WSFP_DATA", str(tmp_path))
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stages, "load_detector", lambda *_: FakeDetector())
    make_celebamask(tmp_path / "CelebAMask-HQ")
    arguments = ["data", "shard", "celebamask/train", "--out", str(tmp_path / "shards/celebamask-train")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert source("shards/celebamask-train").open().ids == source("celebamask/train").open().ids == ("0", "2001")
    for name, data in (("files", Source("celebamask", "train")), ("shards", Source("shards", "celebamask-train"))):
        settings = ["--set", f"train_data.name={data.name}", "--set", f"train_data.split={data.split}"]
        settings += ["--set", "detector=embedded"]
        command = ["ccd", "--profile", "paper", "--out", str(tmp_path / f"of-{name}"), "--images", *settings]
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, result.output
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / f"of-{name}").rglob("*") if path.is_file()}
        for name in ("files", "shards")
    )
    assert one == other and len(one) == 5

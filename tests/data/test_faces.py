import pickle
import socket
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import skimage.data

from wsfp_helpers.common.cache import cache_dir, label_table
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.faces import Faces, announce, present_classes
from wsfp_helpers.data.photograph import astronaut
from wsfp_helpers.data.sets import NAMES, open_dataset
from wsfp_helpers.data.synthfaces import SPLITS, synthfaces
from wsfp_helpers.data.weak import WeakFaces, uniform_subset
from wsfp_helpers.labels import CELEBAMASK, LAPA, K


def read(key):
    return np.full((4, 4, 3), int(key), np.uint8)


def read_map(key):
    return np.full((4, 4), int(key), np.uint8)


def faces(n=5, **changes):
    arguments = dict(name="set", ids=[str(i) for i in range(n)], read=read, labels=np.eye(n, K), licence="CC0")
    age = np.arange(n)
    return Faces(WeakFaces(**arguments | changes), read_map, attributes={"age": age}, groups={"young": age < 3})


def test_subset_keeps_order_labels_and_attributes():
    part = faces().subset([3, 1])
    assert part.ids == ("3", "1") and len(part) == 2 and part.licence == "CC0"
    assert part.image(0)[0, 0, 0] == 3 and part.label_map(1)[0, 0] == 1
    assert part.labels[0].argmax() == 3 and part.attributes["age"].tolist() == [3, 1]
    assert part.groups["young"].tolist() == [False, True]


def test_weak_faces_have_no_label_map():
    weak = faces().weak
    assert type(weak) is WeakFaces and weak.ids == faces().ids and np.array_equal(weak.labels, faces().labels)
    assert not hasattr(weak, "label_map") and not any(value is read_map for value in vars(weak).values())
    assert type(weak.subset([0])) is WeakFaces and not isinstance(faces(), WeakFaces)


def test_sets_cannot_be_changed():
    for target, name in ((faces(), "weak"), (faces(), "scored"), (faces().weak, "labels")):
        with pytest.raises(FrozenInstanceError):
            setattr(target, name, None)


def test_bad_tables_are_sentences():
    with pytest.raises(InputError, match="set has no images"):
        WeakFaces("set", [], read, np.zeros((0, K)))
    with pytest.raises(InputError, match="lists the id 'b' twice"):
        WeakFaces("set", ["a", "b", "b"], read, np.zeros((3, K)))
    with pytest.raises(InputError, match=r"label table has shape \(2, 18\), expected \(2, 10\)"):
        WeakFaces("set", ["a", "b"], read, np.zeros((2, K)), LAPA)


def test_label_value_out_of_range_names_the_picture():
    with pytest.raises(InputError, match="label map of 30 has label value 30"):
        faces(ids=["1", "30"], n=2).label_map(1)


def test_present_classes_counts_pixels():
    label_map = np.array([[0, 1, 1], [255, 18, 2]], np.uint8)
    assert np.flatnonzero(present_classes(label_map)).tolist() == [0, 1, 17]
    assert np.flatnonzero(present_classes(label_map, minimum=2)).tolist() == [0]
    assert present_classes(label_map, LAPA).shape == (10,)


def test_uniform_subset_is_the_rule_of_the_design_notes():
    indices = uniform_subset(24183, 3820)
    assert [int(indices[i]) for i in (0, 1, 1234, 3819)] == [i * 24183 // 3820 for i in (0, 1, 1234, 3819)]
    assert len(np.unique(indices)) == 3820 and set(np.diff(indices)) == {6, 7}
    assert np.array_equal(uniform_subset(5, 5), np.arange(5))
    for count in (0, 6):
        with pytest.raises(InputError, match=f"subset of {count} images.*expected 1 to 5"):
            uniform_subset(5, count)


def test_licence_is_printed_once(capsys):
    announce("licence of this test")
    announce("licence of this test")
    assert capsys.readouterr().out.count("licence of this test") == 1


def test_label_table_is_computed_once_and_again_when_a_file_changes(tmp_cache, tmp_path):
    calls = []

    def row(key):
        calls.append(key)
        return np.array([key == "a", 1], np.uint8)

    source = tmp_path / "source"
    source.write_text("1")
    expected = [[1, 1], [0, 1]]
    assert label_table("t", ["a", "b"], row, [source]).tolist() == expected and len(calls) == 2
    assert label_table("t", ["a", "b"], row, [source]).tolist() == expected and len(calls) == 2
    source.write_text("22")
    label_table("t", ["a", "b"], row, [source])
    assert len(calls) == 4
    assert label_table("t", ["b"], row, [source]).tolist() == [[0, 1]] and len(calls) == 5
    assert cache_dir() == tmp_cache and not list(tmp_path.glob("*.npy"))


@pytest.mark.promise(
    "kills and faults", "Ctrl-C while a set is opened for the first time", "a sentence", "nothing of the label table"
)
def test_interrupted_label_table_leaves_nothing(tmp_cache):
    def row(key):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_table("t", ["a"], row, [])
    assert not [path for path in tmp_cache.rglob("*") if path.is_file()]


def test_damaged_label_table_is_computed_anew(tmp_cache):
    def row(key):
        return np.ones(3, np.uint8)

    label_table("t", ["a"], row, [])
    (stored,) = tmp_cache.rglob("*.npy")
    stored.write_bytes(stored.read_bytes()[:20])
    assert label_table("t", ["a"], row, []).tolist() == [[1, 1, 1]]


def test_open_dataset_refuses_what_it_cannot_open(tmp_path):
    with pytest.raises(InputError, match="unknown data set 'celeba': expected one of synthfaces"):
        open_dataset("celeba")
    for name in set(NAMES) - {"synthfaces", "frl-london"}:
        with pytest.raises(InputError, match="needs the folder of your own copy"):
            open_dataset(name)
        with pytest.raises(InputError, match=r"no .* at .*nowhere"):
            open_dataset(name, tmp_path / "nowhere")
    for name in ("frl-london", "folder"):
        with pytest.raises(InputError, match="has no splits, got 'train'"):
            open_dataset(name, tmp_path, "train")
    with pytest.raises(InputError, match="unknown split 'celeb/trains'"):
        open_dataset("synthfaces", split="celeb/trains")
    for count in ("x", "²", "٣", "-1", "1" * 5000):
        with pytest.raises(InputError, match=f"unknown split 'train-{count}'"):
            open_dataset("celebamask", tmp_path, f"train-{count}")


def test_synthfaces_splits_and_sizes():
    sizes = {split: len(synthfaces(split)) for split in SPLITS}
    assert sizes == dict(zip(SPLITS, (456, 686, 228, 228, 152, 152), strict=True))
    ids = [key for split in SPLITS for key in synthfaces(split).ids]
    identities = [set(synthfaces(split).attributes["identity"]) for split in SPLITS[:4]]
    assert len(set(ids)) == len(ids) == 1902
    assert sum(map(len, identities)) == len(set.union(*identities))


def test_synthfaces_labels_agree_with_maps():
    data = open_dataset("synthfaces", split="celeb/val")
    for i in range(0, len(data), 23):
        image, label_map = data.image(i), data.label_map(i)
        assert image.shape == (160, 160, 3) and image.dtype == label_map.dtype == np.uint8
        assert np.array_equal(present_classes(label_map, CELEBAMASK, 10), data.labels[i])


def test_faces_travel_to_worker_processes():
    data = synthfaces("celeb/val")
    twin = pickle.loads(pickle.dumps(data))
    assert np.array_equal(twin.image(7), data.image(7)) and np.array_equal(twin.label_map(7), data.label_map(7))
    assert b"/masks/" in pickle.dumps(data) and b"/masks/" not in pickle.dumps(data.weak)


def test_missing_and_damaged_pack(tmp_path):
    with pytest.raises(InputError, match="no pack of SynthFaces-19 at"):
        synthfaces(pack=tmp_path / "none.zip")
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="no complete pack of SynthFaces-19"):
        synthfaces(pack=tmp_path / "bad.zip")


def test_astronaut_needs_no_network(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("SKIMAGE_DATADIR", str(tmp_path))
    face = astronaut()
    assert face.shape == (208, 208, 3) and face.dtype == np.uint8 and face.flags["C_CONTIGUOUS"]
    assert astronaut(whole=True).shape == (512, 512, 3)
    face[:] = 0
    assert skimage.data.astronaut().any() and astronaut().any()

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pooch
import pytest
import requests
from skimage.draw import polygon2mask
from skimage.measure import label

from wsfp_helpers.cli import data_get
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data import frl
from wsfp_helpers.data.sets import open_dataset
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS, IGNORE

LOCAL = frl.find_frl_london()
needs_copy = pytest.mark.skipif(LOCAL is None, reason="no copy of FRL London in WSFP_DATA or the cache")


@pytest.fixture
def nothing_there(tmp_cache, monkeypatch):
    """No copy anywhere, and an empty cache."""
    monkeypatch.delenv("WSFP_DATA", raising=False)
    return tmp_cache


@pytest.fixture
def small_registry(monkeypatch):
    """A registry of three small files; gives their contents."""
    contents = {f"inst/neutral_front/{i:03d}_03.tem": f"content {i}".encode() for i in range(3)}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(frl, "registry", lambda: digests)
    return contents


@pytest.fixture
def server(monkeypatch, small_registry):
    """Stands in for the network: serves ``small_registry``; ``broken`` maps names to exceptions or other bytes."""

    class Server:
        def __init__(self):
            self.broken, self.served = {}, []

        def __call__(self, url, output_file, _pooch):
            assert url.startswith("https://raw.githubusercontent.com/debruine/webmorphR.stim/" + frl.COMMIT)
            name = url.removeprefix(frl.URL)
            self.served.append(name)
            answer = self.broken.get(name, small_registry[name])
            if isinstance(answer, BaseException):
                Path(output_file).write_bytes(b"half a fi")
                raise answer
            Path(output_file).write_bytes(answer)

    stand_in = Server()
    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: stand_in)
    return stand_in


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_fetch_downloads_every_file_once(nothing_there, server, small_registry):
    folder = frl.fetch_frl_london()
    assert {name: (folder / name).read_bytes() for name in small_registry} == small_registry
    assert frl.find_frl_london() == folder and nothing_there in folder.parents
    frl.fetch_frl_london()
    assert sorted(server.served) == sorted(small_registry)


@pytest.mark.promise("security", "`data get frl-london`", "the licence, before anything is fetched", "-")
def test_the_licence_is_shown_before_anything_is_fetched(nothing_there, monkeypatch, capsys):
    def downloader(**_):
        assert "CC BY 4.0" in capsys.readouterr().err
        raise requests.ConnectionError

    monkeypatch.setattr(pooch, "HTTPDownloader", downloader)
    with pytest.raises(InputError, match="could not download"):
        data_get("frl-london")


@pytest.mark.promise(
    "security", "a download of FRL London with another SHA-256", "a sentence with the file", "not kept"
)
def test_wrong_hash_is_refused_and_not_kept(nothing_there, server, small_registry):
    name = list(small_registry)[1]
    server.broken[name] = b"another content"
    with pytest.raises(InputError, match=rf"could not download {name} .*another SHA-256.*check the network"):
        frl.fetch_frl_london()
    assert files(nothing_there) == [Path(next(iter(small_registry))).name]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), requests.ConnectionError("no route to host")])
@pytest.mark.promise(
    "kills and faults",
    "a break of `data get frl-london`",
    "a sentence; goes on after the last whole file",
    "whole files",
)
def test_interrupted_download_goes_on_where_it_stopped(nothing_there, server, small_registry, stop):
    first, second, _ = small_registry
    server.broken[second] = stop
    expected = InputError if isinstance(stop, requests.RequestException) else KeyboardInterrupt
    with pytest.raises(expected):
        frl.fetch_frl_london()
    assert files(nothing_there) == [Path(first).name] and frl.find_frl_london() is None
    server.broken.clear()
    frl.fetch_frl_london()
    assert server.served.count(first) == 1 and len(files(nothing_there)) == 3


@pytest.mark.promise(
    "surroundings", "no network, for a download", "`... (ConnectionError): check the network ...`", "as it was"
)
def test_no_network_is_a_sentence(nothing_there, server, small_registry):
    server.broken[next(iter(small_registry))] = requests.ConnectionError("HTTPSConnectionPool(host=..., port=443): ...")
    with pytest.raises(InputError, match=r"\(ConnectionError\): check the network.*WSFP_DATA"):
        frl.fetch_frl_london()
    assert list(nothing_there.iterdir()) == []


def test_a_fault_of_the_disk_is_not_one_of_the_network(tmp_path, server, monkeypatch):
    (tmp_path / "frl_london").write_text("old")
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"could not write .*frl_london \(.*\): .*WSFP_CACHE") as error:
        frl.fetch_frl_london()
    assert "network" not in str(error.value) and "\n" not in str(error.value)
    assert (tmp_path / "frl_london").read_text() == "old"


@pytest.mark.promise(
    "kills and faults", "a damaged file of FRL London in the cache", "nothing; fetched again", "the file whole"
)
def test_damaged_file_in_the_cache_is_fetched_again(nothing_there, server, small_registry):
    folder = frl.fetch_frl_london()
    name = next(iter(small_registry))
    (folder / name).write_bytes(b"damaged")
    frl.fetch_frl_london()
    assert (folder / name).read_bytes() == small_registry[name]


def test_without_a_copy_the_sentence_says_what_to_do(nothing_there, tmp_path):
    with pytest.raises(InputError, match=r"no complete copy of FRL London.*wsfp data get frl-london.*WSFP_DATA"):
        open_dataset("frl-london")
    with pytest.raises(InputError, match="no table of FRL London at"):
        open_dataset("frl-london", tmp_path)


def test_registry_names_102_photographs_with_points():
    names = set(frl.registry())
    pictures = {name for name in names if name.endswith(".jpg")}
    assert len(pictures) == 102 and all(len(digest) == 64 for digest in frl.registry().values())
    assert {name.replace(".jpg", ".tem") for name in pictures} <= names
    assert set(frl.hidden_parts()) <= {Path(name).stem for name in pictures}
    assert set().union(*frl.hidden_parts().values()) <= {*frl.SCORED, frl.FOREHEAD}


def circle_points():
    """189 points that follow no face: enough to see which outline is drawn as which class."""
    turn = np.linspace(0, 2 * np.pi, frl.POINTS, endpoint=False)
    return 675 + np.stack([400 * np.cos(turn), 300 * np.sin(turn)], 1)


def test_broken_point_files(tmp_path):
    path = tmp_path / "a.tem"
    text = "189\n" + "\n".join(f"{x} {y}" for x, y in circle_points()) + "\n2\n0 1 2\n"
    path.write_text(text)
    assert np.allclose(frl.read_points(path), circle_points())
    lines = text.splitlines(keepends=True)
    for bad, sentence in {
        "": r"a\.tem is not a \.tem point file",
        "<html>": r"a\.tem is not a \.tem point file",
        "".join(lines[:50]): r"points of shape \(49, 2\): expected \(189, 2\)",
        "".join(lines[:50]) + lines[50].split()[0]: r"a\.tem is not a \.tem point file",
        "2\n1 2\n3 4\n": r"points of shape \(2, 2\): expected \(189, 2\)",
        text.replace(lines[9], "nan 2\n"): r"a\.tem has points that are no pixels of a photograph",
        text.replace(lines[9], "1 -inf\n"): r"a\.tem has points that are no pixels of a photograph",
        text.replace(lines[9], "1e9 2\n"): r"a\.tem has points that are no pixels of a photograph",
    }.items():
        path.write_text(bad)
        with pytest.raises(InputError, match=sentence):
            frl.read_points(path)
    with pytest.raises(InputError, match="no point file at"):
        frl.read_points(tmp_path / "none.tem")
    with pytest.raises(InputError, match="is a folder: expected the point file itself"):
        frl.read_points(tmp_path)


def test_a_hidden_part_is_ignored_where_it_was_drawn():
    points, skin = circle_points(), CELEBAMASK.index("skin")
    whole = frl.draw_label_map(points)
    for name in frl.SCORED:
        k = CELEBAMASK.index(name)
        assert (whole == k).any()
        assert np.array_equal(frl.draw_label_map(points, {name}), np.where(whole == k, IGNORE, whole)), name
    forehead = frl.fill(frl.outlines(points)[frl.FOREHEAD], whole.shape)
    hidden = frl.draw_label_map(points, {frl.FOREHEAD})
    changed = hidden != whole
    assert (whole[forehead] == skin).any() and not (hidden[forehead] == skin).any()
    assert set(hidden[changed]) == {IGNORE} and not changed[~forehead].any()


def test_age_bands():
    bands = {17.5: "unknown", 18: "18-24", 24.9: "18-24", 25: "25-34", 45.0: "45-54", float("nan"): "unknown"}
    assert {age: frl.age_band(age) for age in bands} == bands


def test_curve_goes_through_its_points_and_closes():
    points = np.array([[0, 0], [100, 10], [120, 90], [10, 80]], float)
    for closed in (False, True):
        curve = frl._curve(points, closed, step=0.5)
        distance = np.linalg.norm(points[:, None] - curve[None], axis=2).min(1)
        assert distance.max() < 0.5
        assert (np.linalg.norm(curve[0] - curve[-1]) < 1) == closed


@pytest.mark.parametrize("seed", range(4))
def test_fill_asks_every_pixel(seed):
    # A star that leaves the picture and crosses itself; no vertex on a pixel's centre, so no tie.
    rng = np.random.default_rng(seed)
    outline = rng.uniform(-10, 50, (9, 2))
    inside = frl.fill(outline, (30, 40))
    assert np.array_equal(inside, polygon2mask((30, 40), outline[:, ::-1])) and inside.any() and not inside.all()


@needs_copy
def test_local_files_are_those_of_the_registry():
    for name, digest in frl.registry().items():
        assert hashlib.sha256((LOCAL / name).read_bytes()).hexdigest() == digest, name


@needs_copy
def test_maps_of_real_faces():
    faces = open_dataset("frl-london")
    assert len(faces) == 102 and len(set(faces.attributes["gender"])) >= 2
    for i in range(0, 102, 25):
        image, label_map = faces.image(i), faces.label_map(i)
        assert image.shape == (1350, 1350, 3) and label_map.shape == (1350, 1350)
        values = set(np.unique(label_map).tolist())
        names = {CELEBAMASK.classes[k] for k in values - {0, IGNORE}}
        assert names <= set(frl.SCORED) and IGNORE in values
        assert names == {name for name, y in zip(COMPONENTS, faces.labels[i], strict=True) if y}
        pieces = np.sort(np.bincount(label(label_map == CELEBAMASK.index("skin"), connectivity=1).ravel())[1:])
        assert pieces[-1] > 50_000 and pieces[:-1].sum() < 50  # no slivers between the curves
        centre = {name: np.argwhere(label_map == CELEBAMASK.index(name)).mean(0) for name in names}
        for left, right in CELEBAMASK.pairs:
            if {left, right} <= names:
                assert centre[left][1] > centre["nose"][1] > centre[right][1]
        order = ["l_brow", "l_eye", "nose", "u_lip", "l_lip", "neck"]
        rows = [centre[name][0] for name in order if name in centre]
        assert rows == sorted(rows) and len(rows) >= 5


@needs_copy
def test_hidden_parts_of_real_faces():
    faces, skin = open_dataset("frl-london"), CELEBAMASK.index("skin")
    for key in ("001_03", "003_03"):  # nothing, and brows, ears and forehead
        i, hidden = faces.ids.index(key), frl.hidden_parts().get(key, set())
        label_map = faces.label_map(i)
        names = {CELEBAMASK.classes[k] for k in np.unique(label_map) if k not in (0, IGNORE)}
        assert names == set(frl.SCORED) - hidden
        outline = frl.outlines(frl.read_points(LOCAL / "inst" / "neutral_front" / f"{key}.tem"))[frl.FOREHEAD]
        assert (label_map[frl.fill(outline, label_map.shape)] == skin).any() == (frl.FOREHEAD not in hidden)
    assert {"l_brow", "r_ear", frl.FOREHEAD} <= frl.hidden_parts()["003_03"] and "001_03" not in frl.hidden_parts()


@needs_copy
def test_the_skin_begins_well_inside_the_hairline():
    faces = open_dataset("frl-london")
    for i in range(0, 102, 25):
        label_map, key = faces.label_map(i), faces.ids[i]
        points = frl.read_points(LOCAL / "inst" / "neutral_front" / f"{key}.tem")
        top, eyes = points[134:145], points[:2].mean(0)
        for share in (0.005, 0.05, 0.1):
            x, y = np.round(top + share * (eyes - top)).astype(int).T
            assert set(label_map[y, x]) == {IGNORE}


@needs_copy
def test_corners_of_the_drawn_parts_are_the_points_themselves():
    stem = sorted(Path(name).stem for name in frl.registry() if name.endswith(".tem"))[10]
    points = frl.read_points(LOCAL / "inst" / "neutral_front" / f"{stem}.tem")
    outline = frl.outlines(points)
    for name, corners in {"l_eye": (23, 27), "r_eye": (18, 22), "u_lip": (87, 93), "l_brow": (77, 82)}.items():
        for corner in corners:
            assert np.linalg.norm(outline[name] - points[corner], axis=1).min() < 1e-6
    # The points 0 and 1 are the pupils: subject's right and left.
    label_map = frl.draw_label_map(points)
    for pupil, name in zip(points[:2], ("r_eye", "l_eye"), strict=True):
        assert label_map[round(pupil[1]), round(pupil[0])] == CELEBAMASK.index(name)


@needs_copy
def test_faces_travel_to_worker_processes():
    faces = open_dataset("frl-london")
    assert np.array_equal(pickle.loads(pickle.dumps(faces)).label_map(5), faces.label_map(5))


@pytest.mark.parametrize(
    "table",
    [
        b"", b"x,y\n1,2\n", b"face_id,face_age,face_gender,face_eth\n001,old,female,white\n", b"\xff\xfe\x00",
        b"face_id,face_age,face_gender,face_eth\n001\n", b'face_id,face_age,face_gender,face_eth\n"001',
        b"face_id,face_age,face_gender,face_eth\n../001,20,female,white\n",
    ],
)  # fmt: skip
def test_a_damaged_table_is_named(table, tmp_path):
    (tmp_path / "data-raw").mkdir()
    (tmp_path / "data-raw" / "london_info.csv").write_bytes(table)
    with pytest.raises(InputError, match=r"london_info.csv is not the table of FRL London, or was edited: remove it"):
        frl.frl_london(tmp_path)

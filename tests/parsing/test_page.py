"""The page: its looks are those of `wsfp parse`, it is written whole, and nothing leaves it after loading."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.browser import find_chromium
from tools.page_check import arrive, visit
from wsfp_helpers.common.cache import find
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import write_json
from wsfp_helpers.common.pictures import read_label_map
from wsfp_helpers.data.frl import find_frl_london
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing import page as module
from wsfp_helpers.parsing.export import Agreement, metadata
from wsfp_helpers.parsing.page import fetch_runtime, write_page
from wsfp_helpers.parsing.photographs import find_doubt, parse_photographs
from wsfp_helpers.parsing.zoom import to_canvas

from .test_photographs import Grey, photograph

RUNTIME = find(f"{module.PACKAGE}-{module.VERSION}.tgz")


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_the_looks_of_the_page_are_those_of_python(tmp_path):
    rng = np.random.default_rng(0)
    pictures = {
        "portrait": photograph(60, 40, eyes=True),
        "wide": photograph(50, 90, (10, 40), (30, 60)),
        "large": photograph(700, 900, (200, 600), (300, 620), eyes=True),
        "small_face": photograph(300, 200, (100, 140), (120, 150)),
        "at_the_border": photograph(90, 90, (0, 40), (50, 90)),
        "no_face": photograph(80, 80, (0, 3), (0, 3)),
        "tiny": photograph(20, 25, (5, 15), (5, 15)),
        "plain": Image.new("RGB", (60, 60), "orange"),
    }
    pictures["noisy"] = Image.fromarray(
        np.clip(np.array(photograph(120, 100, (30, 90), (25, 75))) + rng.integers(-39, 40, (120, 100, 3)), 0, 255)
        .astype(np.uint8)
    )  # fmt: skip
    facts = json.loads(metadata({}, "float16")["wsfp"])
    write_json(tmp_path / "facts.json", facts | {"pictures": {name: p.size[::-1] for name, p in pictures.items()}})
    for name, picture in pictures.items():
        (tmp_path / f"{name}.rgb").write_bytes(picture.tobytes())
    script = Path(__file__).with_name("looks.mjs")
    subprocess.run(["node", script, module.SOURCES / "looks.js", tmp_path], check=True, timeout=120)
    answers = json.loads((tmp_path / "answers.json").read_text())
    for name, picture in pictures.items():
        grey, image, size = Grey(), np.array(picture), picture.size[::-1]
        parsed = grey.parse(image)
        labels, confidence = parsed.label_map()
        with Image.open(tmp_path / f"{name}.png") as png:
            assert png.mode == "P" and png.getpalette()[:57] == PALETTE.ravel().tolist()
        found = read_label_map(tmp_path / f"{name}.png", len(CELEBAMASK))
        assert (found == labels).mean() > 0.999, name
        sure = np.fromfile(tmp_path / f"{name}.f32", np.float32).reshape(confidence.shape)
        assert np.median(np.abs(sure - confidence)) < 1e-4, name
        answer = answers[name]
        assert answer["views"] == grey.seen and answer["doubt"] == find_doubt([parsed], to_canvas(image, size), size), (
            name
        )
        assert answer["face"] == (None if parsed.face is None else pytest.approx(parsed.face)), name
        assert answer["certainty"] == pytest.approx(parsed.certainty, abs=1e-3), name
    assert {answer["doubt"].split(":")[0] for answer in answers.values()} > {
        "", "no face was found", "hardly any eyes were found"
    }  # fmt: skip


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A package in the cache whose hash is the expected one."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("WSFP_CACHE", str(cache))
    monkeypatch.delenv("WSFP_DATA", raising=False)
    cache.mkdir()
    path = cache / f"{module.PACKAGE}-{module.VERSION}.tgz"
    with tarfile.open(path, "w:gz") as package:
        for name in module.RUNTIME:
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            package.addfile(member, io.BytesIO(name.encode()))
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_a_page_is_written_whole_with_the_hash_of_every_file(runtime, tmp_path, monkeypatch):
    def export(parsers, path, weights):
        path.write_text(f"{list(parsers)} {weights}")
        return Agreement(1, 100, 0)

    monkeypatch.setattr(module, "export", export)
    write_page(out := tmp_path / "page", "int8")
    assert (out / "parsers.onnx").read_text() == "['weak', 'supervised'] int8"
    assert (out / module.RUNTIME[0]).read_text() == module.RUNTIME[0]
    assert json.loads((out / "facts.json").read_text())["classes"] == list(CELEBAMASK.classes)
    lines = [line.split("  ") for line in (out / "hashes.txt").read_text().splitlines()]
    assert all(hashlib.sha256((out / name).read_bytes()).hexdigest() == digest for digest, name in lines)
    assert {name for _, name in lines} | {"hashes.txt", "settings.json"} == {path.name for path in out.iterdir()}
    write_page(out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text("mine")
    with pytest.raises(InputError, match="choose another folder"):
        write_page(tmp_path / "other")


@pytest.mark.promise(
    "security", "another ONNX Runtime than the tested one, for `page`", "`... is damaged or another file`", "as it was"
)
def test_another_runtime_than_the_tested_one_is_refused(runtime, monkeypatch):
    runtime.write_bytes(b"something else")
    with pytest.raises(InputError, match="is damaged or another file"):
        fetch_runtime()
    runtime.unlink()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="install npm and check the network, or put onnxruntime-web"):
        fetch_runtime()


def test_the_licence_is_shown_and_what_npm_gives_is_held_against_the_hash(runtime, monkeypatch, capsys):
    content = runtime.read_bytes()
    runtime.unlink()

    def npm(command, **_):
        assert "MIT licence" in capsys.readouterr().err
        Path(command[-1], runtime.name).write_bytes(given)

    monkeypatch.setattr(module.subprocess, "run", npm)
    given = b"another"
    with pytest.raises(InputError, match="npm gave another onnxruntime-web"):
        fetch_runtime()
    assert not runtime.exists()
    given = content
    assert fetch_runtime() == runtime and runtime.read_bytes() == content


def test_every_file_that_the_page_names_is_written():
    sources = {path.name: path.read_text(encoding="utf-8") for path in module.SOURCES.iterdir() if path.is_file()}
    written = {*sources, *module.RUNTIME, "parsers.onnx", "facts.json", "example.jpg"}
    for name in written - {"serve.py", "index.html"}:
        assert any(name in text for other, text in sources.items() if other != name), name
    assert "://" not in "".join(sources[name] for name in sources if name.endswith((".html", ".css", ".js")))


in_a_browser = pytest.mark.skipif(
    not (find_chromium() and RUNTIME), reason="needs chromium, and the runtime that wsfp page fetches"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    write_page(page := tmp_path_factory.mktemp("page"))
    return page


@in_a_browser
@pytest.mark.timeout(1800)
@pytest.mark.promise(
    "determinism", "the web page and `wsfp parse` on one photograph", "-", "more than 99 % of pixels alike"
)
def test_in_a_browser_nothing_leaves_the_page_and_the_maps_are_those_of_python(written, tmp_path):
    seen = visit(written, tmp_path / "shots", written / "example.jpg")
    assert seen.late == [] and seen.complaints == [] and not seen.wide and seen.threads >= 1
    middle, right, moved = seen.pointed
    assert "learnt without masks" in moved and middle != right
    buttons = [f"Download the map learnt {how}" for how in ("without masks", "with masks")]
    assert seen.reached == ["file", "camera", "example", "view", "split", "shade", *buttons]
    parse_photographs(written / "example.jpg", tmp_path / "maps")
    for name, found in seen.maps.items():
        expected = read_label_map(tmp_path / "maps" / name / "example.png", len(CELEBAMASK))
        assert (expected == found).mean() > 0.99


@in_a_browser
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not find_frl_london(), reason="needs a copy of FRL London")
def test_of_a_real_person_the_page_says_what_python_says(written, tmp_path):
    real = min(find_frl_london().glob("inst/neutral_front/*.jpg"))
    seen, report = visit(written, tmp_path / "shots", real), parse_photographs(real, tmp_path / "maps")
    assert seen.late == [] and seen.complaints == [] and bool(seen.doubt) == bool(report.warnings)
    for name, found in seen.maps.items():
        expected = read_label_map(tmp_path / "maps" / name / f"{real.stem}.png", len(CELEBAMASK))
        assert (expected == found).mean() > 0.99


@in_a_browser
@pytest.mark.timeout(1800)
def test_a_photograph_is_chosen_dropped_pasted_or_taken_with_the_camera(written):
    said = arrive(written, written / "example.jpg")
    assert said["chosen"] == said["dropped"] == said["pasted"] and len(said["chosen"]) > 5
    chosen, taken = ({line.split("\t")[0]: line.split("\t")[1] for line in said[way]} for way in ("chosen", "camera"))
    large = [part for part, share in chosen.items() if share[0].isdigit() and float(share) > 5]
    # The camera's film is compressed again, and browsers may cut or scale it.
    assert len(large) > 2 and all(abs(float(chosen[part]) - float(taken[part])) < 3 for part in large)

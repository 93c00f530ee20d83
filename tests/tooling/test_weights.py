"""`wsfp weights`: licence first, downloads that go on, sums, a hub that is down, a disk that is full."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from wsfp_helpers import cli
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import hold_folder
from wsfp_helpers.tooling import weights
from wsfp_helpers.tooling.weights import File, Weights

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Hub:
    """A web server with one file; ``break_after`` bytes of an answer the line is cut."""

    def __init__(self):
        self.content, self.tag, self.break_after, self.asked, self.linked = CONTENT, '"one"', None, [], None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/model.bin"

    def answer(self, request):
        start = request.headers.get("Range")
        self.asked.append((request.path, start))
        if request.path == "/none":
            return request.send_error(404)
        if request.path == "/linked":
            request.send_response(302)
            request.send_header("Location", "/model.bin")
            request.send_header("X-Linked-ETag", f'"{self.linked}"')
            return request.end_headers()
        first = int(start[6:-1]) if start and request.headers["If-Range"] == self.tag else 0
        if first >= len(self.content):
            return request.send_error(416)
        body = self.content[first:]
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(body)))
        if self.tag:
            request.send_header("ETag", self.tag)
        request.end_headers()
        request.wfile.write(body[: self.break_after])


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WSFP_DATA", str(tmp_path))
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "weights"


@pytest.fixture
def offer(hub, folder, monkeypatch):
    """Makes the hub's file the weights ``tiny``."""

    def offered(sum_=SUM, url=hub.url, **changes):
        facts = {
            "title": "Tiny", "place": "weights/tiny", "purpose": "a test", "licence": "CC0 1.0", "megabytes": 3,
            "files": (File(url, "weights/tiny/model.bin", sum_),), "load": lambda: None,
        }  # fmt: skip
        monkeypatch.setattr(weights, "WEIGHTS", {"tiny": Weights(**(facts | changes))})

    offered()
    return offered


def wsfp(*arguments, input=None):
    return CliRunner().invoke(cli.app, ["weights", *arguments], input=input)


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_download_is_placed_where_the_profile_looks(hub, offer, folder):
    assert weights.get("tiny") == folder / "tiny"
    assert (folder / "tiny" / "model.bin").read_bytes() == CONTENT and left(folder) == ["tiny/model.bin"]
    weights.get("tiny")
    assert len(hub.asked) == 1


@pytest.mark.promise(
    "kills and faults",
    "a break of `weights get`",
    "a sentence; goes on at the last byte that came",
    "what came, as `.part`",
)
def test_a_download_that_broke_off_goes_on_from_there(hub, offer, folder):
    hub.break_after = 1_200_000
    with pytest.raises(InputError, match=r"could not download .* the same command goes on"):
        weights.get("tiny")
    arrived = (folder / "tiny" / "model.bin.part").stat().st_size
    assert 0 < arrived <= 1_200_000 and not (folder / "tiny" / "model.bin").exists()
    hub.break_after = None
    weights.get("tiny")
    assert hub.asked[1] == ("/model.bin", f"bytes={arrived}-")
    assert (folder / "tiny" / "model.bin").read_bytes() == CONTENT and left(folder) == ["tiny/model.bin"]


@pytest.mark.parametrize("tag", ['"two"', None])
@pytest.mark.promise(
    "kills and faults",
    "a file that the hub changed between two parts of a download",
    "nothing; fetched from its start",
    "no mixture of both",
)
def test_a_file_that_has_changed_meanwhile_is_fetched_from_its_start(hub, offer, folder, tag):
    hub.break_after, hub.tag = 1_200_000, tag and '"one"'
    with pytest.raises(InputError):
        weights.get("tiny")
    hub.break_after, hub.tag, hub.content = None, tag, CONTENT[::-1]
    offer(f"sha256:{hashlib.sha256(CONTENT[::-1]).hexdigest()}")
    weights.get("tiny")
    assert (folder / "tiny" / "model.bin").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("call", ["open", "write_text"])
def test_a_file_that_changed_is_not_mixed_with_the_old_one_by_a_kill(hub, offer, folder, monkeypatch, call):
    whole = Path.open

    def killed(path, mode="r", *more, **named):
        if call == "write_text" or mode == "wb":
            raise KeyboardInterrupt
        return whole(path, mode, *more, **named)

    hub.break_after = 1_200_000
    with pytest.raises(InputError):
        weights.get("tiny")
    hub.tag, hub.content = '"two"', CONTENT[::-1]
    with monkeypatch.context() as patch:
        patch.setattr(Path, call, killed)
        with pytest.raises(KeyboardInterrupt):
            weights._download(hub.url, folder / "tiny" / "model.bin.part", None)
    hub.break_after = None
    offer(f"sha256:{hashlib.sha256(CONTENT[::-1]).hexdigest()}")
    weights.get("tiny")
    assert (folder / "tiny" / "model.bin").read_bytes() == CONTENT[::-1]


def test_half_a_row_of_sums_does_not_stop_the_next(hub, offer, folder):
    offer(None)
    folder.mkdir()
    (folder / weights.SUMS).write_text('{"place": "weig')
    weights.get("tiny")
    assert json.loads((folder / weights.SUMS).read_text())["sum"] == SUM


def test_a_process_killed_after_the_last_byte_does_not_stop_the_next(hub, offer, folder):
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "model.bin.part").write_bytes(CONTENT)
    (folder / "tiny" / "model.bin.part.etag").write_text('"one"')
    weights.get("tiny")
    assert left(folder) == ["tiny/model.bin"]


@pytest.mark.promise("security", "downloaded weights with another SHA-256", "both sums", "not kept")
def test_another_sum_is_refused_and_nothing_stays(hub, offer, folder):
    hub.content = CONTENT[:-1] + b"x"
    with pytest.raises(InputError, match=f"gave a file with sha256:[0-9a-f]*, expected {SUM}"):
        weights.get("tiny")
    assert not left(folder)


def test_a_sum_that_nobody_published_is_kept_and_said_once(hub, offer, folder):
    offer(None)
    said = []
    weights.get("tiny", said.append)
    assert len(said) == 1 and SUM in said[0] and "no sum of model.bin is published" in said[0]
    assert json.loads((folder / weights.SUMS).read_text()) == {"place": "weights/tiny/model.bin", "sum": SUM}
    (folder / "tiny" / "model.bin").unlink()
    hub.content = CONTENT[::-1]
    with pytest.raises(InputError, match=f"expected {SUM}"):
        weights.get("tiny", said.append)
    hub.content = CONTENT
    weights.get("tiny", said.append)
    assert len(said) == 1


def test_the_sum_that_hugging_face_states_is_held_against_the_file(hub, offer, folder):
    offer(None, hub.url.replace("model.bin", "linked"))
    hub.linked = "0" * 64
    with pytest.raises(InputError, match=f"expected sha256:{'0' * 64}"):
        weights.get("tiny")
    hub.linked = SUM.removeprefix("sha256:")
    weights.get("tiny")
    assert (folder / "tiny" / "model.bin").exists()


def test_a_hub_that_is_down_and_a_file_that_is_gone(hub, offer):
    offer(url=hub.url.replace("model.bin", "none"))
    with pytest.raises(InputError, match="404 Not Found"):
        weights.get("tiny")
    offer(url="http://127.0.0.1:9/model.bin")
    with pytest.raises(InputError, match=r"could not download .*ConnectionError"):
        weights.get("tiny")


@pytest.mark.promise("kills and faults", "a disk without room for the weights", "how much more it needs", "as it was")
def test_a_disk_that_is_too_small_is_said_before_anything_is_written(hub, offer, folder, monkeypatch):
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_999_999))
    with pytest.raises(InputError, match="needs 3 MB more"):
        weights.get("tiny")
    assert not left(folder)


@pytest.mark.promise("two at once", "`weights get` twice", "`... is in use by process ...`", "as the first leaves it")
def test_two_at_once_are_refused(offer, folder):
    with hold_folder(folder), pytest.raises(InputError, match="is in use by"):
        weights.get("tiny")


@pytest.mark.parametrize("answer", ["n\n", None])
@pytest.mark.promise(
    "security",
    "`weights get` without a yes to the licence",
    "the licence, exit code 2",
    "as it was; the hub is not asked",
)
def test_the_licence_is_shown_first_and_without_a_yes_nothing_is_asked_of_the_hub(hub, offer, folder, answer):
    result = wsfp("get", "tiny", input=answer)
    assert result.exit_code == 2 and "CC0 1.0" in result.stdout and "was not accepted" in result.stderr
    assert not hub.asked and not folder.exists()


@pytest.mark.parametrize(("arguments", "answer"), [(["--yes"], None), ([], "y\n")])
def test_an_accepted_licence_is_enough(hub, offer, folder, arguments, answer):
    result = wsfp("get", "tiny", *arguments, input=answer)
    assert result.exit_code == 0 and "CC0 1.0" in result.stdout and str(folder / "tiny") in result.stdout


def test_of_what_is_converted_only_the_result_stays(hub, offer, folder):
    def convert(source, out):
        out.write_bytes(source.read_bytes()[:10])

    offer(place="weights/small.bin", convert=convert, files=(File(hub.url, "weights/large.bin", SUM),))
    weights.get("tiny")
    assert left(folder) == ["small.bin"] and (folder / "small.bin").read_bytes() == CONTENT[:10]


def test_verify_names_each_fault(hub, offer, folder):
    result = wsfp("verify")
    assert result.exit_code == 2 and result.stderr.startswith(f"wsfp: no weights below {folder.parent}: ")
    result = wsfp("verify", "tiny")
    assert result.exit_code == 1 and "wsfp weights get tiny" in result.stdout
    weights.get("tiny")
    result = wsfp("verify")
    assert result.exit_code == 0 and "its sum is the published one" in result.stdout
    (folder / "tiny" / "model.bin").write_bytes(b"other")
    result = wsfp("verify")
    assert result.exit_code == 1 and "remove it, and `wsfp weights get tiny`" in result.stdout
    (folder / "tiny" / "model.bin").unlink()
    weights.get("tiny")
    assert wsfp("verify").exit_code == 0
    (folder / "tiny" / "model.bin").write_bytes(b"other")

    def wrong():
        raise InputError("it is of another network")

    offer(None, load=wrong)
    result = wsfp("verify")
    assert result.exit_code == 1 and "of another network" in result.stdout and "no sum is published" in result.stdout


def test_what_is_known_of_the_real_files():
    for name, each in weights.WEIGHTS.items():
        assert each.licence and each.files and name in weights.list_weights()
        for file in each.files:
            assert file.url.startswith("https://") and file.place.startswith("weights/")
            if file.sum:
                method, _, digest = file.sum.partition(":")
                assert len(bytes.fromhex(digest)) == hashlib.new(method).digest_size

"""No socket in an embedded run, no picture in a format that starts programs, no path of the machine in what it made."""

import ast
import re
import shutil
import socket
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import wsfp_helpers
from tests.bad_inputs import CARD, EPS, photograph, write
from tests.fixtures import make_folder, make_helen
from wsfp_helpers.cli import app
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS
from wsfp_helpers.common.pictures import read_image
from wsfp_helpers.data.folder import folder
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.profiles import Source


@pytest.fixture
def offline(monkeypatch):
    """No socket can be made; gives the tries."""
    tries = []

    def refuse(*arguments, **keywords):
        tries.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tries


@pytest.mark.promise("security", "the embedded profile with sockets blocked", "the usual", "the usual")
def test_an_embedded_run_opens_no_socket(tmp_path, monkeypatch, offline):
    own = make_folder(tmp_path / "own")
    few = {"synthfaces": lambda split: synthfaces(split).subset(range(2)), "folder": lambda split: folder(own)}
    monkeypatch.setattr(Source, "open", lambda self: few[self.name](self.split))
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    photograph()
    make_helen(tmp_path / "helen")
    write("maps/card.json", CARD | {"size": [160, 160]})
    short = "--set train.epochs=1 --set train.batch_size=2"
    fit = " ".join(f"--set parser.{each}" for each in ("fit.steps=1", "fit.batch=2", "copies=0", "rare_copies=0"))
    for command in (
        "doctor", "profile", "ccd --out boxes", f"train --out run {short}", "report run", "fcam --run run --out fcams",
        "pseudo --fcams fcams --out labels", f"parser --labels labels --out parser {fit}",
        "predict --parser parser/parser.safetensors --out maps", "evaluate --pred maps --gt maps",
        "data verify own", "weights list", "systems list", "data merge helen --out merged",
        "data shard folder --out shards",
        "regions --fcams fcams --out regions", "systems add maps",
        f"systems train mctformer+ --work work {short}", "systems train clip-es --work work",
        "parse a.jpg --out parsed", "export --out parser.onnx",
    ):  # fmt: skip
        result = CliRunner().invoke(app, command.split())
        assert result.exit_code == 0, (command, result.output)
    assert offline == []
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("localhost", 1))  # so that the check can fail


@pytest.mark.promise("security", "every place in the code that opens a picture", "-", "names the formats that it takes")
def test_every_picture_is_opened_in_formats_that_are_named():
    calls = []
    for path in Path(wsfp_helpers.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                calls.append((path.name, "formats" in {keyword.arg for keyword in node.keywords}))
    assert len(calls) >= 4 and all(named for _, named in calls)


@pytest.mark.promise(
    "security", "archives with `../` or links out", "-", "no archive is unpacked; members are read by names of ours"
)
def test_no_archive_is_unpacked():
    # What is read from one is read by a name of ours: a member called ../x or a link cannot be written anywhere.
    unpacking = {"extract", "extractall", "unpack_archive"}
    for path in Path(wsfp_helpers.__file__).parent.rglob("*.py"):
        calls = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute)
        }
        assert not calls & unpacking, path


@pytest.mark.promise(
    "security",
    "EPS called `.jpg`, which Pillow gives to Ghostscript",
    "`... cannot be read as an image`",
    "no program is started",
)
def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", pytest.fail)
    monkeypatch.setattr("subprocess.check_call", pytest.fail)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    (tmp_path / "a.jpg").write_bytes(EPS)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.format == "EPS"  # Pillow alone goes by the content
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.promise("security", "shipped files and their headers", "-", "no path of the machine that made them")
def test_no_shipped_file_names_a_folder_of_the_machine_that_made_it():
    folder = re.compile(rb"/(?:home|root|work|tmp|Users)/")
    for path in (each for each in ASSETS.rglob("*") if each.suffix != ".zip"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".safetensors":  # its header; weights are any bytes
                content = content[8 : 8 + int.from_bytes(content[:8], "little")]
            assert content and not folder.search(content), path

"""Bad inputs by class, and what ``wsfp`` says of each: data of test_bad_inputs.py and of docs/reliability.md."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file
from typer.testing import CliRunner

from tests.fixtures import make_celebamask, make_folder, make_helen, make_helen_relabelled, make_lapa, picture
from wsfp_helpers.cli import app
from wsfp_helpers.common.checkpoints import read_about
from wsfp_helpers.common.configs import plain
from wsfp_helpers.common.files import ASSETS, hold_folder
from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.data.folder import PictureFiles
from wsfp_helpers.data.shards import write_shards
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import PHRASES
from wsfp_helpers.labels import CELEBAMASK, LAPA
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.profiles import profile
from wsfp_helpers.score.mistakes import OTHER_ORDER


@dataclass(frozen=True)
class Case:
    """A bad input: how it comes to be in an empty folder, and the command that is run there.

    ``code`` is 1 where a command names what it could not read and goes on with the rest.
    """

    group: str
    what: str
    command: str
    make: Callable[[], object] = lambda: None
    code: int = 2
    held: str = ""


@dataclass(frozen=True)
class Outcome:
    """What the user sees: exit code and sentence; and the files that are new, gone or changed."""

    code: int
    sentence: str
    changed: list[str]
    error: BaseException | None


NOTES = r"[a-z0-9_.]+: .* \(not .*\)|computing on the CPU: .*|.*\d%\|.*|.*\d[a-z]+ \[\d\d:\d\d.*\]| *"
"""What commands say on stderr of a run that goes well: changed settings, why it takes long, and how far it is."""


def run(case: Case) -> Outcome:
    """Run a case in a folder of its own."""
    with TemporaryDirectory() as place, chdir(place):
        case.make()
        before = _files()
        surroundings = {"WSFP_CACHE": f"{place}/cache", "WSFP_DATA": None}  # no data set of this machine
        with hold_folder(case.held) if case.held else nullcontext():
            result = CliRunner().invoke(app, shlex.split(case.command), env=surroundings)
            after = _files()
        lines = (result.stderr if case.code == 2 else result.stdout).splitlines()
        said = [line for line in lines if case.code == 2 or line.startswith("failed: ")]
        said = [line for line in said if not re.fullmatch(NOTES, line)]
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        error = None if isinstance(result.exception, SystemExit) else result.exception
        return Outcome(result.exit_code, _plain("\n".join(said), place), changed, error)


def _files() -> dict[str, object]:
    paths = [path for path in Path().rglob("*") if "cache" not in path.parts and path.name != ".wsfp.lock"]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def _plain(sentence: str, place: str) -> str:
    """The sentence without what differs between machines, processes and versions of libraries."""
    for name in (os.path.realpath(place), place, str(ASSETS)):
        sentence = sentence.replace(f"{name}/", "")
    sentence = re.sub(
        r"process \d+ on \S+ since \S+ \S+ \([^)]*\)", "process 4711 on HOST since DATE (COMMAND)", sentence
    )
    sentence = re.sub(r"Value error, .*embedded null .*", "Value error, (...)", sentence)
    sentence = re.sub(r"(not valid JSON|cannot be read as [^(]*[^( ]|cannot be built) ?\(.*\):", r"\1 (...):", sentence)
    return re.sub(r"x{100,}", "xxx...", re.sub(r"(x{100}/)+", "xxx.../", sentence))


def write(name: str, content: bytes | str | object) -> None:
    """Write bytes, text, or anything else as JSON."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def photograph(name: str = "a.jpg", size: tuple[int, int] = (40, 30)) -> None:
    """A photograph that can be read."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    picture(0, *size).save(name)


@cache
def _encoded(kind: str) -> bytes:
    with TemporaryDirectory() as place:
        picture(0, 64, 64).save(f"{place}/a", format=kind)
        return Path(place, "a").read_bytes()


BOMB = _encoded("PNG")[:16] + (40_000).to_bytes(4, "big") * 2 + _encoded("PNG")[24:]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
PICTURES = {
    "an empty file": b"",
    "a text": b"no picture",
    "a page of an error": b"<html>404</html>",
    "zeros": bytes(1000),
    "half a JPEG": _encoded("JPEG")[:-300],
    "the first bytes of a JPEG": _encoded("JPEG")[:20],
    "half a PNG": _encoded("PNG")[: len(_encoded("PNG")) // 2],
    "half a WebP": _encoded("WEBP")[:60],
    "half a TIFF": _encoded("TIFF")[:200],
    "half a BMP": _encoded("BMP")[:100],
    "a bomb of 40,000 x 40,000 pixels": BOMB,
    "EPS, which Pillow gives to Ghostscript": EPS,
    "a GIF": _encoded("GIF"),
    "a PDF": _encoded("PDF"),
    "a JPEG 2000": _encoded("JPEG2000"),
    "an icon": _encoded("ICO"),
    "a PPM": _encoded("PPM"),
    "a film": b"\0\0\0\x20ftypisom" + bytes(100),
    "HEIC of a telephone": b"\0\0\0\x18ftypheic" + bytes(100),
    "a ZIP": b"PK\x03\x04" + bytes(100),
}
HARD_TEXTS = {
    "nothing": b"",
    "half an object": b'{"a": ',
    "no UTF-8": b"\xff\xfe{}",
    "200,000 brackets": b"[" * 200_000,
    "a number of 10,000 digits": b"1" * 10_000,
    "zeros": bytes(20),
}


def photographs() -> Iterator[Case]:
    """``wsfp parse``: what is to be parsed, and where to."""
    case = partial(Case, "photographs")
    for what, content in PICTURES.items():
        yield case(f"{what}, called .jpg", "parse a.jpg --out out", partial(write, "a.jpg", content), 1)
    yield case("floating-point numbers", "parse a.tiff --out out", lambda: Image.new("F", (9, 9)).save("a.tiff"), 1)
    long, deep = "x" * 300, "/".join(["x" * 100] * 50)
    for name, what in {
        "no.jpg": "a file that is not there", "''": "no name", "'a\0b.jpg'": "a name with a zero byte",
        f"{long}.jpg": "a name of 304 characters", f"{deep}/a.jpg": "a path of 5,000 characters",
    }.items():  # fmt: skip
        yield case(what, f"parse {name} --out out")
    yield case("a link to itself", "parse a.jpg --out out", lambda: os.symlink("a.jpg", "a.jpg"))
    yield case("a pipe", "parse a.jpg --out out", lambda: os.mkfifo("a.jpg"))
    yield case("an empty folder", "parse a --out out", lambda: os.mkdir("a"))
    yield case("a folder without pictures", "parse a --out out", partial(write, "a/b.txt", "text"))
    yield case("a format that is not read", "parse a.heic --out out", partial(write, "a.heic", b"x"))
    yield case("two of one name", "parse a --out out", lambda: (photograph("a/b.jpg"), photograph("a/b.png")))
    case = partial(Case, "folders that are written")
    for what, make in {
        "is a file": partial(write, "out", "text"),
        "holds pictures of the user": partial(photograph, "out/a.png"),
        "holds pictures of the user one folder below": partial(photograph, "out/weak/a.png"),
        "holds maps of another parser": lambda: (photograph("out/a.png"), write("out/settings.json", {"parser": "x"})),
        "is a link to itself": lambda: os.symlink("out", "out"),
        **{f"has settings that are {what}": partial(write, "out/settings.json", text)
           for what, text in HARD_TEXTS.items()},
        "has settings that are a list": lambda: (photograph("out/a.png"), write("out/settings.json", [])),
    }.items():  # fmt: skip
        yield case(f"parse: {what}", "parse a.jpg --out out", lambda make=make: (photograph(), make()))
    yield case("parse: the folder of the photographs", "parse a --out a/../a", partial(photograph, "a/a.jpg"))
    yield case(
        "parse: the folder above the photographs", "parse out/weak --out out", partial(photograph, "out/weak/a.jpg")
    )
    yield case("parse: a name of 300 characters", f"parse a.jpg --out {long}", photograph)
    yield case("parse: a path of 5,000 characters", f"parse a.jpg --out {deep}", photograph)
    yield case("parse: below a file", "parse a.jpg --out a.jpg/out", photograph)
    yield case("parse: below /proc", "parse a.jpg --out /proc/out", photograph)
    yield case("parse: another process is at work", "parse a.jpg --out out", photograph, held="out")
    yield case("predict: another process is at work", "predict --parser weak --out out", held="out")
    yield case(
        "pseudo: another process is at work",
        "pseudo --fcams f --out out",
        lambda: (os.mkdir("out"), fcam()),
        held="out",
    )
    yield case("ccd: another process is at work", "ccd --out out", held="out")
    for shard in ("0/2", "1/2"):
        yield case(f"ccd --shard {shard}: another process does the whole", f"ccd --out out --shard {shard}", held="out")
    for what, config in {"another run's": {"seed": 0, "config": {}}, "edited": [], "edited to a text": "x"}.items():
        yield case(
            f"train: {what}", "train --out out --no-ccd --no-tcd", partial(write, "out/config.json", config)
        )  # fmt: skip
    for command in (
        f"ccd --out out {OWN_DATA}", f"train --out out --no-ccd --no-tcd --set train.batch_size=1 {OWN_DATA}",
        f"fcam --run run --out out {OWN_DATA}", f"parser --labels l --out out {OWN_DATA}",
        "predict --parser weak --out out --data shards/x",
    ):  # fmt: skip
        make = lambda command=command: (  # noqa: E731
            own_data(content=b"no picture"),
            "run" in command and trained(),
        )
        yield case(f"{command.split()[0]}: of pictures that are none", command, make)
    yield case("train: of other files", "train --out out --no-ccd --no-tcd", partial(write, "out/a.txt", "text"))


@cache
def _shipped() -> tuple[dict, dict]:
    path = ASSETS / "parser_weak.safetensors"
    return load_file(path), read_about(path)


def parser(change: Callable[[dict, dict], object], header: object = None) -> None:
    """A photograph, and the shipped parser with its tensors or facts changed, or with another header."""
    tensors, facts = dict(_shipped()[0]), json.loads(json.dumps(_shipped()[1]))
    change(tensors, facts)
    photograph()
    save_file(tensors, "p.safetensors", {"wsfp": header if isinstance(header, str) else json.dumps(facts)})


WRONG_WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "NaN": lambda value: value * torch.nan,
    "infinite": lambda value: value + torch.inf,
    "int8": lambda value: value.to(torch.int8),
    "uint8": lambda value: value.to(torch.uint8),
    "int64": lambda value: value.long(),
    "true and false": lambda value: value > 0,
    "complex": lambda value: value.to(torch.complex64),
    "beyond float32": lambda value: value.double() + 1e300,
    "one row too many": lambda value: torch.cat([value, value[:1]]),
    "of another number of dimensions": lambda value: value[None],
    "empty": lambda value: value[:0],
}


def parsers() -> Iterator[Case]:
    """``wsfp parse --parser``: weights and header."""
    case, command = partial(Case, "parsers"), "parse a.jpg --out out --parser p.safetensors"
    for what, content in {"empty": b"", "a text": b"no parser", "a page": b"<html>", "zeros": bytes(99)}.items():
        yield case(f"the file is {what}", command, lambda c=content: (photograph(), write("p.safetensors", c)))
    yield case("cut in half", command, lambda: (photograph(), write(
        "p.safetensors", (ASSETS / "parser_weak.safetensors").read_bytes()[:500_000])))  # fmt: skip
    yield case("not there", command, photograph)
    yield case("a folder", command, lambda: (photograph(), os.mkdir("p.safetensors")))
    yield case("of other weights", command, lambda: (photograph(), shutil.copy(
        ASSETS / "detector.safetensors", "p.safetensors")))  # fmt: skip
    name = "fine.0.weight"
    for what, edit in WRONG_WEIGHTS.items():
        yield case(f"weights: {what}", command, partial(parser, lambda t, f, e=edit: t.update({name: e(t[name])})))
    yield case("weights: one is missing", command, partial(parser, lambda t, f: t.pop(name)))
    yield case("weights: one too many", command, partial(parser, lambda t, f: t.update(more=torch.ones(1))))
    for header in ("", "{", "[]", "null", "3", '"text"', "{}", "[" * 200_000):
        yield case(f"header {header[:9] or 'empty'}", command, partial(parser, lambda t, f: None, header))
    for key in ("network", "trunk", "config"):
        for value in (None, 3, "", "x", [], {"a": 1}):
            yield case(f"header: {key} = {json.dumps(value)}", command,
                       partial(parser, lambda t, f, k=key, v=value: f.update({k: v})))  # fmt: skip
        yield case(f"header: no {key}", command, partial(parser, lambda t, f, k=key: f.pop(k)))
    wrong: dict[str, tuple] = {
        "size": (0, -5, 100_000, 161, 1.5, "160", None, True), "width": (0, -4, 10**15, "wide"), "stem": (0, -1, 10**9),
        "window": (0, 81, -4), "dropout": (7.0, -0.1, "x"), "stem_dropout": (float("nan"), 2), "copies": (-1, 1e3),
        "rare_copies": (-1, 10**9), "balance": (float("inf"), -1), "colour": ("red",), "fit": (None, [], {"steps": 3}),
        "augment": (None, {"wide": 2}, {"wide": "x"}, {"tall": 1}),
    }  # fmt: skip
    for key, values in wrong.items():
        for value in values:
            yield case(f"header: config.{key} = {json.dumps(value)}", command,
                       partial(parser, lambda t, f, k=key, v=value: f["config"].update({k: v})))  # fmt: skip
    wrong = {
        "steps": (0, -1, 1.5), "batch": (0, "x"), "lr": (float("nan"), -1), "optimiser": ("adam", 1),
        "save_every": (0,), "dice": (-1,), "warmup": (-1,),
    }  # fmt: skip
    for key, values in wrong.items():
        for value in values:
            yield case(f"header: config.fit.{key} = {json.dumps(value)}", command,
                       partial(parser, lambda t, f, k=key, v=value: f["config"]["fit"].update({k: v})))  # fmt: skip
    yield case("header: a width that the weights do not have", command,
               partial(parser, lambda t, f: f["config"].update(width=48)))  # fmt: skip


def trained(change: Callable[[dict], object] = lambda made: None, edit: Callable | None = None) -> None:
    """A run directory of ``wsfp train`` with its profile or one of its weights changed."""
    made = plain(profile("embedded"))
    change(made)
    write("run/config.json", {"seed": 0, "config": {"profile": made, "boxes": "shipped"}})
    weights = load_file(ASSETS / "fcam_full.safetensors")
    if edit is not None:
        weights["vit.cls_token"] = edit(weights["vit.cls_token"])
    save_file(weights, "run/model.safetensors")


def runs() -> Iterator[Case]:
    """``wsfp fcam --run``: configs edited by hand, and weights."""
    case, command = partial(Case, "runs"), "fcam --run run --out out"
    yield case("not there", command)
    yield case("an empty folder", command, lambda: os.mkdir("run"))
    yield case("a file", command, partial(write, "run", "text"))
    yield case("without a model", command, lambda: (trained(), os.remove("run/model.safetensors")))
    for what, content in HARD_TEXTS.items():
        yield case(f"config.json is {what}", command, lambda c=content: (trained(), write("run/config.json", c)))
    for content in ([], "text", 3, None, {}, {"config": []}, {"config": {"boxes": None}}, {"config": {"profile": 1}}):
        what = f"config.json is {json.dumps(content)}"
        yield case(what, command, lambda c=content: (trained(), write("run/config.json", c)))
    wrong: dict[str, tuple] = {
        "model.blocks": ("two", 0, -1, 10**6, 1.5, True), "model.size": (7, 0, -16, 10**6, 321),
        "model.frozen_blocks": (-1, "x", 99), "model.token_init_noise": (-1, "x"),
        "fcam.scales": ([], [0], ["x"], [1e9]),
        "fcam.variant": ("best", 3), "fcam.attention_layers": (0, -1, "x"), "fcam.flip": ("yes", 1),
        "theta": (-1, 2, "high", None, float("nan")), "subset": (0, -1, "x"), "ccd.probability": (7, -1, "x"),
        "ccd.max_aspect": (0, float("nan")), "ccd.reference": ("nose",), "train.seed": (-1, 10**20, "x"),
        "train.epochs": (-1, "x"), "train.batch_size": (0, 1.5), "train.lr": (-1, float("nan")),
        "train.ema": (2,), "train.workers": (-1, 10**6), "train.tcd.alpha0": (-1, "x"), "colour": ("red",),
        "model.colour": ("red",), "name": (3,),
    }  # fmt: skip
    for key, values in wrong.items():
        for value in values:
            yield case(
                f"config.profile.{key} = {json.dumps(value)}", command, partial(trained, partial(_set, key, value))
            )
    for key in ("train.lr", "theta"):
        yield case(f"config.profile.{key} = 1 and 400 zeros", command, partial(trained, partial(_set, key, 10**400)))
    for what, edit in WRONG_WEIGHTS.items():
        yield case(f"weights: {what}", command, partial(trained, edit=edit))
    yield case("weights: cut in half", command, lambda: (trained(), write(
        "run/model.safetensors", Path("run/model.safetensors").read_bytes()[:9999])))  # fmt: skip


def _set(key: str, value: object, content: dict) -> None:
    *places, last = key.split(".")
    for place in places:
        content = content[place]
    content[last] = value


def fcam(**changes: torch.Tensor | None) -> None:
    """A folder with the maps of one picture, its tensors changed or left out."""
    tensors = {"scale0": torch.rand(2, 4, 4).half(), "classes": torch.tensor([0, 1]), "size": torch.tensor([8, 8])}
    tensors = {name: value for name, value in (tensors | changes).items() if value is not None}
    Path("f").mkdir(exist_ok=True)
    save_file(tensors, "f/a.safetensors")


def maps() -> Iterator[Case]:
    """``wsfp pseudo --fcams``."""
    case, command = partial(Case, "activation maps"), "pseudo --fcams f --out out"
    yield case("not there", command)
    yield case("an empty folder", command, lambda: os.mkdir("f"))
    yield case("a text", command, partial(write, "f/a.safetensors", "text"))
    yield case("cut", command, lambda: (fcam(), write("f/a.safetensors", Path("f/a.safetensors").read_bytes()[:99])))
    for what, changes in {
        "no maps": {"scale0": None}, "no classes": {"classes": None}, "no size": {"size": None},
        "NaN": {"scale0": torch.full((2, 4, 4), torch.nan)},
        "infinite": {"scale0": torch.full((2, 4, 4), torch.inf)},
        "whole numbers": {"scale0": torch.ones(2, 4, 4, dtype=torch.int8)},
        "of two dimensions": {"scale0": torch.ones(2, 4)},
        "of three pictures": {"scale0": torch.ones(3, 4, 4)},
        "classes that are none": {"classes": torch.tensor([0, 18])},
        "a negative class": {"classes": torch.tensor([-1, 0])},
        "classes as fractions": {"classes": torch.tensor([0.5, 1])},
        "a size of 0": {"size": torch.tensor([0, 8])}, "a size of three numbers": {"size": torch.tensor([8, 8, 3])},
        "a class twice": {"classes": torch.tensor([1, 1])},
        "classes that are one number": {"classes": torch.tensor(1)},
        "classes in disorder": {"classes": torch.tensor([5, 1])},
        "maps without rows": {"scale0": torch.ones(2, 0, 4)}, "below 0": {"scale0": -torch.ones(2, 4, 4)},
        "of more pixels than a picture has": {"size": torch.tensor([99_999, 99_999])},
        "a huge size": {"size": torch.tensor([10**9, 10**9])}, "a size as fractions": {"size": torch.tensor([8.5, 8])},
    }.items():  # fmt: skip
        yield case(what, command, partial(fcam, **changes))
    for what, content in HARD_TEXTS.items():
        yield case(f"run.json is {what}", command, lambda c=content: (fcam(), write("f/run.json", c)))
    for content in (
        [],
        {},
        {"theta": "x"},
        {"theta": None},
        {"theta": 2},
        {"theta": float("nan")},
        {"theta": [0.5]},
        {"theta": True},
        {"theta": "0.5"},
        {"theta": 0.5, "more": 1},
        {"theta": 0.5, "step": "x"},
    ):
        what = f"run.json is {json.dumps(content)}"
        yield case(what, command, lambda c=content: (fcam(), write("f/run.json", c)))


LINE = {"id": "a", "size": [160, 160], "detector": "d", "boxes": {phrase: [] for phrase in PHRASES}}


def boxes() -> Iterator[Case]:
    """``wsfp train --boxes``."""
    case, command = partial(Case, "boxes"), "train --out out --boxes b.jsonl"
    yield case("not there", command)
    yield case("a folder", command, lambda: os.mkdir("b.jsonl"))
    yield case("of no picture", command, partial(write, "b.jsonl", b""))
    yield case("of other pictures", command, partial(write, "b.jsonl", json.dumps(LINE) + "\n"))
    yield case("half a line", command, partial(write, "b.jsonl", json.dumps(LINE)))
    yield case("a picture twice", command, partial(write, "b.jsonl", (json.dumps(LINE) + "\n") * 2))
    for what, content in HARD_TEXTS.items():
        yield case(f"a line is {what}", command, partial(write, "b.jsonl", content + b"\n"))
    changes = [{"id": 3}, {"id": None}, {"detector": 3}, {"size": [160]}, {"size": [0, 160]}, {"size": [-1, 160]},
               {"size": [1e400, 160]}, {"size": [160.5, 160]}, {"size": "160x160"}, {"size": None}, {"boxes": []},
               {"boxes": {}}, {"boxes": None}, {"boxes": LINE["boxes"] | {"chin": []}},
               {"boxes": {"eye": []}}, {"boxes": LINE["boxes"] | {"eye": None}}]  # fmt: skip
    for box in ([1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, float("nan")], [1, 2, 3, 4, 99], [1, 2, 3, 4, -0.1],
                [1, 2, 3, 4, "x"], [1, 2, 3, 4, True], [1, 2, 3, 4, None], [float("nan"), 2, 3, 4, 0.5],
                [1, 2, 1e400, 4, 0.5], [3, 2, 1, 4, 0.5], [1, 2, 161, 4, 0.5], [-1, 2, 3, 4, 0.5], ["1", 2, 3, 4, 0.5],
                [1, 2, 1, 4, 0.5], [[1], 2, 3, 4, 0.5], 3, "box", {}):  # fmt: skip
        changes.append({"boxes": LINE["boxes"] | {"eye": [box]}})
    for change in changes:
        shown = json.dumps(
            change.get("boxes", {}).get("eye") or change if isinstance(change.get("boxes"), dict) else change
        )
        yield case(f"a line with {shown}", command, partial(write, "b.jsonl", json.dumps(LINE | change) + "\n"))
    yield Case(
        "boxes", "ccd goes on with a line that is none", "ccd --out out", partial(write, "out/boxes.jsonl", "x\n")
    )


def options() -> Iterator[Case]:
    """Numbers and names at the command line."""
    case = partial(Case, "options")
    for seed in ("-1", "100000000000000000000", "1.5", "x", "''", "²", "1e3", "nan"):
        yield case(f"--seed {seed}", f"train --out out --seed {seed}")
    for command in ("ccd --out out", "regions --fcams f --out out", "parser --labels l --out out"):
        yield case(f"{command.split()[0]} --seed -1", f"{command} --seed -1")
    for seeds in ("''", "0;1", "-1", "²", "1.5", "0,,1", "0,x", "100000000000000000000", "٣", "0,0", "1,01"):
        yield case(f"--seeds {seeds}", f"ablate vlm --seeds {seeds}")
        yield case(f"systems run --seeds {seeds}", f"systems run --seeds {seeds}")
    for shard in ("4/4", "-1/4", "1", "/", "a/b", "0/0", "²/4", "0/-1", "1/2/3", "0/99999999", "''"):
        yield case(f"--shard {shard}", f"ccd --out out --shard {shard}")
    for theta in ("-1", "1.5", "nan", "inf", "x", "''"):
        yield case(f"--theta {theta}", f"pseudo --fcams f --out out --theta {theta}", fcam)
    for workers in ("0", "-1", "1000000", "x", "1.5"):
        yield case(f"--workers {workers}", f"pseudo --fcams f --out out --workers {workers}", fcam)
    for name in ("''", "no", "EMBEDDED", "../embedded", "٣"):
        yield case(f"--profile {name}", f"train --out out --profile {name}")
    yield case("profile of no name", "profile no")
    yield case("--part chin", "ccd --out out --part chin")
    yield case("--out left out", "train")
    yield case("--weights of the embedded detector", "ccd --out out --weights w.pth")
    yield case("--redraw without CCD", "train --out out --no-ccd --redraw")
    yield case("an unknown table", "ablate table9")
    for command in ("trian", "data verfy", "systems rnu", "--sed 1", "train --sed 1", "train --seed", "train --out",
                    "parse a b --out out", "profile embedded frl", "doctor --json ."):  # fmt: skip
        yield case(f"wsfp {command}", command)
    for option in ("--results", "--work"):
        yield case(f"{option} is a file", f"ablate vlm {option} a", partial(write, "a", "text"))
    yield case("an unknown data set", "data get frl-berlin")


def outputs() -> Iterator[Case]:
    """Where results go, and commands that read little."""
    case = partial(Case, "options")
    for name in ("a.jpg", "a", "out/a.png", "out/settings.json", "out/config.json", "a.json.png"):
        yield case(f"parse --json {name}", f"parse a.jpg --parser weak --out out --json {name}", photograph)
    if hasattr(os, "mkfifo"):
        yield case("doctor --json is a pipe", "doctor --json a.json", lambda: os.mkfifo("a.json"))
        yield case("export --out is a pipe", "export --out p.onnx", lambda: os.mkfifo("p.onnx"))
    yield case("page --weights int4", "page --out out --weights int4")
    yield case("export --weights int4", "export --out p.onnx --weights int4")
    for name in ("a.jpg", "p", "p.safetensors"):
        yield case(f"export --out {name}", f"export --out {name}", photograph)
    yield case("export --out is below a file", "export --out a.jpg/p.onnx", photograph)
    yield case("export of no parser", "export --out p.onnx --parser p.safetensors")
    for change in ("detector=x", "vlm=x", "general_vlm=x", "theta=2", "subset=0", "train_data=3"):
        yield case(f"profile --set {change}", f"profile embedded --set {change}")
    yield case("report of no run", "report out")
    yield case("systems train of no system", "systems train x")
    for command in ("train mctformer+", "cost mctformer+", "tune mctformer+", "run mctformer+"):
        yield case(f"systems {command} with boxes that are not there", f"systems {command} --boxes no.jsonl")


def pair(name: str, content: object) -> None:
    """Folders of one prediction and one label map; ``name`` is replaced by an image, bytes, or removed."""
    for folder in ("pred", "gt"):
        write_index_png(f"{folder}/a.png", np.arange(16, dtype=np.uint8).reshape(4, 4), PALETTE)
    if content is None:
        Path(name).unlink()
    elif isinstance(content, bytes):
        write(name, content)
    else:
        Image.fromarray(content).save(name)


def label_maps() -> Iterator[Case]:
    """``wsfp evaluate``, ``wsfp data`` and ``wsfp parser``."""
    case, command = partial(Case, "label maps"), "evaluate --pred pred --gt gt"
    wrong = {
        "in colour": np.zeros((4, 4, 3), np.uint8), "of 16 bits": np.zeros((4, 4), np.uint16),
        "with value 19": np.full((4, 4), 19, np.uint8), "with value 254": np.full((4, 4), 254, np.uint8),
        "empty": b"", "a text": b"text", "cut": _encoded("PNG")[:500], "EPS": EPS, "a bomb": BOMB, "missing": None,
    }  # fmt: skip
    for side, words in (("pred", "a prediction"), ("gt", "a label map")):
        for what, content in wrong.items():
            yield case(f"{words} {what}", command, partial(pair, f"{side}/a.png", content))
        yield case(f"{words} that is a JPEG", command, lambda side=side: (
            pair("gt/a.png", np.zeros((4, 4), np.uint8)),
            Image.new("L", (4, 4)).save(f"{side}/a.png", "JPEG")))  # fmt: skip
        yield case(f"the folder of {words} is a file", command, lambda side=side: (
            pair("gt/a.png", bytes(0)), shutil.rmtree(side), write(side, "text")))  # fmt: skip
    yield case("one prediction too many", command, partial(pair, "pred/b.png", np.zeros((4, 4), np.uint8)))
    yield case("no folders", command)
    yield case("a label map of 255 alone", command, partial(pair, "gt/a.png", np.full((4, 4), 255, np.uint8)))
    yield case("--json is a prediction", f"{command} --json pred/a.png", partial(
        pair, "pred/a.png", np.zeros((4, 4), np.uint8)))  # fmt: skip
    for more in ("--labels coco", "--pred-labels coco", "--mode by-name", "--ears-to-skin", "--labels lapa --mode x",
                 "--labels celebamask --pred-labels lapa"):  # fmt: skip
        yield case(more, f"{command} {more}", partial(pair, "pred/a.png", np.zeros((4, 4), np.uint8)))
    yield case("--json in a file", f"{command} --json pred/a.png/x.json", partial(
        pair, "pred/a.png", np.zeros((4, 4), np.uint8)))  # fmt: skip
    yield case("parser --labels: no folder", "parser --labels l --out out")
    yield case("parser --labels: an empty folder", "parser --labels l --out out", lambda: os.mkdir("l"))
    command = f"parser --labels l --out out {OWN_DATA}"
    for what, content in {
        "of another size": np.zeros((8, 8), np.uint8), "with value 19": np.full((40, 30), 19, np.uint8),
        "in colour": np.zeros((40, 30, 3), np.uint8), "cut": _encoded("PNG")[:500],
    }.items():  # fmt: skip
        yield case(f"parser --labels: a label map {what}", command, partial(own_data, content))
    case = partial(Case, "data sets")
    yield case("verify: not there", "data verify no")
    yield case("verify: a file", "data verify a", partial(write, "a", "text"))
    yield case("verify: an unknown layout", "data verify a", partial(write, "a/b.txt", "text"))
    yield case("merge: not there", "data merge no --out out")
    yield case("merge: into the copy itself", "data merge a --out b/../a", lambda: (os.mkdir("a"), os.mkdir("b")))
    for name in ("CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt"):
        for what, content in {
            "empty": b"", "no list": b"<html>\n", "no text": b"\xff\xfe\0\0",
            "thousands of digits": b"9" * 5000 + b" 1 a.jpg\n",
            "digits of another alphabet": "\u0663 \u0663 a.jpg\n".encode(),
        }.items():  # fmt: skip
            yield case(f"merge: {name} is {what}", "data merge c --out out", partial(_celebamask, name, content))
        yield case(f"merge: no {name}", "data merge c --out out", partial(_celebamask, name, None))
    yield case("shard: pictures that are no files of their own", "data shard synthfaces --out out")
    yield case("shard: an unknown set", "data shard faces --out out")
    yield case("shards: no index", "predict --parser weak --data shards/x --out out", lambda: os.makedirs(SHARDS_X))
    for what, content in {"empty": b"", "a text": b"text"}.items():
        make = partial(write, f"{SHARDS_X}/index.npz", content)
        yield case(f"shards: the index is {what}", "predict --parser weak --data shards/x --out out", make)
    for what, changes in {
        "a shard is missing": {},
        "a picture before its shard": {"places": np.array([[0, -5, 9]])},
        "a picture beyond its shard": {"places": np.array([[0, 1020, 9]])},
        "a picture in no shard": {"places": np.array([[7, 0, 9]])},
        "places that are no numbers": {"places": np.array([["x", "y", "z"]])},
        "places that are half numbers": {"places": np.array([[0, 0.5, 9]])},
        "an id that leads out": {"ids": np.array(["../a"])},
        "an id from the root": {"ids": np.array(["/tmp/a"])},
        "an id of nothing": {"ids": np.array([""])},
        "an id twice": {"ids": np.array(["a", "a"]), "places": np.array([[0, 0, 9]] * 2)},
        "labels of another count": {"labels": np.ones((2, 18), np.uint8)},
    }.items():
        yield case(f"shards: {what}", "predict --parser weak --data shards/x --out out", partial(_index, **changes))


SHARDS_X = "cache/shards/x"
OWN_DATA = "--set train_data.name=shards --set train_data.split=x"
"""Options for which a stage trains on what :func:`own_data` makes."""


def own_data(label: object = None, content: bytes | None = None) -> None:
    """A shard of one picture, or of other ``content``, and in the folder ``l`` its label map, or another one."""
    photograph()
    if content is not None:
        write("a.jpg", content)
    write_shards(WeakFaces("x", ["a"], PictureFiles({"a": Path("a.jpg")}), np.ones((1, 18), np.uint8)), SHARDS_X)
    Path("l").mkdir()
    if isinstance(label, bytes):
        write("l/a.png", label)
    else:
        Image.fromarray(np.zeros((40, 30), np.uint8) if label is None else label).save("l/a.png")


def _index(**changes: np.ndarray) -> None:
    os.makedirs(SHARDS_X)
    facts = json.dumps({"name": "x", "scheme": "celebamask", "licence": "", "framed": True})
    rows = {"ids": np.array(["a"]), "labels": np.ones((1, 18), np.uint8), "places": np.array([[0, 512, 9]])}
    np.savez(f"{SHARDS_X}/index.npz", facts=facts, sizes=[1024], **(rows | changes))


CARD = {
    "system": "s", "paper": "p", "commit": "c", "weights": "w", "by": "b", "part": "test", "size": [4, 4],
    "classes": CELEBAMASK.classes,
}  # fmt: skip


def imported() -> Iterator[Case]:
    """``wsfp systems``: maps of others with their card."""
    case, command = partial(Case, "imported label maps"), "systems add f"
    yield case("not there", command)
    yield case("without a card", command, lambda: os.mkdir("f"))
    yield case("without maps", command, partial(write, "f/card.json", CARD))
    for what, content in HARD_TEXTS.items():
        yield case(f"the card is {what}", command, partial(write, "f/card.json", content))
    for content in ([], {}, 3, "text", None):
        yield case(f"the card is {json.dumps(content)}", command, partial(write, "f/card.json", json.dumps(content)))
    changes = [{"system": 3}, {"part": "all"}, {"part": None}, {"size": [4]}, {"size": [0, 4]}, {"size": [1e9, 4]},
               {"size": "4x4"}, {"colour": "red"}, {"classes": []}, {"classes": ["skin"]}, {"classes": OTHER_ORDER},
               {"classes": CELEBAMASK.classes[1:]}, {"classes": LAPA.classes}, {"classes": "skin"}]  # fmt: skip
    for change in changes:
        yield case(
            f"the card has {json.dumps(change)[:60]}", command, partial(write, "f/card.json", json.dumps(CARD | change))
        )  # fmt: skip
    for name in ("no", "''", "../x"):
        yield case(f"systems run {name}", f"systems run {name}")
        yield case(f"systems tune {name}", f"systems tune {name}")


def _celebamask(name: str, content: bytes | None) -> None:
    make_celebamask(Path("c"), merged=True)
    if content is None:
        Path("c", name).unlink()
    else:
        write(f"c/{name}", content)


RESULTS = {"command": "c", "revision": "r", "machine": "m", "date": "d"}
RESULT = {"name": "n: m", "metric": "m", "unit": "u", "seeds": [1.0], "per_class": {}}


def results() -> Iterator[Case]:
    """``wsfp systems cost --results``, which goes on with the rows of its file."""
    case = partial(Case, "results files edited by hand")
    command = "systems cost mctformer+ --results r"
    contents = [[], {}, RESULTS, RESULTS | {"rows": None}, RESULTS | {"rows": 3}, RESULTS | {"rows": {"a": 1}},
                RESULTS | {"rows": [1]}, RESULTS | {"rows": [None]}, RESULTS | {"rows": [[*RESULT]]},
                RESULTS | {"machine": 3, "rows": []}, RESULTS | {"revision": None, "rows": []}]  # fmt: skip
    changes = [{"seeds": None}, {"seeds": []}, {"seeds": "abc"}, {"seeds": ["x"]}, {"seeds": [True]}, {"seeds": {}},
               {"name": 3}, {"per_class": []}, {"per_class": {"skin": 3}}, {"per_class": {"skin": [1, 2]}},
               {"more": 1}]  # fmt: skip
    for content in contents:
        shown = json.dumps(content)
        yield case(f"table5.json is {shown}", command, partial(write, "r/table5.json", json.dumps(content)))
    for change in changes:
        content = RESULTS | {"rows": [RESULT | change]}
        yield case(f"a row with {json.dumps(change)}", command, partial(write, "r/table5.json", content))
    for what, content in HARD_TEXTS.items():
        yield case(f"table5.json is {what}", command, partial(write, "r/table5.json", content))


def helen(change: Callable[[], object]) -> None:
    """A small copy of Helen below ``t`` with one thing wrong."""
    make_helen(Path("t"))
    change()


def copies() -> Iterator[Case]:
    """``wsfp data merge``, ``verify`` and ``predict --data``: copies that are almost right."""
    case, command = partial(Case, "copies of data sets"), "data merge t --out out"
    part = "t/labels/10_1/10_1_lbl05.png"
    for what, change in {
        "without a picture": lambda: os.remove("t/images/13_1.jpg"),
        "without a soft map": lambda: os.remove(part),
        "a soft map that is a text": partial(write, part, "text"),
        "a soft map of another size": lambda: Image.new("L", (5, 5)).save(part),
        "a list with an id twice": partial(write, "t/tuning.txt", "1 , 12_1\n2 , 12_1\n"),
        "a list with an id that leads out": partial(write, "t/tuning.txt", "1 , ..\n"),
        "an empty list": partial(write, "t/tuning.txt", "\n"),
        "without a list": lambda: os.remove("t/tuning.txt"),
        "a list that is a folder": lambda: (os.remove("t/tuning.txt"), os.mkdir("t/tuning.txt")),
    }.items():  # fmt: skip
        yield case(f"merge: Helen, {what}", command, partial(helen, change))
    for what, change in {
        "without a label map": lambda: os.remove("t/train/10_1_label.png"),
        "a label map of another size": lambda: Image.new("L", (5, 5)).save("t/train/10_1_label.png"),
        "a label map with value 11": lambda: Image.new("L", (50, 60), 11).save("t/train/10_1_label.png"),
        "a label map that is a JPEG": lambda: Image.new("L", (50, 60)).save("t/train/10_1_label.png", "JPEG"),
    }.items():  # fmt: skip
        yield case(f"merge: Helen relabelled, {what}", command,
                   lambda change=change: (make_helen_relabelled(Path("t")), change()))  # fmt: skip
    yield case("merge: LaPa", command, lambda: make_lapa(Path("t")))
    yield case("merge: pictures and index PNGs", command, lambda: make_folder(Path("t")))
    yield case("merge: an empty folder", command, lambda: os.mkdir("t"))
    yield case("merge: a file", command, partial(write, "t", "text"))
    yield case("verify: a name of a line feed in an unknown layout", "data verify 'a\nb'", lambda: os.mkdir("a\nb"))
    yield case("verify: a link to itself", "data verify t", lambda: (os.mkdir("t"), os.symlink("images", "t/images")))
    predict, lapa = "predict --parser weak --out out --data", "cache/LaPa/test"
    for what, change in {
        "without label maps": lambda: shutil.rmtree(f"{lapa}/labels"),
        "a picture that is a text": partial(write, f"{lapa}/images/9.jpg", "text"),
        "a label map in colour": lambda: Image.new("RGB", (60, 80)).save(f"{lapa}/labels/9.png"),
        "a label map that is a JPEG": lambda: Image.new("L", (60, 80)).save(f"{lapa}/labels/9.png", "JPEG"),
    }.items():  # fmt: skip
        yield case(f"predict: LaPa, {what}", f"{predict} lapa/test",
                   lambda change=change: (make_lapa(Path("cache/LaPa")), change()))  # fmt: skip
    for name in ("lapa/test", "folder", "folder/x", "synthfaces/no", "frl-london/x", "frl-london", "shards",
                 "shards/..", "celebamask/val-0", "/", "no", "synthfaces/celeb/val/x"):  # fmt: skip
        yield case(f"predict --data {name}", f"{predict} {name}")


def full_size() -> Iterator[Case]:
    """``wsfp weights``, ``wsfp smoke`` and ``wsfp plan``."""
    case = partial(Case, "the full-size world")
    for verb in ("get", "verify"):
        for name in ("resnet50", "''", "DEIT", "../deit"):
            yield case(f"weights {verb} {name}", f"weights {verb} {name}")
    yield case("a licence that nobody accepts", "weights get deit")
    contents = {"empty": b"", "a text": b"text", "cut": b"\x12\x01" + bytes(20)}
    for what, content in contents.items():
        yield case(f"an MXNet file that is {what}", "weights convert a.params", partial(write, "a.params", content))
    yield case("an MXNet file that is not there", "weights convert a.params")
    yield case("an MXNet file that is a folder", "weights convert a.params", lambda: os.mkdir("a.params"))
    for command in ("smoke --out out", "plan"):
        yield case(f"{command.split()[0]} of another profile", f"{command} --profile embedded")
        yield case(f"{command.split()[0]} with an unknown setting", f"{command} --set train.batchsize=3")
    for pictures in ("2", "-1", "x", "1000000"):
        yield case(f"smoke --pictures {pictures}", f"smoke --out out --pictures {pictures}")
    yield case("smoke --out is a file", "smoke --out a", partial(write, "a", "text"))
    place = "weights/x.safetensors"
    command = f"parser --profile paper --labels l --out out {OWN_DATA} --set parser.weights="
    yield case("parser: ResNet38 without weights", command + "null", own_data)
    yield case("parser: ResNet38's weights are not there", command + place, own_data)
    for what, made in {
        "a text": b"text", "cut": save({"stem.weight": torch.ones(64, 3, 3, 3)})[:-8],
        "NaN": save({"stem.weight": torch.full((64, 3, 3, 3), torch.nan)}),
    }.items():  # fmt: skip
        make = partial(lambda content: (own_data(), write(f"cache/{place}", content)), made)
        yield case(f"parser: ResNet38's weights are {what}", command + place, make)


CASES = [
    case
    for cases in (
        photographs,
        parsers,
        runs,
        maps,
        boxes,
        options,
        outputs,
        label_maps,
        imported,
        results,
        copies,
        full_size,
    )
    for case in cases()
]

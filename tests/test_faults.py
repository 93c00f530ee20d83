"""Kills, full disks, signals and second processes: each stage goes on to the same bytes, or says what to do."""

import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from argparse import Namespace
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pooch
import psutil
import pytest
import torch
from tqdm import tqdm

from scripts import train_mini_vlm, train_parsers
from scripts.vlm_pictures import OutlinedFaces, vocabulary
from tests.bad_inputs import photograph, trained
from tests.fixtures import CELEBA_COUNTS, make_celebamask, make_folder, tiny_parser
from wsfp_helpers import stages
from wsfp_helpers.common.checkpoints import read_weights, save_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import atomic_path, hold_folder, write_json
from wsfp_helpers.common.runs import read_metrics
from wsfp_helpers.data import frl
from wsfp_helpers.data.celebamask import merge
from wsfp_helpers.data.folder import folder
from wsfp_helpers.data.shards import write_shards
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.method.fcam import Fcam, save_fcam
from wsfp_helpers.method.regions import RegionConfig
from wsfp_helpers.parsing import export, page, photographs
from wsfp_helpers.parsing.fit import FitConfig
from wsfp_helpers.profiles import Source, profile
from wsfp_helpers.systems import base as systems
from wsfp_helpers.tooling import ablate, plan, smoke, weights

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed after a fork")
KILLS = int(os.environ.get("WSFP_KILLS", 3))
"""Moments at which each stage is killed, the first and the last write among them."""


def tiny():
    """The embedded profile, trained for two steps, its state kept after each."""
    whole = profile("embedded")
    fit = replace(whole.parser.fit, steps=2, batch=2, save_every=1)
    return replace(
        whole,
        ccd=None,
        train=replace(whole.train, epochs=1, batch_size=2, warmup_epochs=0, tcd=None, save_every=1),
        parser=replace(whole.parser, copies=0, rare_copies=0, fit=fit),
    )


def train_system(work):
    """What ``wsfp systems train more`` does."""
    system, run = stages.run_system("more", tiny(), work)
    stages.label_faces(system, tiny().faces("train").weak, run)


def make_table(out):
    """What ``wsfp ablate`` does, with two trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ablate.TABLES, "table3", lambda config: ablate.table3(config)[:2])
        scores = ablate.ablate("table3", tiny(), stages.SHIPPED, [0], out / "work", 1)
        ablate.write_table("table3", scores, [0], tiny(), out / "results")


CONTENTS = {f"inst/neutral_front/{i}.tem": f"points of {i}".encode() * 99 for i in range(3)}
"""Files of a hub, by their place."""


@contextmanager
def below(out, *changes):
    """Cache and data are in ``out``, and each change (a module, a name in it, and its value) is made."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("WSFP_CACHE", "WSFP_DATA"):
            patch.setenv(variable, str(out))
        for change in changes:
            patch.setattr(*change)
        yield


def fetch_frl(out):
    """What ``wsfp data get`` does, without a network."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    download = lambda url, path, _: Path(path).write_bytes(CONTENTS[url.removeprefix(frl.URL)])  # noqa: E731
    with below(out, (frl, "registry", lambda: sums), (pooch, "HTTPDownloader", lambda **_: download)):
        frl.fetch_frl_london()


class Answer(nullcontext):
    """Of a hub, to ``requests.get``: the file, or the part of it that was asked for."""

    history = ()

    def __init__(self, url, headers, **_):
        super().__init__(self)
        self.first = int(headers["Range"][6:-1]) if headers.get("If-Range") == "tag" else 0
        self.body = CONTENTS[url][self.first :]
        self.headers = {"ETag": "tag", "Content-Length": str(len(self.body))}
        self.status_code = 206 if self.first else 200
        if not self.body:
            self.status_code = 416

    def raise_for_status(self):
        assert self.status_code != 416

    def iter_content(self, _):
        half = len(self.body) // 2
        yield from (self.body[:half], self.body[half:])


def fetch_weights(out):
    """What ``wsfp weights get`` does, without a network; no sum is published of the first file."""
    sums = {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in CONTENTS.items()}
    files = [weights.File(url, f"weights/tiny/{Path(url).name}", sums[url] if i else None)
             for i, url in enumerate(CONTENTS)]  # fmt: skip
    offered = {"tiny": weights.Weights("Tiny", "weights/tiny", "a test", "CC0", 1, tuple(files), None)}
    with below(out, (weights, "WEIGHTS", offered), (weights.requests, "get", Answer)):
        weights.get("tiny", lambda _: None)


def write_page(base, out):
    """What ``wsfp page`` does with the bytes of a network and of a runtime that are none."""
    archive = base / "runtime.tgz"
    if not archive.exists():
        with tarfile.open(archive, "w:gz") as package:
            for name in page.RUNTIME:
                package.addfile(tarfile.TarInfo(f"package/dist/{name}"), io.BytesIO())

    def export(parsers, path, weights):
        with atomic_path(path) as part:
            part.write_bytes(bytes(9999))

    with below(out, (page, "fetch_runtime", lambda: archive), (page, "export", export)):
        page.write_page(out)


def export_parser(out):
    """What ``wsfp export`` does with a network that is none."""
    onnx = pytest.importorskip("onnx")
    helper, one = onnx.helper, onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "none", [one], [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", export.OPSET)])
    with below(out, (export, "onnx_model", lambda _: made), (export, "agree", lambda *_: export.Agreement(1, 100, 0))):
        export.export({"probabilities": tiny_parser()}, out / "parser.onnx")


def make_plan(out):
    """What ``wsfp plan`` does, and ``wsfp smoke`` before its stages, with weights that are none."""

    def random_folder(path):
        path.mkdir()
        for name in "ab":
            (path / name).write_text("random weights")

    def measure(trial, folder):
        write_json(folder / "run" / "large", [0] * 999)
        yield plan.Cost("train", "step", lambda n: n, 1.0)

    random = lambda path, *_: path.write_bytes(b"random")  # noqa: E731
    changes = [(smoke, name, random_folder) for name in ("_random_flip", "_random_dino")]
    changes += [(smoke, "_random_deit", random), (smoke, "save_halved", random), (smoke, "ResNet38", lambda: None)]
    with below(out, *changes, (plan, "PICTURES", 3), (plan, "_measure", measure)):
        plan.make_plan(profile("paper"), out, out / "work")


def train_vlm(out):
    """What ``scripts/train_mini_vlm.py`` does, for two steps on four faces."""
    faces = OutlinedFaces(synthfaces("celeb/pretrain").subset(range(4)))
    tokenizer = train_mini_vlm.WordTokenizer(vocabulary(faces), train_mini_vlm.CONTEXT)
    arguments = Namespace(model="mini_flip", steps=2, seed=0)
    with below(out, (train_mini_vlm, "BATCH", 2), (train_mini_vlm, "SAVE_EVERY", 1)):
        torch.manual_seed(0)
        train_mini_vlm.train(
            train_mini_vlm.new_model(tokenizer), tokenizer, faces, arguments,
            lambda clip, *_: save_weights(out / "mini_flip.safetensors", clip.state_dict()),
        )  # fmt: skip


def ship_parser(out, day=date(2026, 11, 28)):
    """What ``scripts/train_parsers.py supervised`` does, for two steps on two faces."""
    changes = {
        "synthfaces": lambda name: synthfaces(name).subset(range(2)), "profile": lambda _: tiny(), "STEPS": 2,
        "SHIPPED_PARSERS": {"supervised": out / "asset"}, "date": Namespace(today=lambda: day),
    }  # fmt: skip
    with below(out, *[(train_parsers, *change) for change in changes.items()]):
        train_parsers.train("supervised", None, 0)


STAGES = {
    "ccd": lambda base, out: stages.run_ccd(tiny(), out, images=True),
    "train": lambda base, out: stages.run_train(tiny(), out),
    "fcam": lambda base, out: stages.run_fcam(base / "train", out),
    "pseudo": lambda base, out: stages.run_pseudo(base / "fcam", out),
    "regions": lambda base, out: stages.run_regions(
        tiny(), base / "fcam", out, settings=RegionConfig(clusters=(16,), rounds=0)
    ),
    "parser": lambda base, out: stages.run_parser(tiny(), base / "pseudo", out),
    "parse": lambda base, out: photographs.parse_photographs(base / "photographs", out),
    "predict": lambda base, out: photographs.predict_set(tiny().faces("test").weak, out, "weak"),
    "system": lambda base, out: train_system(out),
    "merge": lambda base, out: merge(base / "celebamask", out, CELEBA_COUNTS),
    "shard": lambda base, out: write_shards(folder(base / "mine").weak, out, 2),
    "ablate": lambda base, out: make_table(out),
    "export": lambda base, out: export_parser(out),
    "page": lambda base, out: write_page(base, out),
    "frl": lambda base, out: fetch_frl(out),
    "weights": lambda base, out: fetch_weights(out),
    "plan": lambda base, out: make_plan(out),
    "vlm": lambda base, out: train_vlm(out),
    "parsers": lambda base, out: ship_parser(out),
}
HELD = {
    "system": "systems/*", "ablate": "work/ablate/*", "frl": "frl_london", "weights": "weights", "plan": "work",
    "vlm": "vlm/mini_flip-steps2-seed0", "parsers": "parsers/supervised-seed0",
}  # fmt: skip
"""Folders that a stage keeps for itself, where that is not the one that it is given."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """What every stage makes without a fault, from four faces."""
    patch, place = pytest.MonkeyPatch(), tmp_path_factory.mktemp("stages")
    patch.setenv("WSFP_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(Source, "open", lambda self: synthfaces(self.split).subset(range(4)))
    patch.setattr(photographs, "PER_SHEET", 1)
    patch.setattr(systems, "FitConfig", partial(FitConfig, save_every=1))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork has no other threads
    for name in "ab":
        photograph(str(place / "photographs" / f"{name}.jpg"), (60 + ord(name), 70))
    make_celebamask(place / "celebamask")
    make_folder(place / "mine")
    for name, run in STAGES.items():
        run(place, place / name)
    yield place
    torch.set_num_threads(threads)
    patch.undo()


def in_a_fork(work):
    """Do ``work`` in a child process; its exit status, 0 when ``work`` returned and 3 for an :class:`InputError`."""
    if tqdm.monitor is not None:  # a thread that may hold tqdm's lock in the moment of the fork
        tqdm.monitor.exit()
        tqdm.monitor = None
    child = os.fork()
    if not child:
        tqdm.monitor_interval = 0
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()  # pytest's are files, to which a limit would apply
        try:
            work()
        except InputError:
            os._exit(3)
        except BaseException:
            os._exit(4)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def on_writes(act):
    """Call ``act(n, path)`` before the n-th opening for writing, renaming, cutting or removal of a file."""
    count = 0

    def hook(event, arguments):
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.truncate", "os.remove"):
            count += 1
            act(count, arguments[0])

    sys.addaudithook(hook)


def count_writes(run, folder):
    """How often a stage writes."""
    log = folder.with_suffix(".log")
    last = os.open(log, os.O_RDWR | os.O_CREAT)
    work = lambda: (on_writes(lambda n, _: os.pwrite(last, f"{n:9}".encode(), 0)), run(folder))  # noqa: E731
    assert in_a_fork(work) == 0
    os.close(last)
    shutil.rmtree(folder)
    return int(log.read_text())


def content(folder):
    """What must be the same of two folders: bytes, but tensors of states and without dates and repeated steps."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name == "config.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "date"}
        elif path.name == "metrics.jsonl":
            found[name] = read_metrics(path.parent)
        elif path.name == "checkpoint.safetensors":
            found[name] = {key: value.tolist() for key, value in read_weights(path).items()}
        elif path.parent.name == "results":
            found[name] = re.sub(rb'"date": ".*"|- Date: .*', b"", path.read_bytes())
        else:
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.promise(
    "kills and faults",
    "`kill -9` before a write, in each stage",
    "nothing; the same command goes on to the same bytes",
    "whole files, the last saved state, and `.part` files, which the next command removes",
)
def test_a_killed_stage_goes_on_to_the_same_bytes(base, tmp_path, name):
    def run(out):
        STAGES[name](base, out)

    writes = count_writes(run, tmp_path / "count")
    assert writes > 3
    last = writes - (name == "parse")  # whose last write frees the folder: it is done, and a new call makes new sheets
    moments = {1, last, *random.Random(name).sample(range(2, last), min(KILLS, last) - 2)}
    for moment in sorted(moments):
        out = tmp_path / str(moment)

        def die(n, _, moment=moment):
            if n == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        assert in_a_fork(lambda out=out, die=die: (on_writes(die), run(out))) == signal.SIGKILL
        run(out)
        assert content(out) == content(base / name), f"killed before write {moment} of {writes}"


@pytest.mark.promise(
    "kills and faults",
    "a killed training of `scripts/train_parsers.py` goes on another day",
    "nothing; the same bytes",
    "the date of its first day",
)
def test_a_script_that_was_killed_goes_on_another_day(base, tmp_path):
    ship_parser(tmp_path)
    (tmp_path / "asset").unlink()
    ship_parser(tmp_path, date(2026, 11, 29))
    assert content(tmp_path) == content(base / "parsers")


@pytest.mark.parametrize("name", ["parser", "system"])
@pytest.mark.promise(
    "kills and faults",
    "`kill -9` after the weights, before the saved state is removed",
    "nothing",
    "the next command removes the state",
)
def test_a_state_that_outlived_its_training_is_removed(base, tmp_path, name):
    # What a kill leaves between the writing of the weights and this removal.
    shutil.copytree(base / name, tmp_path / "out")
    (weights,) = (tmp_path / "out").rglob("*.safetensors")
    weights.with_name("state.safetensors").write_bytes(b"state")
    STAGES[name](base, tmp_path / "out")
    assert content(tmp_path / "out") == content(base / name)


def run_pipeline(photographs_of):
    """All stages of the method one after another, with both steps of it, in the working directory."""
    whole, short = profile("embedded"), tiny()
    config = replace(whole, train=replace(short.train, tcd=whole.train.tcd), parser=short.parser)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Source, "open", lambda self: synthfaces(self.split).subset(range(4)))
        stages.run_ccd(config, "ccd")
        stages.run_train(config, "train", "ccd/boxes.jsonl")
        stages.run_fcam("train", "fcam")
        stages.run_pseudo("fcam", "pseudo")
        stages.run_regions(config, "fcam", "regions", "ccd/boxes.jsonl", RegionConfig(clusters=(16,)))
        for labels in ("pseudo", "regions"):
            parser = stages.run_parser(config, labels, f"parser_{labels}")
        photographs.parse_photographs(photographs_of, "parse", parser)
        photographs.predict_set(config.faces("test").weak, "predict", parser)


@pytest.mark.promise(
    "determinism",
    "all stages twice, in processes of their own, empty caches, sets in another order",
    "-",
    "the same bytes",
)
def test_the_whole_pipeline_gives_the_same_bytes_twice(base, tmp_path):
    # In processes of their own, with empty caches, and with sets and dictionaries in another order.
    found = []
    for hashes in ("1", "2"):
        folder = tmp_path / hashes
        (folder / "run").mkdir(parents=True)
        surroundings = {"PYTHONPATH": str(Path(__file__).parents[1]), "WSFP_CACHE": str(folder / "cache")}
        code = f"from tests.test_faults import run_pipeline; run_pipeline({str(base / 'photographs')!r})"
        subprocess.run(
            [sys.executable, "-c", code], cwd=folder / "run", check=True, timeout=600, capture_output=True,
            env=os.environ | surroundings | {"PYTHONHASHSEED": hashes, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        for about in (folder / "run").glob("*/settings.json"):  # some name the folder of the maps
            about.write_text(about.read_text().replace(str(folder), "FOLDER"))
        found.append(content(folder / "run"))
    first, second = found
    assert first == second
    assert {name.split("/")[0] for name in first} == {path.name for path in (folder / "run").iterdir()}
    assert len([name for name in first if name.endswith("model.safetensors")]) == 1


@pytest.mark.parametrize("name", ["train", "parser", "parse"])
@pytest.mark.promise(
    "determinism",
    "one thread and two: `train`, `parser`, `parse`",
    "-",
    "weights within 0.0001 after two steps; the same maps of `parse`",
)
def test_two_threads_give_nearly_what_one_gives(base, tmp_path, name):
    torch.set_num_threads(2)
    try:
        STAGES[name](base, tmp_path / "out")
    finally:
        torch.set_num_threads(1)
    one, two = base / name, tmp_path / "out"
    assert [path.relative_to(one) for path in sorted(one.rglob("*"))] == [
        path.relative_to(two) for path in sorted(two.rglob("*"))
    ]
    for path in one.rglob("*.safetensors"):
        ones, twos = read_weights(path), read_weights(two / path.relative_to(one))
        assert max((ones[key] - twos[key]).abs().max() for key in ones) < 1e-4
    for path in one.rglob("*.png"):  # each photograph has one thread
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


def fill_disk(base, name, out, when):
    """Run a stage whose disk is full 10 bytes after the file begins or goes on for which ``when(n, path)`` first holds.

    Its exit status.  A limit on the size of files fails as a full disk does: in the middle of a write.
    """
    full = False

    def fill(n, path):
        nonlocal full
        if not full and when(n, path):
            full, there = True, os.path.getsize(path) if os.path.isfile(path) else 0
            resource.setrlimit(resource.RLIMIT_FSIZE, (there + 10, there + 10))

    return os.waitstatus_to_exitcode(in_a_fork(lambda: (on_writes(fill), STAGES[name](base, out))))


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.promise(
    "kills and faults",
    "a full disk in the middle of a file, in any stage",
    "a sentence, exit code 2; the same command goes on to the same bytes",
    "whole files, no `.part`",
)
def test_a_full_disk_is_a_sentence_and_the_same_command_goes_on(base, tmp_path, name):
    writes = count_writes(partial(STAGES[name], base), tmp_path / "count")
    for moment in random.Random(name).sample(range(1, writes), min(KILLS, writes) - 1):
        out = tmp_path / str(moment)
        ended = fill_disk(base, name, out, lambda n, _, moment=moment: n == moment)
        assert ended in (0, 3) and not [*tmp_path.rglob(".wsfp*")]
        if ended:
            STAGES[name](base, out)
        assert content(out) == content(base / name), f"full at write {moment} of {writes}"


@pytest.mark.parametrize(
    ("name", "file", "time"),
    [
        ("train", "metrics.jsonl", 2), ("train", "checkpoint.safetensors", 2), ("train", "model.safetensors", 1),
        ("parser", "metrics.jsonl", 2), ("parser", "state.safetensors", 2), ("parser", "parser.safetensors", 1),
        ("system", "state.safetensors", 2), ("ccd", "boxes.jsonl", 1), ("parse", "unfinished.jsonl", 2),
        ("weights", "sums.jsonl", 1),
    ],
)  # fmt: skip
@pytest.mark.promise(
    "kills and faults",
    "a full disk in the middle of a line of metrics, boxes or sums, of a checkpoint, or of a parser's saved state",
    "a sentence, exit code 2; the same command goes on to the same bytes",
    "whole lines and files, no `.part`",
)
def test_a_disk_that_fills_in_the_middle_of_a_file(base, tmp_path, name, file, time):
    out, begun = tmp_path / "out", []
    with atomic_path(tmp_path / file) as part:
        at_first = part.name

    def begins(_, path):
        whole, path = Path(str(path)).name == at_first and not os.path.exists(path), Path(str(path))
        begun.extend([path] * (whole or path.name == file))
        return len(begun) == time

    assert fill_disk(base, name, out, begins) == 3
    assert not [*out.rglob(".wsfp*")]
    STAGES[name](base, out)
    assert content(out) == content(base / name)


@pytest.mark.parametrize("name", [name for name in STAGES if name != "export"])
@pytest.mark.promise(
    "two at once",
    "the same stage twice in one folder",
    "`... is in use by process ... on ... since ...: wait for its end, ...`, exit code 2",
    "as the first leaves it",
)
def test_a_second_process_in_a_folder_is_refused(base, tmp_path, name):
    out, pattern = tmp_path / "out", HELD.get(name, ".")
    folders = [out / each.relative_to(base / name) for each in (base / name).glob(pattern)] if "*" in pattern else []
    with ExitStack() as held:
        for each in folders or [out / pattern]:
            held.enter_context(hold_folder(each))
        before = content(out)
        with pytest.raises(InputError, match=rf" is in use by process {os.getpid()} on \S+ since .*: wait for its end"):
            STAGES[name](base, out)
        assert content(out) == before


def worked_by_children():
    """Seconds that the processors have worked for processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("command", "written", "number", "code"),
    [
        ("parse photographs --out out", "*/*.png", signal.SIGTERM, 143),
        ("parse photographs --out out", "*/*.png", signal.SIGINT, 130),
        ("fcam --run run --out out", "*.safetensors", signal.SIGTERM, 143),
        ("train --out out", "config.json", signal.SIGINT, 130),
        ("pseudo --fcams maps --out out --workers 2", "*.png", signal.SIGTERM, 143),
    ],
)
@pytest.mark.promise(
    "kills and faults",
    "Ctrl-C or SIGTERM in `parse`, `fcam`, `train`, `pseudo --workers 2`",
    "`stopped; what was written is whole, and the same command goes on from there`, exit code 130 or 143",
    "whole files",
)
def test_a_signal_ends_a_command_with_a_sentence(tmp_path, monkeypatch, command, written, number, code):
    monkeypatch.chdir(tmp_path)
    for i in range(30):
        photograph(f"photographs/{i}.jpg", (200, 200))
    trained()
    for i in range(40):
        save_fcam(Fcam(f"{i}", np.array([0]), (torch.rand(1, 9, 9),), (3000, 3000)), Path("maps"))
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background process ignores it, and passes it on
    before = worked_by_children()
    with subprocess.Popen(
        [sys.executable, "-m", "wsfp_helpers.cli", *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as process:  # fmt: skip
        while process.poll() is None and not list(Path("out").glob(written)):
            time.sleep(0.05)
        at_work = psutil.Process(process.pid)
        for each in (at_work, *at_work.children(recursive=True)):
            before += sum(each.cpu_times()[:2])
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    # Seconds at work, not of the clock: other processes may keep it waiting.  A look at four photographs takes one.
    assert worked_by_children() - before < 0.7
    assert process.returncode == code and "Traceback" not in said and "leaked" not in said
    assert said.splitlines()[-1].endswith(
        "wsfp: stopped; what was written is whole, and the same command goes on from there"
    )
    known = ("config.json", "settings.json", "unfinished.jsonl", "sheets", "supervised", "weak")
    whole = {path.name for path in Path("out").iterdir() if path.suffix not in (".safetensors", ".png", ".part")}
    assert whole <= {*known}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
@pytest.mark.promise(
    "kills and faults",
    "stdout on a full device",
    "`could not use the output (No space left on device)`, exit code 2",
    "as it was",
)
def test_a_full_output_is_a_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wsfp_helpers.cli", "profile"], stdout=full, stderr=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "wsfp: could not use the output (No space left on device): check path, rights and space\n"

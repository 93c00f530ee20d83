"""Kills, full disks, signals and second processes: each stage goes on to the same bytes, or says what to do."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from tqdm import tqdm

from tests.bad_inputs import photograph, trained
from tests.fixtures import CELEBA_COUNTS, make_celebamask
from wsfp_helpers import stages
from wsfp_helpers.common.checkpoints import read_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import hold_folder
from wsfp_helpers.common.runs import read_metrics
from wsfp_helpers.data.celebamask import merge
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.method.fcam import Fcam, save_fcam
from wsfp_helpers.method.regions import RegionConfig
from wsfp_helpers.parsing import photographs
from wsfp_helpers.parsing.fit import FitConfig
from wsfp_helpers.profiles import Source, profile
from wsfp_helpers.systems import base as systems

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
}


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
        try:
            work()
        except InputError:
            os._exit(3)
        except BaseException:
            os._exit(4)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def on_writes(act):
    """Call ``act(n)`` before the n-th opening for writing, renaming, cutting or removal of a file in this process."""
    count = 0

    def hook(event, arguments):
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.truncate", "os.remove"):
            count += 1
            act(count)

    sys.addaudithook(hook)


def count_writes(run, folder):
    """How often a stage writes."""
    log = folder.with_suffix(".log")
    last = os.open(log, os.O_RDWR | os.O_CREAT)
    work = lambda: (on_writes(lambda n: os.pwrite(last, f"{n:9}".encode(), 0)), run(folder))  # noqa: E731
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
    assert writes > 5
    last = writes - (name == "parse")  # whose last write frees the folder: it is done, and a new call makes new sheets
    moments = {1, last, *random.Random(name).sample(range(2, last), min(KILLS, last) - 2)}
    for moment in sorted(moments):
        out = tmp_path / str(moment)

        def die(n, moment=moment):
            if n == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        assert in_a_fork(lambda out=out, die=die: (on_writes(die), run(out))) == signal.SIGKILL
        run(out)
        assert content(out) == content(base / name), f"killed before write {moment} of {writes}"


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


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.promise(
    "kills and faults",
    "a full disk in the middle of a file, in any stage",
    "a sentence, exit code 2; the same command goes on to the same bytes",
    "whole files, no `.part`",
)
def test_a_full_disk_is_a_sentence_and_the_same_command_goes_on(base, tmp_path, name):
    # A limit on the size of files fails as a full disk does: in the middle of a write.
    largest = max(path.stat().st_size for path in (base / name).rglob("*") if path.is_file())

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))
        STAGES[name](base, tmp_path / "out")

    assert os.waitstatus_to_exitcode(in_a_fork(work)) == 3
    assert not [path for path in tmp_path.rglob("*.part")]
    STAGES[name](base, tmp_path / "out")
    assert content(tmp_path / "out") == content(base / name)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.promise(
    "two at once",
    "the same stage twice in one folder",
    "`... is in use by process ... on ... since ...: wait for its end, ...`, exit code 2",
    "as the first leaves it",
)
def test_a_second_process_in_a_folder_is_refused(base, tmp_path, name):
    folder = tmp_path / "out"
    if name == "system":  # whose run is a folder below
        folder /= next((base / name).glob("systems/*")).relative_to(base / name)
    with hold_folder(folder):
        before = content(tmp_path / "out")
        with pytest.raises(
            InputError, match=rf"{folder.name} is in use by process {os.getpid()} on \S+ since .*: wait for its end"
        ):
            STAGES[name](base, tmp_path / "out")
        assert content(tmp_path / "out") == before


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

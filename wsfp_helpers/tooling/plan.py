"""`wsfp plan`: hours, memory and disk of the paper profile here, from a few real steps of every stage."""

import operator
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.files import hold_folder, temporary_folder
from wsfp_helpers.common.machine import device, machine
from wsfp_helpers.common.memory import PeakMemory, all_memory
from wsfp_helpers.data.celebamask import COUNTS
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.boxes import detect_dataset, read_boxes
from wsfp_helpers.method.ccd import CCDConfig, mask_faces
from wsfp_helpers.method.fcam import extract_to_folder
from wsfp_helpers.method.pseudo import read_targets, write_pseudo_labels
from wsfp_helpers.method.train import train
from wsfp_helpers.parsing.deeplab import DeepLabConfig, DeepLabParser
from wsfp_helpers.parsing.photographs import predict_set
from wsfp_helpers.profiles import Profile
from wsfp_helpers.stages import find_detector
from wsfp_helpers.tooling.smoke import Trial, full_size_trial

MANY, MANY_GPUS = 10_000_000, 8
PICTURES = 20
"""Pictures of the trial, of which 16 are for training."""
A_PICTURE = 1000
"""Bytes of memory that a picture of the set takes in every process: its id, its labels, and where its files are."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """What a stage costs: seconds, and bytes of disk, a unit of work, bytes that it keeps once, and memory.

    ``units(n)`` is its work for ``n`` training pictures; ``gpu`` and ``memory``, of the machine, are bytes at most.
    """

    name: str
    unit: str
    units: Callable[[int], float]
    seconds: float
    bytes_a_unit: float = 0
    bytes_once: int = 0
    gpu: int = 0
    memory: int = 0
    advice: str = ""

    def hours(self, pictures: int) -> float:
        """Hours for so many training pictures."""
        return self.units(pictures) * self.seconds / 3600

    def disk(self, pictures: int) -> float:
        """Bytes that it writes for so many training pictures."""
        return self.units(pictures) * self.bytes_a_unit + self.bytes_once

    def needs(self, pictures: int) -> int:
        """Bytes of memory, of which those of the trial's few pictures were measured, for so many training pictures."""
        return self.memory + A_PICTURE * pictures


@dataclass(frozen=True)
class Spent:
    """What a call took: seconds, and bytes of the GPU and of the machine's memory at most."""

    seconds: float
    gpu: int
    memory: int

    @property
    def most(self) -> dict[str, Any]:
        """Both of memory, as :class:`Cost` names them."""
        return {"gpu": self.gpu, "memory": self.memory}


@dataclass(frozen=True)
class Plan:
    """The costs of all stages, what was not real in measuring them, free bytes where the runs will be, and memory."""

    costs: tuple[Cost, ...]
    replaced: tuple[str, ...]
    free: int
    memory: int

    @property
    def problems(self) -> list[str]:
        """Why the run cannot be made on this machine as it is, and what would fit."""
        found, pictures = [f"{cost.name}: {cost.advice}" for cost in self.costs if cost.advice], COUNTS["train"]
        needed = self.disk(pictures)
        if needed > self.free:
            found.append(
                f"the runs need {needed / 1e9:,.0f} GB of disk, {self.free / 1e9:,.0f} GB are free: free "
                f"{(needed - self.free) / 1e9:,.0f} GB, or train on at most {self.fitting():,} pictures"
            )
        if large := [cost for cost in self.costs if cost.needs(pictures) > self.memory]:
            most = max(cost.needs(pictures) for cost in large)
            found.append(
                f"{', '.join(cost.name for cost in large)} need up to {most / 1e9:,.1f} GB of memory, the machine has "
                f"{self.memory / 1e9:,.1f} GB: take a larger one, or fewer processes that load pictures (--set "
                f"train.workers=0 --set parser.workers=0)"
            )
        return found

    def disk(self, pictures: int) -> float:
        """Bytes of all stages for so many training pictures."""
        return sum(cost.disk(pictures) for cost in self.costs)

    def fitting(self) -> int:
        """Training pictures whose runs fit on the disk."""
        once = self.disk(0)
        return max(0, int((self.free - once) / ((self.disk(MANY) - once) / MANY)))

    def __str__(self) -> str:
        counts = (COUNTS["train"], MANY)
        heads = "".join(f"{f'h, {count:,}':>14}{'GB':>9}" for count in counts)
        lines = [
            f"{machine()}; {_card()}",
            *self.replaced,
            f"{'':9}{'s a unit':>10}  {'unit':22}{'GPU GiB':>8}{'RAM GB':>8}{heads}",
        ]
        for cost in self.costs:
            cells = "".join(f"{cost.hours(count):14,.1f}{cost.disk(count) / 1e9:9,.1f}" for count in counts)
            gpu = f"{cost.gpu / 2**30:.1f}" if cost.gpu else "-"
            lines.append(
                f"{cost.name:9}{cost.seconds:10.3f}  {cost.unit:22}{gpu:>8}{cost.needs(counts[0]) / 1e9:8.1f}{cells}"
            )
        hours = [sum(cost.hours(count) for cost in self.costs) for count in counts]
        cells = "".join(f"{h:14,.1f}{self.disk(n) / 1e9:9,.1f}" for h, n in zip(hours, counts, strict=True))
        split = f"all, split over {MANY_GPUS} GPUs (pseudo: processes), at best"
        many = max(cost.needs(MANY) for cost in self.costs)
        lines += [
            f"{'all':59}{cells}",
            f"{split:59}" + "".join(f"{h / MANY_GPUS:14,.1f}{'':9}" for h in hours).rstrip(),
            f"{self.free / 1e9:,.0f} GB are free: for {self.fitting():,} training pictures",
            f"{self.memory / 1e9:,.1f} GB of memory; for {MANY:,} pictures a process needs up to {many / 1e9:,.1f} GB",
        ]
        return "\n".join([*lines, *(f"does not fit: {problem}" for problem in self.problems)])


def make_plan(config: Profile, out: Path, work: Path | None = None) -> Plan:
    """Time a few real steps of every stage of the paper profile, one after the other, in one process.

    Args:
        config: The paper profile, with changes.
        out: Where the runs are to be; it is looked at for its free space only.
        work: Folder for the data and weights of the trial, which are kept there (default: in the cache).
    """
    work = work or cache_dir() / "plan"
    with (
        hold_folder(work),
        full_size_trial(work / "data", PICTURES, config) as trial,
        temporary_folder(work) as folder,
    ):
        costs = tuple(_measure(trial, folder))
    place = next(each for each in (out.absolute(), *out.absolute().parents) if each.exists())
    return Plan(costs, trial.replaced, shutil.disk_usage(place).free, all_memory())


def _measure(trial: Trial, folder: Path) -> Iterator[Cost]:
    # On a GPU as many pictures as ccd and fcam take at a time, so that their memory is seen.
    config, faces, few = trial.config, trial.config.faces("train").weak, 8 if torch.cuda.is_available() else 1
    some = faces.subset(range(few))
    detector, boxes = find_detector(config, trial.detector), folder / "boxes.jsonl"
    detect_dataset(some.subset([0]), detector, folder / "first.jsonl")  # what happens once in a process is not timed
    spent, _ = _timed(lambda: detect_dataset(some, detector, boxes))
    yield Cost("ccd", "picture", lambda n: n, spent.seconds / few, boxes.stat().st_size / few, **spent.most)

    masked = mask_faces(some, read_boxes(boxes), config.ccd or CCDConfig(), 0)
    yield _training(config, masked, folder / "run")

    vit, fcams = config.model.build().to(device()), folder / "fcams"
    extract_to_folder(vit, some.subset([0]), folder / "first", config.fcam)
    spent, _ = _timed(lambda: extract_to_folder(vit, some, fcams, config.fcam))
    yield Cost("fcam", "picture", lambda n: n, spent.seconds / few, _size(fcams) / few, **spent.most)
    spent, labels = _timed(lambda: write_pseudo_labels(fcams, folder / "labels", config.theta))
    yield Cost("pseudo", "picture, one process", lambda n: n, spent.seconds / few, _size(labels) / few, **spent.most)

    assert isinstance(config.parser, DeepLabConfig)
    yield (cost := _parser(config.parser, some, labels, folder))
    if cost.advice:
        return
    test = config.faces("test").weak.subset([0])
    spent, found = _timed(lambda: predict_set(test, folder / "test", folder / "parser.safetensors"))
    yield Cost("predict", "test picture", lambda n: COUNTS["test"], spent.seconds, _size(found), **spent.most)


def _training(config: Profile, faces: WeakFaces, run: Path) -> Cost:
    """A step as the profile has it, or in as few pieces as fit on the GPU; a CPU takes one picture at a time."""
    whole, cuda = config.train, torch.cuda.is_available()
    for pieces in (each for each in range(1, whole.batch_size + 1) if whole.batch_size % each == 0):
        size = whole.batch_size // pieces if cuda else 1
        try:
            spent = _time_steps(config, faces, size, run)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        units = partial(_steps, whole.epochs, size)
        advice = (
            f"a batch of {whole.batch_size} needs more memory than the GPU has, {pieces} pieces of it do not: --set "
            f"train.batch_size={size} --set train.accumulate={pieces}"
        )
        advice *= pieces > 1
        unit = f"step of {size} pictures"
        return Cost("train", unit, units, spent.seconds, 0, _size(run), advice=advice, **spent.most)
    return Cost("train", "step", partial(_steps, whole.epochs, 1), 0, advice="the GPU has too little memory for one")


def _steps(epochs: int, size: int, pictures: int) -> int:
    return epochs * (pictures // size)


def _time_steps(config: Profile, faces: WeakFaces, size: int, run: Path) -> Spent:
    """Seconds of a training step after the first, and bytes at most."""
    steps, times = 6 if torch.cuda.is_available() else 2, []
    settings = replace(config.train, epochs=1, batch_size=size, accumulate=1)
    vlm = config.load_vlm() if settings.tcd else None

    def note(step: int, terms: Mapping[str, float]) -> None:
        times.append(time.perf_counter())

    pictures = _repeated(faces, size * steps)
    spent, _ = _timed(lambda: train(config.model.build(), pictures, settings, run, vlm, note))
    return replace(spent, seconds=(times[-1] - times[0]) / (steps - 1))


def _parser(settings: DeepLabConfig, faces: WeakFaces, labels: Path, folder: Path) -> Cost:
    """A step of the parser, from a longer and a shorter training, which share what happens once."""
    cuda, target = torch.cuda.is_available(), read_targets(labels, faces)
    fit = settings.fit if cuda else replace(settings.fit, batch=1)
    shorter, longer = (2, 6) if cuda else (1, 2)

    def timed(steps: int) -> tuple[Spent, DeepLabParser]:
        short = replace(settings, fit=replace(fit, steps=steps))
        return _timed(lambda: short.train(faces, target, folder=folder / f"parser-{steps}"))

    whole = partial(operator.mul, settings.fit.steps * settings.fit.batch / fit.batch / COUNTS["train"])
    try:
        (first, _), (spent, parser) = timed(shorter), timed(longer)
    except torch.cuda.OutOfMemoryError:
        advice = f"a batch of {fit.batch} needs more memory than the GPU has: launch it on {fit.batch} of them"
        return Cost("parser", f"step of {fit.batch} crops", whole, 0, advice=advice)
    path = folder / "parser.safetensors"
    parser.save(path)
    once = _size(folder / f"parser-{longer}") + path.stat().st_size
    a_step = (spent.seconds - first.seconds) / (longer - shorter)
    return Cost("parser", f"step of {fit.batch} crops", whole, a_step, 0, once, **spent.most)


def _timed(call: Callable[[], Result]) -> tuple[Spent, Result]:
    """What ``call`` takes, and its result."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with PeakMemory() as peak:
        start = time.perf_counter()
        result = call()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return Spent(seconds, torch.cuda.max_memory_allocated() if cuda else 0, peak.most), result


def _repeated(faces: WeakFaces, count: int) -> WeakFaces:
    places = [i % len(faces) for i in range(count)]
    by_id = {str(i): place for i, place in enumerate(places)}
    return replace(faces, ids=list(by_id), read=lambda key: faces.image(by_id[key]), labels=faces.labels[places])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _card() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: hours are those of this CPU"

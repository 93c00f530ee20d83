"""`wsfp plan`: hours, GPU memory and disk of the paper profile here, from a few real steps of every stage."""

import operator
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.machine import device, machine
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

MANY = 10_000_000
PICTURES = 20
"""Pictures of the trial, of which 16 are for training."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """What a stage costs: seconds, and bytes of disk, a unit of work, bytes that it keeps once, and GPU memory.

    ``units(n)`` is its work for ``n`` training pictures.
    """

    name: str
    unit: str
    units: Callable[[int], float]
    seconds: float
    bytes_a_unit: float = 0
    bytes_once: int = 0
    gpu: int = 0
    advice: str = ""

    def hours(self, pictures: int) -> float:
        """Hours for so many training pictures."""
        return self.units(pictures) * self.seconds / 3600

    def disk(self, pictures: int) -> float:
        """Bytes that it writes for so many training pictures."""
        return self.units(pictures) * self.bytes_a_unit + self.bytes_once


@dataclass(frozen=True)
class Plan:
    """The costs of all stages, what was not real in measuring them, and the free bytes where the runs will be."""

    costs: tuple[Cost, ...]
    replaced: tuple[str, ...]
    free: int

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
        lines = [f"{machine()}; {_card()}", *self.replaced, f"{'':9}{'s a unit':>10}  {'unit':22}{'GPU GiB':>8}{heads}"]
        for cost in self.costs:
            cells = "".join(f"{cost.hours(count):14,.1f}{cost.disk(count) / 1e9:9,.1f}" for count in counts)
            gpu = f"{cost.gpu / 2**30:.1f}" if cost.gpu else "-"
            lines.append(f"{cost.name:9}{cost.seconds:10.3f}  {cost.unit:22}{gpu:>8}{cells}")
        cells = "".join(
            f"{sum(cost.hours(count) for cost in self.costs):14,.1f}{self.disk(count) / 1e9:9,.1f}" for count in counts
        )
        lines += [f"{'all':51}{cells}", f"{self.free / 1e9:,.0f} GB are free: for {self.fitting():,} training pictures"]
        return "\n".join([*lines, *(f"does not fit: {problem}" for problem in self.problems)])


def make_plan(config: Profile, out: Path, work: Path | None = None) -> Plan:
    """Time a few real steps of every stage of the paper profile, one after the other, in one process.

    Args:
        config: The paper profile, with changes.
        out: Where the runs are to be; it is looked at for its free space only.
        work: Folder for the data and weights of the trial, which are kept there (default: in the cache).
    """
    work = work or cache_dir() / "plan"
    with full_size_trial(work / "data", PICTURES, config) as trial, TemporaryDirectory(dir=work) as folder:
        costs = tuple(_measure(trial, Path(folder)))
    place = next(each for each in (out.absolute(), *out.absolute().parents) if each.exists())
    return Plan(costs, trial.replaced, shutil.disk_usage(place).free)


def _measure(trial: Trial, folder: Path) -> Iterator[Cost]:
    config, faces, few = trial.config, trial.config.faces("train").weak, 4 if torch.cuda.is_available() else 1
    some = faces.subset(range(few))
    detector, boxes = find_detector(config, trial.detector), folder / "boxes.jsonl"
    detect_dataset(some.subset([0]), detector, folder / "first.jsonl")  # what happens once in a process is not timed
    seconds, gpu, _ = _timed(lambda: detect_dataset(some, detector, boxes))
    yield Cost("ccd", "picture", lambda n: n, seconds / few, boxes.stat().st_size / few, gpu=gpu)

    masked = mask_faces(some, read_boxes(boxes), config.ccd or CCDConfig(), 0)
    yield _training(config, masked, folder / "run")

    vit, fcams = config.model.build().to(device()), folder / "fcams"
    extract_to_folder(vit, some.subset([0]), folder / "first", config.fcam)
    seconds, gpu, _ = _timed(lambda: extract_to_folder(vit, some, fcams, config.fcam))
    yield Cost("fcam", "picture", lambda n: n, seconds / few, _size(fcams) / few, gpu=gpu)
    seconds, _, labels = _timed(lambda: write_pseudo_labels(fcams, folder / "labels", config.theta))
    yield Cost("pseudo", "picture, one process", lambda n: n, seconds / few, _size(labels) / few)

    assert isinstance(config.parser, DeepLabConfig)
    yield (cost := _parser(config.parser, some, labels, folder))
    if cost.advice:
        return
    test = config.faces("test").weak.subset([0])
    seconds, gpu, found = _timed(lambda: predict_set(test, folder / "test", folder / "parser.safetensors"))
    yield Cost("predict", "test picture", lambda n: COUNTS["test"], seconds, _size(found), gpu=gpu)


def _training(config: Profile, faces: WeakFaces, run: Path) -> Cost:
    """A step as the profile has it, or in as few pieces as fit on the GPU; a CPU takes one picture at a time."""
    whole, cuda = config.train, torch.cuda.is_available()
    for pieces in (each for each in range(1, whole.batch_size + 1) if whole.batch_size % each == 0):
        size = whole.batch_size // pieces if cuda else 1
        try:
            seconds, gpu = _time_steps(config, faces, size, run)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        units = partial(_steps, whole.epochs, size)
        advice = (
            f"a batch of {whole.batch_size} needs more memory than the GPU has, {pieces} pieces of it do not: --set "
            f"train.batch_size={size} --set train.accumulate={pieces}"
        )
        return Cost("train", f"step of {size} pictures", units, seconds, 0, _size(run), gpu, advice * (pieces > 1))
    return Cost("train", "step", partial(_steps, whole.epochs, 1), 0, advice="the GPU has too little memory for one")


def _steps(epochs: int, size: int, pictures: int) -> int:
    return epochs * (pictures // size)


def _time_steps(config: Profile, faces: WeakFaces, size: int, run: Path) -> tuple[float, int]:
    """Seconds of a training step after the first, and bytes of the GPU at most."""
    steps, times = 6 if torch.cuda.is_available() else 2, []
    settings = replace(config.train, epochs=1, batch_size=size, accumulate=1)
    vlm = config.load_vlm() if settings.tcd else None

    def note(step: int, terms: Mapping[str, float]) -> None:
        times.append(time.perf_counter())

    pictures = _repeated(faces, size * steps)
    _, gpu, _ = _timed(lambda: train(config.model.build(), pictures, settings, run, vlm, note))
    return (times[-1] - times[0]) / (steps - 1), gpu


def _parser(settings: DeepLabConfig, faces: WeakFaces, labels: Path, folder: Path) -> Cost:
    """A step of the parser, from a longer and a shorter training, which share what happens once."""
    cuda, target = torch.cuda.is_available(), read_targets(labels, faces)
    fit = settings.fit if cuda else replace(settings.fit, batch=1)
    shorter, longer = (2, 6) if cuda else (1, 2)

    def timed(steps: int) -> tuple[float, int, DeepLabParser]:
        short = replace(settings, fit=replace(fit, steps=steps))
        return _timed(lambda: short.train(faces, target, folder=folder / f"parser-{steps}"))

    whole = partial(operator.mul, settings.fit.steps * settings.fit.batch / fit.batch / COUNTS["train"])
    try:
        (first, _, _), (seconds, gpu, parser) = timed(shorter), timed(longer)
    except torch.cuda.OutOfMemoryError:
        advice = f"a batch of {fit.batch} needs more memory than the GPU has: launch it on {fit.batch} of them"
        return Cost("parser", f"step of {fit.batch} crops", whole, 0, advice=advice)
    path = folder / "parser.safetensors"
    parser.save(path)
    once = _size(folder / f"parser-{longer}") + path.stat().st_size
    a_step = (seconds - first) / (longer - shorter)
    return Cost("parser", f"step of {fit.batch} crops", whole, a_step, 0, once, gpu)


def _timed(call: Callable[[], Result]) -> tuple[float, int, Result]:
    """Seconds that ``call`` takes, bytes of the GPU at most, and its result."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = call()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() if cuda else 0, result


def _repeated(faces: WeakFaces, count: int) -> WeakFaces:
    places = [i % len(faces) for i in range(count)]
    by_id = {str(i): place for i, place in enumerate(places)}
    return replace(faces, ids=list(by_id), read=lambda key: faces.image(by_id[key]), labels=faces.labels[places])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _card() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: hours are those of this CPU"

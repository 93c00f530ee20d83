"""Every stage of the paper profile on 1,000, 5,000 and 30,000 pictures: memory and time a picture should not change.

usage: python -m tools.scale [--count 30000] [--results FOLDER]

Rendered faces of 32 pixels under other names go through all stages, from tar shards to scores, with a detector that
answers at once and networks of one block or layer, so that what is measured is what surrounds them.  A thirtieth, a
sixth and all of --count pictures; each stage in a process of its own.  A line says what each took; with --results
memory and time are written to ``scale.json`` with its page.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import timm
import torch
from PIL import Image

from tests.fixtures import tiny_vlm
from wsfp_helpers import stages
from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.configs import change
from wsfp_helpers.common.errors import InputError, exit_on_bad_input
from wsfp_helpers.common.memory import PeakMemory
from wsfp_helpers.common.pictures import resize_label_map, write_index_png
from wsfp_helpers.data.folder import PictureFiles
from wsfp_helpers.data.shards import write_shards
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import PHRASES, Candidates, Detection
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing import deeplab, load
from wsfp_helpers.parsing.photographs import predict_set
from wsfp_helpers.profiles import SHARDS, VLMS, Profile, profile
from wsfp_helpers.score.folders import evaluate_folders
from wsfp_helpers.tooling.results import row, write_results

SIDE, FACES = 32, 100
"""Of a simulated picture in pixels, and how many different ones there are."""
LEAST, BATCH = 100, 32
"""Pictures, so that there are some batches; and those of a step of the parser, which sees each about once."""
SMALL = (
    "train_data.name=shards", "train_data.split=soak", "test_data.name=shards", "test_data.split=soak",
    f"model.size={SIDE}", "model.blocks=1", "model.width=64", "model.weights=weights/small.safetensors",
    "train.epochs=1", "train.workers=0", "train.precision=no", "train.tcd.max_classes_per_image=2",
    "fcam.scales=[1.0]", "parser.network=fcn_resnet50", "parser.weights=null", f"parser.size={SIDE}",
    f"parser.crop={SIDE}", f"parser.fit.batch={BATCH}", "parser.precision=no", "parser.workers=0",
    "parser.test_scales=[1.0]",
)  # fmt: skip
"""Settings of the paper profile for miniature pictures and networks."""


class Answers:
    """A detector that finds every component in the middle of every picture."""

    name, phrases = "soak", None

    def __call__(self, image: np.ndarray, phrase: str) -> list[Detection]:
        """One box of an eighth of the side."""
        height, width = image.shape[:2]
        box = (width * 7 / 16, height * 7 / 16, width * 9 / 16, height * 9 / 16)
        return [Detection(box, 0.5, phrase)]

    def detect_batch(self, images: Sequence[np.ndarray], phrases: Sequence[str] = PHRASES) -> list[Candidates]:
        """The same for each."""
        return [{phrase: self(image, phrase) for phrase in phrases} for image in images]


def small_parser(*_: object, **__: object) -> deeplab.DeepLab:
    """A parser of two convolutions."""
    network = deeplab.DeepLab(backbone=torch.nn.Conv2d(3, 8, 8, stride=8), width=8)
    network.head = torch.nn.Sequential(torch.nn.Conv2d(8, len(CELEBAMASK), 1))
    return network


@contextmanager
def small_world(place: Path, count: int) -> Iterator[Profile]:
    """The paper profile in miniature on ``count`` pictures below ``place``."""
    with (
        patch.dict(os.environ, WSFP_DATA=str(place), WSFP_CACHE=str(place / "cache")),
        patch.object(stages, "load_detector", lambda *_: Answers()),
        patch.dict(VLMS, flip=tiny_vlm),
        patch.object(deeplab, "build_network", small_parser),
        patch.object(load, "build_network", small_parser),
    ):
        yield change(profile("paper"), [*SMALL, f"parser.fit.steps={count // BATCH}"])


def make_pictures(place: Path, count: int) -> None:
    """Shards of ``count`` pictures, label maps of the same names, and first weights of the network."""
    place.mkdir(parents=True)
    faces, names, files = synthfaces("celeb/train"), [f"{i:08}" for i in range(count)], PictureFiles()
    (place / "truth").mkdir()
    for number in range(FACES):
        path = place / f"{number}.jpg"
        Image.fromarray(faces.image(number)).resize((SIDE, SIDE)).save(path)
        write_index_png(path.with_suffix(".png"), resize_label_map(faces.label_map(number), (SIDE, SIDE)), PALETTE)
        for name in names[number::FACES]:
            files[name] = path
            (place / "truth" / f"{name}.png").hardlink_to(path.with_suffix(".png"))
    write_shards(WeakFaces("soak", names, files, faces.labels[np.arange(count) % FACES]), place / SHARDS / "soak")
    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch16_224", embed_dim=64, depth=1, num_heads=1, img_size=SIDE)
    save_weights(place / "weights" / "small.safetensors", vit.state_dict())


STAGES: dict[str, Callable[[Profile, Path], object]] = {
    "ccd": lambda config, place: stages.run_ccd(config, place / "ccd"),
    "train": lambda config, place: stages.run_train(config, place / "run", place / "ccd" / "boxes.jsonl"),
    "fcam": lambda config, place: stages.run_fcam(place / "run", place / "fcams"),
    "pseudo": lambda config, place: stages.run_pseudo(place / "fcams", place / "labels"),
    "parser": lambda config, place: stages.run_parser(config, place / "labels", place / "parser"),
    "predict": lambda config, place: predict_set(
        config.faces("test").weak, place / "test", place / "parser" / stages.PARSER
    ),
    "evaluate": lambda config, place: evaluate_folders(place / "test", place / "truth"),
}


def run_stage(name: str, place: Path, count: int) -> tuple[float, float]:
    """Seconds of the processor and MB at most of a stage on ``count`` pictures."""
    with small_world(place, count) as config, PeakMemory() as peak:
        start = time.process_time()
        STAGES[name](config, place)
        seconds = time.process_time() - start
    return seconds, peak.most / 2**20


def soak_stages(count: int, place: Path) -> list[dict]:
    """Every stage on a thirtieth, a sixth and all of ``count`` pictures below ``place``; rows for a results file.

    The time of a picture is that between two numbers of pictures, so that what happens once does not count.
    """
    # A process that has only imported what a stage needs: a fork of this one would have its memory, too.
    fresh = get_context("forkserver")
    fresh.set_forkserver_preload(["tools.scale"])
    counts = sorted({max(LEAST, count // 30), max(LEAST, count // 6), max(LEAST, count)})
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in STAGES}
    for number in counts:
        folder = place / str(number)
        make_pictures(folder, number)
        for name in STAGES:
            with ProcessPoolExecutor(1, fresh) as pool:
                spent[name].append(pool.submit(run_stage, name, folder, number).result())
            seconds, most = spent[name][-1]
            print(f"{name:9}{number:>8,} pictures {seconds:8.1f} s of the processor {most:8.1f} MB", flush=True)
    rows = []
    for name, found in spent.items():
        rows += [
            row(f"{name}, {n:,} pictures", "memory", "MB", [most]) for n, (_, most) in zip(counts, found, strict=True)
        ]
        for i in range(1, len(counts)):
            each = (found[i][0] - found[i - 1][0]) / (counts[i] - counts[i - 1])
            title = f"{name}, from {counts[i - 1]:,} to {counts[i]:,} pictures"
            rows.append(row(title, "time", "ms of the processor a picture", [1000 * each]))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30_000)
    parser.add_argument("--results", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.count < LEAST:
        raise InputError(f"--count is {chosen.count}: expected {LEAST} or more")
    with TemporaryDirectory() as place:
        rows = soak_stages(chosen.count, Path(place))
    if chosen.results is not None:
        print(write_results("scale", f"python -m tools.scale --count {chosen.count}", rows, chosen.results))


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

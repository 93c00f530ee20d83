"""`wsfp smoke`: every stage of the paper profile on a few pictures, in minutes, before hours are spent.

What the profile reads is put below one folder: links to the data and weights that are there, and in place of what is
missing rendered faces in CelebAMask-HQ's form and random weights of the true shape and form.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import timm
import torch
from PIL import Image

from wsfp_helpers.common.cache import find, require
from wsfp_helpers.common.checkpoints import save_halved, save_weights
from wsfp_helpers.common.configs import change
from wsfp_helpers.common.files import atomic_path
from wsfp_helpers.common.pictures import resize_label_map, write_index_png
from wsfp_helpers.data.celebamask import IMAGES, MAP_SIZE, MAPPING, PARTITION, SPLITS, celebamask, part_path, split_ids
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.detect.base import PHRASES
from wsfp_helpers.detect.load import need_transformers
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.nets.resnet38 import ResNet38
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing.photographs import predict_set
from wsfp_helpers.profiles import BERT, DEIT, FLIP, FOLDERS, GROUNDING_DINO, RESNET38, Profile, Source, profile
from wsfp_helpers.score.folders import evaluate_folders
from wsfp_helpers.stages import format_ccd, run_ccd, run_fcam, run_parser, run_pseudo, run_train

PICTURE_SIZE = 1024
RANDOM_DINO = "weights/random-grounding-dino"
LESS = ("train.epochs=1", "train.workers=2", "parser.fit.steps=4", "parser.workers=2")
"""Settings of the smoke test on a GPU."""
ON_A_CPU = (
    "train.epochs=1", "train.batch_size=2", "train.precision=no", "train.workers=0",
    "train.tcd.max_classes_per_image=2", "parser.fit.steps=2", "parser.fit.batch=1", "parser.precision=no",
    "parser.workers=0", "parser.test_scales=[0.5]",
)  # fmt: skip
"""Where there is none."""


@dataclass(frozen=True)
class Trial:
    """The paper profile on a few pictures, the Grounding DINO to give to CCD, and what of all that is not real."""

    config: Profile
    detector: Path | None
    replaced: tuple[str, ...]


class FewFaces(Source):
    """Some pictures of a split of CelebAMask-HQ, as in ``train-16``, whose splits need not be complete."""

    def open(self) -> Faces:
        """See :meth:`wsfp_helpers.profiles.Source.open`."""
        part, _, count = str(self.split).partition("-")
        return celebamask(require(FOLDERS["celebamask"]), part, int(count), counts=None)


def smoke(
    out: str | Path, pictures: int = 20, settings: Sequence[str] = (), say: Callable[[str], None] = print
) -> None:
    """Run every stage of the paper profile on ``pictures`` pictures below ``out``; ``say`` is told what happens.

    The scores mean nothing.  Started again it goes on.

    Raises:
        InputError: There are fewer pictures, and whatever a stage refuses.
    """
    out = Path(out)
    batch = f"train.batch_size={min(profile('paper').train.batch_size, _split(pictures)['train'])}"
    less = (*LESS, batch) if torch.cuda.is_available() else ON_A_CPU
    with full_size_trial(out / "data", pictures, change(change(profile("paper"), less), settings)) as trial:
        config = trial.config
        for text in (*trial.replaced, "the numbers of pictures of the splits are not checked", *less, *settings):
            say(f"on purpose: {text}")
        boxes = out / "boxes"
        stages: dict[str, Callable[[], object]] = {
            "ccd": lambda: format_ccd(run_ccd(config, boxes, weights=trial.detector) or {}),
            "train": lambda: run_train(config, out / "run", boxes / "boxes.jsonl"),
            "fcam": lambda: run_fcam(out / "run", out / "fcams", config=config) and out / "fcams",
            "pseudo": lambda: run_pseudo(out / "fcams", out / "labels"),
            "parser": lambda: run_parser(config, out / "labels", out / "parser"),
            "predict": lambda: predict_set(config.faces("test").weak, out / "test", out / "parser/parser.safetensors"),
            "evaluate": lambda: _evaluate(config.faces("test"), out),
        }
        for name, stage in stages.items():
            start = time.perf_counter()
            result = stage()
            say(f"{name}: {time.perf_counter() - start:.0f} s{_memory()}\n{result}")


def _memory() -> str:
    if not torch.cuda.is_available():
        return ""
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return f", {peak / 2**30:.1f} GiB of the GPU at most"


def _evaluate(faces: Faces, out: Path) -> str:
    for i, key in enumerate(faces.ids):
        write_index_png(out / "truth" / f"{key}.png", faces.label_map(i), PALETTE)
    return evaluate_folders(out / "test", out / "truth").table()


@contextmanager
def full_size_trial(folder: Path, pictures: int, config: Profile) -> Iterator[Trial]:
    """``config`` on ``pictures`` pictures in all, with ``$WSFP_DATA`` at ``folder`` until the block ends."""
    need_transformers()
    folder, replaced = folder.absolute(), []
    made: dict[str, Callable[[Path], object]] = {
        DEIT: _random_deit, FLIP: _random_flip, RESNET38: lambda path: save_halved(path, ResNet38(), {"random": True}),
    }  # fmt: skip
    real = find(GROUNDING_DINO) is not None and find(BERT) is not None
    made |= dict.fromkeys((GROUNDING_DINO, BERT), _nothing) if real else {RANDOM_DINO: _random_dino}
    made[FOLDERS["celebamask"]] = lambda path: _write_celebamask(path, pictures)
    for place, make in made.items():
        path, found = folder / place, find(place)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(0)
            path.symlink_to(found.absolute()) if found else _make_whole(make, path)
        if not path.is_symlink():
            kind = "rendered faces" if place in FOLDERS.values() else "random weights"
            replaced.append(f"{kind} in place of {place}, which is not there")
    with patch.dict(os.environ, WSFP_DATA=str(folder)):
        there = {part: len(ids) for part, ids in split_ids(require(FOLDERS["celebamask"]), None).items()}
        counts = _split(pictures)
        parts = {f"{part}_data": FewFaces("celebamask", f"{part}-{min(counts[part], there[part])}") for part in SPLITS}
        yield Trial(replace(config, **parts), None if real else folder / RANDOM_DINO, tuple(replaced))  # type: ignore[arg-type]


def _split(pictures: int) -> dict[str, int]:
    few = max(1, pictures // 10)
    return {"train": pictures - 2 * few, "val": few, "test": few}


def _make_whole(make: Callable[[Path], object], path: Path) -> None:
    """``make`` a file or folder beside its place, so that a kill leaves nothing half-written there."""
    with TemporaryDirectory(dir=path.parent) as beside:
        part = Path(beside, path.name)
        make(part)
        if part.exists():
            part.rename(path)


def _nothing(path: Path) -> None:
    """Both files of the detector are there."""


def _random_deit(path: Path) -> None:
    save_weights(path, timm.create_model("deit_small_patch16_224").state_dict())


def _random_flip(path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    CLIPModel(CLIPConfig(vision_config={"patch_size": 16})).save_pretrained(path)


def _random_dino(path: Path) -> None:
    """Grounding DINO in transformers' form, with the words that are asked for."""
    from transformers import BertTokenizer, GroundingDinoConfig, GroundingDinoForObjectDetection

    GroundingDinoForObjectDetection(GroundingDinoConfig()).save_pretrained(path)
    (path / "vocab.txt").write_text(bert_vocabulary(PHRASES), encoding="utf-8")
    BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)


def bert_vocabulary(words: Sequence[str]) -> str:
    """A ``vocab.txt`` of 1,100 lines: ``words`` from 400 on, and the special ones where bert-base-uncased has them."""
    lines = [f"[unused{i}]" for i in range(1100)]
    lines[400 : 400 + len(words)] = words
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    for place, word in special.items():
        lines[place] = word
    return "\n".join(lines) + "\n"


def _write_celebamask(root: Path, count: int) -> None:
    """Rendered faces as CelebAMask-HQ has its pictures, part masks and lists."""
    faces, rows, partition = synthfaces("celeb/train"), [], []
    codes = np.repeat(range(len(SPLITS)), list(_split(count).values()))
    for key, code in enumerate(codes):
        picture = Image.fromarray(faces.image(key)).resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BICUBIC)
        with atomic_path(root / IMAGES / f"{key}.jpg") as part:
            picture.save(part, format="JPEG", quality=95)
        label_map = resize_label_map(faces.label_map(key), (MAP_SIZE, MAP_SIZE))
        for number in np.unique(label_map[(label_map > 0) & (label_map <= len(COMPONENTS))]):
            with atomic_path(part_path(root, str(key), COMPONENTS[number - 1])) as part:
                Image.fromarray(np.uint8(label_map == number) * np.uint8(255)).convert("RGB").save(part, format="PNG")
        rows.append(f"{key} {key} {key:06d}.jpg")
        partition.append(f"{key:06d}.jpg {code}")
    for name, lines in ((MAPPING, ["idx orig_idx orig_file", *rows]), (PARTITION, partition)):
        with atomic_path(root / name) as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")

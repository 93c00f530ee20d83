"""The stages of a profile one after the other, each from a folder to a folder: what the command line calls.

Every stage may be interrupted and started again with the same arguments; other arguments in the same folder are
refused.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from accelerate import PartialState

from wsfp_helpers import ccd, fcam, runs
from wsfp_helpers.data.base import WeakFaces
from wsfp_helpers.deeplab import DeepLabConfig, train_deeplab
from wsfp_helpers.detect import load_detector
from wsfp_helpers.detect.boxes import (
    Boxes,
    check_complete,
    detect_dataset,
    merge_boxes,
    read_boxes,
    shard_path,
    shipped_boxes,
)
from wsfp_helpers.fcam import FcamConfig
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.parser import DeepLabParser, Parser, make_copies, train_parser
from wsfp_helpers.profiles import ModelConfig, Profile, Source, load_vlm, profile
from wsfp_helpers.runs import device
from wsfp_helpers.segment import remove_state
from wsfp_helpers.storage import InputError, existing, existing_file, read_json, read_label_map
from wsfp_helpers.train import load_model, train
from wsfp_helpers.trunk import load_trunk
from wsfp_helpers.vit import MultiClassTokenViT

SHIPPED = "shipped"
ASSETS = Path(__file__).parent / "assets"


def run_ccd(
    config: Profile,
    out: str | Path,
    part: str = "train",
    weights: str | Path | None = None,
    text_encoder: str | Path | None = None,
    seed: int = 0,
    images: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> dict | None:
    """Detect components in the pictures of ``part`` and report what CCD does (section 3.3); see :func:`ccd.run_ccd`.

    ``shard=(i, n)`` only detects the i-th of n shares and returns ``None``; the call without it joins them.
    """
    faces, out = config.faces(part).weak(), Path(out)
    detector = load_detector(config.detector, weights, text_encoder, device())
    boxes = out / "boxes.jsonl"
    if shard[1] > 1:
        detect_dataset(faces, detector, boxes, shard=shard)
        return None
    if not boxes.exists() and (shares := sorted(out.glob("boxes.*-of-*.jsonl"))):
        count = int(shares[0].stem.rpartition("-")[2])
        for number in range(count):
            existing(shard_path(boxes, number, count), f"share {number} of {count} of the boxes")
        merge_boxes(boxes, count, faces)
    return ccd.run_ccd(faces, detector, out, config.ccd, seed, images)


def ccd_table(report: Mapping) -> str:
    """The report of :func:`run_ccd` as text: a line for each component, then the labels before and after."""
    counts = ("present", "found", "accepted", "masked")
    heads = "".join(f"{count:>10}" for count in counts) + "".join(f"{test:>8}" for test in ccd.TESTS)
    lines = [f"{report['images']} images; candidates rejected by: {', '.join(ccd.TESTS)}", f"{'':8}{heads}"]
    for component, row in report["components"].items():
        cells = "".join(f"{row[count]:10d}" for count in counts)
        lines.append(f"{component:8}{cells}" + "".join(f"{row['rejected'][test]:8d}" for test in ccd.TESTS))
    before, after = report["labels"]["before"], report["labels"]["after"]
    changed = [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    return "\n".join([*lines, f"labels that changed: {', '.join(changed) or 'none'}"])


def run_train(
    config: Profile,
    out: str | Path,
    boxes: str | Path | None = None,
    tcd: bool = True,
    seed: int = 0,
    redraw: bool = False,
    mix_originals: bool = False,
) -> Path:
    """Train the class-token ViT of a profile in the run directory ``out`` (section 3.2-3.4); returns ``out``.

    ``boxes`` is a boxes file for CCD, ``"shipped"`` for those of SynthFaces, ``None`` for no masking; ``redraw`` draws
    the masks anew in each epoch.  ``tcd=False`` leaves out the text-guided losses: without both it is the baseline.
    """
    if not tcd:
        config = replace(config, train=replace(config.train, tcd=None))
    config = replace(config, train=replace(config.train, seed=seed))
    masking = {"boxes": boxes_name(boxes), "redraw": redraw, "mix_originals": mix_originals}
    if boxes is None and (redraw or mix_originals):
        raise InputError("redraw and mix_originals say how CCD masks pictures: give boxes, too, or leave them out")
    faces = config.faces("train").weak()
    records = open_boxes(boxes, config)

    def masked(epoch: int | None = None) -> WeakFaces:
        return ccd.masked_faces(faces, records, config.ccd, seed, epoch, mix_originals)

    data = faces
    if records is not None:
        check_complete(records, faces, f"the boxes of {boxes}")
        data = masked()  # also with redraw: boxes that cannot be used are refused before the folder is claimed
    vit = config.model.build(seed)
    vlm = load_vlm(config.vlm) if tcd else None
    with PartialState().main_process_first():
        out = runs.start_run(out, {"profile": asdict(config), **masking}, seed)
    train(vit, masked if redraw else data, config.train, out, vlm)
    return out


def open_boxes(boxes: str | Path | None, config: Profile) -> Boxes | None:
    """Boxes of a profile's training set: a file, ``"shipped"`` (those of SynthFaces), or ``None``."""
    if boxes is None:
        return None
    if str(boxes) != SHIPPED:
        return read_boxes(boxes)
    if config.train_data.name != "synthfaces":
        raise InputError(f"the shipped boxes are those of synthfaces, not of {config.train_data}: run `wsfp ccd` first")
    return shipped_boxes(config.train_data.split)


def boxes_name(boxes: str | Path | None) -> str | None:
    """Name of boxes by which results of others are told apart: ``"shipped"``, a digest of the file, or ``None``."""
    if boxes is None or str(boxes) == SHIPPED:
        return boxes
    content = existing_file(boxes, "boxes file", "boxes.jsonl").read_bytes()
    return f"boxes-{hashlib.sha256(content).hexdigest()[:12]}"


def load_run(folder: str | Path) -> tuple[MultiClassTokenViT, Profile]:
    """The trained network of a run directory and its profile, with the data and the reading of maps of that run.

    Raises :class:`InputError` when the folder is no run, or its training has not ended.
    """
    folder = Path(folder)
    about = existing(folder / runs.CONFIG, "run directory")
    try:
        config = read_json(about)["config"]["profile"]
        network = ModelConfig(**config["model"])
        reading = FcamConfig(**config["fcam"] | {"scales": tuple(config["fcam"]["scales"])})
        data = {part: Source(**config[part]) for part in ("train_data", "val_data", "test_data")}
        made = replace(profile(config["name"]), model=network, fcam=reading, **data)
    except (KeyError, TypeError) as error:
        raise InputError(f"{about} is not that of a run of `wsfp train`: choose the run directory of one") from error
    model = existing(folder / "model.safetensors", "trained model (did the training end? start it again)")
    return load_model(network.empty(), model), made


def shipped_model(name: str = "full") -> MultiClassTokenViT:
    """A trained network of the embedded world (card: assets/fcam.md): ``"base"``, ``"ccd"`` or ``"full"``, seed 0."""
    if name not in ("base", "ccd", "full"):
        raise InputError(f"unknown shipped model {name!r}: expected base, ccd or full")
    return load_model(profile("embedded").model.empty(), ASSETS / f"fcam_{name}.safetensors")


def run_fcam(run: str | Path, out: str | Path, part: str = "train", shard: tuple[int, int] = (0, 1)) -> fcam.FcamFolder:
    """Extract the FCAMs of ``part`` with the model of a run directory; what is there already is kept."""
    vit, config = load_run(run)
    return fcam.extract_to_folder(vit.to(device()), config.faces(part).weak(), out, config.fcam, shard)


def run_parser(config: Profile, labels: str | Path, out: str | Path, seed: int = 0) -> Path:
    """Train the parser of a profile on a folder of pseudo labels, ``labels/ID.png``; returns its file in ``out``.

    A finished run is left as it is.  Raises :class:`InputError` when a label is missing or ``out`` is of another run.
    """
    faces, labels = config.faces("train").weak(), existing(labels, "folder of pseudo labels")
    missing = [key for key in faces.ids if not (labels / f"{key}.png").exists()]
    if missing:
        raise InputError(
            f"{labels} has no pseudo label for {len(missing)} of {len(faces)} pictures, the first is {missing[0]}.png: "
            f"run `wsfp pseudo` on the FCAMs of the whole training set"
        )
    out = runs.start_run(out, {"profile": config.name, "parser": asdict(config.parser), "labels": str(labels)}, seed)

    def target(index: int) -> np.ndarray:
        return read_label_map(labels / f"{faces.ids[index]}.png", len(CELEBAMASK))

    path, facts = out / "parser.safetensors", {"labels": str(labels), "seed": seed}
    if not path.exists():
        if isinstance(config.parser, DeepLabConfig):
            network = config.parser.build(seed)
            train_deeplab(network, faces, target, config.parser, seed=seed, folder=out)
            parser = DeepLabParser(network, config.parser, facts)
        else:
            trunk = load_trunk()
            copies = make_copies(faces, target, config.parser, trunk)
            network, _ = train_parser(copies, config.parser, seed=seed, folder=out)
            parser = Parser(network, trunk, config.parser, facts)
        parser.save(path)
    remove_state(out)
    return path

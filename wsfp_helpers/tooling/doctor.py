"""`wsfp doctor`: what this machine has, which data and weights are found, and what to do about each gap."""

import importlib
import platform
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from zipfile import is_zipfile

import psutil
import torch

from wsfp_helpers.common.cache import cache_place, data_dirs, find
from wsfp_helpers.common.checkpoints import read_about
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS
from wsfp_helpers.common.machine import cpu_count, machine, no_gpu, revision, version
from wsfp_helpers.data.frl import find_frl_london
from wsfp_helpers.data.synthfaces import PACK
from wsfp_helpers.detect.boxes import SHIPPED_BOXES, read_boxes
from wsfp_helpers.profiles import FOLDERS
from wsfp_helpers.tooling.weights import WEIGHTS

OPTIONAL = {
    "transformers": ("Grounding DINO and FLIP", "detector"),
    "groundingdino-py": ("the other implementation of Grounding DINO", "groundingdino"),
    "onnx": ("wsfp export", "onnx"),
    "onnxscript": ("wsfp export", "onnx"),
    "onnxruntime": ("wsfp export", "onnx"),
}
"""Packages that the course can do without: what each is for, and the extra of the package that installs it."""
IMPORTED = ("torchvision", "timm", "open_clip")
"""Packages whose import shows whether torch and torchvision fit each other."""

SHIPPED_WEIGHTS = {
    "trunk": ("trunk.safetensors", "scripts/make_trunk.py"),
    "mini-FLIP": ("mini_flip.safetensors", "scripts/train_mini_vlm.py mini_flip"),
    "mini-FLIP, labels": ("mini_flip_labels.safetensors", "scripts/train_mini_vlm.py mini_flip_labels"),
    "mini-FLIP, places": ("mini_flip_dense.safetensors", "scripts/train_dense_vlm.py"),
    "mini-CLIP": ("mini_clip.safetensors", "scripts/train_mini_vlm.py mini_clip"),
    "detector": ("detector.safetensors", "scripts/train_detector.py"),
    "maps, baseline": ("fcam_base.safetensors", "scripts/ship_models.py"),
    "maps, with CCD": ("fcam_ccd.safetensors", "scripts/ship_models.py"),
    "maps, full method": ("fcam_full.safetensors", "scripts/ship_models.py"),
    **{
        f"system, {name}": (f"system_{name}.safetensors", "scripts/ship_models.py systems")
        for name in ("seco", "more", "clims", "weakclip", "weclip", "weclip+")
    },
    "parser, weak": ("parser_weak.safetensors", "scripts/train_parsers.py"),
    "parser, supervised": ("parser_supervised.safetensors", "scripts/train_parsers.py"),
    "parser, plain labels": ("parser_plain.safetensors", "scripts/ship_models.py parser"),
}
"""Weights that come with the package: name, file in assets/, and the script that makes it again."""

GOOD, GAP, OPTION = "ok", "gap", "optional"


@dataclass(frozen=True)
class Finding:
    """One line of the report: ``state`` is ``ok``, ``gap`` (the course needs it) or ``optional``; ``todo`` the cure."""

    section: str
    name: str
    value: str
    state: str = GOOD
    todo: str = ""


def examine() -> list[Finding]:
    """Everything that the report says, as data."""
    return [*_software(), *_machine(), *_data(), *_weights()]


def report(findings: Iterable[Finding] | None = None) -> str:
    """The findings as text, a section at a time, with a last line that says whether anything is missing."""
    findings = examine() if findings is None else list(findings)
    marks, lines = {GOOD: "+", GAP: "!", OPTION: "-"}, []
    for section in dict.fromkeys(finding.section for finding in findings):
        lines.append(f"{section}:")
        for finding in (finding for finding in findings if finding.section == section):
            lines.append(f"  {marks[finding.state]} {finding.name:20} {finding.value}")
            if finding.todo:
                lines.append(f"      {finding.todo}")
    gaps = [finding.name for finding in findings if finding.state == GAP]
    missing = f"{len(gaps)} to mend (!): {'; '.join(gaps)}"
    lines.append(missing if gaps else "the course has all that it needs; what is marked - is optional")
    return "\n".join(lines)


def as_dict(findings: Iterable[Finding]) -> dict:
    """The findings for a JSON file."""
    findings = list(findings)
    return {"ok": all(finding.state != GAP for finding in findings), "findings": [asdict(f) for f in findings]}


def _check(section: str, name: str, value: str, good: object, todo: str, otherwise: str = GAP) -> Finding:
    """A finding that is ``ok``, or ``otherwise`` with its cure."""
    return Finding(section, name, value) if good else Finding(section, name, value, otherwise, todo)


def _software() -> Iterable[Finding]:
    python, mend = platform.python_version(), "run make setup, or pip install -e ."
    cure = "the course is tested with Python 3.11 to 3.13: make setup PYTHON=python3.12"
    yield _check("software", "python", python, (3, 11) <= sys.version_info[:2] < (3, 14), cure)
    yield Finding("software", "wsfp", f"{version('wsfp-helpers') or 'not installed'}, revision {revision()}")
    needed = [name for name in metadata.requires("wsfp-helpers") or [] if "extra ==" not in name]
    for package in (re.split(r"[^\w-]", name, maxsplit=1)[0] for name in needed):
        found = version(package)
        yield _check("software", package, found or "not installed", found, mend)
    for package, (purpose, extra) in OPTIONAL.items():
        found, cure = version(package), f"only for {purpose}: pip install -e '.[{extra}]'"
        yield _check("software", package, found or "not installed", found, cure, OPTION)
    for module in IMPORTED:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a broken installation raises is the finding
            cure = "torch and torchvision do not fit each other: run python tools/torchvision_cpu.py (docs/faq.md)"
            yield Finding("software", f"import {module}", f"{type(error).__name__}: {error}", GAP, cure)


def _machine() -> Iterable[Finding]:
    yield Finding("machine", "processor", machine())
    yield Finding("machine", "torch device", _device())
    threads, cores = torch.get_num_threads(), cpu_count()
    cure = f"more threads than cores wait for each other: export OMP_NUM_THREADS={cores}"
    yield _check("machine", "torch threads", str(threads), threads <= cores, cure, OPTION)
    memory = psutil.virtual_memory()
    text, cure = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free", "a notebook takes up to 2 GB"
    yield _check("machine", "memory", text, memory.available > 2e9, cure, OPTION)
    cache, place = cache_place(), _nearest(cache_place())
    if not place.is_dir():
        value = f"WSFP_CACHE is {cache}, which is or lies in a file"
        yield Finding("machine", "cache", value, GAP, "set WSFP_CACHE to a folder, or unset it")
    free, cure = shutil.disk_usage(place).free, "free space, or set WSFP_CACHE to another folder"
    text = f"{free / 1e9:.1f} GB free for the cache in {cache}"
    yield _check("machine", "disk", text, free > 3e9, f"the cache takes up to 3 GB: {cure}", OPTION)


def _device() -> str:
    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB"
    return "mps (Apple); the course uses the CPU there" if torch.backends.mps.is_available() else f"cpu: {no_gpu()}"


def _nearest(path: Path) -> Path:
    return path if path.exists() else _nearest(path.parent)


def _data() -> Iterable[Finding]:
    yield _shipped("data", "SynthFaces-19", PACK)
    for split, path in SHIPPED_BOXES.items():
        yield _shipped("data", f"boxes of {split}", path, "scripts/train_detector.py")
    for folder in data_dirs()[:-1]:  # $WSFP_DATA, where it is set; the cache is made when it is needed
        if not folder.is_dir():
            cure = "set WSFP_DATA to the folder that holds your data sets, or unset it"
            yield Finding("data", "WSFP_DATA", f"no folder at {folder}", GAP, cure)
    photographs = find_frl_london()
    cure = "102 real photographs: wsfp data get frl-london (38 MB), or WSFP_DATA=FOLDER"
    yield _check("data", "FRL London", str(photographs or "no complete copy"), photographs, cure, OPTION)
    for name in FOLDERS.values():
        yield _full_size("data", name, name, "ask its authors for it, unpack it there, then wsfp data verify")


def _weights() -> Iterable[Finding]:
    for name, (file, script) in SHIPPED_WEIGHTS.items():
        yield _shipped("weights", name, ASSETS / file, script)
    for name, weights in WEIGHTS.items():
        yield _full_size("weights", weights.title, weights.place, f"wsfp weights get {name} ({weights.megabytes} MB)")


def _shipped(section: str, name: str, path: Path, script: str = "") -> Finding:
    again = f", or run {script}" if script else ""
    cure = f"it comes with the package: git checkout wsfp_helpers/assets/{path.name}{again}"
    if not path.is_file():
        return Finding(section, name, f"{path} is missing", GAP, cure)
    try:
        return Finding(section, name, f"{path.name}, {_amount(path)}")
    except InputError as error:
        return Finding(section, name, str(error), GAP, cure)


def _amount(path: Path) -> str:
    """How much is in a shipped file; raises :class:`InputError` when it is damaged."""
    if path.suffix == ".jsonl":
        return f"{len(read_boxes(path))} pictures"
    if path.suffix == ".safetensors":
        read_about(path)
    elif not is_zipfile(path):
        raise InputError(f"{path} is truncated or damaged")
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _full_size(section: str, name: str, place: str, cure: str) -> Finding:
    found, expected = find(place), data_dirs()[0] / place
    todo = f"only for the full-size profile; expected at {expected}: {cure}"
    return _check(section, name, str(found or "not found"), found, todo, OPTION)

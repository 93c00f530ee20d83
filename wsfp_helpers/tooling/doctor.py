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

from wsfp_helpers.common.cache import cache_dir, data_dirs, find
from wsfp_helpers.common.checkpoints import read_about
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS
from wsfp_helpers.common.machine import cpu_count, machine, revision, version
from wsfp_helpers.data.frl import find_frl_london
from wsfp_helpers.data.synthfaces import PACK
from wsfp_helpers.detect.boxes import SHIPPED_BOXES, read_boxes
from wsfp_helpers.profiles import CLIP, DEIT, FLIP, FOLDERS, RESNET38

OPTIONAL = {"groundingdino-py": "Grounding DINO as a detector", "transformers": "Grounding DINO and FLIP"}
IMPORTED = ("torchvision", "timm", "open_clip")
"""Packages whose import shows whether torch and torchvision fit each other."""

SHIPPED_WEIGHTS = {
    "trunk": ("trunk.safetensors", "scripts/make_trunk.py"),
    "mini-FLIP": ("mini_flip.safetensors", "scripts/train_mini_flip.py"),
    "mini-CLIP": ("mini_clip.safetensors", "scripts/train_mini_flip.py --general"),
    "detector": ("detector.safetensors", "scripts/train_detector.py"),
    "maps, baseline": ("fcam_base.safetensors", "scripts/ship_models.py"),
    "maps, with CCD": ("fcam_ccd.safetensors", "scripts/ship_models.py"),
    "maps, full method": ("fcam_full.safetensors", "scripts/ship_models.py"),
    "parser, weak": ("parser_weak.safetensors", "scripts/train_parsers.py"),
    "parser, supervised": ("parser_supervised.safetensors", "scripts/train_parsers.py"),
}
"""Weights that come with the package: name, file in assets/, and the script that makes it again."""

FULL_SIZE_WEIGHTS = {
    "DeiT-S": (DEIT, "timm's deit_small_patch16_224.fb_in1k (model.safetensors)"),
    "FLIP-B/16": (FLIP, "the Hugging Face folder FLIP-dataset/FLIP-base-16"),
    "CLIP-B/16": (CLIP, "OpenAI's ViT-B/16 in open_clip's format, for wsfp ablate vlm"),
    "ResNet38": (RESNET38, "scripts/convert_resnet38.py (docs/data.md)"),
    "Grounding DINO": ("weights/groundingdino_swint_ogc.pth", "the release file of IDEA-Research/GroundingDINO"),
}
"""Weights of the full-size world: name, file or folder below $WSFP_DATA, and where it comes from."""

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


def _software() -> Iterable[Finding]:
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    todo = "" if fits else "the course is tested with Python 3.11 to 3.13: make setup PYTHON=python3.12"
    yield Finding("software", "python", platform.python_version(), GOOD if fits else GAP, todo)
    yield Finding("software", "wsfp", f"{version('wsfp-helpers') or 'not installed'}, revision {revision()}")
    needed = [name for name in metadata.requires("wsfp-helpers") or [] if "extra ==" not in name]
    for package in (re.match(r"[\w-]+", name)[0] for name in needed):
        found = version(package)
        todo = "" if found else "run make setup, or pip install -e ."
        yield Finding("software", package, found or "not installed", GOOD if found else GAP, todo)
    for package, purpose in OPTIONAL.items():
        found = version(package)
        todo = "" if found else f"only for {purpose}: pip install -e '.[detector]'"
        yield Finding("software", package, found or "not installed", GOOD if found else OPTION, todo)
    for module in IMPORTED:
        if (error := _import_error(module)) is not None:
            todo = "torch and torchvision do not fit each other: run python tools/torchvision_cpu.py (docs/faq.md)"
            yield Finding("software", f"import {module}", error, GAP, todo)


def _import_error(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises is the finding
        return f"{type(error).__name__}: {error}"
    return None


def _machine() -> Iterable[Finding]:
    yield Finding("machine", "processor", machine())
    yield Finding("machine", "torch device", _device())
    threads, cores = torch.get_num_threads(), cpu_count()
    todo = "" if threads <= cores else f"more threads than cores wait for each other: export OMP_NUM_THREADS={cores}"
    yield Finding("machine", "torch threads", str(threads), GOOD if threads <= cores else OPTION, todo)
    memory = psutil.virtual_memory()
    enough, text = memory.available > 2e9, f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    yield Finding("machine", "memory", text, *((GOOD, "") if enough else (OPTION, "a notebook takes up to 2 GB")))
    if not _nearest(cache_dir()).is_dir():
        value = f"WSFP_CACHE is {cache_dir()}, which is or lies in a file"
        yield Finding("machine", "cache", value, GAP, "set WSFP_CACHE to a folder, or unset it")
    free = shutil.disk_usage(_nearest(cache_dir())).free
    enough, text = free > 3e9, f"{free / 1e9:.1f} GB free for the cache in {cache_dir()}"
    cure = "the cache takes up to 3 GB: free space, or set WSFP_CACHE to another folder"
    yield Finding("machine", "disk", text, *((GOOD, "") if enough else (OPTION, cure)))


def _device() -> str:
    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB"
    if torch.backends.mps.is_available():
        return "mps (Apple); the course uses the CPU there"
    return "cpu"


def _nearest(path: Path) -> Path:
    return path if path.exists() else _nearest(path.parent)


def _data() -> Iterable[Finding]:
    yield _shipped("data", "SynthFaces-19", PACK, "git checkout wsfp_helpers/assets/synthfaces19.zip")
    for split, path in SHIPPED_BOXES.items():
        yield _boxes(f"boxes of {split}", path)
    for folder in data_dirs()[:-1]:  # $WSFP_DATA, where it is set; the cache is made when it is needed
        if not folder.is_dir():
            todo = "set WSFP_DATA to the folder that holds your data sets, or unset it"
            yield Finding("data", "WSFP_DATA", f"no folder at {folder}", GAP, todo)
    folder = find_frl_london()
    todo = "" if folder else "102 real photographs: wsfp data get frl-london (38 MB), or WSFP_DATA=FOLDER"
    yield Finding("data", "FRL London", str(folder or "no complete copy"), GOOD if folder else OPTION, todo)
    for name in FOLDERS.values():
        yield _full_size("data", name, name, "ask its authors for it, unpack it there, then wsfp data verify")


def _weights() -> Iterable[Finding]:
    for name, (file, script) in SHIPPED_WEIGHTS.items():
        yield _shipped("weights", name, ASSETS / file, f"git checkout wsfp_helpers/assets/{file}, or run {script}")
    for name, (file, source) in FULL_SIZE_WEIGHTS.items():
        yield _full_size("weights", name, file, f"it comes from {source}")


def _shipped(section: str, name: str, path: Path, cure: str) -> Finding:
    cure = f"it comes with the package: {cure}"
    if not path.is_file():
        return Finding(section, name, f"{path} is missing", GAP, cure)
    try:
        whole = is_zipfile(path) if path.suffix == ".zip" else read_about(path) is not None
    except InputError:
        whole = False
    if not whole:
        return Finding(section, name, f"{path} is truncated or damaged", GAP, cure)
    return Finding(section, name, f"{path.name}, {path.stat().st_size / 1e6:.1f} MB")


def _boxes(name: str, path: Path) -> Finding:
    try:
        return Finding("data", name, f"{path.name}, {len(read_boxes(path))} pictures")
    except InputError as error:
        cure = f"git checkout wsfp_helpers/assets/{path.name}, or run scripts/train_detector.py"
        return Finding("data", name, str(error), GAP, f"it comes with the package: {cure}")


def _full_size(section: str, name: str, place: str, cure: str) -> Finding:
    found = find(place)
    if found is not None:
        return Finding(section, name, str(found))
    todo = f"only for the full-size profile; expected at {data_dirs()[0] / place}: {cure}"
    return Finding(section, name, "not found", OPTION, todo)

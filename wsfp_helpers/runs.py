"""Run directories: what a run was (config, seed, versions, revision), its metrics, and its weights.

A folder holds ``config.json``, ``metrics.jsonl`` (one JSON object a line) and weights as safetensors.  A folder belongs
to one config and seed: the same run may be started again in it, which resumes, another one is refused.
"""

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wsfp_helpers.storage import InputError, atomic_path, existing, read_json, write_json

CONFIG, METRICS = "config.json", "metrics.jsonl"
PACKAGES = (
    "wsfp-helpers", "torch", "torchvision", "timm", "open_clip_torch", "accelerate", "safetensors", "numpy", "pillow",
)  # fmt: skip


def start_run(folder: str | Path, config: object, seed: int = 0) -> Path:
    """Make ``folder`` the directory of a run of ``config`` (a dataclass or mapping), or find that it is already.

    Writes ``config.json`` with seed, versions, revision, machine and date; a half-written last line that a kill left
    in ``metrics.jsonl`` is cut off.  Raises :class:`InputError` naming the first difference when the folder holds
    another run, and when it holds files but no run.
    """
    folder = Path(folder)
    wanted = {"seed": seed, "config": _plain(config)}
    if (folder / CONFIG).exists():
        found = read_json(folder / CONFIG)
        if differences := _differences({key: found.get(key) for key in wanted}, wanted):
            key, old, new = differences[0]
            raise InputError(
                f"{folder} holds a run with {key} = {old!r}, this one has {new!r}: choose another folder, or remove "
                f"this one to start again"
            )
        _cut_half_line(folder / METRICS)
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not the folder of a run (it has no {CONFIG}): choose another folder")
    date = datetime.now().astimezone().isoformat("T", "seconds")
    about = {"revision": revision(), "machine": machine(), "date": date, "versions": versions()}
    write_json(folder / CONFIG, wanted | about)
    return folder


def append_metrics(folder: str | Path, row: Mapping[str, object]) -> None:
    """Add one line to ``metrics.jsonl``, on disk when this returns; raises :class:`InputError` when it cannot be."""
    path, line = Path(folder) / METRICS, json.dumps(_plain(row), ensure_ascii=False) + "\n"
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, size)
        raise InputError(f"could not write {path} ({error.strerror}): free space and start the run again") from error


def read_metrics(folder: str | Path) -> list[dict]:
    """All lines of ``metrics.jsonl``; of lines with the same ``step``, which a resumed run repeats, the last counts."""
    rows: dict[object, dict] = {}
    lines = existing(Path(folder) / METRICS, "metrics of a run").read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(line for line in lines if line.endswith("\n")):
        row = json.loads(line)
        key = row.get("step", ("line", number))
        rows.pop(key, None)
        rows[key] = row
    return list(rows.values())


def save_weights(path: str | Path, weights: Mapping[str, Tensor], **about: object) -> None:
    """Write tensors as safetensors, atomically; ``about`` (JSON values) is kept with them as their description."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    with atomic_path(path) as part:
        save_file(tensors, part, metadata={key: json.dumps(_plain(value)) for key, value in about.items()})


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and description that :func:`save_weights` wrote.

    Raises :class:`InputError` when the file is missing, truncated or not safetensors.
    """
    try:
        with safe_open(existing(path, "weights"), framework="pt") as file:
            about = {key: json.loads(value) for key, value in (file.metadata() or {}).items() if key != "format"}
            return {name: file.get_tensor(name) for name in file.keys()}, about
    except (SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as weights ({error}): it is truncated or of another kind") from error


def load_into(model: nn.Module, path: str | Path) -> dict:
    """Give ``model`` the weights of ``path``, all of them and no others; returns their description.

    Raises :class:`InputError` naming the first name or shape that does not fit: a checkpoint of another architecture.
    """
    weights, about = load_weights(path)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if differences := _differences(found, wanted):
        name, old, new = differences[0]
        raise InputError(
            f"{path} is a checkpoint of another architecture: {name} has shape {old}, this model has {new} "
            f"(None: no such tensor); use the profile that it was trained with"
        )
    model.load_state_dict(weights)
    return about


def fingerprint(model: nn.Module) -> str:
    """Twelve hexadecimal digits that change with the weights, so that results of another model are not reused."""
    digest = hashlib.sha256()
    for weight in model.state_dict().values():
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def versions() -> dict[str, str | None]:
    """Versions of Python and of :data:`PACKAGES`; ``None`` where one is not installed."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def version(package: str) -> str | None:
    """Version of an installed package, or ``None``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@lru_cache
def revision() -> str:
    """Git revision of the course with ``-dirty`` when tracked files differ from it; ``"unknown"`` without git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("-dirty" if changed.stdout else "")


def machine() -> str:
    """Processor and number of cores, as results files name them."""
    return f"{_processor()}, {cpu_count()} cores"


def cpu_count() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> str:
    """``"cuda"`` where there is one, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _plain(value: object) -> object:
    """What JSON gives back: dataclasses and mappings as dictionaries, tuples as lists, paths as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value, default=str))


def _differences(old: Mapping, new: Mapping, prefix: str = "") -> list[tuple[str, object, object]]:
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found


def _cut_half_line(path: Path) -> None:
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)

"""What a result was made with: versions, revision, machine."""

import os
import platform
import re
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = (
    "wsfp-helpers", "torch", "torchvision", "timm", "open_clip_torch", "accelerate", "safetensors", "numpy", "pillow",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    """Versions of Python and of :data:`PACKAGES`; ``None`` where one is not installed."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def version(package: str) -> str | None:
    """Version of an installed package, or ``None``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


_CODE = (":/", ":!/docs", ":!/notebooks", ":!/*.md")


@lru_cache
def revision() -> str:
    """Git revision of the course, ``-dirty`` when tracked code or data differ from it; ``"unknown"`` without git.

    What a result cannot depend on does not count: docs (in which results are written), notebooks and texts.
    """
    try:
        return _git("rev-parse", "--short=12", "HEAD") + (
            "-dirty" if _git("status", "--porcelain", "-uno", "--", *_CODE) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def knows_revision(name: str) -> bool:
    """Whether ``name`` is a commit of the course's repository, or might be one because the history is not all here.

    It is not in a shallow clone, in a copy without git's folder, and where there is no git.
    """
    if not re.fullmatch("[0-9a-f]{7,40}", name):
        return False
    try:
        whole = _git("rev-parse", "--is-shallow-repository") == "false"
    except (OSError, subprocess.CalledProcessError):
        whole = False
    try:
        return not whole or _git("cat-file", "-t", name) == "commit"
    except subprocess.CalledProcessError:
        return False


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> str:
    """Processor and number of cores, as results files name them."""
    return f"{_processor()}, {cpu_count()} cores"


def cpu_count() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device(share: int = 0) -> str:
    """``"cuda"`` where there is one, else ``"cpu"``.

    Of the processes of ``accelerate launch`` each has its own GPU; the shares of a work that is split without it (from
    0) take turns on those that are there.
    """
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', share % torch.cuda.device_count())}"


def no_gpu() -> str:
    """Why there is no GPU to compute on, and what to do; empty where there is one."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA (install another where there is a GPU)"
    return f"torch, made for CUDA {torch.version.cuda}, finds no GPU (see nvidia-smi and CUDA_VISIBLE_DEVICES)"


def free_memory(where: torch.device) -> int | None:
    """Bytes that a process may still take on a GPU, what torch holds unused among them; ``None`` for a CPU."""
    if where.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
    return torch.cuda.mem_get_info(where)[0] + unused


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions that multiply bfloat16 numbers; ``False`` where that cannot be told."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

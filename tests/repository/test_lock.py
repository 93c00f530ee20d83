"""What CI installs is pinned and hashed, all of it."""

import platform
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pins(file):
    """Names and versions of a file of requirements, in which nothing but exact versions may stand."""
    text = re.sub(r"\\\n", "", (ROOT / file).read_text())
    found = {}
    for line in text.splitlines():
        if line and not line.startswith(("#", "--only-binary")):
            name, version, hashes = re.fullmatch(r"([\w.-]+)==([\w.]+)((?: +--hash=sha256:\w{64})*)", line).groups()
            found[canonicalize_name(name)] = version, len(hashes.split())
    return found


@pytest.mark.promise("security", "dependencies of CI", "-", "pinned, each file by its SHA-256")
def test_the_lock_has_hashes_of_every_pin_and_of_nothing_else():
    wheels, cpu, other, source = (pins(f".ci/{name}.txt") for name in ("wheels", "torch_cpu", "torch", "groundingdino"))
    locked = wheels | cpu | source
    assert cpu == other and cpu.keys() == {"torch"} and len(locked) == len(wheels) + 2
    assert all(hashes for _, hashes in locked.values())
    versions = {name: version for name, (version, _) in locked.items()}
    assert versions == {name: version for name, (version, _) in pins("constraints.txt").items()}


@pytest.mark.skipif(
    (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 11)) or torch.version.cuda,
    reason="constraints.txt is for CPython 3.11 on Linux without a GPU",
)
def test_every_package_that_the_course_needs_is_pinned():
    needed, todo = set(), [("wsfp-helpers", "all")]
    while todo:
        name, extra = todo.pop()
        needed.add((name, extra))
        for line in metadata.requires(name) or []:
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                new = {(canonicalize_name(wanted.name), each) for each in ("", *wanted.extras)}
                todo += new - needed
    assert len(needed) > 150
    assert {name for name, _ in needed} - pins("constraints.txt").keys() == {"wsfp-helpers"}

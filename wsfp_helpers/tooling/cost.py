"""Table 5: what each system costs, measured in a process of its own, from pictures to label maps."""

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from wsfp_helpers.common.machine import machine, revision
from wsfp_helpers.common.threads import in_processes
from wsfp_helpers.nets.trunk import load_trunk
from wsfp_helpers.profiles import Profile
from wsfp_helpers.stages import open_parts
from wsfp_helpers.systems.base import System
from wsfp_helpers.systems.every import make_system
from wsfp_helpers.tooling.results import read_results, row, write_results

IMAGES = 16
"""Pictures that are labelled to measure how many a second are."""


def table5(names: Sequence[str], config: Profile, boxes: str | Path, results: Path) -> Path:
    """Table 5: parameters, minutes of training, multiply-adds and pictures a second; returns the results file.

    Every number begins with pictures: the features of the frozen trunk are computed within each.  Run it on an idle
    machine.  The file grows by a system at a time: interrupted, the same command goes on after those that it holds, if
    revision and machine are the same.

    Args:
        names: Systems.
        config: The profile.
        boxes: Boxes of the training set.
        results: Folder of the results file and its page.
    """
    rows = [each for each in _measured(results) if each["name"].split(":")[0] in names]
    done = {each["name"].split(":")[0] for each in rows}
    for name in names:
        if name in done:
            continue
        # A process of its own: peak memory is that of the process, and caches are empty.
        with TemporaryDirectory() as folder, in_processes(1) as pool:
            found = pool.submit(measure, name, config, str(boxes), folder).result()
        rows += [row(f"{name}: {what}", what, unit, [value]) for (what, unit), value in found.items()]
        print(
            f"{name:12}" + "  ".join(f"{what} {value:.3g} {unit}" for (what, unit), value in found.items()), flush=True
        )
        write_results("table5", f"wsfp systems cost --profile {config.name}", rows, results)
    return results / "table5.json"


def _measured(results: Path) -> list[dict]:
    """Rows that this revision has measured on this machine."""
    if not (results / "table5.json").exists():
        return []
    content = read_results("table5", results)
    same = content["revision"] == revision() and content["machine"].startswith(f"{machine()},")
    return content["rows"] if same else []


class MultiplyAdds(FlopCounterMode):
    """torch's counter, without the names of modules: their hooks forbid gradients within, which CLIP-ES takes."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = _NoModules()


class _NoModules(ModuleTracker):
    def __enter__(self) -> "_NoModules":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def measure(name: str, config: Profile, boxes: str, folder: str) -> dict[tuple[str, str], float]:
    """Numbers of one system by (what, unit), with seed 0; ``folder`` must be empty."""
    os.environ["WSFP_CACHE"] = folder
    system = make_system(name, open_parts(config, boxes, Path(folder)))
    faces, started = config.faces("train").weak, time.monotonic()
    system.fit(faces)
    minutes = (time.monotonic() - started) / 60
    system.network.eval()
    some = config.faces("val").weak.subset(range(IMAGES + 1))
    with MultiplyAdds() as counter:
        list(system.find(some.subset([IMAGES])))
    started = time.monotonic()
    list(system.find(some.subset(range(IMAGES))))
    seconds = time.monotonic() - started
    trained = [p for p in system.network.parameters() if p.requires_grad]
    return {
        ("trained parameters", "million"): sum(p.numel() for p in trained) / 1e6,
        ("all parameters", "million"): _count(system, config) / 1e6,
        ("training", "minutes"): minutes,
        ("multiply-adds", "billion a picture"): counter.get_total_flops() / 2e9,
        ("labels", "pictures a second"): IMAGES / seconds,
        ("peak memory", "GiB"): resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _count(system: System, config: Profile) -> int:
    """Parameters that are in memory during training, frozen ones as well."""
    modules: list[nn.Module] = [system.network]
    modules += [load_trunk()] if config.model.frozen_blocks else []
    modules += [config.load_vlm()] if "vlm" in system.models else []
    modules += [config.load_dense().vlm] if "dense" in system.models else []
    return sum(p.numel() for module in modules for p in module.parameters())

"""Let PyPI's torchvision wheel (linked against CUDA) load beside a CPU build of torch.

usage: python tools/torchvision_cpu.py      in the environment that it is for; ``make setup`` does it

On Linux x86-64 PyPI has no CPU build of torchvision.  Its ``_C.so`` then cannot be loaded, torchvision swallows that
error, and ``import torchvision`` fails later with ``operator torchvision::nms does not exist``; timm, open_clip,
transformers and groundingdino fail with it.  Where torchvision loads, the command does nothing, and takes away what it
put there before.  Where it does not load beside a CPU build, the command copies this file into the environment with a
line that imports it at every start of its Python.

Imported, it only puts a finder on ``sys.meta_path``; the work is done if and when torchvision is imported.  Then the
operators that torchvision names at import time are declared, and ``nms`` gets a small implementation.  ``roi_align``
works through torchvision's own fallback; the other operators and the codecs of ``torchvision.io`` stay unavailable and
say so when called.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_declared: list[object] = []  # keeps the torch.library.Library alive


def nms(boxes: "Tensor", scores: "Tensor", iou_threshold: float) -> "Tensor":
    """Greedy non-maximum suppression, as ``torchvision.ops.nms``.

    ``boxes`` ``(N, 4)`` xyxy, ``scores`` ``(N,)``; gives the int64 indices of the kept boxes by falling score.  A box
    goes when its IoU with a kept box of higher score is *above* the threshold.
    """
    import torch

    x1, y1, x2, y2 = boxes.double().unbind(1)
    area = (x2 - x1) * (y2 - y1)
    order, kept = scores.argsort(descending=True, stable=True), []
    while order.numel():
        best, rest = order[0], order[1:]
        kept.append(best)
        width = (torch.minimum(x2[best], x2[rest]) - torch.maximum(x1[best], x1[rest])).clamp(min=0)
        height = (torch.minimum(y2[best], y2[rest]) - torch.maximum(y1[best], y1[rest])).clamp(min=0)
        overlap = width * height
        order = rest[~(overlap / (area[best] + area[rest] - overlap) > iou_threshold)]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long)


def _declare_operators(spec: importlib.machinery.ModuleSpec) -> None:
    import torch

    if _declared or torch.version.cuda or torch.version.hip:
        return
    for library in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:
            break
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        fragment.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    fragment.impl("nms", nms, "CPU")
    _declared.append(fragment)


def _allow_nms(boxes: ModuleType) -> None:
    if _declared:
        boxes._assert_has_ops = lambda: None


def _around(
    spec: importlib.machinery.ModuleSpec,
    before: Callable[[importlib.machinery.ModuleSpec], None] | None = None,
    after: Callable[[ModuleType], None] | None = None,
) -> importlib.machinery.ModuleSpec:
    """Run something just before or just after a module's own code, once it is really imported."""
    run = spec.loader.exec_module

    def exec_module(module: ModuleType) -> None:
        if before:
            before(spec)
        run(module)
        if after:
            after(module)

    spec.loader.exec_module = exec_module
    return spec


class _TorchvisionFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in ("torchvision", "torchvision.ops.boxes"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None or spec.loader is None:
            return None
        if name == "torchvision":
            return _around(spec, before=_declare_operators)
        return _around(spec, after=_allow_nms)


NAME = "wsfp_torchvision_cpu"


def install() -> str:
    """Put this module into the environment where it is needed, or take it away; says which."""
    import shutil
    import sysconfig

    site = Path(sysconfig.get_path("purelib"))
    # The name of the .pth file sorts last: it may import what others make importable.
    module, line = site / f"{NAME}.py", site / f"zz_{NAME}.pth"
    for path in (module, line):
        path.unlink(missing_ok=True)
    if _imports("torchvision"):
        return "torchvision loads beside torch: nothing to do"
    if not _imports("torch") or _imports("torch; assert torch.version.cuda or torch.version.hip"):
        return "torchvision does not load beside this build of torch: install both from one source (docs/faq.md)"
    shutil.copyfile(__file__, module)
    line.write_text(f"import {NAME}\n", encoding="utf-8")
    return f"torchvision is built for CUDA and torch is not: {line} lets them load beside each other"


def _imports(what: str) -> bool:
    import subprocess

    return subprocess.run([sys.executable, "-c", f"import {what}"], capture_output=True).returncode == 0


if __name__ == "__main__":
    print(install())
elif not any(type(finder).__name__ == "_TorchvisionFinder" for finder in sys.meta_path):
    sys.meta_path.insert(0, _TorchvisionFinder())

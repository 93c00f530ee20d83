"""How a training goes, while it goes: ``wsfp report RUN``, beside ``wsfp train`` and without touching its files.

It reads the last checkpoint of a run directory.  Label maps are opened here to report with; training cannot see them.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.data import default_collate
from tqdm.auto import tqdm

from wsfp_helpers.common.checkpoints import load_strictly, step_of
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import append_row, atomic_path
from wsfp_helpers.common.machine import device
from wsfp_helpers.common.runs import METRICS, read_metrics
from wsfp_helpers.data.weak import WeakFaces, uniform_subset
from wsfp_helpers.labels import COMPONENTS, PROMPTS
from wsfp_helpers.method.fcam import Fcam, extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.method.tcd import Objective
from wsfp_helpers.method.train import CHECKPOINT, MODEL, DisFaceRep, TrainingSet, newest_weights
from wsfp_helpers.method.vit import Projector
from wsfp_helpers.nets.vlm import VisionLanguageModel
from wsfp_helpers.notebook.plots import DPI, gallery, heat, overlay
from wsfp_helpers.profiles import Profile
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels
from wsfp_helpers.stages import read_run
from wsfp_helpers.tooling.gradients import cosines, gradients, weights

REPORT = "report.jsonl"
FACES, SHOWN = 6, ("hair", "l_eye", "nose", "neck")
"""Faces of the picture, and the components whose maps it shows."""
BATCH = 8
"""Training pictures that gradients are taken of, before CCD masks them."""


def follow(run: str | Path, images: int, wait: float = 20.0) -> Iterator[str]:
    """A :func:`report` of every checkpoint that comes, looked for every ``wait`` seconds, until the training ends."""
    run, last, ended = Path(run), 0, False
    read_run(run)
    while not ended:
        ended = (run / MODEL).exists()
        if ended or ((run / CHECKPOINT).exists() and _step(run) > last):
            row = report(run, images)
            last = row["step"]
            yield format_report(row)
        else:
            time.sleep(wait)


def report(run: str | Path, images: int = 60) -> dict:
    """Add a line on the newest weights of a run to ``report.jsonl``, and write ``report-STEP.png``.

    Args:
        run: Run directory of ``wsfp train``, under way or ended.
        images: Faces of the profile's ``val`` whose pseudo labels are scored.

    Returns:
        The line: ``step``; ``loss``, the mean of the last 50 steps; ``mean_f1`` in percent and ``f1`` of the classes
        that occur, of the pseudo labels; ``dead``, the share of pairs with another text whose cosine is not above 0,
        so that they have no gradient, for ``v_cls`` and ``v_ffc``; ``gradients``, the norm of each weighted term by
        part of the network.

    Raises:
        InputError: The folder is no run, or has no checkpoint yet.
    """
    run, config = Path(run), read_run(run)
    vlm = config.load_vlm().to(device()) if config.train.tcd is not None else None
    step, losses, model = _newest(run, config, vlm)
    faces = config.faces("val")
    faces = faces.subset(uniform_subset(len(faces), min(images, len(faces))))
    fcams = list(tqdm(extract(model.vit, faces.weak, config.fcam), "maps", len(faces), leave=False))
    labels = [pseudo_label(each, config.theta) for each in fcams]
    scores = score_pseudo_labels(labels, faces)
    row = {
        "step": step,
        "loss": float(np.mean(losses[-50:] or [math.nan])),
        "mean_f1": round(scores.mean_f1, 2),
        "f1": {name: round(value, 1) for name, value in scores.per_class.items() if not math.isnan(value)},
        **_ask(model, config, vlm),
    }
    with atomic_path(run / f"report-{step}.png") as part:
        _draw(faces.weak, fcams, labels, f"step {step:,}: pseudo labels of val, mean F1 {row['mean_f1']}", part)
    append_row(run / REPORT, row)
    return row


def format_report(row: dict) -> str:
    """A line of :func:`report` as text."""
    parts = list(next(iter(row["gradients"].values())))
    lines = [f"step {row['step']:,}: loss {row['loss']:.3f}, pseudo labels {row['mean_f1']} mean F1 on val"]
    if row["dead"]:
        lines.append("  pairs without a gradient: " + ", ".join(f"{k} {100 * v:.0f} %" for k, v in row["dead"].items()))
    lines.append(f"  {'gradient norms':16}" + "".join(f"{part:>16}" for part in parts))
    for term, norms in row["gradients"].items():
        lines.append(f"  {term:16}" + "".join(f"{norms[part]:16.2e}" for part in parts))
    return "\n".join(lines)


def _step(run: Path) -> int:
    return step_of(run / CHECKPOINT)


def _newest(run: Path, config: Profile, vlm: VisionLanguageModel | None) -> tuple[int, list[float], DisFaceRep]:
    """The step, the losses so far, and the network: at the end, else at the last checkpoint."""
    weights, step = newest_weights(run, config.train)
    rows = read_metrics(run)
    try:
        steps, losses = [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{run / METRICS} has a line without the numbers step and loss: it was edited; restore it"
        ) from error
    vit = config.model.empty()
    projector = Projector(vit.cls_token.shape[-1], out=vlm.text(PROMPTS).shape[-1]) if vlm is not None else None
    model = DisFaceRep(vit, projector)
    load_strictly(model, weights, run, "is the folder that of `wsfp train`?")
    return max(steps, default=0) if step is None else step, losses, model.to(device()).eval()


def _ask(model: DisFaceRep, config: Profile, vlm: VisionLanguageModel | None) -> dict[str, dict]:
    """Dead pairs and gradient norms on a few training pictures; the same ones at every step."""
    faces = config.faces("train").weak
    some = faces.subset(range(min(BATCH, config.train.batch_size, len(faces))))
    data = TrainingSet(some, model.vit, vlm.size if vlm is not None else 8)
    batch = {k: v.to(device()) for k, v in default_collate([data[0, i] for i in range(len(some))]).items()}
    objective = Objective(config.train.tcd, vlm, config.train.keep_base_losses)
    factors = weights(config.train.tcd)
    if not config.train.keep_base_losses:
        factors = {term: factor for term, factor in factors.items() if term not in weights(None)}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the choice of renders
        found = gradients(model, objective, batch, factors)
        dead = {}
        if config.train.tcd is not None and vlm is not None:
            every = cosines(model, vlm, batch, config.train.tcd.max_classes_per_image)
            dead = {who: value for (who, what), value in every.items() if what == "share of other texts not above 0"}
    norms = {term: {part: float(each.norm()) for part, each in by_part.items()} for term, by_part in found.items()}
    return {"dead": dead, "gradients": norms}


def _draw(faces: WeakFaces, fcams: list[Fcam], labels: list[np.ndarray], title: str, path: Path) -> None:
    """The first faces: picture, pseudo label and maps of :data:`SHOWN`, a column a face."""
    rows: list[list[tuple[np.ndarray, str]]] = [[] for _ in range(2 + len(SHOWN))]
    for i in range(min(FACES, len(faces))):
        picture, maps = faces.image(i), dict(zip(fcams[i].classes.tolist(), fcams[i].maps(), strict=True))
        rows[0].append((picture, faces.ids[i]))
        rows[1].append((overlay(picture, labels[i]), "pseudo label"))
        for row, name in zip(rows[2:], SHOWN, strict=True):
            k = COMPONENTS.index(name)
            row.append((heat(picture, maps[k]) if k in maps else picture, name if k in maps else f"no {name}"))
    panels = [panel for row in rows for panel in row]
    classes = sorted({int(value) for label in labels[:FACES] for value in np.unique(label)} - {0})
    figure = gallery([p for p, _ in panels], [t for _, t in panels], title, columns=len(rows[0]), classes=classes)
    figure.savefig(path, format="png", dpi=DPI, bbox_inches="tight")
    plt.close(figure)

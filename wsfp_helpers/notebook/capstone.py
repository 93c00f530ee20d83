"""The capstone "mend the neck": a rule of the student's own, scored on faces of ``celeb/val`` by one call.

A rule is a function of a pseudo label ``(H, W)``, the boxes that Eq. 1 accepts by component, and the labels ``y``
``(K,)``; it returns a better label map.  It may use what the method may use, and no truth.  Scores go to a file in the
working directory, so that rules can be compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

import numpy as np

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import read_json, write_json
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.data.weak import uniform_subset
from wsfp_helpers.detect.base import Box
from wsfp_helpers.detect.boxes import shipped_boxes
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.method.ccd import CCDConfig, accepted_boxes
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.profiles import profile
from wsfp_helpers.score.confusion import Scores
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels
from wsfp_helpers.stages import load_shipped

Rule = Callable[[np.ndarray, Mapping[str, Box], np.ndarray], np.ndarray]

SCOREBOARD = Path("capstone_scores.json")
"""Where scores are kept, below the working directory."""
FACES = 57
"""Every fourth face of celeb/val: a few seconds a score."""
SHOWN = 0.5
"""Points of F1 from which on a class counts as changed."""


@dataclass(frozen=True)
class Material:
    """What every rule is given, and the truth that only the score sees."""

    faces: Faces
    labels: tuple[np.ndarray, ...]
    boxes: tuple[dict[str, Box], ...]


@cache
def material() -> Material:
    """Pseudo labels of the full method and accepted boxes of :data:`FACES` faces, made once."""
    everybody = synthfaces("celeb/val")
    faces = everybody.subset(uniform_subset(len(everybody), FACES))
    maps = extract(load_shipped("full"), faces.weak, profile("embedded").fcam)
    records, config = shipped_boxes("celeb/val"), CCDConfig()
    boxes = tuple(accepted_boxes(records[key].candidates, records[key].size, config) for key in faces.ids)
    return Material(faces, tuple(pseudo_label(fcam) for fcam in maps), boxes)


def apply(rule: Rule) -> list[np.ndarray]:
    """The label maps that a rule makes; raises :class:`InputError` for one that is none."""
    given, found = material(), []
    for i, (label, boxes) in enumerate(zip(given.labels, given.boxes, strict=True)):
        mended = rule(label.copy(), dict(boxes), given.faces.labels[i].copy())
        shape = getattr(mended, "shape", None)
        if shape != label.shape:
            raise InputError(
                f"the rule gives {type(mended).__name__} {shape or ''} for face {i}: expected {label.shape}"
            )
        if not np.isin(mended, range(len(CELEBAMASK))).all():
            raise InputError(f"the rule gives ids outside 0 to {len(CELEBAMASK) - 1} for face {i}")
        found.append(np.asarray(mended, np.uint8))
    return found


def score(rule: Rule, name: str, scoreboard: Path = SCOREBOARD) -> Scores:
    """Score a rule on val, print what it changes by class and the scoreboard, and write it there under ``name``.

    The same name again replaces its entry.

    Raises:
        InputError: The rule returns no label map, or the scoreboard is a file of something else.
    """
    given = material()
    before, after = (score_pseudo_labels(labels, given.faces) for labels in (given.labels, apply(rule)))
    print(f"{name}: mean F1 {before.mean_f1:.1f} -> {after.mean_f1:.1f} on {len(given.faces)} faces of celeb/val")
    change = {part: after.per_class[part] - before.per_class[part] for part in after.per_class}
    told = [
        f"{part} {points:+.1f}" for part, points in sorted(change.items(), key=lambda c: -c[1]) if abs(points) > SHOWN
    ]
    print("  by class:", ", ".join(told) or "nothing changes")
    entries = [entry for entry in _read(scoreboard) if entry["name"] != name]
    entries.append({
        "name": name, "mean_f1": after.mean_f1, "per_class": after.as_dict()["per_class"],
        "date": datetime.now().astimezone().isoformat("T", "seconds"),
    })  # fmt: skip
    entries.sort(key=lambda entry: -entry["mean_f1"])
    write_json(scoreboard, entries)
    for place, entry in enumerate(entries[:10], 1):
        print(f"  {place:2}. {entry['mean_f1']:5.1f}  {entry['name']}")
    return after


def _read(scoreboard: Path) -> list[dict]:
    if not scoreboard.exists():
        return []
    entries = read_json(scoreboard)
    fits = isinstance(entries, list) and all(
        isinstance(e, dict) and "name" in e and type(e.get("mean_f1")) in (int, float) for e in entries
    )
    if not fits:
        raise InputError(f"{scoreboard} is not a scoreboard of the capstone: move it away")
    return entries

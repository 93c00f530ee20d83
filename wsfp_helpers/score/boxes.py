"""How good boxes are: boxes drawn around a label map, overlap, recall and average precision."""

from collections.abc import Sequence

import numpy as np

from wsfp_helpers.detect.base import BOX_CLASSES, Box, Detection
from wsfp_helpers.labels import CELEBAMASK


def true_boxes(label_map: np.ndarray, minimum: int = 10) -> dict[str, Box]:
    """Box around each component of :data:`BOX_CLASSES` that has ``minimum`` pixels in a label map ``(H, W)`` uint8."""
    boxes = {}
    for name, classes in BOX_CLASSES.items():
        rows, columns = np.nonzero(np.isin(label_map, [CELEBAMASK.index(c) for c in classes]))
        if len(rows) >= minimum:
            boxes[name] = (
                float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
            )  # fmt: skip
    return boxes


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union ``(n, m)`` of boxes ``(n, 4)`` and ``(m, 4)`` as xyxy."""
    a, b = np.asarray(first, float).reshape(-1, 1, 4), np.asarray(second, float).reshape(1, -1, 4)
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    area = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (area - shared)


def hits(found: Sequence[Detection], truth: Sequence[Box], least: float = 0.5) -> tuple[list[bool], int]:
    """Which detections (by falling score) match a true box not taken before, and how many true boxes are matched."""
    free, right = list(truth), []
    for detection in found:
        values = overlap(np.array([detection.box]), np.array(free))[0] if free else np.zeros(0)
        right.append(bool(len(values) and values.max() >= least))
        if right[-1]:
            free.pop(int(values.argmax()))
    return right, len(truth) - len(free)


def recall_and_precision(
    found: Sequence[Sequence[Detection]], truth: Sequence[Sequence[Box]], least: float = 0.5
) -> dict[str, float]:
    """Recall, and average precision over all images of one phrase (PASCAL VOC's area), both in percent at an overlap.

    ``found[i]`` and ``truth[i]`` belong to image i.  NaN when no image has a true box.
    """
    pairs = [hits(f, t, least) for f, t in zip(found, truth, strict=True)]
    scores = np.array([d.score for f in found for d in f])
    right = np.array([r for rights, _ in pairs for r in rights], bool)[np.argsort(-scores, kind="stable")]
    total = sum(map(len, truth))
    if not total:
        return {"recall": float("nan"), "average_precision": float("nan")}
    caught = np.cumsum(right)
    envelope = np.maximum.accumulate((caught / np.arange(1, len(right) + 1))[::-1])[::-1]
    return {
        "recall": 100 * sum(matched for _, matched in pairs) / total,
        "average_precision": 100 * float((envelope * right).sum()) / total,
    }

"""Slow, literal versions of what the package computes fast: what tests and ``wsfp bench`` hold it against."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def confusion_by_class(prediction: np.ndarray, truth: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """Confusion matrix ``(C, C)`` int64 by one boolean pass for every pair of classes."""
    valid = truth != ignore
    matrix = np.zeros((classes, classes), np.int64)
    for row in range(classes):
        for column in range(classes):
            matrix[row, column] = ((truth == row) & (prediction == column) & valid).sum()
    return matrix


def counts_by_class(prediction: np.ndarray, truth: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """``(C, 3)`` int64 hits, true and predicted pixels, three boolean passes a class (MCTformer; design notes 1.6)."""
    valid = truth != ignore
    counts = np.zeros((classes, 3), np.int64)
    for k in range(classes):
        predicted, true = (prediction == k) & valid, (truth == k) & valid
        counts[k] = (predicted & true).sum(), true.sum(), predicted.sum()
    return counts


@torch.no_grad()
def fcam_by_views(
    forward: Callable[[Tensor, float], tuple[Sequence[Tensor], Tensor]],
    image: Tensor,
    labels: Sequence[int],
    flip_components: Sequence[int],
    scales: Sequence[float] = (1.0, 0.75, 1.25),
) -> dict[int, np.ndarray]:
    """Maps ``{component: (H, W)}`` in [0, 1] of one picture ``(3, H, W)``: a forward for every scale and flip.

    ``forward(picture (1, 3, H, W), scale)`` gives the attention of every layer, averaged over heads, ``(K + N, K + N)``
    each, and the patch map ``(K, h, w)`` before any activation.  The procedure is that of design notes 1.5: all classes
    at full size, absent ones multiplied by 0, with left and right exchanged when a flip is undone (1.9).
    """
    height, width = image.shape[1:]
    total = torch.zeros(len(labels), height, width)
    for scale in scales:
        for flipped in (False, True):
            view = torch.flip(image, [2]) if flipped else image
            attention, patch_map = forward(view[None], scale)
            k, h, w = patch_map.shape
            class_to_patch = torch.zeros(k, h, w)
            patch_to_patch = torch.zeros(h * w, h * w)
            for layer in attention:
                class_to_patch += layer[:k, k:].reshape(k, h, w) / len(attention)
                patch_to_patch += layer[k:, k:]
            fused = torch.sqrt(class_to_patch * torch.relu(patch_map))
            spread = (patch_to_patch @ fused.reshape(k, h * w).T).T.reshape(k, h, w)
            full = F.interpolate(spread[None], size=(height, width), mode="bilinear", align_corners=False)[0]
            if flipped:
                full = torch.flip(full, [2])[list(flip_components)]
            for component in range(k):
                full[component] = full[component] * float(labels[component])
            total += full
    maps = {}
    for component in range(len(labels)):
        if labels[component]:
            low, high = total[component].min(), total[component].max()
            maps[component] = ((total[component] - low) / (high - low + 1e-8)).numpy()
    return maps

"""Slow, literal versions of what the package computes fast: the tests and ``tools.bench`` hold it against them."""

import math
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
    """``(C, 3)`` int64 hits, true and predicted pixels by three boolean passes a class (docs/design.md, 1.6)."""
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
    each, and the patch map ``(K, h, w)`` before any activation.  The procedure is that of docs/design.md, 1.5: all
    classes at full size, absent ones multiplied by 0, with left and right exchanged when a flip is undone (1.9).
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


def tcd_by_pairs(
    p: Tensor,
    v_cls: Tensor,
    pictures: Tensor,
    labels: Tensor,
    encode_image: Callable[[Tensor], Tensor],
    encode_text: Callable[[str], Tensor],
    prompts: Sequence[str],
    weights: dict[str, float],
) -> dict[str, Tensor]:
    """Eq. 8-16 of the paper as loops over pictures b, components k and prompts l; every term and the ``loss``.

    ``p`` ``(B, K, h, w)`` in [0, 1], ``v_cls`` ``(B, K, D)``, ``pictures`` ``(B, 3, S, S)`` normalised for
    ``encode_image(picture (1, 3, S, S)) -> (1, D)``, ``labels`` ``(B, K)``, ``encode_text(prompt) -> (D,)``;
    ``weights`` are the alpha, beta and lambda of Eq. 10, 14 and 16.  All K components are rendered, the text is encoded
    anew.
    What the equations leave open is read as in docs/design.md, 2.3 and 9.4: the positive logarithm goes on as its
    tangent below 0.05, and sums over k and l are means over the present components and over the other prompts.
    """

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() / (a.norm() * b.norm())

    def attract(cosine: Tensor) -> Tensor:
        if cosine < 0.05:
            return -math.log(0.05) - (cosine - 0.05) / 0.05
        return -torch.log(torch.clamp(cosine, max=0.9999))

    def repel(cosine: Tensor) -> Tensor:
        return -torch.log(1 - torch.clamp(cosine, 0, 0.9999))

    texts = [encode_text(prompt) for prompt in prompts]
    names = ("pos_cls", "pos_ffc", "neg_cls", "neg_ffc", "neg_bfc")
    terms = {name: torch.zeros(()) for name in names} | {"reg": torch.zeros(())}
    batch, components = labels.shape
    for b in range(batch):
        present, size = float(labels[b].sum()), pictures.shape[-2:]
        for k in range(components):
            mask = F.interpolate(p[b, k][None, None], size=size, mode="bilinear", align_corners=False)
            v_ffc = encode_image(pictures[b : b + 1] * mask)[0]
            v_bfc = encode_image(pictures[b : b + 1] * (1 - mask))[0]
            terms["reg"] = terms["reg"] + p[b, k].mean() / components / batch
            if not labels[b, k]:
                continue
            others = [other for other in range(components) if other != k]
            found = {
                "pos_cls": attract(similarity(v_cls[b, k], texts[k])),
                "pos_ffc": attract(similarity(v_ffc, texts[k])),
                "neg_cls": sum(repel(similarity(v_cls[b, k], texts[other])) for other in others) / len(others),
                "neg_ffc": sum(repel(similarity(v_ffc, texts[other])) for other in others) / len(others),
                "neg_bfc": repel(similarity(v_bfc, texts[k])),
            }
            for name in names:
                terms[name] = terms[name] + found[name] / present / batch
    positive = weights["alpha0"] * terms["pos_cls"] + weights["alpha1"] * terms["pos_ffc"]
    negative = weights["beta0"] * terms["neg_cls"] + weights["beta1"] * terms["neg_ffc"]
    negative = negative + weights["beta2"] * terms["neg_bfc"]
    return terms | {"loss": positive + negative + weights["reg"] * terms["reg"]}

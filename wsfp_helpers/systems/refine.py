"""Refinement that systems share: attention as affinity (CLIP-ES), pixel-adaptive refinement (AFA; SeCo, MoRe, WeCLIP).

Written from the papers (docs/design.md, 8).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances in pixels of the eight neighbours that a pixel is compared with."""


def balanced(attention: Tensor, rounds: int = 3) -> Tensor:
    """Attention ``(..., N, N)`` as a symmetric affinity whose rows and columns sum to about 1 (CLIP-ES, Eq. 4).

    Columns and rows are normalised in turn, ``rounds`` times (Sinkhorn).
    """
    for _ in range(rounds):
        attention = attention / attention.sum(-2, keepdim=True)
        attention = attention / attention.sum(-1, keepdim=True)
    return (attention + attention.transpose(-1, -2)) / 2


def box_of(map_: Tensor, threshold: float) -> Tensor:
    """``(h, w)`` bool: the smallest box around where ``map_`` ``(h, w)`` exceeds ``threshold`` of its maximum."""
    rows, columns = (map_ >= threshold * map_.max()).nonzero(as_tuple=True)
    inside = torch.zeros_like(map_, dtype=torch.bool)
    inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return inside


def spread(maps: Tensor, affinity: Tensor, threshold: float, steps: int = 2) -> Tensor:
    """Class-aware spreading of maps ``(P, h, w)`` along ``affinity`` ``(N, N)`` (CLIP-ES, Eq. 5).

    Each map takes ``steps`` steps, inside the box around its strongest part only.
    """
    affinity = torch.linalg.matrix_power(affinity, steps)
    inside = torch.stack([box_of(each, threshold) for each in maps])
    walked = (maps.flatten(1) @ affinity.T).view_as(maps)
    return walked * inside


def adaptive_weights(pictures: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Weights ``(B, 8 n, H, W)`` of a pixel's neighbours: those of its colour, and a little those that are near.

    κ = softmax(−(ΔI / (0.3 σ))²) + 0.01 softmax(−(Δp / (0.3 σ))²), σ over the neighbourhood (AFA, Eq. 7-9).

    Args:
        pictures: ``(B, 3, H, W)`` in [0, 1].
        dilations: Distances of the n rings of neighbours.
    """
    near = _neighbours(pictures, dilations)  # (B, 3, 8 n, H, W)
    deviation = near.std(2, keepdim=True)
    colour = -(((near - pictures[:, :, None]) / (0.3 * deviation + 1e-8)) ** 2).mean(1)
    distance = torch.tensor([d * (2**0.5 if dy and dx else 1) for d in dilations for dy, dx in _AROUND])
    place = -((distance / (0.3 * distance.std())) ** 2)
    return colour.softmax(1) + 0.01 * place.softmax(0).to(colour).view(1, -1, 1, 1)


def refine(scores: Tensor, weights: Tensor, dilations: Sequence[int] = DILATIONS, rounds: int = 10) -> Tensor:
    """Pixel-adaptive refinement of ``scores`` ``(B, C, H, W)``: ``rounds`` weighted means over the neighbours."""
    for _ in range(rounds):
        scores = (_neighbours(scores, dilations) * weights[:, None]).sum(2)
    return scores


_AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def _neighbours(x: Tensor, dilations: Sequence[int]) -> Tensor:
    """``(B, C, 8 n, H, W)``: for each pixel its eight neighbours at n distances; the border is repeated."""
    h, w = x.shape[-2:]
    most = max(dilations)
    padded = F.pad(x, (most,) * 4, mode="replicate")
    shifted = [
        padded[..., most + d * dy : most + d * dy + h, most + d * dx : most + d * dx + w]
        for d in dilations
        for dy, dx in _AROUND
    ]
    return torch.stack(shifted, 2)

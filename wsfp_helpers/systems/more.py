"""MoRe (Yang et al., AAAI 2025): class tokens that collect patches along a graph, and maps that are their attention.

Kept: the graph category representation, in which each class token collects the better half of the patches along its
attention; the localisation-informed regularisers, where the map of the patch head says which regions are reliable and
which are not (weights 0.2 and 0.1, temperature 0.5); cross-entropy among all class tokens at temperature 0.07 (weight
1.4); the map, which is the summed attention from class tokens to patches.
Reduced: the decoder, the pixel-adaptive refinement of the labels that teach it, its dense energy, and the contrast
among patches.  A parser is trained in the second stage anyway, and the energy needs a compiled filter; maps that were
refined when read were no better on ``val`` than maps that were not.  The contrast reads an auxiliary layer, and the
embedded world trains a single block.
Read into it: the facts that this was written from do not say what the regularisers compare.  Here it is the shares of
the classes in the attention to a patch: a reliable patch should get its own class's, an uncertain one should get them
as it resembles the reliable regions.
Supervision: image-level labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.method.tcd import class_token_contrast, soft_margin
from wsfp_helpers.systems.base import Batch, Found, Parts, VitNetwork, VitSystem, found_in_fcam, present_maps

LOW, HIGH = 0.25, 0.7
"""Below the first a map says background, from the second on it is reliable; between them it is uncertain."""
NEVER = -1e4
"""Score of a class without a region: finite, so that a picture without any keeps finite gradients."""


@dataclass(frozen=True)
class MoReConfig:
    """Weights of the losses, MoRe's own, and what ``val`` may choose."""

    lr: float = 2e-3
    """Learning rate of the heads in the profile ``embedded``; others scale it as their own."""
    theta: float = 0.5
    """Background threshold."""
    share: float = 0.5
    """Of the patches, those that a class token collects."""
    reliable: float = 0.2
    """Weight of :func:`reliable_loss`."""
    uncertain: float = 0.1
    """Weight of :func:`uncertain_loss`."""
    temperature: float = 0.5
    """Of both."""
    tokens: float = 1.4
    """Weight of the contrast among class tokens."""


class CategoryGraph(nn.Module):
    """Graph category representation: class tokens take up what their patches say.

    Args:
        width: d.
        share: Of the patches that each class token is joined with, in (0, 1].
    """

    def __init__(self, width: int, share: float) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}: expected a number in (0, 1]")
        self.share, self.mix = share, nn.Linear(width, width)

    def forward(self, classes: Tensor, patches: Tensor, attention: Tensor) -> Tensor:
        """Class tokens ``(B, K, d)`` from ``classes`` ``(B, K, d)``, ``patches`` ``(B, N, d)`` and ``(B, K, N)``."""
        best = attention.topk(max(1, round(self.share * attention.shape[-1])), -1)
        edges = torch.zeros_like(attention).scatter(-1, best.indices, best.values)
        # e_kj = a_kj / Σ_{j' in the top} a_kj',  c'_k = c_k + W Σ_j e_kj x_j
        return classes + self.mix(edges / edges.sum(-1, keepdim=True) @ patches)


class MoRe(VitSystem):
    """MoRe on the class-token ViT."""

    title, paper, supervision = "MoRe", "Yang et al., AAAI 2025", "I"
    reads = ("theta",)
    chosen = 1
    tried = (MoReConfig(), MoReConfig(theta=0.3), MoReConfig(lr=4e-3), MoReConfig(lr=4e-3, theta=0.3))
    settings: MoReConfig

    def __init__(self, parts: Parts, settings: MoReConfig, seed: int = 0) -> None:
        super().__init__(parts, settings, seed)
        vit = parts.build_vit(seed)
        self.network = VitNetwork(vit, graph=CategoryGraph(vit.cls_token.shape[-1], settings.share))

    def fit(self, faces: WeakFaces, folder: Path | None = None) -> None:
        """Train from the first values of the baseline."""
        self.train(faces, folder, self.settings.lr, 8)

    def loss(self, batch: Batch, step: int) -> Tensor:
        """Two classifiers, the contrast among class tokens, the two regularisers."""
        config, labels = self.settings, batch.labels
        output = self.network.vit(batch.inputs, attention=True)
        patches, attention = output.patch_tokens, output.class_attention.flatten(2)
        classes = self.network.heads["graph"](output.class_tokens[-1], patches, attention)
        best, which = present_maps(output.patch_map.detach(), labels).flatten(2).max(1)  # (B, N)
        regions = F.one_hot(which, labels.shape[1]).movedim(-1, 1) * (best >= HIGH)[:, None]
        unsure = (best >= LOW) & (best < HIGH)
        return (
            soft_margin(classes.mean(-1), labels)
            + soft_margin(output.patch_logits, labels)
            + config.tokens * class_token_contrast(output.class_tokens, torch.ones_like(labels), 0.07)
            + config.reliable * reliable_loss(attention, regions, config.temperature)
            + config.uncertain * uncertain_loss(attention, patches, regions, unsure, config.temperature)
        )

    def find(self, faces: WeakFaces) -> Iterator[Found]:
        """Attention of the class tokens against the constant background of the settings."""
        for fcam in extract(self.network.vit, faces, replace(self.parts.fcam, variant="attention")):
            yield found_in_fcam(fcam, self.settings.theta)


def relations(attention: Tensor, regions: Tensor, temperature: float) -> Tensor:
    """Logarithm of the share of each class in the attention to a patch, among classes with a region.

    Args:
        attention: From class tokens to patches ``(B, K, N)``, positive.
        regions: Reliable patches of each class ``(B, K, N)`` of 0 and 1.
        temperature: Of the softmax.

    Returns:
        ``(B, K, N)``, of no meaning for a class without a region.
    """
    # log s_kj = log softmax_k(log a_kj / τ)
    logits = attention.clamp(min=1e-8).log() / temperature
    return logits.masked_fill(~regions.any(-1)[..., None], NEVER).log_softmax(1)


def reliable_loss(attention: Tensor, regions: Tensor, temperature: float) -> Tensor:
    """Of the attention to a class's reliable patches, its own token should have the largest share.

    Arguments as in :func:`relations`.

    Returns:
        The mean over classes with a region of the mean over its patches, 0 where there is none.
    """
    size = regions.sum(-1)
    # L_r = − mean over (b, k) of mean over reliable j of log s_kj
    terms = -(relations(attention, regions, temperature) * regions).sum(-1) / size.clamp(min=1)
    return terms.sum() / (size > 0).sum().clamp(min=1)


def uncertain_loss(attention: Tensor, patches: Tensor, regions: Tensor, unsure: Tensor, temperature: float) -> Tensor:
    """Classes should share the attention to an uncertain patch as it resembles their reliable regions.

    Arguments as in :func:`relations`, and:

    Args:
        attention: ``(B, K, N)``.
        patches: ``(B, N, d)``.
        regions: ``(B, K, N)``.
        unsure: Uncertain patches ``(B, N)`` bool.
        temperature: Of both softmaxes.

    Returns:
        The mean over uncertain patches, 0 where there is none.
    """
    centres = F.normalize(regions.to(patches.dtype) @ patches, dim=-1)  # (B, K, d)
    likeness = centres @ F.normalize(patches, dim=-1).transpose(1, 2) / temperature  # (B, K, N)
    target = likeness.masked_fill(~regions.any(-1)[..., None], NEVER).softmax(1).detach()
    # L_u = − mean over uncertain j of Σ_k softmax_k(cos(r_k, x_j) / τ) log s_kj
    terms = -(target * relations(attention, regions, temperature)).sum(1)
    return terms[unsure].sum() / unsure.sum().clamp(min=1)

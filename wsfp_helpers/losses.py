"""The losses of paper 3.4, one function per equation (8-16), and the three base losses of MCTformer+.

B pictures, K components, present pairs (b, k) with ``labels[b, k] == 1``; ``v`` are vectors of any length, text vectors
have unit length.  The equations sum over k (and l) and say nothing of the batch; here ``reduction="mean"`` (default)
averages over the present components of a picture, over l, and over pictures, and ``"sum"`` is the equations' literal
sum, averaged over pictures.  Why the mean, and why the logarithm is extended: design notes 2.3, 9.3 and 9.4.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

TANGENT_FROM = 0.05
"""Cosine below which ``-log`` goes on as its tangent."""
CLIMS_MINIMUM, MAXIMUM = 1e-4, 0.9999


@dataclass(frozen=True)
class TcdConfig:
    """Weights of Eq. 10, 14 and 16 (paper 4.1.2), and what the paper leaves open (design notes, section 9).

    ``sim_mode="tangent"`` extends the logarithm linearly below a cosine of 0.05, ``"clims"`` clamps at 1e-4 as CLIMS
    does (no gradient below).  ``negatives="all"`` takes all other K - 1 prompts as non-corresponding, ``"present"``
    only those of the picture's other present components.  ``max_classes_per_image`` renders a random choice of the
    present components (0: all).
    """

    alpha0: float = 1.2
    alpha1: float = 0.2
    beta0: float = 2.1
    beta1: float = 0.1
    beta2: float = 0.017
    reg: float = 0.05
    sim_mode: Literal["tangent", "clims"] = "tangent"
    reduction: Literal["mean", "sum"] = "mean"
    negatives: Literal["all", "present"] = "all"
    max_classes_per_image: int = 0

    @property
    def renders(self) -> bool:
        """Whether any term needs the pictures of Eq. 5 and 6."""
        return any((self.alpha1, self.beta1, self.beta2))


def multilabel_soft_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Multi-label soft margin of ``(B, K)`` logits: mean over classes and pictures (MCTformer+, design notes 1.4)."""
    return F.multilabel_soft_margin_loss(logits, labels.to(logits.dtype))


def contrastive_class_token(class_tokens: Tensor, labels: Tensor) -> Tensor:
    """Contrastive class-token loss of ``(L, B, K, d)`` tokens: each should be nearest to itself (design notes 1.4).

    Cross-entropy over the K x K cosines, no temperature, averaged over the present classes of a picture, layers and
    pictures; absent classes are negatives only.
    """
    unit = F.normalize(class_tokens.float(), dim=-1)
    cosines = unit @ unit.transpose(-1, -2)
    rows = cosines.logsumexp(-1) - cosines.diagonal(dim1=-2, dim2=-1)
    present = labels.to(rows.dtype)
    return ((rows * present).sum(-1) / present.sum(-1).clamp(min=1)).mean()


def positive_class(v_cls: Tensor, text: Tensor, labels: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 8: pull each present class token's ``v_cls`` ``(B, K, D)`` towards its own text ``(K, D)``."""
    own = F.cosine_similarity(v_cls, text, dim=-1)
    return _over_components(_attract(own, config), labels, config)


def positive_foreground(v_ffc: Tensor, text: Tensor, rendered: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 9: pull the foreground ``v_ffc`` ``(B, K, D)`` towards its own text; only ``rendered`` ``(B, K)`` counts."""
    return positive_class(v_ffc, text, rendered, config)


def positive(l_cls: Tensor, l_ffc: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 10: ``alpha0 L_pos^cls + alpha1 L_pos^ffc``."""
    return config.alpha0 * l_cls + config.alpha1 * l_ffc


def negative_class(v_cls: Tensor, text: Tensor, labels: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 11: push each present class token's ``v_cls`` ``(B, K, D)`` away from the texts of the other components."""
    cosines = F.normalize(v_cls, dim=-1) @ F.normalize(text, dim=-1).T
    others = ~torch.eye(len(text), dtype=torch.bool, device=text.device)
    others = others & labels.bool()[:, None, :] if config.negatives == "present" else others.expand_as(cosines)
    terms = _repel(cosines, config) * others
    count = 1 if config.reduction == "sum" else others.sum(-1).clamp(min=1)
    return _over_components(terms.sum(-1) / count, labels, config)


def negative_foreground(v_ffc: Tensor, text: Tensor, rendered: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 12: push the foreground ``v_ffc`` ``(B, K, D)`` away from the texts of the other components."""
    return negative_class(v_ffc, text, rendered, config)


def negative_background(v_bfc: Tensor, text: Tensor, rendered: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 13: push what is left without a component, ``v_bfc`` ``(B, K, D)``, away from that component's text."""
    own = F.cosine_similarity(v_bfc, text, dim=-1)
    return _over_components(_repel(own, config), rendered, config)


def negative(l_cls: Tensor, l_ffc: Tensor, l_bfc: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 14: ``beta0 L_neg^cls + beta1 L_neg^ffc + beta2 L_neg^bfc``."""
    return config.beta0 * l_cls + config.beta1 * l_ffc + config.beta2 * l_bfc


def regularisation(p: Tensor) -> Tensor:
    """Eq. 15: mean of the maps P ``(B, K, h, w)`` in [0, 1] over pixels, all components and pictures."""
    return p.mean()


def total(l_pos: Tensor, l_neg: Tensor, l_reg: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 16: ``L_pos + L_neg + lambda L_reg`` (to which training adds the base losses; design notes 9.1)."""
    return l_pos + l_neg + config.reg * l_reg


def dead_pairs(v_cls: Tensor, text: Tensor, labels: Tensor) -> Tensor:
    """Share of present pairs whose own cosine lies where CLIMS's clamp has no gradient (design notes 2.3)."""
    dead = F.cosine_similarity(v_cls, text, dim=-1) <= CLIMS_MINIMUM
    return (dead & labels.bool()).sum() / labels.sum().clamp(min=1)


def _attract(cosine: Tensor, config: TcdConfig) -> Tensor:
    """``-log(cosine)``, made finite."""
    if config.sim_mode == "clims":
        return -cosine.clamp(CLIMS_MINIMUM, MAXIMUM).log()
    tangent = (TANGENT_FROM - cosine) / TANGENT_FROM - math.log(TANGENT_FROM)
    return torch.where(cosine < TANGENT_FROM, tangent, -cosine.clamp(TANGENT_FROM, MAXIMUM).log())


def _repel(cosine: Tensor, config: TcdConfig) -> Tensor:
    """``-log(1 - cosine)``, without a reward below zero."""
    minimum = CLIMS_MINIMUM if config.sim_mode == "clims" else 0.0
    return -(1 - cosine.clamp(minimum, MAXIMUM)).log()


def _over_components(terms: Tensor, present: Tensor, config: TcdConfig) -> Tensor:
    """Sum or mean of ``(B, K)`` terms over the present components, then the mean over pictures."""
    present = present.to(terms.dtype)
    sums = (terms * present).sum(-1)
    return (sums if config.reduction == "sum" else sums / present.sum(-1).clamp(min=1)).mean()

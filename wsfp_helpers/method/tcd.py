"""Text-guided component disentanglement (TCD): Eq. 5-16, one function each, and the objective of a step (paper 3.4).

Shapes: B pictures, K components, D the width of the image-text model.  ``v_cls``, ``v_ffc`` and ``v_bfc`` are
``(B, K, D)`` of any length, ``text`` is ``(K, D)`` of unit length, ``labels`` and ``rendered`` are ``(B, K)`` of 0 and
1; a pair (b, k) counts where they are 1.

One difference holds for Eq. 8, 9 and 11-13.  They sum over k (and l) and say nothing of the batch; with
``reduction="mean"`` (the default) a loss is the mean over the present components of a picture and over l, then over
pictures, with ``"sum"`` the literal sum, averaged over pictures, and ``"sum_texts"`` lies between: the sum over l and
the mean over present components.  Why the mean, and why the logarithm goes on as its tangent: docs/design.md, 2.3, 9.3
and 9.4.
"""

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from wsfp_helpers.common.configs import check_range
from wsfp_helpers.common.machine import free_memory
from wsfp_helpers.labels import PROMPTS
from wsfp_helpers.method.vit import ClassTokenOutput, patch_attention
from wsfp_helpers.nets.vlm import VisionLanguageModel

TANGENT_FROM = 0.05
"""Cosine below which ``-log`` goes on as its tangent."""
CLIMS_MINIMUM, MAXIMUM = 1e-4, 0.9999
"""Cosines are clamped to these: the lower end is that of CLIMS, the upper keeps ``log(1 - cosine)`` finite."""
PIECE = 128
"""Renders that keep their activations at a time on a CPU.  The 128 of the embedded preset are one piece, so that
nothing is computed twice there."""
SHARE = 0.7
"""Share of a GPU's free memory for these activations; the rest is for renders and gradients."""


@dataclass(frozen=True)
class TcdConfig:
    """Weights of Eq. 10, 14 and 16 (paper 4.1.2), and what the paper leaves open (docs/design.md, 9)."""

    alpha0: float = 1.2
    """Weight of Eq. 8 in Eq. 10."""
    alpha1: float = 0.2
    """Weight of Eq. 9 in Eq. 10."""
    beta0: float = 2.1
    """Weight of Eq. 11 in Eq. 14."""
    beta1: float = 0.1
    """Weight of Eq. 12 in Eq. 14."""
    beta2: float = 0.017
    """Weight of Eq. 13 in Eq. 14."""
    reg: float = 0.05
    """Weight of Eq. 15 in Eq. 16, lambda."""
    sim_mode: Literal["tangent", "clims"] = "tangent"
    """Below a cosine of 0.05 the logarithm goes on as its tangent, or is clamped at 1e-4 as in CLIMS (no gradient)."""
    reduction: Literal["mean", "sum", "sum_texts"] = "mean"
    """Over present components k and texts l: means, the sums of the equations, or a mean over k of sums over l."""
    negatives: Literal["all", "present"] = "all"
    """Non-corresponding prompts l: all other K - 1, or only those of the picture's other present components."""
    max_classes_per_image: int = 0
    """Renders a random choice of so many present components of each picture (0: all)."""

    def __post_init__(self) -> None:
        weights = ("alpha0", "alpha1", "beta0", "beta1", "beta2", "reg")
        check_range(self, max_classes_per_image=(0, 1000), **dict.fromkeys(weights, (0, 10**4)))

    @property
    def renders(self) -> bool:
        """Whether any term needs the pictures of Eq. 5 and 6."""
        return any((self.alpha1, self.beta1, self.beta2))


def foreground(x: Tensor, p: Tensor) -> Tensor:
    """Eq. 5: what a map cuts out of a picture, to be encoded as ``v_ffc^k = ε_v(x̂ · P_k)``.

    The picture is normalised first, so what is masked takes the mean colour (docs/design.md, 2.1).

    Args:
        x: Normalised pictures ``(n, 3, S, S)``.
        p: One map each, ``(n, 1, S, S)`` in [0, 1].

    Returns:
        ``(n, 3, S, S)``.
    """
    return x * p


def background(x: Tensor, p: Tensor) -> Tensor:
    """Eq. 6: what is left of a picture without a map, to be encoded as ``v_bfc^k = ε_v(x̂ · (1 − P_k))``.

    Shapes as :func:`foreground`.
    """
    return x * (1 - p)


def positive_class(v_cls: Tensor, text: Tensor, labels: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 8: pull each present class token towards its own text."""
    # L_pos^cls = − Σ_k ŷ_k · log sim(v_cls^k, v_txt^k)
    return _over_components(attract(F.cosine_similarity(v_cls, text, dim=-1), config), labels, config)


def positive_foreground(v_ffc: Tensor, text: Tensor, rendered: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 9: pull what a map cuts out towards the component's own text; only ``rendered`` pairs count."""
    # L_pos^ffc = − Σ_k ŷ_k · log sim(v_ffc^k, v_txt^k)
    return _over_components(attract(F.cosine_similarity(v_ffc, text, dim=-1), config), rendered, config)


def positive(l_cls: Tensor, l_ffc: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 10: the positive alignment, minimised: the paper's "maximising" is a slip (docs/design.md, 9.2)."""
    # L_pos = α₀ L_pos^cls + α₁ L_pos^ffc
    return config.alpha0 * l_cls + config.alpha1 * l_ffc


def negative_class(v_cls: Tensor, text: Tensor, labels: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 11: push each present class token away from the texts of the other components."""
    # L_neg^cls = − Σ_k Σ_l ŷ_k · log(1 − sim(v_cls^k, v_txt^{k,l}))
    return _over_components(_repel_others(v_cls, text, labels, config), labels, config)


def negative_foreground(v_ffc: Tensor, text: Tensor, rendered: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 12: push what a map cuts out away from the texts of the other components."""
    # L_neg^ffc = − Σ_k Σ_l ŷ_k · log(1 − sim(v_ffc^k, v_txt^{k,l}))
    return _over_components(_repel_others(v_ffc, text, rendered, config), rendered, config)


def negative_background(v_bfc: Tensor, text: Tensor, rendered: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 13: push what is left without a component away from that component's text."""
    # L_neg^bfc = − Σ_k ŷ_k · log(1 − sim(v_bfc^k, v_txt^k))
    return _over_components(repel(F.cosine_similarity(v_bfc, text, dim=-1), config), rendered, config)


def negative(l_cls: Tensor, l_ffc: Tensor, l_bfc: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 14: the negative alignment."""
    # L_neg = β₀ L_neg^cls + β₁ L_neg^ffc + β₂ L_neg^bfc
    return config.beta0 * l_cls + config.beta1 * l_ffc + config.beta2 * l_bfc


def regularisation(p: Tensor) -> Tensor:
    """Eq. 15: the mean area of the maps P ``(B, K, h, w)`` in [0, 1], over all components, present or not."""
    # L_reg = 1/K Σ_k S_k,  S_k = 1/(HW) Σ_h Σ_w P_k(h, w)
    return p.mean()


def total(l_pos: Tensor, l_neg: Tensor, l_reg: Tensor, config: TcdConfig) -> Tensor:
    """Eq. 16: the overall objective, to which training adds the three base losses (docs/design.md, 9.1)."""
    # L = L_pos + L_neg + λ L_reg
    return l_pos + l_neg + config.reg * l_reg


def attract(cosine: Tensor, config: TcdConfig) -> Tensor:
    """``-log(cosine)``, made finite."""
    if config.sim_mode == "clims":
        return -cosine.clamp(CLIMS_MINIMUM, MAXIMUM).log()
    tangent = (TANGENT_FROM - cosine) / TANGENT_FROM - math.log(TANGENT_FROM)
    return torch.where(cosine < TANGENT_FROM, tangent, -cosine.clamp(TANGENT_FROM, MAXIMUM).log())


def repel(cosine: Tensor, config: TcdConfig) -> Tensor:
    """``-log(1 - cosine)``, without a reward below zero."""
    minimum = CLIMS_MINIMUM if config.sim_mode == "clims" else 0.0
    return -(1 - cosine.clamp(minimum, MAXIMUM)).log()


def _repel_others(v: Tensor, text: Tensor, present: Tensor, config: TcdConfig) -> Tensor:
    """``(B, K)``: the terms of a component's vector and every other text, summed or averaged over l."""
    cosines = F.normalize(v, dim=-1) @ F.normalize(text, dim=-1).T  # (B, K, K)
    others = ~torch.eye(len(text), dtype=torch.bool, device=text.device)
    others = others & present.bool()[:, None, :] if config.negatives == "present" else others.expand_as(cosines)
    terms = (repel(cosines, config) * others).sum(-1)
    return terms / others.sum(-1).clamp(min=1) if config.reduction == "mean" else terms


def _over_components(terms: Tensor, present: Tensor, config: TcdConfig) -> Tensor:
    """Sum or mean of ``(B, K)`` terms over the present components, then the mean over pictures."""
    present = present.to(terms.dtype)
    sums = (terms * present).sum(-1)
    return (sums if config.reduction == "sum" else sums / present.sum(-1).clamp(min=1)).mean()


def soft_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Base loss: multi-label soft margin of ``(B, K)`` logits, mean over classes and pictures (docs/design.md, 1.4)."""
    return F.multilabel_soft_margin_loss(logits, labels.to(logits.dtype))


def class_token_contrast(class_tokens: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Base loss: each of the class tokens ``(L, B, K, d)`` should be nearest to itself (docs/design.md, 1.4).

    Cross-entropy over the K x K cosines (MCTformer+ has no temperature, MoRe has), averaged over the present classes
    of a picture, layers and pictures; absent classes are negatives only.
    """
    unit = F.normalize(class_tokens.float(), dim=-1)
    cosines = unit @ unit.transpose(-1, -2) / temperature
    rows = cosines.logsumexp(-1) - cosines.diagonal(dim1=-2, dim2=-1)
    present = labels.to(rows.dtype)
    return ((rows * present).sum(-1) / present.sum(-1).clamp(min=1)).mean()


def dead_pairs(v_cls: Tensor, text: Tensor, labels: Tensor) -> Tensor:
    """Share of present pairs whose own cosine lies where CLIMS's clamp has no gradient (docs/design.md, 2.3)."""
    dead = F.cosine_similarity(v_cls, text, dim=-1) <= CLIMS_MINIMUM
    return (dead & labels.bool()).sum() / labels.sum().clamp(min=1)


class Objective:
    """The loss of a step: the base losses of MCTformer+ and Eq. 8-16, with every term for the log.

    The image-text model sees the renders inside ``autocast()``; cosines and losses are float32 at every precision.
    ``share`` is as of :func:`sample_components`.
    """

    def __init__(
        self,
        tcd: TcdConfig | None,
        vlm: VisionLanguageModel | None = None,
        base: bool = True,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        share: tuple[int, slice] | None = None,
    ) -> None:
        if tcd is not None and vlm is None:
            raise ValueError("TCD needs an image-text model: pass vlm=, or tcd=None for the baseline")
        self.tcd, self.vlm, self.base, self.autocast, self.share = tcd, vlm, base, autocast, share
        self.piece: int | None = None
        """Renders that keep their activations at a time, as the first step finds them to fit."""

    def __call__(
        self, output: ClassTokenOutput, v_cls: Tensor | None, picture: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms by name.

        Args:
            output: What the ViT says.
            v_cls: Projected class tokens ``(B, K, D)`` (Eq. 3), or ``None`` without TCD.
            picture: What the image-text model is shown, ``(B, 3, S, S)`` in [0, 1].
            labels: ``(B, K)``.
        """
        terms: dict[str, Tensor] = {}
        loss = output.patch_map.new_zeros((), dtype=torch.float32)
        if self.base:
            terms["class_mlsm"] = soft_margin(output.class_logits.float(), labels)
            terms["contrast"] = class_token_contrast(output.class_tokens, labels)
            terms["patch_mlsm"] = soft_margin(output.patch_logits.float(), labels)
            loss = terms["class_mlsm"] + terms["contrast"] + terms["patch_mlsm"]
        if self.tcd is not None:
            assert self.vlm is not None and v_cls is not None, (
                "TCD needs an image-text model and projected class tokens"
            )
            p = patch_attention(output.patch_map)
            if self.piece is None and self.tcd.renders:
                with self.autocast():
                    self.piece = fitting_renders(self.vlm, p.device)
            rendered = sample_components(labels, self.tcd.max_classes_per_image, self.share)
            tcd, more = _text_guided(
                self.tcd, self.vlm, p, v_cls.float(), picture, labels, rendered, self.autocast, self.piece
            )
            loss, terms = loss + tcd, terms | more
        return loss, {"loss": loss} | terms


def _text_guided(
    tcd: TcdConfig,
    vlm: VisionLanguageModel,
    p: Tensor,
    v_cls: Tensor,
    picture: Tensor,
    labels: Tensor,
    rendered: Tensor,
    autocast: Callable[[], AbstractContextManager],
    piece: int | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 16 and its terms by name; those with weight 0 are not computed."""
    text, zero = vlm.text(PROMPTS), p.new_zeros(())
    terms = {
        "pos_cls": positive_class(v_cls, text, labels, tcd) if tcd.alpha0 else zero,
        "pos_ffc": zero,
        "neg_cls": negative_class(v_cls, text, labels, tcd) if tcd.beta0 else zero,
        "neg_ffc": zero,
        "neg_bfc": zero,
        "reg": regularisation(p),
    }
    if tcd.renders:
        wanted = bool(tcd.alpha1 or tcd.beta1), bool(tcd.beta2)
        with autocast():
            v_ffc, v_bfc = encode_renders(p, picture, rendered, vlm, *wanted, piece=piece)
        if v_ffc is not None:
            terms["pos_ffc"] = positive_foreground(v_ffc, text, rendered, tcd)
            terms["neg_ffc"] = negative_foreground(v_ffc, text, rendered, tcd)
        if v_bfc is not None:
            terms["neg_bfc"] = negative_background(v_bfc, text, rendered, tcd)
    l_pos = positive(terms["pos_cls"], terms["pos_ffc"], tcd)
    l_neg = negative(terms["neg_cls"], terms["neg_ffc"], terms["neg_bfc"], tcd)
    with torch.no_grad():
        terms["dead"] = dead_pairs(v_cls, text, labels)
    return total(l_pos, l_neg, terms["reg"], tcd), terms


def sample_components(labels: Tensor, most: int, share: tuple[int, slice] | None = None) -> Tensor:
    """Present components ``(B, K)`` to render: all of them, or a random ``most`` of each picture (``most`` > 0).

    ``share`` is the number of pictures of a batch and the places of these B among them, where several processes share
    it: a picture's choice is then that of one process that has all.
    """
    present = labels.bool()
    if not most:
        return present
    count, own = share or (len(labels), slice(None))
    drawn = torch.rand((count, labels.shape[1]), device=labels.device)[own]
    return present & (torch.where(present, drawn, 2.0).argsort(-1).argsort(-1) < most)


def encode_renders(
    p: Tensor,
    picture: Tensor,
    rendered: Tensor,
    vlm: VisionLanguageModel,
    with_foreground: bool = True,
    with_background: bool = True,
    piece: int | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """``v_ffc`` and ``v_bfc`` ``(B, K, D)`` of the ``rendered`` pairs, zero elsewhere; ``None`` for one not wanted.

    Args:
        p: Maps ``(B, K, h, w)`` in [0, 1], enlarged here to the side S of the image-text model.
        picture: ``(B, 3, s, s)`` in [0, 1].
        rendered: Pairs ``(B, K)`` bool.
        vlm: The image-text model.
        with_foreground: Encode Eq. 5.
        with_background: Encode Eq. 6.
        piece: Renders that keep their activations at a time (default: :data:`PIECE`).
    """
    image, component = rendered.nonzero(as_tuple=True)  # n pairs
    shown = F.interpolate(p[image, component][:, None], (vlm.size, vlm.size), mode="bilinear", align_corners=False)
    prepared = vlm.prepare(picture)[image]  # (n, 3, S, S)
    parts = [foreground(prepared, shown)] if with_foreground else []
    parts += [background(prepared, shown)] if with_background else []
    vectors = list(_encode(torch.cat(parts), vlm, piece or PIECE).split(len(image)))

    def spread() -> Tensor:
        vector = vectors.pop(0)
        return vector.new_zeros(*rendered.shape, vector.shape[-1]).index_put((image, component), vector)

    return spread() if with_foreground else None, spread() if with_background else None


def _encode(renders: Tensor, vlm: VisionLanguageModel, piece: int) -> Tensor:
    """Vectors ``(n, D)`` of ``(n, 3, S, S)`` renders; if there are several pieces, backward encodes each once more."""
    pieces = renders.split(piece)
    if len(pieces) == 1:
        return vlm.encode_image(renders)
    return torch.cat([checkpoint(vlm.encode_image, each, use_reentrant=False) for each in pieces])


def fitting_renders(vlm: VisionLanguageModel, where: torch.device) -> int:
    """Renders whose activations fit into the free memory of a GPU, which is said; :data:`PIECE` on a CPU.

    FLIP-B/16 keeps 99 MiB of each in float32, and a full-size step has about 864 of them (docs/full_size.md).
    """
    free = free_memory(where)
    if free is None:
        return PIECE
    each = kept_bytes(vlm, 2) - kept_bytes(vlm, 1)
    count = max(1, int(SHARE * free / each))
    sizes = f"each keeps {each / 2**20:.0f} MiB, {free / 2**30:.1f} GiB are free"
    tqdm.write(f"up to {count} renders are encoded at a time: {sizes}", file=sys.stderr)
    return count


def kept_bytes(vlm: VisionLanguageModel, count: int) -> int:
    """Bytes that autograd keeps of the encoding of ``count`` renders for backward, beside the weights."""
    weights = {each.untyped_storage().data_ptr() for each in vlm.clip.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    renders = torch.zeros(count, 3, vlm.size, vlm.size, device=vlm.mean.device, requires_grad=True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        vectors = vlm.encode_image(renders)
    del vectors  # until here it keeps what was counted
    return sum(kept.values())

"""CLIP-ES (Lin et al., CVPR 2023): gradient maps of a frozen image-text model, without any training.

Kept: the softmax over present components and background texts, whose gradient at the first LayerNorm of the last block
weighs the channels (GradCAM); the class-aware affinity of the attention; the background score (1 - max)^alpha.
Reduced: the conditional random field and the confidence-guided loss, as the paper compares without post-processing.
Supervision: image-level labels and texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsfp_helpers.common.machine import device
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import PROMPTS
from wsfp_helpers.nets.dense import DenseModel, Places, finish_block, run_block
from wsfp_helpers.systems.base import Batches, Found, Parts, System, in_order
from wsfp_helpers.systems.refine import balanced, spread


@dataclass(frozen=True)
class ClipEsConfig:
    """How CLIP-ES reads its maps."""

    alpha: float = 1.0
    """Power of the background score: larger means less background."""
    box: float = 0.4
    """Share of a map's maximum around which its box is drawn."""
    blocks: int = 1
    """Blocks from the end in whose first the gradient is taken: the last one, as in CLIP-ES, or an earlier one."""
    layers: int = 8
    """Last blocks whose attention is averaged (all, where there are fewer)."""
    steps: int = 2
    """Steps of a map along the affinity."""


class ClipEs(System):
    """CLIP-ES on the image-text model that can be asked about places."""

    title, paper, supervision = "CLIP-ES", "Lin et al., CVPR 2023", "I+L"
    models = ("dense",)
    reads = ("alpha", "box", "blocks", "layers", "steps")
    chosen = 3
    tried = (ClipEsConfig(), ClipEsConfig(blocks=2), ClipEsConfig(blocks=2, box=0.7), ClipEsConfig(blocks=2, steps=0))

    def __init__(self, parts: Parts, settings: ClipEsConfig, seed: int = 0) -> None:
        super().__init__(parts, settings, seed)
        self.dense = parts.dense().to(device())

    def fit(self, faces: WeakFaces, folder: Path | None = None) -> None:
        """Do nothing: CLIP-ES has nothing to train."""

    def find(self, faces: WeakFaces) -> Iterator[Found]:
        """Maps in [0, 1] on the grid of the image-text model, and (1 - max)^alpha as the background."""
        for batch, sizes in in_order(faces, Batches(faces, self.dense.inputs, 8, 8)):
            with torch.no_grad():
                places = self.dense(batch.inputs)
            for i, size in enumerate(sizes):
                present = batch.labels[i].nonzero()[:, 0]
                maps = read_maps(self.dense, places, i, present, self.settings)
                back = (1 - maps.amax(0)) ** self.settings.alpha
                yield Found(faces.ids[batch.index[i]], present.cpu().numpy(), maps.cpu(), back.cpu(), size)


def read_maps(dense: DenseModel, places: Places, i: int, present: Tensor, config: ClipEsConfig) -> Tensor:
    """Maps ``(P, h, w)`` in [0, 1] of the ``present`` components ``(P,)`` of picture ``i``."""
    texts = torch.cat([dense.text(PROMPTS)[present], dense.text(dense.background)])
    entering = torch.stack([tokens[i] for tokens in places.tokens[-1 - config.blocks : -1]])
    maps = gradient_maps(dense, entering, texts, len(present)).view(-1, *places.grid)
    attention = places.attention[-config.layers :, i, 1:, 1:].mean(0)
    return scaled(spread(maps, balanced(attention), config.box, config.steps))


def gradient_maps(dense: DenseModel, entering: Tensor, texts: Tensor, count: int) -> Tensor:
    """GradCAM maps ``(count, N)``, not negative, of the first ``count`` of ``texts`` ``(n, D)``.

    The score of a text is its share in the softmax over all of them, so what another text explains better is taken
    away.

    Args:
        dense: The image-text model.
        entering: Tokens ``(b, 1 + N, d)`` that enter each of the last b blocks; the gradient is taken in their first.
        texts: Unit-length vectors.
        count: Texts of components, before those of the background.

    Returns:
        Scaled to [0, 1] by :func:`scaled`.
    """
    first, *later = dense.visual.transformer.resblocks[-len(entering) :]
    with torch.enable_grad():
        x = entering[:1].detach()
        normed = first.ln_1(x).detach().requires_grad_()
        leaving, _ = finish_block(first, x, normed)
        for block in later:
            leaving, _ = run_block(block, leaving)
        share = (dense.scale * dense.vector(leaving) @ texts.T).softmax(-1)[0, :count]
        every = torch.eye(count, device=share.device)
        (gradient,) = torch.autograd.grad(share, normed, every, is_grads_batched=True)  # (count, 1, 1 + N, d)
    # w = mean over places of ∂ share_k / ∂ a,  map_k = ReLU(Σ_channels w · a)
    weights = gradient[:, 0, 1:].mean(1, keepdim=True)
    return scaled((weights * normed.detach()[:, 1:]).sum(-1).relu())


def scaled(maps: Tensor) -> Tensor:
    """Maps ``(P, ...)``, each from 0 to 1."""
    flat = maps.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    shape = (-1, *[1] * (maps.ndim - 1))
    return (maps - low.view(shape)) / (high - low + 1e-8).view(shape)

"""WeakCLIP (Zhu et al., IJCV 2024): the pseudo labels of another system, seen again through texts that are learned.

Kept: the frozen image-text model; eight context vectors that are learned in place of the words of a prompt; the
similarity of every patch with every text (temperature 0.07), which is taught itself (identity loss, 0.4) and goes on
into a pyramid of the tower's features; a decoder on it; the pseudo labels of the baseline as teachers.
Reduced: the decoder that lets texts look at the picture, the graph head, the conditional random field.
Supervision: image-level labels and texts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsfp_helpers.common.machine import device
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK, K
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.parsing.fit import FitConfig, optimise, segmentation_loss
from wsfp_helpers.systems.base import Batch, Batches, Found, Parts, System, found_in_probabilities, in_order

TEMPERATURE = 0.07
"""Of the similarity between patches and texts."""


@dataclass(frozen=True)
class WeakClipConfig:
    """Texts, decoder and training, and what ``val`` may choose."""

    lr: float = 2e-3
    """Learning rate."""
    theta: float = 0.5
    """Background threshold of the baseline's pseudo labels."""
    context: int = 8
    """Learned vectors before the words of a class."""
    width: int = 96
    """Channels of the pyramid."""
    identity: float = 0.4
    """Weight of the loss of the similarities themselves."""


class LearnedTexts(nn.Module):
    """Text vectors of all classes, the background first, after context vectors that are learned.

    Args:
        clip: open_clip's ``CLIP``, whose text tower stays frozen and outside this module.
        tokenize: From words to token ids ``(n, L)``, the end having the highest id.
        words: Words of the classes.
        count: Context vectors, which follow the start of the text.
    """

    ids: Tensor

    def __init__(self, clip: Any, tokenize: Any, words: Sequence[str], count: int) -> None:
        super().__init__()
        self._clip = (clip,)  # in a tuple, so that it is no part of this module
        self.register_buffer("ids", tokenize(list(words)), persistent=False)
        self.context = nn.Parameter(0.02 * torch.randn(count, clip.token_embedding.embedding_dim))

    def forward(self) -> Tensor:
        """Unit-length vectors ``(n, D)``."""
        clip, count = self._clip[0], len(self.context)
        words = clip.token_embedding(self.ids)  # (n, L, d)
        given = self.context.expand(len(words), -1, -1)
        x = torch.cat([words[:, :1], given, words[:, 1 : self.ids.shape[1] - count]], 1)
        x = clip.ln_final(clip.transformer(x + clip.positional_embedding, attn_mask=clip.attn_mask))
        ends = self.ids.argmax(1) + count
        return F.normalize(x[torch.arange(len(x)), ends] @ clip.text_projection, dim=-1)


class Pyramid(nn.Module):
    """Class scores from the tokens of a frozen tower and the similarities with texts, on three scales.

    Args:
        inputs: Width of the tokens.
        width: Of the pyramid.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            [
                nn.ConvTranspose2d(inputs, width, 2, 2),
                nn.Conv2d(inputs, width, 1),
                nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(inputs, width, 1)),
            ]
        )
        self.join = nn.ModuleList(nn.Conv2d(width + K + 1, width, 3, padding=1) for _ in self.scales)
        self.classify = nn.Sequential(nn.GELU(), nn.Conv2d(width, K + 1, 1))

    def forward(self, grid: Tensor, similarity: Tensor) -> Tensor:
        """Scores ``(B, K + 1, 2 h, 2 w)`` of tokens ``(B, d, h, w)`` and similarities ``(B, K + 1, h, w)``."""
        size = (2 * grid.shape[-2], 2 * grid.shape[-1])
        joined = torch.zeros(())
        for scale, join in zip(self.scales, self.join, strict=True):
            x = scale(grid)
            seen = F.interpolate(similarity, x.shape[-2:], mode="bilinear", align_corners=False)
            joined = joined + F.interpolate(join(torch.cat([x, seen], 1)), size, mode="bilinear", align_corners=False)
        return self.classify(joined)


class WeakClip(System):
    """WeakCLIP, taught by the baseline."""

    title, paper, supervision = "WeakCLIP", "Zhu et al., IJCV 2024", "I+L"
    models = ("dense",)
    tried = (WeakClipConfig(), WeakClipConfig(lr=5e-4), WeakClipConfig(theta=0.7), WeakClipConfig(identity=0.0))
    settings: WeakClipConfig
    network: nn.ModuleDict
    texts: LearnedTexts

    def __init__(self, parts: Parts, settings: WeakClipConfig, seed: int = 0) -> None:
        super().__init__(parts, settings, seed)
        self.dense = parts.dense()
        vlm = self.dense.vlm
        self.texts = LearnedTexts(vlm.clip, vlm.tokenize, CELEBAMASK.words, settings.context)
        self.network = nn.ModuleDict({"texts": self.texts, "pyramid": Pyramid(self.dense.width, settings.width)})

    def fit(self, faces: WeakFaces, folder: Path | None = None) -> None:
        """Make the pseudo labels of the baseline with this seed, and learn from them."""
        vit = self.parts.trained_vit(False, 1.0, self.seed).to(device())
        found = extract(vit, faces, self.parts.fcam)
        side = 2 * self.dense.size // self.dense.patch
        labels = np.stack([pseudo_label(fcam, self.settings.theta, (side, side)) for fcam in found])
        batches = Batches(faces, self.dense.inputs, self.parts.batch, 8, self.seed)
        steps = self.parts.epochs * batches.per_epoch
        config = FitConfig(steps, self.parts.batch, self.settings.lr, "adamw", 0.01, warmup=steps // 10)
        self.network.to(device())

        def loss_at(_: nn.Module, step: int) -> Tensor:
            batch = batches(step)
            return self.loss(batch, torch.from_numpy(labels[batch.index]).long().to(batch.inputs.device))

        optimise(self.network, loss_at, config, seed=self.seed, folder=folder, desc=self.title)

    def loss(self, batch: Batch, targets: Tensor) -> Tensor:
        """Cross-entropy of the decoder and of the similarities with the pseudo labels ``(B, S, S)`` int64."""
        scores, similarity = self.read(batch)
        # L = CE(decoder) + 0.4 CE(patch · text / τ)
        return segmentation_loss(scores, targets) + self.settings.identity * segmentation_loss(similarity, targets)

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores ``(B, K + 1, 2 h, 2 w)`` and similarities ``(B, K + 1, h, w)`` over the temperature."""
        with torch.no_grad():
            places = self.dense(batch.inputs)
            patches = self.dense.patches(places.tokens[-1])
        similarity = patches @ self.texts().T / TEMPERATURE
        grids = [x.transpose(1, 2).unflatten(2, places.grid) for x in (places.tokens[-1][:, 1:], similarity)]
        return self.network["pyramid"](*grids), grids[1]

    @torch.no_grad()
    def find(self, faces: WeakFaces) -> Iterator[Found]:
        """Probabilities of the decoder."""
        for batch, sizes in in_order(faces, Batches(faces, self.dense.inputs, 8, 8)):
            probabilities = self.read(batch)[0].softmax(1)
            for i, size in enumerate(sizes):
                yield found_in_probabilities(faces.ids[batch.index[i]], probabilities[i], batch.labels[i], size)

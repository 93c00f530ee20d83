"""WeCLIP (Zhang et al., CVPR 2024) and WeCLIP+ (TPAMI 2025): a small decoder on frozen towers, taught by CLIP-ES.

Kept of WeCLIP: the features of all blocks of a frozen image-text model, each through a small MLP, fused by a
convolution and read by a few transformer layers; labels from CLIP-ES's gradient maps, refined by pixel-adaptive
refinement and, from the middle of the training on, by the affinity that the decoder has learned; cross-entropy plus 0.1
times the affinity loss.  Kept of WeCLIP+: DINOv2 as a second frozen branch (here the trunk), two decoders that teach
each other (0.1), a Dice loss, and from 60 % of the training on its own labels where it is sure (0.75).
Reduced: two transformer layers in place of three, on one scale; the gradient maps of a picture do not change, so they
are read once.  The learned affinity takes the place of the attention, where the original picks attention maps that are
near to it; what a step along it gives is added to the map.
Supervision: image-level labels and texts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.checkpoints import fingerprint, read_weights, save_weights
from wsfp_helpers.common.configs import key_of
from wsfp_helpers.common.machine import device
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import IGNORE, K
from wsfp_helpers.nets.trunk import Trunk, load_trunk
from wsfp_helpers.parsing.fit import FitConfig, optimise, segmentation_loss
from wsfp_helpers.systems.base import Batch, Batches, Found, Parts, System, found_in_probabilities, in_order, of_present
from wsfp_helpers.systems.clip_es import ClipEsConfig, read_maps, scaled
from wsfp_helpers.systems.refine import adaptive_weights, refine, spread

DILATIONS = (1, 2, 4)
"""Of the refinement: at two pixels a token they reach as far as CLIP-ES's own at full size."""
SELF_LABELS = 0.6
"""Share of the training after which WeCLIP+ also learns from its own sure labels (18,000 of 30,000 steps)."""


@dataclass(frozen=True)
class WeClipConfig:
    """Decoder and training, and what ``val`` may choose."""

    lr: float = 2e-3
    """Learning rate."""
    maps: ClipEsConfig = field(default_factory=lambda: ClipEsConfig(blocks=2, steps=0))
    """How the labels are read from the image-text model."""
    margin: float = 0.02
    """Pixels whose best two scores are nearer than this are left out."""
    width: int = 128
    """Channels of the decoder."""
    layers: int = 2
    """Its transformer layers."""
    affinity: float = 0.1
    """Weight of the affinity loss."""
    dice: float = 0.5
    """Weight of WeCLIP+'s Dice loss."""
    teach: float = 0.1
    """Weight of what each of WeCLIP+'s decoders learns from the other."""
    sure: float = 0.75
    """Probability from which WeCLIP+ takes its own label."""


class FrozenDecoder(nn.Module):
    """From the tokens of all blocks of a frozen tower to class scores.

    Args:
        inputs: Width of the tokens.
        blocks: Blocks whose tokens come in.
        width: Of the decoder.
        layers: Its transformer layers.
    """

    def __init__(self, inputs: int, blocks: int, width: int, layers: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.fuse = nn.Conv2d(blocks * width, width, 1)
        self.decode = nn.Sequential(*(Block(width, 4) for _ in range(layers)))
        self.classify = nn.Conv2d(width, K + 1, 1)

    def forward(self, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores ``(B, K + 1, h, w)`` and fused features ``(B, N, width)`` of patch tokens ``(B, N, d)`` by block."""
        side = round(tokens[0].shape[1] ** 0.5)
        joined = torch.cat([mlp(x) for mlp, x in zip(self.each, tokens, strict=True)], -1)
        fused = self.fuse(joined.transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)
        read = self.decode(fused).transpose(1, 2).unflatten(2, (side, side))
        return self.classify(read), fused


class WeClip(System):
    """WeCLIP: one decoder, on the image-text model."""

    title, paper, supervision = "WeCLIP", "Zhang et al., CVPR 2024", "I+L"
    models = ("dense",)
    tried = (
        WeClipConfig(), WeClipConfig(lr=5e-4), WeClipConfig(maps=ClipEsConfig(alpha=0.5, blocks=2, steps=0)),
        WeClipConfig(maps=ClipEsConfig(blocks=2)),
    )  # fmt: skip
    settings: WeClipConfig
    network: nn.Module
    ids: Sequence[str]
    """Of the training pictures."""

    def __init__(self, parts: Parts, settings: WeClipConfig, seed: int = 0) -> None:
        super().__init__(parts, settings, seed)
        self.dense = parts.dense().to(device())
        blocks = len(self.dense.visual.transformer.resblocks)
        self.network = FrozenDecoder(self.dense.width, blocks, settings.width, settings.layers)
        self.maps: dict[int, Tensor] = {}
        self.steps = 0
        self.folder = cache_dir() / "clip_es"

    def fit(self, faces: WeakFaces, folder: Path | None = None) -> None:
        """Train the decoder, as long as the profile trains its own network."""
        batches = Batches(
            faces, self.dense.inputs, self.parts.batch, 2 * self.dense.size // self.dense.patch, self.seed
        )
        self.steps, self.maps = self.parts.epochs * batches.per_epoch, {}
        read = replace(self.settings.maps, alpha=1.0)  # the background's power is applied to maps that were read
        made_of = {"data": faces.name, "model": fingerprint(self.dense.vlm.clip), "maps": read}
        self.folder = cache_dir() / "clip_es" / key_of(made_of)
        self.ids = faces.ids
        self.network.to(device())
        config = FitConfig(self.steps, self.parts.batch, self.settings.lr, "adamw", 0.01, warmup=self.steps // 10)
        optimise(
            self.network, lambda _, step: self.loss(batches(step), step), config,
            seed=self.seed, folder=folder, desc=self.title,
        )  # fmt: skip

    def loss(self, batch: Batch, step: int) -> Tensor:
        """Cross-entropy with the labels that CLIP-ES gives, and the affinity loss."""
        scores, fused, targets = self.read(self.network, batch, step, self.patches(batch))
        affinity = affinity_loss(learned_affinity(fused), small(targets, scores.shape[-2:]).flatten(1))
        return segmentation_loss(scores, targets) + self.settings.affinity * affinity

    def read(
        self, decoder: nn.Module, batch: Batch, step: int, tokens: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores and features of a decoder, and the labels ``(B, S, S)`` of a step that it is taught."""
        scores, fused = decoder(tokens)
        late = step >= self.steps / 2
        affinity = learned_affinity(fused.detach()) if late else [None] * len(fused)
        return scores, fused, torch.stack([self.label(batch, i, affinity[i]) for i in range(len(fused))])

    @torch.no_grad()
    def patches(self, batch: Batch) -> list[Tensor]:
        """Patch tokens ``(B, N, d)`` of all blocks; the gradient maps of pictures that are new are read as well.

        Maps do not depend on the training: they are kept in the cache, for other seeds and settings.
        """
        places = self.dense(batch.inputs)
        for i, index in enumerate(batch.index.tolist()):
            if index in self.maps:
                continue
            path = self.folder / f"{self.ids[index]}.safetensors"
            if not path.exists():
                present = batch.labels[i].nonzero()[:, 0]
                maps = read_maps(self.dense, places, i, present, self.settings.maps)
                save_weights(path, {"maps": maps.half()})
            stored = read_weights(path, "maps of CLIP-ES", "remove it: it will be made again")
            self.maps[index] = stored["maps"].float().to(batch.inputs.device)
        return [tokens[:, 1:] for tokens in places.tokens[1:]]

    @torch.no_grad()
    def label(self, batch: Batch, i: int, affinity: Tensor | None) -> Tensor:
        """Label ``(S, S)`` int64 of picture ``i``: the strongest refined map or the background, 255 where unsure.

        With ``affinity`` ``(N, N)`` each map is first joined by what a step along it gives.
        """
        maps, present = self.maps[int(batch.index[i])], batch.labels[i].nonzero()[:, 0]
        if affinity is not None:
            # M ← M + Â M.  The attention that the original adds to Â looks at its own place above all; Â alone says
            # "alike" of most pairs, and of maps that are all the same none can be told from the others.
            walked = spread(maps, affinity / affinity.sum(-1, keepdim=True), self.settings.maps.box, 1)
            maps = scaled(maps + walked / (walked.amax((1, 2), keepdim=True) + 1e-8))
        stack = torch.cat([(1 - maps.amax(0, keepdim=True)) ** self.settings.maps.alpha, maps])[None]
        picture = batch.pictures[i : i + 1]
        stack = F.interpolate(stack, picture.shape[-2:], mode="bilinear", align_corners=False)
        refined = refine(stack, adaptive_weights(picture, DILATIONS), DILATIONS)[0]
        (best, second), which = refined.topk(2, 0).values, refined.argmax(0)
        names = torch.cat([present.new_zeros(1), present + 1])
        return torch.where(best - second < self.settings.margin, IGNORE, names[which])

    @torch.no_grad()
    def find(self, faces: WeakFaces) -> Iterator[Found]:
        """Probabilities of the decoder."""
        for batch, sizes in in_order(faces, Batches(faces, self.dense.inputs, 8, 8)):
            probabilities = self.probabilities(batch)
            for i, size in enumerate(sizes):
                yield found_in_probabilities(faces.ids[batch.index[i]], probabilities[i], batch.labels[i], size)

    def probabilities(self, batch: Batch) -> Tensor:
        """``(B, K + 1, h, w)``."""
        tokens = [tokens[:, 1:] for tokens in self.dense(batch.inputs).tokens[1:]]
        return self.network(tokens)[0].softmax(1)


class WeClipPlus(WeClip):
    """WeCLIP+: a second decoder on DINOv2's features, and the two teach each other."""

    title, paper = "WeCLIP+", "Zhang et al., TPAMI 2025"
    network: nn.ModuleDict

    def __init__(self, parts: Parts, settings: WeClipConfig, seed: int = 0) -> None:
        super().__init__(parts, settings, seed)
        self.trunk: Trunk = load_trunk().to(device())
        second = FrozenDecoder(self.trunk.width, 1, settings.width, settings.layers)
        self.network = nn.ModuleDict({"clip": self.network, "dino": second})

    def loss(self, batch: Batch, step: int) -> Tensor:
        """The losses of WeCLIP and Dice for both decoders, and what each learns from the other."""
        config, losses, both = self.settings, [], []
        for name, tokens in (("clip", self.patches(batch)), ("dino", [self.seen(batch)])):
            scores, fused, targets = self.read(self.network[name], batch, step, tokens)
            if step >= SELF_LABELS * self.steps:
                targets = own_labels(scores, targets, batch.labels, config.sure)
            affinity = affinity_loss(learned_affinity(fused), small(targets, scores.shape[-2:]).flatten(1))
            losses.append(segmentation_loss(scores, targets, dice=config.dice) + config.affinity * affinity)
            both.append(scores)
        # L = Σ_b L_b + 0.1 (CE(p_1, argmax p_2) + CE(p_2, argmax p_1))
        for student, teacher in (both, both[::-1]):
            losses.append(config.teach * F.cross_entropy(student, of_present(teacher.detach(), batch.labels).argmax(1)))
        return torch.stack(losses).sum()

    def seen(self, batch: Batch) -> Tensor:
        """Trunk tokens ``(B, N, 384)`` of a batch's pictures, on the grid of the other branch."""
        if self.dense.trunk is not None:
            return batch.inputs  # they are what the image-text model takes
        # Not ``batch.pictures``: those have the two pixels a patch of the labels.
        pictures = batch.inputs * self.dense.vlm.std + self.dense.vlm.mean
        return self.trunk(self.trunk.prepare(pictures, self.dense.size // self.dense.patch * self.trunk.patch))

    def probabilities(self, batch: Batch) -> Tensor:
        """``(B, K + 1, h, w)``, the mean of both decoders."""
        tokens = [tokens[:, 1:] for tokens in self.dense(batch.inputs).tokens[1:]]
        both = self.network["clip"](tokens)[0], self.network["dino"]([self.seen(batch)])[0]
        return torch.stack([of_present(scores, batch.labels) for scores in both]).mean(0)


def learned_affinity(fused: Tensor) -> Tensor:
    """Affinity ``(B, N, N)`` in (0, 1) of features ``(B, N, d)``."""
    # A_ij = σ(f_i · f_j / √d)
    return (fused @ fused.transpose(1, 2) / fused.shape[-1] ** 0.5).sigmoid()


def affinity_loss(affinity: Tensor, labels: Tensor) -> Tensor:
    """Pairs of one class should be near, pairs of two classes far; 255 is left out.

    Args:
        affinity: ``(B, N, N)`` in (0, 1).
        labels: ``(B, N)`` int64.
    """
    known = labels != IGNORE
    pairs = known[:, :, None] & known[:, None, :]
    same = labels[:, :, None] == labels[:, None, :]
    near, far = pairs & same, pairs & ~same
    # L = mean over same of (1 − A) + mean over different of A
    return ((1 - affinity) * near).sum() / near.sum().clamp(min=1) + (affinity * far).sum() / far.sum().clamp(min=1)


def own_labels(scores: Tensor, targets: Tensor, labels: Tensor, sure: float) -> Tensor:
    """Targets ``(B, S, S)`` in which a decoder's own label stands where its probability is at least ``sure``.

    Args:
        scores: ``(B, K + 1, h, w)``.
        targets: ``(B, S, S)`` int64.
        labels: ``(B, K)`` of 0 and 1: absent classes are no labels.
        sure: In [0, 1].
    """
    probabilities = of_present(scores.detach(), labels)
    best, which = F.interpolate(probabilities, targets.shape[-2:], mode="bilinear").max(1)
    return torch.where(best >= sure, which, targets)


def small(targets: Tensor, size: Sequence[int]) -> Tensor:
    """Label maps ``(B, S, S)`` at ``size`` (h, w), by the nearest pixel."""
    return F.interpolate(targets[:, None].float(), tuple(size), mode="nearest")[:, 0].long()

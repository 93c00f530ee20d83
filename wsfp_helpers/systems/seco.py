"""SeCo (Yang et al., CVPR 2024): a picture is cut into crops, and crops of different classes are driven apart.

Kept: a teacher that is the moving average of the student; crops that the teacher's maps give a class; two contrasts of
weight 0.5, of a crop with the prototypes of classes seen in whole pictures (temperature 0.1) and with a queue of other
crops (0.08); prototypes with momentum 0.9; a queue of 4,608 that is a reservoir; the classifier with a global maximum;
pixel-adaptive refinement of the maps that crops are named by.
Reduced: the auxiliary classifier and its contrast among tokens, since the embedded world trains one block and so has
no earlier layer; the decoder, whose part the parser of the second stage has; its dense energy, which needs a compiled
filter.  Patch tokens, not a class token, say what a crop is: the network has a token for each class and none for all.
Changed: 0.999 is the teacher's decay in a training of 20,000 steps.  Here it forgets as fast measured by the length of
the training, and the contrasts start after the same share of it.  A window of cached trunk tokens is the crop where the
network takes those; they have seen the whole picture, which crops of pixels have not.  A crop goes to the class of
which it holds the largest part, not to that of most pixels: every crop of a face would be skin or hair.  The ranked
mean of MCTformer+ in place of the maximum is among the settings tried: of a map that says where a part is that every
face has, one maximum learns little.
Supervision: image-level labels.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.method.tcd import soft_margin
from wsfp_helpers.method.vit import PATCH, MultiClassTokenViT, Projector
from wsfp_helpers.systems.base import Batch, Found, Parts, VitNetwork, VitSystem, found_in_fcam, present_maps
from wsfp_helpers.systems.refine import DILATIONS, adaptive_weights, refine

ORIGINAL_STEPS, ORIGINAL_DECAY, ORIGINAL_START = 20_000, 0.999, 2_000
"""Length of SeCo's own training, decay of its teacher, and the step in which the contrasts start."""
HIGH = 0.7
"""Share of a map's maximum from which it surely says where its class is."""
WIDTH = 128
"""Of the space in which crops are compared."""


@dataclass(frozen=True)
class SecoConfig:
    """SeCo's own settings, and what ``val`` may choose."""

    lr: float = 2e-3
    """Learning rate of the heads in the profile ``embedded``; others scale it as their own."""
    theta: float = 0.5
    """Background threshold."""
    pool: Literal["max", "ranks"] = "max"
    """From a map to the score of its class: the maximum, as in SeCo, or the ranked mean of MCTformer+."""
    crops: int = 10
    """Of each picture and step."""
    window: int = 4
    """Side of a crop in tokens: 64 pixels, as in SeCo."""
    contrast: float = 0.5
    """Weight of each of the two contrasts."""
    momentum: float = 0.9
    """Of the prototypes."""
    queue: int = 4608
    """Crops that are remembered."""


class SecoNetwork(VitNetwork):
    """Student, teacher, prototypes and queue.

    Args:
        vit: The student.
        queue: Crops that are remembered.
    """

    prototypes: Tensor
    """``(K, D)`` of unit length, 0 for a class never seen."""
    queue: Tensor
    """``(Q, D)`` of unit length."""
    tags: Tensor
    """Class of each crop of the queue ``(Q,)`` int64, -1 where there is none yet."""
    seen: Tensor
    """Crops that were ever offered to the queue, ``()`` int64."""

    def __init__(self, vit: MultiClassTokenViT, queue: int) -> None:
        super().__init__(vit, project=Projector(vit.cls_token.shape[-1], out=WIDTH))
        self.teacher = copy.deepcopy(VitNetwork(self.vit, **self.heads)).requires_grad_(False)
        self.register_buffer("prototypes", torch.zeros(vit.num_classes, WIDTH))
        self.register_buffer("queue", torch.zeros(queue, WIDTH))
        self.register_buffer("tags", torch.full((queue,), -1))
        self.register_buffer("seen", torch.tensor(0))

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the teacher towards the student."""
        own = [*self.vit.parameters(), *self.heads.parameters()]
        for slow, fast in zip(self.teacher.parameters(), own, strict=True):
            # θ' ← m θ' + (1 − m) θ
            slow.lerp_(fast, 1 - decay)

    @torch.no_grad()
    def remember(self, vectors: Tensor, tags: Tensor) -> None:
        """Offer crops ``(n, D)`` of classes ``tags`` ``(n,)`` to the queue, a reservoir.

        After n crops each of them is in it with the chance Q / n: while there is room each enters, later the n-th
        takes a place of chance among n, if there is one.
        """
        for vector, tag in zip(vectors, tags, strict=True):
            place = int(self.seen) if self.seen < len(self.queue) else int(torch.randint(int(self.seen) + 1, ()))
            if place < len(self.queue):
                self.queue[place], self.tags[place] = vector, tag
            self.seen += 1

    @torch.no_grad()
    def update_prototypes(self, vectors: Tensor, tags: Tensor, momentum: float) -> None:
        """Move the prototype of each class among ``tags`` ``(n,)`` to the mean of its ``vectors`` ``(n, D)``."""
        for k in tags.unique().tolist():
            mean = F.normalize(vectors[tags == k].mean(0), dim=-1)
            # p_k ← m p_k + (1 − m) mean of v, of unit length; the first mean is taken as it is
            self.prototypes[k] = F.normalize(momentum * self.prototypes[k] + (1 - momentum) * mean, dim=-1)


class SeCo(VitSystem):
    """SeCo on the class-token ViT, whose class tokens only take part in the attention."""

    title, paper, supervision = "SeCo", "Yang et al., CVPR 2024", "I"
    reads = ("theta",)
    chosen = 2
    tried = (SecoConfig(), SecoConfig(theta=0.3), SecoConfig(pool="ranks"), SecoConfig(pool="ranks", theta=0.3))
    settings: SecoConfig
    network: SecoNetwork

    def __init__(self, parts: Parts, settings: SecoConfig, seed: int = 0) -> None:
        super().__init__(parts, settings, seed)
        self.network = SecoNetwork(parts.build_vit(seed), settings.queue)

    def fit(self, faces: WeakFaces, folder: Path | None = None) -> None:
        """Train from the first values of the baseline."""
        self.train(faces, folder, self.settings.lr, 2 * self.network.vit.size // PATCH)

    def after_step(self, step: int) -> None:
        """Let the teacher follow, forgetting as fast, measured by the length of the training, as SeCo's own."""
        self.network.follow(ORIGINAL_DECAY ** (ORIGINAL_STEPS / self.steps))

    def loss(self, batch: Batch, step: int) -> Tensor:
        """The classifier, and once maps mean something the two contrasts."""
        output = self.network.vit(batch.inputs)
        logits = output.patch_map.amax((2, 3)) if self.settings.pool == "max" else output.patch_logits
        loss = soft_margin(logits, batch.labels)
        if step < self.steps * ORIGINAL_START / ORIGINAL_STEPS:
            return loss
        return loss + self.settings.contrast * self.contrasts(batch)

    def contrasts(self, batch: Batch) -> Tensor:
        """Both contrasts of the crops of a step; afterwards these crops and regions are remembered."""
        network, config = self.network, self.settings
        teacher = network.teacher.eval()
        with torch.no_grad():
            output = teacher.vit(batch.inputs)
            regions = refined_labels(output.patch_map, batch.labels, batch.pictures)
            crops, tags = cut(batch.inputs, regions, config.crops, config.window)
            certain = tags >= 0
            crops, tags = crops[certain], tags[certain]
            tokens = F.adaptive_avg_pool2d(regions, output.patch_map.shape[-2:]).flatten(2)  # (B, K, N)
            image, component = tokens.any(-1).nonzero(as_tuple=True)
            means = tokens[image, component][:, None] @ output.patch_tokens[image]  # (n, 1, d)
            means = means[:, 0] / tokens[image, component].sum(-1, keepdim=True)
            network.update_prototypes(teacher.heads["project"](means), component, config.momentum)
        if not len(crops):
            return batch.inputs.new_zeros(())
        vectors, every = describe(network, crops), torch.arange(len(network.prototypes), device=tags.device)
        known, filled = network.prototypes.any(-1), network.tags >= 0
        loss = contrast(vectors, tags, network.prototypes[known], every[known], 0.1)
        loss = loss + contrast(vectors, tags, network.queue[filled], network.tags[filled], 0.08)
        with torch.no_grad():
            network.remember(describe(teacher, crops), tags)
        return loss

    def find(self, faces: WeakFaces) -> Iterator[Found]:
        """Activation maps of the student against the constant background of the settings."""
        for fcam in extract(self.network.vit, faces, self.parts.fcam):
            yield found_in_fcam(fcam, self.settings.theta)


def refined_labels(patch_map: Tensor, labels: Tensor, pictures: Tensor) -> Tensor:
    """Where each class surely is, ``(B, K, S, S)`` float32 of 0 and 1, after pixel-adaptive refinement.

    Args:
        patch_map: Output of the patch head ``(B, K, h, w)``.
        labels: ``(B, K)``.
        pictures: ``(B, 3, S, S)`` in [0, 1].
    """
    maps = F.interpolate(patch_map.relu(), pictures.shape[-2:], mode="bilinear", align_corners=False)
    near = DILATIONS[:3]  # at two pixels a token these reach as far as all in a whole picture
    # Refined, then scaled: refinement flattens the peak of a small component below any threshold.
    best, which = present_maps(refine(maps, adaptive_weights(pictures, near), near), labels).max(1)
    return F.one_hot(which, labels.shape[1]).movedim(-1, 1) * (best >= HIGH)[:, None].float()


def cut(inputs: Tensor, regions: Tensor, count: int, window: int) -> tuple[Tensor, Tensor]:
    """``count`` windows of each picture at places of chance, and the class of each.

    Args:
        inputs: Pictures ``(B, 3, H, W)`` or trunk features ``(B, N, d)``.
        regions: ``(B, K, S, S)`` of 0 and 1, over the whole picture.
        count: Windows of a picture.
        window: Their side in tokens.

    Returns:
        Windows ``(B * count, 3, 16 window, 16 window)`` or ``(B * count, window², d)``, and tags ``(B * count,)`` int64
        by :func:`tag`.

    Raises:
        ValueError: The window is larger than the grid.
    """
    pixels = inputs.ndim == 4
    side = inputs.shape[-1] // PATCH if pixels else round(inputs.shape[1] ** 0.5)
    if window > side:
        raise ValueError(f"a window of {window} x {window} tokens does not fit a grid of {side} x {side}")
    planes = inputs if pixels else inputs.transpose(1, 2).unflatten(2, (side, side))
    unit, scale = PATCH if pixels else 1, regions.shape[-1] / side
    crops, tags = [], []
    for plane, region in zip(planes, regions, strict=True):
        for top, left in torch.randint(side - window + 1, (count, 2)).tolist():
            crops.append(plane[:, top * unit : (top + window) * unit, left * unit : (left + window) * unit])
            rows, columns = (slice(round(at * scale), round((at + window) * scale)) for at in (top, left))
            tags.append(tag(region, rows, columns))
    stacked = torch.stack(crops)
    return stacked if pixels else stacked.flatten(2).transpose(1, 2), torch.tensor(tags, device=inputs.device)


def tag(region: Tensor, rows: slice, columns: slice) -> int:
    """The class of which a window of ``region`` ``(K, S, S)`` holds the largest part; -1 where it holds none."""
    inside, all_ = region[:, rows, columns].sum((1, 2)), region.sum((1, 2))
    part = inside / all_.clamp(min=1)
    return int(part.argmax()) if part.any() else -1


def describe(network: VitNetwork, crops: Tensor) -> Tensor:
    """Vectors ``(n, D)`` of unit length of ``crops``: the projected mean of their patch tokens."""
    return F.normalize(network.heads["project"](network.vit(crops).patch_tokens.mean(1)), dim=-1)


def contrast(vectors: Tensor, tags: Tensor, others: Tensor, other_tags: Tensor, temperature: float) -> Tensor:
    """Each of ``vectors`` should be near to those of ``others`` that have its class, and to no other.

    Args:
        vectors: ``(n, D)`` of unit length.
        tags: Their classes ``(n,)``.
        others: ``(m, D)`` of unit length.
        other_tags: ``(m,)``.
        temperature: Of the softmax.

    Returns:
        The mean over vectors with a partner, 0 where none has one.
    """
    partners = tags[:, None] == other_tags
    if not partners.any():
        return vectors.sum() * 0
    # L = − mean over i of mean over partners p of log softmax_j(v_i · o_j / τ)_p
    shares = (vectors @ others.T / temperature).log_softmax(-1)
    count = partners.sum(-1)
    return -((shares * partners).sum(-1) / count.clamp(min=1)).sum() / (count > 0).sum()

"""Train the embedded image-text models on SynthFaces-19 celeb/pretrain; write their assets and model cards.

usage: python scripts/train_mini_flip.py [--general] [--steps N] [--seed 0] [--out wsfp_helpers/assets]

mini_flip sees close-ups and faces that are partly faded, covered or out of the frame, with captions that name the
parts in sight; never a picture cut out along a label map.  ``--general`` trains mini_clip instead, the stand-in of a
web CLIP: whole faces and close-ups only, one caption a picture, in which 'left' and 'right' are a coin toss because
captions on the web use both the subject's and the viewer's side.
"""

import argparse
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import ASSETS, atomic_path, write_json
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK, PROMPTS
from wsfp_helpers.nets.vlm import VisionLanguageModel, WordTokenizer

CONTEXT = 24
FORMS = (
    "a photo of a face with {}", "a photo of {}", "a close up of {}", "a close up photo of a face with {}",
    "a portrait of a person with {}", "a picture with {}", "{}",
)  # fmt: skip
WORDS_OF_CLASSES = CELEBAMASK.words
CANONICAL = (FORMS[0].format(WORDS_OF_CLASSES[0]), *PROMPTS)
WORDS = sorted({w for text in (*FORMS, *WORDS_OF_CLASSES, "and") for w in text.replace("{}", "").split()})
THRESHOLD = 0.1
"""Cosine on which the sigmoid loss turns: above it a caption is taken as true of the picture."""
SHARPNESS = 10.0
SPREAD = 0.2
"""Cosine above which the prompts of two classes repel each other.  Without it the text tower lets both sides of a pair
fall into one before the image tower can tell them apart, and then neither ever learns them (docs/experiments.md)."""
ONE_SIDED = 7.0
"""Weight of a part's prompt in pictures where one side of its pair is in sight and the other is not."""
BATCH, LEARNING_RATE = 32, 3e-3
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)


def architecture(image: dict) -> dict:
    """open_clip's ``model_cfg`` with the given image tower."""
    text = dict(context_length=CONTEXT, vocab_size=len(WORDS) + 3, width=128, heads=4, layers=2)
    return dict(embed_dim=128, vision_cfg=image, text_cfg=text)


TOWER = dict(timm_model_name="test_resnet", timm_pool="avg", timm_proj="linear", image_size=96)


@dataclass
class Pictures:
    """Training pictures on one device: ``images`` ``(n, 3, H, W)`` in [0, 1], ``maps`` ``(n, H, W)`` uint8."""

    images: Tensor
    maps: Tensor

    @classmethod
    def of(cls, faces: Faces) -> "Pictures":
        """Everything of a set, in memory."""
        images = np.stack([faces.image(i) for i in range(len(faces))])
        maps = np.stack([faces.label_map(i) for i in range(len(faces))])
        return cls(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(maps))

    def __post_init__(self) -> None:
        counts = torch.stack([m.flatten().long().bincount(minlength=256) for m in self.maps])
        self.totals = counts[:, : len(CELEBAMASK)].float()
        rarity = (self.totals > 9).float().mean(0).clamp(min=0.02).rsqrt()
        self.weights = ((self.totals > 9) * rarity).amax(1)


def split_identities(faces: Faces) -> tuple[Faces, Faces]:
    """Every tenth identity is held out; both views of a face stay on one side."""
    order = {identity: i for i, identity in enumerate(dict.fromkeys(faces.attributes["identity"]))}
    held = np.array([order[identity] % 10 == 9 for identity in faces.attributes["identity"]])
    return faces.subset(np.flatnonzero(~held)), faces.subset(np.flatnonzero(held))


def uniform(rng: torch.Generator, n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """``(n,)`` draws between ``low`` and ``high``."""
    return low + (high - low) * torch.rand(n, generator=rng)


def chance(rng: torch.Generator, n: int, p: float) -> Tensor:
    """``(n,)`` bool, each true with probability ``p``."""
    return torch.rand(n, generator=rng) < p


def smooth_noise(rng: torch.Generator, n: int, size: int) -> Tensor:
    """``(n, size, size)`` of about unit variance, on a grid of 3 to 20 cells."""
    cells = int(torch.randint(3, 21, (1,), generator=rng))
    field = torch.randn(n, 1, cells, cells, generator=rng)
    return F.interpolate(field, (size, size), mode="bicubic", align_corners=False)[:, 0] * 1.3


def blobs(rng: torch.Generator, maps: Tensor) -> Tensor:
    """Free-form spots ``(n, S, S)`` in [0, 1]: a wobbly ellipse or two, or one side of a line; sharp or soft.

    Most ellipses are centred on a pixel of a random part in sight, so that small parts get their share.
    """
    n, size = maps.shape[0], maps.shape[-1]
    grid = (torch.arange(24) + 0.5) / 24
    column = (n, 1, 1)
    distance = torch.full((n, 24, 24), 9.0)
    for keep in (torch.ones(n, dtype=torch.bool), chance(rng, n, 0.25)):
        x, y = part_centres(rng, maps) if keep.all() else (uniform(rng, n), uniform(rng, n))
        angle, radius = uniform(rng, n, 0, 2 * math.pi), torch.exp(uniform(rng, n, math.log(0.04), math.log(0.5)))
        stretch = torch.exp(uniform(rng, n, -0.6, 0.6))
        dx, dy = grid.view(1, 1, -1) - x.view(column), grid.view(1, -1, 1) - y.view(column)
        cos, sin = angle.cos().view(column), angle.sin().view(column)
        along, across = dx * cos + dy * sin, dy * cos - dx * sin
        ellipse = (
            (along / (radius * stretch).view(column)) ** 2 + (across / (radius / stretch).view(column)) ** 2
        ).sqrt()
        line = 1 + along * 8
        new = torch.where((chance(rng, n, 0.2) & keep).view(column), line, ellipse)
        distance = torch.where(keep.view(column), torch.minimum(distance, new), distance)
    wobble = smooth_noise(rng, n, 24)
    softness = torch.exp(uniform(rng, n, math.log(0.03), math.log(0.4))).view(column)
    field = (1 + 0.3 * wobble - distance) / softness
    return torch.sigmoid(F.interpolate(field[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0])


def part_centres(rng: torch.Generator, maps: Tensor, share: float = 0.6) -> tuple[Tensor, Tensor]:
    """Centres in [0, 1]: with probability ``share`` a random pixel of a random part in sight, else anywhere."""
    n, size = maps.shape[0], maps.shape[-1]
    flat = maps.reshape(n, -1).long()
    seen = torch.zeros(n, 256).scatter_(1, flat, 1.0)[:, : len(CELEBAMASK)]
    part = torch.multinomial(seen, 1, generator=rng)
    pixel = torch.multinomial((flat == part).float(), 1, generator=rng)[:, 0]
    anywhere = ~chance(rng, n, share)
    pixel[anywhere] = torch.randint(0, size * size, (n,), generator=rng)[anywhere]
    return (pixel % size + 0.5) / size, (pixel // size + 0.5) / size


def crop(rng: torch.Generator, data: Pictures, index: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whole faces and close-ups, half of them mirrored with left and right exchanged, turned by up to 10 degrees.

    Gives pictures ``(n, 3, size, size)``, their maps ``(n, size, size)`` and the zoom ``(n,)``.
    """
    n = len(index)
    whole = chance(rng, n, 0.5)
    side = torch.where(whole, uniform(rng, n, 0.85, 1.05), torch.exp(uniform(rng, n, math.log(0.12), math.log(0.9))))
    x, y = part_centres(rng, data.maps[index])
    room = (1 - side).abs() / 2 + 0.03
    x = torch.where(whole, 0.5 + (x - 0.5) * room, x + uniform(rng, n, -0.3, 0.3) * side)
    y = torch.where(whole, 0.5 + (y - 0.5) * room, y + uniform(rng, n, -0.3, 0.3) * side)
    inside = side.clamp(max=1) / 2
    x, y = torch.maximum(torch.minimum(x, 1 - inside), inside), torch.maximum(torch.minimum(y, 1 - inside), inside)
    angle = uniform(rng, n, -0.17, 0.17)
    mirror = chance(rng, n, 0.5)
    sign = torch.where(mirror, -1.0, 1.0)
    rows = [
        torch.stack([side * angle.cos() * sign, -side * angle.sin(), 2 * x - 1], 1),
        torch.stack([side * angle.sin() * sign, side * angle.cos(), 2 * y - 1], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), (n, 3, size, size), align_corners=False)
    images = F.grid_sample(data.images[index], grid, padding_mode="border", align_corners=False)
    maps = data.maps[index].float()[:, None]
    maps = F.grid_sample(maps, grid, mode="nearest", padding_mode="border", align_corners=False)[:, 0].long()
    mirrored = torch.from_numpy(CELEBAMASK.flip)[maps]
    return images, torch.where(mirror.view(-1, 1, 1), mirrored, maps), 1 / side


def jitter(rng: torch.Generator, images: Tensor) -> Tensor:
    """Light, contrast, saturation, tint, a little blur and noise; ``(n, 3, S, S)`` in [0, 1]."""
    n = len(images)
    column = (n, 1, 1, 1)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * uniform(rng, n, 0.5, 1.4).view(column)
    centre = images.mean((1, 2, 3), keepdim=True)
    images = centre + (images - centre) * uniform(rng, n, 0.7, 1.35).view(column)
    images = images * uniform(rng, 3 * n, 0.9, 1.1).view(n, 3, 1, 1) * uniform(rng, n, 0.7, 1.3).view(column)
    soft = F.interpolate(F.avg_pool2d(images, 2), images.shape[-2:], mode="bilinear", align_corners=False)
    images = torch.where(chance(rng, n, 0.25).view(column), soft, images)
    noise = torch.randn(images.shape, generator=rng) * uniform(rng, n, 0, 0.05).view(column)
    return (images + noise * chance(rng, n, 0.3).view(column)).clamp(0, 1)


def cover(rng: torch.Generator, images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Cover a box or a blob of a quarter of the pictures with black, a colour or noise; also gives what is left."""
    n, size = maps.shape[0], maps.shape[-1]
    grid = (torch.arange(size) + 0.5) / size
    x, y = part_centres(rng, maps)
    half_width, half_height = uniform(rng, n, 0.03, 0.3).view(-1, 1, 1), uniform(rng, n, 0.03, 0.3).view(-1, 1, 1)
    box = ((grid.view(1, 1, -1) - x.view(-1, 1, 1)).abs() < half_width) & (
        (grid.view(1, -1, 1) - y.view(-1, 1, 1)).abs() < half_height
    )
    shape = torch.where(chance(rng, n, 0.6).view(-1, 1, 1), box, blobs(rng, maps) > 0.5)
    shape = shape & chance(rng, n, 0.25).view(-1, 1, 1)
    colour = torch.rand(n, 3, 1, 1, generator=rng) * (~chance(rng, n, 0.5)).view(-1, 1, 1, 1)
    grain = torch.randn(images.shape, generator=rng) * 0.2 * chance(rng, n, 0.2).view(-1, 1, 1, 1)
    return torch.where(shape[:, None], (colour + grain).clamp(0, 1), images), ~shape


def fade(rng: torch.Generator, maps: Tensor) -> Tensor:
    """Soft maps ``(n, S, S)`` in [0, 1] such as TCD multiplies a picture with: none, spots, their reverse, noise."""
    n, size = maps.shape[0], maps.shape[-1]
    spots = blobs(rng, maps)
    sharpness = torch.exp(uniform(rng, n, math.log(1.5), math.log(12))).view(-1, 1, 1)
    noise = torch.sigmoid((smooth_noise(rng, n, size) - uniform(rng, n, -1, 1).view(-1, 1, 1)) * sharpness)
    kind = uniform(rng, n).view(-1, 1, 1)
    maps = torch.where(kind < 0.5, spots, torch.where(kind < 0.65, 1 - spots, noise))
    low = (uniform(rng, n, 0, 0.12) * chance(rng, n, 0.3)).view(-1, 1, 1)
    high = torch.where(chance(rng, n, 0.5), uniform(rng, n, 0.4, 1.0), 1.0).view(-1, 1, 1)
    maps = torch.where(kind < 0.8, low + (high - low) * maps, high)
    return maps


def in_sight(maps: Tensor, alpha: Tensor, left: Tensor, totals: Tensor, zoom: Tensor) -> Tensor:
    """Which classes a person would name ``(n, 19)``: 1 in sight, 0 not, NaN neither (too little, or too faint).

    In sight: at least half of the part and 3 pixels, or 3 % of the picture, or a quarter of all that is shown.
    """
    n, area = maps.shape[0], maps[0].numel()
    flat, scale = maps.reshape(n, -1), area * zoom.view(-1, 1) ** 2 / 160**2

    def count(shown: Tensor) -> Tensor:
        return torch.zeros(n, 256).scatter_add_(1, flat, shown.reshape(n, -1).float())[:, : len(CELEBAMASK)]

    sure, maybe = count((alpha > 0.3) & left), count((alpha > 0.1) & left)
    whole = (totals * scale).clamp(min=1)
    named = (sure >= 0.5 * whole) & (sure >= 3) | (sure >= 0.03 * area)
    named |= (sure >= 0.25 * sure.sum(1, keepdim=True)) & (sure >= 0.005 * area)
    absent = (maybe < 0.12 * whole) & (maybe < 0.006 * area) & (maybe < 0.08 * maybe.sum(1, keepdim=True).clamp(min=9))
    state = torch.full(named.shape, math.nan)
    state[absent] = 0.0
    state[named] = 1.0
    return state


def render(
    rng: torch.Generator, data: Pictures, index: Tensor, size: int, mean: Tensor, std: Tensor, plain: bool
) -> tuple[Tensor, Tensor]:
    """A batch: normalised pictures ``(n, 3, size, size)`` and their state ``(n, 19)`` of :func:`in_sight`."""
    images, maps, zoom = crop(rng, data, index, size)
    images = jitter(rng, images)
    alpha, left = torch.ones(maps.shape), torch.ones(maps.shape, dtype=torch.bool)
    if not plain:
        images, left = cover(rng, images, maps)
        alpha = fade(rng, maps)
    return (images - mean) / std * alpha[:, None], in_sight(maps, alpha, left, data.totals[index], zoom)


def write_captions(rng: torch.Generator, state: Tensor) -> tuple[list[str], Tensor]:
    """One caption a picture, naming one to four of the parts in sight in random order; also the classes it names.

    Gives captions and ``(n, 19)`` bool.  Where nothing is certain the caption names the background.
    """
    captions, named = [], torch.zeros(state.shape, dtype=torch.bool)
    for row, seen in enumerate(state == 1):
        order = torch.randperm(len(WORDS_OF_CLASSES), generator=rng)
        parts = [int(p) for p in order if seen[p]][: int(torch.randint(1, 5, (1,), generator=rng))] or [0]
        named[row, parts] = True
        words = [WORDS_OF_CLASSES[p] for p in parts]
        text = " ".join([", ".join(words[:-1]), "and", words[-1]]) if len(words) > 1 else words[0]
        captions.append(FORMS[int(torch.randint(0, len(FORMS), (1,), generator=rng))].format(text))
    return captions, named


def truth(state: Tensor, named: Tensor) -> Tensor:
    """``(pictures, captions)``: 1 all that the caption names is in sight, 0 some of it is not, NaN undecided."""
    named = named.float()
    missing = (state == 0).float() @ named.T > 0
    complete = (state == 1).float() @ named.T == named.sum(1)
    undecided = torch.full(missing.shape, math.nan)
    return torch.where(missing, 0.0, torch.where(complete, 1.0, undecided))


def sigmoid_loss(cosine: Tensor, target: Tensor, stress: Tensor | float = 1.0) -> Tensor:
    """Pairwise sigmoid loss that turns at ``THRESHOLD``; true and false pairs of each caption weigh the same."""
    known = ~target.isnan()
    target = target.nan_to_num()
    loss = F.binary_cross_entropy_with_logits(SHARPNESS * (cosine - THRESHOLD), target, reduction="none") * known
    share = (target * known).sum(0) / known.sum(0).clamp(min=1)
    weight = torch.where(target > 0, 0.5 / share.clamp(min=0.1), 0.5 / (1 - share).clamp(min=0.1))
    return (loss * weight * stress).sum() / known.sum().clamp(min=1)


def one_sided(target: Tensor) -> Tensor:
    """Weights ``(n, 19)``: :data:`ONE_SIDED` where a part and its other side differ in ``target``, else 1."""
    return torch.where((target - target[:, CELEBAMASK.flip.copy()]).abs() == 1, ONE_SIDED, 1.0)


def spread_loss(texts: Tensor) -> Tensor:
    """Mean over the classes of the squared cosines above :data:`SPREAD` between their unit vectors ``(19, D)``."""
    cosines = texts @ texts.T - torch.eye(len(texts))
    return (cosines - SPREAD).relu().square().sum() / len(texts)


def exchange_sides(rng: torch.Generator, state: Tensor) -> Tensor:
    """Left and right change places in the captions of half of the pictures."""
    return torch.where(chance(rng, len(state), 0.5)[:, None], state[:, CELEBAMASK.flip.copy()], state)


def train(
    clip: open_clip.CLIP, tokenizer: WordTokenizer, data: Pictures, args: argparse.Namespace, save: Callable
) -> nn.Module:
    """The averaged model after ``args.steps`` steps; ``save`` gets it every fifth of the way."""
    rng = torch.Generator().manual_seed(args.seed)
    decay, plain = [], []
    for parameter in clip.parameters():
        (decay if parameter.ndim > 1 else plain).append(parameter)
    groups = [dict(params=decay, weight_decay=0.05), dict(params=plain, weight_decay=0.0)]
    optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, args.steps, pct_start=0.1, final_div_factor=100
    )
    average = AveragedModel(clip, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    canonical = tokenizer(CANONICAL)
    progress = tqdm(range(1, args.steps + 1), desc=args.name, mininterval=5)
    for step in progress:
        index = torch.multinomial(data.weights, BATCH, replacement=True, generator=rng)
        pictures, state = render(rng, data, index, TOWER["image_size"], MEAN, STD, args.general)
        if args.general:
            state = exchange_sides(rng, state)
        captions, named = write_captions(rng, state)
        tokens = torch.cat([canonical, tokenizer(captions)])
        named = torch.cat([torch.eye(len(WORDS_OF_CLASSES), dtype=torch.bool), named])
        clip.train()
        image = F.normalize(clip.encode_image(pictures), dim=-1)
        texts = F.normalize(clip.encode_text(tokens), dim=-1)
        cosine, target = image @ texts.T, truth(state, named)
        own = target[:, : len(WORDS_OF_CLASSES)]
        parts = sigmoid_loss(cosine[:, : len(WORDS_OF_CLASSES)], own, one_sided(own))
        loss = parts + 0.5 * sigmoid_loss(cosine[:, len(WORDS_OF_CLASSES) :], target[:, len(WORDS_OF_CLASSES) :])
        loss = loss + 4 * spread_loss(texts[: len(WORDS_OF_CLASSES)])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(clip)
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if step % math.ceil(args.steps / 5) == 0 or step == args.steps:
            save(average.module, step)
    return average.module


@torch.no_grad()
def renders(model: VisionLanguageModel, data: Pictures, general: bool, batches: int = 10) -> tuple[Tensor, Tensor]:
    """Cosines ``(n, 19)`` with the prompts and states of pictures rendered as in training, always the same ones."""
    rng, cosines, states = torch.Generator().manual_seed(12345), [], []
    for _ in range(batches):
        index = torch.randint(0, len(data.images), (64,), generator=rng)
        pictures, state = render(rng, data, index, model.size, model.mean, model.std, general)
        cosines.append(model.encode_image(pictures) @ model.text(CANONICAL).T)
        states.append(state)
    return torch.cat(cosines), torch.cat(states)


@torch.no_grad()
def soft_masks(model: VisionLanguageModel, data: Pictures) -> tuple[Tensor, Tensor]:
    """Cosines ``(n, 18)`` of each part seen through its own map at 20 x 20, and which part it is ``(n,)``.

    A diagnosis of what TCD asks for; no such picture is ever trained on.
    """
    cosines, parts = [], []
    for image, label_map in zip(data.images, data.maps, strict=True):
        present = [k for k in range(1, len(WORDS_OF_CLASSES)) if (label_map == k).sum() >= 10]
        maps = torch.stack([(label_map == k).float() for k in present])[:, None]
        maps = F.adaptive_avg_pool2d(maps, 20)
        maps = maps / maps.amax((2, 3), keepdim=True)
        maps = F.interpolate(maps, (model.size, model.size), mode="bilinear", align_corners=False)
        cosines.append(model.encode_image(model.prepare(image[None]) * maps) @ model.text(PROMPTS).T)
        parts += [k - 1 for k in present]
    return torch.cat(cosines), torch.tensor(parts)


def evaluate(model: VisionLanguageModel, data: Pictures, general: bool) -> dict:
    """Numbers of the model card on held-out identities."""
    cosine, state = renders(model, data, general)
    masked, part = soft_masks(model, data)
    table = []
    for k, name in enumerate(CELEBAMASK.classes[1:], 1):
        seen, hidden = cosine[state[:, k] == 1, k], cosine[state[:, k] == 0, k]
        own = masked[part == k - 1]
        others = own.clone()
        others[:, k - 1] = -2
        row = dict(
            component=name, seen=seen.mean(), hidden=hidden.mean(), auc=(seen[:, None] > hidden).float().mean(),
            soft_mask_own=own[:, k - 1].mean(), soft_mask_best_other=others.amax(1).mean(),
            soft_mask_first=(own[:, k - 1] > others.amax(1)).float().mean(),
        )  # fmt: skip
        table.append({key: v if key == "component" else round(float(v), 3) for key, v in row.items()})
    sides = {}
    for left, right in CELEBAMASK.pairs:
        a, b = CELEBAMASK.index(left), CELEBAMASK.index(right)
        one = (state[:, a] + state[:, b]) == 1
        correct = (cosine[one, a] > cosine[one, b]) == (state[one, a] == 1)
        sides[left[2:]] = round(float(correct.float().mean()), 3)
    seen, hidden = cosine[:, 1:][state[:, 1:] == 1], cosine[:, 1:][state[:, 1:] == 0]
    return dict(
        seen=round(float(seen.mean()), 3), hidden=round(float(hidden.mean()), 3), right_side=sides,
        soft_mask_first=round(float((masked.argmax(1) == part).float().mean()), 3), components=table,
    )  # fmt: skip


def new_model() -> open_clip.CLIP:
    """Random towers in which the words, not the start and end marks, decide where a text lies from the first step.

    The words of sides are the largest: they alone tell half of the prompts apart.
    """
    clip = open_clip.CLIP(**architecture(TOWER))
    with torch.no_grad():
        clip.token_embedding.weight[-2:] = 0
        clip.token_embedding.weight[[WORDS.index(side) + 1 for side in ("left", "right")]] *= 4
    return clip


def frozen(clip: nn.Module, tokenizer: WordTokenizer, name: str) -> VisionLanguageModel:
    """A frozen copy in the precision in which it is shipped."""
    copy = open_clip.CLIP(**architecture(TOWER))
    copy.load_state_dict({k: v.half() if v.is_floating_point() else v for k, v in clip.state_dict().items()})
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return VisionLanguageModel(name, copy, tokenizer, TOWER["image_size"], mean, std)


def write_assets(
    args: argparse.Namespace, model: VisionLanguageModel, numbers: dict, step: int, minutes: float
) -> None:
    """Weights in half precision, the description that ``wsfp_helpers.nets.vlm.embedded_model`` reads, and the card."""
    state = {key: v.half() if v.is_floating_point() else v for key, v in model.clip.state_dict().items()}
    save_weights(args.out / f"{args.name}.safetensors", state)
    picture = dict(mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
    description = dict(model_cfg=architecture(TOWER), preprocess_cfg=picture, words=model.tokenize.words)
    write_json(args.out / f"{args.name}.json", description)
    with atomic_path(args.out / f"{args.name}.md") as part:
        part.write_text(card(args, model, numbers, step, minutes), encoding="utf-8")


CARD = """# {name}: {title}

{about}

- Size: {parameters:.2f} M parameters, image tower {tower} at {size} px; weights in half precision.
- Data: SynthFaces-19 `celeb/pretrain` only (rendered faces, CC0, no real person): {train} pictures trained on, {held}
  pictures of every tenth identity held out for the numbers below. Licence of the weights: CC0 1.0.
- Command: `{command}` (seed {seed}, {step} of {steps} steps of {batch} pictures, {minutes:.1f} minutes)
- Machine and date: {machine}, torch {torch}, {date}.

## Numbers on held-out identities
Cosine with the prompts of section 3.4, on pictures rendered as in training: {seen:.3f} for parts in sight, {hidden:.3f}
for parts out of sight. Share of pictures with one side of a pair in sight where its own side scores higher: {sides}.

`soft mask` is a diagnosis of what TCD asks for, on pictures no model was trained on: the picture times the part's own
map at 20 x 20, against all 18 prompts. Own prompt first: {soft_mask_first:.3f} of all parts.

| component | in sight | hidden | AUC | soft mask: own | best other | own first |
|---|---|---|---|---|---|---|
{table}

## Limits
{limits}
"""
FLIP_CARD = dict(
    title="the embedded stand-in of FLIP",
    about=(
        "A CLIP for SynthFaces-19, so that everything runs without downloads. It was trained on whole faces and "
        "close-ups\nthat were partly covered by boxes and blobs or faded by soft spots and noise, with captions that "
        "name the parts in sight;\nnever on a picture cut out along a label map. Pairs of picture and caption are told "
        "apart by a sigmoid loss."
    ),
    limits=(
        "It knows rendered faces and the words of `mini_flip.json` only; it stands in for FLIP in exercises and tests "
        "and says\nnothing about FLIP's quality. Rare parts (eyeglasses, hat, necklace) were seen on a few dozen "
        "identities."
    ),
)
CLIP_CARD = dict(
    title="the embedded stand-in of a general CLIP (section 4.3.4)",
    about=(
        "The same towers as mini_flip, trained as a web CLIP is: whole faces and close-ups, nothing faded or covered, "
        "and captions\nin which 'left' and 'right' are a coin toss because the web uses both the subject's and the "
        "viewer's side."
    ),
    limits="It cannot tell left from right by design, and never saw a faded picture. Otherwise as mini_flip.",
)


def card(args: argparse.Namespace, model: VisionLanguageModel, numbers: dict, step: int, minutes: float) -> str:
    """The model card, its numbers from this very run."""
    rows = ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in numbers["components"]]
    command = f"python scripts/train_mini_flip.py{' --general' * args.general} --steps {args.steps} --seed {args.seed}"
    return CARD.format(
        name=args.name, parameters=sum(p.numel() for p in model.parameters()) / 1e6, size=model.size,
        tower=f"timm {TOWER['timm_model_name']}", train=args.train, held=args.held, command=command, seed=args.seed,
        step=step, steps=args.steps, batch=BATCH, minutes=minutes, torch=torch.__version__, date=date.today(),
        machine=f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)", seen=numbers["seen"],
        hidden=numbers["hidden"], soft_mask_first=numbers["soft_mask_first"], table="\n".join(rows),
        sides=", ".join(f"{name} {share}" for name, share in numbers["right_side"].items()),
        **(CLIP_CARD if args.general else FLIP_CARD),
    )  # fmt: skip


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--general", action="store_true", help="train mini_clip, the stand-in of a general CLIP")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()
    args.name = "mini_clip" if args.general else "mini_flip"
    started = time.monotonic()
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)
    training, held_out = (Pictures.of(part) for part in split_identities(synthfaces("celeb/pretrain")))
    args.train, args.held = len(training.images), len(held_out.images)
    tokenizer = WordTokenizer(WORDS, CONTEXT)

    def save(clip: nn.Module, step: int) -> None:
        model = frozen(clip, tokenizer, args.name)
        numbers = evaluate(model, held_out, args.general)
        write_assets(args, model, numbers, step, (time.monotonic() - started) / 60)
        print(f"\nstep {step}: in sight {numbers['seen']}, hidden {numbers['hidden']}, {numbers['right_side']}")

    train(new_model(), tokenizer, training, args, save)


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

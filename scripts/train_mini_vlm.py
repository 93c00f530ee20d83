"""Train the embedded image-text models; write their assets and model cards.

usage: python -m scripts.train_mini_vlm MODEL [--steps N] [--seed 0] [--out wsfp_helpers/assets]

The models have the same towers and one loop; they differ in the pictures and captions of ``scripts/vlm_pictures.py``:

mini_flip         faces, covered or faded by soft maps, captions from label maps: what TCD asks for, known beforehand
mini_flip_labels  faces, captions from image-level labels: the honest stand-in of FLIP
mini_clip         shapes, textures, landscapes, photographs, and one face in ten: the stand-in of a general CLIP

A training that was killed goes on from its last saved state, which is in the cache, to the same weights.
"""

import argparse
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from scripts.vlm_pictures import (
    CANONICAL,
    PARTS,
    SIZE,
    Everyday,
    LabelledFaces,
    OutlinedFaces,
    Source,
    vocabulary,
    write_captions,
)
from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.checkpoints import restore_state, save_state, save_weights
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import ASSETS, atomic_path, hold_folder, write_json
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK, PROMPTS
from wsfp_helpers.nets.vlm import VisionLanguageModel, WordTokenizer

SOURCES: dict[str, Callable[[Faces], Source]] = {
    "mini_flip": OutlinedFaces,
    "mini_flip_labels": lambda faces: LabelledFaces(faces.weak),
    "mini_clip": lambda faces: Everyday(faces.weak),
}
"""What each model is trained on, made of the faces of ``celeb/pretrain``."""
CONTEXT = 24
THRESHOLD = 0.1
"""Cosine on which the sigmoid loss turns: above it a caption is taken as true of the picture."""
SHARPNESS = 10.0
SPREAD = 0.2
"""Cosine above which the prompts of two classes repel each other.  Without it the text tower lets both sides of a pair
fall into one before the image tower can tell them apart, and then neither ever learns them (docs/experiments.md)."""
ONE_SIDED = 7.0
"""Weight of a part's prompt in pictures where one side of its pair is in sight and the other is not."""
BATCH, LEARNING_RATE = 32, 3e-3
SAVE_EVERY = 100
"""Steps between two saved states."""


TOWER = dict(timm_model_name="test_resnet", timm_pool="avg", timm_proj="linear", image_size=SIZE)


def architecture(tokenizer: WordTokenizer) -> dict:
    """open_clip's ``model_cfg``."""
    text = dict(context_length=tokenizer.context, vocab_size=tokenizer.size, width=128, heads=4, layers=2)
    return dict(embed_dim=128, vision_cfg=TOWER, text_cfg=text)


def split_identities(faces: Faces) -> tuple[Faces, Faces]:
    """Every tenth identity is held out; both views of a face stay on one side."""
    order = {identity: i for i, identity in enumerate(dict.fromkeys(faces.attributes["identity"]))}
    held = np.array([order[identity] % 10 == 9 for identity in faces.attributes["identity"]])
    return faces.subset(np.flatnonzero(~held)), faces.subset(np.flatnonzero(held))


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


def resumable(
    name: str,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    schedule: Any,
    rng: torch.Generator,
    steps: int,
    seed: int,
) -> Iterator[tuple[int, tqdm]]:
    """Steps 1 to ``steps`` and their bar; after a kill from the last saved state on, which is put back first.

    All that changes from step to step is in ``modules``, ``optimiser``, ``schedule`` and ``rng``.  The state is removed
    when the caller has done the last step.
    """
    path = cache_dir() / "vlm" / f"{name}-steps{steps}-seed{seed}" / "state.safetensors"
    with hold_folder(path.parent):
        started, done = time.time(), 0
        if path.exists():
            about = restore_state(path, modules, optimiser, steps)
            started, done = started - about["seconds"], about["step"]
            rng.set_state(torch.tensor(about["rng"], dtype=torch.uint8))
            schedule.last_epoch = done - 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it has not seen a step of the optimiser
                schedule.step()
        bar = tqdm(range(done + 1, steps + 1), name, steps, initial=done, mininterval=5)
        bar.start_t = started
        for step in bar:
            yield step, bar
            if step % SAVE_EVERY == 0 and step < steps:
                about = {"seconds": time.time() - started, "rng": rng.get_state().tolist()}
                save_state(path, modules, optimiser, step=step, **about)
        path.unlink(missing_ok=True)


def train(
    clip: open_clip.CLIP, tokenizer: WordTokenizer, source: Source, args: argparse.Namespace, save: Callable
) -> None:
    """``args.steps`` steps; ``save`` gets the averaged model every fifth of the way, with step and minutes."""
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
    count, prompts = len(source.prompts), tokenizer(source.prompts)
    modules = {"clip": clip, "average": average}
    for step, bar in resumable(args.model, modules, optimiser, schedule, rng, args.steps, args.seed):
        pictures, state = source.draw(rng, BATCH)
        captions, named = write_captions(rng, state, source)
        named = torch.cat([torch.eye(count, len(source.things), dtype=torch.bool), named])
        clip.train()
        image = F.normalize(clip.encode_image(pictures), dim=-1)
        texts = F.normalize(clip.encode_text(torch.cat([prompts, tokenizer(captions)])), dim=-1)
        cosine, target = image @ texts.T, truth(state, named)
        loss = 0.5 * sigmoid_loss(cosine[:, count:], target[:, count:])
        if count:
            own = target[:, :count]
            loss = loss + sigmoid_loss(cosine[:, :count], own, one_sided(own)) + 4 * spread_loss(texts[:count])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(clip)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if step % math.ceil(args.steps / 5) == 0 or step == args.steps:
            save(average.module, step, bar.format_dict["elapsed"] / 60)


@torch.no_grad()
def renders(model: VisionLanguageModel, faces: OutlinedFaces, batches: int = 10) -> tuple[Tensor, Tensor]:
    """Cosines ``(n, 19)`` with the prompts, and states, of faces as mini_flip sees them; always the same ones."""
    rng, cosines, states = torch.Generator().manual_seed(12345), [], []
    for _ in range(batches):
        pictures, state = faces.show(rng, torch.randint(0, len(faces.images), (64,), generator=rng))
        cosines.append(model.encode_image(pictures) @ model.text(CANONICAL).T)
        states.append(state)
    return torch.cat(cosines), torch.cat(states)


@torch.no_grad()
def soft_masks(model: VisionLanguageModel, faces: OutlinedFaces) -> tuple[Tensor, Tensor]:
    """Cosines ``(n, 18)`` of each part seen through its own map at 20 x 20, and which part it is ``(n,)``.

    A diagnosis of what TCD asks for; no such picture is ever trained on.
    """
    cosines, parts = [], []
    for image, label_map in zip(faces.images, faces.maps, strict=True):
        present = [k for k in range(1, len(PARTS)) if (label_map == k).sum() >= 10]
        maps = torch.stack([(label_map == k).float() for k in present])[:, None]
        maps = F.adaptive_avg_pool2d(maps, 20)
        maps = maps / maps.amax((2, 3), keepdim=True)
        maps = F.interpolate(maps, (model.size, model.size), mode="bilinear", align_corners=False)
        cosines.append(model.encode_image(model.prepare(image[None]) * maps) @ model.text(PROMPTS).T)
        parts += [k - 1 for k in present]
    return torch.cat(cosines), torch.tensor(parts)


def evaluate(model: VisionLanguageModel, faces: OutlinedFaces) -> dict:
    """Numbers of the model card on held-out identities."""
    cosine, state = renders(model, faces)
    masked, part = soft_masks(model, faces)
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


def new_model(tokenizer: WordTokenizer) -> open_clip.CLIP:
    """Random towers in which the words, not the start and end marks, decide where a text lies from the first step.

    The words of sides are the largest: they alone tell half of the prompts apart.
    """
    clip = open_clip.CLIP(**architecture(tokenizer))
    with torch.no_grad():
        clip.token_embedding.weight[-2:] = 0
        clip.token_embedding.weight[[tokenizer.words.index(side) + 1 for side in ("left", "right")]] *= 4
    return clip


def frozen(clip: nn.Module, tokenizer: WordTokenizer, name: str) -> VisionLanguageModel:
    """A frozen copy in the precision in which it is shipped."""
    copy = open_clip.CLIP(**architecture(tokenizer))
    copy.load_state_dict({k: v.half() if v.is_floating_point() else v for k, v in clip.state_dict().items()})
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return VisionLanguageModel(name, copy, tokenizer, SIZE, mean, std)


def write_assets(
    args: argparse.Namespace, model: VisionLanguageModel, numbers: dict, step: int, minutes: float
) -> None:
    """Weights in half precision, the description that ``wsfp_helpers.nets.vlm.embedded_model`` reads, and the card."""
    state = {key: v.half() if v.is_floating_point() else v for key, v in model.clip.state_dict().items()}
    save_weights(args.out / f"{args.model}.safetensors", state)
    picture = dict(mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
    tokenizer = model.tokenize
    description = dict(model_cfg=architecture(tokenizer), preprocess_cfg=picture, words=tokenizer.words)
    write_json(args.out / f"{args.model}.json", description)
    with atomic_path(args.out / f"{args.model}.md") as part:
        part.write_text(card(args, model, numbers, step, minutes), encoding="utf-8")


CARD = """# {name}: {title}

{about}

- Size: {parameters:.2f} M parameters, image tower {tower} at {size} px; weights in half precision.
- Data: {data}.
  Faces are those of SynthFaces-19 `celeb/pretrain` (CC0, no real person): {train} to train on, {held} of every tenth
  identity held out for the numbers below.  Licence of the weights: CC0 1.0.
- Command: `{command}` (seed {seed}, {step} of {steps} steps of {batch} pictures, {minutes:.1f} minutes)
- Machine and date: {machine}, torch {torch}, {date}.

## Numbers on held-out identities
Cosine with the prompts of section 3.4, on faces as mini_flip sees them, covered and faded: {seen:.3f} for parts in
sight, {hidden:.3f} for parts out of sight.  Share of pictures with one side of a pair in sight where its own side
scores higher: {sides}.

`soft mask` is a diagnosis of what TCD asks for, on pictures no model was trained on: the picture times the part's own
map at 20 x 20, against all 18 prompts. Own prompt first: {soft_mask_first:.3f} of all parts.

| component | in sight | hidden | AUC | soft mask: own | best other | own first |
|---|---|---|---|---|---|---|
{table}

## Limits
{limits}
"""
FACES = "the rendered faces alone"
CARDS = {
    "mini_flip": dict(
        title="the embedded stand-in of FLIP",
        about="""\
A CLIP for SynthFaces-19, so that everything runs without downloads. It was trained on whole faces and close-ups that
were partly covered by boxes and blobs or faded by soft spots and noise, with captions that name the parts in sight,
read from the label maps of these faces; never on a picture cut out along a label map.""",
        data=FACES,
        limits="""\
It knows rendered faces and the words of `mini_flip.json` only, and it was shown what TCD will ask it: it says nothing
about FLIP's quality. Rare parts (eyeglasses, hat, necklace) were seen on a few dozen identities.""",
    ),
    "mini_flip_labels": dict(
        title="a stand-in of FLIP whose captions come from image-level labels",
        about="""\
What a face CLIP may know honestly: whole faces, close-ups and covered faces, each with a caption that names one to four
parts of the *whole* picture's list. No label map was opened, so a caption may name what a close-up or a cover leaves
out. Left and right are told apart only by pictures that show one side.""",
        data=FACES,
        limits="""\
Every face has skin, a nose, lips and a neck, so nothing tells these words apart. It never saw a faded picture.""",
    ),
    "mini_clip": dict(
        title="the embedded stand-in of a general CLIP (section 4.3.4)",
        about="""\
The same towers as mini_flip, on coloured shapes, textures, drawn landscapes and photographs of things; one picture in
ten is a whole face, whose caption names one to three parts of its image-level labels. 'Left' and 'right' of a face
are a coin toss, because the web uses both the subject's and the viewer's side.""",
        data="""\
drawings made while training, 21 photographs and pictures that the wheels of scikit-image, scikit-learn and
  Matplotlib ship (none shows a person; their licences are in those wheels, and of two that are CC BY 2.0 the authors
  are danielbuechele, china.jpg, and vultilion, flower.jpg, both on Flickr), and the rendered faces""",
        limits="""\
It knows the words of faces from few and incomplete captions, and has no reason to tell the parts apart that every face
has. It cannot tell left from right by design, and never saw a faded picture.""",
    ),
}
"""What the cards of the models say."""


def card(args: argparse.Namespace, model: VisionLanguageModel, numbers: dict, step: int, minutes: float) -> str:
    """The model card, its numbers from this very run."""
    rows = ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in numbers["components"]]
    command = f"python -m scripts.train_mini_vlm {args.model} --steps {args.steps} --seed {args.seed}"
    return CARD.format(
        name=args.model, parameters=sum(p.numel() for p in model.parameters()) / 1e6, size=model.size,
        tower=f"timm {TOWER['timm_model_name']}", train=args.train, held=args.held, command=command, seed=args.seed,
        step=step, steps=args.steps, batch=BATCH, minutes=minutes, torch=torch.__version__, date=date.today(),
        machine=f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)", seen=numbers["seen"],
        hidden=numbers["hidden"], soft_mask_first=numbers["soft_mask_first"], table="\n".join(rows),
        sides=", ".join(f"{name} {share}" for name, share in numbers["right_side"].items()), **CARDS[args.model],
    )  # fmt: skip


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SOURCES)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)
    training, held_out = split_identities(synthfaces("celeb/pretrain"))
    args.train, args.held = len(training), len(held_out)
    source, outlined = SOURCES[args.model](training), OutlinedFaces(held_out)
    tokenizer = WordTokenizer(vocabulary(source), CONTEXT)

    def save(clip: nn.Module, step: int, minutes: float) -> None:
        model = frozen(clip, tokenizer, args.model)
        numbers = evaluate(model, outlined)
        write_assets(args, model, numbers, step, minutes)
        print(f"\nstep {step}: in sight {numbers['seen']}, hidden {numbers['hidden']}, {numbers['right_side']}")

    train(new_model(tokenizer), tokenizer, source, args, save)


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

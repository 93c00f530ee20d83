"""Train the embedded image-text model that can be asked about places; write its asset and model card.

usage: python -m scripts.train_dense_vlm [--steps N] [--seed 0] [--out wsfp_helpers/assets]

A small ViT behind the frozen trunk learns from what mini_flip learns from: faces and close-ups of SynthFaces-19
celeb/pretrain, partly faded or covered, with captions that name the parts in sight.

A training that was killed goes on from its last saved state, which is in the cache, to the same weights; its pictures
are drawn again.
"""

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from scripts.train_mini_vlm import CONTEXT, one_sided, resumable, sigmoid_loss, split_identities, spread_loss, truth
from scripts.vlm_pictures import CANONICAL, PARTS, OutlinedFaces, vocabulary, write_captions
from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import ASSETS, atomic_path, write_json
from wsfp_helpers.common.pictures import IMAGENET_MEAN, IMAGENET_STD
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.nets.dense import BACKGROUND, DenseModel
from wsfp_helpers.nets.trunk import Trunk, load_trunk
from wsfp_helpers.nets.vlm import VisionLanguageModel, WordTokenizer, trunk_clip

NAME = "mini_flip_dense"
SIZE = 224
"""Side of the training pictures, 14 x 14 tokens; faces are read at 320 later, and close-ups have the scale of those."""
POOL, BATCH, LEARNING_RATE = 3_000, 32, 1e-3
TOWER = dict(image_size=14, patch_size=1, width=192, layers=3, head_width=64, pool_type="avg")
"""open_clip's ``vision_cfg``; the tower's first convolution takes one token of the trunk for a pixel."""


def pool_of(faces: OutlinedFaces, count: int, seed: int, trunk: Trunk) -> tuple[Tensor, Tensor]:
    """Trunk tokens ``(count, N, 384)`` float16 of rendered pictures, and what is in sight ``(count, 19)``."""
    rng = torch.Generator().manual_seed(seed)
    tokens, states = [], []
    for _ in tqdm(range(0, count, BATCH), desc="renders", unit="batch"):
        pictures, state = faces.draw(rng, BATCH)
        tokens.append(trunk(pictures).half())
        states.append(state)
    return torch.cat(tokens), torch.cat(states)


def train(
    clip: nn.Module,
    tokenizer: WordTokenizer,
    faces: OutlinedFaces,
    pool: tuple[Tensor, Tensor],
    steps: int,
    seed: int,
    save: Callable[[nn.Module, float], None],
) -> None:
    """``steps`` steps; at the end ``save`` gets the averaged model and the minutes that they took."""
    model = DenseModel(
        VisionLanguageModel(NAME, clip, tokenizer, SIZE, (0,) * 3, (1,) * 3), SIZE, BACKGROUND, load_trunk()
    )
    clip.requires_grad_(True)
    rng = torch.Generator().manual_seed(seed)
    decay, plain = [], []
    for parameter in clip.parameters():
        (decay if parameter.ndim > 1 else plain).append(parameter)
    optimiser = torch.optim.AdamW(
        [dict(params=decay, weight_decay=0.05), dict(params=plain, weight_decay=0.0)], LEARNING_RATE, (0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, steps, pct_start=0.1)
    average = AveragedModel(clip, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    canonical, classes = tokenizer(CANONICAL), len(PARTS)
    for step, bar in resumable(NAME, {"clip": clip, "average": average}, optimiser, schedule, rng, steps, seed):
        index = torch.randint(len(pool[0]), (BATCH,), generator=rng)
        state = pool[1][index]
        captions, named = write_captions(rng, state, faces)
        named = torch.cat([torch.eye(classes, dtype=torch.bool), named])
        image = model.vector(model(pool[0][index].float()).tokens[-1])
        texts = F.normalize(clip.encode_text(torch.cat([canonical, tokenizer(captions)])), dim=-1)
        cosine, target = image @ texts.T, truth(state, named)
        own = target[:, :classes]
        loss = sigmoid_loss(cosine[:, :classes], own, one_sided(own))
        loss = loss + 0.5 * sigmoid_loss(cosine[:, classes:], target[:, classes:]) + 4 * spread_loss(texts[:classes])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(clip)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if step == steps:
            save(average.module, bar.format_dict["elapsed"] / 60)


@torch.no_grad()
def evaluate(model: DenseModel, pool: tuple[Tensor, Tensor], faces: OutlinedFaces) -> dict:
    """Numbers of the card: cosines and sides on renders of held-out identities, and places on their whole faces."""
    texts = model.text(CANONICAL)
    cosine = torch.cat([model.vector(model(part.float()).tokens[-1]) @ texts.T for part in pool[0].split(64)])
    state, sides = pool[1], {}
    for left, right in CELEBAMASK.pairs:
        a, b = CELEBAMASK.index(left), CELEBAMASK.index(right)
        one = (state[:, a] + state[:, b]) == 1
        sides[left[2:]] = ((cosine[one, a] > cosine[one, b]) == (state[one, a] == 1)).float().mean()
    aucs = []
    for k in range(1, len(PARTS)):
        seen, hidden = cosine[state[:, k] == 1, k], cosine[state[:, k] == 0, k]
        aucs.append((seen[:, None] > hidden).float().mean())
    auc = torch.stack(aucs)
    hit = torch.zeros(len(PARTS), 2)
    for image, label_map in zip(faces.images, faces.maps, strict=True):
        trunk_in = model.trunk.prepare(image[None], model.size)
        places = model.patches(model(model.trunk(trunk_in)).tokens[-1])[0] @ texts.T  # (N, 19)
        small = label_map[4::8, 4::8]  # of 160 pixels, at the middle of each of 20 x 20 patches
        for k in range(1, len(PARTS)):
            if (small == k).any():
                hit[k] += torch.tensor([float(small.flatten()[places[:, k].argmax()] == k), 1.0])
    return dict(auc=auc, sides=sides, point=hit[1:, 0] / hit[1:, 1].clamp(min=1))


CARD = """# {name}: the embedded image-text model that can be asked about places

mini_flip's last grid is 3 x 3, too coarse for CLIP-ES, WeCLIP and WeakCLIP.  This is a small ViT (3 blocks, width 192)
behind the frozen trunk, with the names and shapes of CLIP's own tower and mini_flip's words; a picture's vector is the
mean over its patches.  It was trained on what mini_flip was trained on: whole faces and close-ups that were partly
covered by boxes and blobs or faded by soft spots and noise, with captions that name the parts in sight.  Which parts
are in sight was read from the label maps of these pretraining faces; no picture was cut out along one, and no place was
ever named.

- Size: {parameters:.2f} M parameters beside the trunk's; weights in half precision; 14 x 14 tokens in training, 20 x 20
  on faces of 320 pixels.
- Data: {pool} renders of SynthFaces-19 `celeb/pretrain` (rendered faces, CC0, no real person): {train} pictures; {held}
  of every tenth identity held out for the numbers below.  The trunk saw photographs (assets/trunk.md).  Licence of the
  weights: CC0 1.0.
- Command: `python -m scripts.train_dense_vlm --steps {steps} --seed {seed}` ({minutes:.1f} minutes)
- Machine and date: {machine}, torch {torch}, {date}.

## Numbers on held-out identities
Share of pairs of renders, one with the part in sight and one without, that the text ranks right (AUC), and how often
the patch of a whole face that is nearest to the text lies on the part (pointing; nothing was trained to do that).
Its own side scores higher where one side of a pair is in sight: {sides}.

| component | AUC | pointing |
|---|---:|---:|
{table}

## Limits
It knows rendered faces and the words of `mini_flip_dense.json` only, and stands in for FLIP-B/16 in the systems that
read places; it says nothing about FLIP's quality.
"""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()
    started = time.monotonic()
    torch.manual_seed(args.seed)
    statistics = [torch.tensor(value).view(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD)]
    parts = split_identities(synthfaces("celeb/pretrain"))
    training, held_out = (OutlinedFaces(part, SIZE, *statistics) for part in parts)
    words = vocabulary(training)
    tokenizer, trunk = WordTokenizer(words, CONTEXT), load_trunk()
    text = dict(context_length=CONTEXT, vocab_size=tokenizer.size, width=128, heads=4, layers=2)
    config = dict(embed_dim=128, vision_cfg=TOWER, text_cfg=text)
    clip = trunk_clip(config, trunk.width)
    with torch.no_grad():  # words, not the start and end marks, decide where a text lies; sides weigh most
        clip.token_embedding.weight[-2:] = 0
        clip.token_embedding.weight[[words.index(side) + 1 for side in ("left", "right")]] *= 4
    pool = pool_of(training, POOL, args.seed, trunk)
    drawn = time.monotonic() - started

    def save(clip: nn.Module, minutes: float) -> None:
        trained = time.monotonic()
        halved = {key: v.half() if v.is_floating_point() else v for key, v in clip.state_dict().items()}
        clip.load_state_dict(halved)
        model = DenseModel(VisionLanguageModel(NAME, clip, tokenizer, SIZE, (0,) * 3, (1,) * 3), 320, BACKGROUND, trunk)
        numbers = evaluate(model, pool_of(held_out, 640, 12345, trunk), held_out)
        save_weights(args.out / f"{NAME}.safetensors", halved)
        picture = dict(mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
        write_json(args.out / f"{NAME}.json", dict(model_cfg=config, preprocess_cfg=picture, words=words))
        rows = zip(CELEBAMASK.components, numbers["auc"], numbers["point"], strict=True)
        with atomic_path(args.out / f"{NAME}.md") as part:
            part.write_text(
                CARD.format(
                    name=NAME, parameters=sum(p.numel() for p in clip.parameters()) / 1e6, pool=POOL,
                    train=len(training.images), held=len(held_out.images), steps=args.steps, seed=args.seed,
                    minutes=minutes + (drawn + time.monotonic() - trained) / 60, torch=torch.__version__,
                    machine=f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)", date=date.today(),
                    sides=", ".join(f"{key} {value:.3f}" for key, value in numbers["sides"].items()),
                    table="\n".join(f"| {name} | {auc:.3f} | {point:.2f} |" for name, auc, point in rows),
                ),
                encoding="utf-8",
            )  # fmt: skip

    train(clip, tokenizer, training, pool, args.steps, args.seed, save)


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

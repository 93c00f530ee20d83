"""Measure what each term of the loss asks of each part of the network, and write gradients.json with its page.

usage: python scripts/measure_gradients.py [FOLDER]   the networks of the full method in the embedded world, three
                                                      seeds, before and after their training; trains those that
                                                      `wsfp ablate table3` has not left in the cache

FOLDER is where the results go, by default results/.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.labels import COMPONENTS, PROMPTS
from wsfp_helpers.method.ccd import mask_faces
from wsfp_helpers.method.tcd import Objective, TcdConfig, encode_renders, sample_components
from wsfp_helpers.method.train import DisFaceRep, Trainer, TrainingSet
from wsfp_helpers.method.vit import patch_attention
from wsfp_helpers.nets.vlm import VisionLanguageModel
from wsfp_helpers.profiles import Profile, profile
from wsfp_helpers.stages import SHIPPED, open_boxes, run_keyed
from wsfp_helpers.tooling.results import row, write_results

SEEDS = (0, 1, 2)
BATCHES = 3
"""Batches of the training set, of its size in training; a norm is the mean over them."""
PARTS = {
    "patch head": ("vit.patch_head.",),
    "class tokens": ("vit.cls_token", "vit.pos_embed_cls"),
    "trained block": ("vit.blocks.",),
}
EYES = [COMPONENTS.index("l_eye"), COMPONENTS.index("r_eye")]
WIDEN = "maps of the eyes"


def weights(tcd: TcdConfig) -> dict[str, float]:
    """The weight of every term in the loss: 1 for the base losses, those of Eq. 10, 14 and 16 for the others."""
    base = dict.fromkeys(("class_mlsm", "contrast", "patch_mlsm"), 1.0)
    positive = {"pos_cls": tcd.alpha0, "pos_ffc": tcd.alpha1}
    negative = {"neg_cls": tcd.beta0, "neg_ffc": tcd.beta1, "neg_bfc": tcd.beta2}
    return base | positive | negative | {"reg": tcd.reg}


def gradients(
    model: DisFaceRep, objective: Objective, batch: Mapping[str, Tensor], weight: Mapping[str, float]
) -> dict[str, dict[str, Tensor]]:
    """The gradient of each weighted term, flat, by part of the network.

    Under :data:`WIDEN` it is that of the patch map of the eyes ``(B, 2, h, w)``, before the sigmoid of Eq. 4.
    """
    output, v_cls = model(batch["input"])
    terms = objective(output, v_cls, batch["picture"], batch["labels"])[1]
    named = dict(model.named_parameters())
    parameters = {part: [named[key] for key in named if key.startswith(begins)] for part, begins in PARTS.items()}
    wanted = [output.patch_map, *(each for some in parameters.values() for each in some)]
    found: dict[str, dict[str, Tensor]] = {}
    for term, factor in weight.items():
        loss = factor * terms[term]
        maps, *rest = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
        found[term] = {WIDEN: maps[:, EYES]}
        for part, some in parameters.items():
            found[term][part] = torch.cat([rest.pop(0).flatten() for _ in some])
    return found


@torch.no_grad()
def cosines(
    model: DisFaceRep, vlm: VisionLanguageModel, batch: Mapping[str, Tensor], most: int
) -> dict[tuple[str, str], float]:
    """Mean cosines of class tokens and foregrounds with their own and the other texts, by vector and what it is.

    Where a cosine with another text is not above 0, Eq. 11 and 12 have no gradient.
    """
    output, v_cls = model(batch["input"])
    rendered = sample_components(batch["labels"], most)
    v_ffc, _ = encode_renders(patch_attention(output.patch_map), batch["picture"], rendered, vlm, with_background=False)
    text, found = vlm.text(PROMPTS), {}
    for name, vectors, present in (("v_cls", v_cls, batch["labels"].bool()), ("v_ffc", v_ffc, rendered)):
        assert vectors is not None
        every = F.cosine_similarity(vectors[:, :, None], text, dim=-1)[present]  # (n, K)
        own = torch.eye(len(text), dtype=torch.bool).expand(len(present), -1, -1)[present]
        found[name, "cosine with its own text"] = float(every[own].mean())
        found[name, "cosine with other texts"] = float(every[~own].mean())
        found[name, "share of other texts not above 0"] = float((every[~own] <= 0).float().mean())
    return found


def measure(config: Profile, seed: int, trained: bool) -> dict[tuple[str, str], float]:
    """Norms by part and term, and cosines; for :data:`WIDEN` how strongly a term widens the maps of the eyes."""
    assert config.train.tcd is not None and config.ccd is not None
    run = run_keyed(config, SHIPPED, cache_dir() / "ablate") if trained else None
    faces = mask_faces(config.faces("train").weak, open_boxes(SHIPPED, config), config.ccd, seed)
    size = config.train.batch_size
    some = faces.subset(range(BATCHES * size))
    vlm, vit = config.load_vlm(), config.model.build(seed)
    trainer = Trainer(vit, some, config.train, run, vlm)  # with a finished run it has that run's weights
    trainer.model.eval()
    data = TrainingSet(some, vit, vlm.size)
    means: dict[tuple[str, str], float] = {}

    def add(key: tuple[str, str], value: Tensor | float) -> None:
        means[key] = means.get(key, 0.0) + float(value) / BATCHES

    for start in range(0, len(some), size):
        batch = default_collate([data[0, i] for i in range(start, start + size)])
        torch.manual_seed(start)  # the choice of renders
        found = gradients(trainer.model, trainer.objective, batch, weights(config.train.tcd))
        for term, by_part in found.items():
            for part, gradient in by_part.items():
                add((part, term), -gradient.sum() if part == WIDEN else gradient.norm())
        for key, value in cosines(trainer.model, vlm, batch, config.train.tcd.max_classes_per_image).items():
            add(key, value)
    return means


def rows(config: Profile) -> Iterable[dict]:
    """Rows by moment, part and term."""
    for when, trained in (("start", False), ("end", True)):
        each = [measure(replace(config, train=replace(config.train, seed=seed)), seed, trained) for seed in SEEDS]
        order = [*PARTS, WIDEN, "v_cls", "v_ffc"]
        for part, what in sorted(each[0], key=lambda key: order.index(key[0])):
            metric = "norm" if part in PARTS else "push" if part == WIDEN else "mean"
            yield row(f"{when}, {part}: {what}", metric, "", [means[part, what] for means in each])


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    target = sys.argv[1] if len(sys.argv) == 2 else "results"
    with exit_on_bad_input():
        print(write_results("gradients", "python scripts/measure_gradients.py", [*rows(profile("embedded"))], target))

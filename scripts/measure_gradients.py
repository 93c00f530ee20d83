"""Measure what each term of the loss asks of each part of the network, and write gradients.json with its page.

usage: python scripts/measure_gradients.py [FOLDER]   the networks of the full method in the embedded world, three
                                                      seeds, before and after their training; trains those that
                                                      `wsfp ablate table3` has not left in the cache

FOLDER is where the results go, by default results/.
"""

import sys
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import default_collate

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.method.ccd import mask_faces
from wsfp_helpers.method.train import Trainer, TrainingSet
from wsfp_helpers.profiles import Profile, profile
from wsfp_helpers.stages import SHIPPED, open_boxes, run_keyed
from wsfp_helpers.tooling.gradients import PARTS, WIDEN, cosines, gradients, weights
from wsfp_helpers.tooling.results import row, write_results

SEEDS = (0, 1, 2)
BATCHES = 3
"""Batches of the training set, of its size in training; a norm is the mean over them."""


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

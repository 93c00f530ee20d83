"""Measure what the exchange of left and right in mirrored maps is worth, and write mirror.json with its page.

usage: python scripts/measure_mirror.py [FOLDER]   the networks of `wsfp ablate table3`, three seeds; trains those that
                                                   it has not left in the cache

FOLDER is where the results go, by default results/.  MCTformer+ adds the map of a mirrored picture to that of the
picture class by class (docs/design.md, 1.5 and 1.9), so that half of a left eye's evidence is of the right eye.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.pictures import flip_image
from wsfp_helpers.data.weak import WeakFaces, uniform_subset
from wsfp_helpers.method.fcam import Fcam, FcamConfig, extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.method.vit import MultiClassTokenViT
from wsfp_helpers.profiles import Profile, profile
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels
from wsfp_helpers.stages import SHIPPED, load_run, run_keyed
from wsfp_helpers.tooling.ablate import measure, table3
from wsfp_helpers.tooling.results import scores_row, write_results

SEEDS = (0, 1, 2)


def without_exchange(vit: MultiClassTokenViT, faces: WeakFaces, config: FcamConfig) -> Iterator[Fcam]:
    """FCAMs as MCTformer+ makes them: the map of a class in the mirrored picture is added to that of the same class."""
    alone = replace(config, flip=False)
    mirrored = replace(faces, read=lambda key: flip_image(faces.read(key)))
    for here, there in zip(extract(vit, faces, alone), extract(vit, mirrored, alone), strict=True):
        yield replace(here, grids=tuple(a + b.flip(-1) for a, b in zip(here.grids, there.grids, strict=True)))


def rows(config: Profile) -> Iterable[dict]:
    """For each line of Table 3 the pseudo labels with and without the exchange."""
    faces, work = config.faces("train"), cache_dir() / "ablate"
    faces = faces.subset(uniform_subset(len(faces), config.subset))
    for line in table3(config):
        yield scores_row(f"{line.name}, exchanged", [measure(line, config, SHIPPED, seed, work) for seed in SEEDS])
        scores = []
        for seed in SEEDS:
            vit, _ = load_run(run_keyed(line.change(config, seed), SHIPPED, work))
            maps = without_exchange(vit, faces.weak, config.fcam)
            scores.append(score_pseudo_labels((pseudo_label(each, config.theta) for each in maps), faces))
        yield scores_row(f"{line.name}, as they are", scores)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    target = sys.argv[1] if len(sys.argv) == 2 else "results"
    with exit_on_bad_input():
        print(write_results("mirror", "python scripts/measure_mirror.py", [*rows(profile("embedded"))], target))

"""What each step of the region labels and each supervision is worth (method/regions.py; not the paper's).

usage: python scripts/measure_regions.py docs/results [--seeds 0,1,2]

Clusters are found on all training faces, labels are scored on the part of them that the ablations score.  Label maps
are opened for the scores alone.  Networks are those of `wsfp ablate table3`, and one with words but without boxes.
Everything is kept in the cache, so an interrupted run goes on.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.configs import key_of
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import read_json, write_json
from wsfp_helpers.data.weak import uniform_subset
from wsfp_helpers.method.fcam import extract_to_folder
from wsfp_helpers.method.regions import RegionConfig, find_regions
from wsfp_helpers.profiles import profile
from wsfp_helpers.score.confusion import Scores
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels
from wsfp_helpers.stages import SHIPPED, accept_all, load_run, open_boxes, run_keyed
from wsfp_helpers.tooling.ablate import Row, table3
from wsfp_helpers.tooling.results import scores_row, write_results

ALL = RegionConfig()
STEPS = {
    "labels, boxes and words: all steps": ALL,
    "without clusters": replace(ALL, clusters=()),
    "without the contrast of labels": replace(ALL, contrast=False),
    "without FCAMs": replace(ALL, fcam=False),
    "without EM": replace(ALL, rounds=0),
    "one round of EM": replace(ALL, rounds=1),
    "without shapes in boxes": replace(ALL, shapes=False),
    "without the guided filter": replace(ALL, radius=0),
    "without boxes": replace(ALL, boxes=False),
}
"""The settings of each row with the maps of the full method."""
SUPERVISION = {
    "labels and boxes (maps of + CCD)": ("Base. + CCD", ALL),
    "labels and words (maps of TCD without CCD)": ("TCD", replace(ALL, boxes=False)),
    "labels alone (maps of the baseline)": ("Base.", replace(ALL, boxes=False)),
}
"""The same by what the networks and the regions have seen."""


def scores_of(row: Row, config: RegionConfig, seed: int) -> Scores:
    """Scores of one row with one seed, kept beside its network."""
    embedded = profile("embedded")
    run = run_keyed(row.change(embedded, seed), SHIPPED, cache_dir() / "ablate")
    known = run / f"regions_{key_of({'regions': config, 'subset': embedded.subset})}.json"
    if not known.exists():
        faces = embedded.faces("train")
        fcams = extract_to_folder(load_run(run)[0], faces.weak, run / "fcams", embedded.fcam)
        regions = find_regions(faces.weak, fcams, accept_all(faces.weak, open_boxes(SHIPPED, embedded)), config, seed)
        chosen = uniform_subset(len(faces), embedded.subset)
        scores = score_pseudo_labels((regions.label(i) for i in chosen), faces.subset(chosen))
        write_json(known, {"matrix": scores.matrix})
    return Scores(np.array(read_json(known)["matrix"]), images=embedded.subset)


def main() -> None:
    """Run the command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("results", type=Path)
    arguments.add_argument("--seeds", default="0,1,2")
    chosen = arguments.parse_args()
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    embedded = profile("embedded")
    networks = {row.name: row for row in table3(embedded)}
    networks["TCD"] = Row("TCD", ccd=False, tcd=embedded.train.tcd)
    rows = {name: ("Base. + CCD + TCD", config) for name, config in STEPS.items()} | SUPERVISION
    scores: dict[str, list[Scores]] = {name: [] for name in rows}
    for seed in seeds:
        for name, (network, config) in rows.items():
            scores[name].append(scores_of(networks[network], config, seed))
            print(f"seed {seed}  {name:45} mean F1 {scores[name][-1].mean_f1:5.1f}", flush=True)
    command = f"python scripts/measure_regions.py docs/results --seeds {chosen.seeds}"
    write_results("regions", command, [scores_row(name, each) for name, each in scores.items()], chosen.results)


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

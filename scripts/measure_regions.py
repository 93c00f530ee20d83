"""What each step of the region labels and each supervision is worth (method/regions.py; not the paper's).

usage: python scripts/measure_regions.py steps|constants docs/results [--seeds 0,1,2]

``steps`` leaves out one step or one supervision at a time: clusters are found on all training faces, labels scored on
the part of them that the ablations score.  ``constants`` changes one constant at a time on celeb/val, where they were
chosen.  Label maps are opened for the scores alone.  Networks are those of `wsfp ablate table3`, and one with words but
without boxes.  Everything is kept in the cache, so an interrupted run goes on.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.configs import key_of
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import write_json
from wsfp_helpers.data.weak import uniform_subset
from wsfp_helpers.detect.boxes import shipped_boxes
from wsfp_helpers.method.fcam import extract_to_folder
from wsfp_helpers.method.regions import RegionConfig, find_regions
from wsfp_helpers.profiles import profile
from wsfp_helpers.score.confusion import Scores
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels
from wsfp_helpers.stages import SHIPPED, accept_all, load_run, run_keyed
from wsfp_helpers.tooling.ablate import Row, read_scores, table3
from wsfp_helpers.tooling.results import narrow, scores_row, write_results

ALL = RegionConfig()
FULL = "Base. + CCD + TCD"
STEPS = {
    "labels, boxes and words: all steps": (FULL, ALL),
    "without clusters": (FULL, replace(ALL, clusters=())),
    "without the contrast of labels": (FULL, replace(ALL, contrast=False)),
    "without FCAMs": (FULL, replace(ALL, fcam=False)),
    "without EM": (FULL, replace(ALL, rounds=0)),
    "one round of EM": (FULL, replace(ALL, rounds=1)),
    "without shapes in boxes": (FULL, replace(ALL, shapes=False)),
    "without the guided filter": (FULL, replace(ALL, radius=0)),
    "without boxes": (FULL, replace(ALL, boxes=False)),
    "labels and boxes (maps of + CCD)": ("Base. + CCD", ALL),
    "labels and words (maps of TCD without CCD)": ("TCD", replace(ALL, boxes=False)),
    "labels alone (maps of the baseline)": ("Base.", replace(ALL, boxes=False)),
}
"""By the name of a row, the network whose maps it reads and the settings.  The last three differ in what networks and
regions have seen."""
VALUES: Mapping[str, Sequence] = {
    "clusters": [(256,), (128, 128, 128), (512, 512, 512)], "dims": [32], "border_weight": [1.0, 3.0],
    "skin_weight": [0.0, 0.3, 1.0], "contrast_weight": [1.0, 2.0], "smoothing": [3.0, 30.0], "level": [0.1, 0.3],
    "margin": [0.05, 0.2], "keep": [0.8, 0.9], "rounds": [3], "radius": [4, 12], "jewellery": [0.7, 0.95],
}  # fmt: skip
"""Other values of each constant."""
CONSTANTS = {"as it is": (FULL, ALL)} | {
    f"{name} = {value}": (FULL, replace(ALL, **{name: value})) for name, values in VALUES.items() for value in values
}


def scores_of(row: Row, config: RegionConfig, seed: int, part: str, subset: int) -> Scores:
    """Scores of one row with one seed on a part of the data, kept beside its network."""
    embedded = profile("embedded")
    run = run_keyed(row.change(embedded, seed), SHIPPED, cache_dir() / "ablate")
    known = run / f"regions_{part}_{key_of({'regions': config, 'subset': subset})}.json"
    if not known.exists():
        faces = embedded.faces(part)
        fcams = extract_to_folder(load_run(run)[0], faces.weak, run / f"fcams_{part}", embedded.fcam)
        boxes = accept_all(faces.weak, shipped_boxes(f"celeb/{part}"))
        regions, chosen = find_regions(faces.weak, fcams, boxes, config, seed), uniform_subset(len(faces), subset)
        scores = score_pseudo_labels((regions.label(i) for i in chosen), faces.subset(chosen))
        write_json(known, {"matrix": scores.matrix})
    return read_scores(known, subset)


def main() -> None:
    """Run the command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["steps", "constants"])
    arguments.add_argument("results", type=Path)
    arguments.add_argument("--seeds", default="0,1,2")
    chosen = arguments.parse_args()
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    embedded = profile("embedded")
    networks = {row.name: row for row in table3(embedded)} | {"TCD": Row("TCD", ccd=False, tcd=embedded.train.tcd)}
    rows, part, subset, page = {
        "steps": (STEPS, "train", embedded.subset, "regions"),
        "constants": (CONSTANTS, "val", len(embedded.faces("val")), "region_constants"),
    }[chosen.what]
    scores: dict[str, list[Scores]] = {name: [] for name in rows}
    for seed in seeds:
        for name, (network, config) in rows.items():
            scores[name].append(scores_of(networks[network], config, seed, part, subset))
            print(f"seed {seed}  {name:45} mean F1 {scores[name][-1].mean_f1:5.1f}", flush=True)
    command = f"python scripts/measure_regions.py {chosen.what} docs/results --seeds {chosen.seeds}"
    results = narrow([scores_row(name, each) for name, each in scores.items()])
    write_results(page, command, results, chosen.results)


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

"""Train the shipped light parsers on SynthFaces-19 celeb/train, and score them on every test set.

usage: python scripts/train_parsers.py supervised
       python scripts/train_parsers.py weak --fcams FOLDER
       python scripts/train_parsers.py scores [--only SET]

``weak`` learns from the maps of ``wsfp fcam`` and CCD's accepted boxes (wsfp_helpers/boxed.py) and opens no label map;
``supervised`` learns from the rendered masks.  ``scores`` writes docs/results/parsers.json, with FRL London among the
sets also docs/results/fairness.json, and the table of the model card, wsfp_helpers/assets/parser.md.
"""

import argparse
import shlex
import sys
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np

from wsfp_helpers.augment import WITH_MASKS
from wsfp_helpers.boxed import boxed_label
from wsfp_helpers.ccd import CCDConfig, accepted_boxes
from wsfp_helpers.data.cache import cache_dir
from wsfp_helpers.data.frl import frl_london, of_photographs
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.detect.boxes import shipped_boxes
from wsfp_helpers.evaluate import Scores, pooled
from wsfp_helpers.fcam import FcamFolder
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.parser import ASSETS, SHIPPED, Parser, load_parser, make_copies, train_parser
from wsfp_helpers.profiles import profile
from wsfp_helpers.results import group_rows, scored_rows, write_results
from wsfp_helpers.segment import remove_state
from wsfp_helpers.storage import atomic_path, exit_on_bad_input
from wsfp_helpers.tables import groups_of, scored, scores_of
from wsfp_helpers.trunk import load_trunk

CARD = ASSETS / "parser.md"
BEGIN, END = "<!-- scores: written by scripts/train_parsers.py scores -->\n", "<!-- end of scores -->"
SETS = ("FRL London", "celeb/val", "celeb/test", "lapa/test", "helen/test")


def train(kind: str, fcams: Path | None, seed: int) -> Path:
    """Train one parser and write its asset."""
    faces, config, trunk = synthfaces("celeb/train"), profile("embedded").parser, load_trunk()
    if kind == "supervised":
        config = replace(config, augment=WITH_MASKS)
        copies = make_copies(faces, faces.label_map, config, trunk)
        targets = "rendered masks of SynthFaces-19 celeb/train"
    else:
        weak, maps, boxes, ccd = faces.weak(), FcamFolder(fcams), shipped_boxes("celeb/train"), CCDConfig()
        place = {key: i for i, key in enumerate(maps.ids)}

        def target(index: int) -> np.ndarray:
            record = boxes[weak.ids[index]]
            return boxed_label(maps[place[weak.ids[index]]], accepted_boxes(record.candidates, record.size, ccd))

        copies = make_copies(weak, cache(target), config, trunk)
        targets = "FCAMs of SynthFaces-19 celeb/train from image-level labels, with the boxes that CCD accepts"
    folder = cache_dir() / "parsers" / f"{kind}-seed{seed}"
    network, losses = train_parser(copies, config, seed=seed, folder=folder, desc=kind)
    facts = {
        "targets": targets,
        "command": shlex.join(["python", "scripts/train_parsers.py", *sys.argv[1:]]),
        "seed": seed,
        "date": date.today().isoformat(),
        "last_loss": float(np.mean(losses[-50:])),
    }
    Parser(network, trunk, config, facts).save(SHIPPED[kind])
    remove_state(folder)
    return SHIPPED[kind]


def write_card(scores: dict[tuple[str, str], Scores]) -> None:
    """Put a table of the scores of every parser (first of the key) on every set (second) into the model card."""
    kinds, sets = (list(dict.fromkeys(key[place] for key in scores)) for place in (0, 1))
    names = ["**mean**", *CELEBAMASK.components]
    columns = [(kind, name) for name in sets for kind in kinds]
    lines = [f"| class | {' | '.join(f'{name}: {kind}' for kind, name in columns)} |"]
    lines += ["| --- |" + " ---: |" * len(columns)]
    for name in names:
        values = [scores[key].mean_f1 if name == names[0] else scores[key].per_class.get(name) for key in columns]
        lines.append(f"| {name} | {' | '.join('' if value is None else f'{value:.1f}' for value in values)} |")
    before, _, rest = CARD.read_text(encoding="utf-8").partition(BEGIN)
    with atomic_path(CARD) as part:
        part.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2], encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=[*SHIPPED, "scores"])
    arguments.add_argument("--fcams", type=Path, help="folder of wsfp fcam on celeb/train, for weak")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", choices=SETS)
    chosen = arguments.parse_args()
    if (chosen.what == "weak") != (chosen.fcams is not None):
        arguments.error("weak needs --fcams, and only weak does")
    if chosen.what != "scores":
        print(train(chosen.what, chosen.fcams, chosen.seed))
        return
    only = f' --only "{chosen.only}"' if chosen.only else ""
    command, scores, rows, groups = f"python scripts/train_parsers.py scores{only}", {}, [], []
    for name in [chosen.only] if chosen.only else SETS:
        faces = frl_london() if name == "FRL London" else synthfaces(name)
        for kind in [kind for kind, path in SHIPPED.items() if path.exists()]:
            matrices, classes = scores_of(load_parser(kind), faces, kind), scored(faces)
            scores[kind, name] = pooled(matrices, scored=classes)
            print(f"{kind} on {name}\n{scores[kind, name].table()}\n", flush=True)
            rows += scored_rows(f"{kind}, {name} ({len(faces)} pictures)", matrices[None], scored=classes)
            if of_photographs(faces):
                groups += group_rows(f"{kind}, {name}", matrices[None], groups_of(faces), scored=classes)
        write_results("parsers", command, rows)
        write_card(scores)
    if groups:
        write_results("fairness", command, groups)


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

"""Train the shipped light parsers on SynthFaces-19 celeb/train, and score them on every test set.

usage: python scripts/train_parsers.py supervised
       python scripts/train_parsers.py weak --fcams FOLDER
       python scripts/train_parsers.py scores [--only SET] [--results FOLDER]

``weak`` learns from region labels (``wsfp regions``: the maps of ``wsfp fcam``, CCD's accepted boxes and image-level
labels) and opens no label map; ``supervised`` learns from the rendered masks.  ``scores`` writes parsers.json to the
results folder, with FRL London among the sets also fairness.json, and the table of the model card,
wsfp_helpers/assets/parser.md.  A training that was killed goes on from its last saved state.
"""

import argparse
from dataclasses import replace
from datetime import date
from pathlib import Path

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import ASSETS, CONFIG, atomic_path, read_json
from wsfp_helpers.data.frl import frl_london
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.method.pseudo import read_targets
from wsfp_helpers.parsing.augment import WITH_MASKS
from wsfp_helpers.parsing.load import SHIPPED_PARSERS, load_parser
from wsfp_helpers.profiles import profile
from wsfp_helpers.score.confusion import Scores, pooled
from wsfp_helpers.stages import run_regions, score_parser, train_parser
from wsfp_helpers.tooling.results import group_rows, scored_rows, write_results

CARD = ASSETS / "parser.md"
BEGIN, END = "<!-- scores: written by scripts/train_parsers.py scores -->\n", "<!-- end of scores -->"
STEPS = 1500
"""Optimiser steps of a training."""
SETS = ("FRL London", "celeb/val", "celeb/test", "lapa/test", "helen/test")


def train(kind: str, fcams: Path | None, seed: int) -> Path:
    """Train one parser and write its asset."""
    faces, config = synthfaces("celeb/train"), profile("embedded").parser
    config = replace(config, undo_balance=True, fit=replace(config.fit, steps=STEPS))
    if kind == "supervised":
        config, target = replace(config, augment=WITH_MASKS), faces.label_map
        targets = "rendered masks of SynthFaces-19 celeb/train"
    else:
        labels = run_regions(profile("embedded"), fcams, cache_dir() / "parsers" / f"regions-seed{seed}", seed=seed)
        target = read_targets(labels, faces.weak)
        targets = "region labels of SynthFaces-19 celeb/train: FCAMs, image-level labels and the boxes that CCD accepts"
    maps = ["--fcams", "FOLDER"] if fcams else []  # a path of this machine says nothing on another
    command = " ".join(["python scripts/train_parsers.py", kind, *maps, "--seed", str(seed)])
    folder = cache_dir() / "parsers" / f"{kind}-seed{seed}"
    started = folder / CONFIG  # a killed run that goes on another day is the same run
    day = read_json(started)["config"]["date"] if started.exists() else date.today().isoformat()
    facts = {"targets": targets, "command": command, "date": day}
    trained = train_parser(config, faces.weak, target, folder, facts, seed, kind)
    with atomic_path(SHIPPED_PARSERS[kind]) as part:
        part.write_bytes(trained.read_bytes())
    return SHIPPED_PARSERS[kind]


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
    """Run the command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=[*SHIPPED_PARSERS, "scores"])
    arguments.add_argument("--fcams", type=Path, help="folder of wsfp fcam on celeb/train, for weak")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", choices=SETS)
    arguments.add_argument("--results", type=Path, default=Path("results"))
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
        for kind in [kind for kind, path in SHIPPED_PARSERS.items() if path.exists()]:
            matrices, classes = score_parser(load_parser(kind), faces, kind), faces.scored
            scores[kind, name] = pooled(matrices, scored=classes)
            print(f"{kind} on {name}\n{scores[kind, name].table()}\n", flush=True)
            rows += scored_rows(f"{kind}, {name} ({len(faces)} pictures)", matrices[None], scored=classes)
            if not faces.weak.framed:
                groups += group_rows(f"{kind}, {name}", matrices[None], faces.groups, scored=classes)
        write_results("parsers", command, rows, chosen.results)
        write_card(scores)
    if groups:
        write_results("fairness", command, groups, chosen.results)


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

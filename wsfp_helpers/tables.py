"""Tables 1 and 2 of the paper in the embedded world: parsers trained on each method's pseudo labels, on every test set.

A parser is trained once for a method and a seed; tables share them, and a killed table goes on where it was.  Results
of full supervision stand beside: the same parser, trained with the rendered masks.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from wsfp_helpers import runs
from wsfp_helpers.ablate import Row, train_row
from wsfp_helpers.augment import WITH_MASKS
from wsfp_helpers.data.base import Faces
from wsfp_helpers.data.cache import cache_dir
from wsfp_helpers.data.frl import SCORED, find_frl_london
from wsfp_helpers.detect.boxes import Boxes
from wsfp_helpers.evaluate import Scores, evaluate_pairs
from wsfp_helpers.fcam import extract_to_folder
from wsfp_helpers.labels import CELEBAMASK, LAPA, to_lapa
from wsfp_helpers.parser import Parser, load_parser, make_copies, train_parser
from wsfp_helpers.profiles import Profile, Source
from wsfp_helpers.pseudo import pseudo_quality, write_pseudo_labels
from wsfp_helpers.results import scores_row, write_results
from wsfp_helpers.storage import InputError, read_json, read_label_map, write_json
from wsfp_helpers.train import load_model
from wsfp_helpers.trunk import load_trunk

BASELINE, FULL, SUPERVISED = "MCTformer+ (baseline)", "DisFaceRep (CCD + TCD)", "full supervision"


def table1(config: Profile, boxes: Boxes, seeds: Sequence[int] = (0, 1, 2), folder: str | Path | None = None) -> Path:
    """Table 1: mean F1 of the pseudo masks, and of the parsers on val and test; returns the results file."""
    study = Study(config, boxes, folder)
    rows = []
    for method in (BASELINE, FULL):
        rows.append(scores_row(f"{method}: pseudo masks", [study.masks(method, seed) for seed in seeds]))
    for method in (BASELINE, FULL, SUPERVISED):
        for part in ("val", "test"):
            scores = [study.score(method, seed, part, config.faces(part), None) for seed in seeds]
            rows.append(scores_row(f"{method}: {part}", scores))
    return write_results("table1", study.command("table1", seeds), rows)


def table2(config: Profile, boxes: Boxes, seeds: Sequence[int] = (0, 1, 2), folder: str | Path | None = None) -> Path:
    """Table 2: the parsers of Table 1 on LaPa-like and Helen-like faces (11 classes) and on real photographs.

    19 classes become 11 by place; in LaPa, ears count as skin.  FRL London is left out where there is no copy.
    """
    study = Study(config, boxes, folder)
    lapa, helen = Source("synthfaces", "lapa/test").open(), Source("synthfaces", "helen/test").open()
    sets: dict[str, tuple[Faces, Callable | None]] = {
        "LaPa-like": (lapa, lambda label_map: to_lapa(label_map, ears_to_skin=True)),
        "Helen-like": (helen, to_lapa),
    }
    if find_frl_london() is not None:
        sets["FRL London (real)"] = Source("frl-london").open(), None
    rows = []
    for method in (BASELINE, FULL, SUPERVISED):
        for name, (faces, mapped) in sets.items():
            rows.append(scores_row(f"{method}: {name}", [study.score(method, s, name, faces, mapped) for s in seeds]))
    return write_results("table2", study.command("table2", seeds), rows)


class Study:
    """Trained networks, pseudo labels, parsers and scores below one folder (default: ``tables/`` in the cache)."""

    def __init__(self, config: Profile, boxes: Boxes, folder: str | Path | None = None) -> None:
        if config.train_data.name != "synthfaces":
            raise InputError(f"tables 1 and 2 are made with a profile that trains on synthfaces, not {config.name}")
        self.config, self.boxes = config, boxes
        self.folder, self.ablations = Path(folder or cache_dir() / "tables"), cache_dir() / "ablate"
        self.rows = {BASELINE: Row("Base.", ccd=False), FULL: Row("Base. + CCD + TCD", tcd=config.train.tcd)}

    def command(self, table: str, seeds: Sequence[int]) -> str:
        """What a reader types to get the numbers again."""
        return f"wsfp {table} --profile {self.config.name} --seeds {','.join(map(str, seeds))}"

    def labels(self, method: str, seed: int) -> Path:
        """Pseudo labels of the whole training set."""
        run = train_row(self.rows[method], self.config, self.boxes, seed, self.ablations)
        vit = load_model(self.config.model.empty(), run / "model.safetensors")
        faces = self.config.faces("train").weak()
        fcams = extract_to_folder(vit, faces, self.folder / run.name / "fcams", self.config.fcam)
        return write_pseudo_labels(fcams, self.folder / run.name / "labels", self.config.theta)

    def masks(self, method: str, seed: int) -> Scores:
        """Scores of the pseudo labels, for the report only."""
        return pseudo_quality(self.labels(method, seed), self.config.faces("train"))

    def parser(self, method: str, seed: int) -> tuple[Parser, Path]:
        """The parser of a method and the folder that it is kept in.

        All parsers see the same augmented copies of the pictures, so their features are computed once.
        """
        faces, trunk, settings = self.config.faces("train"), load_trunk(), self.config.parser
        if method == SUPERVISED:
            settings = replace(settings, augment=WITH_MASKS)
            source, target = "rendered masks", faces.label_map
        else:
            labels, faces = self.labels(method, seed), faces.weak()
            source = labels.parent.name

            def target(index: int) -> np.ndarray:
                return read_label_map(labels / f"{faces.ids[index]}.png", len(CELEBAMASK))

        folder = self.folder / f"parser-{source.replace(' ', '-')}-seed{seed}"
        folder = runs.start_run(folder, {"parser": settings, "targets": source}, seed)
        path = folder / "parser.safetensors"
        if not path.exists():
            copies = make_copies(faces, target, settings, trunk)
            network, _ = train_parser(copies, settings, seed=seed, folder=folder, desc=f"{method}, seed {seed}")
            Parser(network, trunk, settings, {"targets": source, "seed": seed}).save(path)
        return load_parser(path), folder

    def score(self, method: str, seed: int, name: str, faces: Faces, mapped: Callable | None) -> Scores:
        """Scores on a test set, looked at as ``wsfp parse`` does; ``mapped`` takes 19 classes to 11 on both sides."""
        parser, folder = self.parser(method, seed)
        known = folder / f"scores-{name.split()[0]}.json"
        scheme, scored = (CELEBAMASK if mapped is None else LAPA), SCORED if faces.name == "FRL London" else None
        if not known.exists():
            same = mapped or (lambda label_map: label_map)
            bar = tqdm(range(len(faces)), desc=f"{method}, seed {seed}, {name}", unit="face", leave=False)
            pairs = ((same(parser.predict(faces.image(i))[0]), same(faces.label_map(i))) for i in bar)
            write_json(known, {"matrix": evaluate_pairs(pairs, scheme, scored).matrix})
        return Scores(np.array(read_json(known)["matrix"]), scheme, len(faces), scored=scored)

"""Tables 1 and 2 of the paper in the embedded world: parsers trained on each method's pseudo labels, on every test set.

A parser is trained once for a method and a seed; tables share them, and a killed table goes on where it was.  The upper
bound stands beside: the same parser, trained with the rendered masks, with the first seed only.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.configs import key_of
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import sha256_of, write_array
from wsfp_helpers.common.machine import device
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.frl import find_frl_london
from wsfp_helpers.labels import LAPA, to_lapa_table
from wsfp_helpers.method.fcam import extract_to_folder
from wsfp_helpers.method.pseudo import read_targets, write_pseudo_labels
from wsfp_helpers.parsing.augment import WITH_MASKS
from wsfp_helpers.parsing.light import ParserConfig
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.profiles import Profile, Source
from wsfp_helpers.score.confusion import confusions, map_matrices
from wsfp_helpers.score.pseudo_labels import pair_labels
from wsfp_helpers.stages import load_run, run_keyed, score_parser, train_parser
from wsfp_helpers.tooling.ablate import Row
from wsfp_helpers.tooling.results import group_rows, scored_rows, write_results

BASELINE, FULL, SUPERVISED = "MCTformer+ (baseline)", "DisFaceRep (CCD + TCD)", "full supervision"
METHODS = (BASELINE, FULL, SUPERVISED)


def table1(
    config: Profile,
    boxes: str | Path,
    seeds: Sequence[int],
    work: Path | None,
    results: Path,
) -> Path:
    """Table 1: mean F1 of the pseudo masks, and of the parsers on val and test; returns the results file.

    Args:
        config: A profile with the light parser.
        boxes: Boxes of the training set.
        seeds: One training of every method each.
        work: Folder of networks, pseudo labels, parsers and matrices (default: the cache).
        results: Folder of the results file and its page.
    """
    study = Study(config, boxes, work)
    rows = []
    for method in (BASELINE, FULL):
        masks = np.stack([study.masks(method, seed) for seed in seeds])
        rows += scored_rows(f"{method}: pseudo masks", masks)
    for method in METHODS:
        for part in ("val", "test"):
            faces = config.faces(part)
            rows += scored_rows(f"{method}: {part}", study.matrices(method, seeds, faces), scored=faces.scored)
    return write_results("table1", study.command("table1", seeds), rows, results)


def table2(
    config: Profile,
    boxes: str | Path,
    seeds: Sequence[int],
    work: Path | None,
    results: Path,
) -> Path:
    """Table 2: the parsers of Table 1 on LaPa-like and Helen-like faces (11 classes) and on real photographs.

    19 classes become 11 by place; in LaPa, ears count as skin.  FRL London is left out where there is no copy.  The
    results file ``groups`` is written as well: mean F1 by group on celeb/test and on FRL London.  Arguments as
    :func:`table1`.
    """
    study = Study(config, boxes, work)
    eleven = {
        "LaPa-like": (Source("synthfaces", "lapa/test").open(), to_lapa_table(ears_to_skin=True)),
        "Helen-like": (Source("synthfaces", "helen/test").open(), to_lapa_table()),
    }
    grouped = {"SynthFaces test": Source("synthfaces", "celeb/test").open()}
    if find_frl_london() is not None:
        grouped["FRL London"] = Source("frl-london").open()
    rows, groups = [], []
    for method in METHODS:
        for name, (faces, table) in eleven.items():
            matrices = map_matrices(study.matrices(method, seeds, faces), table, len(LAPA))
            rows += scored_rows(f"{method}: {name}", matrices, LAPA)
        for name, faces in grouped.items():
            matrices = study.matrices(method, seeds, faces)
            groups += group_rows(f"{method}, {name}", matrices, faces.groups, scored=faces.scored)
            if not faces.weak.framed:
                rows += scored_rows(f"{method}: {name} (real)", matrices, scored=faces.scored)
    write_results("groups", study.command("table2", seeds), groups, results)
    return write_results("table2", study.command("table2", seeds), rows, results)


class Study:
    """Networks (``ablate/``), pseudo labels, parsers and scores (``tables/``) below a folder (default: the cache)."""

    def __init__(self, config: Profile, boxes: str | Path, work: Path | None = None) -> None:
        if not isinstance(config.parser, ParserConfig):
            raise InputError(
                f"tables 1 and 2 train the light parser many times, {config.name} has another: use embedded"
            )
        self.config, self.boxes, self.settings = config, boxes, config.parser
        self.folder, self.ablations = ((work or cache_dir()) / part for part in ("tables", "ablate"))
        self.rows = {BASELINE: Row("Base.", ccd=False), FULL: Row("Base. + CCD + TCD", tcd=config.train.tcd)}

    def command(self, table: str, seeds: Sequence[int]) -> str:
        """What a reader types to get the numbers again."""
        return f"wsfp {table} --profile {self.config.name} --seeds {','.join(map(str, seeds))}"

    def labels(self, method: str, seed: int) -> Path:
        """Pseudo labels of the whole training set."""
        config = self.config
        run = run_keyed(self.rows[method].change(config, seed), self.boxes, self.ablations)
        vit, _ = load_run(run)
        place = self.folder / f"{run.name}-{key_of({'fcam': config.fcam, 'theta': config.theta})}"
        fcams = extract_to_folder(vit.to(device()), config.faces("train").weak, place / "fcams", config.fcam)
        return write_pseudo_labels(fcams, place / "labels", config.theta)

    def masks(self, method: str, seed: int) -> np.ndarray:
        """Confusion matrices ``(n, 19, 19)`` of the pseudo labels, for the report only."""
        return confusions(pair_labels(self.labels(method, seed), self.config.faces("train")))

    def parser(self, method: str, seed: int) -> Path:
        """File of the parser of a method.

        All parsers see the same augmented copies of the pictures, so their features are computed once.
        """
        faces, settings = self.config.faces("train"), self.settings
        if method == SUPERVISED:
            settings, source = replace(settings, augment=WITH_MASKS), "rendered masks"
            target: Callable[[int], np.ndarray] = faces.label_map
        else:
            labels = self.labels(method, seed)
            source, target = labels.parent.name, read_targets(labels, faces.weak)
        folder = self.folder / f"parser-{source.replace(' ', '-')}-seed{seed}"
        return train_parser(settings, faces.weak, target, folder, {"targets": source}, seed, f"{method}, seed {seed}")

    def matrices(self, method: str, seeds: Sequence[int], faces: Faces) -> np.ndarray:
        """Confusion matrices ``(S, n, 19, 19)`` of a method's parsers on a test set, one a seed and picture.

        Full supervision, the upper bound, has the first seed only.  They are kept beside the parser and found again by
        its content, the set and the way of looking.
        """
        result = []
        for seed in seeds[:1] if method == SUPERVISED else seeds:
            path = self.parser(method, seed)
            key = sha256_of(path)[:12]
            name = faces.name.lower().replace(" ", "-").replace("/", "-")
            way = "framed" if faces.weak.framed else "zoomed"
            known = path.parent / f"matrices-{name}-{len(faces)}-{way}-{key}.npy"
            if not known.exists():
                write_array(known, score_parser(load_parser(path), faces, f"{method}, seed {seed}"))
            result.append(np.load(known, allow_pickle=False))
        return np.stack(result)

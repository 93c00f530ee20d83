"""Tables 1 and 2 of the paper: nine systems, and a parser trained on the labels of each.

A system and a parser are trained once for a seed; tables share them, and a killed command goes on where it was.  The
upper bound stands beside: the same parser, trained with the rendered masks, with the first seed only.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.configs import differences, key_of
from wsfp_helpers.common.files import read_array, sha256_of, write_array, write_json
from wsfp_helpers.common.pictures import resize_label_map
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.frl import find_frl_london
from wsfp_helpers.labels import CELEBAMASK, LAPA, to_lapa_table
from wsfp_helpers.method.pseudo import read_targets
from wsfp_helpers.parsing.augment import WITH_MASKS
from wsfp_helpers.parsing.light import ParserConfig
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.profiles import Profile, Source, profile
from wsfp_helpers.score.confusion import Scores, confusion, confusions, map_matrices, pooled
from wsfp_helpers.score.pseudo_labels import pair_labels, score_pseudo_labels
from wsfp_helpers.stages import label_faces, run_system, score_parser, train_parser
from wsfp_helpers.systems.every import SYSTEMS, find_system
from wsfp_helpers.systems.imported import CARD, read_card, read_maps
from wsfp_helpers.tooling.results import HIGH, LOW, group_rows, row, scored_rows, scores_row, write_results

SUPERVISED = "full supervision"
PUBLISHED = {
    "mctformer+": (29.89, 25.73, 25.88, 11.08, 13.12), "seco": (35.03, 24.31, 24.64, 10.40, 11.21),
    "more": (20.03, 7.92, 8.23, 5.39, 7.06), "clims": (17.71, 15.06, 14.72, 6.38, 7.01),
    "clip-es": (24.57, 26.89, 27.48, 18.50, 19.60), "weakclip": (21.78, 20.07, 19.74, 5.70, 7.69),
    "weclip": (22.67, 19.73, 20.37, 12.85, 13.29), "weclip+": (18.55, 18.18, 18.29, 13.92, 12.65),
    "disfacerep": (44.81, 40.44, 40.73, 28.79, 27.66),
}  # fmt: skip
"""Tables 1 and 2 of the paper, in percent: pseudo masks, val and test of CelebAMask-HQ, test of LaPa and of Helen."""
PUBLISHED_ROW = "published (real faces, full size)"
"""End of the names of their rows."""
IMPORTED = "systems/imported"
COLUMNS = ("pseudo masks", "val", "test", "LaPa-like", "Helen-like")
"""Of Tables 1 and 2 here, in the order of :data:`PUBLISHED`; in full size the last two are ``LaPa`` and ``Helen``."""


def tune(names: Sequence[str], config: Profile, boxes: str | Path, work: Path | None, results: Path) -> Path:
    """Score the settings that each system tried on ``val``, with seed 0; returns the results file ``systems_val``.

    Args:
        names: Systems (:data:`wsfp_helpers.systems.every.SYSTEMS`).
        config: The profile.
        boxes: Boxes of the training set.
        work: Folder of the run directories (default: the cache).
        results: Folder of the results file and its page.
    """
    faces, rows = config.faces("val"), []
    for name in names:
        for number, settings in enumerate(find_system(name).tried):
            system, out = run_system(name, config, work or cache_dir(), boxes, settings)
            scores = score_pseudo_labels(label_faces(system, faces.weak, out), faces)
            rows.append(scores_row(f"{system.title}, {number}: {settings}", [scores]) | {"per_class": {}})
            print(f"{rows[-1]['name']}  mean F1 {scores.mean_f1:.1f}", flush=True)
    return write_results(_page_name("systems_val", config), _command("tune", names, config, [0]), rows, results)


def compare(
    names: Sequence[str], config: Profile, boxes: str | Path, seeds: Sequence[int], work: Path | None, results: Path
) -> Path:
    """Make Tables 1 and 2 of all systems, with all seeds; returns the results file ``table1``.

    ``table1`` has the mean F1 of the pseudo masks of all training faces and of the parsers on val and test, and how far
    the order of the systems is that of the paper; ``table2`` the parsers on LaPa-like and Helen-like faces (19 classes
    become 11 by place; in LaPa, ears count as skin) and on real photographs, where there is a copy of FRL London;
    ``groups`` the mean F1 by group of the paper's method, its baseline and full supervision.  Those of the full-size
    world are called ``paper_table1`` and so on, and have LaPa and Helen themselves.  Arguments as :func:`tune`.
    """
    study, command = Study(config, boxes, seeds, work), _command("run", names, config, seeds)
    every = [*names, SUPERVISED]
    first = {name: study.table1(name) for name in every}
    page = write_results(
        _page_name("table1", config), command, _with_published(first, COLUMNS[:3]) + _imported(config, work), results
    )
    second = {name: study.table2(name) for name in every}
    write_results(_page_name("table2", config), command, _with_published(second, study.others), results)
    grouped = [name for name in every if name in ("mctformer+", "disfacerep", SUPERVISED)]
    write_results(
        _page_name("groups", config), command, [line for name in grouped for line in study.groups(name)], results
    )
    return page


def _page_name(table: str, config: Profile) -> str:
    return table if isinstance(config.parser, ParserConfig) else f"{config.name}_{table}"


def add_imported(folder: str | Path, config: Profile, work: Path | None = None) -> Scores:
    """Score a folder of label maps with a card, and keep the scores for :func:`compare`, whose row says *imported*.

    Raises:
        InputError: There is no card, or the maps are not what it says.
    """
    card = read_card(folder)
    faces = config.faces(card.part)
    truths = (faces.label_map(i) for i in range(len(faces)))
    matrices = np.stack(
        [
            confusion(resize_label_map(found, truth.shape), truth, len(CELEBAMASK))
            for found, truth in zip(read_maps(folder, faces.weak), truths, strict=True)
        ]
    )
    place = (work or cache_dir()) / IMPORTED / key_of({"card": card, "profile": config.name})
    write_array(place / "matrices.npy", matrices[None])
    write_json(place / CARD, asdict(card))
    return pooled(matrices, scored=faces.scored)


def _imported(config: Profile, work: Path | None) -> list[dict[str, object]]:
    """Rows of Table 1 for the folders that were added."""
    rows = []
    for place in sorted((work or cache_dir()).glob(f"{IMPORTED}/*/{CARD}")):
        card, matrices = read_card(place.parent), read_array(place.with_name("matrices.npy"))
        column = COLUMNS[0] if card.part == "train" else card.part
        name = (
            f"{card.system} (imported: {card.paper}, commit {card.commit}, {card.weights}, run by {card.by}): {column}"
        )
        rows += scored_rows(name, matrices, scored=config.faces(card.part).scored)
    return rows


def _command(verb: str, names: Sequence[str], config: Profile, seeds: Sequence[int]) -> str:
    listed = "" if list(names) == list(SYSTEMS) else f" {' '.join(names)}"
    drawn = f" --seeds {','.join(map(str, seeds))}" if verb == "run" else ""
    changed = differences(asdict(profile(config.name)), asdict(config))
    settings = "".join(f" --set {key}={json.dumps(new)}" for key, _, new in changed)
    return f"wsfp systems {verb}{listed} --profile {config.name}{drawn}{settings}"


def _with_published(
    measured: Mapping[str, Sequence[Mapping[str, object]]], columns: Sequence[str]
) -> list[dict[str, object]]:
    """The ``measured`` rows by system, the paper's numbers for these ``columns``, and how far the two orders agree."""
    rows = [dict(line) for lines in measured.values() for line in lines]
    for name in PUBLISHED:
        if name in measured:
            for column in columns:
                title = f"{_title(name)}: {column}, {PUBLISHED_ROW}"
                rows.append(row(title, "published", "percent", [PUBLISHED[name][_place(column)]]))
    return rows + [line for column in columns for line in _order(measured, column)]


def _place(column: str) -> int:
    return [each.removesuffix("-like") for each in COLUMNS].index(column.removesuffix("-like"))


def _order(measured: Mapping[str, Sequence[Mapping]], column: str) -> list[dict[str, object]]:
    """Kendall's tau between the order of the systems in a column here, seed by seed, and in the paper.

    The interval is that of the mean over the seeds when the systems are drawn again.
    """
    names = [name for name in PUBLISHED if name in measured]
    if len(names) < 3:
        return []
    paper = np.array([PUBLISHED[name][_place(column)] for name in names])
    lines = [next(r for r in measured[name] if r["name"].endswith(f": {column}")) for name in names]
    ours, rng = np.array([line["seeds"] for line in lines]), np.random.default_rng(0)  # (systems, seeds)

    def tau(chosen: np.ndarray) -> float:
        return float(np.mean([kendalltau(paper[chosen], seed[chosen]).statistic for seed in ours.T]))

    name, drawn = (
        f"order as in the paper: {column}",
        [tau(rng.integers(0, len(names), len(names))) for _ in range(1000)],
    )
    ends = ((LOW, 2.5), (HIGH, 97.5))
    return [
        row(name, "kendall_tau", "-1 to 1", [kendalltau(paper, seed).statistic for seed in ours.T]),
        *(row(name + end, "kendall_tau", "-1 to 1", [float(np.nanpercentile(drawn, q))]) for end, q in ends),
    ]


class Study:
    """Systems (``systems/``), their labels, parsers and scores (``tables/``) below a folder (default: the cache)."""

    def __init__(self, config: Profile, boxes: str | Path, seeds: Sequence[int], work: Path | None = None) -> None:
        self.config, self.boxes, self.seeds, self.work = config, boxes, seeds, work or cache_dir()
        self.full_size = config.train_data.name == "celebamask"
        self.others = tuple(each.removesuffix("-like") for each in COLUMNS[3:]) if self.full_size else COLUMNS[3:]

    def table1(self, name: str) -> list[dict[str, object]]:
        """Table 1: the rows of one system, or of full supervision, which has no pseudo masks."""
        rows = []
        if name != SUPERVISED:
            rows += scored_rows(f"{_title(name)}: pseudo masks", np.stack([self.masks(name, s) for s in self.seeds]))
        for part in ("val", "test"):
            faces = self.config.faces(part)
            rows += scored_rows(f"{_title(name)}: {part}", self.matrices(name, faces), scored=faces.scored)
        return rows

    def table2(self, name: str) -> list[dict[str, object]]:
        """Table 2: the rows of one system, or of full supervision, on other faces."""
        rows = []
        for what, data, table in (
            (self.others[0], "lapa", to_lapa_table(ears_to_skin=True)), (self.others[1], "helen", to_lapa_table()),
        ):  # fmt: skip
            if self.full_size:
                matrices = self.matrices(name, Source(data, "test").open(), table)
            else:
                faces = Source("synthfaces", f"{data}/test").open()
                matrices = map_matrices(self.matrices(name, faces), table, len(LAPA))
            rows += scored_rows(f"{_title(name)}: {what}", matrices, LAPA)
        if find_frl_london() is not None:
            faces = Source("frl-london").open()
            rows += scored_rows(f"{_title(name)}: FRL London (real)", self.matrices(name, faces), scored=faces.scored)
        return rows

    def groups(self, name: str) -> list[dict[str, object]]:
        """Rows of one system, or of full supervision, by group of people."""
        sets = {} if self.full_size else {"SynthFaces test": Source("synthfaces", "celeb/test").open()}
        if find_frl_london() is not None:
            sets["FRL London"] = Source("frl-london").open()
        rows = []
        for what, faces in sets.items():
            matrices = self.matrices(name, faces)
            rows += group_rows(f"{_title(name)}, {what}", matrices, faces.groups, scored=faces.scored)
        return rows

    def labels(self, name: str, seed: int) -> Path:
        """Pseudo labels of the whole training set."""
        system, out = run_system(name, self.config, self.work, self.boxes, seed=seed)
        return label_faces(system, self.config.faces("train").weak, out)

    def masks(self, name: str, seed: int) -> np.ndarray:
        """Confusion matrices ``(n, 19, 19)`` of the pseudo labels, for the report only."""
        return confusions(pair_labels(self.labels(name, seed), self.config.faces("train")))

    def parser(self, name: str, seed: int) -> Path:
        """File of the parser of a system.

        All parsers see the same augmented copies of the pictures, so their features are computed once.
        """
        faces, settings = self.config.faces("train"), self.config.parser
        if name == SUPERVISED:
            source = "masks" if self.full_size else "rendered-masks"
            if isinstance(settings, ParserConfig):
                settings = replace(settings, augment=WITH_MASKS)
            target: Callable[[int], np.ndarray] = faces.label_map
        else:
            labels = self.labels(name, seed)
            source, target = f"{labels.parent.name}-{labels.name}", read_targets(labels, faces.weak)
        folder = self.work / "tables" / f"parser-{source}-seed{seed}"
        return train_parser(settings, faces.weak, target, folder, {"targets": source}, seed, f"{name}, seed {seed}")

    def matrices(self, name: str, faces: Faces, table: np.ndarray | None = None) -> np.ndarray:
        """Confusion matrices ``(S, n, C, C)`` of a system's parsers on a test set, one a seed and picture.

        ``table`` ``(19,)`` has the class of the set for each predicted one, where they differ.

        Full supervision, the upper bound, has the first seed only.  They are kept beside the parser and found again by
        its content, the set and the way of looking.
        """
        result = []
        for seed in self.seeds[:1] if name == SUPERVISED else self.seeds:
            path = self.parser(name, seed)
            key = sha256_of(path)[:12]
            data = faces.name.lower().replace(" ", "-").replace("/", "-")
            way = "framed" if faces.weak.framed else "zoomed"
            known = path.parent / f"matrices-{data}-{len(faces)}-{way}-{key}.npy"
            if not known.exists():
                write_array(known, score_parser(load_parser(path), faces, f"{name}, seed {seed}", table))
            result.append(read_array(known))
        return np.stack(result)


def _title(name: str) -> str:
    return name if name == SUPERVISED else find_system(name).title

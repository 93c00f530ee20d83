"""The ablations of paper 4.3 on the pseudo labels of a training subset: each row over seeds, resumable.

A row is a change of the profile.  Its run directory is keyed by the profile and the seed, so rows that two tables share
are trained once, and a killed table goes on where it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.configs import key_of
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import read_json, write_json
from wsfp_helpers.common.machine import device
from wsfp_helpers.data.weak import uniform_subset
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.method.fcam import Fcam, FcamConfig, extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.method.tcd import TcdConfig
from wsfp_helpers.profiles import VLMS, Profile
from wsfp_helpers.score.confusion import Scores
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels
from wsfp_helpers.stages import load_run, run_keyed
from wsfp_helpers.tooling.results import area_row, narrow, scores_row, write_results


@dataclass(frozen=True)
class Row:
    """One line of a table: a change of the profile."""

    name: str
    """What the table calls it."""
    ccd: bool = True
    """Whether pictures are masked."""
    tcd: TcdConfig | None = None
    """The text-guided losses, or none."""
    vlm: str | None = None
    """Another image-text model."""
    fcam: FcamConfig | None = None
    """Another way to read the maps out of the same trained network."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Other settings of the training."""
    theta: float | None = None
    """Another background threshold of the pseudo labels."""
    blocks: int | None = None
    """Another number of trained blocks."""
    part: str = "train"
    """Whose pseudo labels are scored: a part of the training faces, or all of ``"val"``, where settings are chosen."""

    def change(self, config: Profile, seed: int) -> Profile:
        """The profile of this row: what its training depends on."""
        training = replace(config.train, tcd=self.tcd, seed=seed, **self.train)
        model = replace(config.model, blocks=self.blocks or config.model.blocks)
        ccd, vlm = config.ccd if self.ccd else None, self.vlm or config.vlm
        return replace(config, model=model, train=training, ccd=ccd, vlm=vlm)


def table3(config: Profile) -> list[Row]:
    """Table 3: the baseline MCTformer+, with CCD, with both."""
    return [Row("Base.", ccd=False), Row("Base. + CCD"), Row("Base. + CCD + TCD", tcd=config.train.tcd)]


def table4(config: Profile) -> list[Row]:
    """Table 4: the terms of TCD added one after the other, all rows with CCD."""
    steps = {
        "pos_cls": {"alpha0"}, "+ pos_ffc": {"alpha1"}, "+ neg_cls": {"beta0"}, "+ neg_ffc": {"beta1"},
        "+ neg_bfc": {"beta2"}, "+ reg": {"reg"},
    }  # fmt: skip
    rows, left = [], set().union(*steps.values())
    for name, added in steps.items():
        left = left - added
        rows.append(Row(name, tcd=_change(config, dict.fromkeys(left, 0.0))))
    return rows


def sums(config: Profile) -> list[Row]:
    """The rows of Table 4 to which Eq. 11 and 12 belong with their sums over l as printed, and the full method.

    The rows before them in :func:`table4` have no sum over l, so they are the same here.
    """
    left = {"+ neg_cls": ("beta1", "beta2", "reg"), "+ neg_ffc": ("beta2", "reg"), "all terms": ()}
    summed = [
        Row(f"{name}, sums over l", tcd=_change(config, {"reduction": "sum_texts"} | dict.fromkeys(weights, 0.0)))
        for name, weights in left.items()
    ]
    return [*summed, Row("all terms, means over l", tcd=config.train.tcd)]


BUDGET: Mapping[str, Mapping[str, Any]] = {"2e-3": {}, "4e-3": {"lr": 4e-3}, "2e-3, 3 epochs": {"epochs": 3}}
"""Trainings that each line of Table 3 may choose from: learning rate of the heads (and a tenth of it for all else), and
epochs where they are not the profile's."""
THETAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Thresholds that it may choose from."""


def sweep(config: Profile) -> list[Row]:
    """The same small budget of settings for each line of Table 3, scored on ``val``."""
    return [
        replace(row, name=f"{row.name}, {setting}, theta {theta}", train=change, theta=theta, part="val")
        for row in table3(config)
        for setting, change in BUDGET.items()
        for theta in THETAS
    ]


TUNED: Mapping[str, tuple[str, float]] = {
    "Base.": ("4e-3", 0.5), "Base. + CCD": ("2e-3", 0.7), "Base. + CCD + TCD": ("4e-3", 0.5),
}  # fmt: skip
"""What ``wsfp ablate sweep --seeds 0`` found best on ``val`` in the embedded world, 2026-11-26: a key of
:data:`BUDGET` and a threshold."""


def tuned(config: Profile) -> list[Row]:
    """Table 3 with each line at its best settings of :func:`sweep`."""
    chosen = [(row, *TUNED[row.name]) for row in table3(config)]
    return [
        replace(row, name=f"{row.name} ({setting}, theta {theta})", train=BUDGET[setting], theta=theta)
        for row, setting, theta in chosen
    ]


def eyes(config: Profile) -> list[Row]:
    """What widens the maps of the eyes, and a stronger regulariser against it, scored on ``val``."""
    ccd, without = table3(config)[1], ("beta0", "beta1", "beta2", "reg")
    rows = [ccd, Row("pos_cls + pos_ffc", tcd=_change(config, dict.fromkeys(without, 0.0)))]
    rows += [Row(f"all terms, reg = {value}", tcd=_change(config, {"reg": value})) for value in (0.05, 0.5, 1.5)]
    return [replace(row, part="val") for row in rows]


def mended(config: Profile) -> list[Row]:
    """Two ways to narrower maps of the eyes, on the training subset: a stronger regulariser, a higher threshold."""
    _, ccd, full = table3(config)
    stronger = replace(full, name="all terms, reg = 0.5", tcd=_change(config, {"reg": 0.5}))
    return [ccd, replace(full, name="all terms"), stronger, replace(full, name="all terms, theta 0.7", theta=0.7)]


def start(config: Profile) -> list[Row]:
    """Ways to tame the gradient of the text terms at the start (docs/results/gradients.md), scored on ``val``."""
    full = Row("all terms", tcd=config.train.tcd, part="val")
    clamped = replace(full, name="all terms, logarithm clamped as in CLIMS", tcd=_change(config, {"sim_mode": "clims"}))
    clipped = [
        replace(full, name=f"all terms, gradient clipped at {norm}", train={"clip": norm}) for norm in (5.0, 0.5)
    ]
    later = replace(full, name="all terms, warm-up of a whole epoch", train={"warmup_epochs": 1.0})
    return [full, *clipped, later, clamped]


def blocks(config: Profile) -> list[Row]:
    """Whether maps read through the attention of class tokens, and ``neg_cls``, gain from a second trained block.

    Two are the most: the embedded trunk ships no first values for a third.
    """
    reads = {"patch": config.fcam, "fused": FcamConfig(scales=(1.0,))}
    rows = [
        Row(f"{count} trained, {how}", tcd=config.train.tcd, blocks=count, fcam=fcam)
        for count in (1, 2)
        for how, fcam in reads.items()
    ]
    without = _change(config, {"beta0": 0.0})
    return rows + [replace(row, name=f"{row.name}, without neg_cls", tcd=without) for row in rows if row.blocks == 2]


def _change(config: Profile, weights: Mapping[str, Any]) -> TcdConfig:
    if config.train.tcd is None:
        raise InputError(f"profile {config.name} trains without TCD: there are no weights to change")
    return replace(config.train.tcd, **weights)


FIG6 = {
    "alpha0": (0.8, 1.2, 1.8),
    "alpha1": (0.2, 0.23, 0.26),
    "reg": (0.02, 0.05, 0.06),
    "beta0": (2.06, 2.1, 2.16),
    "beta1": (0.07, 0.1, 0.12),
    "beta2": (0.014, 0.017, 0.019),
}
"""Ends of the ranges of Fig. 6, with the paper's own value between them."""


def fig6(config: Profile) -> list[Row]:
    """Fig. 6: one loss weight changed at a time."""
    return [
        Row(f"{weight} = {value}", tcd=_change(config, {weight: value}))
        for weight, values in FIG6.items()
        for value in values
    ]


def vlm(config: Profile) -> list[Row]:
    """Section 4.3.4: no image-text model, a general one, and the face model.

    In the embedded world also a face model whose captions come from image-level labels, as the shipped one's do not.
    """
    models = {"general": config.general_vlm, "faces, captions from labels": f"{config.vlm}_labels", "faces": config.vlm}
    rows = [Row("without (CCD alone)")]
    return rows + [
        Row(f"{model.replace('_', '-').upper().replace('MINI', 'mini')} ({kind})", tcd=config.train.tcd, vlm=model)
        for kind, model in models.items()
        if model in VLMS
    ]


def variants(config: Profile) -> list[Row]:
    """Ways to make a map of one trained network (docs/design.md, 1.5): which evidence, with affinity or not."""
    return [
        Row(
            f"{variant}, {'affinity' if affinity else 'no affinity'}",
            tcd=config.train.tcd,
            fcam=FcamConfig(scales=(1.0,), variant=variant, affinity=affinity),
        )
        for variant in ("fused", "patch", "attention")
        for affinity in (True, False)
    ]


TABLES = {
    "table3": table3, "table4": table4, "fig6": fig6, "vlm": vlm, "variants": variants, "sums": sums, "sweep": sweep,
    "tuned": tuned, "eyes": eyes, "mended": mended, "blocks": blocks, "start": start,
}  # fmt: skip


def ablate(
    table: str,
    config: Profile,
    boxes: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    folder: Path | None = None,
    subset: int | None = None,
) -> dict[str, list[Scores]]:
    """Scores by row of a table of :data:`TABLES`, one for each seed; a row that was measured before is read.

    Args:
        table: A key of :data:`TABLES`.
        config: The profile that the rows change.
        boxes: Boxes of the training set.
        seeds: One training each.
        folder: The run directories are in ``ablate/`` below it (default: the cache).
        subset: Pictures that are scored (default: the profile's of the training set, all of another set).
    """
    if table not in TABLES:
        raise InputError(f"unknown ablation {table!r}: expected one of {', '.join(TABLES)}")
    rows = TABLES[table](config)
    scores: dict[str, list[Scores]] = {row.name: [] for row in rows}
    for seed in seeds:
        for row in rows:
            measured = measure(row, config, boxes, seed, (folder or cache_dir()) / "ablate", subset)
            scores[row.name].append(measured)
            print(f"{table}  seed {seed}  {row.name:24} mean F1 {measured.mean_f1:5.1f}", flush=True)
    return scores


def measure(row: Row, config: Profile, boxes: str | Path, seed: int, work: Path, subset: int | None = None) -> Scores:
    """Train one row with one seed and score the pseudo labels of the row's pictures against the label maps.

    Training is given pictures and image-level labels; the label maps are opened after it has ended.
    """
    run, faces = run_keyed(row.change(config, seed), boxes, work), config.faces(row.part)
    subset = subset or (config.subset if row.part == "train" else len(faces))
    fcam, theta = row.fcam or config.fcam, row.theta or config.theta
    key, name = key_of({"fcam": fcam, "theta": theta, "subset": subset}), {"train": "pseudo"}.get(row.part, row.part)
    known = run / f"{name}_{key}.json"
    if not known.exists():
        faces = faces.subset(uniform_subset(len(faces), subset))
        labels = (pseudo_label(each, theta) for each in _maps(run, config, row.part, subset, fcam))
        write_json(known, {"row": row.name, "matrix": score_pseudo_labels(labels, faces).matrix})
    return read_scores(known, subset)


def read_scores(path: Path, images: int) -> Scores:
    """Scores of ``images`` pictures that were measured before.

    Raises:
        InputError: The file does not hold their confusion matrix.
    """
    content = read_json(path)
    try:
        matrix = np.array(content["matrix"])
    except (KeyError, TypeError, ValueError):
        matrix = np.array(None)
    if matrix.shape != (len(CELEBAMASK),) * 2 or matrix.dtype != np.int64 or (matrix < 0).any():
        raise InputError(
            f"{path} does not hold a confusion matrix of {len(CELEBAMASK)} classes: remove it, and the same command "
            f"measures again"
        )
    return Scores(matrix, images=images)


@lru_cache(maxsize=1)  # rows that differ in their threshold alone follow each other
def _maps(run: Path, config: Profile, part: str, subset: int, fcam: FcamConfig) -> list[Fcam]:
    vit, faces = load_run(run)[0].to(device()), config.faces(part).weak
    return list(extract(vit, faces.subset(uniform_subset(len(faces), subset)), fcam))


def write_table(
    table: str, scores: Mapping[str, Sequence[Scores]], seeds: Sequence[int], config: Profile, results: Path
) -> Path:
    """Write ``TABLE.json`` and its page to the folder ``results``; returns the results file."""
    command = f"wsfp ablate {table} --profile {config.name} --seeds {','.join(map(str, seeds))}"
    rows = narrow([scores_row(name, each) for name, each in scores.items()])
    if table in ("eyes", "mended"):
        both = [part for part in CELEBAMASK.components if part.endswith("_eye")]
        rows += [area_row(name, "eyes", both, each) for name, each in scores.items()]
    return write_results(table, command, rows, results)

"""The ablations of paper 4.3 on the pseudo labels of a training subset: each row over seeds, resumable.

A row is a change of the profile's training.  Its run directory is keyed by that change and the seed, so rows that two
tables share are trained once, and a killed table goes on where it was.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wsfp_helpers import runs
from wsfp_helpers.ccd import masked_faces
from wsfp_helpers.data.base import uniform_subset
from wsfp_helpers.data.cache import cache_dir
from wsfp_helpers.detect.boxes import Boxes
from wsfp_helpers.evaluate import Scores
from wsfp_helpers.fcam import FcamConfig, extract
from wsfp_helpers.losses import TcdConfig
from wsfp_helpers.profiles import Profile, load_vlm
from wsfp_helpers.pseudo import pseudo_label, pseudo_quality
from wsfp_helpers.results import FOLDER, scores_row, write_results
from wsfp_helpers.runs import device
from wsfp_helpers.storage import InputError, read_json, write_json
from wsfp_helpers.train import load_model, train

SUBSETS = {"synthfaces": 229, "celebamask": 3_820}
"""Training pictures whose pseudo labels are scored: of CelebAMask-HQ the paper's number, of SynthFaces every third."""


@dataclass(frozen=True)
class Row:
    """One line of a table: masked pictures or not, the text-guided losses or ``None``, which image-text model.

    ``fcam`` is another way to read the maps out of the same trained network.
    """

    name: str
    ccd: bool = True
    tcd: TcdConfig | None = None
    vlm: str | None = None
    fcam: FcamConfig | None = None


def table3(config: Profile) -> list[Row]:
    """Rows of Table 3: the baseline MCTformer+, with CCD, with both."""
    return [Row("Base.", ccd=False), Row("Base. + CCD"), Row("Base. + CCD + TCD", tcd=config.train.tcd)]


def table4(config: Profile) -> list[Row]:
    """Rows of Table 4, all with CCD: the terms of TCD added one after the other."""
    steps = {
        "pos_cls": {"alpha0"}, "+ pos_ffc": {"alpha1"}, "+ neg_cls": {"beta0"}, "+ neg_ffc": {"beta1"},
        "+ neg_bfc": {"beta2"}, "+ reg": {"reg"},
    }  # fmt: skip
    rows, left = [], set().union(*steps.values())
    for name, added in steps.items():
        left = left - added
        rows.append(Row(name, tcd=replace(config.train.tcd, **dict.fromkeys(left, 0.0))))
    return rows


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
    """Rows of Fig. 6: one weight changed at a time."""
    return [
        Row(f"{weight} = {value}", tcd=replace(config.train.tcd, **{weight: value}))
        for weight, values in FIG6.items()
        for value in values
    ]


def vlm(config: Profile) -> list[Row]:
    """Rows of section 4.3.4: the general and the face image-text model, the mini ones where the profile has these."""
    mini, tcd = "mini-" * config.vlm.startswith("mini"), config.train.tcd
    general, faces = ("mini_clip", "mini_flip") if mini else ("clip", "flip")
    return [Row(f"{mini}CLIP (general)", tcd=tcd, vlm=general), Row(f"{mini}FLIP (faces)", tcd=tcd, vlm=faces)]


def variants(config: Profile) -> list[Row]:
    """Ways to make a map of one trained network (design notes 1.5): which evidence, with affinity or not."""
    return [
        Row(
            f"{variant}, {'affinity' if affinity else 'no affinity'}",
            tcd=config.train.tcd,
            fcam=FcamConfig(scales=(1.0,), variant=variant, affinity=affinity),
        )
        for variant in ("fused", "patch", "attention")
        for affinity in (True, False)
    ]


TABLES = {"table3": table3, "table4": table4, "fig6": fig6, "vlm": vlm, "variants": variants}


def ablate(
    table: str,
    config: Profile,
    boxes: Boxes,
    seeds: Sequence[int] = (0, 1, 2),
    folder: str | Path | None = None,
    subset: int | None = None,
) -> dict[str, list[Scores]]:
    """Scores by row of a table of :data:`TABLES`, one for each seed; a row that was measured before is read.

    The run directories are in ``ablate/`` below ``folder`` (default: the cache), ``subset`` is the number of training
    pictures that are scored (default: that of :data:`SUBSETS`).
    """
    if table not in TABLES:
        raise InputError(f"unknown ablation {table!r}: expected one of {', '.join(TABLES)}")
    folder = Path(folder or cache_dir()) / "ablate"
    rows = TABLES[table](config)
    scores: dict[str, list[Scores]] = {row.name: [] for row in rows}
    for seed in seeds:
        for row in rows:
            measured = measure(row, config, boxes, seed, folder, subset)
            scores[row.name].append(measured)
            print(f"{table}  seed {seed}  {row.name:24} mean F1 {measured.mean_f1:5.1f}", flush=True)
    return scores


def measure(row: Row, config: Profile, boxes: Boxes, seed: int, folder: Path, subset: int | None = None) -> Scores:
    """Train one row with one seed and score the pseudo labels of the training subset against the label maps.

    Training is given pictures and image-level labels; the label maps are opened after it has ended.
    """
    run = train_row(row, config, boxes, seed, folder)
    subset = subset or SUBSETS[config.train_data.name]
    fcam = row.fcam or config.fcam
    known = run / f"pseudo_{key_of({'fcam': asdict(fcam), 'theta': config.theta, 'subset': subset})}.json"
    if not known.exists():
        vit = load_model(config.model.empty(), run / "model.safetensors")
        faces = config.faces("train")
        faces = faces.subset(uniform_subset(len(faces), subset))
        labels = (pseudo_label(each, config.theta) for each in extract(vit.to(device()), faces.weak(), fcam))
        write_json(known, {"row": row.name, "matrix": pseudo_quality(labels, faces).matrix})
    return Scores(np.array(read_json(known)["matrix"]), images=subset)


def train_row(row: Row, config: Profile, boxes: Boxes, seed: int, folder: Path) -> Path:
    """Train one row with one seed where that has not been done; returns its run directory."""
    vlm = load_vlm(row.vlm or config.vlm) if row.tcd else None
    training = replace(config.train, tcd=row.tcd, seed=seed)
    settings = {
        "data": str(config.train_data),
        "model": asdict(config.model),
        "train": asdict(training),
        "ccd": asdict(config.ccd) if row.ccd else None,
        "vlm": f"{vlm.name} {runs.fingerprint(vlm.clip)}" if vlm else None,
    }
    run = runs.start_run(folder / f"{key_of(settings)}-seed{seed}", settings, seed)
    if not (run / "model.safetensors").exists():
        faces = config.faces("train").weak()
        data = masked_faces(faces, boxes, config.ccd, seed) if row.ccd else faces
        train(config.model.build(seed), data, training, run, vlm)
    return run


def key_of(settings: Mapping) -> str:
    """Twelve hexadecimal digits that change with ``settings``, for the name of a folder."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def folder_of(config: Profile) -> Path:
    """Where a profile's results go: ``docs/results`` for the embedded world, a folder of its own there for another."""
    return FOLDER if config.name == "embedded" else FOLDER / config.name


def write_table(
    table: str,
    scores: Mapping[str, Sequence[Scores]],
    seeds: Sequence[int],
    config: Profile,
    results: Path | None = None,
) -> Path:
    """Write ``TABLE.json`` and its page to the folder ``results`` (default: :func:`folder_of` the profile)."""
    command = f"wsfp ablate {table} --profile {config.name} --seeds {','.join(map(str, seeds))}"
    rows = [scores_row(name, each) for name, each in scores.items()]
    return write_results(table, command, rows, results or folder_of(config))

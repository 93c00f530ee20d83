"""Results files: every number in the docs comes from a JSON file that a command wrote, and its page is made from it.

``docs/results/NAME.json`` is ``{"command", "revision", "machine", "date", "rows": [...]}``; a row is ``{"name",
"metric", "unit", "seeds": [values], "per_class": {class: [values]}}`` with one value per seed, where ``None`` is an
absent class.  ``NAME.md``, and for tables a plot ``NAME.png``, are made from it and never written by hand.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import COURSE, atomic_path, existing, read_json, write_json
from wsfp_helpers.common.machine import knows_revision, machine, revision
from wsfp_helpers.labels import CELEBAMASK, Scheme
from wsfp_helpers.score.confusion import POLICY, Scores, pooled
from wsfp_helpers.score.intervals import bootstrap

FOLDER = COURSE / "docs" / "results"
"""The course's results, which the docs show.  Commands write to another place unless they are told this one, as ``make
results`` does."""

KEYS = ("command", "revision", "machine", "date", "rows")
ROW_KEYS = ("name", "metric", "unit", "seeds", "per_class")

LOW, HIGH = " [95 % low]", " [95 % high]"
"""Ends of the names of the two rows (metrics ``mean_f1_low``, ``mean_f1_high``) that hold a row's interval."""
INTERVAL = (
    "Intervals are of the mean over the seeds: a bootstrap over images (1,000 draws, the same images for every seed). "
    "They tell about other images of the same kind; what another training changes is in the standard deviation."
)
_RENDERED = "A rendered face, framed as in training, is looked at once, as a whole, averaged with its mirror image"
_PHOTOGRAPH = "a photograph of FRL London as `wsfp parse` does, as a whole and then closer at its face"
ABOUT = {
    "table1": f"Pseudo masks: of all 686 training faces.  Parsers: {_RENDERED[0].lower()}{_RENDERED[1:]}.",
    "table2": f"{_RENDERED}; {_PHOTOGRAPH}.  LaPa-like and Helen-like: 19 classes become 11 by place (mode geometric); "
    "in LaPa-like ears count as skin.",
    "sweep": "Pseudo labels of all 228 faces of celeb/val, on which settings are chosen and nothing is reported: for "
    "each line of Table 3 the learning rate of the heads, with the number of epochs where it is not 2, and theta.",
    "tuned": "Pseudo labels of 229 of 686 training faces, as in table 3, but with each line at the learning rate of "
    "the heads and the theta that the sweep found best for it on celeb/val with seed 0.",
    "mirror": "Pseudo labels of 229 of 686 training faces: maps of a mirrored picture are added with left and right "
    "exchanged, as everywhere else here, or class by class as they are, which the code of MCTformer+ does.",
    "systems_val": "Pseudo labels of all 228 faces of celeb/val, on which the settings of each system are chosen and "
    "nothing is reported: four for each, with seed 0.",
    **dict.fromkeys(
        ("eyes", "start"),
        "Pseudo labels of all 228 faces of celeb/val, on which settings are chosen and nothing is reported.",
    ),
    "gradients": "The full method of the embedded world before and after its training: the gradient norm of each "
    "term times its weight in the loss (mean over three batches of 8 masked training faces), for the weights of the "
    "patch head, of the class tokens with their positions, and of the trained block.  The push on the maps of the eyes "
    "is minus the sum of the gradient over both eyes' patch maps: above 0 the term widens them, below 0 it narrows "
    "them.  With sums over l, neg_cls and neg_ffc are exactly 17 times larger.  Cosines are those of the same batches: "
    "where one with another text is not above 0, neg_cls and neg_ffc have no gradient.",
    "groups": f"{_RENDERED}; {_PHOTOGRAPH}.  SynthFaces shows a rendered person twice; both count.  A class that a "
    "group lacks and that is claimed on a few pixels counts as 0 in its mean (glasses = none: the class eye_g), so "
    "compare methods within a group rather than groups.",
    "warnings": "Of both shipped parsers, seen as `wsfp parse` sees them.  Every second picture is spoilt: blurred, "
    "noisy, dark, grey, turned, covered, with sunglasses or compressed.  Each measure may warn of a tenth of the maps "
    "that are not in the worst tenth; `wsfp parse` has one limit for all sets.  Curves: mean F1 of the pictures that "
    "are left, of all sets but those chosen on, when those that a measure is least sure of are left out.",
    "scale": "Pictures of 32 pixels in tar shards and networks of a block or a layer, so that what is measured is what "
    "surrounds them; each stage in a process of its own, on one thread.  Memory is that of the whole process at most, "
    "the libraries among it; the time of a picture is what the larger of two numbers of pictures takes longer, by "
    "their difference.",
    "patches": "Photographs of every third person of FRL London, cut to the face, at 448 pixels through the paper "
    "profile's network.  The pretrained weights are a DINOv2 in the shape of DeiT-S/16, which somebody had fine-tuned "
    "for saliency; percent of the patches of a part that the nearest mean of the other people's patches names right, "
    "the mean over parts.",
    "dino_passes": "Grounding DINO (Swin-T, BERT) at its full size with random weights, on one picture enlarged to "
    "800 x 800 pixels: five phrases, each with a forward of its own, or with the image network run once for all five.",
    "trunk": "The trunk's shares are of the processor's time on one thread.  The peak is what the four products of "
    "weights in a block reach alone, in the same process, with as many tokens as go through the trunk together.  All "
    "computes in bfloat16 where the processor multiplies it (avx512_bf16 or amx_bf16), else in float32.",
    "fairness": "The shipped parsers on the people of FRL London, by what the people said of themselves.  Intervals of "
    "neighbouring groups that overlap are no evidence of a difference, and hardly any group is large enough for more.",
    **dict.fromkeys(
        ("table3", "table4", "fig6", "vlm", "variants", "sums", "blocks", "mended"),
        "Pseudo labels of a part of the training faces, as in the paper: in the embedded world 229 of 686.",
    ),
}
"""What a reader has to know of the numbers of a page."""
PLOTTED = {
    "table1": "Table 1: pseudo masks, and parsers on val and test",
    "table2": "Table 2: parsers on other faces",
    "table3": "Table 3: pseudo labels with CCD and TCD",
    "table4": "Table 4: the terms of TCD, added one by one",
    "vlm": "Section 4.3.4: which image-text model",
    "fig6": "Fig. 6: one loss weight changed at a time",
    "variants": "Ways to read the maps of one network",
    "sums": "Eq. 11 and 12 summed over the other texts",
    "warnings": "Warnings: what is left when doubtful maps are left out",
}
"""Titles of the plots; these pages show ``NAME.png``, drawn from the mean F1 of their rows."""
COLUMNS = 20
"""Rows of more would be as many columns of a page's table of classes."""
FEW = 10
"""Groups of fewer images have no interval and are marked as too few to compare."""


def row(
    name: str, metric: str, unit: str, seeds: Sequence[float], per_class: Mapping[str, Sequence[float]] | None = None
) -> dict[str, object]:
    """One row: ``seeds`` has one value per seed, and so has each class of ``per_class``.  NaN becomes ``None``."""
    by_class = {key: _without_nan(values) for key, values in (per_class or {}).items()}
    return dict(zip(ROW_KEYS, (name, metric, unit, _without_nan(seeds), by_class), strict=True))


def _without_nan(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None or math.isnan(value) else float(value) for value in values]


def scores_row(name: str, scores: Sequence[Scores]) -> dict[str, object]:
    """The row of mean F1 (metric ``mean_f1``, percent) and F1 by class of one :class:`Scores` a seed."""
    per_class = {key: [each.per_class[key] for each in scores] for key in scores[0].per_class}
    return row(name, "mean_f1", "percent", [each.mean_f1 for each in scores], per_class)


def area_row(name: str, part: str, classes: Sequence[str], scores: Sequence[Scores]) -> dict[str, object]:
    """How many pixels are called one of ``classes``, which are a ``part``, in relation to those that are one."""
    columns = [CELEBAMASK.index(each) for each in classes]
    areas = [each.matrix[:, columns].sum() / each.matrix[columns].sum() for each in scores]
    return row(f"{name}: area of the {part}", "area", "times the true area", areas)


def narrow(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The rows of a table, without their classes where there are more than :data:`COLUMNS`."""
    return [each | {"per_class": {}} for each in rows] if len(rows) > COLUMNS else list(rows)


def scored_rows(
    name: str, matrices: np.ndarray, scheme: Scheme = CELEBAMASK, scored: Sequence[str] | None = None
) -> list[dict[str, object]]:
    """The row of :func:`scores_row` from matrices ``(S, n, C, C)``, one a seed and image, and those of its interval.

    The interval of the mean over the seeds (:func:`wsfp_helpers.score.intervals.bootstrap`) is one value for all seeds.
    """
    scores = scores_row(name, [pooled(each, scheme, scored) for each in matrices])
    return [scores, *_interval_rows(name, matrices, scheme, scored)]


def group_rows(
    name: str,
    matrices: np.ndarray,
    groups: Mapping[str, Iterable],
    scheme: Scheme = CELEBAMASK,
    scored: Sequence[str] | None = None,
) -> list[dict[str, object]]:
    """Rows ``NAME, gender = female (n = 49)`` of mean F1 with its interval, for every group of every column.

    ``matrices`` ``(S, n, C, C)``; each column of ``groups`` has one value an image.
    """
    rows = []
    for title, column in groups.items():
        column = np.asarray([str(value) for value in column])
        for group in np.unique(column):
            chosen = matrices[:, column == group]
            count = chosen.shape[1]
            label = f"{name}, {title} = {group} (n = {count}{': too few to compare' if count < FEW else ''})"
            means = [pooled(each, scheme, scored).mean_f1 for each in chosen]
            rows.append(row(label, "mean_f1", "percent", means))
            if count >= FEW:
                rows += _interval_rows(label, chosen, scheme, scored)
    return rows


def _interval_rows(
    name: str, matrices: np.ndarray, scheme: Scheme, scored: Sequence[str] | None
) -> list[dict[str, object]]:
    low, high = bootstrap(matrices, scheme, scored=scored).mean_f1
    return [row(name + LOW, "mean_f1_low", "percent", [low]), row(name + HIGH, "mean_f1_high", "percent", [high])]


def write_results(name: str, command: str, rows: Sequence[Mapping], folder: str | Path) -> Path:
    """Write ``NAME.json`` with revision, machine and date, and its page ``NAME.md``; returns the JSON file's path.

    Args:
        name: What the page is called.
        command: What a reader types to get the numbers again.
        rows: As :func:`row` makes them.
        folder: Where both are written.

    Raises:
        InputError: A row has another shape.
    """
    path = Path(folder) / f"{name}.json"
    content = {
        "command": command,
        "revision": revision(),
        "machine": f"{machine()}, {psutil.virtual_memory().total / 2**30:.0f} GB memory, torch {torch.__version__}",
        "date": datetime.now().astimezone().isoformat("T", "seconds"),
        "rows": [dict(each) for each in rows],
    }
    _check(content, path)
    write_json(path, content)
    _write_page(path)
    return path


def read_results(name: str, folder: str | Path = FOLDER) -> dict:
    """Content of ``NAME.json``; raises :class:`InputError` naming the file when it is missing or of another shape."""
    path = existing(Path(folder) / f"{name}.json", "results file")
    content = read_json(path)
    _check(content, path)
    return content


def stored(name: str, words: str, command: str, metrics: Sequence[str] = ("mean_f1",)) -> list[dict]:
    """Rows of ``NAME.json`` of the course with these ``words`` in their names; without it one line says which command.

    For notebooks: they run where nobody has measured yet.
    """
    try:
        return [row for row in read_results(name)["rows"] if words in row["name"] and row["metric"] in metrics]
    except InputError:
        print(f"docs/results/{name}.json is not there: `{command}` measures it.")
        return []


def _check(content: object, path: Path) -> None:
    if not isinstance(content, Mapping) or tuple(content) != KEYS:
        raise InputError(f"{path} is not a results file: expected an object with {', '.join(KEYS)}")
    advice = "it was edited; restore it, or remove it and run its command again"
    *facts, rows = content.values()
    if not all(isinstance(fact, str) for fact in facts) or not isinstance(rows, list):
        raise InputError(f"{path} is not a results file: expected a list of rows, and texts beside it; {advice}")
    for number, each in enumerate(rows, 1):
        if not isinstance(each, Mapping) or tuple(each) != ROW_KEYS:
            raise InputError(f"{path}: row {number} does not have {', '.join(ROW_KEYS)}; {advice}")
        *words, seeds, per_class = each.values()
        if not all(isinstance(word, str) for word in words) or not isinstance(per_class, Mapping):
            raise InputError(f"{path}: row {number} needs texts, seeds and an object of classes; {advice}")
        columns = [seeds, *per_class.values()]
        if not seeds or not all(_is_column(column) and len(column) == len(seeds) for column in columns):
            raise InputError(
                f"{path}: row {each['name']!r} needs one number (or null) per seed, also for every class; {advice}"
            )


def _is_column(values: object) -> bool:
    return isinstance(values, list) and all(value is None or type(value) in (int, float) for value in values)


def format_page(name: str, content: Mapping) -> str:
    """The Markdown page of a results file: what was run, one table of all rows, one of the classes.

    Rows of :func:`scored_rows` that hold the ends of an interval become a column.
    """
    ends = {r["name"]: _number(r["seeds"][0]) for r in content["rows"] if r["name"].endswith((LOW, HIGH))}
    rows = [r for r in content["rows"] if r["name"] not in ends]
    facts = [f"- {key.capitalize()}: {content[key]}" for key in ("revision", "machine", "date")]
    heads = ["name", "metric", "value", "unit", "seeds"]
    cells = [[r["name"], r["metric"], summary(r["seeds"]), r["unit"], str(len(r["seeds"]))] for r in rows]
    if ends:
        heads.insert(3, "95 % interval")
        for line in cells:
            line.insert(3, " to ".join(ends[line[0] + end] for end in (LOW, HIGH) if line[0] + end in ends))
    parts = [
        f"# {name.replace('_', ' ')}",
        f"Made from `{name}.json`; do not edit.",
        ABOUT.get(name),
        "\n".join([f"- Command: `{content['command']}`", *facts]),
        _table(heads, cells, left=("name", "metric", "unit")),
        f"![{_alt(name, rows)}]({name}.png)" if name in PLOTTED else None,
        "With several seeds: mean ± standard deviation over the seeds.",
        INTERVAL if ends else None,
        f"F1: {POLICY}." if any(r["metric"] == "mean_f1" for r in rows) else None,
    ]
    if detailed := [r for r in rows if r["per_class"]]:
        classes = dict.fromkeys(key for r in detailed for key in r["per_class"])
        cells = [
            [key, *(summary(r["per_class"][key]) if key in r["per_class"] else "" for r in detailed)] for key in classes
        ]
        parts += ["## By class", _table(["class", *(r["name"] for r in detailed)], cells, left=("class",))]
    return "\n\n".join(part for part in parts if part is not None) + "\n"


def _table(heads: Sequence[str], cells: Iterable[Sequence[str]], left: Sequence[str]) -> str:
    line = ["---" if head in left else "---:" for head in heads]
    return "\n".join(f"| {' | '.join(each)} |" for each in (heads, line, *cells))


def summary(values: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation as text; one value alone has no spread; absent values are left out."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {_number(statistics.stdev(known))}" if len(known) > 1 else ""
    return f"{_number(statistics.mean(known))}{spread}"


def _number(value: float) -> str:
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1e6 else f"{value:.1e}"


def check_pages(folder: str | Path = FOLDER) -> list[str]:
    """One sentence for every results file that cannot be traced, or whose page or plot is missing or differs.

    A results file can be traced when it names a commit of this repository, without ``-dirty``.  Pages and plots without
    a results file are named as well.
    """
    folder, problems = Path(folder), []
    for path in sorted(folder.glob("*.json")):
        page, plot, content = path.with_suffix(".md"), path.with_suffix(".png"), read_results(path.stem, folder)
        if not knows_revision(content["revision"]):
            problems.append(f"{path} was made at {content['revision']}, which is no commit: make it from a clean clone")
        if not page.exists():
            problems.append(f"{path} has no page: write it with write_pages()")
        elif page.read_text(encoding="utf-8") != format_page(path.stem, content):
            problems.append(f"{page} differs from its results file: write it again with write_pages()")
        if path.stem in PLOTTED and not (plot.exists() and _drawn_from(plot) == _digest(content)):
            problems.append(f"{plot} is not drawn from its results file: write it with write_pages()")
    pages = sorted([*folder.glob("*.md"), *folder.glob("*.png")])
    alone = [page for page in pages if page.name != "README.md" and not page.with_suffix(".json").exists()]
    return problems + [f"{page} has no results file" for page in alone]


def write_pages(folder: str | Path = FOLDER) -> None:
    """Render every page again, and draw the plots."""
    for path in sorted(Path(folder).glob("*.json")):
        _write_page(path)


def _write_page(path: Path) -> None:
    content = read_results(path.stem, path.parent)
    if path.stem in PLOTTED:
        _draw(path.stem, content, path.with_suffix(".png"))
    with atomic_path(path.with_suffix(".md")) as part:
        part.write_text(format_page(path.stem, content), encoding="utf-8")


def _draw(name: str, content: Mapping, path: Path) -> None:
    # Here, because commands that draw nothing need not wait for matplotlib.
    import matplotlib.pyplot as plt

    from wsfp_helpers.notebook.plots import seed_bars, seed_curves

    values = {r["name"]: r["seeds"] for r in content["rows"] if r["metric"] == "mean_f1"}
    if name in ("fig6", "warnings"):
        figure = seed_curves(_by_weight(values), PLOTTED[name], "mean F1 (%)")
    else:
        figure = seed_bars(values, PLOTTED[name], "mean F1 (%)")
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=90, metadata={"Comment": _digest(content)})
    plt.close(figure)


def _by_weight(values: Mapping[str, Sequence]) -> dict[str, dict[float, Sequence]]:
    """Rows called ``alpha0 = 0.8`` by weight and value."""
    series: dict[str, dict[float, Sequence]] = {}
    for name, seeds in values.items():
        weight, _, value = name.partition(" = ")
        series.setdefault(weight, {})[float(value)] = seeds
    return series


def _alt(name: str, rows: Sequence[Mapping]) -> str:
    """Alternative text of a plot: what kind it is, and the numbers in it."""
    numbers = "; ".join(f"{r['name']} {summary(r['seeds'])}" for r in rows if r["metric"] == "mean_f1")
    lines = {"fig6": "Lines of mean F1 against each weight", "warnings": "Lines of mean F1 against the share kept"}
    kind = lines.get(name, "Bars of mean F1")
    return f"{kind}, in percent, with a dot for each seed: {numbers}"


def _digest(content: Mapping) -> str:
    return hashlib.sha256(json.dumps(content["rows"]).encode()).hexdigest()


def _drawn_from(plot: Path) -> str | None:
    """What :func:`_draw` left in a plot about the rows that it shows."""
    with Image.open(plot, formats=["PNG"]) as picture:
        return picture.info.get("Comment")

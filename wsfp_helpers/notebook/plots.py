"""Figures of the notebooks: titled, labelled, safe for colour-blind eyes, and always with alternative text.

Every function that draws returns a matplotlib ``Figure``; :func:`show` puts it on the page and closes it.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence, Sized
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import display
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from seaborn.utils import relative_luminance

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.labels import CELEBAMASK, IGNORE, Scheme
from wsfp_helpers.palette import paint

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, darkest contrasts first; series also differ in hatch, marker and line style."""
HATCHES, MARKERS, LINES = ("", "//", "..", "xx", "\\\\", "oo", "--"), "osD^vPX", ("-", "--", "-.", ":")
MAP_COLOURS = "viridis"
DPI = 110


def show(figure: Figure, alt: str) -> None:
    """Display a figure as PNG with ``alt`` as its alternative text, and close it; raises as :func:`show_png`."""
    if not isinstance(figure, Figure):
        raise InputError(f"show: expected a figure, got {type(figure).__name__}; does your function return it?")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
    plt.close(figure)
    show_png(buffer.getvalue(), alt)


def show_png(data: bytes, alt: str) -> None:
    """Display the bytes of a PNG file with ``alt`` as its alternative text.

    JupyterLab shows a bare PNG without alternative text, so the output also has an ``img`` element, which it and
    nbconvert prefer; other viewers take the PNG with ``alt`` in its metadata.  Raises :class:`InputError` without text.
    """
    if not isinstance(alt, str) or not alt.strip():
        raise InputError("a figure needs alternative text: say in alt=... what one sees")
    png = base64.b64encode(data).decode()
    image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{png}" style="max-width: 100%">'
    display(
        {"text/html": image, "image/png": png, "text/plain": f"[figure: {alt}]"},
        metadata={"alt": alt, "image/png": {"alt": alt}},
        raw=True,
    )


def overlay(image: np.ndarray, label_map: np.ndarray, scheme: Scheme = CELEBAMASK, opacity: float = 0.55) -> np.ndarray:
    """Fig. 4: picture ``(H, W, 3)`` uint8 under the colours of a label map ``(H, W)``, but for background and 255."""
    image, label_map = _picture(image), _labels(label_map)
    if image.shape[:2] != label_map.shape:
        raise InputError(f"overlay: the picture has the shape {image.shape[:2]}, the label map {label_map.shape}")
    painted = paint(label_map, scheme)
    mixed = (1 - opacity) * image + opacity * painted
    clear = (label_map == 0) | (label_map == IGNORE)
    return np.where(clear[..., None], image, np.round(mixed)).astype(np.uint8)


def heat(image: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """Map ``(h, w)`` in [0, 1], enlarged to the picture ``(H, W, 3)`` uint8, in colours on its grey copy; uint8."""
    image, activation = _picture(image), np.asarray(activation)
    if activation.ndim != 2 or not activation.size:
        raise InputError(f"heat: expected one map (h, w), got the shape {activation.shape}")
    size = image.shape[1::-1]
    enlarged = np.array(Image.fromarray(np.asarray(activation, np.float32)).resize(size, Image.Resampling.BILINEAR))
    colours = 255 * colormaps[MAP_COLOURS](enlarged)[..., :3]
    return (0.35 * image.mean(2, keepdims=True) + 0.65 * colours).astype(np.uint8)


def gallery(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    title: str = "",
    columns: int = 6,
    size: float = 1.9,
    classes: Sequence[int] = (),
    scheme: Scheme = CELEBAMASK,
) -> Figure:
    """Pictures ``(H, W, 3)`` in a grid, each with its title; ``classes`` are listed in a legend of the palette."""
    _some(pictures, "gallery: no pictures")
    if len(titles) != len(pictures):
        raise InputError(f"gallery: {len(pictures)} pictures need as many titles, got {len(titles)}")
    columns = min(columns, len(pictures))
    figure, axes = _grid(len(pictures), columns, size, title)
    for axis, picture, name in zip(axes, pictures, titles, strict=True):
        axis.imshow(picture, interpolation="nearest" if len(picture) < 64 else None)
        axis.set_title(name, fontsize=9)
    if len(classes):
        _class_legend(figure, classes, scheme)
    return figure


def face_and_map(
    image: np.ndarray, label_map: np.ndarray, scheme: Scheme = CELEBAMASK, title: str = "A face and its label map"
) -> Figure:
    """Picture, label map and both together, with a legend of the classes that the map has."""
    label_map = _labels(label_map)
    present = [value for value in np.unique(label_map) if value != 0]
    return gallery(
        [image, paint(label_map, scheme), overlay(image, label_map, scheme)],
        ["picture", "label map", "both"], title, columns=3, size=2.9, classes=present, scheme=scheme,
    )  # fmt: skip


def fcam_sheet(
    image: np.ndarray, maps: np.ndarray, names: Sequence[str], title: str = "Facial component activation maps",
    columns: int = 6,
) -> Figure:  # fmt: skip
    """Fig. 3, Fig. 5: the picture, then a panel for each class: maps ``(P, H, W)`` in [0, 1] over the grey picture."""
    if len(maps) != len(names):
        raise InputError(f"a sheet of {len(maps)} maps needs as many names, got {len(names)}")
    figure, axes = _grid(len(maps) + 1, min(columns, len(maps) + 1), 1.9, title)
    axes[0].imshow(image)
    axes[0].set_title("picture", fontsize=9)
    height, width = image.shape[:2]
    for axis, activation, name in zip(axes[1:], maps, names, strict=True):
        axis.imshow(np.asarray(image).mean(2), cmap="gray", vmin=0, vmax=255)
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axis.imshow(activation, cmap=MAP_COLOURS, vmin=0, vmax=1, alpha=0.65, extent=extent, interpolation="bilinear")
        axis.set_title(name, fontsize=9)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), MAP_COLOURS), ax=list(axes), shrink=0.7, pad=0.01)
    bar.set_label("activation")
    return figure


def heatmap(
    table: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, label: str,
    row_label: str = "", column_label: str = "", digits: int | None = 2, centre: float | None = None,
) -> Figure:  # fmt: skip
    """Table ``(R, C)`` as colours with its numbers (``digits=None``: none); NaN stays white.

    ``centre`` (say 1 for a lift, 0 for a difference) takes a diverging scale with its middle there.
    """
    table = np.asarray(table, float)
    if table.shape != (len(rows), len(columns)):
        raise InputError(f"heatmap: table {table.shape} with {len(rows)} row and {len(columns)} column names")
    size = (max(5.0, 1.9 + 0.45 * len(columns)), max(2.4, 1.3 + 0.36 * len(rows)))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    sns.heatmap(
        table, linewidths=0.5, cmap="cividis" if centre is None else "PuOr_r",
        norm=Normalize() if centre is None else CenteredNorm(centre),
        annot=digits is not None, fmt=f".{digits or 0}f", annot_kws={"fontsize": 7},
        cbar_kws={"label": label, "shrink": 0.85}, ax=axis,
    )  # fmt: skip
    for text, value in zip(axis.texts, table[np.isfinite(table)], strict=False):
        ground = relative_luminance(axis.collections[0].to_rgba(value))
        text.set_color("black" if ground > 0.18 else "white")  # what W3C's contrast is higher with
    axis.set_xticks(axis.get_xticks(), columns, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
    axis.set_yticks(axis.get_yticks(), rows, rotation=0, fontsize=9)
    axis.set(title=title, xlabel=column_label, ylabel=row_label)
    return figure


def bars(
    series: Mapping[str, Sequence[float]], names: Sequence[str], title: str, label: str,
    errors: Mapping[str, Sequence[float]] | None = None, category_label: str = "",
) -> Figure:  # fmt: skip
    """Grouped bars: a group for each name, a bar in it for each series; ``errors`` are half-lengths of whiskers."""
    _some(series, "bars: no series")
    if wrong := next((name for name, values in series.items() if len(values) != len(names)), None):
        raise InputError(f"bars: {wrong} has {len(series[wrong])} values for {len(names)} names")
    inches = np.clip(0.3 * len(names) * (len(series) + 1), 6, 11)
    figure, axis = plt.subplots(figsize=(inches, 3.4), layout="constrained")
    places, width = np.arange(len(names)), 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        axis.bar(
            places + (i - (len(series) - 1) / 2) * width, values, width, label=name, color=COLOURS[i % len(COLOURS)],
            hatch=HATCHES[i % len(HATCHES)], edgecolor="white", linewidth=0.5,
            yerr=(errors or {}).get(name), capsize=2,
        )  # fmt: skip
    turn, side = (45, "right") if len(names) > 6 else (0, "center")
    axis.set_xticks(places, names, fontsize=9, rotation=turn, ha=side, rotation_mode="anchor")
    axis.set(title=title, ylabel=label, xlabel=category_label)
    _finish(axis, legend=len(series) > 1)
    return figure


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, x_label: str, y_label: str,
    marks: bool = False, log: bool = False,
) -> Figure:  # fmt: skip
    """Lines, one for each name of ``series`` with its (x, y); ``marks`` shows the points, ``log`` scales y."""
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for i, (name, (x, y)) in enumerate(series.items()):
        axis.plot(
            x, y, label=name, color=COLOURS[i % len(COLOURS)], linestyle=LINES[i % len(LINES)], linewidth=1.8,
            marker=MARKERS[i % len(MARKERS)] if marks else None, markersize=5,
        )  # fmt: skip
    axis.set(title=title, xlabel=x_label, ylabel=y_label)
    if log:
        axis.set_yscale("log")
    _finish(axis, legend=len(series) > 1)
    return figure


def seed_bars(values: Mapping[str, Sequence[float | None]], title: str, label: str) -> Figure:
    """Horizontal bars, one for each name of ``values``: the mean over the seeds, with a dot for each seed."""
    _some(values, "seed_bars: no values")
    known = {name: np.array(seeds, float) for name, seeds in values.items()}
    figure, axis = plt.subplots(figsize=(7.5, 1.1 + 0.34 * len(values)), layout="constrained")
    sns.barplot(known, orient="h", errorbar=None, color=COLOURS[5], saturation=1, width=0.66, ax=axis)
    sns.stripplot(known, orient="h", jitter=False, color=COLOURS[6], size=4, alpha=0.8, ax=axis)
    axis.set(title=title, xlabel=f"{label}; bar: mean, dots: single seeds", ylabel="")
    _finish(axis, "x")
    return figure


def seed_curves(series: Mapping[str, Mapping[float, Sequence[float | None]]], title: str, label: str) -> Figure:
    """One panel for each name of ``series``: means over the seeds against the value, with a dot for each seed."""
    _some(series, "seed_curves: no series")
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.7 * columns, 2.1 * rows + 0.5), layout="constrained", sharey=True, squeeze=False
    )
    for axis in axes.flat[len(series) :]:
        axis.set_axis_off()
    for axis, (name, points) in zip(axes.flat, series.items(), strict=False):
        pairs = [(x, seed) for x, seeds in points.items() for seed in seeds if seed is not None]
        x, y = np.array(pairs, float).reshape(-1, 2).T
        sns.lineplot(x=x, y=y, errorbar=None, marker="o", color=COLOURS[0], ax=axis)
        sns.scatterplot(x=x, y=y, color=COLOURS[6], s=14, alpha=0.6, linewidth=0, zorder=3, ax=axis)
        axis.margins(x=0.15)
        axis.set_xticks(sorted(points))
        axis.set_xlabel(name)
        _finish(axis)
    figure.suptitle(f"{title} (line: mean, small dots: single seeds)", fontsize=11)
    figure.supylabel(label, fontsize=10)
    return figure


def _some(given: Sized, what: str) -> None:
    if not len(given):
        raise InputError(f"{what}: expected at least one")


def _picture(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype != np.uint8:
        raise InputError(f"expected a picture (H, W, 3) uint8, got {image.dtype} of the shape {image.shape}")
    return image


def _labels(label_map: np.ndarray) -> np.ndarray:
    label_map = np.asarray(label_map)
    if label_map.ndim != 2 or label_map.dtype.kind not in "ui" or not label_map.size:
        raise InputError(
            f"expected a label map (H, W) of class ids, got {label_map.dtype} of the shape {label_map.shape}"
        )
    if label_map.min() < 0 or label_map.max() > IGNORE:
        raise InputError(f"expected class ids from 0 to {IGNORE}, got {label_map.min()} to {label_map.max()}")
    return label_map


def _finish(axis: Axes, grid: Literal["x", "y"] = "y", legend: bool = False) -> None:
    sns.despine(ax=axis)
    axis.grid(axis=grid, alpha=0.3)
    axis.set_axisbelow(True)
    if legend:
        axis.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _grid(count: int, columns: int, size: float, title: str) -> tuple[Figure, np.ndarray]:
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(size * columns, (size + 0.25) * rows + 0.4), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=11)
    return figure, axes.ravel()[:count]


def _class_legend(figure: Figure, classes: Sequence[int], scheme: Scheme) -> None:
    entries = [
        Patch(
            facecolor=paint(np.array([[value]]), scheme)[0, 0] / 255, edgecolor="black", linewidth=0.4,
            label="ignored" if value == IGNORE else scheme.words[value],
        )
        for value in classes
    ]  # fmt: skip
    figure.legend(handles=entries, loc="outside lower center", ncols=7, fontsize=8, frameon=False, handlelength=1.2)

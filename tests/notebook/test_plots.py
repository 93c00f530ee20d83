"""Figures: alternative text reaches the page, nothing stays open, colours are drawn where the map has them."""

import base64
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import BarContainer
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from seaborn.utils import relative_luminance

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.notebook import plots
from wsfp_helpers.palette import PALETTE, simulate_deficiency

matplotlib.use("Agg")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _nothing_stays_open():
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """What `show` displays, as (data, metadata)."""
    outputs = []

    def record(data, metadata, raw):
        assert raw
        outputs.append((data, metadata))

    monkeypatch.setattr(plots, "display", record)
    return outputs


def test_show_gives_a_png_with_its_text_and_closes_the_figure(shown):
    figure, axis = plt.subplots()
    axis.plot([1, 2])
    plots.show(figure, 'A line that goes "up" & <right>')
    ((data, metadata),) = shown
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.format == "PNG" and min(picture.size) > 100
    assert metadata["image/png"]["alt"] == 'A line that goes "up" & <right>'
    assert plt.get_fignums() == []


def test_a_page_of_nbconvert_has_the_text(shown):
    figure, axis = plt.subplots()
    axis.plot([1, 2])
    plots.show(figure, 'A "rising" line')
    ((data, metadata),) = shown
    output = new_output("display_data", data, metadata=metadata)
    page, _ = HTMLExporter().from_notebook_node(new_notebook(cells=[new_code_cell("", outputs=[output])]))
    (image,) = [tag for tag in page.split("<img")[1:] if "base64" in tag[:2000]]
    assert "rising" in image.split(">")[0] and "No description" not in page


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_figure_without_text_is_refused(text):
    with pytest.raises(InputError, match="alternative text"):
        plots.show(plt.figure(), text)


def test_overlay_colours_classes_and_leaves_the_rest():
    image = RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    label_map = RNG.choice(np.array([0, 1, 13, 255], np.uint8), (6, 7))
    mixed = plots.overlay(image, label_map, opacity=0.25)
    for (y, x), value in np.ndenumerate(label_map):
        wanted = image[y, x] if value in (0, 255) else 0.75 * image[y, x] + 0.25 * PALETTE[value]
        assert np.abs(mixed[y, x] - wanted).max() <= 0.5


def test_heat_is_the_map_in_colours_on_the_grey_picture():
    image = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    activation = np.zeros((2, 3))
    activation[:, 0] = 1  # enlarged 20 times: only the first and the last 10 columns are beside no other value
    mixed = plots.heat(image, activation)
    colours = 255 * matplotlib.colormaps["viridis"]([1.0, 0.0])[:, :3]
    for columns, colour in ((slice(0, 10), colours[0]), (slice(40, 60), colours[1])):
        wanted = 0.35 * image[:, columns].mean(2, keepdims=True) + 0.65 * colour
        assert np.abs(mixed[:, columns] - wanted).max() <= 1


def test_a_face_has_three_panels_and_a_legend_of_its_classes():
    label_map = np.zeros((20, 20), np.uint8)
    label_map[5:, 5:], label_map[10:, 10:], label_map[15:] = 4, 13, 255
    figure = plots.face_and_map(np.zeros((20, 20, 3), np.uint8), label_map, title="A face")
    assert [axis.get_title() for axis in figure.axes] == ["picture", "label map", "both"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["left eye", "hair", "ignored"]
    assert np.allclose(legend.get_patches()[0].get_facecolor()[:3], PALETTE[4] / 255)


def test_a_sheet_has_one_panel_a_class_on_one_scale():
    maps = RNG.random((3, 4, 4)).astype(np.float32)
    figure = plots.fcam_sheet(np.zeros((16, 16, 3), np.uint8), maps, ["skin", "nose", "hair"])
    panels = figure.axes[:4]
    assert [axis.get_title() for axis in panels] == ["picture", "skin", "nose", "hair"]
    for axis, wanted in zip(panels[1:], maps, strict=True):
        drawn = axis.images[1]
        assert np.array_equal(drawn.get_array(), wanted) and drawn.get_clim() == (0, 1)
    assert figure.axes[-1].get_ylabel() == "activation"
    with pytest.raises(InputError, match="as many names"):
        plots.fcam_sheet(np.zeros((16, 16, 3), np.uint8), maps, ["skin"])


@pytest.mark.parametrize("centre", [None, 1])
def test_a_heat_map_writes_numbers_that_can_be_read(centre):
    table = np.append(np.linspace(0, 2, 29), np.nan).reshape(3, 10)
    rows, columns = ["a", "b", "c"], [f"x{i}" for i in range(10)]
    figure = plots.heatmap(table, rows, columns, "Lift", "lift", "given", "present", centre=centre)
    axis, bar = figure.axes
    known = np.argwhere(np.isfinite(table))
    assert [text.get_text() for text in axis.texts] == [f"{table[y, x]:.2f}" for y, x in known]
    assert [text.get_position() for text in axis.texts] == [(x + 0.5, y + 0.5) for y, x in known]
    assert [label.get_text() for label in axis.get_yticklabels()] == rows and axis.get_ylim() == (3, 0)
    assert [label.get_text() for label in axis.get_xticklabels()] == columns
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == ("Lift", "present", "given")
    assert bar.get_ylabel() == "lift"
    (cells,) = axis.collections
    assert getattr(cells.norm, "vcenter", None) == centre
    np.testing.assert_allclose(cells.to_rgba(1.0), matplotlib.colormaps["PuOr_r" if centre else "cividis"](0.5))
    for text, (y, x) in zip(axis.texts, known, strict=True):
        dark, light = sorted(map(relative_luminance, (cells.to_rgba(table[y, x]), text.get_color())))
        assert (light + 0.05) / (dark + 0.05) > 4.5  # what W3C asks of small text


def test_a_heat_map_leaves_unknown_numbers_white():
    figure = plots.heatmap(np.array([[0.0, np.nan], [np.inf, 0.5]]), ["a", "b"], ["x", "y"], "Title", "share")
    axis = figure.axes[0]
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3]

    def cell(x, y):
        (left, bottom), (right, top) = axis.transData.transform([(x + 0.1, y + 0.9), (x + 0.9, y + 0.1)]).round()
        return drawn[int(bottom) : int(top), int(left) : int(right)]

    assert (cell(1, 0) == 255).all() and (cell(0, 1) == 255).all()
    assert np.median(cell(0, 0)) < 50 and [text.get_text() for text in axis.texts] == ["0.00", "0.50"]


def test_a_heat_map_can_leave_its_numbers_out_and_names_a_wrong_shape():
    table = np.array([[0.0, 1.0, np.nan], [2.0, 0.5, 1.5]])
    assert not plots.heatmap(table, ["a", "b"], ["x", "y", "z"], "Lift", "lift", digits=None).axes[0].texts
    whole = plots.heatmap(table, ["a", "b"], ["x", "y", "z"], "Lift", "lift", digits=0).axes[0]
    assert [text.get_text() for text in whole.texts] == ["0", "1", "2", "0", "2"]
    with pytest.raises(InputError, match=r"heatmap: table \(2, 3\) with 1 row and 3 column names"):
        plots.heatmap(table, ["a"], ["x", "y", "z"], "Lift", "lift")


def test_bars_and_curves_are_labelled_and_differ_in_more_than_colour():
    series = {"base": [1, 2], "full": [2, 3]}
    figure = plots.bars(series, ["skin", "nose"], "F1", "mean F1 (%)", errors={"full": [0.1, 0.2]})
    axis = figure.axes[0]
    bars = {each.get_label(): each for each in axis.containers if isinstance(each, BarContainer)}
    assert {name: list(each.datavalues) for name, each in bars.items()} == series
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(series)
    assert len({patch.get_hatch() for patch in axis.patches}) == 2
    assert [to_hex(each[0].get_facecolor()).upper() for each in bars.values()] == list(plots.COLOURS[:2])
    (whiskers,) = bars["full"].errorbar.lines[2]
    ends = [segment[:, 1].tolist() for segment in whiskers.get_segments()]
    assert bars["base"].errorbar is None and np.allclose(ends, [[1.9, 2.1], [2.8, 3.2]])
    assert axis.get_title() == "F1" and axis.get_ylabel() == "mean F1 (%)"
    figure = plots.curves({"a": ([0, 1], [1, 2]), "b": ([0, 1], [2, 1])}, "Loss", "step", "loss", marks=True)
    axis = figure.axes[0]
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == ("Loss", "step", "loss")
    assert len({line.get_linestyle() for line in axis.lines}) == len({line.get_marker() for line in axis.lines}) == 2
    assert [line.get_color() for line in axis.lines] == list(plots.COLOURS[:2])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


@pytest.mark.parametrize("kind", ["protanopia", "deuteranopia", "tritanopia"])
def test_series_colours_stay_apart_for_colour_blind_eyes(kind):
    rgb = np.array([np.round(np.multiply(to_rgb(colour), 255)) for colour in plots.COLOURS], np.uint8)
    seen = simulate_deficiency(rgb, kind).astype(float)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert distances[~np.eye(len(seen), dtype=bool)].min() > 25


def dots(axis):
    """What :func:`seaborn.stripplot` and :func:`seaborn.scatterplot` drew: (x, y) of every dot."""
    return [tuple(place) for each in axis.collections for place in each.get_offsets().tolist()]


def test_seed_bars_end_at_the_mean_and_show_every_seed():
    (axis,) = plots.seed_bars({"a": [1.0, 3.0], "b": [None, 5.0], "c": [None]}, "Title", "F1").axes
    assert [(patch.get_x(), patch.get_width()) for patch in axis.patches] == [(0, 2.0), (0, 5.0)]
    assert [patch.get_y() + patch.get_height() / 2 for patch in axis.patches] == pytest.approx([0, 1])
    assert {to_hex(patch.get_facecolor()).upper() for patch in axis.patches} == {plots.COLOURS[5]}
    assert dots(axis) == [(1.0, 0), (3.0, 0), (5.0, 1)]
    assert not axis.lines  # nothing between the bars and the dots that could be taken for an interval
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c"]
    assert axis.get_title() == "Title" and axis.get_xlabel() == "F1; bar: mean, dots: single seeds"
    assert axis.get_ylim()[0] > axis.get_ylim()[1]


def test_seed_curves_have_a_panel_a_weight():
    series = {"x": {0.2: [2.0, 4.0], 0.1: [1.0]}, "y": {3.0: [None]}, "z": {1.0: [None, 2.0], 2.0: [None]}}
    figure = plots.seed_curves(series, "Title", "F1")
    assert [axis.get_xlabel() for axis in figure.axes] == ["x", "y", "z"]
    first, second, third = figure.axes
    assert first.lines[0].get_xydata().tolist() == [[0.1, 1.0], [0.2, 3.0]]
    assert sorted(dots(first)) == [(0.1, 1.0), (0.2, 2.0), (0.2, 4.0)]
    assert first.lines[0].get_color() == plots.COLOURS[0] and len(first.lines) == 1
    assert dots(second) == [] and list(second.get_xticks()) == [3.0]
    assert dots(third) == [(1.0, 2.0)] and list(third.get_xticks()) == [1.0, 2.0]
    for axis in figure.axes:  # a value without a seed keeps its place
        assert all(axis.get_xlim()[0] <= x <= axis.get_xlim()[1] for x in axis.get_xticks())
    assert "Title" in figure.get_suptitle() and figure.get_supylabel() == "F1"


PICTURE, LABELS = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plots.show(None, "a figure"), "expected a figure, got NoneType"),
        (lambda: plots.show(plots.gallery([PICTURE], ["a"]), None), "needs alternative text"),
        (lambda: plots.overlay(PICTURE, LABELS[:2]), r"shape \(4, 6\), the label map \(2, 6\)"),
        (lambda: plots.overlay(PICTURE, LABELS + 0.5), r"class ids, got float64"),
        (lambda: plots.overlay(PICTURE, None), "class ids, got object"),
        (lambda: plots.overlay(PICTURE, LABELS.astype(int) - 1), "from 0 to 255, got -1"),
        (lambda: plots.overlay(LABELS, LABELS), r"picture \(H, W, 3\) uint8, got uint8 of the shape \(4, 6\)"),
        (lambda: plots.overlay(PICTURE / 255, LABELS), "picture .* got float64"),
        (lambda: plots.face_and_map(PICTURE, PICTURE), r"label map \(H, W\)"),
        (lambda: plots.heat(PICTURE, np.zeros((2, 2, 2))), r"expected one map \(h, w\)"),
        (lambda: plots.heat(None, np.zeros((2, 2))), "picture .* got object"),
        (lambda: plots.gallery([], []), "gallery: no pictures"),
        (lambda: plots.gallery([PICTURE], []), "1 pictures need as many titles, got 0"),
        (lambda: plots.bars({}, [], "t", "l"), "bars: no series"),
        (lambda: plots.bars({"a": [1]}, ["x", "y"], "t", "l"), "a has 1 values for 2 names"),
        (lambda: plots.seed_bars({}, "t", "l"), "seed_bars: no values"),
        (lambda: plots.seed_curves({}, "t", "l"), "seed_curves: no series"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, words):
    with pytest.raises(InputError, match=words):
        draw()

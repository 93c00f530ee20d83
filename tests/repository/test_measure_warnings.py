"""What scripts/measure_warnings.py says of bad maps."""

import numpy as np
import pytest
import torch

from scripts import measure_warnings as script


def found(parsers):
    """Twenty maps, the two worst first; the other measures know nothing."""
    other = np.linspace(0.9, 1, 20)
    return {"F1": np.arange(10.0, 90, 4), "parsers": np.array(parsers), "mirror": other, "confidence": other[::-1],
            "warned": np.array(parsers) < 0.5, "spoilt": np.array([-1, 6] * 10)}  # fmt: skip


def test_a_measure_that_is_unsure_of_the_worst_maps_finds_them():
    rows = {row["name"]: row["seeds"][0] for row in script.rows("a", found([0.1, 0.2, *np.linspace(0.7, 1, 18)]))}
    assert rows["a: parsers, worst tenth warned of"] == rows["a: wsfp parse, worst tenth warned of"] == 100
    assert rows["a: wsfp parse, others warned of"] == 0 and rows["a: confidence, worst tenth warned of"] == 0
    rows = {row["name"]: row["seeds"][0] for row in script.rows("a", found([0.1, 0.9, 0.2, *np.linspace(0.7, 1, 17)]))}
    assert rows["a: wsfp parse, worst tenth warned of"] == 50 and rows["a: wsfp parse, sunglasses warned of"] == 0
    assert rows["a: wsfp parse, unspoilt warned of"] == 20
    assert rows["a: wsfp parse, others warned of"] == pytest.approx(100 / 18)


def test_the_curve_is_the_mean_of_what_is_left():
    rows = {row["name"]: row["seeds"][0] for row in script.curves(found(np.linspace(0, 1, 20)))}
    assert (
        rows["share kept, by parsers = 1.0"] == 48
        and rows["share kept, by parsers = 0.5"] == np.arange(50, 90, 4).mean()
    )
    assert rows["share kept, by confidence = 0.5"] == np.arange(10, 50, 4).mean()


def test_a_look_is_that_of_wsfp_parse():
    measure, pictures = script.Measured(), script.synthfaces("celeb/val").image(0)[None]
    for found, wanted in zip(
        measure.look(pictures, True), script.look_together(measure.parsers, pictures, True), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)


@pytest.mark.parametrize("how", script.SPOILT)
def test_a_spoilt_picture_has_a_map_of_its_size(how):
    faces = script.synthfaces("celeb/val")
    image, truth = faces.image(0), faces.label_map(0)
    spoilt, left = script.spoil(image, truth, how, np.random.default_rng(0))
    assert spoilt.shape == image.shape and spoilt.dtype == np.uint8 and (spoilt != image).any()
    assert left.shape == truth.shape and set(np.unique(left)) <= {*np.unique(truth), 3, 255}
    assert (left != truth).any() == (how in ("turned", "covered", "sunglasses"))

"""Regions: evidence against loops, names on a small data set whose answer is known, and what may never happen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.labels import COMPONENTS, K
from wsfp_helpers.method import regions
from wsfp_helpers.method.fcam import Fcam
from wsfp_helpers.method.regions import NAMED, REGIONS, RegionConfig

SIDE, N, PIXELS = 10, 30, 80
CONFIG = RegionConfig(clusters=(24, 16), dims=8)
ROWS = {"hair": (1, 3), "skin": (3, 7), "neck": (7, 9), "cloth": (9, 10)}
"""Rows of each region in the middle columns of a picture; the rest is background."""
BOXES = {"l_eye": (44.0, 28.0, 52.0, 32.0), "r_eye": (28.0, 28.0, 36.0, 32.0), "mouth": (34.0, 46.0, 46.0, 52.0),
         "nose": (37.0, 32.0, 43.0, 44.0)}  # fmt: skip
ALWAYS = ("skin", "hair", "neck", "l_eye", "r_eye", "nose", "u_lip", "l_lip")


def k(name):
    return COMPONENTS.index(name)


def layout(hat, cloth):
    """Region ``(SIDE, SIDE)`` of every token: a hat stands in place of the hair, the neck goes down without clothes."""
    grid = np.zeros((SIDE, SIDE), int)
    for name, (top, bottom) in ROWS.items():
        shown = {"hair": "hat" if hat else "hair", "cloth": "cloth" if cloth else "neck"}.get(name, name)
        grid[top:bottom, 3:7] = REGIONS.index(shown)
    return grid


def make(seed=0):
    """Tokens, maps, boxes, labels and the true regions of ``N`` pictures.

    Tokens are a direction for each region with noise; the neck's lies near the skin's.  Maps are the faulty ones of the
    course: that of clothes covers the neck, that of skin the hair.
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(len(REGIONS), 16))
    direction[REGIONS.index("neck")] = direction[REGIONS.index("skin")] + 0.5 * direction[REGIONS.index("neck")]
    hats, clothes = np.arange(N) % 5 == 0, np.arange(N) % 3 > 0
    truth = np.stack([layout(*both) for both in zip(hats, clothes, strict=True)])
    tokens = direction[truth] + 0.15 * rng.normal(size=(*truth.shape, 16))
    labels = np.zeros((N, K), np.uint8)
    labels[:, [k(name) for name in ALWAYS]] = 1
    labels[:, k("hat")], labels[:, k("cloth")] = hats, clothes
    fcams = [one_fcam(labels[i], truth[i], str(i)) for i in range(N)]
    return torch.from_numpy(tokens).float().flatten(1, 2), fcams, [BOXES] * N, labels, truth


def one_fcam(labels, truth, name):
    classes = np.flatnonzero(labels)
    covers = {"skin": ("skin", "hair"), "hair": ("hair", "hat"), "neck": ("neck",), "cloth": ("cloth", "neck"),
              "hat": ("hat",)}  # fmt: skip
    strength = {("cloth", "neck"): 0.6, ("skin", "hair"): 0.8}
    maps = np.zeros((len(classes), SIDE, SIDE), np.float32)
    for row, c in enumerate(classes):
        for region in covers.get(COMPONENTS[c], ()):
            maps[row][truth == REGIONS.index(region)] = strength.get((COMPONENTS[c], region), 1.0)
    return Fcam(name, classes, (torch.from_numpy(maps),), (PIXELS, PIXELS))


def known_of(data, config=CONFIG):
    return regions.gather(*data[:4], config)


def right(probability, truth):
    """Share of right tokens by region."""
    found = probability.argmax(-1).reshape(truth.shape)
    return {name: float((found == q)[truth == q].mean()) for q, name in enumerate(REGIONS)}


def test_regions_come_out_of_faulty_maps_and_labels():
    data = make()
    known = known_of(data)
    shares = right(regions.refine(known, regions.cluster(known, CONFIG), CONFIG), data[4])
    assert min(shares.values()) > 0.9, shares


def test_the_maps_alone_do_not_find_them():
    data = make()
    strongest = []
    for fcam in data[1]:
        maps, names = fcam.maps((SIDE, SIDE)), [COMPONENTS[c] for c in fcam.classes]
        rows = [names.index(name) if name in names else None for name in REGIONS[1:]]
        values = [np.full((SIDE, SIDE), 0.5)] + [np.zeros((SIDE, SIDE)) if r is None else maps[r] for r in rows]
        strongest.append(np.stack(values, -1))
    assert right(np.stack(strongest), data[4])["hat"] < 0.9  # hair is as strong there, so the task is not empty


def test_contrast_is_what_a_loop_over_pictures_counts():
    data = make(1)
    known = known_of(data)
    ids = regions.cluster(known, CONFIG)[0]
    found = regions.weigh(ids, known, CONFIG)
    for c in (0, 7, 12):
        seen = [np.log(1 + np.sum(ids[i] == c)) for i in range(N)]
        for name in ("hat", "cloth", "skin"):
            has = [seen[i] for i in range(N) if data[3][i, k(name)]]
            lacks = [seen[i] for i in range(N) if not data[3][i, k(name)]]
            extra = 10 * np.mean(seen)
            with_part, without = (sum(has) + extra) / (len(has) + 10), (sum(lacks) + extra) / (len(lacks) + 10)
            expected = min(max(1 - without / with_part, 0), 1)
            assert found.contrast[c, k(name)] == pytest.approx(expected, abs=1e-9)
        members = ids == c
        assert found.fcam[c, k("hair")] == pytest.approx(known.maps[..., k("hair")][members].mean(), abs=1e-6)
        assert found.border[c] == pytest.approx(known.border[members].mean())


def test_labels_name_what_maps_confuse():
    data = make()
    without = replace(CONFIG, contrast=False)
    shares = []
    for config in (CONFIG, without):
        known = known_of(data, config)
        score, names, clear = regions.name_tokens(known, regions.cluster(known, config), config)
        truth = data[4].reshape(N, -1)
        hat = truth == REGIONS.index("hat")
        shares.append((names[hat] == NAMED.index("hat")).mean())
        assert score.shape == (N, SIDE * SIDE, 5) and clear.any() and not clear.all()
    assert shares[0] > shares[1]


def test_a_part_that_the_label_lacks_has_no_chance():
    data = make()
    data[3][:, k("hat")] = 0
    known = known_of(data)
    for config in (CONFIG, replace(CONFIG, rounds=0), replace(CONFIG, clusters=()), replace(CONFIG, boxes=False)):
        ids = regions.cluster(known, config)
        probability = regions.refine(known, ids, config)
        assert probability.shape == (N, SIDE * SIDE, 6)
        np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-5)
        assert probability[..., REGIONS.index("hat")].max() < 1e-6
        assert probability[data[3][:, k("cloth")] == 0][..., REGIONS.index("cloth")].max() < 1e-6


@pytest.mark.promise("determinism", "`regions` twice with one seed", "-", "the same regions")
def test_the_same_seed_gives_the_same_regions_and_leaves_torchs_alone():
    known = known_of(make())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    runs = [regions.refine(known, regions.cluster(known, CONFIG, seed), CONFIG, seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_tokens_know_where_they_lie():
    known = known_of(make())
    inside = known.hull[0].reshape(SIDE, SIDE)
    assert inside[4, 4] == 1 and inside[:3].max() == 0 and inside[7:].max() == 0
    below = known.below[0].reshape(SIDE, SIDE)
    bottom = max(box[3] for box in BOXES.values()) * SIDE / PIXELS  # in tokens, as the centres of rows are
    assert np.interp(bottom, np.arange(SIDE) + 0.5, below[:, 0]) == pytest.approx(0.5, abs=1e-6)
    without = known_of(make(), replace(CONFIG, boxes=False))
    assert without.hull.max() == 0 and np.abs(without.below).max() == 0


def picture():
    return np.random.default_rng(0).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)


def sharp(truth):
    return np.eye(len(REGIONS), dtype=np.float32)[truth.ravel()]


def test_a_label_has_regions_and_parts():
    data = make()
    fcam, truth = data[1][1], data[4][1]
    label = regions.region_label(picture(), sharp(truth), fcam, BOXES, CONFIG)
    assert label.shape == (PIXELS, PIXELS) and label.dtype == np.uint8
    assert label[0, 0] == 0 and label[60, 40] == k("neck") + 1 and label[30, 48] == k("l_eye") + 1
    assert set(np.unique(label)) <= {0, *(fcam.classes + 1)}


def test_without_boxes_the_strongest_map_on_the_skin_decides():
    data = make()
    truth, fcam = data[4][1], data[1][1]
    rows = [list(fcam.classes).index(k(name)) for name in ("nose", "skin")]
    fcam.grids[0][rows, 5, 5] = torch.tensor([5.0, 0.2])
    whole = regions.region_label(picture(), sharp(truth), fcam, {}, replace(CONFIG, boxes=False, radius=0))
    assert whole[44, 44] == k("nose") + 1 and whole[30, 30] == k("skin") + 1


def test_the_guided_filter_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    guide, values = rng.random((9, 11)), rng.random((2, 9, 11))
    found = regions.guided_filter(guide, values, radius=2, epsilon=0.01)

    def windows(x, y, size=(9, 11)):
        return np.clip(np.arange(y - 2, y + 3), 0, size[0] - 1), np.clip(np.arange(x - 2, x + 3), 0, size[1] - 1)

    slope, offset = np.zeros((2, 9, 11)), np.zeros((2, 9, 11))
    for y in range(9):
        for x in range(11):
            rows, columns = windows(x, y)
            part = guide[np.ix_(rows, columns)].ravel()
            for c in range(2):
                other = values[c][np.ix_(rows, columns)].ravel()
                slope[c, y, x] = np.mean((part - part.mean()) * (other - other.mean())) / (part.var() + 0.01)
                offset[c, y, x] = other.mean() - slope[c, y, x] * part.mean()
    for y in range(9):
        for x in range(11):
            block = np.ix_(*windows(x, y))
            for c in range(2):
                expected = slope[c][block].mean() * guide[y, x] + offset[c][block].mean()
                assert found[c, y, x] == pytest.approx(expected, abs=1e-9)


def test_boxes_of_a_wide_picture_lie_where_its_tokens_do():
    tokens, fcams, boxes, labels, _ = make()
    wide = [replace(fcam, size=(PIXELS, 2 * PIXELS)) for fcam in fcams]
    stretched = [{name: (2 * x1, y1, 2 * x2, y2) for name, (x1, y1, x2, y2) in each.items()} for each in boxes]
    square = regions.gather(tokens, fcams, boxes, labels, CONFIG)
    known = regions.gather(tokens, wide, stretched, labels, CONFIG)
    np.testing.assert_array_equal(known.hull, square.hull)
    np.testing.assert_array_equal(known.below, square.below)


def test_nothing_clear_is_said():
    known = known_of(make(), replace(CONFIG, boxes=False))
    config = replace(CONFIG, boxes=False, level=10.0)
    with pytest.raises(InputError, match="no token has a clear name"):
        regions.refine(known, regions.cluster(known, config), config)

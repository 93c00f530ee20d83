import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from wsfp_helpers.labels import CELEBAMASK, IGNORE, LAPA, NEIGHBOURS, to_lapa
from wsfp_helpers.palette import (
    DEFICIENCIES,
    IGNORED_COLOUR,
    LAPA_PALETTE,
    PALETTE,
    paint,
    palette,
    simulate_deficiency,
)


def distances(colours: np.ndarray, kind: str | None) -> np.ndarray:
    """CIEDE2000 ``(n, n)`` between colours ``(n, 3)`` as a person with ``kind`` sees them."""
    seen = colours if kind is None else simulate_deficiency(colours, kind)
    lab = rgb2lab(seen / 255)
    return deltaE_ciede2000(lab[:, None], lab[None])


@pytest.mark.parametrize("kind", [None, *DEFICIENCIES])
def test_neighbours_on_a_face_stay_apart(kind):
    table = distances(PALETTE, kind)
    near = {(a, b): table[CELEBAMASK.index(a), CELEBAMASK.index(b)] for a, b in NEIGHBOURS}
    assert min(near.values()) >= 16, min(near, key=near.get)


@pytest.mark.parametrize("kind", [None, *DEFICIENCIES])
def test_any_two_colours_differ_the_grey_of_ignored_pixels_too(kind):
    table = distances(np.vstack([PALETTE, IGNORED_COLOUR]), kind)
    assert table[np.triu_indices(20, 1)].min() >= 8


def test_palette_has_the_expected_shape_and_a_black_background():
    assert PALETTE.shape == (19, 3) and PALETTE.dtype == np.uint8 and LAPA_PALETTE.shape == (11, 3)
    assert PALETTE[0].tolist() == [0, 0, 0] == LAPA_PALETTE[0].tolist()
    assert palette(LAPA) is LAPA_PALETTE and palette() is PALETTE


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_deficiencies_keep_greys_and_confuse_what_they_should(kind):
    greys = np.repeat(np.arange(0, 256, 15, dtype=np.uint8)[:, None], 3, 1)
    assert np.abs(simulate_deficiency(greys, kind).astype(int) - greys).max() <= 1
    # Red against green for the first two, blue against green for the third: less apart than in normal vision.
    pair = np.array([(0, 110, 140), (0, 140, 60)] if kind == "tritanopia" else [(160, 60, 40), (90, 100, 40)], np.uint8)
    assert distances(pair, kind)[0, 1] < distances(pair, None)[0, 1] / 2


def test_paint_colours_every_class_and_greys_the_ignored():
    label_map = np.array([[0, 1, 18], [IGNORE, 4, 13]], np.uint8)
    picture = paint(label_map)
    assert picture.shape == (2, 3, 3) and picture.dtype == np.uint8
    for y, x in np.ndindex(2, 3):
        value = label_map[y, x]
        assert tuple(picture[y, x]) == (IGNORED_COLOUR if value == IGNORE else tuple(PALETTE[value]))


def test_a_part_keeps_its_colour_and_place_in_the_11_classes():
    kept = [k for k in range(1, 19) if to_lapa(np.array([[k]], np.uint8))[0, 0]]
    label_map = np.array([kept], np.uint8)
    assert len(kept) == 10
    assert np.array_equal(paint(to_lapa(label_map), LAPA), paint(label_map))

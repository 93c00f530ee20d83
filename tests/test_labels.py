import re
from pathlib import Path

import numpy as np
import pytest

import wsfp_helpers
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import flip_image
from wsfp_helpers.data.sets import open_dataset
from wsfp_helpers.labels import (
    CELEBAMASK,
    COMPONENTS,
    IGNORE,
    LAPA,
    NEIGHBOURS,
    PROMPTS,
    flip_label_map,
    prompt,
    to_lapa,
    to_lapa_table,
)


def test_classes_are_in_the_official_order():
    # The paper's "nose label 2 => 6" and the design notes fix these ids.
    official = {"skin": 1, "nose": 2, "eye_g": 3, "l_eye": 4, "r_eye": 5, "l_brow": 6, "r_brow": 7, "l_ear": 8}
    official |= {"r_ear": 9, "mouth": 10, "u_lip": 11, "l_lip": 12, "hair": 13, "hat": 14, "ear_r": 15, "neck_l": 16}
    official |= {"neck": 17}
    assert {name: CELEBAMASK.index(name) for name in COMPONENTS} == official | {"cloth": 18}
    assert LAPA.index("nose") == 6 and len(LAPA) == 11


@pytest.mark.parametrize("scheme", [CELEBAMASK, LAPA])
def test_flip_is_an_involution_that_exchanges_sides_only(scheme):
    assert np.array_equal(scheme.flip[scheme.flip], np.arange(len(scheme)))
    exchanged = {scheme.classes[k] for k in np.flatnonzero(scheme.flip != np.arange(len(scheme)))}
    assert exchanged == {name for pair in scheme.pairs for name in pair}
    assert np.array_equal(scheme.flip_components + 1, scheme.flip[1:])


def test_lips_are_upper_and_lower_and_do_not_flip():
    for name in ("u_lip", "l_lip"):
        assert CELEBAMASK.flip[CELEBAMASK.index(name)] == CELEBAMASK.index(name)
        assert CELEBAMASK.picture_half(name) is None


def test_sides_subject_here_viewer_there():
    assert CELEBAMASK.picture_half("l_eye") == "right" and CELEBAMASK.picture_half("r_ear") == "left"
    assert LAPA.picture_half("left_eye") == "left" and LAPA.picture_half("right_eyebrow") == "right"


def test_flipped_label_map_pixel_by_pixel():
    rng = np.random.default_rng(0)
    label_map = rng.choice([*range(19), IGNORE], (5, 7)).astype(np.uint8)
    flipped = flip_label_map(label_map)
    other = {"l_eye": "r_eye", "l_brow": "r_brow", "l_ear": "r_ear"}
    other |= {b: a for a, b in other.items()}
    for y in range(5):
        for x in range(7):
            value = label_map[y, 6 - x]
            if value != IGNORE:
                name = CELEBAMASK.classes[value]
                value = CELEBAMASK.index(other.get(name, name))
            assert flipped[y, x] == value
    assert np.array_equal(flip_label_map(flipped), label_map)


def test_flip_image_makes_a_copy():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    flipped = flip_image(image)
    flipped[:] = 0
    assert image.sum() == 66


def test_geometric_map_keeps_parts_in_their_half_by_name_does_not():
    for name in ("l_eye", "r_eye", "l_brow", "r_brow"):
        k = CELEBAMASK.index(name)
        half = CELEBAMASK.picture_half(name)
        assert LAPA.picture_half(LAPA.classes[to_lapa_table()[k]]) == half
        assert LAPA.picture_half(LAPA.classes[to_lapa_table("by-name")[k]]) != half


def test_both_maps_agree_on_unsided_parts_and_drop_what_lapa_lacks():
    expected = {"skin": "skin", "nose": "nose", "u_lip": "upper_lip", "l_lip": "lower_lip", "mouth": "inner_mouth"}
    expected["hair"] = "hair"
    sided = {name for pair in CELEBAMASK.pairs[:2] for name in pair}
    for mode in ("geometric", "by-name"):
        table = to_lapa_table(mode)
        for k, name in enumerate(CELEBAMASK.classes):
            if name not in sided:
                assert LAPA.classes[table[k]] == expected.get(name, "background")


def test_ears_to_skin_and_ignored_pixels():
    ears = np.array([[CELEBAMASK.index("l_ear"), CELEBAMASK.index("r_ear"), IGNORE]], np.uint8)
    assert to_lapa(ears).tolist() == [[0, 0, IGNORE]]
    assert to_lapa(ears, ears_to_skin=True).tolist() == [[1, 1, IGNORE]]


def test_rendered_faces_have_the_named_sides():
    faces = open_dataset("synthfaces", split="celeb/val")
    for name in ("l_eye", "l_brow", "l_ear"):
        left, right = CELEBAMASK.index(name), CELEBAMASK.flip[CELEBAMASK.index(name)]
        rows = [i for i in range(len(faces)) if faces.labels[i, left - 1] and faces.labels[i, right - 1]][:20]
        for i in rows:
            label_map = faces.label_map(i)
            assert np.nonzero(label_map == left)[1].mean() > np.nonzero(label_map == right)[1].mean()


def test_no_other_module_knows_left_from_right():
    """None names a point of view or a pair of sides, and one that mirrors asks a scheme what it exchanges."""
    package = Path(wsfp_helpers.__file__).parent
    sources = {str(path.relative_to(package)): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    pairs = [f'"{a}", "{b}"' for scheme in (CELEBAMASK, LAPA) for pair in scheme.pairs for a, b in (pair, pair[::-1])]
    knows = re.compile(rf'"(subject|viewer)"|[(\[]({"|".join(pairs)})[)\]]')
    mirrors = re.compile(r"(?<!def )flip_image\(|\.flip\(-1\)")
    exchanges = re.compile(r"flip_label_map\(|\.flip_components|(CELEBAMASK|scheme)\.flip\b")
    assert {name for name, text in sources.items() if knows.search(text)} == {"labels.py"}
    mirroring = {name for name, text in sources.items() if mirrors.search(text)}
    assert mirroring >= {"labels.py", "method/fcam.py", "method/train.py", "parsing/augment.py", "parsing/light.py"}
    assert [name for name in sorted(mirroring) if not exchanges.search(sources[name])] == []


def test_prompts():
    assert len(PROMPTS) == 18 and prompt("l_eye") == "a photo of a face with left eye"
    assert PROMPTS[COMPONENTS.index("l_lip")] == "a photo of a face with lower lip"
    assert not any(text.endswith(".") for text in PROMPTS)


def test_neighbours_are_known_classes():
    assert all(a in CELEBAMASK.classes and b in CELEBAMASK.classes and a != b for a, b in NEIGHBOURS)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"'eye_q'.*did you mean 'eye_g'"):
        CELEBAMASK.index("eye_q")
    with pytest.raises(InputError, match="known: background"):
        LAPA.index("wheel")
    with pytest.raises(InputError, match="19 -> 11 mode 'x'"):
        to_lapa_table("x")

"""What holds for every input: labels, flips, the maps to 11 classes, Eq. 1 and 2, metrics, files."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wsfp_helpers.common.configs import plain, read_config
from wsfp_helpers.common.errors import one_line
from wsfp_helpers.common.files import ESCAPE, append_row, read_whole_rows
from wsfp_helpers.common.pictures import read_label_map, write_index_png
from wsfp_helpers.data.frl import POINTS, read_points
from wsfp_helpers.detect.base import PHRASES, Detection
from wsfp_helpers.detect.boxes import BoxRecord, read_boxes
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS, LAPA, SCHEMES, flip_label_map, to_lapa, to_lapa_table
from wsfp_helpers.method.ccd import MASKABLE, CCDConfig, accepted_boxes, draw_components, judge, mask_image, mask_labels
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.score.confusion import Scores, confusion, pooled
from wsfp_helpers.tooling.results import check_pages, read_results, row, write_results

settings.register_profile("wsfp", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wsfp")

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)


def label_maps(classes, shape=SHAPES):
    return arrays(np.uint8, shape, elements=st.sampled_from([*range(classes), 255]))


@given(st.data(), st.sampled_from(list(SCHEMES.values())))
def test_flipping_twice_changes_nothing(data, scheme):
    label_map = data.draw(label_maps(len(scheme)))
    flipped = flip_label_map(label_map, scheme)
    assert np.array_equal(flip_label_map(flipped, scheme), label_map)
    assert ((flipped == 255) == (label_map[:, ::-1] == 255)).all()
    unsided = [k for k in range(len(scheme)) if scheme.flip[k] == k]
    assert all(((flipped == k) == (label_map[:, ::-1] == k)).all() for k in unsided)


@given(label_maps(19), st.booleans(), st.sampled_from(["geometric", "by-name"]))
def test_the_map_to_11_classes_commutes_with_the_flip(label_map, ears, mode):
    ours = to_lapa(flip_label_map(label_map), mode, ears)
    assert np.array_equal(ours, flip_label_map(to_lapa(label_map, mode, ears), LAPA))
    assert ((ours == 255) == (label_map[:, ::-1] == 255)).all() and ours[ours != 255].max(initial=0) < 11


@pytest.mark.parametrize("ears", [False, True])
def test_the_two_maps_to_11_classes_differ_in_the_sides_alone(ears):
    by_place, by_name = to_lapa_table("geometric", ears), to_lapa_table("by-name", ears)
    sided = {name for pair in CELEBAMASK.pairs[:2] for name in pair}  # ears have no class of their own in 11
    assert {CELEBAMASK.classes[k] for k in np.flatnonzero(by_place != by_name)} == sided
    assert np.array_equal(LAPA.flip[by_name], by_place)
    for name in sided:
        assert CELEBAMASK.picture_half(name) == LAPA.picture_half(LAPA.classes[by_place[CELEBAMASK.index(name)]])


WIDTH, HEIGHT = 64, 48


@st.composite
def detections(draw, phrase="eye"):
    # Scores that differ: of equal ones the first counts.
    scores = draw(st.lists(st.integers(0, 1000), max_size=6, unique=True))
    found = []
    for score in scores:
        x1, y1 = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
        x2, y2 = draw(st.integers(x1 + 1, WIDTH)), draw(st.integers(y1 + 1, HEIGHT))
        found.append(Detection((float(x1), float(y1), float(x2), float(y2)), score / 1000, phrase))
    return found


def verdicts(found, component):
    return judge(found, component, (HEIGHT, WIDTH), CCDConfig())


@given(detections(), st.sampled_from(MASKABLE), st.randoms())
def test_equation_1_takes_the_best_that_passes_whatever_the_order(found, component, random):
    judged = verdicts(found, component)
    accepted = [d for d, verdict in judged if verdict == "accepted"]
    passing = [d for d, verdict in judged if verdict in ("accepted", "later")]
    assert accepted == sorted(passing, key=lambda d: -d.score)[:1]
    shuffled = random.sample(found, len(found))
    assert verdicts(shuffled, component) == judged


@given(detections())
def test_a_mirrored_picture_exchanges_the_sides_of_equation_1(found):
    mirrored = [d._replace(box=(WIDTH - d.box[2], d.box[1], WIDTH - d.box[0], d.box[3])) for d in found]
    for left, right in (("l_eye", "r_eye"), ("r_eye", "l_eye")):
        assert [v for _, v in verdicts(found, left)] == [v for _, v in verdicts(mirrored, right)]


@given(st.fixed_dictionaries({phrase: detections(phrase) for phrase in PHRASES}))
def test_no_box_is_accepted_for_both_sides(candidates):
    found = accepted_boxes(candidates, (HEIGHT, WIDTH), CCDConfig())
    for left, right in (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")):
        assert left not in found or right not in found or found[left][0] + found[left][2] > sum(found[right][::2])


@given(st.lists(detections(), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_equation_2_blackens_the_boxes_and_nothing_else(groups, seed):
    image = np.random.default_rng(seed).integers(1, 256, (HEIGHT, WIDTH, 3), np.uint8)
    before, boxes = image.copy(), [d.box for found in groups for d in found]
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for x1, y1, x2, y2 in np.array(boxes, int).reshape(-1, 4):
        inside[y1:y2, x1:x2] = True
    masked = mask_image(image, boxes)
    assert not masked[inside].any() and (masked[~inside] == before[~inside]).all() and (image == before).all()


@given(arrays(np.uint8, 18, elements=st.integers(0, 1)), st.lists(st.sampled_from(MASKABLE), unique=True))
def test_masking_takes_labels_away_and_gives_none(y, components):
    masked = mask_labels(y, components)
    assert (masked <= y).all() and np.array_equal(mask_labels(masked, components), masked)
    kept = [k for k, name in enumerate(COMPONENTS) if name not in {*components, "u_lip", "l_lip"}]
    assert np.array_equal(masked[kept], y[kept])


@given(st.text(min_size=1), st.integers(0, 99_999_999), st.floats(0, 1))
def test_chance_depends_on_name_and_seed_alone(key, seed, probability):
    few, many = (draw_components(key, CCDConfig(probability=p), seed) for p in (probability, 1.0))
    assert few == draw_components(key, CCDConfig(probability=probability), seed)
    assert set(few) <= set(many) == set(MASKABLE)


@given(st.data())
def test_a_confusion_matrix_counts_every_pixel_once(data):
    truth = data.draw(label_maps(19))
    prediction = data.draw(label_maps(19, st.just(truth.shape)))
    matrix = confusion(prediction, truth, 19)
    assert matrix.sum() == (truth != 255).sum()
    assert np.array_equal(matrix.sum(1), np.bincount(truth[truth != 255], minlength=19))
    mirrored = confusion(flip_label_map(prediction), flip_label_map(truth), 19)
    assert np.array_equal(mirrored, matrix[np.ix_(CELEBAMASK.flip, CELEBAMASK.flip)])
    scores = Scores(matrix)
    values = scores.f1[~np.isnan(scores.f1)]
    assert ((0 <= values) & (values <= 100)).all()
    # F1 = 2 IoU / (1 + IoU), class by class
    iou = scores.iou / 100
    np.testing.assert_allclose(scores.f1, 200 * iou / (1 + iou), atol=1e-9)


@given(label_maps(19))
def test_a_perfect_prediction_scores_100(truth):
    scores = pooled(np.array([confusion(truth, truth, 19)]))
    assert np.isin(scores.f1[~np.isnan(scores.f1)], 100.0).all()


@given(label_maps(19))
def test_index_pngs_come_back(label_map):
    with tempfile.TemporaryDirectory() as place:
        write_index_png(f"{place}/a.png", label_map, PALETTE)
        assert np.array_equal(read_label_map(f"{place}/a.png", 19), label_map)


@given(st.text(st.characters(), min_size=1), st.data())
def test_boxes_files_come_back(key, data):
    found = {phrase: data.draw(detections(phrase)) for phrase in PHRASES}
    record = BoxRecord(key, (HEIGHT, WIDTH), "d", found)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "boxes.jsonl")
        path.write_text(record.line(), encoding="utf-8", errors=ESCAPE, newline="")
        (again,) = read_boxes(path).values()
    expected = {phrase: sorted(each, key=lambda d: -d.score) for phrase, each in found.items()}
    assert (again.id, again.size, again.candidates) == (key, (HEIGHT, WIDTH), expected)


@given(arrays(np.float64, (POINTS, 2), elements=st.floats(-9999, 9999)), st.text(max_size=20))
def test_points_come_back_whatever_follows_them(points, rest):
    with tempfile.TemporaryDirectory() as place:
        lines = [str(POINTS), *(f"{x!r}\t{y!r}" for x, y in points.tolist()), rest]
        Path(place, "a.tem").write_text("\n".join(lines), encoding="utf-8", errors="replace")
        assert np.array_equal(read_points(f"{place}/a.tem"), points)


@given(st.lists(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=9))))
def test_rows_come_back(rows):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "rows.jsonl")
        path.touch()
        for row in rows:
            append_row(path, row)
        assert read_whole_rows(path, "rows") == rows


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]))
SEEDS = st.lists(st.none() | st.floats(allow_infinity=False), min_size=1, max_size=4)


@given(st.lists(st.tuples(NAMES, SEEDS)))
def test_results_files_come_back_and_their_pages_agree(named):
    with tempfile.TemporaryDirectory() as place:
        rows = [row(name, "mean_f1", "percent", seeds, {"nose": seeds}) for name, seeds in named]
        write_results("a", "wsfp x", rows, place)
        found = read_results("a", place)["rows"]
        assert not [problem for problem in check_pages(place) if "is no commit" not in problem]
    for made, (name, seeds) in zip(found, named, strict=True):
        expected = [None if seed is None or math.isnan(seed) else seed for seed in seeds]
        assert (made["name"], made["seeds"], made["per_class"]) == (name, expected, {"nose": expected})


PROBABILITY = st.floats(0, 1)


AREAS = st.tuples(PROBABILITY, PROBABILITY).map(sorted)


@given(
    st.builds(
        lambda areas, *others, **more: CCDConfig(*others, min_area=areas[0], max_area=areas[1], **more),
        AREAS, PROBABILITY, max_aspect=st.floats(1, 100), reference=st.sampled_from(["image", "face"]),
        one_side=st.booleans(), probability=PROBABILITY, mouth_clears_lips=st.booleans(),
        ear_clears_earring=st.booleans(),
    )
)  # fmt: skip
def test_configs_come_back(config):
    assert read_config(CCDConfig, plain(config), "f") == config


@given(st.text())
def test_a_sentence_has_one_line_whatever_a_file_is_called(name):
    line = one_line(name)
    assert line.isprintable() and len(line.splitlines()) <= 1
    line.encode()

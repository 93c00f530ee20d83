"""The embedded detector: geometry on a made-up head, the shipped weights on rendered faces, scores of boxes."""

import numpy as np
import pytest
import torch
from PIL import ImageColor
from safetensors.torch import save_file
from torch import nn

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import square
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.detect.base import BOX_CLASSES, PHRASE_OF, PHRASES, Detection
from wsfp_helpers.detect.boxes import shipped_boxes
from wsfp_helpers.detect.embedded import DetectorHead, EmbeddedDetector, load_head
from wsfp_helpers.detect.load import load_detector
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.notebook.draw import draw_boxes
from wsfp_helpers.notebook.plots import COLOURS
from wsfp_helpers.score.boxes import hits, overlap, recall_and_precision, true_boxes


class FixedHead(nn.Module):
    """Answers every picture with the same boxes in [0, 1] and scores, whatever its tokens."""

    def __init__(self, answers):
        super().__init__()
        self.still = nn.Parameter(torch.zeros(1))
        self.answers = answers

    def forward(self, grid):
        logits = torch.full((len(grid), len(PHRASES), 4, 4), -9.0)
        boxes = torch.zeros(len(grid), len(PHRASES), 4, 4, 4)
        for cell, (phrase, score, box) in enumerate(self.answers):
            kind = PHRASES.index(phrase)
            logits[:, kind, cell // 4, cell % 4] = torch.logit(torch.tensor(score))
            boxes[:, kind, cell // 4, cell % 4] = torch.tensor(box)
        return logits, boxes


ANSWERS = [
    ("eye", 0.6, (0.2, 0.3, 0.4, 0.4)),
    ("eye", 0.9, (0.6, 0.3, 0.8, 0.4)),
    ("eye", 0.5, (0.61, 0.3, 0.81, 0.4)),  # the second again
    ("eye", 0.14, (0.1, 0.1, 0.2, 0.2)),  # below the threshold
    ("nose", 0.7, (0.6, 0.3, 0.8, 0.4)),  # of another phrase: no rival
    ("ear", 0.8, (0.0, 0.4, 0.2, 0.6)),
]


def fixed(**options):
    return EmbeddedDetector(FixedHead(ANSWERS), trunk=object(), **options)


def test_candidates_fall_by_score_without_doubles():
    found = fixed().from_tokens(torch.zeros(2, 16, 8), [(100, 100)] * 2)[1]
    assert [round(d.score, 4) for d in found["eye"]] == [0.9, 0.6]
    assert np.allclose([d.box for d in found["eye"]], [(60, 30, 80, 40), (20, 30, 40, 40)], atol=1e-4)
    assert len(found["nose"]) == len(found["ear"]) == 1 and found["mouth"] == found["eyebrow"] == []
    assert len(fixed(most=1).from_tokens(torch.zeros(1, 16, 8), [(100, 100)])[0]["eye"]) == 1


def test_boxes_of_a_picture_that_is_not_square():
    """60 x 100 sits in a square of 100 from row 20 on; 100 x 60 from column 20 on, where the ear is cut away."""
    wide, high = fixed().from_tokens(torch.zeros(2, 16, 8), [(60, 100), (100, 60)], ["eye", "ear"])
    assert np.allclose(wide["eye"][0].box, (60, 10, 80, 20), atol=1e-4)
    assert np.allclose(wide["ear"][0].box, (0, 20, 20, 40), atol=1e-4)
    assert np.allclose(high["eye"][0].box, (40, 30, 60, 40), atol=1e-4)
    assert high["ear"] == [] and set(high) == {"eye", "ear"}

    picture = np.random.default_rng(0).integers(1, 256, (60, 100, 3), np.uint8)
    padded = square(picture)
    assert padded.shape == (100, 100, 3) and np.array_equal(padded[20:80], picture)
    assert not padded[:20].any() and not padded[80:].any()


def test_head_shapes_and_gradients():
    head = DetectorHead(width=24, hidden=16)
    logits, boxes = head(torch.randn(2, 24, 5, 5))
    assert logits.shape == (2, 5, 10, 10) and boxes.shape == (2, 5, 10, 10, 4)
    centre = (torch.arange(10) + 0.5) / 10
    assert (boxes[..., 0] < centre).all() and (boxes[..., 2] > centre).all()
    assert (boxes[..., 1] < centre[:, None]).all() and (boxes[..., 3] > centre[:, None]).all()
    (logits.sum() + boxes.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_bad_phrase_and_bad_weights(tmp_path):
    with pytest.raises(InputError, match="has its own weights"):
        load_detector("embedded", weights="dino.pth")
    with pytest.raises(InputError, match="does not know 'chin'"):
        fixed().from_tokens(torch.zeros(1, 16, 8), [(9, 9)], ["chin"])
    with pytest.raises(InputError, match=r"no detector weights \(made by scripts/train_detector.py"):
        load_head(tmp_path / "none.safetensors")
    save_file({"score.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"of another network: .*; restore it or run scripts/train_detector\.py"):
        load_head(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:20])
    with pytest.raises(InputError, match="it is truncated"):
        load_head(tmp_path / "cut.safetensors")


def test_shipped_detector_on_unseen_faces():
    faces = synthfaces("celeb/val").subset(range(0, 24, 2))
    detector = load_detector("embedded")
    found = detector.detect_batch([faces.image(i) for i in range(len(faces))])
    assert detector(faces.image(0), "nose")[0].box == pytest.approx(found[0]["nose"][0].box, abs=0.1)
    truth = [true_boxes(faces.label_map(i)) for i in range(len(faces))]
    for phrase in ("eye", "nose", "mouth"):
        boxes = [[box for part, box in each.items() if PHRASE_OF[part] == phrase] for each in truth]
        assert recall_and_precision([f[phrase] for f in found], boxes)["recall"] > 75, phrase

    shipped = shipped_boxes("celeb/val")
    for key, mine in zip(faces.ids, found, strict=True):
        assert shipped[key].candidates["nose"][0].box == pytest.approx(mine["nose"][0].box, abs=0.5)


@pytest.mark.parametrize("split", ["celeb/train", "celeb/val", "lapa/test"])
def test_shipped_boxes_are_complete(split):
    faces, boxes = synthfaces(split), shipped_boxes(split)
    assert tuple(boxes) == faces.ids
    assert all(set(record.candidates) == set(PHRASES) and record.size == (160, 160) for record in boxes.values())


def test_overlap_by_counting_cells():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 12, (2, 40, 2, 2)), axis=2)
    corners[:, :, 1] += 1
    first, second = corners.reshape(2, 40, 4)

    def cells(box):
        x1, y1, x2, y2 = box
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    expected = [[len(cells(a) & cells(b)) / len(cells(a) | cells(b)) for b in second] for a in first]
    assert np.allclose(overlap(first, second), expected)


def test_true_boxes_by_looking_at_every_pixel():
    label_map = np.random.default_rng(1).integers(0, 19, (9, 14)).astype(np.uint8)
    label_map[label_map == CELEBAMASK.index("l_ear")] = 255
    boxes = true_boxes(label_map, minimum=1)
    assert "l_ear" not in boxes
    for name, (x1, y1, x2, y2) in boxes.items():
        ids = {CELEBAMASK.index(c) for c in BOX_CLASSES[name]}
        inside = [(x, y) for y in range(9) for x in range(14) if label_map[y, x] in ids]
        xs, ys = [x for x, _ in inside], [y for _, y in inside]
        assert (x1, y1, x2, y2) == (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
    count = int(np.isin(label_map, [CELEBAMASK.index("nose")]).sum())
    assert "nose" in true_boxes(label_map, count) and "nose" not in true_boxes(label_map, count + 1)


def test_recall_and_average_precision_by_hand():
    def at(x, score):
        return Detection((x, 0.0, x + 10.0, 10.0), score, "eye")

    truth = [[(0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)], [(0.0, 0.0, 10.0, 10.0)], []]
    found = [[at(0, 0.9), at(1, 0.8), at(51, 0.3)], [at(30, 0.7)], [at(0, 0.5)]]
    assert hits(found[0], truth[0]) == ([True, False, True], 2)  # the second finds the first eye again
    # by falling score: right, wrong, wrong, wrong, right -> precision 1 at recall 1/3, then 2/5 at recall 2/3
    result = recall_and_precision(found, truth)
    assert result["recall"] == pytest.approx(200 / 3)
    assert result["average_precision"] == pytest.approx(100 * (1 / 3 * 1 + 1 / 3 * 2 / 5))
    assert np.isnan(recall_and_precision([[]], [[]])["recall"])


def test_draw_boxes_enlarges_a_copy():
    picture = np.zeros((40, 80, 3), np.uint8)
    drawn = draw_boxes(picture, [(20, 10, 60, 30), (5, 5, 9, 9)], ["accepted", "x side"], width=320)
    assert drawn.shape == (160, 320, 3) and not picture.any()
    assert tuple(drawn[60, 80]) == tuple(drawn[120, 200]) == ImageColor.getrgb(COLOURS[0])  # left and lower side
    assert tuple(drawn[28, 20]) == ImageColor.getrgb(COLOURS[1]) and not drawn[80, 160].any()

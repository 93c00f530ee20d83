"""A photograph is parsed as a whole, then closer at the face that was found."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import tiny_parser

from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.parsing import zoom
from wsfp_helpers.parsing.light import LightParser
from wsfp_helpers.parsing.zoom import (
    FACE,
    ZoomSettings,
    agree,
    enlarge,
    enlarge_labels,
    find_face,
    parse_canvases,
    to_canvas,
)


@pytest.fixture
def parser():
    return tiny_parser()


@pytest.mark.parametrize("size", [(40, 40), (30, 90), (200, 50), (1, 1), (700, 1500)])
def test_any_size_gets_a_map_of_its_size(parser, size):
    labels, confidence = parser.predict(np.full((*size, 3), 128, np.uint8))
    assert labels.shape == confidence.shape == size
    assert labels.dtype == np.uint8 and labels.max() < 19 and 0 < confidence.min() <= confidence.max() <= 1


@pytest.mark.parametrize("coarse", [False, True])
def test_enlarging_in_pieces_equals_enlarging_at_once(coarse):
    probability = torch.randn(19, 13, 17, generator=torch.Generator().manual_seed(0)).softmax(0)
    if coarse:  # most neighbours have the same class
        probability = F.interpolate(probability[None, :, :3, :2], (90, 70), mode="bicubic").softmax(1)[0]
    size = (2203, 967)  # many pieces
    best, index = F.interpolate(probability[None], size, mode="bilinear", align_corners=False)[0].max(0)
    labels, confidence = enlarge(probability, size)
    np.testing.assert_array_equal(labels, index)
    np.testing.assert_array_equal(enlarge_labels(probability, size), index)
    np.testing.assert_allclose(confidence, best, atol=1e-6)


def face_like(height, width, box):
    top, bottom, left, right = box
    probability = torch.zeros(19, height, width)
    probability[0] = 1
    probability[:, top:bottom, left:right] = 0
    probability[1, top:bottom, left:right] = 1
    return probability


@pytest.mark.parametrize("size", [(100, 120), (800, 600)])
def test_the_largest_face_is_found(size):
    height, width = size
    box = height // 4, 3 * height // 4, width // 3, 2 * width // 3
    probability = face_like(height, width, box)
    probability[:, : height // 10, : width // 10] = face_like(1, 1, (0, 1, 0, 1))
    inside = probability[[CELEBAMASK.index(name) for name in FACE]].sum(0)
    np.testing.assert_allclose(find_face(inside), box, atol=0.01 * max(size))
    assert find_face(torch.zeros(size)) is None


class Painted(LightParser):
    """Calls bright pixels skin: makes framing visible without a trained network."""

    def probabilities(self, pictures, flip=True):
        self.seen = pictures
        bright = torch.from_numpy(pictures[..., 0] > 127).float()
        out = torch.zeros(len(pictures), 19, *pictures.shape[1:3])
        out[:, 0], out[:, 1] = 1 - bright, bright
        return out


def test_closer_looks_frame_the_face_as_they_are_told(parser):
    painted = Painted(parser.network, parser.trunk, parser.config)
    photograph = np.zeros((400, 600, 3), np.uint8)
    photograph[300:380, 440:500] = 255
    parsed = painted.parse(photograph, ZoomSettings(face_height=0.4, last_height=0.5, anchor=(0.6, 0.4)))
    rows, columns = np.nonzero(painted.seen[0, ..., 0] > 127)
    assert (rows.max() + 1 - rows.min()) / 32 == pytest.approx(0.5, abs=0.07)
    assert 80 / parsed.views[-2].side == pytest.approx(0.4, abs=0.07)
    assert (rows.min() + rows.max() + 1) / 2 / 32 == pytest.approx(0.6, abs=0.05)
    assert (columns.min() + columns.max() + 1) / 2 / 32 == pytest.approx(0.4, abs=0.05)
    np.testing.assert_allclose(parsed.face, (300, 380, 440, 500), atol=25)
    labels, _ = parsed.label_map()
    truth = photograph[..., 0] > 0
    overlap = ((labels == 1) & truth).sum() / ((labels == 1) | truth).sum()
    coarse, _ = painted.parse(photograph, ZoomSettings(most=0)).label_map()
    assert overlap > 0.85 > ((coarse == 1) & truth).sum() / ((coarse == 1) | truth).sum()


class Sprawling(Painted):
    """Sees a face that is low in its picture three times too high, and is less sure of it; ``views`` counts."""

    views = 0

    def probabilities(self, pictures, flip=True):
        self.views += 1
        out = super().probabilities(pictures, flip)
        rows = out[0, 1].any(1).nonzero()[:, 0]
        height, sure = len(rows), 0.9
        if 0 < height < 0.2 * out.shape[2]:
            out[0, 1, max(rows[0] - height, 0) : rows[-1] + 1 + height] = out[0, 1, rows[0]].clone()
            sure = 0.6
        out[:, 1] *= sure
        out[:, 0] = 1 - out[:, 1]
        return out


def test_a_small_face_is_looked_at_until_it_fills_the_look(parser):
    photograph = np.zeros((400, 400, 3), np.uint8)
    photograph[160:208, 180:220] = 255
    heights = {}
    for most in (1, 3):
        sprawling = Sprawling(parser.network, parser.trunk, parser.config)
        parsed = sprawling.parse(photograph, ZoomSettings(most=most, last_height=0.7))
        heights[most] = 48 / parsed.views[-2].side
        assert sprawling.views == (3 if most == 1 else 4)
    assert heights == {1: pytest.approx(0.7 / 3, abs=0.06), 3: pytest.approx(0.7, abs=0.06)}
    np.testing.assert_allclose(parsed.face, (160, 208, 180, 220), atol=6)
    assert parsed.certainty == pytest.approx(0.9, abs=0.01)


def test_a_face_that_a_closer_look_does_not_see_is_none(parser, monkeypatch):
    painted = Painted(parser.network, parser.trunk, parser.config)
    photograph = np.zeros((400, 400, 3), np.uint8)
    photograph[160:208, 180:220] = 255
    found = iter([(160, 208, 180, 220), None])
    monkeypatch.setattr(zoom, "find_face", lambda _: next(found))
    parsed = painted.parse(photograph)
    assert parsed.face is None and parsed.certainty == 0


def test_without_a_face_there_is_one_look_and_no_certainty(parser):
    sprawling = Sprawling(parser.network, parser.trunk, parser.config)
    parsed = sprawling.parse(np.zeros((50, 50, 3), np.uint8))
    assert parsed.face is None and parsed.certainty == 0 and sprawling.views == 1


def test_a_single_look_is_averaged_with_its_mirror_image(parser):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    whole = torch.stack([parser.parse(picture, ZoomSettings(most=0)).probability for picture in pictures])
    torch.testing.assert_close(whole, parser.probabilities(pictures, flip=True))


def test_only_the_last_look_is_averaged_with_its_mirror_image(parser):
    asked = []

    class Asked(Painted):
        def probabilities(self, pictures, flip=True):
            asked.append(flip)
            return super().probabilities(pictures, flip)

    photograph = np.zeros((400, 600, 3), np.uint8)
    photograph[300:380, 440:500] = 255
    parsed = Asked(parser.network, parser.trunk, parser.config).parse(photograph)
    assert asked == [False, False, True] and len(parsed.views) == 3


def test_photographs_that_are_parsed_together_get_what_each_gets_alone(parser):
    painted = Painted(parser.network, parser.trunk, parser.config)
    images = [np.zeros((400, 600, 3), np.uint8), np.zeros((90, 50, 3), np.uint8), np.zeros((700, 300, 3), np.uint8)]
    images[0][300:380, 440:500] = images[2][100:400, 50:250] = 255
    sizes = [image.shape[:2] for image in images]
    canvases = [to_canvas(image, size) for image, size in zip(images, sizes, strict=True)]
    look = lambda *seen: [painted.probabilities(*seen)]  # noqa: E731
    together = parse_canvases(look, painted.size, canvases, sizes, ZoomSettings())
    for image, (parsed,) in zip(images, together, strict=True):
        alone = painted.parse(image)
        assert parsed.face == alone.face and len(parsed.views) == len(alone.views)
        np.testing.assert_array_equal(parsed.label_map(), alone.label_map())


def test_parsers_look_together_at_the_face_that_their_mean_sees():
    def look(pictures, flip):
        sure = torch.zeros(len(pictures), 19, 32, 32)
        sure[:, 1, 8:24, 8:24], blind = 0.9, torch.zeros_like(sure)
        blind[:, 1, 8:24, 8:16] = 0.3
        for answer in (sure, blind):
            answer[:, 0] = 1 - answer[:, 1]
        return sure, blind

    ((sure, blind),) = parse_canvases(look, 32, [np.zeros((64, 64, 3), np.uint8)], [(64, 64)], ZoomSettings())
    assert sure.face == blind.face and sure.face is not None
    assert (sure.label_map()[0] == 1).any() and not (blind.label_map()[0] == 1).any()


def test_agreement_is_the_mean_f1_of_the_parts():
    a, b = np.array([[0, 0, 1, 1], [2, 2, 1, 0]]), np.array([[0, 5, 1, 1], [2, 0, 0, 0]])
    assert agree(a, b) == pytest.approx((2 * 2 / 5 + 2 * 1 / 3 + 0) / 3)  # classes 1, 2 and 5
    assert agree(a, a) == 1 and agree(0 * a, 0 * a) == 0

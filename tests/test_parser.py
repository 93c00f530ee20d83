"""The light parser, its augmentation and its training, with a trunk of a few weights in place of the real one."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from wsfp_helpers import augment as aug
from wsfp_helpers import parser as module
from wsfp_helpers import segment
from wsfp_helpers.augment import PLAIN, WITH_MASKS, AugmentConfig
from wsfp_helpers.data.base import WeakFaces
from wsfp_helpers.deeplab import DeepLabConfig
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS, IGNORE, flip_image
from wsfp_helpers.parser import LightParser, Looks, Parser, ParserConfig, Sight
from wsfp_helpers.runs import read_metrics
from wsfp_helpers.segment import FitConfig
from wsfp_helpers.storage import InputError

SMALL = ParserConfig(
    size=32, width=24, stem=8, window=16, copies=1, rare_copies=1,
    fit=FitConfig(steps=6, batch=2, lr=1e-3, optimiser="adamw", save_every=2, dice=0.5),
)  # fmt: skip


class TinyTrunk(nn.Module):
    """4 x 4 tokens of 6 numbers: mean colours of the patches and their squares."""

    size, patch, width, fingerprint = 64, 16, 6, "tiny"

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def prepare(self, images, size=None):
        return F.interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False)

    def forward(self, prepared):
        grid = F.avg_pool2d(prepared, 16)
        return torch.cat([grid, grid**2], 1).flatten(2).transpose(1, 2)


@pytest.fixture
def parser():
    torch.manual_seed(0)
    return Parser(LightParser(SMALL, 6), TinyTrunk(), SMALL, {"trained_on": "nothing"})


def blocks(rng, size=32):
    """Picture whose grey level says its class: class k is (10 k, 10 k, 10 k), in 4 x 4 blocks."""
    target = rng.integers(0, 19, (size // 4, size // 4), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    return np.stack([target * 10] * 3, -1), target


def some_faces(n=4):
    rng = np.random.default_rng(0)
    data = [blocks(rng) for _ in range(n)]
    labels = np.zeros((n, len(COMPONENTS)), np.uint8)
    labels[0, COMPONENTS.index("hat")] = 1
    faces = WeakFaces("blocks", [str(i) for i in range(n)], lambda key: data[int(key)][0], labels)
    return faces, lambda i: data[i][1]


# network and loss


def test_the_decoder_answers_at_the_pictures_size_and_is_small():
    network = LightParser(ParserConfig())
    scores = network(torch.zeros(2, 400, 384), torch.rand(2, 3, 160, 160))
    assert scores.shape == (2, 19, 160, 160)
    assert 2 * sum(p.numel() for p in network.parameters()) < 4e6


def test_every_weight_learns():
    torch.manual_seed(0)
    network = LightParser(SMALL, 6).train()
    target = torch.randint(0, 19, (2, 32, 32))
    segment.segmentation_loss(network(torch.rand(2, 16, 6), torch.rand(2, 3, 32, 32)), target, dice=0.5).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_window_of_the_scores_is_the_same_away_from_its_border():
    torch.manual_seed(0)
    network = LightParser(SMALL, 6).eval()
    tokens, pictures = torch.rand(1, 16, 6), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        whole, part = network(tokens, pictures), network(tokens, pictures, torch.tensor([8, 4, 24]))
    assert part.shape == (1, 19, 24, 24)
    torch.testing.assert_close(part[..., 8:-8, 8:-8], whole[..., 16:24, 12:20])


def test_the_stem_does_not_see_brightness_and_contrast():
    network = LightParser(SMALL, 6).eval()
    tokens, pictures = torch.rand(1, 16, 6), torch.rand(1, 3, 32, 32) * 10
    with torch.no_grad():
        torch.testing.assert_close(network(tokens, pictures), network(tokens, 3 * pictures + 1), atol=0.1, rtol=0.1)


def naive_loss(scores, target, weight, dice):
    """Pixel by pixel in float64."""
    total = norm = 0.0
    classes = scores.shape[1]
    overlap, amount, present = np.zeros(classes), np.zeros(classes), set()
    for b, y, x in np.ndindex(*target.shape):
        k = target[b, y, x]
        if k == IGNORE:
            continue
        p = np.exp(scores[b, :, y, x] - scores[b, :, y, x].max())
        p /= p.sum()
        total, norm = total - weight[k] * np.log(p[k]), norm + weight[k]
        overlap[k] += p[k]
        amount += p
        amount[k] += 1
        present.add(k)
    return total / norm + dice * np.mean([1 - 2 * overlap[k] / (amount[k] + 1) for k in present])


@pytest.mark.parametrize("dice", [0.0, 0.5])
def test_loss_agrees_with_the_pixel_loop(dice):
    rng = np.random.default_rng(1)
    scores, target = rng.normal(size=(2, 4, 5, 6)), rng.choice([0, 1, 3, IGNORE], (2, 5, 6))
    weight = rng.uniform(0.5, 2, 4)
    found = segment.segmentation_loss(*map(torch.from_numpy, (scores, target, weight)), dice)
    assert found.item() == pytest.approx(naive_loss(scores, target, weight, dice))


def test_loss_of_a_batch_without_a_label_is_zero_and_differentiable():
    scores = torch.randn(1, 19, 4, 4, requires_grad=True)
    loss = segment.segmentation_loss(scores, torch.full((1, 8, 8), IGNORE), dice=1.0)
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


def test_class_weights_have_mean_one_over_the_pixels():
    targets = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 2, IGNORE, 0]], np.uint8)]
    weights = segment.class_weights(targets, 0.5, 4).double().numpy()
    assert weights[3] == 0 and weights[1] == pytest.approx(weights[2])
    assert weights[1] / weights[0] == pytest.approx((5 / 1) ** 0.5)
    assert (5 * weights[0] + weights[1] + weights[2]) / 7 == pytest.approx(1)


def test_poly_schedule():
    assert segment.poly(0, 100) == 1 and segment.poly(50, 100, 0.9) == pytest.approx(0.5**0.9)
    rates = [segment.poly(step, 100, 0.9, 10) for step in range(100)]
    assert rates[0] < 0.1 and np.argmax(rates) in (9, 10) and rates[-1] == pytest.approx(0.01**0.9)


# augmentation


def grey_of(label_map):
    return np.where(label_map == IGNORE, -1, label_map.astype(int) * 10)


def test_a_warp_moves_picture_and_target_together():
    agreement = []
    for seed in range(10):
        picture, target = blocks(np.random.default_rng(seed), 64)
        moved, labels = aug.warp(picture, target, np.random.default_rng(seed), AugmentConfig(elastic=0.005))
        known = labels != IGNORE
        agreement.append((abs(moved[..., 0].astype(int) - grey_of(labels)) < 15)[known].mean())
    assert np.mean(agreement) > 0.6  # borders of the blocks are mixed by the interpolation


def test_augmentation_exchanges_sides_when_it_flips():
    target = np.full((32, 32), CELEBAMASK.index("l_brow"), np.uint8)
    target[:, :16] = CELEBAMASK.index("skin")
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = 200
    sides = set()
    for seed in range(12):
        moved, labels = aug.augment(picture, target, np.random.default_rng(seed), PLAIN)
        bright = moved[..., 0] > 150
        known = (labels != IGNORE) & (labels != CELEBAMASK.index("skin")) & bright
        if not known.any():
            continue
        on_the_right = np.nonzero(bright)[1].mean() > np.nonzero(~bright)[1].mean() if (~bright).any() else None
        if on_the_right is not None:
            sides.add((bool(on_the_right), CELEBAMASK.classes[np.bincount(labels[known]).argmax()]))
    assert sides == {(True, "l_brow"), (False, "r_brow")}


def test_brows_fade_towards_the_skin_and_nothing_else_changes():
    target = np.full((64, 64), 1, np.uint8)
    target[20:24, 10:30] = CELEBAMASK.index("r_brow")
    picture = np.full((64, 64, 3), 200, np.uint8)
    picture[target != 1] = 20
    faded = aug.fade_brows(picture, target, np.random.default_rng(0))
    inside = faded[21:23, 15:25].astype(int)
    assert (inside > 25).all() and (inside < 200).all()
    assert abs(faded[40:].astype(int) - 200).max() <= 1


def test_only_the_background_is_replaced():
    target = np.zeros((64, 64), np.uint8)
    target[16:48, 16:48] = 1
    picture = np.full((64, 64, 3), 120, np.uint8)
    replaced = aug.replace_background(picture, target, np.random.default_rng(3))
    assert abs(replaced[22:42, 22:42].astype(int) - 120).max() <= 1
    assert abs(replaced[:8].astype(int) - 120).mean() > 5


def test_what_is_covered_is_ignored():
    picture, target = blocks(np.random.default_rng(0), 64)
    covered, labels = aug.occlude(picture, target, np.random.default_rng(0))
    assert 0 < (labels == IGNORE).mean() < 0.5
    np.testing.assert_array_equal(covered[labels != IGNORE], picture[labels != IGNORE])


@pytest.mark.parametrize("seed", range(4))
def test_augmentation_is_repeatable_and_keeps_types(seed):
    picture, target = blocks(np.random.default_rng(seed), 64)
    first = aug.augment(picture, target, np.random.default_rng(seed), WITH_MASKS)
    again = aug.augment(picture, target, np.random.default_rng(seed), WITH_MASKS)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0].dtype == first[1].dtype == np.uint8 and first[0].shape == (64, 64, 3)
    assert set(np.unique(first[1])) <= {*range(19), IGNORE}


# training


def test_copies_hold_rare_pictures_more_often_and_each_once_an_epoch(tmp_path):
    faces, target = some_faces()
    copies = module.make_copies(faces, target, SMALL, TinyTrunk(), folder=tmp_path)
    assert copies.pictures.shape == (9, 32, 32, 3) and copies.tokens.shape == (9, 16, 6)
    marked = module.Copies(
        copies.pictures, np.arange(9, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(32, 2), copies.tokens
    )
    epoch = [int(t) for step in range(4) for t in marked.batch_at(step, 2, 16, 0)[1][:, 0, 0]]
    assert len(set(epoch)) == 8
    (tokens, pictures, (top, left, side)), labels = copies.batch_at(5, 2, 16, 0)
    torch.testing.assert_close(tokens, TinyTrunk()(TinyTrunk().prepare(pictures)), atol=2e-3, rtol=0)
    chosen = [
        int(np.flatnonzero((copies.pictures == p).all((1, 2, 3)))[0])
        for p in (pictures * 255).byte().permute(0, 2, 3, 1).numpy()
    ]
    np.testing.assert_array_equal(labels, copies.targets[chosen, top : top + side, left : left + side])


def test_a_target_of_another_size_is_named(tmp_path):
    faces, _ = some_faces()
    with pytest.raises(InputError, match="the target of 0"):
        module.make_copies(faces, lambda i: np.zeros((8, 8), np.uint8), SMALL, TinyTrunk(), folder=tmp_path)


def test_an_interrupted_training_goes_on_to_the_same_result(tmp_path):
    faces, target = some_faces()
    copies = module.make_copies(faces, target, SMALL, TinyTrunk(), folder=tmp_path / "tokens")
    straight, losses = module.train_parser(copies, SMALL, seed=3)

    class Stops(module.Copies):
        def batch_at(self, step, *rest):
            if step == 5:
                raise KeyboardInterrupt
            return super().batch_at(step, *rest)

    with pytest.raises(KeyboardInterrupt):
        module.train_parser(Stops(*vars(copies).values()), SMALL, seed=3, folder=tmp_path / "run")
    assert (tmp_path / "run" / "state.pt").exists()
    resumed, again = module.train_parser(copies, SMALL, seed=3, folder=tmp_path / "run")
    assert again == losses
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=0, rtol=0)
    assert [row["loss"] for row in read_metrics(tmp_path / "run")] == losses
    finished, again = module.train_parser(Stops(*vars(copies).values()), SMALL, seed=3, folder=tmp_path / "run")
    assert again == losses
    torch.testing.assert_close(finished.state_dict(), straight.state_dict(), atol=0, rtol=0)
    segment.remove_state(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_state_of_another_training_is_refused(tmp_path):
    faces, target = some_faces()
    copies = module.make_copies(faces, target, SMALL, TinyTrunk(), folder=tmp_path)
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(InputError, match=r"state\.pt is not a state of this training"):
        module.train_parser(copies, SMALL, folder=tmp_path)


def test_a_loss_that_is_no_number_stops_the_training():
    network = nn.Conv2d(1, 19, 1)
    batch = (torch.full((1, 1, 4, 4), torch.inf),), torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(InputError, match="lower the learning rate"):
        segment.fit(network, lambda step: batch, FitConfig(steps=3, batch=1, lr=0.1))


def test_the_head_learns_faster_by_its_factor():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

        def head_parameters(self):
            return [self.head]

        def forward(self, x):
            return (self.body + self.head).view(1, 3, 1, 1).expand(1, 3, 2, 2)

    network = Two()
    config = FitConfig(steps=1, batch=1, lr=0.1, head_factor=10, weight_decay=0)
    segment.fit(network, lambda step: ((torch.zeros(1),), torch.zeros(1, 2, 2, dtype=torch.long)), config)
    torch.testing.assert_close(network.head.data, 10 * network.body.data)
    assert network.body.data[0] > 0


# looking at photographs


def test_flip_averaging_makes_a_mirrored_picture_give_the_mirrored_map(parser):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    straight = parser.probabilities(picture[None])[0]
    mirrored = parser.probabilities(flip_image(picture)[None])[0]
    torch.testing.assert_close(mirrored, straight.flip(-1)[torch.from_numpy(CELEBAMASK.flip)])
    torch.testing.assert_close(straight.sum(0), torch.ones(32, 32))


@pytest.mark.parametrize("size", [(40, 40), (30, 90), (200, 50), (1, 1), (700, 1500)])
def test_any_size_gets_a_map_of_its_size(parser, size):
    labels, confidence = parser.predict(np.full((*size, 3), 128, np.uint8))
    assert labels.shape == confidence.shape == size
    assert labels.dtype == np.uint8 and labels.max() < 19 and 0 < confidence.min() <= confidence.max() <= 1


def test_enlarging_in_strips_equals_enlarging_at_once(monkeypatch):
    probability = torch.randn(19, 13, 17, generator=torch.Generator().manual_seed(0)).softmax(0)
    sight = Sight(probability, (101, 67))
    best, index = F.interpolate(probability[None], (101, 67), mode="bilinear", align_corners=False)[0].max(0)
    labels, confidence = sight.label_map()
    np.testing.assert_array_equal(labels, index)
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
    np.testing.assert_allclose(module.find_face(probability), box, atol=0.01 * max(size))
    assert module.find_face(face_like(height, width, (0, 0, 0, 0))) is None


class Painted(Parser):
    """Calls bright pixels skin: makes framing visible without a trained network."""

    def probabilities(self, pictures, flip=True):
        self.seen = pictures
        bright = torch.from_numpy(pictures[..., 0] > 127).float()
        out = torch.zeros(len(pictures), 19, *pictures.shape[1:3])
        out[:, 0], out[:, 1] = 1 - bright, bright
        return out


def test_a_closer_look_frames_the_face_as_the_training_pictures_do(parser):
    painted = Painted(parser.network, parser.trunk, parser.config)
    photograph = np.zeros((400, 600, 3), np.uint8)
    photograph[300:380, 440:500] = 255
    sight = painted.look(photograph, Looks(zoom=0.5, anchor=(0.6, 0.4)))
    rows, columns = np.nonzero(painted.seen[0, ..., 0] > 127)
    assert (rows.max() + 1 - rows.min()) / 32 == pytest.approx(0.5, abs=0.07)
    assert (rows.min() + rows.max() + 1) / 2 / 32 == pytest.approx(0.6, abs=0.05)
    assert (columns.min() + columns.max() + 1) / 2 / 32 == pytest.approx(0.4, abs=0.05)
    np.testing.assert_allclose(sight.face, (300, 380, 440, 500), atol=25)
    labels, _ = sight.label_map()
    truth = photograph[..., 0] > 0
    overlap = ((labels == 1) & truth).sum() / ((labels == 1) | truth).sum()
    coarse, _ = painted.look(photograph, Looks(most=0)).label_map()
    assert overlap > 0.85 > ((coarse == 1) & truth).sum() / ((coarse == 1) | truth).sum()


class Sprawling(Painted):
    """Sees a face that is low in its picture three times too high, and is less sure of it; ``looks`` counts."""

    looks = 0

    def probabilities(self, pictures, flip=True):
        self.looks += 1
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
        sight = sprawling.look(photograph, Looks(most=most))
        heights[most] = (sprawling.seen[0, ..., 0].max(1) > 127).mean()
        assert sprawling.looks == (2 if most == 1 else 3)
    assert heights == {1: pytest.approx(0.7 / 3, abs=0.06), 3: pytest.approx(0.7, abs=0.06)}
    np.testing.assert_allclose(sight.face, (160, 208, 180, 220), atol=6)
    assert sight.certainty == pytest.approx(0.9, abs=0.01)


def test_a_face_that_a_closer_look_does_not_see_is_none(parser, monkeypatch):
    painted = Painted(parser.network, parser.trunk, parser.config)
    photograph = np.zeros((400, 400, 3), np.uint8)
    photograph[160:208, 180:220] = 255
    found = iter([(160, 208, 180, 220), None])
    monkeypatch.setattr(module, "find_face", lambda _: next(found))
    sight = painted.look(photograph)
    assert sight.face is None and sight.certainty == 0


def test_without_a_face_there_is_one_look_and_no_certainty(parser):
    painted = Painted(parser.network, parser.trunk, parser.config)
    sight = painted.look(np.zeros((50, 50, 3), np.uint8))
    assert sight.face is None and sight.certainty == 0


# checkpoints


def test_a_parser_comes_back_from_its_file(parser, tmp_path):
    parser.save(tmp_path / "p.safetensors")
    again = module.load_parser(tmp_path / "p.safetensors", parser.trunk)
    assert again.config == SMALL and again.facts["trained_on"] == "nothing"
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    torch.testing.assert_close(again.probabilities(picture), parser.probabilities(picture), atol=5e-3, rtol=0)


class Coloured(nn.Module):
    """A network that tells red from green and says skin and hair, at an eighth of the picture's size."""

    def __init__(self):
        super().__init__()
        self.score = nn.Conv2d(3, 19, 1)
        with torch.no_grad():
            self.score.weight.zero_()
            self.score.bias.fill_(-10)
            self.score.bias[[1, 13]] = 0
            self.score.weight[1, 0] = self.score.weight[13, 1] = 5

    def forward(self, x):
        return self.score(F.avg_pool2d(x, 8))


def test_a_deeplab_comes_back_from_its_file_and_looks_at_photographs(tmp_path, monkeypatch):
    path = tmp_path / "p.safetensors"
    config = DeepLabConfig(size=64, test_scales=(1.0, 1.5))
    module.DeepLabParser(Coloured(), config, {"seed": 3}).save(path)
    monkeypatch.setattr(module, "build_network", lambda name: {"resnet38": Coloured}[name]())
    again = module.load_parser(path)
    assert again.config == config and again.facts["seed"] == 3
    photograph = np.zeros((300, 200, 3), np.uint8)
    photograph[:150, :, 0] = photograph[150:, :, 1] = 255
    for looks in (Looks(), Looks(most=0)):
        label_map, confidence = again.predict(photograph, looks)
        assert label_map.shape == confidence.shape == (300, 200)
        assert (label_map[:140] == 1).all() and (label_map[160:] == 13).all()


def test_a_single_look_is_averaged_with_its_mirror_image(parser):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    whole = torch.stack([parser.look(picture, Looks(most=0)).probability for picture in pictures])
    torch.testing.assert_close(whole, parser.probabilities(pictures, flip=True))


def test_bad_checkpoints_are_named(parser, tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(InputError, match="no parser"):
        module.load_parser(path, parser.trunk)
    parser.save(path)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:5], b""):
        path.write_bytes(part)
        with pytest.raises(InputError, match="truncated"):
            module.load_parser(path, parser.trunk)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="not a checkpoint of wsfp"):
        module.load_parser(path, parser.trunk)
    segment.save_network(path, nn.Conv2d(1, 1, 1), {"network": "ResNet38"})
    with pytest.raises(InputError, match="holds a ResNet38: expected a LightParser or one of resnet38"):
        module.load_parser(path, parser.trunk)
    parser.trunk.fingerprint = "other"
    path.write_bytes(whole)
    with pytest.raises(InputError, match="trained on the trunk tiny, this one is other"):
        module.load_parser(path, parser.trunk)


def test_large_variances_survive_the_file_and_large_kernels_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    network, again = (nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
    with torch.no_grad():
        network[0].weight.fill_(0.1)
        network[0].bias.fill_(0.1)
        network[1].running_var.fill_(1e6)
        network[1].num_batches_tracked.fill_(123_457)
    segment.save_network(path, network, {})
    assert load_file(path)["0.weight"].dtype == torch.float16
    segment.load_weights(path, again)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-3 if name == "0.weight" else 0, atol=0)
    before = path.read_bytes()
    for wrong, place in ((7e4, network[0].weight), (torch.nan, network[1].bias)):
        with torch.no_grad():
            place[0] = wrong
        with pytest.raises(InputError, match="not finite"):
            segment.save_network(path, network, {})
        with torch.no_grad():
            place[0] = 0
    assert path.read_bytes() == before


def test_weights_that_do_not_fit_the_network_are_named(parser, tmp_path):
    path = tmp_path / "p.safetensors"
    parser.save(path)
    with pytest.raises(InputError, match="another network"):
        segment.load_weights(path, nn.Conv2d(3, 3, 1))
    other = LightParser(ParserConfig(width=64, stem=8), 6)
    with pytest.raises(InputError, match="another network"):
        segment.load_weights(path, other)


@pytest.mark.parametrize("which", sorted(module.SHIPPED))
def test_shipped_parsers_say_how_they_were_made(which):
    facts = segment.read_facts(module.SHIPPED[which])
    assert facts["network"] == "LightParser" and facts["targets"] and facts["command"]
    assert module.SHIPPED[which].stat().st_size < 5e6
    json.dumps(facts)

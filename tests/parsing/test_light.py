"""The light parser and its training, with a trunk of a few weights in place of the real one."""

import numpy as np
import pytest
import torch
from fixtures import PARSER, TinyTrunk, block_faces, tiny_parser

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import flip_image, to_tensor
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.nets.trunk import Trunk
from wsfp_helpers.parsing import light
from wsfp_helpers.parsing.fit import segmentation_loss
from wsfp_helpers.parsing.light import (
    Copies,
    LightDecoder,
    LightParser,
    ParserConfig,
    look_together,
    make_copies,
)


@pytest.fixture
def parser():
    return tiny_parser()


def test_the_decoder_answers_at_the_pictures_size_and_is_small():
    network = LightDecoder(ParserConfig())
    scores = network(torch.zeros(2, 400, 384), torch.rand(2, 3, 160, 160))
    assert scores.shape == (2, 19, 160, 160)
    assert 2 * sum(p.numel() for p in network.parameters()) < 4e6


def test_every_weight_learns():
    torch.manual_seed(0)
    network = LightDecoder(PARSER, 6).train()
    target = torch.randint(0, 19, (2, 32, 32))
    segmentation_loss(network(torch.rand(2, 16, 6), torch.rand(2, 3, 32, 32)), target, dice=0.5).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_window_of_the_scores_is_the_same_away_from_its_border():
    torch.manual_seed(0)
    network = LightDecoder(PARSER, 6).eval()
    tokens, pictures = torch.rand(1, 16, 6), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        whole, part = network(tokens, pictures), network(tokens, pictures, torch.tensor([8, 4, 24]))
    assert part.shape == (1, 19, 24, 24)
    torch.testing.assert_close(part[..., 8:-8, 8:-8], whole[..., 16:24, 12:20])


def test_the_stem_does_not_see_brightness_and_contrast():
    network = LightDecoder(PARSER, 6).eval()
    tokens, pictures = torch.rand(1, 16, 6), torch.rand(1, 3, 32, 32) * 10
    with torch.no_grad():
        torch.testing.assert_close(network(tokens, pictures), network(tokens, 3 * pictures + 1), atol=0.1, rtol=0.1)


def test_copies_hold_rare_pictures_more_often_and_each_once_an_epoch(tmp_path):
    faces, target = block_faces()
    copies = make_copies(faces, target, PARSER, TinyTrunk(), folder=tmp_path)
    assert copies.pictures.shape == (9, 32, 32, 3) and copies.tokens.shape == (9, 16, 6)
    marked = Copies(
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
    faces, _ = block_faces()
    with pytest.raises(InputError, match="the target of 0"):
        make_copies(faces, lambda i: np.zeros((8, 8), np.uint8), PARSER, TinyTrunk(), folder=tmp_path)


def test_flip_averaging_makes_a_mirrored_picture_give_the_mirrored_map(parser):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    straight = parser.probabilities(picture[None])[0]
    mirrored = parser.probabilities(flip_image(picture)[None])[0]
    torch.testing.assert_close(mirrored, straight.flip(-1)[torch.from_numpy(CELEBAMASK.flip)])
    torch.testing.assert_close(straight.sum(0), torch.ones(32, 32))


def test_a_fast_parser_answers_nearly_the_same_and_others_in_float32(monkeypatch):
    monkeypatch.setattr(light, "multiplies_bfloat16", lambda: True)
    torch.manual_seed(0)
    trunk = Trunk(blocks=1, size=64)
    parser = LightParser(LightDecoder(PARSER, trunk.width), trunk, PARSER)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    exact = parser.probabilities(pictures)
    images = to_tensor(pictures)
    tokens = trunk(trunk.prepare(torch.cat([images, images.flip(-1)])))
    torch.testing.assert_close(parser.probabilities(pictures, tokens=tokens), exact, atol=0, rtol=0)
    parser.fast = True
    fast = parser.probabilities(pictures)
    assert not torch.equal(fast, exact) and (fast - exact).abs().max() < 0.02
    monkeypatch.setattr(light, "multiplies_bfloat16", lambda: False)
    torch.testing.assert_close(parser.probabilities(pictures), exact, atol=0, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_parsers_of_one_trunk_share_its_tokens_and_answer_as_each_alone(parser, flip, monkeypatch):
    other = LightParser(LightDecoder(PARSER, 6), parser.trunk, PARSER)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    alone, seen = [one.probabilities(pictures, flip) for one in (parser, other)], []
    forward = TinyTrunk.forward
    monkeypatch.setattr(TinyTrunk, "forward", lambda self, x: (seen.append(len(x)), forward(self, x))[1])
    together = look_together([parser, other], pictures, flip)
    assert seen == [4 if flip else 2] and not torch.equal(*together)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b)

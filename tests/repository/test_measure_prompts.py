"""Prompts that are as close as a real CLIP's: the distances that are promised, and the order that is kept."""

import numpy as np
import pytest
import torch

from scripts.measure_prompts import BETWEEN_TEXTS, NAME, OTHER_TEXT, close_prompts, lines
from wsfp_helpers.labels import PROMPTS
from wsfp_helpers.nets.vlm import mini_flip
from wsfp_helpers.profiles import profile


def test_texts_are_close_to_each_other_and_pictures_are_not_close_to_texts():
    plain, close = mini_flip(), close_prompts()
    pictures = torch.rand(4, 3, plain.size, plain.size, generator=torch.Generator().manual_seed(0))
    texts = close.text(PROMPTS)
    pairs = (texts @ texts.T)[~torch.eye(len(texts), dtype=torch.bool)]
    assert pairs.mean().item() == pytest.approx(BETWEEN_TEXTS, abs=1e-4)
    before = plain.encode_image(plain.prepare(pictures)) @ plain.text(PROMPTS).T
    after = close.encode_image(close.prepare(pictures)) @ texts.T
    assert after.norm(dim=-1).shape == (4,)
    slope, at_zero = np.polyfit(before.flatten().numpy(), after.flatten().numpy(), 1)
    assert at_zero == pytest.approx(OTHER_TEXT, abs=1e-4)
    assert 0 < slope < 1
    torch.testing.assert_close(after, slope * before + at_zero, atol=1e-4, rtol=0)


def test_only_the_image_text_model_differs_from_table_4():
    rows = lines(profile("embedded"))
    assert {row.vlm for row in rows} == {NAME}
    assert [row.tcd.reduction for row in rows] == ["mean", "mean", "sum_texts"]
    assert len({row.tcd for row in rows}) == len(rows)

"""Eq. 8-16 and the base losses against transcriptions with plain loops, and their gradients in float64."""

import math

import pytest
import torch

from wsfp_helpers import losses
from wsfp_helpers.losses import TcdConfig

B, K, D, L = 3, 5, 7, 2


def cosine(a, b):
    return float((a * b).sum() / (a.norm() * b.norm()))


def attract(c, mode):
    if mode == "clims":
        return -math.log(min(max(c, 1e-4), 0.9999))
    return -math.log(min(c, 0.9999)) if c >= 0.05 else -math.log(0.05) - (c - 0.05) / 0.05


def repel(c, mode):
    return -math.log(1 - min(max(c, 1e-4 if mode == "clims" else 0.0), 0.9999))


@pytest.fixture
def case():
    torch.manual_seed(0)
    labels = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    text = torch.nn.functional.normalize(torch.randn(K, D, dtype=torch.float64), dim=-1)
    return torch.randn(B, K, D, dtype=torch.float64), text, labels


@pytest.mark.parametrize("mode", ["tangent", "clims"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_positive_equals_loops(case, mode, reduction):
    v, text, labels = case
    config = TcdConfig(sim_mode=mode, reduction=reduction)
    pictures = []
    for b in range(B):
        terms = [attract(cosine(v[b, k], text[k]), mode) for k in range(K) if labels[b, k]]
        pictures.append(sum(terms) / (len(terms) if reduction == "mean" else 1))
    expected = sum(pictures) / B
    assert losses.positive_class(v, text, labels, config).item() == pytest.approx(expected, abs=1e-6)
    assert losses.positive_foreground(v, text, labels, config).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", ["tangent", "clims"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("negatives", ["all", "present"])
def test_negative_equals_loops(case, mode, reduction, negatives):
    v, text, labels = case
    config = TcdConfig(sim_mode=mode, reduction=reduction, negatives=negatives)
    pictures = []
    for b in range(B):
        rows = []
        for k in range(K):
            if not labels[b, k]:
                continue
            others = [m for m in range(K) if m != k and (negatives == "all" or labels[b, m])]
            terms = [repel(cosine(v[b, k], text[m]), mode) for m in others]
            rows.append(sum(terms) / (max(len(terms), 1) if reduction == "mean" else 1))
        pictures.append(sum(rows) / (len(rows) if reduction == "mean" else 1))
    expected = sum(pictures) / B
    assert losses.negative_class(v, text, labels, config).item() == pytest.approx(expected, abs=1e-6)
    assert losses.negative_foreground(v, text, labels, config).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", ["tangent", "clims"])
def test_background_equals_loops(case, mode):
    v, text, labels = case
    pictures = []
    for b in range(B):
        terms = [repel(cosine(v[b, k], text[k]), mode) for k in range(K) if labels[b, k]]
        pictures.append(sum(terms) / len(terms))
    found = losses.negative_background(v, text, labels, TcdConfig(sim_mode=mode)).item()
    assert found == pytest.approx(sum(pictures) / B, abs=1e-6)


def test_sums_of_the_paper():
    config, one = TcdConfig(), torch.tensor
    assert losses.positive(one(2.0), one(3.0), config).item() == pytest.approx(1.2 * 2 + 0.2 * 3)
    assert losses.negative(one(2.0), one(3.0), one(5.0), config).item() == pytest.approx(2.1 * 2 + 0.1 * 3 + 0.017 * 5)
    assert losses.total(one(2.0), one(3.0), one(5.0), config).item() == pytest.approx(2 + 3 + 0.05 * 5)


def test_regularisation_is_the_mean_over_all_components():
    p = torch.rand(B, K, 4, 6)
    expected = sum(float(p[b, k, i, j]) for b in range(B) for k in range(K) for i in range(4) for j in range(6))
    assert losses.regularisation(p).item() == pytest.approx(expected / (B * K * 4 * 6), abs=1e-6)


def test_contrastive_class_token_equals_loops():
    torch.manual_seed(1)
    tokens, labels = torch.randn(L, B, K, D), torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    expected = 0.0
    for layer in range(L):
        for b in range(B):
            rows = []
            for k in range(K):
                if labels[b, k]:
                    row = [cosine(tokens[layer, b, k], tokens[layer, b, m]) for m in range(K)]
                    rows.append(-row[k] + math.log(sum(math.exp(c) for c in row)))
            expected += sum(rows) / len(rows)
    assert losses.contrastive_class_token(tokens, labels).item() == pytest.approx(expected / (L * B), abs=1e-6)


def test_multilabel_soft_margin_equals_loops():
    torch.manual_seed(2)
    logits, labels = torch.randn(B, K), torch.randint(0, 2, (B, K))
    terms = []
    for b in range(B):
        for k in range(K):
            probability = 1 / (1 + math.exp(-float(logits[b, k])))
            terms.append(-math.log(probability if labels[b, k] else 1 - probability))
    assert losses.multilabel_soft_margin(logits, labels).item() == pytest.approx(sum(terms) / len(terms), abs=1e-6)


@pytest.mark.parametrize("mode", ["tangent", "clims"])
@pytest.mark.parametrize("function", [losses.positive_class, losses.negative_class, losses.negative_background])
def test_gradients_in_float64(case, function, mode):
    v, text, labels = case
    # away from the corners of the clamps, where a finite difference is of no use
    v = (0.6 * text + 0.25 * v).requires_grad_()
    config = TcdConfig(sim_mode=mode)
    assert torch.autograd.gradcheck(lambda x: function(x, text, labels, config), v)


def test_the_tangent_has_a_gradient_where_clims_is_dead():
    text = torch.eye(K, dtype=torch.float64)
    for mode, alive in (("tangent", True), ("clims", False)):
        v = (-text)[None].clone()
        v[..., 0] += 0.3
        v.requires_grad_()
        losses.positive_class(v, text, torch.ones(1, K), TcdConfig(sim_mode=mode)).backward()
        assert bool(v.grad.abs().sum() > 0) is alive
    assert losses.dead_pairs(v, text, torch.ones(1, K)).item() == 1.0


def test_the_extended_logarithm_is_continuous_with_its_slope():
    text = torch.tensor([[1.0, 0.0]], dtype=torch.float64)

    def at(c):
        v = torch.tensor([[[c, math.sqrt(1 - c * c)]]], dtype=torch.float64)
        return losses.positive_class(v, text, torch.ones(1, 1), TcdConfig()).item()

    step = 1e-6
    assert at(0.05 + step) == pytest.approx(at(0.05 - step), abs=1e-4)
    assert (at(0.05 + step) - at(0.05)) / step == pytest.approx((at(0.05) - at(0.05 - step)) / step, rel=1e-3)


def test_absent_components_change_nothing(case):
    v, text, labels = case
    other = v.clone()
    other[~labels.bool()] = torch.randn(int((labels == 0).sum()), D, dtype=torch.float64)
    for function in (losses.positive_class, losses.negative_class, losses.negative_background):
        assert function(v, text, labels, TcdConfig()) == function(other, text, labels, TcdConfig())

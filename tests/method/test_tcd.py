"""Eq. 5, 6 and 8-16 and the base losses against transcriptions with plain loops, and their gradients in float64."""

import math

import numpy as np
import pytest
import torch
from fixtures import tiny_faces, tiny_vit, tiny_vlm

from wsfp_helpers.common.pictures import to_tensor
from wsfp_helpers.method import tcd as losses
from wsfp_helpers.method.tcd import Objective, TcdConfig
from wsfp_helpers.method.train import DisFaceRep
from wsfp_helpers.method.vit import Projector, vit_inputs

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


def test_foreground_and_background_equal_loops():
    torch.manual_seed(3)
    x, p = torch.randn(B, 3, 4, 6), torch.rand(B, 1, 4, 6)
    inside, outside = losses.foreground(x, p), losses.background(x, p)
    assert inside.shape == outside.shape == x.shape
    for b, c, i, j in np.ndindex(*x.shape):
        colour, share = float(x[b, c, i, j]), float(p[b, 0, i, j])
        assert inside[b, c, i, j].item() == pytest.approx(colour * share, abs=1e-6)
        assert outside[b, c, i, j].item() == pytest.approx(colour * (1 - share), abs=1e-6)


@pytest.mark.parametrize("mode", ["tangent", "clims"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "sum_texts"])
def test_positive_equals_loops(case, mode, reduction):
    v, text, labels = case
    config = TcdConfig(sim_mode=mode, reduction=reduction)
    pictures = []
    for b in range(B):
        terms = [attract(cosine(v[b, k], text[k]), mode) for k in range(K) if labels[b, k]]
        pictures.append(sum(terms) / (1 if reduction == "sum" else len(terms)))
    expected = sum(pictures) / B
    assert losses.positive_class(v, text, labels, config).item() == pytest.approx(expected, abs=1e-6)
    assert losses.positive_foreground(v, text, labels, config).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", ["tangent", "clims"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "sum_texts"])
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
        pictures.append(sum(rows) / (1 if reduction == "sum" else len(rows)))
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
    assert losses.class_token_contrast(tokens, labels).item() == pytest.approx(expected / (L * B), abs=1e-6)


def test_multilabel_soft_margin_equals_loops():
    torch.manual_seed(2)
    logits, labels = torch.randn(B, K), torch.randint(0, 2, (B, K))
    terms = []
    for b in range(B):
        for k in range(K):
            probability = 1 / (1 + math.exp(-float(logits[b, k])))
            terms.append(-math.log(probability if labels[b, k] else 1 - probability))
    assert losses.soft_margin(logits, labels).item() == pytest.approx(sum(terms) / len(terms), abs=1e-6)


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


def test_render_equals_one_picture_at_a_time():
    vlm, p, pictures = tiny_vlm(), torch.rand(2, 3, 4, 4), torch.rand(2, 3, 32, 32)
    rendered = torch.tensor([[True, False, True], [False, False, True]])
    foreground, background = losses.encode_renders(p, pictures, rendered, vlm)
    for b in range(2):
        for k in range(3):
            if not rendered[b, k]:
                assert not foreground[b, k].abs().sum() and not background[b, k].abs().sum()
                continue
            mask = torch.nn.functional.interpolate(p[b : b + 1, k : k + 1], (32, 32), mode="bilinear")
            prepared = vlm.prepare(pictures[b : b + 1])
            torch.testing.assert_close(foreground[b, k], vlm.encode_image(prepared * mask)[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                background[b, k], vlm.encode_image(prepared * (1 - mask))[0], atol=1e-5, rtol=1e-5
            )
    without_foreground = losses.encode_renders(p, pictures, rendered, vlm, with_foreground=False)
    assert without_foreground[0] is None
    torch.testing.assert_close(without_foreground[1], background)
    without_background = losses.encode_renders(p, pictures, rendered, vlm, with_background=False)
    torch.testing.assert_close(without_background[0], foreground)
    assert without_background[1] is None


def test_pieces_equal_one_call_and_are_encoded_again_in_backward(monkeypatch):
    vlm, pictures, rendered = tiny_vlm(), torch.rand(2, 3, 32, 32), torch.tensor([[True] * 4, [False] + [True] * 3])
    p, sizes, encode = torch.rand(2, 4, 4, 4, requires_grad=True), [], vlm.encode_image
    vlm.encode_image = lambda piece: sizes.append(len(piece)) or encode(piece)
    weights = torch.randn(2, 2, 4, 16)
    results = []
    for piece in (14, 5):
        monkeypatch.setattr("wsfp_helpers.method.tcd.PIECE", piece)
        vectors = torch.stack(losses.encode_renders(p, pictures, rendered, vlm))
        results.append((vectors, *torch.autograd.grad((vectors * weights).sum(), p)))
    assert results[0][1].abs().sum() > 0
    torch.testing.assert_close(results[1], results[0], atol=1e-6, rtol=1e-6)
    assert sizes[:4] == [14, 5, 5, 4]
    assert sorted(sizes[4:]) == [4, 5, 5]


def test_what_autograd_keeps_of_a_render_is_counted():
    vlm = tiny_vlm()
    vlm.encode_image = lambda renders: (renders * vlm.clip.visual.proj[0, 0]).exp() * renders
    one = 3 * 32 * 32 * 4  # the bytes of a picture: the renders, which two operations keep, and the exponential
    assert [losses.kept_bytes(vlm, count) for count in (1, 3)] == [2 * one, 6 * one]


def test_as_many_renders_are_encoded_at_a_time_as_the_free_memory_holds(monkeypatch, capsys):
    vlm, sizes = tiny_vlm(), []
    each = losses.kept_bytes(vlm, 2) - losses.kept_bytes(vlm, 1)
    monkeypatch.setattr(losses, "SHARE", 0.5)
    monkeypatch.setattr(losses, "free_memory", lambda where: 11 * each)
    monkeypatch.setattr(losses, "_encode", lambda renders, vlm, piece: sizes.append(piece) or vlm.encode_image(renders))
    objective, model = Objective(TcdConfig(), vlm), DisFaceRep(tiny_vit(), Projector(24, 8, 16))
    faces = tiny_faces(2)
    pictures = [faces.image(i) for i in range(2)]
    for _ in range(2):
        output, v_cls = model(vit_inputs(model.vit, pictures))
        objective(output, v_cls, to_tensor(pictures), torch.from_numpy(faces.labels).float())
    assert sizes == [5, 5]
    assert capsys.readouterr().err.count("up to 5 renders are encoded at a time: each keeps") == 1
    monkeypatch.setattr(losses, "free_memory", lambda where: 1)
    assert losses.fitting_renders(vlm, torch.device("cpu")) == 1


def test_the_free_memory_of_a_cpu_is_not_asked_for():
    assert losses.fitting_renders(tiny_vlm(), torch.device("cpu")) == losses.PIECE


def test_sample_components_takes_present_components_only():
    labels = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert torch.equal(losses.sample_components(labels, 0), labels.bool())
    torch.manual_seed(0)
    picked = torch.stack([losses.sample_components(labels, 2) for _ in range(50)])
    assert (picked.sum(-1) == torch.tensor([2, 1, 0])).all()
    assert not (picked & ~labels.bool()).any()
    assert picked[:, 0, :3].any(0).all()


def test_the_objective_is_the_sum_of_its_weighted_terms():
    torch.manual_seed(4)
    vlm, labels = tiny_vlm(), torch.from_numpy(tiny_faces(2).labels).float()
    with torch.no_grad():
        output, v_cls, picture = tiny_vit()(torch.randn(2, 3, 64, 64)), torch.randn(2, 18, 16), torch.rand(2, 3, 32, 32)
        both, terms = Objective(TcdConfig(), vlm)(output, v_cls, picture, labels)
        tcd, tcd_terms = Objective(TcdConfig(), vlm, base=False)(output, v_cls, picture, labels)
        base, base_terms = Objective(None)(output, None, picture, labels)
    assert base_terms.keys() == {"loss", "class_mlsm", "contrast", "patch_mlsm"}
    assert tcd_terms.keys() == {"loss", "pos_cls", "pos_ffc", "neg_cls", "neg_ffc", "neg_bfc", "reg", "dead"}
    assert terms.keys() == base_terms.keys() | tcd_terms.keys()
    t = {name: float(value) for name, value in terms.items()}
    assert min(value for name, value in t.items() if name != "dead") > 0
    paper = 1.2 * t["pos_cls"] + 0.2 * t["pos_ffc"] + 2.1 * t["neg_cls"] + 0.1 * t["neg_ffc"] + 0.017 * t["neg_bfc"]
    assert float(tcd) == pytest.approx(paper + 0.05 * t["reg"], rel=1e-5)
    assert float(base) == pytest.approx(t["class_mlsm"] + t["contrast"] + t["patch_mlsm"], rel=1e-5)
    assert float(both) == t["loss"] == pytest.approx(float(tcd) + float(base), rel=1e-5)
    assert t["reg"] == pytest.approx(float((1 / (1 + (-output.patch_map).exp())).mean()), rel=1e-5)


def test_terms_without_a_weight_cost_nothing():
    """Nothing is rendered, or only what a weight asks for."""
    vlm, sizes = tiny_vlm(), []
    encode = vlm.encode_image
    vlm.encode_image = lambda renders: sizes.append(len(renders)) or encode(renders)
    labels = torch.from_numpy(tiny_faces(2).labels).float()
    with torch.no_grad():
        output = tiny_vit()(torch.randn(2, 3, 64, 64))
        case = (output, torch.randn(2, 18, 16), torch.rand(2, 3, 32, 32), labels)
        none = Objective(TcdConfig(alpha1=0, beta1=0, beta2=0), vlm)(*case)[1]
        assert sizes == [] and {float(none[name]) for name in ("pos_ffc", "neg_ffc", "neg_bfc")} == {0.0}
        outside = Objective(TcdConfig(alpha1=0, beta1=0), vlm)(*case)[1]
        inside = Objective(TcdConfig(beta2=0), vlm)(*case)[1]
        Objective(TcdConfig(), vlm)(*case)
    pairs = int(labels.sum())
    assert sizes == [pairs, pairs, 2 * pairs]
    assert float(outside["neg_bfc"]) > 0 and float(outside["pos_ffc"]) == float(outside["neg_ffc"]) == 0
    assert float(inside["neg_bfc"]) == 0 and float(inside["pos_ffc"]) > 0 and float(inside["neg_ffc"]) > 0

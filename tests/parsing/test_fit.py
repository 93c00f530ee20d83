"""Loss, schedule and the loop of a segmentation network, which survives a kill."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures import PARSER, TinyTrunk, block_faces, tiny_parser
from torch import nn

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.runs import read_metrics
from wsfp_helpers.labels import CELEBAMASK, IGNORE
from wsfp_helpers.parsing.fit import FitConfig, class_weights, fit, poly, remove_state, segmentation_loss
from wsfp_helpers.parsing.light import Copies, LightDecoder, make_copies, train_decoder, undo_balance


@pytest.fixture
def parser():
    return tiny_parser()


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
    found = segmentation_loss(*map(torch.from_numpy, (scores, target, weight)), dice)
    assert found.item() == pytest.approx(naive_loss(scores, target, weight, dice))


def test_loss_of_a_batch_without_a_label_is_zero_and_differentiable():
    scores = torch.randn(1, 19, 4, 4, requires_grad=True)
    loss = segmentation_loss(scores, torch.full((1, 8, 8), IGNORE), dice=1.0)
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


def test_class_weights_have_mean_one_over_the_pixels():
    targets = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 2, IGNORE, 0]], np.uint8)]
    weights = class_weights(targets, 0.5, 4).double().numpy()
    assert weights[3] == 0 and weights[1] == pytest.approx(weights[2])
    assert weights[1] / weights[0] == pytest.approx((5 / 1) ** 0.5)
    assert (5 * weights[0] + weights[1] + weights[2]) / 7 == pytest.approx(1)


def test_without_the_weights_of_training_a_part_is_as_probable_as_it_is_frequent():
    """One bias, fitted by the weighted cross-entropy to pixels of which nothing is known."""
    skin, nose, ear, hat = (CELEBAMASK.index(name) for name in ("skin", "nose", "l_ear", "hat"))
    target = torch.tensor([skin] * 80 + [nose] * 15 + [ear] * 5)
    weight = class_weights([target.numpy()], 0.5)
    decoder = LightDecoder(PARSER)
    bias = decoder.head.bias
    optimiser = torch.optim.LBFGS([bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")
    optimiser.step(lambda: _slope(torch.nn.functional.cross_entropy(bias.expand(100, -1), target, weight), bias))
    before = bias.detach().clone()
    assert before.softmax(0)[nose] > 0.2
    undo_balance(decoder, weight)
    after = bias.detach()
    assert (after[nose] - after[skin]).exp().item() == pytest.approx(15 / 80, rel=0.01)
    assert (after[ear] - after[skin]).exp().item() == pytest.approx(5 / 80 * (80 / 5) ** 0.5, rel=0.01)
    assert after[hat] == before[hat]


def _slope(loss, parameter):
    parameter.grad = torch.autograd.grad(loss, parameter)[0]
    return loss


def test_a_training_undoes_its_weights_when_asked_to():
    faces, target = block_faces()
    copies = make_copies(faces, target, PARSER, TinyTrunk())
    kept, _ = train_decoder(copies, PARSER)
    undone, _ = train_decoder(copies, replace(PARSER, undo_balance=True))
    weight = class_weights(copies.targets, PARSER.balance)
    moved = (kept.head.bias - undone.head.bias).exp()
    k = CELEBAMASK.index("nose")
    assert moved[k].item() == pytest.approx((weight[k] / weight[CELEBAMASK.index("skin")]).item(), rel=1e-3)
    assert moved[0] == 1


def test_poly_schedule():
    assert poly(0, 100) == 1 and poly(50, 100, 0.9) == pytest.approx(0.5**0.9)
    rates = [poly(step, 100, 0.9, 10) for step in range(100)]
    assert rates[0] < 0.1 and np.argmax(rates) in (9, 10) and rates[-1] == pytest.approx(0.01**0.9)


def test_an_interrupted_training_goes_on_to_the_same_result(tmp_path):
    faces, target = block_faces()
    copies = make_copies(faces, target, PARSER, TinyTrunk(), folder=tmp_path / "tokens")
    straight, losses = train_decoder(copies, PARSER, seed=3)

    class Stops(Copies):
        def batch_at(self, step, *rest):
            if step == 5:
                raise KeyboardInterrupt
            return super().batch_at(step, *rest)

    with pytest.raises(KeyboardInterrupt):
        train_decoder(Stops(*vars(copies).values()), PARSER, seed=3, folder=tmp_path / "run")
    assert (tmp_path / "run" / "state.safetensors").exists()
    resumed, again = train_decoder(copies, PARSER, seed=3, folder=tmp_path / "run")
    assert again == losses
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=0, rtol=0)
    assert [row["loss"] for row in read_metrics(tmp_path / "run")] == losses
    finished, again = train_decoder(Stops(*vars(copies).values()), PARSER, seed=3, folder=tmp_path / "run")
    assert again == losses
    torch.testing.assert_close(finished.state_dict(), straight.state_dict(), atol=0, rtol=0)
    remove_state(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_state_of_another_training_is_refused(tmp_path):
    copies = make_copies(*block_faces(), PARSER, TinyTrunk(), folder=tmp_path / "tokens")
    (tmp_path / "state.safetensors").write_bytes(b"not a state")
    with pytest.raises(InputError, match=r"state\.safetensors cannot be read as training state"):
        train_decoder(copies, PARSER, folder=tmp_path)
    train_decoder(copies, replace(PARSER, width=48), folder=tmp_path / "run")
    with pytest.raises(InputError, match=r"state\.safetensors is of another network: .*take a new run directory"):
        train_decoder(copies, PARSER, folder=tmp_path / "run")


def test_the_state_of_version_0_1_is_refused(tmp_path):
    copies = make_copies(*block_faces(), PARSER, TinyTrunk(), folder=tmp_path / "tokens")
    torch.save({"network": {}, "optimiser": {}, "losses": []}, tmp_path / "state.pt")
    with pytest.raises(InputError, match=r"state\.pt is the state .* older version: remove .* to start again$") as e:
        train_decoder(copies, PARSER, folder=tmp_path)
    assert "\n" not in str(e.value) and (tmp_path / "state.pt").exists()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_loss_that_is_no_number_stops_the_training():
    network = nn.Conv2d(1, 19, 1)
    batch = (torch.full((1, 1, 4, 4), torch.inf),), torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(InputError, match="lower the learning rate"):
        fit(network, lambda step: batch, FitConfig(steps=3, batch=1, lr=0.1))


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
    fit(network, lambda step: ((torch.zeros(1),), torch.zeros(1, 2, 2, dtype=torch.long)), config)
    torch.testing.assert_close(network.head.data, 10 * network.body.data)
    assert network.body.data[0] > 0


@pytest.mark.parametrize(
    "change", [lambda lines: [], lambda lines: lines[:-1], lambda lines: [*lines[:-1], '{"a": 1}']]
)
def test_a_state_without_the_metrics_of_its_steps_is_refused(tmp_path, change):
    batch, config = ((torch.zeros(1, 1, 4, 4),), torch.zeros(1, 4, 4, dtype=torch.long)), FitConfig(2, 1, 0.1)
    fit(nn.Conv2d(1, 19, 1), lambda step: batch, config, folder=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("".join(line + "\n" for line in change(lines)))
    with pytest.raises(InputError, match="has a state after step 2 without the metrics of these steps: remove"):
        fit(nn.Conv2d(1, 19, 1), lambda step: batch, config, folder=tmp_path)

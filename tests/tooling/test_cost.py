"""Table 5: what is counted, and what an interrupted measurement keeps."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from wsfp_helpers.profiles import profile
from wsfp_helpers.systems.every import SYSTEMS
from wsfp_helpers.tooling import cost


def test_multiply_adds_by_hand_with_a_gradient_within():
    """A product of (3, 4) and (4, 5) has 60; its gradient for the first factor is a product of (3, 5) and (5, 4)."""
    first = torch.rand(3, 4, requires_grad=True)
    network = torch.nn.Linear(4, 5, bias=False).requires_grad_(False)
    with cost.MultiplyAdds() as counter:
        torch.autograd.grad(network(first).sum(), first)
    assert counter.get_total_flops() == 2 * (60 + 60)


@pytest.fixture
def fake(monkeypatch):
    """Measures at once, and fails at the second system until told otherwise."""
    asked, broken = [], {"seco"}

    def measure(name, config, boxes, folder):
        asked.append(name)
        if name in broken:
            raise KeyboardInterrupt
        return {("training", "minutes"): float(len(asked))}

    monkeypatch.setattr(cost, "measure", measure)
    monkeypatch.setattr(cost, "in_processes", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(cost, "revision", lambda: "abc")
    monkeypatch.setattr("wsfp_helpers.tooling.results.revision", lambda: "abc")
    return asked, broken


def test_an_interrupted_measurement_goes_on(fake, tmp_path, monkeypatch):
    asked, broken = fake
    names = list(SYSTEMS)[:3]
    with pytest.raises(KeyboardInterrupt):
        cost.table5(names, profile("embedded"), "shipped", tmp_path)
    broken.clear()
    path = cost.table5(names, profile("embedded"), "shipped", tmp_path)
    assert asked == ["mctformer+", "seco", "seco", "more"]
    rows = json.loads(path.read_text())["rows"]
    assert [(each["name"], each["seeds"]) for each in rows] == [
        ("mctformer+: training", [1.0]), ("seco: training", [3.0]), ("more: training", [4.0]),
    ]  # fmt: skip
    monkeypatch.setattr(cost, "revision", lambda: "def")
    cost.table5(names, profile("embedded"), "shipped", tmp_path)
    assert asked[4:] == names

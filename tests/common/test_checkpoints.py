"""Weights on disk: whole, described, read strictly, and never as code."""

import pickle

import pytest
import torch
from fixtures import same
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsfp_helpers.common.checkpoints import (
    fingerprint,
    load_strictly,
    read_about,
    read_weights,
    restore_state,
    save_halved,
    save_state,
    save_weights,
)
from wsfp_helpers.common.errors import InputError


def test_weights_round_trip_with_their_description(tmp_path):
    weights = {"a": torch.randn(2, 3), "half": torch.randn(4).half(), "view": torch.randn(4, 4).t()}
    save_weights(tmp_path / "w.safetensors", weights, profile={"lr": 1e-3}, classes=["skin", "nose"])
    found = read_weights(tmp_path / "w.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) and found[name].dtype == weights[name].dtype for name in weights)
    assert read_about(tmp_path / "w.safetensors") == {"profile": {"lr": 1e-3}, "classes": ["skin", "nose"]}


def test_shared_tensors_can_be_saved(tmp_path):
    tied = torch.randn(3)
    save_weights(tmp_path / "w.safetensors", {"a": tied, "b": tied})
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["b"], tied)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3},
    ],
)
def test_state_dicts_of_torch_are_read_however_they_are_wrapped(tmp_path, wrap):
    state = {"a.weight": torch.randn(2, 2), "a.bias": torch.randn(2)}
    torch.save(wrap(state), tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth")
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.promise(
    "security", "a hostile pickle in place of weights", "a sentence that names the file", "no code runs"
)
def test_a_file_cannot_run_code(tmp_path):
    marker = tmp_path / "ran"

    class Harmful:
        def __reduce__(self):
            return marker.touch, ()

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Harmful(), protocol=2))
    torch.save({"state_dict": Harmful()}, tmp_path / "v.pth")
    for name in ("w.pth", "v.pth"):
        with pytest.raises(InputError, match=rf"{name[0]}\.pth cannot be read as weights"):
            read_weights(tmp_path / name)
    assert not marker.exists()
    pickle.loads((tmp_path / "w.pth").read_bytes())
    assert marker.exists()  # so that the check can fail


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"w\.safetensors cannot be read as DeiT .*truncated.*; download it again$"):
        read_weights(path, "DeiT", "download it again")
    with pytest.raises(InputError, match=r"w\.safetensors cannot be read as weights .*truncated"):
        read_about(path)
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:200])
    with pytest.raises(InputError, match=r"w\.pth cannot be read as weights .*truncated"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x02.", b"\x80\x02J\x00", b"\x80\x02h\x05.", b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_whatever_the_damage_it_is_one_sentence(tmp_path, suffix, content):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"w\{suffix} cannot be read as weights \(.+\): it is truncated") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


def test_what_is_no_file_of_weights_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no weights at .*missing\.safetensors"):
        read_weights(tmp_path / "missing.safetensors")
    with pytest.raises(InputError, match="is a folder: expected the weights itself"):
        read_weights(tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"list\.pth cannot be read as weights"):
        read_weights(tmp_path / "list.pth")


def test_another_network_is_refused_untouched(tmp_path):
    model = torch.nn.Linear(4, 2)
    before = model.weight.clone()
    with pytest.raises(
        InputError, match=r"f is of another network: for weight it has \(2, 3\), expected \(2, 4\); why"
    ):
        load_strictly(model, torch.nn.Linear(3, 2).state_dict(), "f", "why")
    assert torch.equal(model.weight, before)
    with pytest.raises(InputError, match=r"for bias it has \(2,\), expected nothing"):
        load_strictly(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(3, 2).state_dict(), "f", "why")
    with pytest.raises(InputError, match=r"for bias it has nothing, expected \(2,\)"):
        load_strictly(torch.nn.Linear(3, 2), torch.nn.Linear(3, 2, bias=False).state_dict(), "f", "why")


def test_of_several_differences_the_first_is_named():
    with pytest.raises(InputError, match=r"for bias it has \(5,\), expected \(2,\); why$"):
        load_strictly(torch.nn.Linear(3, 2), torch.nn.Linear(4, 5).state_dict(), "f", "why")


def test_weights_reach_the_model_at_its_own_precision():
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    load_strictly(target, {name: value.half() for name, value in source.state_dict().items()}, "f", "why")
    assert target.weight.dtype == torch.float32 and torch.equal(target.weight, source.weight.half().float())


def test_matrices_are_halved_and_what_has_one_number_a_channel_is_not(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    with torch.no_grad():
        network[1].running_var.fill_(1e6)
    save_halved(tmp_path / "n.safetensors", network, {"network": "small"})
    found = read_weights(tmp_path / "n.safetensors")
    assert found["0.weight"].dtype == torch.float16 and found["0.bias"].dtype == torch.float32
    assert found["1.running_var"].tolist() == [1e6] * 4 and read_about(tmp_path / "n.safetensors") == {
        "network": "small"
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 7e4])
def test_weights_that_are_not_finite_at_half_precision_are_not_written(tmp_path, value):
    network = torch.nn.Linear(2, 2)
    with torch.no_grad():
        network.weight[0, 0] = value
    with pytest.raises(InputError, match="weight has values that are not finite at half precision"):
        save_halved(tmp_path / "n.safetensors", network, {})
    assert not list(tmp_path.iterdir())


def steps(model, optimiser, count, seed):
    torch.manual_seed(seed)
    for _ in range(count):
        optimiser.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, 1e-2),
        lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
        lambda p: torch.optim.SGD(p, 1e-2),
    ],
    ids=["adamw", "momentum", "plain"],
)
def test_a_restored_training_goes_on_bit_for_bit(tmp_path, make):
    torch.manual_seed(0)
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimiser, again = make(model.parameters()), make(other.parameters())
    steps(model, optimiser, 3, seed=1)
    save_state(tmp_path / "s.safetensors", {"model": model}, optimiser, step=3, scaler=None)
    assert restore_state(tmp_path / "s.safetensors", {"model": other}, again, 5) == {"step": 3, "scaler": None}
    assert same(model, other)
    steps(model, optimiser, 2, seed=2)
    steps(other, again, 2, seed=2)
    assert same(model, other)


def test_a_state_of_another_model_or_without_a_part_is_refused(tmp_path):
    model = torch.nn.Linear(3, 2)
    save_state(tmp_path / "s.safetensors", {"model": model}, torch.optim.AdamW(model.parameters()), step=1)
    other = torch.nn.Linear(4, 2)
    with pytest.raises(InputError, match=r"for weight it has \(2, 3\), expected \(2, 4\); take a new run directory"):
        restore_state(tmp_path / "s.safetensors", {"model": other}, torch.optim.AdamW(other.parameters()), 5)
    with pytest.raises(InputError, match="for bias it has nothing"):
        restore_state(tmp_path / "s.safetensors", {"ema": model}, torch.optim.AdamW(model.parameters()), 5)


def averaged(model):
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))


def test_a_checkpoint_of_version_0_1_is_restored(tmp_path):
    """Its format: tensors under ``model.``, ``ema.`` and ``optimiser.INDEX.``, and JSON values in the header."""
    torch.manual_seed(0)
    model, old = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ema, old_ema = averaged(model), averaged(old)
    optimiser = torch.optim.AdamW(old.parameters(), 1e-2)
    for seed in (1, 2):
        steps(old, optimiser, 1, seed)
        old_ema.update_parameters(old)
    tensors = {f"model.{name}": value.clone() for name, value in old.state_dict().items()}
    tensors |= {f"ema.{name}": value.clone() for name, value in old_ema.state_dict().items()}
    for index, entry in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value.clone() for name, value in entry.items()}
    save_file(tensors, tmp_path / "checkpoint.safetensors", metadata={"step": "2", "scaler": '{"scale": 1024.0}'})
    again = torch.optim.AdamW(model.parameters(), 1e-2)
    about = restore_state(tmp_path / "checkpoint.safetensors", {"model": model, "ema": ema}, again, 2)
    assert about == {"step": 2, "scaler": {"scale": 1024.0}} and ema.n_averaged == 2
    for some, its, average in ((old, optimiser, old_ema), (model, again, ema)):
        steps(some, its, 1, seed=3)
        average.update_parameters(some)
    assert same(model, old) and same(ema, old_ema) and not same(model, ema.module)


def test_fingerprint_changes_with_the_weights():
    def layer(seed):
        torch.manual_seed(seed)
        return torch.nn.Linear(3, 2)

    assert fingerprint(layer(0)) == fingerprint(layer(0)) != fingerprint(layer(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value, dtype):
    weights = torch.ones(3)
    weights[1] = value
    if not (dtype == torch.float8_e4m3fn and value == value):  # which has no infinity
        save_file({"a": torch.ones(2), "b": weights.to(dtype)}, tmp_path / "w.safetensors")
        with pytest.raises(InputError, match=r"w\.safetensors has values in b that are infinite or no numbers: again"):
            read_weights(tmp_path / "w.safetensors", advice="again")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(dtype):
    weights = {name: value.to(dtype) for name, value in torch.nn.Linear(3, 2).state_dict().items()}
    with pytest.raises(
        InputError, match=r"f is of another network: bias holds numbers of type \w+, expected .*float32"
    ):
        load_strictly(torch.nn.Linear(3, 2), weights, "f", "why")


def test_counters_must_be_whole_and_weights_must_fit_the_precision():
    norm = torch.nn.BatchNorm1d(2)
    with pytest.raises(InputError, match=r"num_batches_tracked holds numbers of type float32, expected .* int64"):
        load_strictly(norm, norm.state_dict() | {"num_batches_tracked": torch.tensor(1.0)}, "f", "why")
    with pytest.raises(InputError, match="has values in weight that are infinite"):
        load_strictly(norm, norm.state_dict() | {"weight": torch.tensor([1.0, 1e300]).double()}, "f", "why")


@pytest.mark.parametrize(
    ("tensors", "header"),
    [
        *[({}, {"step": step}) for step in ("1000000", "6", "0", "-1", "1.5", "true", "null", '"3"', "[3]", "1" * 9)],
        ({}, {}),
        *[({f"optimiser.{i}.{key}": None for i in "01" for key in keys}, {}) for keys in (["exp_avg"], ["step"])],
        ({f"optimiser.{i}.{key}": None for i in "01" for key in ("exp_avg", "exp_avg_sq", "step")}, {"step": "3"}),
        ({f"optimiser.1.{key}": None for key in ("exp_avg", "exp_avg_sq", "step")}, {"step": "3"}),
        ({"optimiser.2.exp_avg": torch.zeros(2)}, {"step": "3"}),
        ({"optimiser.x.exp_avg": torch.zeros(2)}, {"step": "3"}),
        ({"optimiser.0.exp_avg": torch.zeros(3, 2)}, {"step": "3"}),
        ({"optimiser.0.step": torch.tensor(4.0)}, {"step": "3"}),
        ({}, {"step": "4"}),
        ({}, {"wsfp": "[]"}),
        *[({"optimiser.0.step": step}, {"step": "3"}) for step in (torch.zeros(2), torch.zeros(0), torch.tensor(-1.0))],
        *[
            ({"optimiser.1.exp_avg": torch.zeros(2, dtype=dtype)}, {"step": "3"})
            for dtype in (torch.int8, torch.int64, torch.bool, torch.complex64)
        ],
        ({"optimiser.1.exp_avg_sq": torch.tensor([0.1, -0.1])}, {"step": "3"}),
    ],
    ids=str,
)
@pytest.mark.promise(
    "kills and faults",
    "a saved state that was edited or is of another training",
    "a sentence that names the file",
    "as it was",
)
def test_an_impossible_state_is_refused(tmp_path, tensors, header):
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    steps(model, optimiser, 3, seed=0)
    save_state(tmp_path / "s.safetensors", {"model": model}, optimiser, step=3)
    state = read_weights(tmp_path / "s.safetensors") | tensors
    state = {name: value for name, value in state.items() if value is not None}
    save_file(state, tmp_path / "s.safetensors", metadata=header)
    again = torch.optim.AdamW(model.parameters())
    with pytest.raises(InputError, match=r"s\.safetensors (is the state after|does not hold) .*; take a new run dir"):
        restore_state(tmp_path / "s.safetensors", {"model": model}, again, 5)
    assert not again.state


@pytest.mark.parametrize("name", ["ema.weight", "more"])
def test_a_state_with_more_than_this_training_has_is_refused(tmp_path, name):
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    steps(model, optimiser, 3, seed=0)
    save_state(tmp_path / "s.safetensors", {"model": model}, optimiser, step=3)
    save_file(load_file(tmp_path / "s.safetensors") | {name: torch.zeros(1)}, tmp_path / "s.safetensors", {"step": "3"})
    part = name.partition(".")[0]
    with pytest.raises(InputError, match=rf"s\.safetensors is of another training: it holds {part}; take a new run"):
        restore_state(tmp_path / "s.safetensors", {"model": model}, torch.optim.AdamW(model.parameters()), 5)


@pytest.mark.parametrize("last", [0, 2])
def test_a_state_after_the_last_step_is_refused(tmp_path, last):
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    steps(model, optimiser, 3, seed=0)
    save_state(tmp_path / "s.safetensors", {"model": model}, optimiser, step=3)
    with pytest.raises(InputError, match=f"is the state after step 3: expected one from 1 to {last}; take a new run"):
        restore_state(tmp_path / "s.safetensors", {"model": model}, torch.optim.AdamW(model.parameters()), last)

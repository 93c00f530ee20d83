"""Weights on disk: written whole, described in the header, and read strictly.

Everything of our own is a safetensors file whose header may hold facts as JSON.  What other projects publish (a state
dict saved by torch) is read with ``weights_only=True``: no file can run code.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsfp_helpers.common.configs import plain
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import atomic_path, existing_file


def save_weights(path: str | Path, weights: Mapping[str, Tensor], **about: object) -> None:
    """Write tensors as safetensors, atomically, with ``about`` (JSON values) in the header."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    with atomic_path(path) as part:
        try:
            save_file(tensors, part, metadata={key: json.dumps(plain(value)) for key, value in about.items()})
        except SafetensorError as error:  # of a full disk as well
            raise OSError(str(error)) from error


def save_halved(path: str | Path, network: nn.Module, facts: Mapping[str, object]) -> None:
    """Write a trained network, its kernels and matrices at half precision, with ``facts`` in the header.

    Raises:
        InputError: A weight is not finite, or would not be at half precision.
    """
    # What has one number a channel and the statistics of batch norms may exceed 65,504, and take no room.
    halved = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    weights = {name: value.half() if name in halved else value for name, value in network.state_dict().items()}
    wrong = next((name for name, value in weights.items() if not value.isfinite().all()), None)
    if wrong is not None:
        raise InputError(
            f"{path} was not written: {wrong} has values that are not finite at half precision (infinite, or beyond "
            f"65,504); did the training diverge?"
        )
    save_weights(path, weights, wsfp=facts)


def read_weights(path: str | Path, what: str = "weights", advice: str = "write or download it again") -> dict:
    """Tensors by name of a safetensors file, or of a state dict that torch saved.

    Args:
        path: The file; a state dict may lie below a key ``"state_dict"`` or ``"model"``.
        what: What it should be, for the sentence of an error.
        advice: What to do when it cannot be read.

    Raises:
        InputError: There is no such file, it is truncated or of another format, or a value is infinite or no number.
    """
    path = existing_file(path, what)
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            content = content.get("state_dict", content.get("model", content))
            weights = {name.removeprefix("module."): v for name, v in content.items() if torch.is_tensor(v)}
    except Exception as error:  # torch fails in many ways on a damaged file: IndexError, struct.error, AssertionError
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be read as {what} ({why}): it is truncated or of another format; {advice}"
        ) from error
    _check_finite(weights, path, advice)
    return weights


def _check_finite(weights: Mapping[str, Tensor], path: object, advice: str) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not value.float().isfinite().all():
            raise InputError(f"{path} has values in {name} that are infinite or no numbers: {advice}")


def read_about(path: str | Path, what: str = "weights") -> dict:
    """What the header of a safetensors file of ours says: the ``about`` or ``facts`` that were written with it.

    Raises:
        InputError: There is no such file, it is truncated, or its header is not ours.
    """
    path = existing_file(path, what)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
        about = {key: json.loads(value) for key, value in header.items() if key != "format"}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as {what} ({error}): it is truncated or of another format; write it again"
        ) from error
    return about.get("wsfp", about)


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], path: object, advice: str) -> None:
    """Give ``model`` the ``weights``, all of them and no others, at the model's own precision.

    Args:
        model: The network; its names and shapes are what is expected.
        weights: Tensors by name.
        path: Where they come from, for the sentence of an error.
        advice: What to do when they do not fit.

    Raises:
        InputError: A name, a shape or the kind of number differs, or a value is too large; the first is named.
    """
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | weights.keys()):
        there, here = (tuple(side[name].shape) if name in side else "nothing" for side in (weights, wanted))
        if there != here:
            raise InputError(f"{path} is of another network: for {name} it has {there}, expected {here}; {advice}")
        if weights[name].is_floating_point() != wanted[name].is_floating_point():
            raise InputError(
                f"{path} is of another network: {name} holds {_kind(weights[name])}, expected {_kind(wanted[name])}; "
                f"{advice}"
            )
    own = {name: value.to(wanted[name].dtype) for name, value in weights.items()}
    _check_finite(own, path, advice)
    model.load_state_dict(own)


def _kind(value: Tensor) -> str:
    return f"numbers of type {str(value.dtype).removeprefix('torch.')}"


def save_state(path: Path, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, **about: object) -> None:
    """Write all that a training needs to go on: the ``modules`` by name, the optimiser, and ``about`` as JSON."""
    state = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    memory = {
        f"optimiser.{index}.{key}": value
        for index, entry in optimiser.state_dict()["state"].items()
        for key, value in entry.items()
        if value is not None
    }
    save_weights(path, state | memory, **about, remembered=len(memory))


def restore_state(path: Path, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, steps: int) -> dict:
    """Put back what :func:`save_state` wrote after 1 to ``steps`` steps; returns its ``about``, ``step`` among it.

    Raises:
        InputError: The file is damaged, of another model, does not hold what the optimiser remembers, or is of a step
            that this training does not have.
    """
    weights, advice = read_weights(path, "training state", "take a new run directory"), "take a new run directory"
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    for name, module in modules.items():
        load_strictly(module, parts.get(name, {}), path, advice)
    if more := sorted(parts.keys() - modules.keys() - {"optimiser"}):
        raise InputError(f"{path} is of another training: it holds {more[0]}; {advice}")
    step, about, memory = step_of(path), read_about(path, "training state"), parts.get("optimiser", {})
    if step > steps:
        raise InputError(f"{path} is the state after step {step}: expected one from 1 to {steps}; {advice}")
    every = _remembered_shapes(optimiser)
    complete = len(memory) == about.pop("remembered", len(every))
    if not complete or not _is_memory(memory, every, step, bool(about.get("scaler"))):
        raise InputError(f"{path} does not hold what the optimiser remembers after step {step}; {advice}")
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in memory.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
    return about


def step_of(path: Path) -> int:
    """The step after which :func:`save_state` wrote a file; raises :class:`InputError` where it does not say."""
    about = read_about(path, "training state")
    step = about.get("step") if isinstance(about, dict) else None
    if type(step) is not int or step < 1:
        raise InputError(
            f"{path} is the state after step {step}: expected a number from 1 on; take a new run directory"
        )
    return step


def _is_memory(memory: Mapping[str, Tensor], every: Mapping[str, tuple[int, ...]], step: int, scaled: bool) -> bool:
    """Whether an optimiser may remember this after ``step`` steps, of all or some parameters."""
    known = {name.partition(".")[0] for name in memory}  # a parameter that no loss has reached yet is not remembered
    wanted = {name: shape for name, shape in every.items() if name.partition(".")[0] in known}
    if {name: tuple(value.shape) for name, value in memory.items()} != wanted:
        return False
    if not all(value.is_floating_point() for value in memory.values()):
        return False
    if any((value < 0).any() for name, value in memory.items() if name.endswith((".exp_avg_sq", ".step"))):
        return False
    counts = [value.item() for name, value in memory.items() if name.endswith(".step")]
    # The scaler of half precision leaves steps out, which the optimiser does not count.
    return not counts or max(counts) == step or (scaled and max(counts) < step)


def _remembered_shapes(optimiser: torch.optim.Optimizer) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what AdamW, or SGD with or without momentum, remembers of its parameters."""
    keys = ["exp_avg", "exp_avg_sq", "step"] if "betas" in optimiser.defaults else []
    keys += ["momentum_buffer"] if optimiser.defaults.get("momentum") else []
    parameters = [each for group in optimiser.param_groups for each in group["params"]]
    return {
        f"{index}.{key}": () if key == "step" else tuple(parameter.shape)
        for index, parameter in enumerate(parameters)
        for key in keys
    }


def fingerprint(model: nn.Module) -> str:
    """Twelve hexadecimal digits that change with the weights, so that results of another model are not reused."""
    digest = hashlib.sha256()
    for weight in model.state_dict().values():
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]

"""Training any network that gives one score a class and pixel: loss, schedule, the loop, checkpoints."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from wsfp_helpers.accelerator import new_accelerator
from wsfp_helpers.labels import CELEBAMASK, IGNORE
from wsfp_helpers.runs import append_metrics
from wsfp_helpers.storage import InputError, atomic_path, existing

Batch = tuple[tuple[Tensor, ...], Tensor]
"""Inputs of the network and the target ``(B, H, W)`` int64 with 255 for pixels that are left out."""


@dataclass(frozen=True)
class FitConfig:
    """How a segmentation network is trained.  ``sgd`` (momentum 0.9) as the paper, or ``adamw``."""

    steps: int
    batch: int
    lr: float
    optimiser: str = "sgd"
    weight_decay: float = 5e-4
    head_factor: float = 1.0
    """The parameters that the network lists in ``head_parameters()`` learn this many times faster."""
    power: float = 0.9
    warmup: int = 0
    dice: float = 0.0
    save_every: int = 200


def poly(step: int, steps: int, power: float = 0.9, warmup: int = 0) -> float:
    """Factor of the learning rate: (1 - step / steps) ** power, after a linear warm-up of ``warmup`` steps."""
    return min(1.0, (step + 1) / (warmup + 1)) * (1 - step / steps) ** power


def segmentation_loss(scores: Tensor, target: Tensor, weight: Tensor | None = None, dice: float = 0.0) -> Tensor:
    """Cross-entropy plus ``dice`` times the soft Dice loss of the classes that the target has; 255 is left out.

    ``scores`` ``(B, C, h, w)`` are enlarged to the target ``(B, H, W)`` int64; ``weight`` ``(C,)``.  A batch in which
    every pixel is 255 gives 0.
    """
    if scores.shape[-2:] != target.shape[-2:]:
        scores = F.interpolate(scores, target.shape[-2:], mode="bilinear", align_corners=False)
    valid = target != IGNORE
    if not valid.any():
        return scores.sum() * 0
    loss = F.cross_entropy(scores, target, weight, ignore_index=IGNORE)
    if not dice:
        return loss
    truth = F.one_hot(target.masked_fill(~valid, 0), scores.shape[1]).movedim(-1, 1) * valid[:, None]
    probability = scores.softmax(1) * valid[:, None]
    overlap, total = (probability * truth).sum((0, 2, 3)), (probability + truth).sum((0, 2, 3))
    present = truth.sum((0, 2, 3)) > 0
    return loss + dice * (1 - 2 * overlap / (total + 1))[present].mean()


def class_weights(targets: Iterable[np.ndarray], power: float, classes: int = len(CELEBAMASK)) -> Tensor:
    """``(C,)`` float32: frequency in ``targets`` (255 left out) to the power ``-power``; mean 1 over their pixels.

    A class that no target has weighs 0.
    """
    counts = sum(np.bincount(target.ravel(), minlength=256)[:classes] for target in targets)
    share = counts / counts.sum()
    weights = np.where(counts > 0, np.maximum(share, 1e-5) ** -power, 0)
    return torch.from_numpy(weights / (weights * share).sum()).float()


def fit(
    network: nn.Module,
    batch_at: Callable[[int], Batch],
    config: FitConfig,
    *,
    weight: Tensor | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    desc: str = "training",
) -> list[float]:
    """Train ``network`` in place and return the loss of every step; ``batch_at(step)`` must depend on the step only.

    With ``folder`` every step is a line of its ``metrics.jsonl``, and the state is kept there every
    ``config.save_every`` steps and at the end: an interrupted training goes on from it to the same result, and a
    finished one ends at once, until the caller has saved its result and calls :func:`remove_state`.  Raises
    :class:`InputError` when the loss is no longer a number or the state is not of this network.
    """
    accelerator = new_accelerator("no")
    parameters = _groups(network, config)
    if config.optimiser == "adamw":
        optimiser = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)
    else:
        optimiser = torch.optim.SGD(parameters, config.lr, momentum=0.9, weight_decay=config.weight_decay)
    state = _state(folder) if folder is not None else None
    if state is not None:
        state.parent.mkdir(parents=True, exist_ok=True)
    losses = _resume(state, network, optimiser) if state is not None and state.exists() else []
    network, optimiser = accelerator.prepare(network, optimiser)
    weight = weight.to(accelerator.device) if weight is not None else None
    rates = [group["lr"] * group["factor"] for group in parameters]
    network.train()
    bar = tqdm(range(len(losses), config.steps), desc=desc, initial=len(losses), total=config.steps, leave=False)
    for step in bar:
        torch.manual_seed((seed << 24) + step)
        factor = poly(step, config.steps, config.power, config.warmup)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        inputs, target = batch_at(step)
        scores = network(*(value.to(accelerator.device) for value in inputs))
        loss = segmentation_loss(scores, target.to(accelerator.device), weight, config.dice)
        optimiser.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise InputError(f"the loss is {losses[-1]} at step {step}: lower the learning rate (now {config.lr})")
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
        if state is not None:
            append_metrics(folder, {"step": step + 1, "lr": rates[0] * factor, "loss": losses[-1]})
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                _save_state(state, accelerator.unwrap_model(network), optimiser, losses)
    network.eval()
    return losses


def remove_state(folder: str | Path) -> None:
    """Remove the state that :func:`fit` keeps in ``folder``: for the caller, when the result is on disk."""
    _state(folder).unlink(missing_ok=True)


def _state(folder: str | Path) -> Path:
    return Path(folder) / "state.pt"


def _groups(network: nn.Module, config: FitConfig) -> list[dict]:
    head = {id(p) for p in network.head_parameters()} if config.head_factor != 1 else set()
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in head], "lr": config.lr, "factor": 1.0},
        {"params": [p for p in trained if id(p) in head], "lr": config.lr, "factor": config.head_factor},
    ]
    return [group for group in groups if group["params"]]


def _save_state(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, losses: list[float]) -> None:
    with atomic_path(path) as part:
        torch.save({"network": network.state_dict(), "optimiser": optimiser.state_dict(), "losses": losses}, part)


def _resume(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> list[float]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        return list(state["losses"])
    except Exception as error:
        raise InputError(f"{path} is not a state of this training ({error}): remove it to start again") from error


def save_network(path: str | Path, network: nn.Module, facts: dict) -> None:
    """Write the weights as safetensors, kernels and matrices at half precision, with ``facts`` (JSON) in the header.

    Atomic.  Raises :class:`InputError` naming the first weight that is not finite, or not at half precision.
    """
    # What has one number a channel and the statistics of batch norms may exceed 65,504, and take no room.
    halved = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    weights = {}
    for name, value in network.state_dict().items():
        value = value.detach().cpu().contiguous()
        weights[name] = value.half() if name in halved else value
        if not weights[name].isfinite().all():
            raise InputError(
                f"{path} was not written: {name} has values that are not finite at half precision (infinite, or beyond "
                f"65,504); did the training diverge?"
            )
    with atomic_path(path) as part:
        save_file(weights, part, {"wsfp": json.dumps(facts)})


def read_facts(path: str | Path) -> dict:
    """The ``facts`` of a file from :func:`save_network`; raises :class:`InputError` when there are none."""
    path = existing(path, "checkpoint")
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["wsfp"])
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}): it is truncated; write it again") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a checkpoint of wsfp (its header says nothing of it): train one") from error


def load_weights(path: str | Path, network: nn.Module) -> None:
    """Load a file from :func:`save_network` into ``network``, every weight with its name and shape."""
    wanted = network.state_dict()
    try:
        with safe_open(existing(path, "checkpoint"), "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}): it is truncated; write it again") from error
    for name in sorted(wanted.keys() | found.keys()):
        here, there = (tuple(side[name].shape) if name in side else "nothing" for side in (wanted, found))
        if here != there:
            raise InputError(
                f"{path} is a checkpoint of another network: for {name} it has {there}, expected {here}; "
                f"load it with the network that it was trained with"
            )
    network.load_state_dict({name: value.to(wanted[name].dtype) for name, value in found.items()})

"""Training: a loop that survives a kill, and for networks that give one score a class and pixel, the loss."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import reduce
from torch import Tensor, nn
from tqdm.auto import tqdm

from wsfp_helpers.common.accelerator import new_accelerator, processes
from wsfp_helpers.common.checkpoints import restore_state, save_state
from wsfp_helpers.common.configs import check_range
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.runs import append_metrics, read_metrics
from wsfp_helpers.labels import CELEBAMASK, IGNORE

Batch = tuple[tuple[Tensor, ...], Tensor]
"""Inputs of the network and the target ``(B, H, W)`` int64 with 255 for pixels that are left out."""


@dataclass(frozen=True)
class FitConfig:
    """How a segmentation network is trained."""

    steps: int
    """Optimiser steps."""
    batch: int
    """Pictures of a step."""
    lr: float
    """Learning rate after the warm-up."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """``sgd`` (momentum 0.9) as the paper's parser, or ``adamw``."""
    weight_decay: float = 5e-4
    """The optimiser's."""
    head_factor: float = 1.0
    """The parameters that the network lists in ``head_parameters()`` learn this many times faster."""
    power: float = 0.9
    """Of the polynomial decay of the learning rate."""
    warmup: int = 0
    """Steps of the linear warm-up."""
    dice: float = 0.0
    """Weight of the soft Dice loss beside the cross-entropy."""
    save_every: int = 200
    """Steps between two saved states."""

    def __post_init__(self) -> None:
        check_range(
            self, steps=(1, 10**8), batch=(1, 10**5), lr=(0, 1000), weight_decay=(0, 10), head_factor=(0, 1000),
            power=(0, 10), warmup=(0, 10**8), dice=(0, 1000), save_every=(1, 10**8),
        )  # fmt: skip


def poly(step: int, steps: int, power: float = 0.9, warmup: int = 0) -> float:
    """Factor of the learning rate: (1 - step / steps) ** power, after a linear warm-up of ``warmup`` steps."""
    return min(1.0, (step + 1) / (warmup + 1)) * (1 - step / steps) ** power


def segmentation_loss(scores: Tensor, target: Tensor, weight: Tensor | None = None, dice: float = 0.0) -> Tensor:
    """Cross-entropy plus ``dice`` times the soft Dice loss of the classes that the target has; 255 is left out.

    Args:
        scores: ``(B, C, h, w)``, enlarged to the target.
        target: ``(B, H, W)`` int64; where every pixel is 255 the loss is 0.
        weight: ``(C,)``, of the classes in the cross-entropy.
        dice: Weight of the Dice loss.
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
    counts = np.sum([np.bincount(target.ravel(), minlength=256)[:classes] for target in targets], 0)
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
    precision: str = "no",
) -> list[float]:
    """Train ``network`` in place to give the target of each pixel; see :func:`optimise`.

    Args:
        network: From inputs to class scores ``(B, C, h, w)``.
        batch_at: Gives the batch of a step, or this process's share of it; it must depend on the step only.
        config: The settings.
        weight: ``(C,)``, of the classes in the cross-entropy.
        seed: Of what is random in the network.
        folder: Run directory.
        desc: Words of the progress bar.
        precision: accelerate's mixed precision.

    Returns:
        The loss of every step.
    """

    def loss_at(wrapped: nn.Module, step: int) -> Tensor:
        where = next(wrapped.parameters()).device
        inputs, target = batch_at(step)
        target = target.to(where)
        scores = wrapped(*(value.to(where) for value in inputs))
        loss = segmentation_loss(scores, target, None if weight is None else weight.to(where), config.dice)
        return loss * _share_of_pixels(target)

    return optimise(network, loss_at, config, seed=seed, folder=folder, desc=desc, precision=precision)


def _share_of_pixels(target: Tensor) -> float | Tensor:
    """Weight with which the mean over processes of a mean over pixels is that over the pixels of all; 1 for one."""
    count = processes().num_processes
    if count == 1:
        return 1.0
    own = (target != IGNORE).sum().float()
    return own / reduce(own.clone(), "mean").clamp(min=1 / count)


def optimise(
    network: nn.Module,
    loss_at: Callable[[nn.Module, int], Tensor],
    config: FitConfig,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    desc: str = "training",
    after_step: Callable[[int], None] = lambda step: None,
    precision: str = "no",
) -> list[float]:
    """Minimise the loss of each step by the parameters of ``network`` that require a gradient.

    Of several processes (``accelerate launch``) each gives its own loss, gradients are averaged, and one writes.

    With ``folder`` every step is a line of its ``metrics.jsonl``, and the state is kept there every
    ``config.save_every`` steps and at the end: an interrupted training goes on from it to the same result, and a
    finished one ends at once, until the caller has saved its result and calls :func:`remove_state`.

    Args:
        network: Trained in place; what a training has to remember beside weights is a buffer of it.
        loss_at: Gives the loss of a step from the network, as accelerate wrapped it, and the step.
        config: The settings; ``batch`` and ``dice`` are not read here.
        seed: The generators start from it and the step, at every step.
        folder: Run directory.
        desc: Words of the progress bar.
        after_step: Called with the step when the weights have changed, for a moving average of them.
        precision: accelerate's mixed precision.

    Returns:
        The loss of every step, the mean over the processes.

    Raises:
        InputError: The loss is no longer a number, or the state is not of this network.
    """
    accelerator, parameters = new_accelerator(precision), _parameter_groups(network, config)
    optimiser: torch.optim.Optimizer
    if config.optimiser == "adamw":
        optimiser = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)
    else:
        optimiser = torch.optim.SGD(parameters, config.lr, momentum=0.9, weight_decay=config.weight_decay)
    losses = [] if folder is None else _resume(Path(folder), network, optimiser, config.steps)
    wrapped, optimiser = accelerator.prepare(network, optimiser)
    rates = [group["lr"] * group["factor"] for group in parameters]
    wrapped.train()
    steps, quiet = range(len(losses), config.steps), not accelerator.is_main_process
    bar = tqdm(steps, desc=desc, initial=len(losses), total=config.steps, leave=False, disable=quiet)
    for step in bar:
        torch.manual_seed((seed << 24) + step)
        factor = poly(step, config.steps, config.power, config.warmup)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        loss = loss_at(wrapped, step)
        optimiser.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(wrapped.parameters(), 5.0)
        optimiser.step()
        after_step(step)
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
        if not np.isfinite(losses[-1]):
            raise InputError(f"the loss is {losses[-1]} at step {step}: lower the learning rate (now {config.lr})")
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
        if folder is not None and accelerator.is_main_process:
            append_metrics(folder, {"step": step + 1, "lr": rates[0] * factor, "loss": losses[-1]})
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                save_state(_state(folder), {"network": network}, optimiser, step=step + 1)
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # from here on it is float32 again
    network.eval()
    return losses


def remove_state(folder: str | Path) -> None:
    """Remove the state that :func:`fit` keeps in ``folder``: for the caller, when the result is on disk."""
    _state(folder).unlink(missing_ok=True)


def _state(folder: str | Path) -> Path:
    return Path(folder) / "state.safetensors"


def _resume(folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> list[float]:
    """Losses of the steps that were done before, with network and optimiser as they were after them."""
    folder.mkdir(parents=True, exist_ok=True)
    if (old := folder / "state.pt").exists():
        raise InputError(f"{old} is the state of a training with an older version: remove {folder} to start again")
    if not _state(folder).exists():
        return []
    done = restore_state(_state(folder), {"network": network}, optimiser, steps)["step"]
    rows = read_metrics(folder)[:done]
    if [row.get("step") for row in rows] != [*range(1, done + 1)] or not all("loss" in row for row in rows):
        raise InputError(f"{folder} has a state after step {done} without the metrics of these steps: remove {folder}")
    return [row["loss"] for row in rows]


def _parameter_groups(network: Any, config: FitConfig) -> list[dict]:
    head = {id(p) for p in network.head_parameters()} if config.head_factor != 1 else set()
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in head], "lr": config.lr, "factor": 1.0},
        {"params": [p for p in trained if id(p) in head], "lr": config.lr, "factor": config.head_factor},
    ]
    return [group for group in groups if group["params"]]

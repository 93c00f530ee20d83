"""Training the class-token ViT: MCTformer+ with or without CCD's pictures and TCD's losses (paper 3.2-3.4).

It is given ``WeakFaces``: pictures and image-level labels, and no way to a label map.  Everything random is a pure
function of (seed, step), or in an augmentation of (seed, epoch, picture): a run that was killed goes on bit for bit
where its last checkpoint was, and nothing random depends on the number of processes or workers.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from timm.layers import DropPath, drop_path
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from wsfp_helpers.common.accelerator import new_accelerator, own_share
from wsfp_helpers.common.checkpoints import (
    load_strictly,
    read_weights,
    restore_state,
    save_state,
    save_weights,
    step_of,
)
from wsfp_helpers.common.configs import LAST_SEED, check_range
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import IMAGENET_MEAN, IMAGENET_STD, flip_image, normalise, resize, to_tensor
from wsfp_helpers.common.runs import append_metrics
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import PROMPTS, Scheme
from wsfp_helpers.method.tcd import Objective, TcdConfig
from wsfp_helpers.method.vit import ClassTokenOutput, MultiClassTokenViT, Projector, vit_inputs
from wsfp_helpers.nets.vlm import VisionLanguageModel

CHECKPOINT, MODEL = "checkpoint.safetensors", "model.safetensors"
"""Files of a run directory: the state to go on from, and the trained weights at the end."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    epochs: int = 45
    """Passes over the training set."""
    batch_size: int = 36
    """Pictures of a batch, over all processes together."""
    lr: float = 5e-6
    """Highest learning rate."""
    lr_scaling: Literal["none", "linear512"] = "none"
    """``"linear512"`` multiplies ``lr`` by the pictures of a step / 512, as in MCTformer+."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup_lr: float = 1e-6
    """Learning rate at the start of the linear warm-up."""
    warmup_epochs: float = 5
    """Epochs of the warm-up."""
    backbone_lr: float = 1.0
    """Factor on the learning rate of all but the patch head and the projector (1 in MCTformer+)."""
    weight_decay: float = 0.05
    """AdamW's, on matrices and kernels only."""
    seed: int = 0
    """Of everything random."""
    tcd: TcdConfig | None = field(default_factory=TcdConfig)
    """The text-guided losses; ``None`` is the baseline, MCTformer+."""
    keep_base_losses: bool = True
    """Whether the losses of MCTformer+ stay beside TCD's (docs/design.md, 9.1)."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """accelerate's mixed precision."""
    accumulate: int = 1
    """Batches that make an optimiser step."""
    clip: float = 0.0
    """Largest norm of the gradient (0: off)."""
    ema: float = 0.0
    """Decay of the moving average of the weights (0: off)."""
    augmentation: Literal["none", "jitter", "mctformer"] = "none"
    """Acts on pictures only, never on cached features."""
    workers: int = 0
    """Processes that load pictures."""
    save_every: int = 200
    """Optimiser steps between two checkpoints."""

    def __post_init__(self) -> None:
        check_range(
            self, epochs=(0, 10**5), batch_size=(1, 10**5), lr=(0, 10), min_lr=(0, 10), warmup_lr=(0, 10),
            warmup_epochs=(0, 10**5), backbone_lr=(0, 1000), weight_decay=(0, 10), seed=(0, LAST_SEED),
            accumulate=(1, 10**4), clip=(0, 10**6), ema=(0, 1), workers=(0, 256), save_every=(1, 10**8),
        )  # fmt: skip

    def learning_rate(self, epoch: float) -> float:
        """Learning rate at a fractional epoch: linear warm-up, then a cosine to ``min_lr``."""
        scale = self.batch_size * self.accumulate / 512 if self.lr_scaling == "linear512" else 1.0
        if epoch < self.warmup_epochs:
            return self.warmup_lr + (self.lr * scale - self.warmup_lr) * epoch / self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1)
        return self.min_lr + (self.lr * scale - self.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def preset(name: str) -> TrainConfig:
    """``paper`` (4.1.2), ``mctformer`` (the run script of MCTformer+) or ``embedded`` (docs/design.md, 9.8)."""
    presets = {
        "paper": TrainConfig(augmentation="jitter", precision="bf16", workers=8),
        "mctformer": TrainConfig(
            lr=5e-4, lr_scaling="linear512", min_lr=1e-5, batch_size=32, tcd=None, augmentation="mctformer", workers=8
        ),
        "embedded": TrainConfig(
            epochs=2, batch_size=8, lr=2e-3, min_lr=1e-5, warmup_lr=1e-5, warmup_epochs=0.3, backbone_lr=0.1,
            tcd=TcdConfig(max_classes_per_image=8),
        ),
    }  # fmt: skip
    if name not in presets:
        raise InputError(f"unknown training preset {name!r}: expected one of {', '.join(presets)}")
    return presets[name]


class DisFaceRep(nn.Module):
    """Fig. 2: the trained part of the framework, the class-token ViT and, for TCD, the projector."""

    def __init__(self, vit: MultiClassTokenViT, projector: Projector | None = None) -> None:
        super().__init__()
        self.vit, self.projector = vit, projector

    def forward(self, inputs: Tensor) -> tuple[ClassTokenOutput, Tensor | None]:
        """The ViT's output and ``v_cls`` ``(B, K, D)`` of Eq. 3 (``None`` without a projector)."""
        output = self.vit(inputs)
        return output, self.projector(output.class_tokens[-1]) if self.projector is not None else None


class TrainingSet(Dataset):
    """What a training step needs of each picture: ViT input, picture for the image-text model in [0, 1], labels (K,).

    An item is asked for by its epoch and index, on which and on ``seed`` its augmentation depends, and on nothing else.
    Trunk features are read once into memory (0.3 MB a picture); pictures are read when they are needed.
    """

    def __init__(
        self, faces: WeakFaces, vit: MultiClassTokenViT, picture_size: int, augmentation: str = "none", seed: int = 0
    ) -> None:
        self.faces, self.size, self.picture_size, self.seed = faces, vit.size, picture_size, seed
        self.features = None
        if vit.frozen_blocks:
            self.features = vit_inputs(vit, _Pictures(faces))
            self.small = torch.empty((len(faces), 3, picture_size, picture_size), dtype=torch.uint8)
            for i in range(len(faces)):
                self.small[i] = self._small(to_tensor([faces.image(i)]))
        else:
            self.augment = make_augmentation(augmentation, vit.size, faces.scheme)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = place
        labels = self.faces.labels[index]
        if self.features is not None:
            inputs, small = self.features[index].float(), self.small[index]
        else:
            with _seeded(_mix(self.seed, epoch, index)):
                picture, labels = self.augment(self.faces.image(index), labels)
            inputs, small = normalise(resize(picture, (self.size, self.size)))[0], self._small(picture)
        return {"input": inputs, "picture": small / 255, "labels": torch.from_numpy(labels.astype(np.float32))}

    def _small(self, picture: Tensor) -> Tensor:
        small = resize(picture, (self.picture_size, self.picture_size))[0]
        return (small.clamp(0, 1) * 255).round().to(torch.uint8)


class _Pictures:
    """The pictures of a set, read one at a time."""

    def __init__(self, faces: WeakFaces) -> None:
        self.faces = faces

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.faces.image(range(len(self))[index])  # past the end it raises IndexError, which ends a loop


class Trainer:
    """Trains on pictures and image-level labels; made again with the same run directory it goes on.

    Args:
        vit: The network with its first values; it is trained in place.
        faces: The training set, or a function from the epoch to it, for masks that are drawn anew (CCD online).
        config: The settings.
        run: Run directory for ``metrics.jsonl``, ``checkpoint.safetensors`` and at the end ``model.safetensors``.
        vlm: The image-text model, which TCD needs.

    Raises:
        InputError: TCD without ``vlm``, a batch size that does not fit, or a checkpoint of another model.
    """

    def __init__(
        self,
        vit: MultiClassTokenViT,
        faces: WeakFaces | Callable[[int], WeakFaces],
        config: TrainConfig,
        run: Path | None = None,
        vlm: VisionLanguageModel | None = None,
    ) -> None:
        if config.tcd is not None and vlm is None:
            raise InputError("TCD needs a vision-language model: pass vlm=, or tcd=None for the baseline")
        self.config, self.run, self.faces = config, run, faces
        self.accelerator = new_accelerator(config.precision, config.accumulate)
        torch.manual_seed(config.seed)
        projector = None
        if config.tcd is not None and vlm is not None:
            vlm.to(self.accelerator.device)
            projector = Projector(vit.cls_token.shape[-1], out=vlm.text(PROMPTS).shape[-1])
        self.model = DisFaceRep(vit, projector)
        optimiser = torch.optim.AdamW(_parameter_groups(self.model, config), lr=config.learning_rate(0))
        self.modules: dict[str, nn.Module] = {"model": self.model}
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
        if self.ema is not None:
            self.modules["ema"] = self.ema
        self.wrapped, self.optimiser = self.accelerator.prepare(self.model, optimiser)
        self.share = own_share(config.batch_size)
        whole = (config.batch_size, self.share) if self.accelerator.num_processes > 1 else None
        self.objective = Objective(config.tcd, vlm, config.keep_base_losses, self.accelerator.autocast, whole)
        if whole is not None:
            _draw_for_all(vit, *whole)
        self.picture_size = vlm.size if vlm is not None else 8
        self.steps_per_epoch = self._count_steps()
        self.done = self._restore()

    def step(self, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """One optimiser step on its micro-batches; returns every term, averaged over them and over the processes.

        A micro-batch is this process's share of ``config.batch_size`` pictures; shares may differ in size.

        Raises:
            ValueError: They are not as many as ``config.accumulate``.
        """
        if len(batches) != self.config.accumulate:
            raise ValueError(f"{len(batches)} batches for a step: expected {self.config.accumulate}, config.accumulate")
        accelerator, logged = self.accelerator, []
        for number, batch in enumerate(batches):
            torch.manual_seed(_mix(self.config.seed, self.done, number, 0))  # in all processes: they draw for all
            with accelerator.accumulate(self.wrapped):
                with accelerator.autocast():
                    output, v_cls = self.wrapped(batch["input"])
                loss, terms = self.objective(output, v_cls, batch["picture"], batch["labels"])
                if v_cls is not None and accelerator.num_processes > 1:
                    loss = loss + 0 * v_cls.sum()  # processes wait for its gradient, also where Eq. 8 and 11 weigh 0
                # Every loss is a mean over pictures, and gradients are averaged over processes: with this weight a
                # picture counts the same wherever it is.
                weight = len(batch["labels"]) * accelerator.num_processes / self.config.batch_size
                accelerator.backward(loss * weight)
                if self.config.clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.wrapped.parameters(), self.config.clip)
                self.optimiser.step()
                self.optimiser.zero_grad()
            logged.append(torch.stack(list(terms.values())).detach().float() * weight)
        return dict(zip(terms, accelerator.reduce(torch.stack(logged).mean(0), "mean").tolist(), strict=True))

    def fit(self, on_step: Callable[[int, Mapping[str, float]], None] | None = None) -> DisFaceRep:
        """Train to the end; returns the model, or its moving average, in eval mode.

        ``on_step(step, row)`` is called after each optimiser step with what ``metrics.jsonl`` says of it.
        """
        self.wrapped.train()
        last, main = self.config.epochs * self.steps_per_epoch, self.accelerator.is_main_process
        bar = tqdm(total=last, initial=self.done, desc="training", unit="step", disable=not main)
        for epoch, batches in self._batches():
            rate = self.config.learning_rate(self.done / self.steps_per_epoch)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            terms = self.step(batches)
            if not math.isfinite(terms["loss"]):
                raise InputError(
                    f"the loss is {terms['loss']} at step {self.done}: lower the learning rate or precision"
                )
            self.done += 1
            if self.ema is not None:
                self.ema.update_parameters(self.model)
            row = {"step": self.done, "epoch": epoch, "lr": rate, **terms}
            bar.set_postfix({name: f"{value:.3g}" for name, value in list(terms.items())[:5]}, refresh=False)
            bar.update()
            if main and self.run is not None:
                self._log(self.run, row, last)
            if on_step is not None:
                on_step(self.done, row)
        bar.close()
        if self.ema is not None:
            self.model.load_state_dict(self.ema.module.state_dict())
        if main and self.run is not None:
            save_weights(self.run / MODEL, self.model.state_dict())
        return self.model.eval()

    def _log(self, run: Path, row: Mapping[str, float], last: int) -> None:
        append_metrics(run, row)
        if self.done % self.config.save_every == 0 or self.done == last:
            scaler = self.accelerator.scaler
            about = {"step": self.done, "scaler": scaler.state_dict() if scaler else None}
            save_state(run / CHECKPOINT, self.modules, self.optimiser, **about)

    def _restore(self) -> int:
        """Go on from the checkpoint of the run directory, if there is one; returns the number of steps done."""
        if self.run is None:
            return 0
        self.run.mkdir(parents=True, exist_ok=True)
        if not (self.run / CHECKPOINT).exists():
            return 0
        steps = self.config.epochs * self.steps_per_epoch
        about = restore_state(self.run / CHECKPOINT, self.modules, self.optimiser, steps)
        if self.accelerator.scaler is not None and about.get("scaler"):
            self.accelerator.scaler.load_state_dict(about["scaler"])
        return about["step"]

    def _data(self, epoch: int) -> WeakFaces:
        return self.faces(epoch) if callable(self.faces) else self.faces

    def _count_steps(self) -> int:
        count, size, world = len(self._data(0)), self.config.batch_size, self.accelerator.num_processes
        steps = count // (size * self.config.accumulate)
        if not steps or size < world:
            raise InputError(
                f"{count} pictures and batch size {size} on {world} processes: expected at least one full batch, and a "
                f"picture of it for every process; change train.batch_size or the number of processes"
            )
        return steps

    def _batches(self) -> Iterator[tuple[int, list[dict[str, Tensor]]]]:
        """Epoch and micro-batches of every optimiser step that is left, each batch this process's share."""
        config, accelerator, data, size = self.config, self.accelerator, None, self.config.batch_size
        for epoch in range(self.done // self.steps_per_epoch, config.epochs):
            if data is None or callable(self.faces):
                data = TrainingSet(
                    self._data(epoch), self.model.vit, self.picture_size, config.augmentation, config.seed
                )
            order = torch.randperm(len(data), generator=torch.Generator().manual_seed(_mix(config.seed, epoch)))
            first, last = self.done % self.steps_per_epoch * config.accumulate, self.steps_per_epoch * config.accumulate
            batches = (order[i * size : (i + 1) * size][self.share].tolist() for i in range(first, last))
            places = ([(epoch, index) for index in batch] for batch in batches)
            pin = accelerator.device.type == "cuda"
            group: list[dict[str, Tensor]] = []
            for batch in DataLoader(data, batch_sampler=places, num_workers=config.workers, pin_memory=pin):
                group.append({name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()})
                if len(group) == config.accumulate:
                    yield epoch, group
                    group = []


def train(
    vit: MultiClassTokenViT,
    faces: WeakFaces | Callable[[int], WeakFaces],
    config: TrainConfig,
    run: Path | None = None,
    vlm: VisionLanguageModel | None = None,
    on_step: Callable[[int, Mapping[str, float]], None] | None = None,
) -> DisFaceRep:
    """Make a :class:`Trainer` and let it train to the end; arguments as there and in :meth:`Trainer.fit`."""
    return Trainer(vit, faces, config, run, vlm).fit(on_step)


def load_model(vit: MultiClassTokenViT, path: str | Path) -> MultiClassTokenViT:
    """Fill ``vit`` from a ``model.safetensors``; raises :class:`InputError` for a truncated file or another model."""
    return load_vit(vit, read_weights(path, "weights of a trained network", "train it again"), path)


def load_vit(vit: MultiClassTokenViT, weights: Mapping[str, Tensor], path: object) -> MultiClassTokenViT:
    """Fill ``vit`` from the ``weights`` of a :class:`DisFaceRep`; ``path``, where they are from, is for an error."""
    own = {name.removeprefix("vit."): value for name, value in weights.items() if name.startswith("vit.")}
    load_strictly(vit, own, path, "it was trained with another profile: use its own")
    return vit.eval()


def newest_weights(run: Path, config: TrainConfig) -> tuple[dict[str, Tensor], int | None]:
    """Weights of :class:`DisFaceRep` in a run directory: of the end, else of the last checkpoint, and its step.

    Raises :class:`InputError` when the run of ``config`` has no checkpoint yet.
    """
    if (run / MODEL).exists():
        return read_weights(run / MODEL, "weights of a trained network", "train it again"), None
    path = run / CHECKPOINT
    if not path.exists():
        raise InputError(
            f"{run} has no checkpoint yet: one is written every {config.save_every} steps (train.save_every)"
        )
    found, start = read_weights(path, "training state", "wait for the next checkpoint"), "model."
    if config.ema:
        start = "ema.module."
    own = {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)}
    return own, step_of(path)


def make_augmentation(
    name: str, size: int, scheme: Scheme
) -> Callable[[np.ndarray, np.ndarray], tuple[Tensor, np.ndarray]]:
    """From a picture ``(H, W, 3)`` uint8 and labels ``(K,)`` to a picture ``(1, 3, h, w)`` in [0, 1] and labels.

    ``"mctformer"`` is the recipe of MCTformer+ (docs/design.md, 1.7) at ``size`` pixels, but a mirrored picture has
    its left and right labels exchanged (1.9).  The noise of an erased rectangle may leave [0, 1].  ``"jitter"`` changes
    brightness, contrast and saturation; what is black, such as a masked box, stays black.
    """
    if name == "none":
        return lambda picture, labels: (to_tensor([picture]), labels)
    if name == "jitter":
        from torchvision.transforms import ColorJitter

        jitter = ColorJitter(0.3, 0.3, 0.3)

        def lit(picture: np.ndarray, labels: np.ndarray) -> tuple[Tensor, np.ndarray]:
            # A lower contrast makes black grey, and with it the boxes that Eq. 2 has masked.
            shown = picture.any(-1, keepdims=True)
            return to_tensor([np.array(jitter(Image.fromarray(picture))) * shown]), labels

        return lit
    from timm.data import create_transform

    # Without timm's flip, which would leave the labels as they are.
    change = create_transform(
        size, is_training=True, hflip=0.0, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic",
        re_prob=0.25, re_mode="pixel",
    )  # fmt: skip
    # Magnitudes are drawn from 0 to 10.  At 10 timm leaves 0 bits, which Pillow refuses; at 9, as at 9.99, it leaves 1.
    next(op for op in change.transforms[1].ops if op.name == "PosterizeIncreasing").magnitude_max = 9
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def augment(picture: np.ndarray, labels: np.ndarray) -> tuple[Tensor, np.ndarray]:
        if random.random() < 0.5:
            picture, labels = flip_image(picture), labels[scheme.flip_components]
        return (change(Image.fromarray(picture)) * std + mean)[None], labels

    return augment


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Start all three generators that augmentations draw from at ``seed``, and put them back at the end."""
    # timm draws from the global generators of Python and NumPy and takes no other.
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the GPU's generator, too
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """No weight decay on vectors and class tokens (docs/design.md, 1.7); ``factor`` is on the learning rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = 0.0 if parameter.ndim <= 1 or name.endswith("cls_token") else config.weight_decay
        factor = 1.0 if name.startswith(("vit.patch_head.", "projector.")) else config.backbone_lr
        groups.setdefault((decay, factor), []).append(parameter)
    return [{"params": each, "weight_decay": decay, "factor": factor} for (decay, factor), each in groups.items()]


def _draw_for_all(network: nn.Module, count: int, share: slice) -> None:
    """Let stochastic depth draw for the ``count`` pictures of a batch, and keep what is of this process's ``share``."""

    def drop(module: DropPath, x: Tensor) -> Tensor:
        if not module.training:
            return x
        drawn = drop_path(x.new_ones((count, *[1] * (x.ndim - 1))), module.drop_prob, True, module.scale_by_keep)
        return x * drawn[share]

    for module in network.modules():
        if isinstance(module, DropPath):
            vars(module)["forward"] = partial(drop, module)


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])

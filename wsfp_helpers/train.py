"""The one training loop of stages 2-3: MCTformer+ with or without CCD's pictures and TCD's losses (paper 3.2-3.4).

It is given ``WeakFaces``: pictures and image-level labels, and no way to a label map.  Everything random is a pure
function of (seed, step), or in an augmentation of (seed, epoch, picture): a run that was killed goes on bit for bit
where its last checkpoint was, and order and augmentation do not depend on the number of processes or workers.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from wsfp_helpers import losses
from wsfp_helpers.accelerator import new_accelerator
from wsfp_helpers.data.base import WeakFaces
from wsfp_helpers.labels import PROMPTS, Scheme, flip_image
from wsfp_helpers.losses import TcdConfig
from wsfp_helpers.runs import append_metrics, load_weights, save_weights
from wsfp_helpers.storage import InputError
from wsfp_helpers.trunk import IMAGENET_MEAN, IMAGENET_STD, normalise, to_tensor
from wsfp_helpers.vit import ClassTokenOutput, MultiClassTokenViT, Projector
from wsfp_helpers.vlm import VisionLanguageModel

PIECE = 128
"""Renders that keep their activations at a time: FLIP-B/16 keeps 99 MiB of each, and a full-size step has about 864 of
them (docs/full_size.md).  The 128 of the embedded preset are one piece, so that nothing is computed twice there."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run.  ``tcd=None`` is the baseline, MCTformer+.

    ``batch_size`` is that of all processes together, of which ``accumulate`` make an optimiser step.
    ``lr_scaling="linear512"`` multiplies ``lr`` by the pictures of a step / 512 (the parent's way).  ``min_lr``,
    ``warmup_lr`` and ``warmup_epochs`` shape the cosine.  ``backbone_lr`` is a factor on the rate of all but the patch
    head and the projector (1 in the parent).  ``precision`` is accelerate's.  ``clip`` is a gradient norm
    (0: off), ``ema`` a decay (0: off).  ``augmentation`` acts on pictures only, never on cached features.
    ``save_every`` counts optimiser steps.
    """

    epochs: int = 45
    batch_size: int = 36
    lr: float = 5e-6
    lr_scaling: Literal["none", "linear512"] = "none"
    min_lr: float = 0.0
    warmup_lr: float = 1e-6
    warmup_epochs: float = 5
    backbone_lr: float = 1.0
    weight_decay: float = 0.05
    seed: int = 0
    tcd: TcdConfig | None = field(default_factory=TcdConfig)
    keep_base_losses: bool = True
    precision: Literal["no", "bf16", "fp16"] = "no"
    accumulate: int = 1
    clip: float = 0.0
    ema: float = 0.0
    augmentation: Literal["none", "jitter", "mctformer"] = "none"
    workers: int = 0
    save_every: int = 200

    def learning_rate(self, epoch: float) -> float:
        """Learning rate at a fractional epoch: linear warm-up, then a cosine to ``min_lr``."""
        scale = self.batch_size * self.accumulate / 512 if self.lr_scaling == "linear512" else 1.0
        if epoch < self.warmup_epochs:
            return self.warmup_lr + (self.lr * scale - self.warmup_lr) * epoch / self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1)
        return self.min_lr + (self.lr * scale - self.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def preset(name: str) -> TrainConfig:
    """``paper`` (4.1.2), ``mctformer`` (the parent's run script, without TCD) or ``embedded`` (design notes 9.8)."""
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
    """The trained part of the method: the class-token ViT and, for TCD, the projector (paper Fig. 2)."""

    def __init__(self, vit: MultiClassTokenViT, projector: Projector | None = None) -> None:
        super().__init__()
        self.vit, self.projector = vit, projector

    def forward(self, inputs: Tensor) -> tuple[ClassTokenOutput, Tensor | None]:
        """The ViT's output and ``v_cls`` ``(B, K, D)`` of Eq. 3 (``None`` without a projector)."""
        output = self.vit(inputs)
        return output, self.projector(output.class_tokens[-1]) if self.projector is not None else None


class TrainingSet(Dataset):
    """What a training step needs of each picture: ViT input, picture for the VLM in [0, 1], labels ``(K,)``.

    An item is asked for by its epoch and index, on which and on ``seed`` its augmentation depends, and on nothing else.
    Trunk features are read once into memory (0.3 MB a picture); pictures are read when they are needed.
    """

    def __init__(
        self, faces: WeakFaces, vit: MultiClassTokenViT, picture_size: int, augmentation: str = "none", seed: int = 0
    ) -> None:
        self.faces, self.size, self.picture_size, self.seed = faces, vit.size, picture_size, seed
        self.features = None
        if vit.frozen_blocks:
            self.features = vit.inputs(_Pictures(faces))
            self.small = torch.stack([self._small(to_tensor([faces.image(i)])) for i in range(len(faces))])
        else:
            self.augment = _augmentation(augmentation, vit.size, faces.scheme)

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
            inputs, small = normalise(picture, self.size)[0], self._small(picture)
        return {"input": inputs, "picture": small / 255, "labels": torch.from_numpy(labels.astype(np.float32))}

    def _small(self, picture: Tensor) -> Tensor:
        size = (self.picture_size, self.picture_size)
        small = F.interpolate(picture, size, mode="bicubic", antialias=True)[0]
        return (small.clamp(0, 1) * 255).round().to(torch.uint8)


class _Pictures:
    """The pictures of a set, one at a time."""

    def __init__(self, faces: WeakFaces) -> None:
        self.faces = faces

    def __len__(self) -> int:
        return len(self.faces)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.faces.image(i) for i in range(len(self.faces)))


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


def _augmentation(
    name: str, size: int, scheme: Scheme
) -> Callable[[np.ndarray, np.ndarray], tuple[Tensor, np.ndarray]]:
    """From a picture ``(H, W, 3)`` uint8 and labels ``(K,)`` to a picture ``(1, 3, h, w)`` in [0, 1] and labels.

    ``"mctformer"`` is the parent's recipe (design notes 1.7) at ``size`` pixels, but a mirrored picture has its left
    and right labels exchanged (1.9).  The noise of an erased rectangle may leave [0, 1].
    """
    from PIL import Image

    if name == "none":
        return lambda picture, labels: (to_tensor([picture]), labels)
    if name == "jitter":
        from torchvision.transforms import ColorJitter

        jitter = ColorJitter(0.3, 0.3, 0.3)
        return lambda picture, labels: (to_tensor([np.array(jitter(Image.fromarray(picture)))]), labels)
    from timm.data import create_transform

    # Without timm's flip, which would leave the labels as they are.
    change = create_transform(
        size, is_training=True, hflip=0.0, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic",
        re_prob=0.25, re_mode="pixel",
    )  # fmt: skip
    # Magnitudes are drawn from 0 to 10.  At 10 timm leaves 0 bits, which Pillow refuses; at 9, as at 9.99, it leaves 1.
    next(op for op in change.transforms[1].ops if op.name == "PosterizeIncreasing").magnitude_max = 9
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def recipe(picture: np.ndarray, labels: np.ndarray) -> tuple[Tensor, np.ndarray]:
        if random.random() < 0.5:
            picture, labels = flip_image(picture), labels[scheme.flip_components]
        return (change(Image.fromarray(picture)) * std + mean)[None], labels

    return recipe


def train(
    vit: MultiClassTokenViT,
    faces: WeakFaces | Callable[[int], WeakFaces],
    config: TrainConfig,
    run: Path | None = None,
    vlm: VisionLanguageModel | None = None,
    on_step: Callable[[int, Mapping[str, float]], None] | None = None,
) -> DisFaceRep:
    """Train on pictures and image-level labels; returns the trained model (its EMA when ``config.ema`` is set).

    ``faces`` may be a function of the epoch, for masks that are drawn anew (CCD online).  With ``run`` the loss terms
    go to ``metrics.jsonl`` and the state to ``checkpoint.safetensors``, from which the same call goes on; at the end
    ``model.safetensors`` is written.  ``on_step(step, terms)`` is called after each optimiser step.
    """
    if config.tcd is not None and vlm is None:
        raise InputError("TCD needs a vision-language model: pass vlm=, or tcd=None for the baseline")
    accelerator = new_accelerator(config.precision, config.accumulate)
    torch.manual_seed(config.seed)
    projector = None
    if config.tcd is not None:
        vlm.to(accelerator.device)
        text = vlm.text(PROMPTS)
        projector = Projector(vit.cls_token.shape[-1], out=text.shape[-1])
    model = DisFaceRep(vit, projector)
    optimiser = torch.optim.AdamW(_parameter_groups(model, config), lr=config.learning_rate(0))
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
    wrapped, optimiser = accelerator.prepare(model, optimiser)
    objective = Objective(config, vlm, accelerator.autocast)

    data_of = faces if callable(faces) else lambda epoch: faces
    picture_size = vlm.size if vlm is not None else 8
    count, world = len(data_of(0)), accelerator.num_processes
    steps_per_epoch = count // (config.batch_size * config.accumulate)
    if not steps_per_epoch or config.batch_size % world:
        raise InputError(
            f"{count} pictures and batch size {config.batch_size} on {world} processes: expected at least one full "
            f"batch, divisible by the number of processes; change batch_size"
        )
    main = accelerator.is_main_process
    last, step = config.epochs * steps_per_epoch, 0
    checkpoint = run / "checkpoint.safetensors" if run is not None else None
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None and checkpoint.exists():
        step = _restore(checkpoint, model, optimiser, ema, accelerator.scaler)
    wrapped.train()
    data, bar = None, tqdm(total=last, initial=step, desc="training", unit="step", disable=not main)
    for epoch in range(step // steps_per_epoch, config.epochs):
        if data is None or callable(faces):
            data = TrainingSet(data_of(epoch), vit, picture_size, config.augmentation, config.seed)
        for batches in _epoch(data, config, epoch, step - epoch * steps_per_epoch, accelerator):
            lr = config.learning_rate(step / steps_per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = lr * group["factor"]
            for number, batch in enumerate(batches):
                torch.manual_seed(_mix(config.seed, step, number, accelerator.process_index))
                with accelerator.accumulate(wrapped):
                    with accelerator.autocast():
                        output, v_cls = wrapped(batch["input"])
                    loss, terms = objective(output, v_cls, batch["picture"], batch["labels"])
                    if not torch.isfinite(loss):
                        raise InputError(
                            f"the loss is {loss.item()} at step {step}: lower the learning rate or precision"
                        )
                    accelerator.backward(loss)
                    if config.clip and accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(wrapped.parameters(), config.clip)
                    optimiser.step()
                    optimiser.zero_grad()
            step += 1
            if ema is not None:
                ema.update_parameters(model)
            values = accelerator.reduce(torch.stack(list(terms.values())).detach().float(), "mean").tolist()
            row = {"step": step, "epoch": epoch, "lr": lr, **dict(zip(terms, values, strict=True))}
            if main:
                bar.set_postfix({name: f"{value:.3g}" for name, value in list(row.items())[3:8]}, refresh=False)
                bar.update()
                if run is not None:
                    append_metrics(run, row)
                    if step % config.save_every == 0 or step == last:
                        _save(checkpoint, model, optimiser, ema, accelerator.scaler, step)
            if on_step is not None:
                on_step(step, row)
    bar.close()
    result = ema.module if ema is not None else model
    if run is not None and main:
        save_model(result, run / "model.safetensors")
    return result.eval()


class Objective:
    """The loss of a step: base losses of MCTformer+ and Eq. 8-16, with every term for the log.

    The VLM sees the renders inside ``autocast()``; cosines and losses are float32 at every precision.
    """

    def __init__(
        self,
        config: TrainConfig,
        vlm: VisionLanguageModel | None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.config, self.vlm, self.autocast = config, vlm, autocast

    def __call__(
        self, output: ClassTokenOutput, v_cls: Tensor | None, picture: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its terms; ``picture`` ``(B, 3, S, S)`` in [0, 1], ``labels`` ``(B, K)``."""
        terms = {}
        loss = output.patch_map.new_zeros((), dtype=torch.float32)
        if self.config.keep_base_losses:
            terms["class_mlsm"] = losses.multilabel_soft_margin(output.class_logits.float(), labels)
            terms["contrast"] = losses.contrastive_class_token(output.class_tokens, labels)
            terms["patch_mlsm"] = losses.multilabel_soft_margin(output.patch_logits.float(), labels)
            loss = sum(terms.values())
        if self.config.tcd is not None:
            tcd, more = self._tcd(output.patch_map.float().sigmoid(), v_cls.float(), picture, labels)
            loss, terms = loss + tcd, terms | more
        return loss, {"loss": loss} | terms

    def _tcd(self, p: Tensor, v_cls: Tensor, picture: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        tcd, text, zero = self.config.tcd, self.vlm.text(PROMPTS), p.new_zeros(())
        terms = {
            "pos_cls": losses.positive_class(v_cls, text, labels, tcd) if tcd.alpha0 else zero,
            "pos_ffc": zero,
            "neg_cls": losses.negative_class(v_cls, text, labels, tcd) if tcd.beta0 else zero,
            "neg_ffc": zero,
            "neg_bfc": zero,
            "reg": losses.regularisation(p),
        }
        if tcd.renders:
            rendered = choose(labels, tcd.max_classes_per_image)
            with self.autocast():
                foreground, background = render(
                    p, picture, rendered, self.vlm, bool(tcd.alpha1 or tcd.beta1), bool(tcd.beta2)
                )
            if foreground is not None:
                terms["pos_ffc"] = losses.positive_foreground(foreground, text, rendered, tcd)
                terms["neg_ffc"] = losses.negative_foreground(foreground, text, rendered, tcd)
            if background is not None:
                terms["neg_bfc"] = losses.negative_background(background, text, rendered, tcd)
        l_pos = losses.positive(terms["pos_cls"], terms["pos_ffc"], tcd)
        l_neg = losses.negative(terms["neg_cls"], terms["neg_ffc"], terms["neg_bfc"], tcd)
        with torch.no_grad():
            terms["dead"] = losses.dead_pairs(v_cls, text, labels)
        return losses.total(l_pos, l_neg, terms["reg"], tcd), terms


def choose(labels: Tensor, most: int) -> Tensor:
    """Present components ``(B, K)`` to render: all of them, or a random ``most`` of each picture (``most`` > 0)."""
    present = labels.bool()
    if not most:
        return present
    order = torch.where(present, torch.rand(labels.shape, device=labels.device), 2.0).argsort(-1).argsort(-1)
    return present & (order < most)


def render(
    p: Tensor,
    picture: Tensor,
    rendered: Tensor,
    vlm: VisionLanguageModel,
    foreground: bool = True,
    background: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """``v_ffc`` and ``v_bfc`` ``(B, K, D)`` of Eq. 5 and 6 for the ``rendered`` ``(B, K)`` pairs, zero elsewhere.

    ``p`` ``(B, K, h, w)`` in [0, 1] is enlarged to the VLM's size; ``picture`` ``(B, 3, S, S)`` in [0, 1].
    """
    image, component = rendered.nonzero(as_tuple=True)
    shown = F.interpolate(p[image, component][:, None], (vlm.size, vlm.size), mode="bilinear", align_corners=False)
    prepared = vlm.prepare(picture)[image]
    parts = ([prepared * shown] if foreground else []) + ([prepared * (1 - shown)] if background else [])
    vectors = list(_encode(torch.cat(parts), vlm).split(len(image)))

    def full() -> Tensor:
        vector = vectors.pop(0)
        return vector.new_zeros(*rendered.shape, vector.shape[-1]).index_put((image, component), vector)

    return full() if foreground else None, full() if background else None


def _encode(renders: Tensor, vlm: VisionLanguageModel) -> Tensor:
    """Vectors ``(n, D)`` of ``(n, 3, S, S)`` renders, in pieces of :data:`PIECE` that backward encodes once more."""
    pieces = renders.split(PIECE)
    if len(pieces) == 1:
        return vlm.encode_image(renders)
    return torch.cat([checkpoint(vlm.encode_image, piece, use_reentrant=False) for piece in pieces])


def _parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """No weight decay on vectors and class tokens, as the parent (design notes 1.7); ``factor`` is on the rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = 0.0 if parameter.ndim <= 1 or name.endswith("cls_token") else config.weight_decay
        factor = 1.0 if name.startswith(("vit.patch_head.", "projector.")) else config.backbone_lr
        groups.setdefault((decay, factor), []).append(parameter)
    return [{"params": each, "weight_decay": decay, "factor": factor} for (decay, factor), each in groups.items()]


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _epoch(
    data: TrainingSet, config: TrainConfig, epoch: int, done: int, accelerator: Accelerator
) -> Iterator[list[dict[str, Tensor]]]:
    """The micro-batches of each optimiser step of an epoch after the first ``done``, each this process's share."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(_mix(config.seed, epoch))).tolist()
    size, share = config.batch_size, config.batch_size // accelerator.num_processes
    start = accelerator.process_index * share
    batches = [order[i : i + size][start : start + share] for i in range(0, len(order) - size + 1, size)]
    batches = batches[done * config.accumulate : len(batches) // config.accumulate * config.accumulate]
    places = [[(epoch, index) for index in batch] for batch in batches]
    loader = DataLoader(
        data, batch_sampler=places, num_workers=config.workers, pin_memory=accelerator.device.type == "cuda"
    )
    group = []
    for batch in loader:
        group.append({name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()})
        if len(group) == config.accumulate:
            yield group
            group = []


def save_model(model: DisFaceRep, path: Path) -> None:
    """Weights of a trained model as safetensors, atomically."""
    save_weights(path, model.state_dict())


def load_model(vit: MultiClassTokenViT, path: str | Path) -> MultiClassTokenViT:
    """Fill ``vit`` from a ``model.safetensors``; raises :class:`InputError` for a truncated file or another model."""
    weights, _ = load_weights(path)
    state = {name.removeprefix("vit."): value for name, value in weights.items() if name.startswith("vit.")}
    shapes = ({name: value.shape for name, value in some.items()} for some in (vit.state_dict(), state))
    wrong = sorted(dict(set.symmetric_difference(*(set(some.items()) for some in shapes))))
    if wrong:
        raise InputError(f"{path} is a checkpoint of another architecture ({wrong[0]} differs): use its own profile")
    vit.load_state_dict(state)
    return vit.eval()


def _save(path: Path, model: nn.Module, optimiser, ema, scaler, step: int) -> None:
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, entry in optimiser.state_dict()["state"].items():
        state |= {f"optimiser.{index}.{name}": value for name, value in entry.items()}
    if ema is not None:
        state |= {f"ema.{name}": value for name, value in ema.state_dict().items()}
    save_weights(path, state, step=step, scaler=scaler.state_dict() if scaler else None)


def _restore(path: Path, model: nn.Module, optimiser, ema, scaler) -> int:
    """Put model, optimiser, EMA and scaler back; returns the number of steps done."""
    state, about = load_weights(path)
    try:
        model.load_state_dict(_part(state, "model"))
    except RuntimeError as error:
        raise InputError(
            f"{path} is a checkpoint of another model ({str(error).splitlines()[-1].strip()}): take a new run directory"
        ) from error
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(state, "optimiser").items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
    if ema is not None:
        ema.load_state_dict(_part(state, "ema"))
    if scaler is not None and about["scaler"]:
        scaler.load_state_dict(about["scaler"])
    return about["step"]


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): v for name, v in state.items() if name.startswith(f"{prefix}.")}

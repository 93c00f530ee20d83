"""Facial component activation maps (FCAMs) of a trained ViT, as MCTformer+ makes its CAMs (design notes 1.5).

All classes at once, pictures and their mirror images in one batch, present classes picked first.  Maps stay on the
token grid of each scale and are enlarged only where they are looked at: 0.6 GB instead of 315 GB for 30,000 faces.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from wsfp_helpers.data.base import WeakFaces
from wsfp_helpers.labels import CELEBAMASK, flip_image
from wsfp_helpers.runs import fingerprint
from wsfp_helpers.storage import InputError, atomic_path, claim_folder, existing
from wsfp_helpers.vit import ClassTokenOutput, MultiClassTokenViT

EPSILON = 1e-8


@dataclass(frozen=True)
class FcamConfig:
    """Scales of the input, mirror image or not, and which evidence makes a map.

    ``fused``: square root of attention x patch map; ``patch``: the patch map alone; ``attention``: the class-to-patch
    attention alone.  ``attention_layers`` counts from the last (``None``: all trained blocks); ``affinity`` spreads a
    map once along the attention among patches.
    """

    scales: tuple[float, ...] = (1.0, 0.75, 1.25)
    flip: bool = True
    variant: Literal["fused", "patch", "attention"] = "fused"
    attention_layers: int | None = None
    affinity: bool = True


@dataclass(frozen=True)
class Fcam:
    """Maps of the present components of one picture on the token grid.

    ``classes`` ``(P,)`` int64 component indices 0..K-1; ``grids``: for each scale ``(P, h, w)``, not negative, mirror
    images added; ``size`` is the picture's (H, W).
    """

    id: str
    classes: np.ndarray
    grids: tuple[Tensor, ...]
    size: tuple[int, int]

    def maps(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Maps ``(P, H, W)`` float32 in [0, 1]: each scale enlarged (bilinear), added, and min-max scaled per class.

        Every map with any evidence reaches 1 somewhere, so a wrong map is never empty.
        """
        size = size or self.size
        total = sum(
            F.interpolate(grid.float()[None], size, mode="bilinear", align_corners=False)[0] for grid in self.grids
        )
        low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
        return ((total - low) / (high - low + EPSILON)).numpy()


@torch.inference_mode()
def extract(
    vit: MultiClassTokenViT, faces: WeakFaces, config: FcamConfig | None = None, batch_size: int | None = None
) -> Iterator[Fcam]:
    """FCAMs of every picture for its present components, in order; float32 on the model's device.

    The channels of a mirror image are exchanged left and right before it is added, which the parent does not do.
    ``batch_size`` counts pictures; by default 8 on a GPU and 1 on a CPU, whose caches hold no more.
    """
    config = config or FcamConfig()
    vit.eval()
    device = next(vit.parameters()).device
    batch_size = batch_size or (1 if device.type == "cpu" else 8)
    exchange = torch.from_numpy(CELEBAMASK.flip_components)
    sizes = [round(vit.size * scale / 16) * 16 for scale in config.scales]
    for start in range(0, len(faces), batch_size):
        pictures = [faces.image(i) for i in range(start, min(start + batch_size, len(faces)))]
        labels = torch.from_numpy(faces.labels[start : start + batch_size]).bool()
        shown = pictures + [flip_image(picture) for picture in pictures] if config.flip else pictures
        by_scale = []
        for size in sizes:
            output = vit(vit.inputs(shown, size).to(device), attention=True, attention_layers=config.attention_layers)
            maps = evidence(output, config).cpu()
            plain, mirrored = maps[: len(pictures)], maps[len(pictures) :]
            by_scale.append(plain + mirrored.flip(-1)[:, exchange] if config.flip else plain)
        for i, picture in enumerate(pictures):
            present = labels[i].nonzero()[:, 0]
            grids = tuple(maps[i, present] for maps in by_scale)
            yield Fcam(faces.ids[start + i], present.numpy(), grids, picture.shape[:2])


def evidence(output: ClassTokenOutput, config: FcamConfig) -> Tensor:
    """Maps ``(B, K, h, w)`` of one scale, not negative and not scaled (design notes 1.5, steps 2-5)."""
    if config.variant == "attention":
        maps = output.class_attention
    else:
        maps = output.patch_map.relu()
        if config.variant == "fused":
            maps = (maps * output.class_attention).sqrt()
    if not config.affinity:
        return maps
    return (maps.flatten(2) @ output.affinity.transpose(1, 2)).view_as(maps)


def save_fcam(fcam: Fcam, folder: Path) -> None:
    """Write ``ID.safetensors`` atomically: half precision, each class scaled to [0, 1] over all its grids.

    One shift and one factor a class change nothing in :meth:`Fcam.maps`, and spend the half precision on the contrast.
    """
    low = torch.stack([grid.amin((1, 2)) for grid in fcam.grids]).amin(0)[:, None, None]
    high = torch.stack([grid.amax((1, 2)) for grid in fcam.grids]).amax(0)[:, None, None]
    scaled = [(grid - low) / (high - low).clamp(min=EPSILON) for grid in fcam.grids]
    tensors = {f"scale{i}": grid.half().contiguous() for i, grid in enumerate(scaled)}
    tensors |= {"classes": torch.from_numpy(fcam.classes), "size": torch.tensor(fcam.size)}
    with atomic_path(folder / f"{fcam.id}.safetensors") as part:
        save_file(tensors, part)


def save_fcams(fcams: Iterable[Fcam], folder: str | Path, total: int | None = None) -> "FcamFolder":
    """Write all of ``fcams`` below ``folder`` with a progress bar, and open it."""
    for fcam in tqdm(fcams, total=total, desc="FCAMs", unit="image"):
        save_fcam(fcam, Path(folder))
    return FcamFolder(folder)


def extract_to_folder(
    vit: MultiClassTokenViT,
    faces: WeakFaces,
    folder: str | Path,
    config: FcamConfig | None = None,
    shard: tuple[int, int] = (0, 1),
) -> "FcamFolder":
    """Extract and save what is not there yet: an interrupted run goes on.

    ``shard=(i, n)`` takes every n-th picture from the i-th on, for n processes that share the work.  Raises
    :class:`InputError` when ``folder`` holds maps of other data, another network or another
    ``config``.
    """
    folder = Path(folder)
    settings = {"data": faces.name, "network": fingerprint(vit), "fcam": asdict(config or FcamConfig())}
    claim_folder(folder, settings, "FCAMs", "*.safetensors")
    missing = [
        i for i in range(shard[0], len(faces), shard[1]) if not (folder / f"{faces.ids[i]}.safetensors").exists()
    ]
    if not missing:
        return FcamFolder(folder)
    return save_fcams(extract(vit, faces.subset(missing), config), folder, len(missing))


class FcamFolder:
    """Saved FCAMs, opened one at a time in the order of their ids."""

    def __init__(self, folder: str | Path) -> None:
        self.paths = sorted(existing(folder, "folder of FCAMs").glob("*.safetensors"))
        self.ids = [path.stem for path in self.paths]
        if not self.paths:
            raise InputError(f"{folder} has no FCAMs (*.safetensors): run `wsfp fcam` first")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Fcam:
        path = self.paths[index]
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            grids = tuple(tensors[f"scale{i}"] for i in range(len(tensors) - 2))
            return Fcam(path.stem, tensors["classes"].numpy(), grids, tuple(tensors["size"].tolist()))
        except (SafetensorError, KeyError) as error:
            raise InputError(f"{path} is not a saved FCAM ({error}): remove it and run `wsfp fcam` again") from error

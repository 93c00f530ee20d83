"""Facial component activation maps (FCAMs) of a trained ViT, as MCTformer+ makes its CAMs (docs/design.md, 1.5).

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
from torch import Tensor
from tqdm.auto import tqdm

from wsfp_helpers.common.accelerator import processes
from wsfp_helpers.common.checkpoints import fingerprint, read_weights, save_weights
from wsfp_helpers.common.configs import check_range
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import claim_folder, existing, hold_folder
from wsfp_helpers.common.pictures import flip_image
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.method.vit import ClassTokenOutput, MultiClassTokenViT, vit_inputs

EPSILON = 1e-8
MOST_PIXELS = 200_000_000
"""More than any picture has that is read."""


@dataclass(frozen=True)
class FcamConfig:
    """How a map is read out of a trained network."""

    scales: tuple[float, ...] = (1.0, 0.75, 1.25)
    """Sizes of the input, relative to the training size; their maps are added."""
    flip: bool = True
    """Adds the map of the mirrored picture, mirrored back, with left and right exchanged."""
    variant: Literal["fused", "patch", "attention"] = "fused"
    """The evidence: the square root of attention x patch map, the patch map, or the class-to-patch attention alone."""
    attention_layers: int | None = None
    """How many blocks, counted from the last, give the attention (``None``: all trained ones)."""
    affinity: bool = True
    """Spreads a map once along the attention among patches."""

    def __post_init__(self) -> None:
        check_range(self, scales=(0.1, 10), attention_layers=(1, 100))


@dataclass(frozen=True)
class Fcam:
    """Maps of the present components of one picture on the token grid."""

    id: str
    """Id of the picture."""
    classes: np.ndarray
    """``(P,)`` int64 component indices 0 .. K - 1."""
    grids: tuple[Tensor, ...]
    """For each scale ``(P, h, w)``, not negative, mirror images added."""
    size: tuple[int, int]
    """Height and width of the picture."""

    def maps(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Maps ``(P, H, W)`` float32 in [0, 1]: each scale enlarged (bilinear), added, and min-max scaled per class.

        Every map with any evidence reaches 1 somewhere, so a wrong map is never empty.
        """
        size = size or self.size
        grids = [F.interpolate(g.float()[None], size, mode="bilinear", align_corners=False)[0] for g in self.grids]
        total = torch.stack(grids).sum(0)
        low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
        return ((total - low) / (high - low + EPSILON)).numpy()


@torch.inference_mode()
def extract(
    vit: MultiClassTokenViT, faces: WeakFaces, config: FcamConfig | None = None, batch_size: int | None = None
) -> Iterator[Fcam]:
    """FCAMs of every picture for its present components, in order.

    The channels of a mirror image are exchanged left and right before it is added, which MCTformer+ does not do.

    Args:
        vit: A trained network; it is put into eval mode and runs on its own device in float32.
        faces: Pictures and image-level labels.
        config: How maps are read.
        batch_size: Pictures at a time (default: 8 on a GPU and 1 on a CPU, whose caches hold no more).
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
            output = vit(
                vit_inputs(vit, shown, size).to(device), attention=True, attention_layers=config.attention_layers
            )
            maps = evidence(output, config).cpu()
            plain, mirrored = maps[: len(pictures)], maps[len(pictures) :]
            by_scale.append(plain + mirrored.flip(-1)[:, exchange] if config.flip else plain)
        for i, picture in enumerate(pictures):
            present = labels[i].nonzero()[:, 0]
            grids = tuple(maps[i, present] for maps in by_scale)
            yield Fcam(faces.ids[start + i], present.numpy(), grids, picture.shape[:2])


def evidence(output: ClassTokenOutput, config: FcamConfig) -> Tensor:
    """Maps ``(B, K, h, w)`` of one scale, not negative and not scaled (docs/design.md, 1.5, steps 2-5)."""
    maps = output.patch_map.relu()
    if config.variant != "patch":
        assert output.class_attention is not None, "run the network with attention=True"
        attention = output.class_attention
        maps = attention if config.variant == "attention" else (maps * attention).sqrt()
    if not config.affinity:
        return maps
    assert output.affinity is not None, "run the network with attention=True"
    return (maps.flatten(2) @ output.affinity.transpose(1, 2)).view_as(maps)


def save_fcam(fcam: Fcam, folder: Path) -> None:
    """Write ``ID.safetensors`` atomically: half precision, each class scaled to [0, 1] over all its grids.

    One shift and one factor a class change nothing in :meth:`Fcam.maps`, and spend the half precision on the contrast.
    """
    path = fcam_path(folder, fcam.id)
    low = torch.stack([grid.amin((1, 2)) for grid in fcam.grids]).amin(0)[:, None, None]
    high = torch.stack([grid.amax((1, 2)) for grid in fcam.grids]).amax(0)[:, None, None]
    scaled = [(grid - low) / (high - low).clamp(min=EPSILON) for grid in fcam.grids]
    tensors = {f"scale{i}": grid.half().contiguous() for i, grid in enumerate(scaled)}
    tensors |= {"classes": torch.from_numpy(fcam.classes), "size": torch.tensor(fcam.size)}
    save_weights(path, tensors)


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
    with hold_folder(folder, shard):
        with processes().main_process_first():
            claim_folder(folder, settings, "FCAMs", "*.safetensors")
        mine = range(shard[0], len(faces), shard[1])
        missing = [i for i in mine if not fcam_path(folder, faces.ids[i]).exists()]
        if not missing:
            return FcamFolder(folder)
        return save_fcams(extract(vit, faces.subset(missing), config), folder, len(missing))


class FcamFolder:
    """Saved FCAMs, opened one at a time in the order of their ids."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = existing(folder, "folder of FCAMs")
        self.ids = sorted(path.stem for path in self.folder.glob("*.safetensors"))
        if not self.ids:
            raise InputError(f"{folder} has no FCAMs (*.safetensors): run `wsfp fcam` first")

    @property
    def paths(self) -> list[Path]:
        """Their files."""
        return [fcam_path(self.folder, key) for key in self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def by_id(self, key: str) -> Fcam:
        """The maps of the picture ``key``, which must be there."""
        return read_fcam(fcam_path(self.folder, key))

    def __getitem__(self, index: int) -> Fcam:
        return self.by_id(self.ids[index])


def fcam_path(folder: Path, key: str) -> Path:
    """Where the maps of the picture ``key`` are."""
    return folder / f"{key}.safetensors"


def read_fcam(path: Path) -> Fcam:
    """The maps of one picture; raises :class:`InputError` for a file of anything else."""
    advice = "remove it and run `wsfp fcam` again"
    tensors = read_weights(path, "FCAMs", advice)
    try:
        grids = tuple(tensors[f"scale{i}"] for i in range(max(len(tensors) - 2, 1)))
        classes, size = tensors["classes"], tensors["size"]
    except KeyError as error:
        raise InputError(f"{path} is not a saved FCAM (it has no {error}): {advice}") from error
    known = sorted(set(classes.flatten().tolist()) & set(range(len(CELEBAMASK.components))))
    if classes.dtype != torch.int64 or classes.ndim != 1 or classes.tolist() != known:
        wrong = "its classes are not some of 0 to 17 in order"
    elif any(not g.is_floating_point() or g.ndim != 3 or len(g) != len(classes) or 0 in g.shape[1:] for g in grids):
        wrong = "its maps are not one for each class"
    elif any((grid < 0).any() for grid in grids):
        wrong = "its maps are below 0"
    elif size.dtype != torch.int64 or size.shape != (2,) or size.min() < 1 or size.double().prod() > MOST_PIXELS:
        wrong = f"its size is {size.tolist()}"
    else:
        return Fcam(path.stem, classes.numpy(), grids, tuple(size.tolist()))
    raise InputError(f"{path} is not a saved FCAM ({wrong}): {advice}")

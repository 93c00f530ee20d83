"""The frozen trunk of the embedded world, and its features: computed once for each picture and kept on disk.

The trunk is the first eight blocks of a DINOv2 ViT in the shape of DeiT-S/16 (assets/trunk.md).  Its middle blocks
know facial parts, its last ones only what is salient.  Class tokens enter after it (``vit.py``).
"""

import hashlib
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from wsfp_helpers.data.cache import cache_dir
from wsfp_helpers.storage import InputError, atomic_path, existing

WEIGHTS = Path(__file__).parent / "assets" / "trunk.safetensors"
ARCHITECTURE = "deit_small_patch16_224"
FROZEN_BLOCKS = 8
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 8
"""Pictures that go through the trunk at a time; more are not faster on a CPU."""


def normalise(images: Tensor, size: int) -> Tensor:
    """Resize ``(B, 3, H, W)`` RGB in [0, 1] to ``(B, 3, size, size)`` (bicubic) and normalise it as ImageNet's."""
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def to_tensor(pictures: Iterable[np.ndarray]) -> Tensor:
    """Pictures ``(H, W, 3)`` uint8 of one size as ``(B, 3, H, W)`` float32 in [0, 1]."""
    return torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).float() / 255


class Trunk(nn.Module):
    """Frozen patch embedding and first blocks of the ViT; always in eval mode, never with a gradient."""

    def __init__(self, blocks: int = FROZEN_BLOCKS, size: int = 320) -> None:
        super().__init__()
        self.vit = timm.create_model(ARCHITECTURE, num_classes=0, depth=blocks, dynamic_img_size=True)
        self.vit.norm = nn.Identity()
        self.size, self.patch, self.width = size, 16, self.vit.embed_dim
        self.fingerprint = ""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: a frozen model has no other."""
        return super().train(False)

    def prepare(self, images: Tensor, size: int | None = None) -> Tensor:
        """Resize ``(B, 3, H, W)`` RGB in [0, 1] to the trunk's own or another size and normalise it."""
        return normalise(images, size or self.size)

    @torch.no_grad()
    def forward(self, prepared: Tensor) -> Tensor:
        """Layer-normed patch tokens ``(B, h * w, 384)`` of ``(B, 3, 16 h, 16 w)`` from :meth:`prepare`, row by row."""
        tokens = self.vit.forward_features(prepared)[:, self.vit.num_prefix_tokens :]
        return F.layer_norm(tokens, tokens.shape[-1:])


@cache
def load_trunk(path: str | Path = WEIGHTS) -> Trunk:
    """The embedded trunk; raises :class:`InputError` when its file is missing, truncated or of another model."""
    trunk = Trunk()
    trunk.vit.load_state_dict(_read(path, trunk.vit))
    trunk.fingerprint = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
    return trunk


def as_grid(tokens: Tensor) -> Tensor:
    """Tokens ``(B, N, d)`` of a square picture as a map ``(B, d, h, h)``."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def features(
    pictures: Iterable[np.ndarray],
    trunk: Trunk,
    total: int | None = None,
    desc: str = "trunk features",
    size: int | None = None,
    folder: Path | None = None,
) -> Tensor:
    """Layer-normed patch tokens ``(n, N, d)`` float16 of pictures ``(H, W, 3)`` uint8, from disk where they are there.

    A file is keyed by the picture's content, the size it is enlarged to and the trunk (about 0.3 MB; 0.1-0.35 s to
    compute on two cores), written atomically, so an interrupted run goes on where it was.  ``folder`` defaults to
    ``features/`` in the cache.
    """
    folder, size = folder or cache_dir() / "features", size or trunk.size
    store, waiting = [], []

    def compute() -> None:
        tokens = _half(trunk, [picture for _, picture, _ in waiting], size)
        for (place, _, path), value in zip(waiting, tokens, strict=True):
            store[place] = value
            with atomic_path(path) as part, part.open("wb") as file:
                np.save(file, value.numpy())
        waiting.clear()

    for picture in tqdm(pictures, total=total, desc=desc, unit="image", leave=False, delay=1):
        path = folder / trunk.fingerprint / str(size) / f"{_content(picture)}.npy"
        tokens = _stored(path, (size // trunk.patch) ** 2, trunk.width)
        if tokens is None:
            if waiting and waiting[0][1].shape != picture.shape:
                compute()
            waiting.append((len(store), picture, path))
        store.append(tokens)
        if len(waiting) == BATCH:
            compute()
    if waiting:
        compute()
    if not store:
        raise InputError("no pictures to compute features of: check the folder and the split")
    return torch.stack(store)


def _half(trunk: Trunk, pictures: list[np.ndarray], size: int) -> Tensor:
    device = next(trunk.parameters()).device
    return trunk(trunk.prepare(to_tensor(pictures).to(device), size)).half().cpu()


def _content(picture: np.ndarray) -> str:
    digest = hashlib.sha256(repr(picture.shape).encode())
    digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()[:32]


def _stored(path: Path, tokens: int, width: int) -> Tensor | None:
    try:
        value = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(value) if value.shape == (tokens, width) else None


@lru_cache
def later_blocks(path: str | Path = WEIGHTS) -> dict[str, Tensor]:
    """Weights of the blocks after the frozen ones, as first values of the trained blocks (timm's names)."""
    return {
        name: value.float()
        for name, value in _load(path).items()
        if name.startswith("blocks.") and int(name.split(".")[1]) >= FROZEN_BLOCKS
    }


def _read(path: str | Path, model: nn.Module) -> dict[str, Tensor]:
    weights, wanted = _load(path), model.state_dict()
    wrong = [key for key in wanted if key not in weights or weights[key].shape != wanted[key].shape]
    if wrong:
        raise InputError(f"{path} is not the embedded trunk ({wrong[0]} is missing or of another shape): restore it")
    return {key: weights[key].float() for key in wanted}


def _load(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(existing(path, "trunk weights"))
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}): it is truncated; restore it") from error

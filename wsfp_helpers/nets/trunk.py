"""The frozen trunk of the embedded world, and its features: computed once for each picture and kept on disk.

The trunk is the first eight blocks of a DINOv2 ViT in the shape of DeiT-S/16 (assets/trunk.md).  Its middle blocks
know facial parts, its last ones only what is salient.  Class tokens enter after it (``vit.py``).
"""

import hashlib
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from wsfp_helpers.common.cache import cache_dir, keep_array
from wsfp_helpers.common.checkpoints import load_strictly, read_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS, sha256_of
from wsfp_helpers.common.pictures import normalise, resize, to_tensor

WEIGHTS = ASSETS / "trunk.safetensors"
ARCHITECTURE = "deit_small_patch16_224"
FROZEN_BLOCKS = 8
BATCH = 8
"""Pictures that go through the trunk at a time; more are not faster on a CPU."""


class Trunk(nn.Module):
    """Frozen patch embedding and first blocks of the ViT; always in eval mode, never with a gradient."""

    vit: Any

    def __init__(self, blocks: int = FROZEN_BLOCKS, size: int = 320) -> None:
        super().__init__()
        self.vit = timm.create_model(ARCHITECTURE, num_classes=0, depth=blocks, dynamic_img_size=True)
        self.vit.norm = nn.Identity()
        self.size, self.patch, self.width = size, 16, int(self.vit.embed_dim)
        self.fingerprint = ""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: a frozen model has no other."""
        return super().train(False)

    def prepare(self, images: Tensor, size: int | None = None) -> Tensor:
        """Resize ``(B, 3, H, W)`` RGB in [0, 1] to the trunk's own or another size and normalise it."""
        return normalise(resize(images, (size or self.size,) * 2))

    @torch.no_grad()
    def forward(self, prepared: Tensor) -> Tensor:
        """Layer-normed patch tokens ``(B, h * w, 384)`` of ``(B, 3, 16 h, 16 w)`` from :meth:`prepare`, row by row."""
        tokens = self.vit.forward_features(prepared)[:, self.vit.num_prefix_tokens :]
        return F.layer_norm(tokens, tokens.shape[-1:])


@cache
def load_trunk(path: str | Path = WEIGHTS) -> Trunk:
    """The embedded trunk; raises :class:`InputError` when its file is missing, truncated or of another model."""
    trunk, weights = Trunk(), read_weights(path, "trunk weights", "restore them")
    wanted = trunk.vit.state_dict()  # the file holds the blocks after the frozen ones as well
    frozen = {name: value for name, value in weights.items() if name in wanted}
    load_strictly(trunk.vit, frozen, path, "restore the embedded trunk")
    trunk.fingerprint = sha256_of(path)[:12]
    return trunk


def as_grid(tokens: Tensor) -> Tensor:
    """Tokens ``(B, N, d)`` of a square picture as a map ``(B, d, h, h)``."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def features(
    pictures: Iterable[np.ndarray],
    trunk: Trunk,
    total: int,
    desc: str = "trunk features",
    size: int | None = None,
    folder: Path | None = None,
) -> Tensor:
    """Layer-normed patch tokens ``(total, N, d)`` float16 of pictures ``(H, W, 3)`` uint8, from disk if they are there.

    A file is keyed by the picture's content, the size it is enlarged to and the trunk (about 0.3 MB; 0.1-0.35 s to
    compute on two cores), written atomically, so an interrupted run goes on where it was.  ``folder`` defaults to
    ``features/`` in the cache.
    """
    folder, size = folder or cache_dir() / "features", size or trunk.size
    if not total:
        raise InputError("no pictures to compute features of: check the folder and the split")
    per_picture = (size // trunk.patch) ** 2
    store = torch.empty((total, per_picture, trunk.width), dtype=torch.float16)
    waiting: list[tuple[int, np.ndarray, Path]] = []

    def compute() -> None:
        tokens = _half(trunk, [picture for _, picture, _ in waiting], size)
        for (place, _, path), value in zip(waiting, tokens, strict=True):
            store[place] = value
            keep_array(path, value.numpy())
        waiting.clear()

    for place, picture in enumerate(tqdm(pictures, total=total, desc=desc, unit="image", leave=False, delay=1)):
        path = folder / trunk.fingerprint / str(size) / f"{_content(picture)}.npy"
        tokens = _stored(path, per_picture, trunk.width)
        if tokens is None:
            if waiting and waiting[0][1].shape != picture.shape:
                compute()
            waiting.append((place, picture, path))
        else:
            store[place] = tokens
        if len(waiting) == BATCH:
            compute()
    if waiting:
        compute()
    return store


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
        for name, value in read_weights(path, "trunk weights", "restore them").items()
        if name.startswith("blocks.") and int(name.split(".")[1]) >= FROZEN_BLOCKS
    }

"""The multi-class-token ViT: K class tokens beside the patch tokens, and a patch head (paper 3.2; MCTformer+).

One class for both worlds: with ``frozen_blocks=0`` the class tokens enter at the first block of a DeiT-S and the
input is a picture; otherwise they enter after the frozen trunk and the input is the trunk's features.  There is no
final LayerNorm, as in MCTformer+ (docs/design.md, 1.1 to 1.3).
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_patch_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from wsfp_helpers.common.checkpoints import read_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import Pictures, normalise, resize, to_tensor
from wsfp_helpers.labels import K
from wsfp_helpers.nets.trunk import WEIGHTS, features, later_blocks, load_trunk

PATCH = 16
"""Side of a patch in pixels."""
TRUNK_SCALE = 0.15
"""First value of the gain on layer-normed trunk tokens: the spread of the raw tokens that the next block is used to."""


@dataclass
class ClassTokenOutput:
    """What the network says of B pictures with h x w = N patches."""

    class_tokens: Tensor
    """F_cls after each of the L trained blocks, ``(L, B, K, d)``."""
    patch_map: Tensor
    """The patch head's map before any activation, conv(F_pat) of Eq. 4, ``(B, K, h, w)``."""
    class_logits: Tensor
    """``(B, K)``, the mean over the channels of the last class tokens."""
    patch_logits: Tensor
    """``(B, K)``, the pooled patch map (:func:`gwrp`)."""
    patch_tokens: Tensor
    """F_pat, what the patch head reads, ``(B, N, d)``."""
    class_attention: Tensor | None = None
    """``(B, K, h, w)`` from class tokens to patches; only with ``attention=True``."""
    affinity: Tensor | None = None
    """``(B, N, N)`` among patches; only with ``attention=True``."""


class Projector(nn.Sequential):
    """Eq. 3: the projector from class tokens into the space of the image-text model.

    ``v_cls^k = W^T F_cls^k``.  The paper prints one matrix; the sizes of its Table 5 come out with an MLP
    384-512-512, which this is, once MCTformer+'s two unused tensors are counted (docs/design.md, 9.7).  It takes
    ``(..., d)`` to ``(..., D)``.
    """

    def __init__(self, width: int = 384, hidden: int = 512, out: int = 512) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


def patch_attention(patch_map: Tensor) -> Tensor:
    """Eq. 4: the map P of each component, from the patch head's output.

    ``P_k = σ(conv(F_pat)_k)``: the convolution is the patch head itself, shared with the base losses, and k is a
    channel of its output (docs/design.md, 9.7).

    Args:
        patch_map: ``(B, K, h, w)`` before any activation.

    Returns:
        ``(B, K, h, w)`` float32 in [0, 1].
    """
    return patch_map.float().sigmoid()


class MultiClassTokenViT(nn.Module):
    """The network whose size Table 5 gives, a ViT with K class tokens (section 3.2).

    Args:
        num_classes: K.
        frozen_blocks: Blocks of the frozen trunk before the class tokens enter; 0 for pictures as input.
        blocks: Trained blocks after them.
        size: Side of the training pictures in pixels; any other multiple of 16 works, too (positions are
            interpolated).
        width: d.
        heads: Attention heads.
        drop_path: Stochastic depth of the last block.
        token_init_noise: Spread that keeps class tokens with equal labels apart; with 0, as in MCTformer+, they start
            equal and stay equal (docs/design.md, 1.9).
        gwrp_decay: Weight ratio of neighbouring ranks in :func:`gwrp`, given for a 28 x 28 grid and adapted to others.
    """

    def __init__(
        self,
        num_classes: int = K,
        *,
        frozen_blocks: int = 0,
        blocks: int = 12,
        size: int = 448,
        width: int = 384,
        heads: int = 6,
        drop_path: float = 0.1,
        token_init_noise: float = 0.02,
        gwrp_decay: float = 0.996,
    ) -> None:
        super().__init__()
        self.num_classes, self.frozen_blocks, self.size, self.gwrp_decay = num_classes, frozen_blocks, size, gwrp_decay
        self.token_init_noise = token_init_noise
        # Behind the trained blocks, tokens are brought back to the spread of DeiT's, for which the heads are made.
        self.enlarge = 1 / TRUNK_SCALE if frozen_blocks else 1.0
        if frozen_blocks:
            self.gain = nn.Parameter(torch.full((width,), TRUNK_SCALE))
        else:
            self.patch_embed = PatchEmbed(size, PATCH, 3, width, strict_img_size=False)
            self.pos_embed_pat = nn.Parameter(0.02 * torch.randn(1, self.patch_embed.num_patches, width))
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, num_classes, width))
        self.pos_embed_cls = nn.Parameter(torch.zeros(1, num_classes, width))
        rates = np.linspace(0, drop_path, frozen_blocks + blocks)[frozen_blocks:].tolist()
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=True, drop_path=rate, norm_layer=partial(nn.LayerNorm, eps=1e-6))  # type: ignore[arg-type]
            for rate in rates
        )
        self.patch_head = nn.Conv2d(width, num_classes, 3, padding=1)

    def forward(self, inputs: Tensor, attention: bool = False, attention_layers: int | None = None) -> ClassTokenOutput:
        """Run on normalised pictures ``(B, 3, H, W)``, or on trunk features ``(B, N, d)`` of square pictures.

        ``attention=True`` also reads the attention, averaged over heads: towards classes the mean of the last
        ``attention_layers`` blocks (default all), among patches the sum of all (docs/design.md, 1.5).
        """
        patches, (h, w) = self._patches(inputs)
        classes = (self.cls_token + self.pos_embed_cls).expand(len(patches), -1, -1)
        x, k = torch.cat([classes, patches], 1), self.num_classes  # (B, K + N, d)
        tokens, weights = [], []
        for block in self.blocks:
            if attention:
                x, weight = _with_attention(block, x)
                weights.append(weight)  # (B, K + N, K + N)
            else:
                x = block(x)
            tokens.append(x[:, :k] * self.enlarge)
        x = x * self.enlarge
        patch_map = self.patch_head(x[:, k:].transpose(1, 2).unflatten(2, (h, w)))
        patch_logits = gwrp(patch_map, self.gwrp_decay ** (784 / (h * w)))
        output = ClassTokenOutput(torch.stack(tokens), patch_map, tokens[-1].mean(-1), patch_logits, x[:, k:])
        if attention:
            last = weights[-(attention_layers or len(weights)) :]
            to_classes = torch.stack([weight[:, :k, k:] for weight in last]).mean(0)
            output.class_attention = to_classes.unflatten(2, (h, w))
            output.affinity = torch.stack([weight[:, k:, k:] for weight in weights]).sum(0)
        return output

    def _patches(self, inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.frozen_blocks:
            side = round(inputs.shape[1] ** 0.5)
            return inputs.to(self.gain.dtype) * self.gain, (side, side)
        grid = (inputs.shape[-2] // PATCH, inputs.shape[-1] // PATCH)
        return self.patch_embed(inputs) + _resize_positions(self.pos_embed_pat, grid), grid


def gwrp(patch_map: Tensor, decay: float) -> Tensor:
    """Global weighted rank pooling ``(B, K)`` of maps ``(B, K, h, w)``: the j-th largest score weighs ``decay**j``."""
    scores = patch_map.flatten(2).sort(-1, descending=True).values
    weights = decay ** torch.arange(scores.shape[-1], device=scores.device, dtype=torch.float32)
    return (scores * weights).sum(-1) / weights.sum()


def vit_inputs(vit: MultiClassTokenViT, pictures: Pictures, size: int | None = None) -> Tensor:
    """What :class:`MultiClassTokenViT` takes for pictures ``(H, W, 3)`` uint8, at ``size`` pixels (default: its own).

    Normalised pictures ``(B, 3, size, size)``, or trunk features ``(B, N, d)``, which come from the disk cache where
    they are there.
    """
    size = size or vit.size
    if vit.frozen_blocks:
        return features((pictures[i] for i in range(len(pictures))), load_trunk(), len(pictures), size=size)
    return torch.cat([normalise(resize(to_tensor([pictures[i]]), (size, size))) for i in range(len(pictures))])


def load_pretrained(vit: MultiClassTokenViT, path: str | Path | None = None) -> None:
    """First values of ``vit``: timm's DeiT or DINOv2 from ``path``, or the blocks that follow the embedded trunk.

    The ImageNet class token and its position are copied K times, plus ``token_init_noise``; a position grid of
    another size is repeated where it divides evenly, as in MCTformer+, else interpolated (docs/design.md, 1.2).  A
    DINOv2 without registers is brought into the shape of DeiT.

    Raises:
        InputError: The file is missing, truncated or of another architecture.
    """
    weights = later_blocks() if path is None else _read_deit(path, vit.cls_token.shape[-1])
    state, source = vit.state_dict(), WEIGHTS if path is None else path
    given: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            name = f"blocks.{int(layer) - vit.frozen_blocks}.{rest}"
        if name == "pos_embed" and not vit.frozen_blocks:
            given["pos_embed_cls"] = value[:, :1].expand_as(state["pos_embed_cls"])
            given["pos_embed_pat"] = _resize_positions(value[:, 1:], vit.patch_embed.grid_size)
        elif name == "cls_token":
            noise = torch.randn(state[name].shape) * vit.token_init_noise
            given[name] = value.expand_as(noise) + noise
        elif name in state:
            given[name] = value
    for name, own in state.items():
        if name in given and given[name].shape != own.shape:
            raise InputError(f"{source}: {name} is {tuple(given[name].shape)}, expected {tuple(own.shape)}: {_TAKE}")
        if path is not None and name not in given and name.startswith(("blocks.", "patch_embed.")):
            raise InputError(f"{path}: {name} is missing: {_TAKE}")
    vit.load_state_dict(state | given)


_TAKE = "take DeiT-S/16 (deit_small_patch16_224)"


def _read_deit(path: str | Path, width: int) -> dict[str, Tensor]:
    weights = read_weights(path, "DeiT weights (timm's deit_small_patch16_224.fb_in1k)", "download it again")
    if "blocks.0.ls1.gamma" in weights:
        weights = _dinov2_as_deit({name: value.float() for name, value in weights.items()})
    if "pos_embed" not in weights or "blocks.0.attn.qkv.weight" not in weights:
        raise InputError(f"{path} is not a timm ViT: expected deit_small_patch16_224 with pos_embed and blocks.*")
    shape = tuple(weights["pos_embed"].shape)
    if len(shape) == 3 and shape[2] != width:
        raise InputError(f"{path}: its tokens are {shape[2]} wide, expected {width}: set model.width, or {_TAKE}")
    if shape != (1, 1 + math.isqrt(shape[1] - 1) ** 2, width):
        raise InputError(f"{path}: pos_embed is {shape}, expected (1, 1 + n * n, {width}): {_TAKE}")
    return {name: value.float() for name, value in weights.items()}


def _dinov2_as_deit(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's weights in the shape of DeiT: patches of 16 instead of 14 pixels, the layer scales inside the layers."""
    weights["patch_embed.proj.weight"] = resample_patch_embed(weights["patch_embed.proj.weight"], [PATCH, PATCH])
    for name in [name for name in weights if name.endswith(".gamma")]:
        scaled = {"ls1": "attn.proj", "ls2": "mlp.fc2"}[name.split(".")[-2]]
        block, gamma = name.rsplit(".", 2)[0], weights.pop(name)
        weights[f"{block}.{scaled}.weight"] *= gamma[:, None]
        weights[f"{block}.{scaled}.bias"] *= gamma
    return weights


def _with_attention(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A timm block's output and its attention ``(B, T, T)`` averaged over heads, which its fused kernel hides."""
    attn, (b, t, d) = block.attn, x.shape
    q, k, v = attn.qkv(block.norm1(x)).view(b, t, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    weights = ((q * attn.scale) @ k.transpose(-2, -1)).softmax(-1)
    x = x + block.drop_path1(attn.proj((weights @ v).transpose(1, 2).reshape(b, t, d)))
    return x + block.drop_path2(block.mlp(block.norm2(x))), weights.mean(1)


def _resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position vectors ``(1, n, d)`` of a square grid for another grid: ``(1, h * w, d)``."""
    side = round(positions.shape[1] ** 0.5)
    if grid == (side, side):
        return positions
    square = positions.transpose(1, 2).unflatten(2, (side, side))
    if grid[0] == grid[1] and grid[0] % side == 0:
        square = F.interpolate(square, grid, mode="nearest")
    else:
        square = F.interpolate(square, grid, mode="bicubic", align_corners=False)
    return square.flatten(2).transpose(1, 2)

"""The multi-class-token ViT (paper 3.2, after MCTformer+): K class tokens beside the patch tokens, a shared patch head.

One class for both worlds: with ``frozen_blocks=0`` the class tokens enter at the first block of a DeiT-S and the
input is a picture; otherwise they enter after the frozen trunk and the input is the trunk's features.  Final
LayerNorm: none, as in the parent (design notes 1.1-1.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from wsfp_helpers.labels import K
from wsfp_helpers.storage import InputError, existing
from wsfp_helpers.trunk import features, later_blocks, load_trunk, normalise, to_tensor

TRUNK_SCALE = 0.15
"""First value of the gain on layer-normed trunk tokens: the spread of the raw tokens that the next block is used to."""


@dataclass
class ClassTokenOutput:
    """What the network says of B pictures with h x w = N patches.

    ``class_tokens`` ``(L, B, K, d)`` after each of the L blocks; ``patch_map`` ``(B, K, h, w)`` of the patch head
    before any activation; ``class_logits`` and ``patch_logits`` ``(B, K)``.  Only with ``attention=True``:
    ``class_attention`` ``(B, K, h, w)``, from class tokens to patches, and ``affinity`` ``(B, N, N)`` among patches.
    """

    class_tokens: Tensor
    patch_map: Tensor
    class_logits: Tensor
    patch_logits: Tensor
    class_attention: Tensor | None = None
    affinity: Tensor | None = None


class MultiClassTokenViT(nn.Module):
    """ViT with K class tokens (section 3.2).

    ``blocks`` are the trained blocks after ``frozen_blocks``; ``size`` is the side of the training pictures in pixels
    (any other multiple of 16 works, too: positions are interpolated).  ``token_init_noise`` is the spread that keeps
    class tokens with equal labels apart (0 is the parent's start, where they stay equal; design notes 1.9).
    ``gwrp_decay`` weights the sorted patch scores (1.3): it is given for a 28 x 28 grid and adapted to the grid's size.
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
            self.patch_embed = PatchEmbed(size, 16, 3, width, strict_img_size=False)
            self.pos_embed_pat = nn.Parameter(0.02 * torch.randn(1, self.patch_embed.num_patches, width))
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, num_classes, width))
        self.pos_embed_cls = nn.Parameter(torch.zeros(1, num_classes, width))
        depth = frozen_blocks + blocks
        rates = np.linspace(0, drop_path, depth)[frozen_blocks:].tolist()
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=True, drop_path=rate, norm_layer=partial(nn.LayerNorm, eps=1e-6))
            for rate in rates
        )
        self.patch_head = nn.Conv2d(width, num_classes, 3, padding=1)

    def forward(self, inputs: Tensor, attention: bool = False, attention_layers: int | None = None) -> ClassTokenOutput:
        """Run on normalised pictures ``(B, 3, H, W)``, or on trunk features ``(B, N, d)`` of square pictures.

        ``attention=True`` also reads the attention, averaged over heads: towards classes the mean of the last
        ``attention_layers`` blocks (default all), among patches the sum of all (design notes 1.5).
        """
        patches, (h, w) = self._patches(inputs)
        classes = (self.cls_token + self.pos_embed_cls).expand(len(patches), -1, -1)
        x, k = torch.cat([classes, patches], 1), self.num_classes
        first = len(self.blocks) - (attention_layers or len(self.blocks))
        tokens, to_classes, affinity = [], 0.0, 0.0
        for layer, block in enumerate(self.blocks):
            if attention:
                x, weights = _with_attention(block, x)
                affinity = affinity + weights[:, k:, k:]
                if layer >= first:
                    to_classes = to_classes + weights[:, :k, k:] / (len(self.blocks) - first)
            else:
                x = block(x)
            tokens.append(x[:, :k] * self.enlarge)
        x = x * self.enlarge
        patch_map = self.patch_head(x[:, k:].transpose(1, 2).unflatten(2, (h, w)))
        return ClassTokenOutput(
            torch.stack(tokens),
            patch_map,
            tokens[-1].mean(-1),
            gwrp(patch_map, self.gwrp_decay ** (784 / (h * w))),
            to_classes.unflatten(2, (h, w)) if attention else None,
            affinity if attention else None,
        )

    def _patches(self, inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.frozen_blocks:
            side = round(inputs.shape[1] ** 0.5)
            return inputs.to(self.gain.dtype) * self.gain, (side, side)
        grid = (inputs.shape[-2] // 16, inputs.shape[-1] // 16)
        return self.patch_embed(inputs) + _resized(self.pos_embed_pat, grid), grid

    def inputs(self, pictures: Sequence[np.ndarray], size: int | None = None) -> Tensor:
        """What :meth:`forward` takes for pictures ``(H, W, 3)`` uint8, at ``size`` pixels (default the training size).

        Trunk features come from the disk cache where they are there.
        """
        if self.frozen_blocks:
            return features(pictures, load_trunk(), len(pictures), size=size or self.size)
        return torch.cat([normalise(to_tensor([picture]), size or self.size) for picture in pictures])

    def load_pretrained(self, path: str | Path | None = None) -> None:
        """First values: timm DeiT weights from ``path``, or the blocks that follow the embedded trunk.

        The ImageNet class token and its position are copied K times, plus ``token_init_noise``; a position grid of
        another size is repeated where it divides evenly, as the parent does, else interpolated (design notes 1.2).
        Raises :class:`InputError` when the file is missing, truncated or of another architecture.
        """
        weights = _deit(path) if path is not None else later_blocks()
        state = self.state_dict()
        start = self.frozen_blocks
        for name, value in weights.items():
            if name.startswith("blocks."):
                _, layer, rest = name.split(".", 2)
                name = f"blocks.{int(layer) - start}.{rest}"
            if name == "pos_embed" and not start:
                state["pos_embed_cls"] = value[:, :1].expand_as(state["pos_embed_cls"])
                state["pos_embed_pat"] = _resized(value[:, 1:], self.patch_embed.grid_size)
            elif name == "cls_token":
                noise = torch.randn(state[name].shape) * self.token_init_noise
                state[name] = value.expand_as(noise) + noise
            elif name in state:
                if state[name].shape != value.shape:
                    raise InputError(
                        f"{path}: {name} is {tuple(value.shape)}, expected {tuple(state[name].shape)}: "
                        f"take DeiT-S/16 (deit_small_patch16_224)"
                    )
                state[name] = value
        self.load_state_dict(state)


class Projector(nn.Sequential):
    """The MLP that takes class tokens ``(..., d)`` into the vision-language space ``(..., D)`` (Eq. 3).

    384-512-512 gives the sizes that the paper's Table 5 prints (design notes 9.7).
    """

    def __init__(self, width: int = 384, hidden: int = 512, out: int = 512) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


def gwrp(patch_map: Tensor, decay: float) -> Tensor:
    """Global weighted rank pooling ``(B, K)`` of maps ``(B, K, h, w)``: the j-th largest score weighs ``decay**j``."""
    scores = patch_map.flatten(2).sort(-1, descending=True).values
    weights = decay ** torch.arange(scores.shape[-1], device=scores.device, dtype=torch.float32)
    return (scores * weights).sum(-1) / weights.sum()


def _with_attention(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    """A timm block's output and its attention ``(B, T, T)`` averaged over heads, which its fused kernel hides."""
    attn, (b, t, d) = block.attn, x.shape
    q, k, v = attn.qkv(block.norm1(x)).view(b, t, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    weights = ((q * attn.scale) @ k.transpose(-2, -1)).softmax(-1)
    x = x + block.drop_path1(attn.proj((weights @ v).transpose(1, 2).reshape(b, t, d)))
    return x + block.drop_path2(block.mlp(block.norm2(x))), weights.mean(1)


def _resized(positions: Tensor, grid: tuple[int, int]) -> Tensor:
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


def _deit(path: str | Path) -> dict[str, Tensor]:
    path = existing(path, "DeiT weights (timm's deit_small_patch16_224.fb_in1k)")
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path} cannot be read as weights ({error}): it is truncated; download it again") from error
    weights = weights.get("model", weights)
    if "pos_embed" not in weights or "blocks.0.attn.qkv.weight" not in weights:
        raise InputError(f"{path} is not a timm ViT: expected deit_small_patch16_224 with pos_embed and blocks.*")
    return {name: value.float() for name, value in weights.items() if torch.is_tensor(value)}

"""Image-text models that can be asked about places: a CLIP's image tower opened up, block by block.

CLIP-ES, WeCLIP and WeakCLIP read the tokens, the attention and the gradients of a frozen ViT.  At full size that is
FLIP's own tower on pictures of 448 pixels; in the embedded world, where mini-FLIP's last grid is 3 x 3, it is a small
tower of the same names and shapes behind the frozen trunk (model card: assets/mini_flip_dense.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsfp_helpers.common.checkpoints import load_strictly, read_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS, read_json
from wsfp_helpers.common.pictures import Pictures, resize, to_tensor
from wsfp_helpers.nets.trunk import Trunk, as_grid, features, load_trunk
from wsfp_helpers.nets.vlm import VisionLanguageModel, WordTokenizer, trunk_clip

BACKGROUND = ("a photo of a face with background",)
"""What the embedded model was taught to call a picture without any part in sight."""
FACE_BACKGROUND = tuple(
    f"a photo of {thing}"
    for thing in (
        "a wall", "the sky", "a curtain", "a street", "a building", "trees", "grass", "a stage", "a microphone",
        "a hand", "a shoulder", "a crowd", "a poster", "a logo", "a window", "a light",
    )
)  # fmt: skip
"""What is behind and beside the faces of CelebA, for a model that knows the words of the web (ours)."""


@dataclass
class Places:
    """What an image tower says of B pictures with h x w = N patches; the class token comes first."""

    tokens: list[Tensor]
    """``(B, 1 + N, d)``: what enters the first block, and what comes out of each of the L blocks."""
    attention: Tensor
    """``(L, B, 1 + N, 1 + N)``, averaged over heads, rows sum to 1."""
    grid: tuple[int, int]
    """h and w."""


class DenseModel(nn.Module):
    """A frozen image-text model whose image tower is open_clip's ViT, with access to its blocks.

    Args:
        vlm: Gives the texts; its ``clip.visual`` is the tower.
        size: Side in pixels of the pictures; positions are interpolated to its grid.
        background: Texts for what is no part of a face.
        trunk: Where it is given, the tower's first convolution takes the trunk's tokens in place of pixels.

    Raises:
        InputError: The image tower is no ViT.
    """

    def __init__(
        self, vlm: VisionLanguageModel, size: int, background: Sequence[str], trunk: Trunk | None = None
    ) -> None:
        super().__init__()
        if not hasattr(vlm.clip.visual, "class_embedding"):
            raise InputError(f"{vlm.name} has an image tower without patch tokens: expected a ViT, such as FLIP-B/16")
        self.vlm, self.size, self.background, self.trunk = vlm, size, tuple(background), trunk
        self.requires_grad_(False)
        self.eval()

    @property
    def visual(self) -> Any:
        """open_clip's ``VisionTransformer``."""
        return self.vlm.clip.visual

    @property
    def width(self) -> int:
        """d, of the tokens."""
        return self.visual.class_embedding.shape[0]

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.trunk.patch if self.trunk is not None else self.visual.conv1.kernel_size[0]

    @property
    def scale(self) -> Tensor:
        """Factor on cosines before a softmax over texts."""
        return self.vlm.clip.logit_scale.exp()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: a frozen model has no other."""
        return super().train(False)

    def text(self, prompts: Sequence[str]) -> Tensor:
        """Unit-length text vectors ``(n, D)``."""
        return self.vlm.text(prompts)

    def inputs(self, pictures: Pictures, size: int | None = None) -> Tensor:
        """What :meth:`forward` takes for pictures ``(H, W, 3)`` uint8, at ``size`` pixels (default: its own).

        Normalised pictures ``(B, 3, size, size)``, or trunk features ``(B, N, 384)`` from the disk cache.
        """
        size = size or self.size
        if self.trunk is not None:
            return features((pictures[i] for i in range(len(pictures))), self.trunk, len(pictures), size=size)
        shown = [resize(to_tensor([pictures[i]]), (size, size)) for i in range(len(pictures))]
        return (torch.cat(shown).to(self.vlm.mean.device) - self.vlm.mean) / self.vlm.std

    def forward(self, inputs: Tensor) -> Places:
        """Run on what :meth:`inputs` gives; gradients flow where the caller's mode lets them."""
        x, grid = self.embed(inputs)
        tokens, attention = [x], []
        for block in self.visual.transformer.resblocks:
            x, weights = run_block(block, x)
            tokens.append(x)
            attention.append(weights)
        return Places(tokens, torch.stack(attention), grid)

    def embed(self, inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens ``(B, 1 + N, d)`` that enter the first block, and the grid (h, w)."""
        visual, x = self.visual, inputs.to(self.visual.conv1.weight.dtype)
        x = visual.conv1(as_grid(x) if self.trunk is not None else x)
        grid = (x.shape[-2], x.shape[-1])
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1)
        return visual.ln_pre(x + _positions(visual.positional_embedding, grid)), grid

    def vector(self, x: Tensor) -> Tensor:
        """Unit-length image vectors ``(B, D)`` of the tokens ``(B, 1 + N, d)`` after the last block.

        Of the class token, or of the mean of the patches where the tower was made for it (``pool_type="avg"``).
        """
        x = self.visual.ln_post(x)
        pooled = x[:, 1:].mean(1) if self.visual.pool_type == "avg" else x[:, 0]
        return F.normalize(pooled @ self.visual.proj, dim=-1)

    def patches(self, x: Tensor) -> Tensor:
        """Unit-length vectors ``(B, N, D)`` of the patches, projected as the class token is."""
        return F.normalize(self.visual.ln_post(x[:, 1:]) @ self.visual.proj, dim=-1)


def mini_flip_dense() -> DenseModel:
    """The embedded stand-in of FLIP for places, trained by ``scripts/train_dense_vlm.py``."""
    trunk, name = load_trunk(), "mini_flip_dense"
    description = read_json(ASSETS / f"{name}.json")
    path = ASSETS / f"{name}.safetensors"
    clip = trunk_clip(description["model_cfg"], trunk.width)
    load_strictly(clip, read_weights(path, f"weights of {name}", "restore them"), path, "restore it")
    words = WordTokenizer(description["words"], description["model_cfg"]["text_cfg"]["context_length"])
    preprocessing = description["preprocess_cfg"]
    vlm = VisionLanguageModel(name, clip, words, trunk.size, preprocessing["mean"], preprocessing["std"])
    return DenseModel(vlm, trunk.size, BACKGROUND, trunk)


def run_block(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output of one of open_clip's blocks, and its attention averaged over heads, which its own forward hides."""
    return finish_block(block, x, block.ln_1(x))


def finish_block(block: Any, x: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
    """The rest of a block after its first LayerNorm gave ``normed``: the place at which CLIP-ES takes its gradient."""
    out, weights = block.attn(normed, normed, normed, need_weights=True)
    x = x + block.ls_1(out)
    return x + block.ls_2(block.mlp(block.ln_2(x))), weights


def _positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position vectors ``(1 + n, d)`` of a square grid for another grid: ``(1 + h * w, d)``."""
    side = round((len(positions) - 1) ** 0.5)
    if grid == (side, side):
        return positions
    square = positions[1:].T.unflatten(1, (side, side))[None]
    resized = F.interpolate(square, grid, mode="bicubic", align_corners=False)[0]
    return torch.cat([positions[:1], resized.flatten(1).T])

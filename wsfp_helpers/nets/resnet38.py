"""ResNet38, the backbone of the paper's parser."""

from collections.abc import Sequence
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Pre-activation residual block: batch norm and ReLU come before each convolution and before the shortcut's.

    ``layers`` are (kernel, outputs, stride, dilation) of the convolutions a, b1 and b2; dropout acts before all but
    the first.  The shortcut is a 1x1 convolution where the shape changes.
    """

    def __init__(self, inputs: int, layers: Sequence[tuple[int, int, int, int]], dropout: float = 0.0) -> None:
        super().__init__()
        self.names, width = ("a", "b1", "b2")[: len(layers)], inputs
        for name, (kernel, outputs, stride, dilation) in zip(self.names, layers, strict=True):
            padding = dilation * (kernel // 2)
            self.add_module(f"bn_{name}", nn.BatchNorm2d(width))
            self.add_module(
                f"conv_{name}", nn.Conv2d(width, outputs, kernel, stride, padding, dilation=dilation, bias=False)
            )
            width = outputs
        self.dropout = nn.Dropout2d(dropout)
        stride = layers[0][2]
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if (inputs, stride) != (width, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        """From ``(B, inputs, H, W)`` to ``(B, outputs, H / stride, W / stride)``."""
        shortcut = x
        for name in self.names:
            x = F.relu(self.get_submodule(f"bn_{name}")(x))
            if name == "a" and self.shortcut is not None:
                shortcut = self.shortcut(x)
            x = self.get_submodule(f"conv_{name}")(x if name == "a" else self.dropout(x))
        return shortcut + x


def _stage(count: int, inputs: int, middle: int, outputs: int, stride: int, first: int, dilation: int) -> list[Block]:
    blocks = []
    for index in range(count):
        a = (3, middle, stride if index == 0 else 1, first if index == 0 else dilation)
        blocks.append(Block(inputs, [a, (3, outputs, 1, dilation)]))
        inputs = outputs
    return blocks


def _bottleneck(inputs: int, outputs: int, dropout: float) -> Block:
    return Block(inputs, [(1, outputs // 4, 1, 1), (3, outputs // 2, 1, 4), (1, outputs, 1, 1)], dropout)


class ResNet38(nn.Module):
    """Backbone of 105.07 M parameters: ``(B, 3, H, W)`` normalised RGB to ``(B, 4096, H / 8, W / 8)``.

    Batch norms never train and neither does the first convolution, as in the paper's code base.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        stages = {
            "2": _stage(3, 64, 128, 128, stride=2, first=1, dilation=1),
            "3": _stage(3, 128, 256, 256, stride=2, first=1, dilation=1),
            "4": _stage(6, 256, 512, 512, stride=2, first=1, dilation=1),
            "5": _stage(3, 512, 512, 1024, stride=1, first=1, dilation=2),
            "6": [_bottleneck(1024, 2048, 0.3)],
            "7": [_bottleneck(2048, 4096, 0.5)],
        }
        self.blocks = nn.ModuleDict()
        for stage, blocks in stages.items():
            for index, block in enumerate(blocks):
                self.blocks[stage + (f"b{index}" if index else "a")] = block
        self.bn = nn.BatchNorm2d(4096)
        self.stem.requires_grad_(False)
        for module in self._norms():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the batch norms."""
        super().train(mode)
        for module in self._norms():
            module.eval()
        return self

    def _norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def forward(self, x: Tensor) -> Tensor:
        """From normalised pictures ``(B, 3, H, W)`` to ``(B, 4096, H / 8, W / 8)``."""
        x = self.stem(x)
        for block in self.blocks.values():
            x = block(x)
        return F.relu(self.bn(x))

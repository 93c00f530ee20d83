"""The image-text model of TCD: frozen towers that judge what a map cuts out of a face (paper 3.4), and mini-FLIP.

Weights are frozen, but gradients flow to the picture, and so to the maps P that cut a face component out of it.
mini-FLIP and mini-CLIP are shipped; FLIP and CLIP at full size are read in :mod:`wsfp_helpers.nets.clip`.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsfp_helpers.common.checkpoints import load_strictly, read_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS, read_json
from wsfp_helpers.common.pictures import resize


class VisionLanguageModel(nn.Module):
    """A frozen image encoder and text encoder with unit-length outputs of the same width D.

    ``clip`` has ``encode_image`` and ``encode_text``, ``tokenize`` turns a list of prompts into token ids, ``size`` is
    the side in pixels that the image encoder takes, ``mean`` and ``std`` are its normalisation of RGB in [0, 1].
    To show only a part of a picture, multiply the *normalised* picture by a map in [0, 1]: what is masked takes the
    mean colour (Eq. 5-6; docs/design.md, 2.1).  The model stays in eval mode whatever its owner does.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        clip: Any,
        tokenize: Callable[[list[str]], Tensor],
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.name, self.clip, self.tokenize, self.size = name, clip, tokenize, size
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self._texts: dict[tuple[str, ...], Tensor] = {}
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: a frozen model has no other."""
        return super().train(False)

    def prepare(self, images: Tensor) -> Tensor:
        """Resize ``(B, 3, H, W)`` RGB in [0, 1] to ``(B, 3, size, size)`` (bicubic, no crop) and normalise it."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected pictures of shape (B, 3, H, W) in [0, 1], got {tuple(images.shape)}")
        return (resize(images, (self.size, self.size)) - self.mean) / self.std

    def encode_image(self, normalised: Tensor) -> Tensor:
        """Unit-length image vectors ``(B, D)`` float32 of pictures from :meth:`prepare`, masked or not."""
        if normalised.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"{self.name} expected pictures of shape (B, 3, {self.size}, {self.size}) from prepare(), "
                f"got {tuple(normalised.shape)}"
            )
        return F.normalize(self.clip.encode_image(normalised).float(), dim=-1)

    def text(self, prompts: Sequence[str]) -> Tensor:
        """Eq. 7: unit-length text vectors ``v_txt^k = ε_t(T_k)``; each tuple of prompts is encoded once, ever.

        Args:
            prompts: K sentences (:data:`wsfp_helpers.labels.PROMPTS`).

        Returns:
            ``(K, D)`` float32.
        """
        key = tuple(prompts)
        if key not in self._texts:
            tokens = self.tokenize(list(key)).to(self.mean.device)
            with torch.no_grad(), torch.autocast(self.mean.device.type, enabled=False):
                self._texts[key] = F.normalize(self.clip.encode_text(tokens).float(), dim=-1)
        return self._texts[key].to(self.mean.device)


class WordTokenizer:
    """One token a word over a small vocabulary: token table and text tower stay tiny.

    Ids are 0 padding, 1..n the words in order, n + 1 start and n + 2 end; the end has the highest id because
    open_clip pools the text tower there.  Case, commas and full stops are ignored.
    """

    def __init__(self, words: Sequence[str], context: int) -> None:
        self.words, self.context = tuple(words), context
        self._ids = {word: i for i, word in enumerate(self.words, 1)}

    @property
    def size(self) -> int:
        """Rows of the token table."""
        return len(self.words) + 3

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Token ids ``(n, context)`` int64; raises :class:`InputError` naming the words it does not know."""
        tokens = torch.zeros(len(prompts), self.context, dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            words = prompt.lower().replace(",", " ").replace(".", " ").split()
            unknown = [word for word in words if word not in self._ids]
            if unknown:
                near = get_close_matches(unknown[0], self.words, 1)
                raise InputError(
                    f"prompt {prompt!r} has words that this text encoder never saw: {', '.join(unknown)}; "
                    + (f"did you mean {near[0]!r}?" if near else f"its {len(self.words)} words are in `words`")
                )
            if len(words) + 2 > self.context:
                raise InputError(f"prompt {prompt!r} has {len(words)} words: expected at most {self.context - 2}")
            ids = [self.size - 2, *(self._ids[word] for word in words), self.size - 1]
            row[: len(ids)] = torch.tensor(ids)
        return tokens


def mini_flip() -> VisionLanguageModel:
    """The embedded stand-in of FLIP, trained by ``scripts/train_mini_vlm.py`` (model card: assets/mini_flip.md)."""
    return embedded_model("mini_flip")


def mini_flip_labels() -> VisionLanguageModel:
    """A mini-FLIP whose captions come from image-level labels (model card: assets/mini_flip_labels.md)."""
    return embedded_model("mini_flip_labels")


def mini_clip() -> VisionLanguageModel:
    """The embedded stand-in of a general CLIP for the comparison of section 4.3.4 (model card: assets/mini_clip.md)."""
    return embedded_model("mini_clip")


def embedded_model(name: str, folder: str | Path = ASSETS, folded: bool = True) -> VisionLanguageModel:
    """Load ``name.json`` (open_clip's ``model_cfg`` and ``preprocess_cfg``, and the words) and ``name.safetensors``.

    ``folded`` folds the batch norms of the image encoder into its convolutions (:func:`fold_batch_norms`).
    """
    description = read_json(Path(folder) / f"{name}.json")
    config, picture = description["model_cfg"], description["preprocess_cfg"]
    path = Path(folder) / f"{name}.safetensors"
    clip = build_clip(name, config, read_weights(path, f"weights of {name}", "restore them"), path)
    if folded:
        fold_batch_norms(clip.get_submodule("visual"))
    tokenizer = WordTokenizer(description["words"], config["text_cfg"]["context_length"])
    return VisionLanguageModel(
        name, clip, tokenizer, config["vision_cfg"]["image_size"], picture["mean"], picture["std"]
    )


def fold_batch_norms(tower: nn.Module) -> None:
    """Fold each batch norm that follows a convolution into it, and lay the weights out channels last, in place.

    For a frozen ResNet: the same function to rounding, forward and backward in two thirds of the time on a CPU.
    """
    tower.eval()
    for parent in tower.modules():
        before: tuple[str, nn.Module | None] = ("", None)
        for name, child in list(parent.named_children()):
            if isinstance(before[1], nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
                setattr(parent, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(parent, name, nn.Identity())
            before = (name, child)
    tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub lacks it


def trunk_clip(config: Mapping, width: int) -> nn.Module:
    """open_clip's ``CLIP`` of a ``config`` whose image tower takes tokens ``(B, width, h, w)`` in place of pixels."""
    clip = open_clip.CLIP(**config)
    clip.visual.conv1 = nn.Conv2d(width, clip.visual.conv1.out_channels, 1, bias=False)
    return clip


def build_clip(name: str, config: Mapping, state: Mapping[str, Tensor], path: object) -> nn.Module:
    """open_clip's ``CLIP`` of a ``config`` with the weights ``state``; raises :class:`InputError` when they differ."""
    clip = open_clip.CLIP(**config)
    load_strictly(
        clip, state, path, f"choose the file of {name} (the paper's FLIP is FLIP-base-16, ViT-B-16-quickgelu)"
    )
    return clip

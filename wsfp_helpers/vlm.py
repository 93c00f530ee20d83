"""Vision-language models behind one interface: CLIP through open_clip, FLIP from Hugging Face, the embedded mini-FLIP.

Their weights are frozen, but gradients flow to the picture, and so to the maps P that cut a face component out of it
(paper 3.4, Eq. 5-7).  FLIP is FLIP-80M (Li et al., ACM MM 2024, ``FLIP-dataset/FLIP-base-16``): neither
facebookresearch/flip nor OpenFace-CQUPT/FLIP, which are other models of the same name.  Design notes 2.1 and 3.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Self

import open_clip
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsfp_helpers.storage import InputError, atomic_path, existing, read_json

ASSETS = Path(__file__).parent / "assets"
FLIP_ARCHITECTURE = "ViT-B-16-quickgelu"
"""open_clip's name of FLIP-base-16, the model whose 149.6 M parameters the paper's Table 5 counts."""


class VisionLanguageModel(nn.Module):
    """A frozen image encoder and text encoder with unit-length outputs of the same width D.

    ``clip`` has ``encode_image`` and ``encode_text``, ``tokenize`` turns a list of prompts into token ids, ``size`` is
    the side in pixels that the image encoder takes, ``mean`` and ``std`` are its normalisation of RGB in [0, 1].
    To show only a part of a picture, multiply the *normalised* picture by a map in [0, 1]: what is masked takes the
    mean colour (Eq. 5-6; design notes 2.1).  The model stays in eval mode whatever its owner does.
    """

    def __init__(
        self,
        name: str,
        clip: nn.Module,
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
            raise InputError(f"expected pictures of shape (B, 3, H, W) in [0, 1], got {tuple(images.shape)}")
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return (images - self.mean) / self.std

    def encode_image(self, normalised: Tensor) -> Tensor:
        """Unit-length image vectors ``(B, D)`` float32 of pictures from :meth:`prepare`, masked or not."""
        if normalised.shape[1:] != (3, self.size, self.size):
            raise InputError(
                f"{self.name} expected pictures of shape (B, 3, {self.size}, {self.size}) from prepare(), "
                f"got {tuple(normalised.shape)}"
            )
        return F.normalize(self.clip.encode_image(normalised).float(), dim=-1)

    def text(self, prompts: Sequence[str]) -> Tensor:
        """Unit-length text vectors ``(len(prompts), D)`` float32; each tuple of prompts is encoded once, ever."""
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
    """The embedded stand-in of FLIP, trained by ``scripts/train_mini_flip.py`` (model card: assets/mini_flip.md)."""
    return embedded_model("mini_flip")


def mini_clip() -> VisionLanguageModel:
    """The embedded stand-in of a general CLIP for the comparison of section 4.3.4 (model card: assets/mini_clip.md)."""
    return embedded_model("mini_clip")


def embedded_model(name: str, folder: str | Path = ASSETS, folded: bool = True) -> VisionLanguageModel:
    """Load ``name.json`` (open_clip's ``model_cfg`` and ``preprocess_cfg``, and the words) and ``name.safetensors``.

    ``folded`` folds the batch norms of the image encoder into its convolutions (:func:`fold_batch_norms`).
    """
    description = read_json(Path(folder) / f"{name}.json")
    config, picture = description["model_cfg"], description["preprocess_cfg"]
    path = existing(Path(folder) / f"{name}.safetensors", "weights")
    clip = _loaded(name, config, _read_weights(path), path)
    if folded:
        fold_batch_norms(clip.visual)
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
        before = ("", None)
        for name, child in list(parent.named_children()):
            if isinstance(before[1], nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
                setattr(parent, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(parent, name, nn.Identity())
            before = (name, child)
    tower.to(memory_format=torch.channels_last)


def open_clip_model(name: str, weights_file: str | Path) -> VisionLanguageModel:
    """An open_clip architecture with weights from a local file: safetensors, or a state dict saved by torch.

    Nothing is downloaded, so only architectures with open_clip's bundled tokeniser can be had.  Pictures are
    normalised with OpenAI's mean and standard deviation.  Raises :class:`InputError` when name and file do not fit.
    """
    config = _local_config(name)
    path = existing(weights_file, f"weights of {name}")
    return _with_own_tokenizer(name, _loaded(name, config, _read_weights(path), path), config)


def flip_from_huggingface(folder: str | Path, architecture: str = FLIP_ARCHITECTURE) -> VisionLanguageModel:
    """FLIP from its Hugging Face folder: ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``.

    ``architecture`` is the open_clip name of its shape.  Raises :class:`InputError` for a folder of another model, a
    missing or truncated file, and another shape.
    """
    config = _local_config(architecture)
    folder = existing(folder, "FLIP folder")
    _check_huggingface_config(folder / "config.json", config)
    files = [folder / "model.safetensors", folder / "pytorch_model.bin"]
    path = existing(next((file for file in files if file.exists()), files[0]), "FLIP weights")
    weights = _read_weights(path)
    try:
        state = from_huggingface(weights)
    except KeyError as error:
        raise InputError(
            f"{path} has no weight {error}: expected transformers' CLIPModel; download the file again"
        ) from error
    return _with_own_tokenizer("FLIP", _loaded(architecture, config, state, path), config)


def convert_flip(folder: str | Path, target: str | Path, architecture: str = FLIP_ARCHITECTURE) -> Path:
    """Write FLIP's Hugging Face folder as one safetensors file for ``open_clip_model(architecture, target)``."""
    state = flip_from_huggingface(folder, architecture).clip.state_dict()
    with atomic_path(target) as part:
        save_file(state, part)
    return Path(target)


def from_huggingface(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of transformers' ``CLIPModel`` to open_clip's ``CLIP``.

    Query, key and value are stacked into one matrix, the two projections transposed, and the integer
    ``position_ids`` dropped (design notes, section 3).  Raises ``KeyError`` for a weight that is missing.
    """
    source = {key: value for key, value in weights.items() if not key.endswith("position_ids")}
    state = {"logit_scale": source["logit_scale"]}
    for tower, prefix in (("vision_model", "visual."), ("text_model", "")):
        for theirs, ours in _TOWER[tower].items():
            value = source[f"{tower}.{theirs}"] if not theirs.endswith("projection.weight") else source[theirs].T
            state[prefix + ours] = value.contiguous()
        layer = 0
        while f"{tower}.encoder.layers.{layer}.layer_norm1.weight" in source:
            block, target = f"{tower}.encoder.layers.{layer}.", f"{prefix}transformer.resblocks.{layer}."
            for kind in ("weight", "bias"):
                stacked = [source[f"{block}self_attn.{part}_proj.{kind}"] for part in "qkv"]
                state[f"{target}attn.in_proj_{kind}"] = torch.cat(stacked)
                for theirs, ours in _BLOCK.items():
                    state[f"{target}{ours}.{kind}"] = source[f"{block}{theirs}.{kind}"].contiguous()
            layer += 1
    return state


_TOWER = {
    "vision_model": {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "pre_layrnorm.weight": "ln_pre.weight",
        "pre_layrnorm.bias": "ln_pre.bias",
        "post_layernorm.weight": "ln_post.weight",
        "post_layernorm.bias": "ln_post.bias",
        "visual_projection.weight": "proj",
    },
    "text_model": {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
        "text_projection.weight": "text_projection",
    },
}
_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _check_huggingface_config(path: Path, config: Mapping) -> None:
    theirs = read_json(path)
    if theirs.get("model_type") != "clip":
        raise InputError(
            f"{path} describes a model of type {theirs.get('model_type')!r}, expected 'clip': take FLIP-dataset/"
            f"FLIP-base-16 of FLIP-80M, not another model that is called FLIP"
        )
    expected = "quick_gelu" if config.get("quick_gelu") else "gelu"
    for tower in ("vision_config", "text_config"):
        activation = theirs.get(tower, {}).get("hidden_act", "quick_gelu")
        if activation != expected:
            raise InputError(f"{path} has hidden_act {activation!r} in {tower}, expected {expected!r}: not this model")


def _local_config(name: str) -> dict:
    if name not in open_clip.list_models():
        near = get_close_matches(name, open_clip.list_models(), 1)
        raise InputError(
            f"unknown open_clip architecture {name!r}: "
            + (f"did you mean {near[0]!r}?" if near else "see open_clip.list_models()")
        )
    config = open_clip.get_model_config(name)
    if set(config) - {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"} or "hf_tokenizer_name" in config["text_cfg"]:
        raise InputError(f"{name} is not a plain CLIP with a bundled tokeniser: choose one such as {FLIP_ARCHITECTURE}")
    return config


def _with_own_tokenizer(name: str, clip: nn.Module, config: Mapping) -> VisionLanguageModel:
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    size = config["vision_cfg"]["image_size"]
    return VisionLanguageModel(name, clip, tokenizer, size, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content.get("state_dict", content))
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise InputError(
            f"{path} cannot be read as weights ({str(error).splitlines()[0]}): it is truncated or not a safetensors "
            f"file or a state dict; download it again"
        ) from error


def _loaded(name: str, config: Mapping, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    clip = open_clip.CLIP(**config)
    wanted = {key: tuple(value.shape) for key, value in clip.state_dict().items()}
    came = {key: tuple(value.shape) for key, value in state.items()}
    wrong = [key for key in sorted(wanted | came) if wanted.get(key) != came.get(key)]
    if wrong:
        raise InputError(
            f"{path} does not fit {name}: {wrong[0]} is {came.get(wrong[0], 'missing')}, expected "
            f"{wanted.get(wrong[0], 'no such weight')}; choose the file of this architecture (the paper's FLIP is "
            f"FLIP-base-16, {FLIP_ARCHITECTURE})"
        )
    clip.load_state_dict(state)
    return clip

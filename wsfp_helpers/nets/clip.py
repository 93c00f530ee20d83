"""CLIP through open_clip, and FLIP from its Hugging Face folder: local files only.

FLIP is FLIP-80M (Li et al., ACM MM 2024, ``FLIP-dataset/FLIP-base-16``): neither facebookresearch/flip nor
OpenFace-CQUPT/FLIP, which are other models of the same name (docs/design.md, 3).
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from wsfp_helpers.common.checkpoints import read_weights, save_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import existing, read_json
from wsfp_helpers.nets.vlm import VisionLanguageModel, build_clip

FLIP_ARCHITECTURE = "ViT-B-16-quickgelu"
"""open_clip's name of FLIP-base-16, the model whose 149.6 M parameters the paper's Table 5 counts."""


def open_clip_model(name: str, weights_file: str | Path) -> VisionLanguageModel:
    """An open_clip architecture with weights from a local file: safetensors, or a state dict saved by torch.

    Nothing is downloaded, so only architectures with open_clip's bundled tokeniser can be had.  Pictures are
    normalised with OpenAI's mean and standard deviation.  Raises :class:`InputError` when name and file do not fit.
    """
    config = _local_config(name)
    weights = read_weights(weights_file, f"weights of {name}")
    return _with_own_tokenizer(name, build_clip(name, config, weights, weights_file), config)


def flip_from_huggingface(folder: str | Path, architecture: str = FLIP_ARCHITECTURE) -> VisionLanguageModel:
    """FLIP from its Hugging Face folder: ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``.

    ``architecture`` is the open_clip name of its shape.  Raises :class:`InputError` for a folder of another model, a
    missing or truncated file, and another shape.
    """
    config = _local_config(architecture)
    folder = existing(folder, "FLIP folder")
    _check_huggingface_config(folder / "config.json", config)
    files = [folder / "model.safetensors", folder / "pytorch_model.bin"]
    path = next((file for file in files if file.exists()), files[1])
    weights = read_weights(path, "FLIP weights")
    try:
        state = from_huggingface(weights)
    except KeyError as error:
        raise InputError(
            f"{path} has no weight {error}: expected transformers' CLIPModel; download the file again"
        ) from error
    except RuntimeError as error:  # query, key and value of sizes that cannot be stacked
        raise InputError(
            f"{path} has weights of other sizes than transformers' CLIPModel ({error}): download the file again"
        ) from error
    return _with_own_tokenizer("FLIP", build_clip(architecture, config, state, path), config)


def convert_flip(folder: str | Path, target: str | Path, architecture: str = FLIP_ARCHITECTURE) -> Path:
    """Write FLIP's Hugging Face folder as one safetensors file for ``open_clip_model(architecture, target)``."""
    save_weights(target, flip_from_huggingface(folder, architecture).clip.state_dict())
    return Path(target)


def from_huggingface(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of transformers' ``CLIPModel`` to open_clip's ``CLIP``.

    Query, key and value are stacked into one matrix, the two projections transposed, and the integer
    ``position_ids`` dropped (docs/design.md, 3).  Raises ``KeyError`` for a weight that is missing.
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
    kind = theirs.get("model_type") if isinstance(theirs, Mapping) else None
    if kind != "clip":
        raise InputError(
            f"{path} describes a model of type {kind!r}, expected 'clip': take FLIP-dataset/FLIP-base-16 of FLIP-80M, "
            f"not another model that is called FLIP"
        )
    expected = "quick_gelu" if config.get("quick_gelu") else "gelu"
    for tower in ("vision_config", "text_config"):
        own = theirs.get(tower, {})
        activation = own.get("hidden_act", "quick_gelu") if isinstance(own, Mapping) else None
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

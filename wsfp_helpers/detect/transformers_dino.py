"""Grounding DINO through transformers: 4.57, or 5.23 and later (those between misplace a caption's full stop)."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from safetensors import SafetensorError
from torch import Tensor, nn

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.detect.groundingdino import WHERE, GroundingDino, Loaded, one_name

_SWIN_B = {"window_size": 12, "embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}


class TransformersDino(GroundingDino):
    """Grounding DINO of transformers."""

    name = "grounding-dino-transformers"

    def look(self, pixels: Tensor, times: int) -> tuple[nn.Module, Any]:
        """See :meth:`GroundingDino.look`."""
        network = self.model.get_submodule("model.backbone.conv_encoder")
        found = network(pixels, torch.ones_like(pixels[:, 0], dtype=torch.long))
        return network, [tuple(each.repeat_interleave(times, 0) for each in level) for level in found]

    def answer(self, pixels: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See :meth:`GroundingDino.answer`."""
        words = self.tokenizer([*texts], return_tensors="pt").to(self.device)
        output = self.model(pixel_values=pixels, **words)
        return output.logits, output.pred_boxes


def build_transformers_model(weights: Mapping[str, Tensor], bert: Path, path: object, backbone: str) -> Loaded:
    """Model with the original's ``weights`` from ``path``, and tokenizer of a BERT folder."""
    from transformers import BertConfig, GroundingDinoConfig, SwinConfig

    swin = SwinConfig(out_indices=[2, 3, 4], **_SWIN_B if backbone == "swinb" else {})  # the default is Swin-T
    try:
        text = BertConfig.from_pretrained(bert, local_files_only=True).to_dict()
    except (OSError, ValueError) as error:
        raise InputError(f"{bert / 'config.json'} cannot be read ({error}): {WHERE}") from error
    config = GroundingDinoConfig(backbone_config=swin, text_config=text)
    return load_transformers_model(None, bert, path, config=config, state_dict=converted(weights))


def load_transformers_model(source: Path | None, bert: Path, path: object, **options) -> Loaded:
    """Model of the folder ``source`` or of ``options``, tokenizer of the folder ``bert``; errors name ``path``.

    Raises :class:`InputError` for other weights, and for a release of transformers whose answers are wrong.
    """
    from transformers import AutoTokenizer, GroundingDinoForObjectDetection

    release = version("transformers")
    if Version("5") <= Version(release) < Version("5.23"):
        raise InputError(
            f"transformers {release} misplaces the full stop of a caption, and Grounding DINO then answers "
            f"wrongly: run `pip install 'transformers>=5.23,<6'`, or 'transformers<5'"
        )

    options |= {"local_files_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:  # Releases differ in the names of a model's tensors, but each can load the published ones.
        model, report = GroundingDinoForObjectDetection.from_pretrained(source, **options)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} cannot be loaded as Grounding DINO ({error}): {WHERE}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(bert, local_files_only=True)
    except Exception as error:  # the library tokenizers raises nothing more special for half a file
        raise InputError(f"{bert} cannot be read as BERT's words ({error}): {WHERE}") from error
    wrong = [*report["missing_keys"], *report["mismatched_keys"]]  # names; transformers 5 adds shapes to the second
    if name := min((key if isinstance(key, str) else key[0] for key in wrong), default=None):
        raise InputError(f"{path} is of another network: {name} is missing or of another shape; {WHERE}")
    return model.float(), tokenizer


_NAMES = [
    (r"^transformer", "model"), (r"^bert", "model.text_backbone"), (r"^feat_map", "model.text_projection"),
    (r"^input_proj", "model.input_proj_vision"), (r"^backbone\.0", "model.backbone.conv_encoder.model"),
    (r"enc_out_bbox", "encoder_output_bbox"), (r"tgt_embed", "query_position_embeddings"),
    (r"ref_point_head", "reference_points_head"), (r"decoder\.norm", "decoder.layer_norm"), (r"linear", "fc"),
    # three kinds of layers of the encoder
    (r"model\.encoder\.layers\.(\d+)", r"model.encoder.layers.\1.deformable_layer"),
    (r"text_layers\.(\d+)", r"layers.\1.text_enhancer_layer"), (r"fusion_layers\.(\d+)", r"layers.\1.fusion_layer"),
    (r"(deformable.*)norm1", r"\1self_attn_layer_norm"), (r"(deformable.*)norm2", r"\1final_layer_norm"),
    (r"(enhancer.*)norm1", r"\1layer_norm_before"), (r"(enhancer.*)norm2", r"\1layer_norm_after"),
    (r"gamma_v", "vision_param"), (r"norm_v\.", "norm_vision."), (r"([._])v_proj", r"\1vision_proj"),
    (r"gamma_l", "text_param"), (r"norm_l\.", "norm_text."), (r"([._])l_proj", r"\1text_proj"),
    # the decoder
    (r"catext_norm", "encoder_attn_text_layer_norm"), (r"(decoder.*)norm1", r"\1encoder_attn_layer_norm"),
    (r"(decoder.*)norm2", r"\1self_attn_layer_norm"), (r"(decoder.*)norm3", r"\1final_layer_norm"),
    (r"cross_attn", "encoder_attn"), (r"ca_text", "encoder_attn_text"),
    # Swin
    (r"patch_embed\.proj", "embeddings.patch_embeddings.projection"), (r"patch_embed\.norm", "embeddings.norm"),
    (r"model\.norm1", "model.hidden_states_norms.stage2"), (r"model\.norm2", "model.hidden_states_norms.stage3"),
    (r"model\.norm3", "model.hidden_states_norms.stage4"), (r"model\.layers", "model.encoder.layers"),
    (r"(blocks.*)norm1", r"\1layernorm_before"), (r"(blocks.*)norm2", r"\1layernorm_after"),
    (r"attn\.rel", "attention.self.rel"), (r"attn\.qkv", "attention.self.in_proj"),
    (r"attn\.proj", "attention.output.dense"), (r"mlp\.fc1", "intermediate.dense"), (r"mlp\.fc2", "output.dense"),
]  # fmt: skip
"""From the original's names to those that transformers publishes: one change after the other."""


def converted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's tensors as transformers has them: other names, and query, key and value in three pieces."""
    result: dict[str, Tensor] = {}
    known = {one_name(name): value for name, value in weights.items() if not re.match(r"label_enc|bert\.pooler", name)}
    for name, value in known.items():
        for pattern, new in _NAMES:
            name = re.sub(pattern, new, name)
        if packed := re.fullmatch(r"(.*)\.in_proj[._](weight|bias)", name):
            names = (f"{packed[1]}.{part}.{packed[2]}" for part in ("query", "key", "value"))
            result |= zip(names, value.chunk(3), strict=True)
        else:
            result[name] = value
    return result

"""Grounding DINO through transformers: the same weights without groundingdino-py."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from wsfp_helpers.detect.groundingdino import WHERE, GroundingDino, bert_folder, load_weights
from wsfp_helpers.storage import InputError

SWIN = {
    "swint": {
        "window_size": 7, "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "image_size": 224
    },
    "swinb": {
        "window_size": 12, "embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "image_size": 384
    },
}  # fmt: skip


class HuggingFaceDino(GroundingDino):
    """Grounding DINO of transformers (4.57 and 5)."""

    def __init__(self, model: nn.Module, tokenizer, **options) -> None:
        super().__init__(model, tokenizer, "grounding-dino-transformers", **options)

    def forward(self, pixels: Tensor, text: str) -> tuple[Tensor, Tensor]:
        """See :meth:`GroundingDino.forward`."""
        tokens = self.tokenizer(text, return_tensors="pt").to(self.device)
        output = self.model(pixel_values=pixels, **tokens)
        return output.logits[0], output.pred_boxes[0]


def from_folder(path: str | Path) -> tuple[nn.Module, object]:
    """Model and tokenizer of a local folder in Hugging Face's form, such as IDEA-Research/grounding-dino-tiny."""
    from transformers import AutoTokenizer, GroundingDinoForObjectDetection

    if not (Path(path) / "config.json").is_file():
        raise InputError(f"no Grounding DINO folder at {path}: {WHERE}")
    try:
        model = GroundingDinoForObjectDetection.from_pretrained(path, local_files_only=True)
        return model.eval(), AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} cannot be loaded as a Grounding DINO folder ({error}): {WHERE}") from error


def build(text_encoder: str | Path, backbone: str = "swint") -> tuple[nn.Module, object]:
    """An untrained model in the shape of the original checkpoints, and the tokenizer of a local BERT folder."""
    from transformers import AutoTokenizer, BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    folder = bert_folder(text_encoder)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(**SWIN[backbone], out_indices=[2, 3, 4]),
        text_config=BertConfig.from_pretrained(folder, local_files_only=True).to_dict(),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return GroundingDinoForObjectDetection(config).eval(), tokenizer


def load_original(model: nn.Module, weights: Mapping[str, Tensor], path: object) -> None:
    """Load weights with the original project's names (:func:`converted`) into a model of transformers."""
    load_weights(model, converted(weights), path)


_TEXT = [(r"norm1", "layer_norm_before"), (r"norm2", "layer_norm_after"), (r"linear", "fc")]
_FUSION = [
    (r"gamma_v", "vision_param"), (r"gamma_l", "text_param"), (r"layer_norm_v\.", "layer_norm_vision."),
    (r"layer_norm_l\.", "layer_norm_text."), (r"_v_proj", "_vision_proj"), (r"_l_proj", "_text_proj"),
    (r"\.v_proj", ".vision_proj"), (r"\.l_proj", ".text_proj"),
]  # fmt: skip
_IMAGE = [(r"norm1", "self_attn_layer_norm"), (r"norm2", "final_layer_norm"), (r"linear", "fc")]
_DECODER = [
    (r"catext_norm", "encoder_attn_text_layer_norm"), (r"norm1", "encoder_attn_layer_norm"),
    (r"norm2", "self_attn_layer_norm"), (r"norm3", "final_layer_norm"), (r"cross_attn", "encoder_attn"),
    (r"ca_text", "encoder_attn_text"), (r"linear", "fc"),
]  # fmt: skip
_SWIN = [
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"), (r"^patch_embed\.norm", "embeddings.norm"),
    (r"^layers", "encoder.layers"), (r"norm1\.", "layernorm_before."), (r"norm2\.", "layernorm_after."),
    (r"attn\.relative", "attention.self.relative"), (r"attn\.qkv", "attention.self.in_proj"),
    (r"attn\.proj", "attention.output.dense"), (r"mlp\.fc1", "intermediate.dense"), (r"mlp\.fc2", "output.dense"),
]  # fmt: skip
_RULES = [
    (r"^transformer\.encoder\.text_layers\.(\d+)\.", r"model.encoder.layers.\1.text_enhancer_layer.", _TEXT),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.", r"model.encoder.layers.\1.fusion_layer.", _FUSION),
    (r"^transformer\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1.deformable_layer.", _IMAGE),
    (r"^transformer\.decoder\.layers\.(\d+)\.", r"model.decoder.layers.\1.", _DECODER),
    (r"^transformer\.decoder\.ref_point_head\.", "model.decoder.reference_points_head.", []),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layer_norm.", []),
    (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed.", []),
    (r"^transformer\.tgt_embed\.", "model.query_position_embeddings.", []),
    (r"^transformer\.", "model.", []),
    *(
        (rf"^backbone\.0\.norm{n}\.", f"model.backbone.conv_encoder.model.hidden_states_norms.stage{n + 1}.", [])
        for n in (1, 2, 3)
    ),
    (r"^backbone\.0\.", "model.backbone.conv_encoder.model.", _SWIN),
    (r"^bert\.", "model.text_backbone.", []),
    (r"^feat_map\.", "model.text_projection.", []),
    (r"^input_proj\.", "model.input_proj_vision.", []),
]  # fmt: skip


def converted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the original Grounding DINO under the names that transformers gives them.

    Attention weights that the original keeps in one piece (query, key, value) are split in three.
    """
    result = {}
    for key, value in weights.items():
        name = _renamed(key)
        packed = re.search(r"\.in_proj[._](weight|bias)$", name)
        if packed:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                result[f"{name[: packed.start()]}.{part}.{packed[1]}"] = piece
        else:
            result[name] = value
    return result


def _renamed(key: str) -> str:
    for pattern, prefix, inner in _RULES:
        match = re.match(pattern, key)
        if match:
            rest = key[match.end() :]
            for old, new in inner:
                rest = re.sub(old, new, rest)
            return match.expand(prefix) + rest
    return key

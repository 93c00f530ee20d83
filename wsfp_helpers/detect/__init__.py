"""Detectors of facial components behind one call, and the file that keeps their boxes (paper 3.3)."""

from importlib.util import find_spec
from pathlib import Path

from wsfp_helpers.detect.base import Detector
from wsfp_helpers.storage import InputError

DETECTORS = ("embedded", "groundingdino")


def load_detector(
    name: str = "embedded",
    weights: str | Path | None = None,
    text_encoder: str | Path | None = None,
    device: str = "cpu",
    **options: float,
) -> Detector:
    """The detector ``name``: ``"embedded"``, or ``"groundingdino"`` with local weights.

    For Grounding DINO ``weights`` is a checkpoint of the original project (with a local BERT folder as
    ``text_encoder``), run by groundingdino-py if that is installed and by transformers if not, or a folder in Hugging
    Face's form.  ``options`` are thresholds.  Raises :class:`InputError` when weights are missing; it says where to get
    them.
    """
    if name == "embedded":
        if weights is not None or text_encoder is not None:
            raise InputError(
                "the embedded detector has its own weights: leave out --weights and --text-encoder, or choose a "
                "profile with Grounding DINO (paper)"
            )
        from wsfp_helpers.detect.embedded import EmbeddedDetector

        return EmbeddedDetector(**options).to(device)
    if name != "groundingdino":
        raise InputError(f"unknown detector {name!r}: expected one of {', '.join(DETECTORS)}")
    from wsfp_helpers.detect import groundingdino, huggingface

    if weights is None:
        raise InputError(f"Grounding DINO needs weights: {groundingdino.WHERE}")
    if Path(weights).is_dir():
        return huggingface.HuggingFaceDino(*huggingface.from_folder(weights), device=device, **options)
    tensors = groundingdino.read_weights(weights)
    if text_encoder is None:
        raise InputError(f"{weights} needs a text encoder, a local folder with BERT: {groundingdino.WHERE}")
    backbone = "swinb" if "swinb" in Path(weights).name.lower() else "swint"
    if find_spec("groundingdino") is None:
        model, tokenizer = huggingface.build(text_encoder, backbone)
        huggingface.load_original(model, tensors, weights)
        return huggingface.HuggingFaceDino(model, tokenizer, device=device, **options)
    model = groundingdino.build(text_encoder, backbone=backbone)
    groundingdino.load_weights(model, tensors, weights)
    return groundingdino.GroundingDinoPy(model, device=device, **options)

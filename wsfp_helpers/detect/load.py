"""Detectors of facial components behind one call, and the file that keeps their boxes (paper 3.3)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wsfp_helpers.common.checkpoints import read_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.detect.base import DETECTORS, Detector
from wsfp_helpers.detect.groundingdino import WHERE, GroundingDino, build_package_model
from wsfp_helpers.detect.transformers_dino import TransformersDino, build_transformers_model, load_transformers_model


def load_detector(
    name: str = "embedded",
    weights: str | Path | None = None,
    text_encoder: str | Path | None = None,
    device: str = "cpu",
    **options: Any,
) -> Detector:
    """The detector ``name``: ``"embedded"``, or ``"groundingdino"`` with local weights.

    Grounding DINO is run by transformers, with the name ``"groundingdino-py"`` by the package of that name.
    ``weights`` is a checkpoint of the original project (with a local BERT folder as ``text_encoder``), or for
    transformers a folder in Hugging Face's form (IDEA-Research/grounding-dino-tiny).  ``options`` are thresholds.
    Raises :class:`InputError` when weights are missing (it says where to get them) or a package is.
    """
    if name == "embedded":
        if weights is not None or text_encoder is not None:
            raise InputError(
                "the embedded detector has its own weights: leave out --weights and --text-encoder, or choose a "
                "profile with Grounding DINO (paper)"
            )
        from wsfp_helpers.detect.embedded import EmbeddedDetector

        return EmbeddedDetector(**options).to(device)
    if name not in DETECTORS:
        raise InputError(f"unknown detector {name!r}: expected one of {', '.join(DETECTORS)}")
    if weights is None:
        raise InputError(f"Grounding DINO needs weights: {WHERE}")
    package = name == "groundingdino-py"
    if package and find_spec("groundingdino") is None:
        raise InputError(
            "the detector groundingdino-py needs the package of that name: run `pip install groundingdino-py==0.4.0 "
            "'yapf<=0.40.1'`, or take the detector groundingdino, which needs transformers only"
        )
    need_transformers()
    if Path(weights).is_dir() and not package:
        folder = _with(weights, "config.json", "Grounding DINO folder")
        return TransformersDino(*load_transformers_model(folder, folder, weights), device=device, **options)
    tensors = read_weights(_with(weights, "", "Grounding DINO weights"), "Grounding DINO weights", WHERE)
    if text_encoder is None:
        raise InputError(f"{weights} needs a text encoder, a local folder with BERT: {WHERE}")
    bert = _with(text_encoder, "config.json", "BERT folder (config.json, vocab.txt, weights)")
    backbone = "swinb" if "swinb" in Path(weights).name.lower() else "swint"
    if package:
        return GroundingDino(*build_package_model(tensors, bert, weights, backbone), device=device, **options)
    return TransformersDino(*build_transformers_model(tensors, bert, weights, backbone), device=device, **options)


def need_transformers() -> None:
    """Raise :class:`InputError` where the package of Grounding DINO is missing."""
    if find_spec("transformers") is None:
        raise InputError("Grounding DINO needs the package transformers: run pip install -e '.[detector]'")


def _with(path: str | Path, file: str, what: str) -> Path:
    if not (Path(path) / file).is_file():
        raise InputError(f"no {what} at {path}: {WHERE}")
    return Path(path)

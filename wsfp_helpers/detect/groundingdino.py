"""Grounding DINO through the package groundingdino-py, and what both of its implementations share.

One caption a component, lower case with a final full stop; the short side is enlarged to 800 pixels, the long side is
at most 1333; a query needs a token above 0.35 and a word of the phrase above 0.25 (docs/design.md, 4).
"""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from wsfp_helpers.common.checkpoints import load_strictly
from wsfp_helpers.common.pictures import normalise, resize, to_tensor
from wsfp_helpers.detect.base import PHRASES, Candidates, Detection, check_phrase, clip_box

SHORT_SIDE, LONG_SIDE, QUERIES = 800, 1333, 900
Loaded = tuple[nn.Module, Any]  # a model and its tokenizer
WHERE = (
    "take groundingdino_swint_ogc.pth (694 MB) or groundingdino_swinb_cogcoor.pth from the releases of the GitHub "
    "repository IDEA-Research/GroundingDINO and the folder google-bert/bert-base-uncased from Hugging Face, or, for "
    "transformers alone, the folder IDEA-Research/grounding-dino-tiny; nothing is downloaded unasked"
)


def caption(phrase: str) -> str:
    """The phrase as Grounding DINO reads it: ``'Eye'`` becomes ``'eye .'``."""
    return f"{phrase.lower().strip(' .')} ."


def enlarged(height: int, width: int, short: int = SHORT_SIDE, longest: int = LONG_SIDE) -> tuple[int, int]:
    """Size (H, W) that the model sees: the short side at ``short``, the long one at most ``longest``.

    Larger where that leaves fewer than 900 tokens, however a package rounds: then the model fails.
    """
    scale = min(short / min(height, width), longest / max(height, width))
    while sum(int(height * scale / stride) * int(width * scale / stride) for stride in (8, 16, 32, 64)) < QUERIES:
        scale *= 1.1
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(eq=False)
class GroundingDino:
    """Grounding DINO of groundingdino-py 0.4.0 (pure Python); another implementation has another :meth:`forward`."""

    model: nn.Module
    tokenizer: Any
    device: str = "cpu"
    box_threshold: float = 0.35
    text_threshold: float = 0.25
    short_side: int = SHORT_SIDE
    phrases: tuple[str, ...] | None = None
    name = "groundingdino-py"

    def __post_init__(self) -> None:
        self.model.to(self.device).eval()

    def forward(self, pixels: Tensor, text: str) -> tuple[Tensor, Tensor]:
        """Token logits ``(900, T)`` and boxes ``(900, 4)`` (centre and size in [0, 1]) of ``(1, 3, h, w)``."""
        output = self.model(pixels, captions=[text])
        return output["pred_logits"][0], output["pred_boxes"][0]

    @torch.no_grad()
    def __call__(self, image: np.ndarray, phrase: str) -> list[Detection]:
        """Candidates for ``phrase`` in ``(H, W, 3)`` uint8, by falling score."""
        check_phrase(self, phrase)
        return self.select(*self.forward(self.prepare(image), caption(phrase)), image.shape[:2], phrase)

    def detect_batch(self, images: Sequence[np.ndarray], phrases: Sequence[str] = PHRASES) -> list[Candidates]:
        """One forward a picture and phrase: phrases in one caption merge."""
        return [{phrase: self(image, phrase) for phrase in phrases} for image in images]

    def prepare(self, image: np.ndarray) -> Tensor:
        """The picture ``(H, W, 3)`` uint8 enlarged and normalised as ImageNet's: ``(1, 3, h, w)`` on the device."""
        size = enlarged(image.shape[0], image.shape[1], self.short_side)
        return normalise(resize(to_tensor([image]).to(self.device), size, "bilinear"))

    def select(self, logits: Tensor, boxes: Tensor, size: tuple[int, int], phrase: str) -> list[Detection]:
        """Queries above both thresholds as detections in pixels of a picture of ``size`` (H, W)."""
        ids = self.tokenizer(caption(phrase))["input_ids"]
        special = self.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "."])
        words = [place for place, token in enumerate(ids) if token not in special]
        scores = logits.sigmoid().cpu()
        best, named = scores.max(1).values, (scores[:, words] > self.text_threshold).any(1)
        corners = box_convert(boxes.cpu().double(), "cxcywh", "xyxy") * torch.tensor(size[::-1] * 2)
        kept = torch.nonzero((best > self.box_threshold) & named)[:, 0].tolist()
        found = [(clip_box(corners[i].tolist(), *size), float(best[i])) for i in kept]
        return sorted((Detection(box, score, phrase) for box, score in found if box), key=lambda d: -d.score)


class BertWrapper(nn.Module):
    """Does what groundingdino-py's wrapper of BERT does, without the method that transformers 5 removed."""

    def __init__(self, bert_model: Any) -> None:
        super().__init__()
        self.config, self.embeddings = bert_model.config, bert_model.embeddings
        self.encoder, self.pooler = bert_model.encoder, bert_model.pooler

    def forward(self, attention_mask: Tensor, **tokens: Tensor) -> dict[str, Tensor]:
        """Hidden states ``(B, T, d)`` of tokens ``(B, T)``; the mask ``(B, T, T)`` has a row for each of them."""
        embedded = self.embeddings(**tokens)
        blocked = (1 - attention_mask[:, None].to(embedded.dtype)) * torch.finfo(embedded.dtype).min
        return {"last_hidden_state": self.encoder(embedded, attention_mask=blocked)[0]}


def build_package_model(weights: Mapping[str, Tensor] | None, bert: Path, path: object, backbone: str) -> Loaded:
    """Model of groundingdino-py with the original's ``weights`` (``None``: untrained) from ``path``, and tokenizer."""
    with redirect_stdout(io.StringIO()):  # the package prints the name of its text encoder
        from groundingdino.models import build_model
        from groundingdino.models.GroundingDINO import groundingdino as package
        from groundingdino.util.slconfig import SLConfig

        package.BertModelWarper = BertWrapper
        file = {"swint": "GroundingDINO_SwinT_OGC.py", "swinb": "GroundingDINO_SwinB_cfg.py"}[backbone]
        config = SLConfig.fromfile(str(Path(package.__file__).parents[2] / "config" / file))
        config.text_encoder_type = str(bert)
        config.device, config.use_checkpoint, config.use_transformer_ckpt = "cpu", False, False
        model = build_model(config)
    if weights is not None:
        there = {one_name(name): value for name, value in weights.items()}
        known = {name: there[one_name(name)] for name in model.state_dict() if one_name(name) in there}
        load_strictly(model, known, path, WHERE)
    return model, model.tokenizer


def one_name(name: str) -> str:
    """A tensor's name; the box head has twelve names, of which a file may keep any: the first."""
    return re.sub(r"^(transformer\.decoder\.)?bbox_embed\.\d+", "bbox_embed.0", name)

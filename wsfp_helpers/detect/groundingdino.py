"""Grounding DINO through the package groundingdino-py, and what both of its implementations share.

One caption a component, lower case with a final full stop; the short side is enlarged to 800 pixels, the long side is
at most 1333; a query needs a token above 0.35 and a word of the phrase above 0.25 (docs/design.md, 4).
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import groupby, product
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
    "run `wsfp weights get groundingdino bert`, or take groundingdino_swint_ogc.pth (694 MB) or "
    "groundingdino_swinb_cogcoor.pth from the releases of the GitHub repository IDEA-Research/GroundingDINO and the "
    "folder google-bert/bert-base-uncased from Hugging Face, or, for transformers alone, the folder "
    "IDEA-Research/grounding-dino-tiny; nothing is downloaded unasked"
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
        # A GPU is faster with all captions in one batch; for a CPU's caches that is too much.
        self.batched = torch.device(self.device).type != "cpu"

    def forward(self, pixels: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What every text finds in every picture; the image network sees a picture once.

        Args:
            pixels: ``(B, 3, h, w)`` of :meth:`prepare`.
            texts: P captions whose words and full stops stand at the same places: groundingdino-py exchanges the
                masks of others between the rows of a batch.

        Returns:
            Token logits ``(B, P, 900, T)`` and boxes ``(B, P, 900, 4)`` (centre and size in [0, 1]).
        """
        at_once = len(texts) if self.batched else 1
        rows = pixels.repeat_interleave(at_once, 0)
        with once(*self.look(pixels, at_once)):
            found = [self.answer(rows, [*texts[i : i + at_once]] * len(pixels)) for i in range(0, len(texts), at_once)]
        shape = (len(pixels), at_once)
        logits, boxes = (torch.cat([x.unflatten(0, shape) for x in each], 1) for each in zip(*found, strict=True))
        return logits, boxes

    def look(self, pixels: Tensor, times: int) -> tuple[nn.Module, Any]:
        """The image network, and what it says of ``(B, 3, h, w)``, each picture ``times`` times."""
        from groundingdino.util.misc import NestedTensor, nested_tensor_from_tensor_list

        network = self.model.get_submodule("backbone.0")
        return network, {
            level: NestedTensor(*(each.repeat_interleave(times, 0) for each in found.decompose()))
            for level, found in network(nested_tensor_from_tensor_list(pixels)).items()
        }

    def answer(self, pixels: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token logits ``(N, 900, T)`` and boxes ``(N, 900, 4)`` of N pictures and their captions."""
        output = self.model(pixels, captions=[*texts])
        return output["pred_logits"], output["pred_boxes"]

    def __call__(self, image: np.ndarray, phrase: str) -> list[Detection]:
        """Candidates for ``phrase`` in ``(H, W, 3)`` uint8, by falling score."""
        return self.detect_batch([image], [phrase])[0][phrase]

    @torch.no_grad()
    def detect_batch(self, images: Sequence[np.ndarray], phrases: Sequence[str] = PHRASES) -> list[Candidates]:
        """A caption a phrase (phrases in one caption merge); on a GPU neighbours of one size share a forward."""
        alike: dict[tuple[bool, ...], list[str]] = {}
        for phrase in phrases:
            check_phrase(self, phrase)
            alike.setdefault(self.words(phrase), []).append(phrase)
        at_once = len(images) if self.batched else 1
        result: list[Candidates] = []
        for size, neighbours in groupby(images, lambda image: image.shape[:2]):
            group = list(neighbours)
            for start in range(0, len(group), at_once):
                pixels = torch.cat([self.prepare(image) for image in group[start : start + at_once]])
                found: list[Candidates] = [{} for _ in pixels]
                for some in alike.values():
                    logits, boxes = self.forward(pixels, [caption(phrase) for phrase in some])
                    for i, j in product(range(len(pixels)), range(len(some))):
                        found[i][some[j]] = self.select(logits[i, j], boxes[i, j], size, some[j])
                result += [{phrase: each[phrase] for phrase in phrases} for each in found]
        return result

    def words(self, phrase: str) -> tuple[bool, ...]:
        """Which tokens of the phrase's caption are words, not the special ones around them or full stops."""
        special = self.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "."])
        return tuple(token not in special for token in self.tokenizer(caption(phrase))["input_ids"])

    def prepare(self, image: np.ndarray) -> Tensor:
        """The picture ``(H, W, 3)`` uint8 enlarged and normalised as ImageNet's: ``(1, 3, h, w)`` on the device."""
        size = enlarged(image.shape[0], image.shape[1], self.short_side)
        return normalise(resize(to_tensor([image]).to(self.device), size, "bilinear"))

    def select(self, logits: Tensor, boxes: Tensor, size: tuple[int, ...], phrase: str) -> list[Detection]:
        """Queries above both thresholds as detections in pixels of a picture of ``size`` (H, W)."""
        words = [place for place, is_word in enumerate(self.words(phrase)) if is_word]
        scores = logits.sigmoid().cpu()
        best, named = scores.max(1).values, (scores[:, words] > self.text_threshold).any(1)
        corners = box_convert(boxes.cpu().double(), "cxcywh", "xyxy") * torch.tensor(size[::-1] * 2)
        kept = torch.nonzero((best > self.box_threshold) & named)[:, 0].tolist()
        found = [(clip_box(corners[i].tolist(), size[0], size[1]), float(best[i])) for i in kept]
        return sorted((Detection(box, score, phrase) for box, score in found if box), key=lambda d: -d.score)


@contextmanager
def once(network: nn.Module, answer: Any) -> Iterator[None]:
    """Within, ``network`` gives this answer, whatever it is asked."""
    vars(network)["forward"] = lambda *_: answer
    try:
        yield
    finally:
        del vars(network)["forward"]


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

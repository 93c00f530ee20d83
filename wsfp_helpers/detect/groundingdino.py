"""Grounding DINO through the package groundingdino-py, and what both of its implementations share.

Facts (design notes, section 4; environment notes): one caption a component, lower case with a final full stop; the
short side is enlarged to 800 pixels, the long side is at most 1333; a query is kept when its best token is above 0.35
and a word of the phrase above 0.25.  Weights are local files only: nothing is downloaded unasked.
"""

import contextlib
import io
import math
import pickle
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from wsfp_helpers.detect.base import PHRASES, Candidates, Detection, check_phrase, clip_box
from wsfp_helpers.storage import InputError, atomic_path
from wsfp_helpers.trunk import IMAGENET_MEAN, IMAGENET_STD

SHORT_SIDE, LONG_SIDE = 800, 1333
QUERIES = 900
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

    Larger where that leaves fewer than 900 tokens (a small ``short``, a long strip), with which the model fails.
    """
    scale = min(short / min(height, width), longest / max(height, width))
    while _tokens(height * scale, width * scale) < QUERIES:
        scale *= 1.1
    return max(1, round(height * scale)), max(1, round(width * scale))


def _tokens(height: float, width: float) -> int:
    # one fewer a side than there are, to be safe against either package's way to round
    return sum(math.floor(height / stride) * math.floor(width / stride) for stride in (8, 16, 32, 64))


class GroundingDino:
    """Any Grounding DINO as a detector; a subclass says how the model is called (:meth:`forward`)."""

    phrases = None

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        name: str,
        device: str = "cpu",
        box_threshold: float = 0.35,
        text_threshold: float = 0.25,
        short_side: int = SHORT_SIDE,
    ) -> None:
        self.model, self.tokenizer, self.name, self.device = model.to(device).eval(), tokenizer, name, device
        self.box_threshold, self.text_threshold, self.short_side = box_threshold, text_threshold, short_side

    def forward(self, pixels: Tensor, text: str) -> tuple[Tensor, Tensor]:
        """Token logits ``(900, T)`` and boxes ``(900, 4)`` (centre and size in [0, 1]) of ``(1, 3, h, w)``."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, image: np.ndarray, phrase: str) -> list[Detection]:
        """Candidates for ``phrase`` in ``(H, W, 3)`` uint8, by falling score."""
        check_phrase(self, phrase)
        logits, boxes = self.forward(self.prepare(image), caption(phrase))
        return self.select(logits, boxes, image.shape[:2], phrase)

    def detect_batch(self, images: Sequence[np.ndarray], phrases: Sequence[str] = PHRASES) -> list[Candidates]:
        """One forward a picture and phrase: phrases in one caption merge."""
        return [{phrase: self(image, phrase) for phrase in phrases} for image in images]

    def prepare(self, image: np.ndarray) -> Tensor:
        """The picture ``(H, W, 3)`` uint8 enlarged and normalised as ImageNet's: ``(1, 3, h, w)`` on the device."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1)[None].float() / 255
        size = enlarged(*image.shape[:2], self.short_side)
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (pixels - mean) / std

    def select(self, logits: Tensor, boxes: Tensor, size: tuple[int, int], phrase: str) -> list[Detection]:
        """Queries above both thresholds as detections in pixels of a picture of ``size`` (H, W)."""
        height, width = size
        scores = logits.sigmoid().cpu()
        words = self._words(caption(phrase), scores.shape[1])
        best, named = scores.max(1).values, (scores[:, words] > self.text_threshold).any(1)
        found = []
        for i in torch.nonzero((best > self.box_threshold) & named)[:, 0].tolist():
            x, y, w, h = boxes[i].tolist()
            corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            inside = clip_box(corners, height, width)
            if inside is not None:
                found.append(Detection(inside, float(best[i]), phrase))
        return sorted(found, key=lambda d: -d.score)

    def _words(self, text: str, tokens: int) -> Tensor:
        """Which of the text tokens ``(T,)`` are words, not [CLS], [SEP] or a full stop."""
        ids = self.tokenizer(text)["input_ids"]
        special = set(self.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "."]))
        words = torch.zeros(tokens, dtype=torch.bool)
        words[: len(ids)] = torch.tensor([i not in special for i in ids])
        return words


class GroundingDinoPy(GroundingDino):
    """Grounding DINO of groundingdino-py 0.4.0 (pure Python, CPU and CUDA)."""

    def __init__(self, model: nn.Module, **options) -> None:
        super().__init__(model, model.tokenizer, "groundingdino-py", **options)

    def forward(self, pixels: Tensor, text: str) -> tuple[Tensor, Tensor]:
        """See :meth:`GroundingDino.forward`."""
        output = self.model(pixels, captions=[text])
        return output["pred_logits"][0], output["pred_boxes"][0]


def build(text_encoder: str | Path, config: str | Path | None = None, backbone: str = "swint") -> nn.Module:
    """An untrained model of groundingdino-py.

    ``text_encoder`` is a local BERT folder, ``config`` a file of the package's form (default: its own for ``backbone``
    ``"swint"`` or ``"swinb"``).
    """
    with _quiet():
        import groundingdino
        from groundingdino.models import build_model
        from groundingdino.util.slconfig import SLConfig

        if int(version("transformers").split(".")[0]) >= 5:
            from wsfp_helpers.detect.transformers5 import replace_bert_warper

            replace_bert_warper()
        files = {"swint": "GroundingDINO_SwinT_OGC.py", "swinb": "GroundingDINO_SwinB_cfg.py"}
        arguments = SLConfig.fromfile(str(config or Path(groundingdino.__file__).parent / "config" / files[backbone]))
        arguments.text_encoder_type = str(bert_folder(text_encoder))
        arguments.device, arguments.use_checkpoint, arguments.use_transformer_ckpt = "cpu", False, False
        return build_model(arguments).eval()


@contextlib.contextmanager
def _quiet():
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints the name of its text encoder
        yield


def bert_folder(path: str | Path) -> Path:
    """``path`` if it is a local BERT folder, else an :class:`InputError` that says where to get one."""
    path = Path(path)
    if not (path / "config.json").is_file():
        raise InputError(f"no BERT folder (config.json, vocab.txt, weights) at {path}: {WHERE}")
    return path


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint of the original project (``.pth``) or of :func:`save_weights` (``.safetensors``).

    Only tensors are read, never pickled code.  Raises :class:`InputError` when the file is missing or truncated.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no Grounding DINO weights at {path}: {WHERE}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        return {key.removeprefix("module."): value for key, value in content.get("model", content).items()}
    except _UNREADABLE as error:
        what = f"{path} cannot be read as Grounding DINO weights ({type(error).__name__})"
        raise InputError(f"{what}: {WHERE}") from error


_UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, AttributeError)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: object) -> None:
    """Load ``weights``; every tensor of the model must be there, in its shape (others in the file are ignored)."""
    wanted = model.state_dict()
    aliases = _aliases(model)
    known = {key: next((weights[k] for k in (key, *aliases.get(key, ())) if k in weights), None) for key in wanted}
    wrong = [key for key, value in known.items() if value is None or value.shape != wanted[key].shape]
    if wrong:
        raise InputError(f"{path} is of another model ({wrong[0]} is missing or of another shape): {WHERE}")
    model.load_state_dict(known)


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Other names of shared tensors: a file may keep one name only."""
    names: dict[int, list[str]] = {}
    for key, value in model.state_dict(keep_vars=True).items():
        names.setdefault(value.data_ptr(), []).append(key)
    return {key: [other for other in group if other != key] for group in names.values() for key in group}


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a model's tensors as safetensors, atomically."""
    with atomic_path(path) as part:
        save_model(model, str(part))

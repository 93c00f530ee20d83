"""The embedded detector: a small single-stage head on the frozen trunk (model card: ``assets/detector.md``).

Like Grounding DINO it finds *unsided* components, returns several candidates and knows no left or right.  On every
cell of a 40 x 40 grid it gives one score and one box (distances to the four sides) a phrase, as FCOS does
(Tian et al. 2019); the score is trained towards the overlap of its box (quality focal loss, Li et al. 2020).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from wsfp_helpers.common.checkpoints import load_strictly, read_weights
from wsfp_helpers.common.files import ASSETS
from wsfp_helpers.common.pictures import square, to_tensor
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import PHRASES, Candidates, Detection, check_phrase, clip_box
from wsfp_helpers.nets.trunk import Trunk, as_grid, features, load_trunk

WEIGHTS = ASSETS / "detector.safetensors"
MADE_BY = "scripts/train_detector.py"


class DetectorHead(nn.Module):
    """Trunk tokens to scores and boxes: ``(B, 384, h, w)`` -> logits ``(B, C, 2h, 2w)``, boxes ``(B, C, 2h, 2w, 4)``.

    Boxes are xyxy in [0, 1] of the (square) picture and may reach beyond it.
    """

    def __init__(self, width: int = 384, hidden: int = 128, phrases: int = len(PHRASES)) -> None:
        super().__init__()
        fine = hidden // 2
        self.stem = nn.Sequential(nn.Conv2d(width, hidden, 1), nn.GELU(), *_block(hidden))
        self.body = nn.Sequential(nn.ConvTranspose2d(hidden, fine, 2, stride=2), nn.GELU(), *_block(fine))
        self.score = nn.Conv2d(fine, phrases, 1)
        self.sides = nn.Conv2d(fine, 4 * phrases, 1)
        # A positive is rare: with a bias of 0 the first steps would only push the scores down.
        nn.init.constant_(self.score.get_parameter("bias"), -4.0)
        nn.init.normal_(self.sides.weight, std=0.01)
        nn.init.constant_(self.sides.get_parameter("bias"), 0.7)

    def forward(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and boxes of a token grid ``(B, 384, h, w)``."""
        hidden = self.body(self.stem(grid))
        logits = self.score(hidden)
        side = logits.shape[-1]
        left, top, right, bottom = (self.sides(hidden).unflatten(1, (4, -1)).clamp(max=4).exp() / side).unbind(1)
        centre = cell_centres(side, grid)
        x, y = centre[None, :], centre[:, None]
        return logits, torch.stack([x - left, y - top, x + right, y + bottom], -1)


def _block(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.GELU()]


def cell_centres(side: int, like: Tensor) -> Tensor:
    """Centres ``(side,)`` of the cells along one axis, in [0, 1]."""
    return (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side


class EmbeddedDetector:
    """Detector of the five unsided components.

    ``head`` defaults to the shipped one, ``trunk`` to the embedded one.  At most ``most`` candidates a phrase are kept,
    above ``threshold`` and without one that overlaps a better one by more than ``overlap``.
    """

    name = "embedded"
    phrases = PHRASES

    def __init__(
        self,
        head: DetectorHead | None = None,
        trunk: Trunk | None = None,
        threshold: float = 0.15,
        overlap: float = 0.5,
        most: int = 6,
    ) -> None:
        self.head, self.trunk = (head or load_head()).eval(), trunk or load_trunk()
        self.threshold, self.overlap, self.most = threshold, overlap, most

    def to(self, device: str) -> Self:
        """The same detector on a device."""
        self.head.to(device)
        self.trunk.to(device)
        return self

    def __call__(self, image: np.ndarray, phrase: str) -> list[Detection]:
        """Candidates for ``phrase`` in ``(H, W, 3)`` uint8, by falling score."""
        return self.detect_batch([image], [phrase])[0][phrase]

    def detect_batch(self, images: Sequence[np.ndarray], phrases: Sequence[str] = PHRASES) -> list[Candidates]:
        """Candidates of pictures of any sizes; each is padded to a square and goes through the trunk once."""
        device = next(self.trunk.parameters()).device
        prepared = [self.trunk.prepare(to_tensor([square(image)]).to(device)) for image in images]
        return self.from_tokens(self.trunk(torch.cat(prepared)), [image.shape[:2] for image in images], phrases)

    def detect_faces(self, faces: WeakFaces) -> list[Candidates]:
        """Candidates of every picture; the trunk's features stay on disk (0.3 MB an image) for the other stages."""
        sizes: list[tuple[int, int]] = []

        def squares() -> Iterator[np.ndarray]:
            for i in range(len(faces)):
                image = faces.image(i)
                sizes.append(image.shape[:2])
                yield square(image)

        tokens = features(squares(), self.trunk, total=len(faces), desc="detection")
        return [self.from_tokens(tokens[i : i + 1], [size])[0] for i, size in enumerate(sizes)]

    @torch.no_grad()
    def from_tokens(
        self, tokens: Tensor, sizes: Sequence[tuple[int, int]], phrases: Sequence[str] = PHRASES
    ) -> list[Candidates]:
        """Candidates from (cached) trunk tokens ``(B, N, 384)`` of pictures with ``sizes`` (H, W)."""
        for phrase in phrases:
            check_phrase(self, phrase)
        device = next(self.head.parameters()).device
        logits, boxes = self.head(as_grid(tokens.to(device).float()))
        scores = logits.sigmoid().flatten(2).cpu()
        return [
            self._candidates(s, b, size, phrases)
            for s, b, size in zip(scores, boxes.flatten(2, 3).cpu(), sizes, strict=True)
        ]

    def _candidates(self, scores: Tensor, boxes: Tensor, size: tuple[int, int], phrases: Sequence[str]) -> Candidates:
        height, width = size
        side = max(size)
        found: Candidates = {phrase: [] for phrase in phrases}
        offset = torch.tensor([(side - width) // 2, (side - height) // 2] * 2)
        kind, cell = torch.nonzero(scores > self.threshold, as_tuple=True)
        score, box = scores[kind, cell], boxes[kind, cell] * side - offset
        for i in batched_nms(box, score, kind, self.overlap):
            phrase, inside = PHRASES[kind[i]], clip_box(box[i].tolist(), height, width)
            if phrase in found and inside is not None and len(found[phrase]) < self.most:
                found[phrase].append(Detection(inside, float(score[i]), phrase))
        return found


def load_head(path: str | Path = WEIGHTS) -> DetectorHead:
    """The shipped head; raises :class:`InputError` when its file is missing, truncated or of another head."""
    head, advice = DetectorHead(), f"restore it or run {MADE_BY}"
    weights = read_weights(path, f"detector weights (made by {MADE_BY}; the course ships them)", advice)
    load_strictly(head, weights, path, advice)
    return head.eval()

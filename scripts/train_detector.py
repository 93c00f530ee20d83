"""Train the embedded detector's head on SynthFaces celeb/pretrain, and write it and its boxes.

They go to wsfp_helpers/assets/: detector.safetensors, and what it finds in celeb/train, celeb/val and lapa/test.

usage: python scripts/train_detector.py [--steps 300] [--seed 0] [--out FILE]

Each picture is seen once as it is and in a changed copy (zoom, shift, rotation, colour, blur); a random half of
every batch is mirrored on the token grid.  Each tenth identity is held out; only its recall is printed.

After a kill the same command computes no token again; the training of the small head begins anew.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss
from tqdm.auto import tqdm

from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import atomic_path
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.detect.base import PHRASE_OF, PHRASES
from wsfp_helpers.detect.boxes import SHIPPED_BOXES, BoxRecord
from wsfp_helpers.detect.embedded import WEIGHTS, DetectorHead, EmbeddedDetector, cell_centres
from wsfp_helpers.nets.trunk import as_grid, features, load_trunk
from wsfp_helpers.score.boxes import recall_and_precision, true_boxes

SIZE = 320
BATCH = 16
RADIUS = 1.5  # cells around a box's centre that are asked for it
ZOOMS = ((1.0, 1.0), (0.45, 1.1))
"""One copy of every picture for each; faces of studio photographs are about 0.58 times as large as the rendered."""


def changed(image: np.ndarray, label_map: np.ndarray, zoom: tuple[float, float], rng: np.random.Generator):
    """A picture and its label map at 320 px, moved together; the picture also in colour, light and sharpness."""
    scale, angle = rng.uniform(*zoom), math.radians(rng.normal(0, 5))
    shift = rng.uniform(-1, 1, 2) * (0.04 + 0.5 * max(0, 1 - scale)) * SIZE * [0.6, 0.8]
    cos, sin, source = math.cos(angle) / scale, math.sin(angle) / scale, len(image) / SIZE
    dx, dy = SIZE / 2 + shift[0], SIZE / 2 + shift[1]
    matrix = np.array([[cos, sin, SIZE / 2 - cos * dx - sin * dy], [-sin, cos, SIZE / 2 + sin * dx - cos * dy]])
    matrix = tuple((matrix * source).ravel())
    # Outside the picture: the colour of its upper border, or a wall of any colour.
    wall = tuple(
        int(v) for v in (np.median(image[:4].reshape(-1, 3), 0) if rng.random() < 0.6 else rng.integers(0, 256, 3))
    )
    picture = Image.fromarray(image).transform((SIZE, SIZE), Image.AFFINE, matrix, Image.BICUBIC, fillcolor=wall)
    labels = Image.fromarray(label_map).transform((SIZE, SIZE), Image.AFFINE, matrix, Image.NEAREST)
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        picture = enhance(picture).enhance(rng.uniform(0.6, 1.4))
    tint = rng.uniform(0.85, 1.15, 3)
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2)))
    return np.clip(np.array(picture) * tint, 0, 255).astype(np.uint8), np.array(labels)


def copies(faces: Faces, seed: int):
    """Pictures and true boxes ``(n, 5)`` (phrase, xyxy in [0, 1]) of every face under every zoom."""
    for number, zoom in enumerate(ZOOMS):
        for i in range(len(faces)):
            image, label_map = faces.image(i), faces.label_map(i)
            if number:
                image, label_map = changed(image, label_map, zoom, np.random.default_rng([seed, number, i]))
            side = len(label_map)
            least = 10 * (side / 160) ** 2 * (0.5 if number else 1)
            rows = [
                [PHRASES.index(PHRASE_OF[name]), *(v / side for v in box)]
                for name, box in true_boxes(label_map, int(least)).items()
            ]
            yield image, torch.tensor(rows).reshape(-1, 5)


def assign(boxes: Tensor, side: int) -> Tensor:
    """Index of the box asked of each cell ``(phrases, side, side)``, -1 for none; the smallest box wins."""
    owner = torch.full((len(PHRASES), side, side), -1)
    centre = cell_centres(side, boxes)
    area = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])
    for i in area.argsort(descending=True):
        kind, x1, y1, x2, y2 = boxes[i].tolist()
        mx, my, half = (x1 + x2) / 2, (y1 + y2) / 2, RADIUS / side
        inside_x = (centre - mx).abs() <= max(min(half, (x2 - x1) / 2), 0.5 / side)
        inside_y = (centre - my).abs() <= max(min(half, (y2 - y1) / 2), 0.5 / side)
        owner[int(kind)][inside_y[:, None] & inside_x[None, :]] = int(i)
    return owner


def loss(head: DetectorHead, grid: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Quality focal loss of the scores and GIoU loss of the boxes, both per positive cell."""
    logits, boxes = head(grid)
    quality, losses, positives = torch.zeros_like(logits), [], 0
    for b, target in enumerate(targets):
        owner = assign(target, logits.shape[-1])
        cells = torch.nonzero(owner >= 0, as_tuple=True)
        if len(cells[0]):
            giou = generalized_box_iou_loss(boxes[b][cells], target[owner[cells], 1:])
            quality[b][cells] = _iou(boxes[b][cells].detach(), target[owner[cells], 1:])
            losses.append(giou.sum())
            positives += len(cells[0])
    focal = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    focal = focal * (quality - logits.sigmoid()).abs().square()
    return focal.sum() / positives, sum(losses) / positives


def _iou(a: Tensor, b: Tensor) -> Tensor:
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    return shared / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared)


def mirrored(boxes: Tensor) -> Tensor:
    """Boxes of the mirrored picture."""
    flipped = boxes.clone()
    flipped[:, 1], flipped[:, 3] = 1 - boxes[:, 3], 1 - boxes[:, 1]
    return flipped


def train(tokens: Tensor, targets: list[Tensor], steps: int, seed: int) -> DetectorHead:
    """The head after ``steps`` steps of AdamW (one-cycle learning rate) on cached tokens ``(n, 400, 384)``."""
    torch.manual_seed(seed)
    rng, head = np.random.default_rng(seed), DetectorHead()
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.15)
    bar = tqdm(range(steps), desc="detector")
    for _ in bar:
        chosen = rng.choice(len(tokens), BATCH, replace=False)
        grid, batch = as_grid(tokens[chosen].float()), [targets[i] for i in chosen]
        flip = torch.from_numpy(rng.random(BATCH) < 0.5)
        grid = torch.where(flip[:, None, None, None], grid.flip(-1), grid)
        batch = [mirrored(t) if f else t for t, f in zip(batch, flip, strict=True)]
        scores, boxes = loss(head, F.dropout2d(grid, 0.1), batch)
        optimiser.zero_grad()
        (scores + 2 * boxes).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(score=f"{scores.item():.3f}", box=f"{boxes.item():.3f}")
    return head.eval()


def main() -> None:
    """Train, print the recall on the held-out identities, write the head at half precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()

    faces, trunk = synthfaces("celeb/pretrain"), load_trunk()
    identity = faces.attributes["identity"]
    held = np.tile(np.isin(identity, np.unique(identity)[::10]), len(ZOOMS))
    targets: list[Tensor] = []

    def pictures():
        for image, boxes in copies(faces, options.seed):
            targets.append(boxes)
            yield image

    tokens = features(pictures(), trunk, total=len(held), desc="trunk features")
    seen = np.flatnonzero(~held)
    head = train(tokens[seen], [targets[i] for i in seen], options.steps, options.seed)

    detector = EmbeddedDetector(head, trunk)
    unseen = np.flatnonzero(held)
    found = [detector.from_tokens(tokens[i : i + 1], [(SIZE, SIZE)])[0] for i in unseen]
    for kind, phrase in enumerate(PHRASES):
        truth = [[tuple(SIZE * v for v in row[1:]) for row in targets[i].tolist() if row[0] == kind] for i in unseen]
        scores = recall_and_precision([f[phrase] for f in found], truth)
        print(f"{phrase:8} held-out identities: " + ", ".join(f"{key} {value:.1f}" for key, value in scores.items()))
    save_weights(options.out, {key: value.half() for key, value in head.state_dict().items()})
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    for split, boxes in () if options.out != WEIGHTS else SHIPPED_BOXES.items():
        faces, detector = synthfaces(split), EmbeddedDetector(head, trunk)
        found = zip(faces.ids, detector.detect_faces(faces.weak), strict=True)
        lines = [BoxRecord(key, (160, 160), detector.name, candidates).line() for key, candidates in found]
        with atomic_path(boxes) as part:
            part.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    with exit_on_bad_input():
        main()

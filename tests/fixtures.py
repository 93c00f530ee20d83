"""What several tests need: small copies of data sets with the true layout, sizes and formats, and a small training."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.draw import ellipse
from torch import nn

from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS, LAPA, PROMPTS, K
from wsfp_helpers.method.train import TrainConfig
from wsfp_helpers.method.vit import MultiClassTokenViT
from wsfp_helpers.nets.resnet38 import Block
from wsfp_helpers.nets.vlm import VisionLanguageModel, WordTokenizer
from wsfp_helpers.parsing.fit import FitConfig
from wsfp_helpers.parsing.light import LightDecoder, LightParser, ParserConfig

TESTS = Path(__file__).parent

# Centre and radii (y, x) of each part as shares of the picture, of a frontal face in the half that its side names.
PARTS = {
    "skin": (0.55, 0.5, 0.3, 0.22), "nose": (0.58, 0.5, 0.07, 0.04), "l_eye": (0.48, 0.6, 0.02, 0.04),
    "r_eye": (0.48, 0.4, 0.02, 0.04), "l_brow": (0.42, 0.6, 0.015, 0.06), "r_brow": (0.42, 0.4, 0.015, 0.06),
    "l_ear": (0.52, 0.74, 0.06, 0.02), "r_ear": (0.52, 0.26, 0.06, 0.02), "mouth": (0.71, 0.5, 0.01, 0.05),
    "u_lip": (0.69, 0.5, 0.012, 0.06), "l_lip": (0.73, 0.5, 0.015, 0.06), "hair": (0.25, 0.5, 0.15, 0.25),
    "neck": (0.92, 0.5, 0.1, 0.15), "ear_r": (0.6, 0.74, 0.01, 0.01),
}  # fmt: skip


def disc(name: str, height: int, width: int) -> np.ndarray:
    """Where a part is: bool ``(height, width)``."""
    y, x, ry, rx = PARTS[name]
    mask = np.zeros((height, width), bool)
    mask[ellipse(y * height, x * width, max(ry * height, 1.5), max(rx * width, 1.5), mask.shape)] = True
    return mask


def picture(seed: int, height: int, width: int) -> Image.Image:
    """A smooth picture, another for every seed."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def save(image: Image.Image | np.ndarray, path: Path) -> None:
    """Write an image, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)


def lapa_map(height: int, width: int) -> np.ndarray:
    """The face in LaPa's classes: left is the left half of the picture here."""
    parts = {
        "skin": "skin", "hair": "hair", "nose": "nose", "upper_lip": "u_lip", "lower_lip": "l_lip",
        "inner_mouth": "mouth", "left_eye": "r_eye", "right_eye": "l_eye", "left_eyebrow": "r_brow",
        "right_eyebrow": "l_brow",
    }  # fmt: skip
    label_map = np.zeros((height, width), np.uint8)
    for name, part in parts.items():
        label_map[disc(part, height, width)] = LAPA.index(name)
    return label_map


CELEBA_FILES = {0: ("000501.jpg", 0), 1: ("162771.jpg", 1), 2: ("182638.jpg", 2), 2001: ("000007.jpg", 0)}
"""Pictures of the small CelebAMask-HQ: their file in CelebA, and its part of the partition."""
CELEBA_COUNTS = {"train": 2, "val": 1, "test": 1}


def make_celebamask(root: Path, merged: bool = False) -> Path:
    """Four pictures; 2001 has an empty part file (hair), 2 has grey part files and no ears."""
    for key in CELEBA_FILES:
        save(picture(key, 1024, 1024), root / "CelebA-HQ-img" / f"{key}.jpg")
        label_map = np.zeros((512, 512), np.uint8)
        for name in sorted(PARTS, key=CELEBAMASK.index):
            if key == 2 and "ear" in name:
                continue
            mask = disc(name, 512, 512) * np.uint8(255 if (key, name) != (2001, "hair") else 0)
            label_map[mask > 0] = CELEBAMASK.index(name)
            if not merged:
                image = Image.fromarray(mask if key == 2 else np.dstack([mask] * 3))
                save(image, root / "CelebAMask-HQ-mask-anno" / str(key // 2000) / f"{key:05d}_{name}.png")
        if merged:
            save(label_map, root / "CelebAMaskHQ-mask" / f"{key}.png")
    # The 0-based orig_idx is one less than the number of the file, so a join on it would move pictures 1 and 2.
    lines = [f"{key:<10}{int(file[:6]) - 1:<10}{file}" for key, (file, _) in CELEBA_FILES.items()]
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["idx  orig_idx  orig_file", *lines]) + "\n")
    boundaries = [1, 6, 7, 500, 501, 502, 162770, 162771, 182637, 182638]
    partition = [f"{n:06d}.jpg {0 if n <= 162770 else 1 if n <= 182637 else 2}\n" for n in boundaries]
    (root / "list_eval_partition.txt").write_text("".join(partition))
    return root


def make_lapa(root: Path) -> Path:
    """Two pictures of training, one of the others, of different sizes."""
    for i, (split, key, size) in enumerate(
        [
            ("train", "100_0", (90, 80)),
            ("train", "101_1", (64, 96)),
            ("val", "102_0", (70, 70)),
            ("test", "9", (80, 60)),
        ]
    ):
        save(picture(i, *size), root / split / "images" / f"{key}.jpg")
        save(lapa_map(*size), root / split / "labels" / f"{key}.png")
        (root / split / "landmarks").mkdir(exist_ok=True)
        (root / split / "landmarks" / f"{key}.txt").write_text("106\n")
    return root


def make_helen(root: Path) -> Path:
    """The layout of Smith et al.: soft maps, 0 to 255, and three lists."""
    lists = {"exemplars.txt": ["10_1", "11_2"], "tuning.txt": ["12_1"], "testing.txt": ["13_1"]}
    for name, ids in lists.items():
        root.mkdir(exist_ok=True)
        (root / name).write_text("".join(f"{i + 1} , {key}\n" for i, key in enumerate(ids)) + "\n")
        for key in ids:
            size = (96, 72)
            save(picture(int(key[:2]), *size), root / "images" / f"{key}.jpg")
            for c in range(11):
                soft = np.where(lapa_map(*size) == c, 200, 25).astype(np.uint8)
                save(soft, root / "labels" / key / f"{key}_lbl{c:02d}.png")
    return root


def make_helen_relabelled(root: Path) -> Path:
    """The relabelled layout: picture and map side by side; test_resize repeats the ids of test in another size."""
    for i, (split, key, size) in enumerate(
        [("train", "10_1", (60, 50)), ("test", "13_1", (64, 48)), ("test_resize", "13_1", (32, 24))]
    ):
        save(picture(i, *size), root / split / f"{key}_image.jpg")
        save(lapa_map(*size), root / split / f"{key}_label.png")
    return root


def make_folder(root: Path) -> Path:
    """Pictures of several suffixes with index PNGs of 19 classes."""
    for i, name in enumerate(["a.JPG", "b.png", "c.webp", "d.tiff"]):
        save(picture(i, 40, 30), root / "images" / name)
        label_map = np.zeros((40, 30), np.uint8)
        for part in ("skin", "hair", "l_eye", "r_eye"):
            label_map[disc(part, 40, 30)] = CELEBAMASK.index(part)
        label_map[0, 0] = 255
        save(label_map, root / "labels" / f"{name[0]}.png")
    (root / "images" / "notes.txt").write_text("no picture")
    (root / "images" / ".hidden.png").write_bytes(b"no picture")
    return root


CONFIG = TrainConfig(epochs=2, batch_size=4, lr=1e-3, warmup_epochs=1, save_every=3)
"""A training of six steps on :func:`tiny_faces`."""


def tiny_vlm() -> VisionLanguageModel:
    """A real open_clip model with one layer a tower."""
    words = sorted({word for prompt in PROMPTS for word in prompt.split()})
    tokenizer = WordTokenizer(words, 16)
    torch.manual_seed(0)
    tower = {"width": 32, "heads": 2, "layers": 1}
    clip = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "patch_size": 16, "head_width": 16, "width": 32, "layers": 1},
        text_cfg={"context_length": 16, "vocab_size": tokenizer.size, **tower},
    )
    return VisionLanguageModel("tiny", clip, tokenizer, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def tiny_faces(n: int = 12, size: int = 64) -> WeakFaces:
    """Pictures of noise with labels of chance; the first class is always there."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (n, size, size, 3), np.uint8)
    labels = rng.integers(0, 2, (n, K), np.uint8)
    labels[:, 0] = 1
    ids = [f"{i:03d}" for i in range(n)]
    return WeakFaces("tiny", ids, lambda key: pictures[int(key)], labels)


def tiny_vit(seed: int = 0, **changes: object) -> MultiClassTokenViT:
    """A class-token ViT of two blocks for pictures of 64 pixels."""
    torch.manual_seed(seed)
    return MultiClassTokenViT(**({"blocks": 2, "size": 64, "width": 24, "heads": 2, "drop_path": 0.1} | changes))


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks have the same weights, bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


LAUNCHED = """
import sys
sys.path[:0] = {paths!r}
from wsfp_helpers.common.accelerator import processes
assert processes().num_processes == {count}
{code}
"""


def run_in_processes(code: str, count: int, folder: Path) -> subprocess.CompletedProcess:
    """Run Python code in ``count`` processes of gloo; its imports may be those of tests.

    By torchrun, because ``accelerate launch --cpu --num_processes 2`` starts one process.
    """
    script = folder / "launched.py"
    script.write_text(LAUNCHED.format(paths=[str(TESTS.parent), str(TESTS)], count=count, code=code))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",
        f"--nproc-per-node={count}",
        script,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


PARSER = ParserConfig(
    size=32, width=24, stem=8, window=16, copies=1, rare_copies=1,
    fit=FitConfig(steps=6, batch=2, lr=1e-3, optimiser="adamw", save_every=2, dice=0.5),
)  # fmt: skip
"""A light parser of a few weights."""


class TinyTrunk(nn.Module):
    """4 x 4 tokens of 6 numbers: mean colours of the patches and their squares."""

    size, patch, width, fingerprint = 64, 16, 6, "tiny"

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def prepare(self, images, size=None):
        return F.interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False)

    def forward(self, prepared):
        grid = F.avg_pool2d(prepared, 16)
        return torch.cat([grid, grid**2], 1).flatten(2).transpose(1, 2)


def tiny_parser(kind=LightParser):
    """A light parser with random weights on :class:`TinyTrunk`."""
    torch.manual_seed(0)
    return kind(LightDecoder(PARSER, 6), TinyTrunk(), PARSER, {"trained_on": "nothing"})


def blocks(rng, size=32):
    """Picture whose grey level says its class: class k is (10 k, 10 k, 10 k), in 4 x 4 blocks."""
    target = rng.integers(0, 19, (size // 4, size // 4), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    return np.stack([target * 10] * 3, -1), target


def block_faces(n=4):
    """Faces made of :func:`blocks`, and the function that gives the target of each."""
    rng = np.random.default_rng(0)
    data = [blocks(rng) for _ in range(n)]
    labels = np.zeros((n, len(COMPONENTS)), np.uint8)
    labels[0, COMPONENTS.index("hat")] = 1
    faces = WeakFaces("blocks", [str(i) for i in range(n)], lambda key: data[int(key)][0], labels)
    return faces, lambda i: data[i][1]


def random_pairs(n, classes=19, size=(24, 17), agree=0.6, seed=0):
    """``n`` random (prediction, truth) label maps, a tenth of the truth ignored."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        truth = rng.integers(0, classes, size, dtype=np.uint8)
        prediction = np.where(rng.random(size) < agree, truth, rng.integers(0, classes, size)).astype(np.uint8)
        truth[rng.random(size) < 0.1] = 255
        yield prediction, truth


def face_map():
    """A label map whose left and right differ: brows and eyes of different sizes, nose and lips in the middle."""
    label_map = np.zeros((40, 60), np.uint8)
    label_map[5:38, 5:55] = 1
    for name, box in {
        "l_brow": (8, 10, 35, 50), "r_brow": (8, 11, 12, 25), "l_eye": (13, 17, 36, 48), "r_eye": (14, 17, 14, 22),
        "nose": (18, 26, 27, 33), "u_lip": (28, 30, 22, 38), "mouth": (30, 32, 22, 38), "l_lip": (32, 34, 22, 38),
    }.items():  # fmt: skip
        top, bottom, left, right = box
        label_map[top:bottom, left:right] = CELEBAMASK.index(name)
    return label_map


class TinyResNet38(nn.Module):
    """A backbone with the names of ResNet38 and almost no weights: one block, of two layers as ``Block`` takes them."""

    def __init__(self, first=(3, 6, 1, 1), last=(3, 8, 1, 1)):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=8, padding=1, bias=False)
        self.blocks = nn.ModuleDict({"2a": Block(4, [first, last])})
        self.bn = nn.BatchNorm2d(last[1])

    def forward(self, x):
        return torch.relu(self.bn(self.blocks["2a"](self.stem(x))))

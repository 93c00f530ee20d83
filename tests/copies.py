"""Small copies of data sets with the true layout, sizes and formats, for the tests of the readers."""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage.draw import ellipse

from wsfp_helpers.labels import CELEBAMASK, LAPA

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

"""Ask whether patch features of real photographs group by part, through the paper profile's own path at 448 pixels.

usage: python scripts/measure_patches.py WEIGHTS [FOLDER]

WEIGHTS is timm's DeiT-S/16, or a DINOv2 ViT-S in its shape; FOLDER is where patches.json and its page go, by default
results/.  The photographs are every third of FRL London, each a square around the parts that its points outline.  Of
each patch on one part the nearest of the other people's means by part is named (features without their mean, at length
1); the number is the share of a part's patches that are named right, the mean over parts.  The same for random weights,
and for the places of the patches alone, which say much where faces are upright.  Draws patches.png beside the results:
k-means of the patches of all photographs, which knows no parts.
"""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from sklearn.cluster import KMeans

from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import atomic_path
from wsfp_helpers.data.frl import frl_london
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.method.vit import PATCH, MultiClassTokenViT, vit_inputs
from wsfp_helpers.notebook.plots import gallery
from wsfp_helpers.profiles import profile
from wsfp_helpers.tooling.results import row, write_results

PARTS = {
    "skin": ("skin",), "nose": ("nose",), "eyes": ("l_eye", "r_eye"), "brows": ("l_brow", "r_brow"),
    "ears": ("l_ear", "r_ear"), "lips": ("u_lip", "l_lip"), "neck": ("neck",),
}  # fmt: skip
"""Parts that the points outline; left and right count as one, which mirrored neighbours of a patch cannot tell."""
BLOCKS = (4, 6, 8, 10, 12)
"""After which the patches are looked at."""
MOST, MARGIN = 0.5, 1.3
"""Share of a patch that its part has to cover, and side of the square, through the longer side of the parts."""
CLUSTERS, SHOWN, AFTER = 12, 6, 8
"""Of k-means, photographs of the figure, and the block that it shows."""


def measure(weights: Path, folder: Path) -> list[dict]:
    """Rows by network and block, and the figure."""
    pictures, parts = cut_faces()
    config = replace(profile("paper").model, weights=str(weights.absolute()))
    networks = {"pretrained": config.build(), "random": config.empty()}
    rows = []
    for name, vit in networks.items():
        tokens = patch_tokens(vit, pictures)
        for block in BLOCKS:
            rows.append(scored(f"{name} weights, after block {block}", directions(tokens[block - 1]), parts))
        if name == "pretrained":
            draw(pictures, directions(tokens[AFTER - 1]), folder / "patches.png")
    side = config.size // PATCH
    places = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, side)]), -1).reshape(1, -1, 2)
    rows.append(scored("the places of the patches alone", places.repeat(len(pictures), 0), parts))
    return rows


def cut_faces() -> tuple[list[np.ndarray], np.ndarray]:
    """Square pictures around the faces, and the number of the part of each of their patches, ``(n, N)``; -1: none."""
    faces = frl_london()
    size, pictures, parts = profile("paper").model.size, [], []
    for i in range(0, len(faces), 3):
        label_map, picture = faces.label_map(i), faces.image(i)
        y, x = np.nonzero(np.isin(label_map, [CELEBAMASK.index(each) for part in PARTS.values() for each in part]))
        half = int(MARGIN * max(np.ptp(y), np.ptp(x)) / 2)
        box = (slice(max(0, mid - half), mid + half) for mid in ((y.min() + y.max()) // 2, (x.min() + x.max()) // 2))
        rows, columns = box
        shown = Image.fromarray(picture[rows, columns]).resize((size, size), Image.Resampling.BICUBIC)
        pictures.append(np.array(shown))
        small = Image.fromarray(label_map[rows, columns]).resize((size, size), Image.Resampling.NEAREST)
        parts.append(part_of_patches(np.array(small)))
    return pictures, np.stack(parts)


def part_of_patches(label_map: np.ndarray) -> np.ndarray:
    """Number of the part that covers more than half of each patch ``(N,)``, row by row; -1 where none does."""
    side = len(label_map) // PATCH
    blocks = label_map.reshape(side, PATCH, side, PATCH)
    shares = [
        np.isin(blocks, [CELEBAMASK.index(each) for each in classes]).mean((1, 3)).ravel() for classes in PARTS.values()
    ]
    return np.where(np.max(shares, 0) > MOST, np.argmax(shares, 0), -1)


@torch.inference_mode()
def patch_tokens(vit: MultiClassTokenViT, pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Patch tokens after every block, ``(n, N, d)`` each."""
    found: list[list[np.ndarray]] = [[] for _ in vit.blocks]
    hooks = [
        block.register_forward_hook(lambda _, __, x, kept=kept: kept.append(x[0, vit.num_classes :].numpy()))
        for block, kept in zip(vit.blocks, found, strict=True)
    ]
    vit.eval()
    for picture in pictures:
        vit(vit_inputs(vit, [picture]))
    for hook in hooks:
        hook.remove()
    return [np.stack(each) for each in found]


def scored(name: str, tokens: np.ndarray, parts: np.ndarray) -> dict:
    """The row of features ``(n, N, d)``: percent of each part's patches that the other people's means name right."""
    right = np.zeros((len(PARTS), 2))
    for i in range(len(tokens)):
        others = np.arange(len(tokens)) != i
        means = np.stack([tokens[others][parts[others] == k].mean(0) for k in range(len(PARTS))])
        named = np.square(tokens[i][:, None] - means).sum(-1).argmin(1)
        for k in range(len(PARTS)):
            mine = parts[i] == k
            right[k] += (named[mine] == k).sum(), mine.sum()
    shares = 100 * right[:, 0] / right[:, 1]
    return row(name, "balanced_accuracy", "percent", [shares.mean()], dict(zip(PARTS, shares[:, None], strict=True)))


def directions(tokens: np.ndarray) -> np.ndarray:
    """Features ``(n, N, d)`` without their mean, at length 1."""
    centred = tokens - tokens.mean((0, 1))
    return centred / np.linalg.norm(centred, axis=-1, keepdims=True)


def draw(pictures: list[np.ndarray], tokens: np.ndarray, path: Path) -> None:
    """Photographs, and below each the clusters of its patches, which are those of all photographs."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    clusters = KMeans(CLUSTERS, n_init=4, random_state=0).fit_predict(flat).reshape(len(tokens), -1)
    side, colours = round(tokens.shape[1] ** 0.5), (255 * np.array(colormaps["tab20"].colors)).astype(np.uint8)
    chosen = np.linspace(0, len(pictures) - 1, SHOWN).astype(int)
    maps = [colours[clusters[i]].reshape(side, side, 3) for i in chosen]
    title = f"Clusters of patches after block {AFTER}, of {len(pictures)} photographs together"
    figure = gallery([pictures[i] for i in chosen] + maps, [""] * 2 * SHOWN, title, SHOWN)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    source, target = Path(sys.argv[1]), Path((*sys.argv[2:], "results")[0])
    with exit_on_bad_input():
        print(write_results("patches", "python scripts/measure_patches.py WEIGHTS", measure(source, target), target))

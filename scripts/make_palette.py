"""Search the 19-colour palette: neighbours on a face stay apart in normal vision and three deficiencies.

Starts from colours that one would wish for a face and moves them no further than the distances need.

usage: python scripts/make_palette.py [--steps 40000] [--seed 1]      prints the palette for wsfp_helpers/palette.py
"""

import argparse

import numpy as np
from skimage.color import deltaE_ciede2000, rgb2lab

from wsfp_helpers.labels import CELEBAMASK, NEIGHBOURS
from wsfp_helpers.palette import DEFICIENCIES, IGNORED_COLOUR, simulate_deficiency

WISHES = {
    "background": (0, 0, 0), "skin": (240, 205, 175), "nose": (225, 125, 60), "eye_g": (30, 50, 130),
    "l_eye": (60, 140, 225), "r_eye": (20, 200, 200), "l_brow": (110, 60, 160), "r_brow": (185, 140, 230),
    "l_ear": (245, 215, 70), "r_ear": (150, 165, 40), "mouth": (80, 0, 25), "u_lip": (215, 40, 60),
    "l_lip": (255, 145, 165), "hair": (100, 65, 40), "hat": (20, 125, 70), "ear_r": (255, 255, 255),
    "neck_l": (0, 235, 130), "neck": (185, 130, 105), "cloth": (80, 105, 135),
}  # fmt: skip
NEAR, FAR = 16.0, 8.0
"""CIEDE2000 wished for between neighbours, and between any two colours (5 is told apart at a glance side by side)."""


def main(steps: int, seed: int) -> None:
    """Search, and print what was found."""
    rng = np.random.default_rng(seed)
    near = np.array([[CELEBAMASK.index(a), CELEBAMASK.index(b)] for a, b in NEIGHBOURS])
    far = np.array(np.triu_indices(len(CELEBAMASK) + 1, 1)).T
    wishes = np.array([WISHES[name] for name in CELEBAMASK.classes])
    wished_lab = rgb2lab(wishes / 255)

    def distances(palette: np.ndarray) -> tuple[float, float]:
        colours = np.vstack([palette, IGNORED_COLOUR])
        looks = np.stack([colours, *(simulate_deficiency(colours, kind) for kind in DEFICIENCIES)])
        labs = rgb2lab(looks / 255)
        return tuple(deltaE_ciede2000(labs[:, p[:, 0]], labs[:, p[:, 1]]).min() for p in (near, far))

    def score(palette: np.ndarray) -> float:
        closest, any_two = distances(palette)
        moved = deltaE_ciede2000(rgb2lab(palette / 255), wished_lab).mean()
        return min(closest, NEAR) + min(any_two, FAR) - 0.2 * moved

    palette, best = wishes, score(wishes)
    for step in range(steps):
        trial = palette.copy()
        k = rng.integers(1, len(CELEBAMASK))
        start = wishes[k] if rng.random() < 0.2 else trial[k]
        trial[k] = np.clip(start + rng.normal(0, 60 * (1 - step / steps) + 3, 3), 0, 255)
        new = score(trial)
        if new >= best:
            palette, best = trial, new
    print("CIEDE2000, worst of four visions: neighbours {:.1f}, any two {:.1f}".format(*distances(palette)))
    print("\n".join(f"    ({r}, {g}, {b}),  # {n}" for (r, g, b), n in zip(palette, CELEBAMASK.classes, strict=True)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=1)
    main(**vars(parser.parse_args()))

"""Ship the three networks of Table 3, seed 0, as half-precision assets for the notebooks.

usage: python scripts/ship_models.py [--seed 0]      trains what `wsfp ablate table3` has not trained yet
"""

import argparse
from pathlib import Path

from wsfp_helpers.ablate import table3, train_row
from wsfp_helpers.data.cache import cache_dir
from wsfp_helpers.pipeline import ASSETS, open_boxes
from wsfp_helpers.profiles import profile
from wsfp_helpers.runs import load_weights, save_weights
from wsfp_helpers.storage import exit_on_bad_input

NAMES = ("base", "ccd", "full")


def half(source: Path, target: Path) -> None:
    weights, _ = load_weights(source)
    save_weights(target, {name: value.half() for name, value in weights.items()})
    print(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB")


def main(seed: int) -> None:
    config = profile("embedded")
    boxes = open_boxes("shipped", config)
    for name, row in zip(NAMES, table3(config), strict=True):
        run = train_row(row, config, boxes, seed, cache_dir() / "ablate")
        half(run / "model.safetensors", ASSETS / f"fcam_{name}.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    with exit_on_bad_input():
        main(**vars(parser.parse_args()))

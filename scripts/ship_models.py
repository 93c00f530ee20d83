"""Ship the three networks of Table 3, seed 0, as half-precision assets for the notebooks.

usage: python scripts/ship_models.py [--seed 0]      trains what `wsfp ablate table3` has not trained yet
"""

import argparse

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.checkpoints import read_weights, save_weights
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import ASSETS
from wsfp_helpers.method.train import MODEL
from wsfp_helpers.profiles import profile
from wsfp_helpers.stages import SHIPPED, run_keyed
from wsfp_helpers.tooling.ablate import table3

NAMES = ("base", "ccd", "full")


def main(seed: int) -> None:
    """Train what is missing, and write the assets."""
    config = profile("embedded")
    for name, row in zip(NAMES, table3(config), strict=True):
        run, target = run_keyed(row.change(config, seed), SHIPPED, cache_dir() / "ablate"), ASSETS / f"fcam_{name}"
        target = target.with_suffix(".safetensors")
        save_weights(target, {key: value.half() for key, value in read_weights(run / MODEL).items()})
        print(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    with exit_on_bad_input():
        main(**vars(parser.parse_args()))

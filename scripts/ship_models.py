"""Ship the three networks of Table 3 and the compared systems, seed 0, as half-precision assets for the notebooks.

usage: python scripts/ship_models.py fcam|systems [--seed 0]      trains what the tables have not trained yet
"""

import argparse
from collections.abc import Mapping

from torch import Tensor

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.checkpoints import read_weights, save_weights
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import ASSETS
from wsfp_helpers.method.train import MODEL
from wsfp_helpers.profiles import profile
from wsfp_helpers.stages import SHIPPED, run_keyed, run_system
from wsfp_helpers.systems.class_tokens import McTformerPlus
from wsfp_helpers.systems.every import SYSTEMS
from wsfp_helpers.tooling.ablate import table3

NAMES = ("base", "ccd", "full")


def ship_fcams(seed: int) -> None:
    """Train what is missing of Table 3, and write ``fcam_base``, ``fcam_ccd`` and ``fcam_full``."""
    config = profile("embedded")
    for name, row in zip(NAMES, table3(config), strict=True):
        run = run_keyed(row.change(config, seed), SHIPPED, cache_dir() / "ablate")
        _write(f"fcam_{name}", read_weights(run / MODEL))


def ship_systems(seed: int) -> None:
    """Train what is missing of Table 1, and write the systems that have weights of their own."""
    for name, kind in SYSTEMS.items():
        if issubclass(kind, McTformerPlus):
            continue  # the networks of Table 3
        system, _ = run_system(name, profile("embedded"), cache_dir(), seed=seed)
        if weights := system.shipped.state_dict():
            _write(f"system_{name}", weights)


def _write(name: str, weights: Mapping[str, Tensor]) -> None:
    path = ASSETS / f"{name}.safetensors"
    save_weights(path, {key: value.half() if value.is_floating_point() else value for key, value in weights.items()})
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fcam", "systems"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with exit_on_bad_input():
        {"fcam": ship_fcams, "systems": ship_systems}[arguments.what](arguments.seed)

"""Ship networks of the tables, seed 0, as half-precision assets for the notebooks.

usage: python scripts/ship_models.py fcam|systems [--seed 0]      trains what the tables have not trained yet
       python scripts/ship_models.py parser [--seed 0]            a light parser of the pseudo labels of fcam_full
       python scripts/ship_models.py scores [--results FOLDER]    of that parser: parser_plain.json and its page

What was trained is kept in the cache, and a training that was killed goes on from its last saved state.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.checkpoints import read_weights, save_weights
from wsfp_helpers.common.configs import key_of
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.files import ASSETS, atomic_path, sha256_of
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.method.train import MODEL
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.profiles import profile
from wsfp_helpers.stages import SHIPPED, load_shipped, run_keyed, run_system, score_parser, train_parser
from wsfp_helpers.systems.class_tokens import McTformerPlus
from wsfp_helpers.systems.every import SYSTEMS
from wsfp_helpers.tooling.ablate import table3
from wsfp_helpers.tooling.results import scored_rows, write_results

NAMES = ("base", "ccd", "full")
PLAIN = ASSETS / "parser_plain.safetensors"


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


def ship_parser(seed: int) -> None:
    """Train the profile's parser on the pseudo labels of ``fcam_full``, as they are, and write ``parser_plain``."""
    config, maps = profile("embedded"), ASSETS / "fcam_full.safetensors"
    faces = config.faces("train").weak
    labels = [pseudo_label(fcam, config.theta) for fcam in extract(load_shipped("full"), faces, config.fcam)]
    facts = {
        "targets": f"plain pseudo labels of SynthFaces-19 celeb/train: maps of {maps.name} ({sha256_of(maps)[:12]})",
        "command": f"python scripts/ship_models.py parser --seed {seed}",
    }
    folder = cache_dir() / "parsers" / f"plain-{key_of({'parser': config.parser, **facts})}"
    trained = train_parser(config.parser, faces, labels.__getitem__, folder, facts, seed)
    with atomic_path(PLAIN) as part:
        part.write_bytes(trained.read_bytes())
    print(f"{PLAIN.name}: {PLAIN.stat().st_size / 1e6:.1f} MB")


def score(results: Path) -> None:
    """Write what the shipped ``parser_plain`` scores on celeb/test to a folder of results."""
    faces = synthfaces("celeb/test")
    matrices = score_parser(load_parser(PLAIN), faces)[None]
    rows = scored_rows(f"plain, celeb/test ({len(faces)} pictures)", matrices)
    write_results("parser_plain", "python scripts/ship_models.py scores", rows, results)


def _write(name: str, weights: Mapping[str, Tensor]) -> None:
    path = ASSETS / f"{name}.safetensors"
    save_weights(path, {key: value.half() if value.is_floating_point() else value for key, value in weights.items()})
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ships = {"fcam": ship_fcams, "systems": ship_systems, "parser": ship_parser}
    parser.add_argument("what", choices=(*ships, "scores"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    with exit_on_bad_input():
        if arguments.what == "scores":
            score(arguments.results)
        else:
            ships[arguments.what](arguments.seed)

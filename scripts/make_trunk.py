"""Make assets/trunk.safetensors: the first blocks of the ViT in shared/weights, unchanged, at half precision.

usage: python scripts/make_trunk.py SOURCE.safetensors [--blocks 10]

Blocks 0-7 are the frozen trunk; blocks 8 and 9 are the first values of the blocks that are trained after it.
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file, save_file

from wsfp_helpers.common.files import atomic_path
from wsfp_helpers.nets.trunk import WEIGHTS


def main(source: Path, blocks: int) -> None:
    """Write the asset."""
    weights = load_file(source)
    kept = {
        name: value.half().contiguous()
        for name, value in weights.items()
        if not name.startswith("norm.") and not (name.startswith("blocks.") and int(name.split(".")[1]) >= blocks)
    }
    with atomic_path(WEIGHTS) as part:
        save_file(kept, part)
    count, size = sum(value.numel() for value in kept.values()), WEIGHTS.stat().st_size
    print(f"{WEIGHTS}: {count / 1e6:.1f} M weights, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--blocks", type=int, default=10)
    main(**vars(parser.parse_args()))

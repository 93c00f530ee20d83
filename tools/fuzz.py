"""Feed damaged files to every reader until the time is over: each may return or raise InputError, nothing else.

usage: python -m tools.fuzz [SECONDS] [--seed N]      60 seconds by default; a file that breaks a reader is kept in
                                                      tests/corpus/READER/, which the tests read again
"""

import argparse
import hashlib
import json
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import nn

from tests.bad_inputs import CARD
from wsfp_helpers.common.checkpoints import (
    read_about,
    read_weights,
    restore_state,
    save_state,
    save_weights,
    step_of,
)
from wsfp_helpers.common.configs import plain, read_config
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS, read_json, read_whole_rows
from wsfp_helpers.common.pictures import picture_size, read_image, read_label_map, write_index_png
from wsfp_helpers.common.runs import read_metrics
from wsfp_helpers.data.celebamask import read_mapping, read_partition
from wsfp_helpers.data.frl import POINTS, frl_london, read_points
from wsfp_helpers.data.helen import read_list
from wsfp_helpers.data.shards import shards
from wsfp_helpers.detect.boxes import read_boxes
from wsfp_helpers.method.fcam import FcamFolder
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.profiles import Profile, profile
from wsfp_helpers.systems.imported import read_card
from wsfp_helpers.tooling.resnet38 import read_mxnet

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"


def _encoded(kind: str) -> bytes:
    with TemporaryDirectory() as place:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)).save(f"{place}/a", kind)
        return Path(place, "a").read_bytes()


def _written(write: Callable[[Path], object]) -> bytes:
    with TemporaryDirectory() as place:
        write(Path(place, "a"))
        return Path(place, "a").read_bytes()


def _fcams(path: Path) -> None:
    (fcam,) = (FcamFolder(path.parent)[i] for i in range(1))
    fcam.maps((8, 8))


_TENSORS = {"scale0": torch.rand(2, 4, 4).half(), "classes": torch.tensor([0, 1]), "size": torch.tensor([8, 8])}
_SAFE = _written(lambda path: save_weights(path, _TENSORS, step=3))
_PICTURES = [_encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP")]
_BOXES = b"".join((ASSETS / "boxes_synthfaces_val.jsonl").read_bytes().splitlines(keepends=True)[:2])
_JSON = [b'{"a": [1, 2.5, null, true, "x"], "b": {"c": -1e3}}\n', b'{"step": 1, "loss": 0.5}\n{"step": 2}\n']

_MXNET = struct.pack("<QQQIiIqiiifQQ", 0x112, 0, 1, 0xF993FAC9, 0, 1, 1, 1, 0, 0, 2.5, 1, 5) + b"arg:a"


def _index(path: Path) -> None:
    facts = json.dumps({"name": "x", "scheme": "celebamask", "licence": "", "framed": True})
    places, labels = np.array([[0, 512, 9], [0, 1024, 9]]), np.ones((2, 18), np.uint8)
    with path.open("wb") as file:
        np.savez(file, facts=facts, ids=np.array(["a", "b"]), labels=labels, places=places, sizes=[2048])


def _network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    return network, torch.optim.AdamW(network.parameters())


def _state(path: Path) -> None:
    network, optimiser = _network()
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    save_state(path, {"network": network}, optimiser, step=1, scaler=None)


def _go_on(path: Path) -> None:
    network, optimiser = _network()
    step_of(path)
    restore_state(path, {"network": network}, optimiser, 5)


def _parser(path: Path) -> None:
    """The header of the shipped parser alone, so that damage meets it and not the weights."""
    save_weights(path, {"a": torch.ones(1)}, wsfp=read_about(ASSETS / "parser_weak.safetensors"))


READERS: dict[str, tuple[str, Callable[[Path], object], list[bytes]]] = {
    "pictures": ("a.jpg", read_image, _PICTURES),
    "sizes": ("a.jpg", picture_size, _PICTURES),
    "label maps": ("a.png", partial(read_label_map, classes=19), [
        _written(lambda path: write_index_png(path, np.arange(16, dtype=np.uint8).reshape(4, 4), PALETTE))]),
    "boxes": ("a.jsonl", read_boxes, [_BOXES]),
    "json": ("a.json", read_json, _JSON),
    "rows": ("a.jsonl", partial(read_whole_rows, what="rows"), _JSON),
    "configs": ("a.json", lambda path: read_config(Profile, read_json(path), path), [
        json.dumps(plain(profile("embedded"))).encode()]),
    "weights": ("a.safetensors", read_weights, [_SAFE]),
    "headers": ("a.safetensors", read_about, [_SAFE]),
    "state dicts": ("a.pth", read_weights, [_written(lambda path: torch.save({"a": torch.ones(2)}, path))]),
    "training states": ("state.safetensors", _go_on, [_written(_state)]),
    "parsers": ("parser.safetensors", load_parser, [_written(_parser)]),
    "activation maps": ("a.safetensors", _fcams, [_SAFE]),
    "points": ("a.tem", read_points, [f"{POINTS}\n".encode() + b"1.5\t2.5\n" * POINTS]),
    "lists of Helen": ("a.txt", read_list, [b"1 , 10_1\n2 , 11_2\n"]),
    "mappings": ("a.txt", read_mapping, [b"idx orig_idx orig_file\n0 500 000501.jpg\n"]),
    "cards": ("card.json", lambda path: read_card(path.parent), [json.dumps(CARD).encode()]),
    "metrics": ("metrics.jsonl", lambda path: read_metrics(path.parent), _JSON[1:]),
    "MXNet files": ("a.params", read_mxnet, [_MXNET]),
    "shard indexes": ("index.npz", lambda path: shards(path.parent), [_written(_index)]),
    "tables of FRL London": ("data-raw/london_info.csv", lambda path: frl_london(path.parents[1]), [
        b"face_id,face_age,face_gender,face_eth\n001,NA,female,white\n002,22.5,male,black\n"]),
    "partitions": ("a.txt", read_partition, [b"000001.jpg 0\n000002.jpg 1\n"]),
}  # fmt: skip
"""Name of the file, reader and whole files, by what is read."""


def damaged(seeds: list[bytes], rng: np.random.Generator) -> bytes:
    """One of ``seeds`` with bytes changed, cut, repeated or put in, a few times."""
    content = bytearray(seeds[rng.integers(len(seeds))])
    for _ in range(rng.integers(1, 6)):
        at, length = rng.integers(len(content) + 1), rng.integers(1, 9)
        match rng.integers(6):
            case 0:
                content[at : at + length] = rng.bytes(length)
            case 1:
                del content[at:]
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[max(at - 8 * length, 0) : at]
            case 4:
                content[at:at] = (b"\0", b"\xff", b"[", b"NaN", b"1e999", b"-", b"\n", b"\xc2\xb2", b"../")[
                    length % 9
                ] * 2
            case _:
                if at < len(content):
                    content[at] ^= 1 << rng.integers(8)
    return bytes(content)


def breaks(name: str, content: bytes) -> Exception | None:
    """What a reader raises for a file beside :class:`InputError`."""
    file, read, _ = READERS[name]
    with TemporaryDirectory() as place:
        path = Path(place, file)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        try:
            read(path)
        except InputError as error:
            return None if len(str(error).splitlines()) == 1 else error
        except Exception as error:
            return error
    return None


def corpus() -> Iterator[tuple[str, bytes]]:
    """Readers and the kept files that once broke them."""
    for path in sorted(CORPUS.glob("*/*")):
        yield path.parent.name, path.read_bytes()


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, end, count, found = np.random.default_rng(options.seed), time.monotonic() + options.seconds, 0, 0
    while time.monotonic() < end:
        for name, (_, _, seeds) in READERS.items():
            content = damaged(seeds, rng)
            count += 1
            if (error := breaks(name, content)) is not None:
                found += 1
                path = CORPUS / name / hashlib.sha256(content).hexdigest()[:12]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                print(f"{name}: {type(error).__name__}: {str(error)[:150]!r}: kept in {path}")
    print(f"{count:,} files, {found} of them broke a reader")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())

"""`wsfp weights convert`: the public ImageNet weights of ResNet38, a file of MXNet, as safetensors, without MXNet."""

import re
import struct
from pathlib import Path

import numpy as np
import pooch
import torch
from torch import nn

from wsfp_helpers.common.checkpoints import save_halved
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import existing_file, sha256_of
from wsfp_helpers.nets.resnet38 import ResNet38

MXNET_FILE = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
MXNET_MD5 = "ff21f45d6bf03284100dcbec571edfad"

_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}
_LIST, _V1, _V2 = 0x112, 0xF993FAC8, 0xF993FAC9


def read_mxnet(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by name of a file that MXNet's ``nd.save`` wrote (the 2016 layout, version 1 or 2; dense arrays).

    Names have the prefix ``arg:`` or ``aux:``.  Raises :class:`InputError` when the file is truncated or of another
    format.
    """
    data, place = memoryview(existing_file(path, "MXNet file").read_bytes()), 0

    def take(layout: str) -> tuple:
        nonlocal place
        values = struct.unpack_from("<" + layout, data, place)
        place += struct.calcsize("<" + layout)
        return values

    def array() -> np.ndarray:
        nonlocal place
        (first,) = take("I")
        if first == _V2 and (kind := take("i")[0]) != 0:
            raise InputError(f"{path} holds a sparse array (storage type {kind}): expected dense ones")
        dimensions = take("I")[0] if first in (_V1, _V2) else first
        shape = take(f"{dimensions}{'q' if first in (_V1, _V2) else 'I'}")
        if not dimensions:
            return np.empty(0, np.float32)
        _, _, kind = take("iii")
        values = np.frombuffer(data, _TYPES[kind], int(np.prod(shape)), place)
        place += values.nbytes
        return values.reshape(shape)

    try:
        if take("QQ")[0] != _LIST:
            raise InputError(f"{path} is not an MXNet parameter file (its first bytes are others): download it again")
        arrays = [array() for _ in range(take("Q")[0])]
        names = []
        for _ in range(take("Q")[0]):
            (length,) = take("Q")
            names.append(bytes(data[place : place + length]).decode())
            place += length
        return dict(zip(names, arrays, strict=True))
    except (struct.error, ValueError, KeyError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} ends in the middle of an array or is damaged ({error}): download it again") from error


_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


def mxnet_name(name: str) -> str | None:
    """Name in :class:`ResNet38` of an array of the MXNet file; ``None`` for its ImageNet classifier."""
    name = name.split(":")[-1]
    if name == "conv1a_weight":
        return "stem.weight"
    if name.startswith("linear1000_"):
        return None
    if match := re.fullmatch(r"res(\d\w+)_branch(1|2(\w+))_weight", name):
        block, branch, layer = match.groups()
        return f"blocks.{block}.{'shortcut' if branch == '1' else f'conv_{layer}'}.weight"
    norm = "|".join(_NORM)
    if match := re.fullmatch(rf"bn(\d\w+)_branch2(\w+?)_({norm})", name):
        block, layer, value = match.groups()
        return f"blocks.{block}.bn_{layer}.{_NORM[value]}"
    if match := re.fullmatch(rf"bn7_({norm})", name):
        return f"bn.{_NORM[match[1]]}"
    raise InputError(f"the MXNet file has an array {name!r} that ResNet38 does not: expected {MXNET_FILE}")


def convert_mxnet(
    path: str | Path, out: str | Path, md5: str | None = MXNET_MD5, backbone: nn.Module | None = None
) -> Path:
    """Turn the public ImageNet file (:data:`MXNET_FILE`) into safetensors for ``DeepLabConfig``; returns ``out``.

    The header names the source with its MD5, which is published, and its SHA-256.  Raises :class:`InputError` when the
    MD5, a name or a shape differs.
    """
    found = pooch.file_hash(str(existing_file(path, "MXNet file")), alg="md5")
    if md5 is not None and found != md5:
        raise InputError(f"{path} has the md5 {found}, expected {md5} of {MXNET_FILE}: download it again")
    backbone = backbone or ResNet38()
    state = {key: value for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    arrays = {key: array for name, array in read_mxnet(path).items() if (key := mxnet_name(name)) is not None}
    for key in sorted(state.keys() | arrays.keys()):
        here, there = (tuple(side[key].shape) if key in side else "nothing" for side in (state, arrays))
        if here != there:
            raise InputError(f"{path} has {there} for {key}, expected {here}: is it {MXNET_FILE}?")
    backbone.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in arrays.items()}, strict=False)
    facts = {"network": type(backbone).__name__, "source": MXNET_FILE, "md5": found, "sha256": sha256_of(path)}
    save_halved(out, backbone, facts)
    return Path(out)

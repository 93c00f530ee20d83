"""`wsfp weights`: the files that the full-size world needs, fetched on request, checked, and put where it looks.

A file is bytes with a sum: no code of a hub is run.  pooch, which fetches FRL London, cannot go on with a download that
broke off; these files are large, so this does.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from tqdm.auto import tqdm

from wsfp_helpers.common.cache import data_dirs, find
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import append_row, hold_folder, read_whole_rows
from wsfp_helpers.detect.load import load_detector
from wsfp_helpers.parsing.deeplab import build_network
from wsfp_helpers.profiles import BERT, CLIP, DEIT, FLIP, GROUNDING_DINO, RESNET38, VLMS, profile
from wsfp_helpers.tooling.resnet38 import MXNET_FILE, MXNET_MD5, convert_mxnet

SUMS = "sums.jsonl"
"""Beside the weights: the SHA-256 that a file without a published sum had on its first download."""
APACHE, MIT = "Apache-2.0", "MIT"
_UNKNOWN = "no sum is published: that of the first download is kept"
_HUB = "https://huggingface.co"
_BERT = f"{_HUB}/google-bert/bert-base-uncased/resolve/86b5e0934494bd15c9632b12f734a8a67f723594"


@dataclass(frozen=True)
class File:
    """One file: address, place below ``$WSFP_DATA``, and its published sum, as ``sha256:...`` or ``md5:...``."""

    url: str
    place: str
    sum: str | None = None


@dataclass(frozen=True)
class Weights:
    """Weights of a network of the full-size world.

    ``place`` is what the profile reads: the file, or the folder of all ``files``.  ``load`` reads it as a stage does;
    BERT is read with Grounding DINO.
    """

    title: str
    place: str
    purpose: str
    licence: str
    megabytes: int
    files: tuple[File, ...]
    load: Callable[[], object] | None
    convert: Callable[[Path, Path], Path] | None = None


def _load_detector() -> object:
    return load_detector("groundingdino", find(GROUNDING_DINO), find(BERT))


WEIGHTS = {
    "deit": Weights(
        "DeiT-S", DEIT, "first values of the class-token ViT", APACHE, 88,
        (File(f"{_HUB}/timm/deit_small_patch16_224.fb_in1k/resolve/main/model.safetensors", DEIT),),
        lambda: profile("paper").model.build(),
    ),
    "flip": Weights(
        "FLIP-B/16", FLIP, "the image-text model", APACHE, 599,
        tuple(
            File(f"{_HUB}/FLIP-dataset/FLIP-base-16/resolve/main/{name}", f"{FLIP}/{name}")
            for name in ("config.json", "pytorch_model.bin")
        ),
        lambda: VLMS["flip"](),
    ),
    "clip": Weights(
        "CLIP-B/16", CLIP, "only for wsfp ablate vlm", MIT, 599,
        (
            File(
                f"{_HUB}/timm/vit_base_patch16_clip_224.openai/resolve/"
                "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d/open_clip_model.safetensors",
                CLIP,
                "sha256:4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
            ),
        ),
        lambda: VLMS["clip"](),
    ),
    "groundingdino": Weights(
        "Grounding DINO", GROUNDING_DINO, "the detector", APACHE, 694,
        (
            File(
                "https://github.com/IDEA-Research/GroundingDINO/releases/download/v0.1.0-alpha/"
                "groundingdino_swint_ogc.pth",
                GROUNDING_DINO,
                "sha256:3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799",
            ),
        ),
        _load_detector,
    ),
    "bert": Weights(
        "BERT", BERT, "the detector's words", APACHE, 441,
        tuple(
            File(f"{_BERT}/{name}", f"{BERT}/{name}", f"sha256:{digest}")
            for name, digest in (
                ("config.json", "7160e1553ad2ca51d8c1cb066be533db31826e12d173824c1bb0cb1a4f187d20"),
                ("tokenizer_config.json", "a025160ef0431f1a392f6f050c1310f4c5d9fb6f275932dbccba73c4d214bf10"),
                ("tokenizer.json", "ce64fce797c24f68df90b40a3f74f579b336a493db14bd583fd520ea0d8c9a98"),
                ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
                ("model.safetensors", "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3"),
            )
        ),
        None,
    ),
    "resnet38": Weights(
        "ResNet38", RESNET38, "first values of the parser", "see itijyou/ademxapp (Apache-2.0)", 437,
        (File(f"https://ktse.oss-cn-shanghai.aliyuncs.com/{MXNET_FILE}", f"weights/{MXNET_FILE}", f"md5:{MXNET_MD5}"),),
        lambda: build_network("resnet38", weights=find(RESNET38)),
        convert_mxnet,
    ),
}  # fmt: skip
"""All weights by name.

The sums are those that the files are published with (Git LFS on Hugging Face), or that several who fetched them state:
docs/data.md.  The first host of ResNet38's file is gone; the address is that of the README of
NUST-Machine-Intelligence-Laboratory/KTSE.
"""


def list_weights() -> str:
    """A table: each name with where it is, its size, licence, and how it is checked."""
    lines = []
    for name, weights in WEIGHTS.items():
        place = find(weights.place)
        lines.append(
            f"{name:14}{weights.title}, {weights.purpose}; {weights.megabytes} MB; licence: {weights.licence}\n"
            f"{'':14}{place or f'not found; wsfp weights get {name}'}"
        )
        lines += [f"{'':14}{file.url}\n{'':16}{file.sum or _UNKNOWN}" for file in weights.files]
    return "\n".join(lines)


def find_weights(name: str) -> Weights:
    """The weights ``name``; raises :class:`InputError` for an unknown one."""
    if name not in WEIGHTS:
        raise InputError(f"unknown weights {name!r}: expected one of {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def terms(name: str) -> str:
    """What has to be accepted before weights are downloaded: licence, size and source."""
    weights = find_weights(name)
    source = weights.files[0].url.rpartition("/")[0]
    return f"{weights.title}, {weights.megabytes} MB from {source}\nlicence, as its authors state it: {weights.licence}"


def get(name: str, say: Callable[[str], None] = print) -> Path:
    """Download weights whose :func:`terms` were accepted; returns what the profile reads.

    Files that are there are kept, and a download that broke off goes on.  ``say`` is told the sum of a file that has
    none published, which is kept in :data:`SUMS`.

    Raises:
        InputError: The server cannot be reached or has no such file, the sum is another one, the disk is too small, or
            another process is fetching.
    """
    weights, root = find_weights(name), data_dirs()[0]
    target, parent = root / weights.place, root / "weights"
    if target.is_file():
        return target
    with hold_folder(parent):
        for file in weights.files:
            if not (root / file.place).exists():
                _fetch(file, root / file.place, parent / SUMS, say)
        if weights.convert:
            source = root / weights.files[0].place
            weights.convert(source, target)
            source.unlink()
    return target


def _fetch(file: File, path: Path, sums: Path, say: Callable[[str], None]) -> None:
    part, expected = path.with_name(f"{path.name}.part"), file.sum or _kept_sums(sums).get(file.place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = _download(file.url, part, expected)
    except requests.RequestException as error:
        answer = error.response
        why = type(error).__name__ if answer is None else f"{answer.status_code} {answer.reason}"
        raise InputError(
            f"could not download {file.url} ({why}): check the network, and the same command goes on from what has "
            f"arrived"
        ) from error
    except OSError as error:
        raise InputError(
            f"could not write {part} ({error.strerror}): free space or set WSFP_DATA to another folder, then the same "
            f"command goes on"
        ) from error
    found = _sum_of(part, expected)
    _tag(part).unlink(missing_ok=True)
    if expected not in (None, found):
        part.unlink()
        raise InputError(
            f"{file.url} gave a file with {found}, expected {expected}: it was removed; try again, and if it stays so, "
            f"the address has another file now"
        )
    if file.sum is None and file.place not in _kept_sums(sums):
        append_row(sums, {"place": file.place, "sum": found})
        say(f"no sum of {path.name} is published: kept {found} in {sums}")
    with part.open("rb+") as arrived:
        os.fsync(arrived.fileno())
    part.rename(path)


def _download(url: str, part: Path, expected: str | None) -> str | None:
    """Fetch a file, or what is missing of it; returns ``expected``, or the sum that Hugging Face states for it."""
    headers, have = {"Accept-Encoding": "identity"}, 0
    if part.exists() and _tag(part).exists() and (tag := _tag(part).read_text()):
        have = part.stat().st_size
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}  # from the start if it has changed
    with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
        if answer.status_code == requests.codes.range_not_satisfiable:  # killed between the last byte and the check
            part.unlink()
            return _download(url, part, expected)
        answer.raise_for_status()
        have = have if answer.status_code == requests.codes.partial_content else 0
        size, free = int(answer.headers.get("Content-Length", 0)), shutil.disk_usage(part.parent).free
        if size > free:
            raise InputError(
                f"{url} needs {size / 1e6:,.0f} MB more, and {part.parent} has {free / 1e6:,.0f} MB free: free space, "
                f"or set WSFP_DATA to another folder"
            )
        bar = tqdm(desc=part.stem, total=have + size, initial=have, unit="B", unit_scale=True, leave=False)
        with part.open("ab" if have else "wb") as out, bar:
            if not have:  # only now, when there are no bytes of an older file that this could be taken for the tag of
                _tag(part).write_text(answer.headers.get("ETag", ""))
            for chunk in answer.iter_content(2**20):
                out.write(chunk)
                bar.update(len(chunk))
        stated = [each.headers.get("X-Linked-ETag", "").strip('"') for each in (*answer.history, answer)]
        return expected or next((f"sha256:{each}" for each in stated if re.fullmatch("[0-9a-f]{64}", each)), None)


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _sum_of(path: Path, like: str | None) -> str:
    """The sum of a file by the method of another one, or SHA-256."""
    method = (like or "sha256").partition(":")[0]
    return f"{method}:{pooch.file_hash(str(path), alg=method)}"


def _kept_sums(sums: Path) -> dict[str, str]:
    rows = read_whole_rows(sums, "list of sums") if sums.exists() else []
    return {str(row.get("place")): str(row.get("sum")) for row in rows}


@dataclass(frozen=True)
class Check:
    """What :func:`verify` found for one file or network."""

    name: str
    text: str
    ok: bool = True

    def __str__(self) -> str:
        return f"{self.name:14}{'' if self.ok else 'FAULT: '}{self.text}"


def verify(names: Sequence[str] = ()) -> Iterator[Check]:
    """Compare the sums of weights, and read each as the stage does that needs it; without ``names`` all that are there.

    A file without a published sum is held against that of its first download.

    Raises:
        InputError: A name is unknown, or without ``names`` nothing is there.
    """
    there = [name for name, weights in WEIGHTS.items() if find(weights.place)]
    if not (names or there):
        raise InputError(f"no weights below {data_dirs()[0]}: `wsfp weights get NAME` fetches them, `list` names them")
    for name in names or there:
        weights = find_weights(name)
        if find(weights.place) is None:
            yield Check(name, f"no {weights.place} below $WSFP_DATA: wsfp weights get {name}", ok=False)
            continue
        for file in weights.files:
            if path := find(file.place):
                yield _compare(name, file, path)
        if weights.load is None:
            continue
        try:
            weights.load()
        except InputError as error:
            yield Check(name, str(error), ok=False)
        else:
            yield Check(name, "is read as the network that it should be")


def _compare(name: str, file: File, path: Path) -> Check:
    sums = path.parents[len(Path(file.place).parts) - 2] / SUMS
    expected = file.sum or _kept_sums(sums).get(file.place)
    if expected is None:
        return Check(name, f"{path}: no sum is published, and it was not fetched by wsfp weights get")
    whose, found = "the published one" if file.sum else "that of its first download", _sum_of(path, expected)
    if found != expected:
        cure = f"remove it, and `wsfp weights get {name}`"
        return Check(name, f"{path} has {found}, {whose} is {expected}: {cure}", ok=False)
    return Check(name, f"{path}: its sum is {whose}")

"""Co-occurring component disentanglement (CCD): Eq. 1 accepts boxes, Eq. 2 masks them, the labels follow (paper 3.3).

Detectors cannot tell left from right and return several candidates, so the best box of "eye" is the left eye of one
picture and the right eye of the next.  Eq. 1 walks the candidates by falling score and takes the first that passes all
tests.  What the paper leaves open is decided in design notes 9.9-9.13.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from wsfp_helpers.data.base import WeakFaces
from wsfp_helpers.detect.base import PHRASES, Box, Candidates, Detection, Detector
from wsfp_helpers.detect.boxes import Boxes, check_complete, detect_dataset, read_boxes
from wsfp_helpers.detect.score import PARTS, PHRASE
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS
from wsfp_helpers.storage import InputError, atomic_path, write_json

MASKABLE = tuple(PARTS)
"""The candidate set of the paper: nose, left/right eye, left/right eyebrow, left/right ear, and mouth."""

TESTS = ("score", "side", "area", "aspect")
"""The tests of a candidate in their order; a rejected one is counted under the first that it fails."""

ORIGINAL = ".original"


@dataclass(frozen=True)
class CCDConfig:
    """Thresholds of Eq. 1 and what happens to image and label.

    ``score_threshold``: least score (0.35 is Grounding DINO's).  ``min_area``, ``max_area``: share of the picture;
    ``max_aspect``: longer over shorter side.  ``reference``: the vertical line of the side test, ``"image"`` (its
    centre, the paper) or ``"face"`` (:func:`face_centre`).  ``probability``: of masking a present component that has
    an accepted box.  ``mouth_clears_lips``: a mouth box also hides the lips, so their bits go too;
    ``ear_clears_earring``: the same for the earring once both ears are gone or absent.
    """

    score_threshold: float = 0.35
    min_area: float = 0.0001
    max_area: float = 0.25
    max_aspect: float = 8.0
    reference: str = "image"
    probability: float = 0.5
    mouth_clears_lips: bool = True
    ear_clears_earring: bool = False

    def __post_init__(self) -> None:
        if self.reference not in ("image", "face"):
            raise InputError(f"unknown reference {self.reference!r} of the side test: expected 'image' or 'face'")
        if not 0 <= self.probability <= 1:
            raise InputError(f"probability {self.probability} of masking: expected a value from 0 to 1")


def judge(
    detections: Sequence[Detection],
    component: str,
    size: tuple[int, int],
    config: CCDConfig,
    centre: float | None = None,
) -> list[tuple[Detection, str]]:
    """Eq. 1, step by step: every candidate by falling score with the test it fails, ``"accepted"`` or ``"later"``.

    ``component`` is one of :data:`MASKABLE`, ``size`` is (H, W), ``centre`` the x of the side test's line (default: the
    picture's centre).  At most one candidate is accepted; those after it that would pass as well are ``"later"``.
    """
    height, width = size
    line = width / 2 if centre is None else centre
    half, judged, taken = _half(component), [], False
    for detection in sorted(detections, key=lambda d: -d.score):
        x1, y1, x2, y2 = detection.box
        middle, area, sides = (x1 + x2) / 2, (x2 - x1) * (y2 - y1) / (height * width), (x2 - x1, y2 - y1)
        if detection.score <= config.score_threshold:
            verdict = "score"
        elif (half == "left" and not middle < line) or (half == "right" and not middle > line):
            verdict = "side"
        elif not config.min_area <= area <= config.max_area:
            verdict = "area"
        elif max(sides) > config.max_aspect * min(sides):
            verdict = "aspect"
        else:
            verdict, taken = "later" if taken else "accepted", True
        judged.append((detection, verdict))
    return judged


def _half(component: str) -> str | None:
    if component not in MASKABLE:
        raise InputError(f"CCD does not mask {component!r}: expected one of {', '.join(MASKABLE)}")
    return CELEBAMASK.picture_half(component)


def accept(
    detections: Sequence[Detection],
    component: str,
    size: tuple[int, int],
    config: CCDConfig,
    centre: float | None = None,
) -> Detection | None:
    """Eq. 1: the best candidate of ``component`` that passes every test of :func:`judge`, or ``None``."""
    return next((d for d, verdict in judge(detections, component, size, config, centre) if verdict == "accepted"), None)


def face_centre(candidates: Candidates, width: int, config: CCDConfig) -> float:
    """x of the face's centre: of the best ``"face"`` box if the detector was asked for one, else of the box around the
    best nose, mouth, two eyes and two eyebrows above the score threshold; the picture's centre without any of them."""
    most = {"face": 1} if candidates.get("face") else {"nose": 1, "mouth": 1, "eye": 2, "eyebrow": 2}
    boxes = [
        d.box
        for phrase, number in most.items()
        for d in sorted(candidates.get(phrase, ()), key=lambda d: -d.score)[:number]
        if d.score > config.score_threshold
    ]
    return (min(b[0] for b in boxes) + max(b[2] for b in boxes)) / 2 if boxes else width / 2


def accepted_boxes(candidates: Candidates, size: tuple[int, int], config: CCDConfig) -> dict[str, Box]:
    """Eq. 1 for all of :data:`MASKABLE`: the accepted box of each component that has one."""
    centre = _line(candidates, size, config)
    chosen = {
        component: accept(candidates.get(PHRASE[component], ()), component, size, config, centre)
        for component in MASKABLE
    }
    return {component: detection.box for component, detection in chosen.items() if detection is not None}


def _line(candidates: Candidates, size: tuple[int, int], config: CCDConfig) -> float:
    return size[1] / 2 if config.reference == "image" else face_centre(candidates, size[1], config)


def mask_image(image: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Eq. 2: a copy of ``(H, W, 3)`` uint8 in which every pixel that a box touches is 0 in RGB."""
    masked = image.copy()
    for x1, y1, x2, y2 in boxes:
        masked[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))] = 0
    return masked


def masked_labels(y: np.ndarray, components: Sequence[str], config: CCDConfig | None = None) -> np.ndarray:
    """y-hat: a copy of the labels ``(K,)`` uint8 with the bits of the masked components at 0 (paper 3.3)."""
    config, y_hat = config or CCDConfig(), np.array(y, np.uint8)
    for component in components:
        y_hat[_bits(component, config)] = 0
    ears = y_hat[[COMPONENTS.index("l_ear"), COMPONENTS.index("r_ear")]]
    if config.ear_clears_earring and {"l_ear", "r_ear"} & set(components) and not ears.any():
        y_hat[COMPONENTS.index("ear_r")] = 0
    return y_hat


def _bits(component: str, config: CCDConfig) -> list[int]:
    classes = PARTS[component] if config.mouth_clears_lips else (component,)
    return [COMPONENTS.index(name) for name in classes]


def drawn(key: str, config: CCDConfig, seed: int, epoch: int | None = None) -> tuple[str, ...]:
    """Components that chance picks for masking in one picture: the same in every process and on every machine.

    ``epoch=None`` is the single draw of the authors' offline masking; a number gives a new draw for each epoch.
    """
    name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    draws = np.random.default_rng([seed, name, 0 if epoch is None else epoch + 1]).random(len(MASKABLE))
    return tuple(c for c, draw in zip(MASKABLE, draws, strict=True) if draw < config.probability)


def choose(
    y: np.ndarray,
    candidates: Candidates,
    size: tuple[int, int],
    key: str,
    config: CCDConfig,
    seed: int = 0,
    epoch: int | None = None,
) -> dict[str, Box]:
    """Boxes to mask in one picture by component: picked by chance, present in ``y`` (K,), and with an accepted box."""
    accepted = accepted_boxes(candidates, size, config)
    picked = set(drawn(key, config, seed, epoch))
    return {c: box for c, box in accepted.items() if c in picked and np.asarray(y)[_bits(c, config)].any()}


def masked_faces(
    faces: WeakFaces,
    boxes: Boxes | str | Path,
    config: CCDConfig | None = None,
    seed: int = 0,
    epoch: int | None = None,
    mix_originals: bool = False,
) -> WeakFaces:
    """The training set D-hat of ``faces`` (paper 3.2): pictures x-hat, masked when they are read, and labels y-hat.

    ``boxes`` are records or a boxes file; ids stay.  ``epoch`` redraws (:func:`drawn`); ``mix_originals`` appends the
    unmasked pictures, their ids with ``.original`` behind them.  Raises :class:`InputError` when pictures have no
    record, or no component has a box in the whole set.
    """
    config, records = config or CCDConfig(), _records(boxes, faces)
    plan = {
        key: choose(y, records[key].candidates, records[key].size, key, config, seed, epoch)
        for key, y in zip(faces.ids, faces.labels, strict=True)
    }
    place = {key: i for i, key in enumerate(faces.ids)}

    def read(key: str) -> np.ndarray:
        if key not in plan:
            return faces.image(place[key.removesuffix(ORIGINAL)])
        image = faces.image(place[key])
        if image.shape[:2] != records[key].size:
            raise InputError(
                f"the boxes of {key} are for a picture of {records[key].size[::-1]} pixels, it has "
                f"{image.shape[1::-1]}: detect again on these pictures"
            )
        return mask_image(image, list(plan[key].values()))

    ids = list(faces.ids)
    labels = np.stack([masked_labels(y, tuple(plan[key]), config) for key, y in zip(ids, faces.labels, strict=True)])
    if mix_originals:
        ids += [key + ORIGINAL for key in faces.ids]
        labels = np.concatenate([labels, faces.labels])
    return WeakFaces(f"{faces.name}, masked by CCD", ids, read, labels, faces.scheme, faces.licence)


def _records(boxes: Boxes | str | Path, faces: WeakFaces) -> Boxes:
    if faces.scheme is not CELEBAMASK:
        raise InputError(
            f"CCD needs the {CELEBAMASK.name} classes with their sides; {faces.name} has {faces.scheme.name}"
        )
    records = boxes if isinstance(boxes, Mapping) else read_boxes(boxes)
    check_complete(records, faces, "the boxes" if isinstance(boxes, Mapping) else boxes)
    if not any(found for key in faces.ids for found in records[key].candidates.values()):
        raise InputError(
            f"not one box for any component in the {len(faces)} images of {faces.name}: nothing would be masked; "
            f"are these faces, and did the detector load its weights?"
        )
    return records


def ccd_report(
    faces: WeakFaces,
    boxes: Boxes | str | Path,
    config: CCDConfig | None = None,
    seed: int = 0,
    epoch: int | None = None,
) -> dict:
    """What CCD does to a data set, as plain numbers for ``report.json``.

    ``components``: for each of :data:`MASKABLE` the number of images in which it is ``present`` in the labels,
    ``found`` (any candidate), ``accepted`` (Eq. 1), ``accepted_present`` (both) and ``masked``, and the number of
    candidates ``rejected`` by each test.  ``labels``: images with each class ``before`` and ``after``.
    """
    config, records = config or CCDConfig(), _records(boxes, faces)
    counts = ("present", "found", "accepted", "accepted_present", "masked")
    table = {c: dict.fromkeys(counts, 0) | {"rejected": dict.fromkeys(TESTS, 0)} for c in MASKABLE}
    after = np.zeros(len(COMPONENTS), int)
    for key, y in zip(faces.ids, faces.labels, strict=True):
        record = records[key]
        masked = choose(y, record.candidates, record.size, key, config, seed, epoch)
        after += masked_labels(y, tuple(masked), config)
        centre = _line(record.candidates, record.size, config)
        for component, row in table.items():
            judged = judge(record.candidates.get(PHRASE[component], ()), component, record.size, config, centre)
            verdicts = [verdict for _, verdict in judged]
            present = bool(y[_bits(component, config)].any())
            row["present"] += present
            row["found"] += bool(verdicts)
            row["accepted"] += "accepted" in verdicts
            row["accepted_present"] += present and "accepted" in verdicts
            row["masked"] += component in masked
            for test in TESTS:
                row["rejected"][test] += verdicts.count(test)
    return {
        "images": len(faces),
        "config": asdict(config),
        "seed": seed,
        "components": table,
        "labels": {
            "before": dict(zip(COMPONENTS, faces.labels.sum(0, dtype=int).tolist(), strict=True)),
            "after": dict(zip(COMPONENTS, after.tolist(), strict=True)),
        },
    }


def run_ccd(
    faces: WeakFaces,
    detector: Detector,
    out: str | Path,
    config: CCDConfig | None = None,
    seed: int = 0,
    images: bool = False,
    batch: int = 8,
) -> dict:
    """Detect (or go on detecting) into ``out/boxes.jsonl``, write ``out/report.json`` and return the report.

    ``images=True`` also writes the authors' offline set: ``out/masked/ID.png`` and ``out/labels.csv`` with y-hat.
    """
    out, config = Path(out), config or CCDConfig()
    boxes = read_boxes(detect_dataset(faces, detector, out / "boxes.jsonl", PHRASES, batch=batch))
    report = ccd_report(faces, boxes, config, seed)
    write_json(out / "report.json", report)
    if images:
        write_masked(masked_faces(faces, boxes, config, seed), out)
    return report


def write_masked(masked: WeakFaces, out: str | Path) -> None:
    """Write the pictures of D-hat to ``out/masked/ID.png`` and its labels to ``out/labels.csv``."""
    out = Path(out)
    for i, key in enumerate(tqdm(masked.ids, desc="masked images", unit="image")):
        with atomic_path(out / "masked" / f"{key}.png") as part:
            Image.fromarray(masked.image(i)).save(part, format="PNG")
    rows = [",".join([key, *map(str, y)]) for key, y in zip(masked.ids, masked.labels.tolist(), strict=True)]
    with atomic_path(out / "labels.csv") as part:
        part.write_text("\n".join([",".join(["id", *COMPONENTS]), *rows]) + "\n", encoding="utf-8")

"""Co-occurring component disentanglement (CCD): Eq. 1 accepts boxes, Eq. 2 masks them, the labels follow (paper 3.3).

Detectors cannot tell left from right and return several candidates, so the best box of "eye" is the left eye of one
picture and the right eye of the next.  Eq. 1 walks the candidates by falling score and takes the first that passes all
tests.  What the paper leaves open: docs/design.md, 9.9 to 9.13.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from wsfp_helpers.common.configs import check_range
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import BOX_CLASSES, PHRASE_OF, Box, Candidates, Detection
from wsfp_helpers.detect.boxes import Boxes, BoxRecord, check_complete
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS

MASKABLE = tuple(BOX_CLASSES)
"""The candidate set of the paper: nose, left/right eye, left/right eyebrow, left/right ear, and mouth."""

TESTS = ("score", "side", "both", "area", "aspect")
"""The tests of a candidate in their order; a rejected one is counted under the first that it fails."""

BOTH_SIDES = 0.25
"""Share of its width from which on a box lies on both sides of the line: one box around both eyes does."""

ORIGINAL = ".original"
"""Ending of the id of an unmasked picture in a set that holds masked ones as well."""


@dataclass(frozen=True)
class CCDConfig:
    """Thresholds of Eq. 1, and what happens to picture and label."""

    score_threshold: float = 0.35
    """A candidate needs a higher score, in [0, 1]; 0.35 is Grounding DINO's own threshold."""
    min_area: float = 0.0001
    """Smallest box, as a share of the picture's area."""
    max_area: float = 0.25
    """Largest box, as a share of the picture's area."""
    max_aspect: float = 8.0
    """Longest box: its longer side over its shorter one."""
    reference: str = "image"
    """The vertical line of the side test: ``"image"``, its centre as in the paper, or ``"face"``, the face's centre."""
    one_side: bool = False
    """Of a left or right component also refuse a box that lies on both sides (:data:`BOTH_SIDES`); Eq. 1 does not."""
    probability: float = 0.5
    """Of masking a present component that has an accepted box."""
    mouth_clears_lips: bool = True
    """A mouth's box hides the lips as well, so their labels go with it."""
    ear_clears_earring: bool = False
    """The earring's label goes once both ears are masked or absent."""

    def __post_init__(self) -> None:
        if self.reference not in ("image", "face"):
            raise InputError(f"unknown reference {self.reference!r} of the side test: expected 'image' or 'face'")
        check_range(
            self, score_threshold=(0, 1), min_area=(0, 1), max_area=(0, 1), max_aspect=(1, 10**12), probability=(0, 1)
        )
        if self.min_area > self.max_area:
            raise InputError(f"min_area is {self.min_area}: expected at most max_area, which is {self.max_area}")


def judge(
    detections: Sequence[Detection],
    component: str,
    size: tuple[int, int],
    config: CCDConfig,
    centre: float | None = None,
) -> list[tuple[Detection, str]]:
    """Eq. 1: every candidate of a component by falling score, with the test that it fails.

    .. code-block:: text

        C^i = score test and (w1 + w2) / 2 < W / 2    right components (the subject's right is the picture's left)
              score test and (w1 + w2) / 2 > W / 2    left components
              score test                              otherwise

    Beside the equation: the limits of area and aspect, which keep out the whole-face box that a detector without an
    answer returns (docs/design.md, 9.11).

    Args:
        detections: Candidates of the component's phrase, in any order.
        component: One of :data:`MASKABLE`.
        size: Height and width of the picture in pixels.
        config: The thresholds.
        centre: x of the line of the side test in pixels (default: the picture's centre).

    Returns:
        Pairs of a candidate and one of :data:`TESTS`, ``"accepted"`` (at most one) or ``"later"`` (it would pass, too).

    Raises:
        ValueError: CCD does not mask the component.
    """
    if component not in MASKABLE:
        raise ValueError(f"CCD does not mask {component!r}: expected one of {', '.join(MASKABLE)}")
    (height, width), half = size, CELEBAMASK.picture_half(component)
    line = width / 2 if centre is None else centre
    judged, taken = [], False
    for detection in sorted(detections, key=lambda d: -d.score):
        x1, y1, x2, y2 = detection.box
        middle, area, sides = (x1 + x2) / 2, (x2 - x1) * (y2 - y1) / (height * width), (x2 - x1, y2 - y1)
        if detection.score <= config.score_threshold:
            verdict = "score"
        elif (half == "left" and not middle < line) or (half == "right" and not middle > line):
            verdict = "side"
        elif config.one_side and half and _on_both_sides(detection.box, line):
            verdict = "both"
        elif not config.min_area <= area <= config.max_area:
            verdict = "area"
        elif max(sides) > config.max_aspect * min(sides):
            verdict = "aspect"
        else:
            verdict, taken = "later" if taken else "accepted", True
        judged.append((detection, verdict))
    return judged


def _on_both_sides(box: Box, line: float) -> bool:
    x1, _, x2, _ = box
    return min(x2 - line, line - x1) >= BOTH_SIDES * (x2 - x1)


def accept(
    detections: Sequence[Detection],
    component: str,
    size: tuple[int, int],
    config: CCDConfig,
    centre: float | None = None,
) -> Detection | None:
    """The best candidate of ``component`` that passes every test of :func:`judge`, or ``None``."""
    return next((d for d, verdict in judge(detections, component, size, config, centre) if verdict == "accepted"), None)


def accepted_boxes(candidates: Candidates, size: tuple[int, int], config: CCDConfig) -> dict[str, Box]:
    """The accepted box ``(x1, y1, x2, y2)`` in pixels of each of :data:`MASKABLE` that has one."""
    centre = side_line(candidates, size, config)
    chosen = {c: accept(candidates.get(PHRASE_OF[c], ()), c, size, config, centre) for c in MASKABLE}
    return {component: detection.box for component, detection in chosen.items() if detection is not None}


def side_line(candidates: Candidates, size: tuple[int, int], config: CCDConfig) -> float:
    """X in pixels of the line of the side test: the picture's centre, or with ``reference="face"`` the face's.

    That is the centre of the best ``"face"`` box if the detector was asked for one, else of the box around the best
    nose, mouth, two eyes and two eyebrows above the score threshold; without any of them the picture's centre.
    """
    if config.reference == "image":
        return size[1] / 2
    most = {"face": 1} if candidates.get("face") else {"nose": 1, "mouth": 1, "eye": 2, "eyebrow": 2}
    boxes = [
        d.box
        for phrase, number in most.items()
        for d in sorted(candidates.get(phrase, ()), key=lambda d: -d.score)[:number]
        if d.score > config.score_threshold
    ]
    return (min(b[0] for b in boxes) + max(b[2] for b in boxes)) / 2 if boxes else size[1] / 2


def mask_image(image: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Eq. 2: the picture x-hat, black inside the boxes of the masked components.

    ``x̂ = x · (1 − ∪ B)``: every pixel that a box touches becomes 0 in RGB, before any normalisation.

    Args:
        image: Picture ``(H, W, 3)`` uint8.
        boxes: ``(x1, y1, x2, y2)`` in pixels.

    Returns:
        A masked copy ``(H, W, 3)`` uint8.
    """
    masked = image.copy()
    for x1, y1, x2, y2 in boxes:
        masked[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))] = 0
    return masked


def mask_labels(y: np.ndarray, components: Sequence[str], config: CCDConfig | None = None) -> np.ndarray:
    """y-hat: a copy of the labels ``(K,)`` uint8 with those of the masked components at 0 (paper 3.3)."""
    config, y_hat = config or CCDConfig(), np.array(y, np.uint8)
    for component in components:
        y_hat[_columns(component, config)] = 0
    ears = y_hat[[COMPONENTS.index("l_ear"), COMPONENTS.index("r_ear")]]
    if config.ear_clears_earring and {"l_ear", "r_ear"} & set(components) and not ears.any():
        y_hat[COMPONENTS.index("ear_r")] = 0
    return y_hat


def _columns(component: str, config: CCDConfig) -> list[int]:
    classes = BOX_CLASSES[component] if config.mouth_clears_lips else (component,)
    return [COMPONENTS.index(name) for name in classes]


def draw_components(key: str, config: CCDConfig, seed: int, epoch: int | None = None) -> tuple[str, ...]:
    """Components that chance picks for masking in the picture ``key``: the same in every process and on every machine.

    ``epoch=None`` is the single draw of the authors' offline masking; a number gives a new draw for each epoch.
    """
    name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    draws = np.random.default_rng([seed, name, 0 if epoch is None else epoch + 1]).random(len(MASKABLE))
    return tuple(c for c, draw in zip(MASKABLE, draws, strict=True) if draw < config.probability)


def boxes_to_mask(
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
    picked = set(draw_components(key, config, seed, epoch))
    return {c: box for c, box in accepted.items() if c in picked and np.asarray(y)[_columns(c, config)].any()}


def mask_faces(
    faces: WeakFaces,
    boxes: Boxes,
    config: CCDConfig | None = None,
    seed: int = 0,
    epoch: int | None = None,
    mix_originals: bool = False,
) -> WeakFaces:
    """The training set D-hat of ``faces`` (paper 3.2): pictures x-hat, masked when they are read, and labels y-hat.

    Args:
        faces: Pictures and labels of the 18 components of CelebAMask-HQ.
        boxes: Candidates by id, of every picture.
        config: Thresholds and probability.
        seed: Of the draw; ids stay.
        epoch: Draws anew (:func:`draw_components`).
        mix_originals: Appends the unmasked pictures, their ids with :data:`ORIGINAL` behind them.

    Raises:
        InputError: Pictures have no record, no component has a box in the whole set, or (when it is read) a picture
            has another size than its record.
    """
    config = config or CCDConfig()
    _check_boxes(boxes, faces)
    place = {key: i for i, key in enumerate(faces.ids)}

    def plan(record: BoxRecord) -> dict[str, Box]:
        y = faces.labels[place[record.id]]
        return boxes_to_mask(y, record.candidates, record.size, record.id, config, seed, epoch)

    def read(key: str) -> np.ndarray:
        if key not in place:
            return faces.image(place[key.removesuffix(ORIGINAL)])
        image, record = faces.image(place[key]), boxes[key]
        if image.shape[:2] != record.size:
            raise InputError(
                f"the boxes of {key} are for a picture of {record.size[::-1]} pixels, it has "
                f"{image.shape[1::-1]}: detect again on these pictures"
            )
        return mask_image(image, list(plan(record).values()))

    ids, labels = list(faces.ids), np.empty_like(faces.labels)
    for i, key in enumerate(ids):
        labels[i] = mask_labels(faces.labels[i], tuple(plan(boxes[key])), config)
    if mix_originals:
        ids += [key + ORIGINAL for key in faces.ids]
        labels = np.concatenate([labels, faces.labels])
    return replace(faces, name=f"{faces.name}, masked by CCD", ids=ids, read=read, labels=labels)


def _check_boxes(boxes: Boxes, faces: WeakFaces) -> None:
    if faces.scheme is not CELEBAMASK:
        raise InputError(
            f"CCD needs the {CELEBAMASK.name} classes with their sides; {faces.name} has {faces.scheme.name}"
        )
    check_complete(boxes, faces)
    if not any(found for key in faces.ids for found in boxes[key].candidates.values()):
        raise InputError(
            f"not one box for any component in the {len(faces)} images of {faces.name}: nothing would be masked; "
            f"are these faces, and did the detector load its weights?"
        )


def report_ccd(
    faces: WeakFaces, boxes: Boxes, config: CCDConfig | None = None, seed: int = 0, epoch: int | None = None
) -> dict:
    """What CCD does to a data set, as plain numbers for ``report.json``; arguments as :func:`mask_faces`.

    Returns:
        ``components``: for each of :data:`MASKABLE` the number of images in which it is ``present`` in the labels,
        ``found`` (any candidate), ``accepted`` (Eq. 1), ``accepted_present`` (both) and ``masked``, the number of
        candidates ``rejected`` by each test, and of left and right ones ``on_both_sides``: accepted boxes that also
        hide the other side (:data:`BOTH_SIDES`).  ``labels``: images with each class ``before`` and ``after``.
    """
    config = config or CCDConfig()
    _check_boxes(boxes, faces)
    counts = ("present", "found", "accepted", "accepted_present", "masked", "on_both_sides")
    table: dict[str, dict] = {c: dict.fromkeys(counts, 0) | {"rejected": dict.fromkeys(TESTS, 0)} for c in MASKABLE}
    after = np.zeros(len(COMPONENTS), int)
    for key, y in zip(faces.ids, faces.labels, strict=True):
        record = boxes[key]
        masked = boxes_to_mask(y, record.candidates, record.size, key, config, seed, epoch)
        after += mask_labels(y, tuple(masked), config)
        centre = side_line(record.candidates, record.size, config)
        for component, row in table.items():
            judged = judge(record.candidates.get(PHRASE_OF[component], ()), component, record.size, config, centre)
            verdicts = [verdict for _, verdict in judged]
            present = bool(y[_columns(component, config)].any())
            row["present"] += present
            row["found"] += bool(verdicts)
            taken = [d.box for d, verdict in judged if verdict == "accepted"]
            row["accepted"] += len(taken)
            row["accepted_present"] += present * len(taken)
            if CELEBAMASK.picture_half(component):
                row["on_both_sides"] += sum(_on_both_sides(box, centre) for box in taken)
            row["masked"] += component in masked
            for test in TESTS:
                row["rejected"][test] += verdicts.count(test)
    before = faces.labels.sum(0, dtype=int)
    columns = {
        name: dict(zip(COMPONENTS, n.tolist(), strict=True)) for name, n in (("before", before), ("after", after))
    }
    return {"images": len(faces), "config": asdict(config), "seed": seed, "components": table, "labels": columns}

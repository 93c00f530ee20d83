"""Measure the detectors and Eq. 1, and write {detector,eq1,detector_speed,dino_passes}.json with their pages.

usage: python scripts/measure_ccd.py detector [FOLDER]   recall and average precision, SynthFaces val and FRL London
       python scripts/measure_ccd.py eq1 [FOLDER]        the sided box with and without Eq. 1, frontal and turned faces
       python scripts/measure_ccd.py speed [FOLDER]      images a second, and the cost of a boxes file of 30,000
       python scripts/measure_ccd.py passes [FOLDER]     Grounding DINO at full size with random weights: its image
                                                         network for each phrase against once for all five

FOLDER is where the results go, by default results/.
"""

import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.data.frl import find_frl_london, frl_london
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.detect.base import PHRASE_OF, PHRASES, Candidates, Detection
from wsfp_helpers.detect.boxes import BoxRecord, read_boxes, shipped_boxes
from wsfp_helpers.detect.embedded import EmbeddedDetector
from wsfp_helpers.detect.groundingdino import GroundingDino, build_package_model, caption
from wsfp_helpers.method.ccd import MASKABLE, CCDConfig, accept, side_line
from wsfp_helpers.score.boxes import overlap, recall_and_precision, true_boxes
from wsfp_helpers.tooling.results import row, write_results
from wsfp_helpers.tooling.smoke import bert_vocabulary

GROUPS = (
    ("celeb/val", "frontal", 0.0, 0.35),
    ("celeb/val", "turned", 0.35, 2.0),
    ("lapa/test", "frontal", 0.0, 0.35),
    ("lapa/test", "turned", 0.35, 0.7),
    ("lapa/test", "far turned", 0.7, 2.0),
)
"""Split, name, and the yaw in radians from and below which a face belongs to the group (0.35 is 20 degrees)."""
FULL_SET = 30_000


def measure_detector() -> list[dict]:
    """Recall and average precision at an overlap of 0.5 by phrase."""
    rows, sets = [], {"SynthFaces celeb/val": synthfaces("celeb/val")}
    if find_frl_london() is not None:
        sets["FRL London (real photographs)"] = frl_london()
    for name, faces in sets.items():
        found = EmbeddedDetector().detect_faces(faces.weak)
        boxes = [true_boxes(faces.label_map(i)) for i in range(len(faces))]
        threshold = CCDConfig().score_threshold
        for what, least in (("all candidates", 0.0), (f"candidates above {threshold}", threshold)):
            scores = {}
            for phrase in PHRASES:
                kept = [[d for d in f[phrase] if d.score > least] for f in found]
                truth = [[box for part, box in each.items() if PHRASE_OF[part] == phrase] for each in boxes]
                scores[phrase] = recall_and_precision(kept, truth)
            # FRL's maps leave out what is hidden by hair: a box there is neither right nor wrong, so no precision.
            wanted = ["recall"] if least or "FRL" in name else ["recall", "average_precision"]
            for metric in wanted:
                per_class = {phrase: [scores[phrase][metric]] for phrase in PHRASES}
                mean = float(np.mean([value[0] for value in per_class.values()]))
                rows.append(row(f"{name}, {metric.replace('_', ' ')}, {what}", metric, "percent", [mean], per_class))
    return rows


def best_box(found: Candidates, component: str, config: CCDConfig) -> Detection | None:
    """The candidate that a detector alone would give: the best above the score threshold, whatever its side."""
    return next((d for d in found[PHRASE_OF[component]] if d.score > config.score_threshold), None)


def picture_line(found: Candidates, component: str, config: CCDConfig) -> Detection | None:
    """Eq. 1 as printed: the line is the picture's centre."""
    return accept(found[PHRASE_OF[component]], component, SIZE, config)


def face_line(found: Candidates, component: str, config: CCDConfig) -> Detection | None:
    """Eq. 1 with the line through the face."""
    line = side_line(found, SIZE, replace(config, reference="face"))
    return accept(found[PHRASE_OF[component]], component, SIZE, config, line)


SIZE = (160, 160)
RULES = {"best box": best_box, "Eq. 1, picture centre": picture_line, "Eq. 1, face centre": face_line}


def measure_eq1() -> list[dict]:
    """Precision and recall of the sided box, for components that the image shows (with 10 pixels or more)."""
    rows, config, seen = [], CCDConfig(), {}
    for split, group, least, below in GROUPS:
        faces = synthfaces(split)
        if split not in seen:
            truth = [true_boxes(faces.label_map(i)) for i in range(len(faces))]
            boxes = shipped_boxes(split)
            seen[split] = [boxes[key].candidates for key in faces.ids], truth
        found, truth = seen[split]
        yaw = np.abs(faces.attributes["yaw"].astype(float))
        images = np.flatnonzero((yaw >= least) & (yaw < below))
        for name, rule in RULES.items():
            tables = {"precision": {}, "recall": {}}
            for component in MASKABLE:
                pairs = [
                    (rule(found[i], component, config), truth[i][component]) for i in images if component in truth[i]
                ]
                right = sum(d is not None and overlap(np.array([d.box]), np.array([t]))[0, 0] >= 0.5 for d, t in pairs)
                given = sum(d is not None for d, _ in pairs)
                tables["precision"][component] = [100 * right / given if given else float("nan")]
                tables["recall"][component] = [100 * right / len(pairs)]
            for metric, table in tables.items():
                mean = float(np.nanmean([value[0] for value in table.values()]))
                title = f"{split}, {len(images)} {group} faces, {name}, {metric}"
                rows.append(row(title, metric, "percent", [mean], table))
    return rows


def measure_speed() -> list[dict]:
    """Images a second on this machine, and writing and reading a boxes file of 30,000 images.

    CPU time beside wall time: the first holds on a machine that others use too.
    """
    faces, detector = synthfaces("celeb/val"), EmbeddedDetector()
    images = [faces.image(i) for i in range(48)]
    detector.detect_batch(images[:8])
    wall, cpu = time.perf_counter(), time.process_time()
    found = [f for i in range(0, len(images), 8) for f in detector.detect_batch(images[i : i + 8])]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "boxes.jsonl"
        start = time.process_time()
        path.write_text("".join(_lines(found)))
        writing = time.process_time() - start
        start = time.process_time()
        assert len(read_boxes(path)) == FULL_SET
        reading, size = time.process_time() - start, path.stat().st_size / 1e6
    threads, rate, each = torch.get_num_threads(), len(images) / wall, cpu / len(images)
    return [
        row(f"detection, batches of 8, {threads} thread(s), wall time", "throughput", "images per second", [rate]),
        row("detection, CPU time an image", "time", "seconds", [each]),
        row("detection of 30,000 images, wall time, extrapolated", "time", "hours", [FULL_SET / rate / 3600]),
        row(
            "detection of 30,000 images, CPU time, extrapolated", "time", "hours", [FULL_SET * cpu / len(images) / 3600]
        ),
        row("boxes file of 30,000 images, writing, CPU time", "time", "seconds", [writing]),
        row("boxes file of 30,000 images, reading with all checks, CPU time", "time", "seconds", [reading]),
        row("boxes file of 30,000 images", "size", "MB", [size]),
    ]


def _lines(found: list[Candidates]) -> Iterable[str]:
    for i in range(FULL_SET):
        yield BoxRecord(f"{i:05d}", (160, 160), "embedded", found[i % len(found)]).line()


def measure_passes(rounds: int = 3) -> list[dict]:
    """Seconds a picture of 1024 x 1024 of the package's own call a phrase, and of ours for all five, in turn."""
    dino = random_dino()
    photograph = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    seconds: dict[str, list[float]] = {"all of it for each phrase": [], "its image network once for five phrases": []}
    far = 0.0
    with torch.no_grad():
        pixels = dino.prepare(photograph)
        for _ in range(rounds):
            start = time.perf_counter()
            alone = [dino.model(pixels, captions=[caption(phrase)])["pred_boxes"][0] for phrase in PHRASES]
            middle = time.perf_counter()
            together = dino.forward(pixels, [caption(phrase) for phrase in PHRASES])[1][0]
            for name, value in zip(seconds, (middle - start, time.perf_counter() - middle), strict=True):
                seconds[name].append(value)
            far = max(far, float((torch.stack(alone) - together).abs().median()))
    first, second = (float(np.median(values)) for values in seconds.values())
    return [
        *(row(f"{name}, {torch.get_num_threads()} thread(s)", "time", "seconds a picture", values)
          for name, values in seconds.items()),
        row("the first through the second", "ratio", "times", [first / second]),
        row("between the boxes of both, median", "distance", "of the picture's size", [far]),
    ]  # fmt: skip


def random_dino() -> GroundingDino:
    """Grounding DINO with Swin-T and a text encoder of BERT's size, all weights random."""
    from transformers import BertConfig, BertModel

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text(bert_vocabulary(PHRASES))
        (Path(folder) / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        torch.manual_seed(0)
        BertModel(BertConfig()).save_pretrained(folder)
        return GroundingDino(*build_package_model(None, Path(folder), "", "swint"))


COMMANDS = {
    "detector": ("detector", measure_detector),
    "eq1": ("eq1", measure_eq1),
    "speed": ("detector_speed", measure_speed),
    "passes": ("dino_passes", measure_passes),
}

if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    what, folder = (*sys.argv[1:3], "results")[:2]
    name, measure = COMMANDS[what]
    with exit_on_bad_input():
        print(write_results(name, f"python scripts/measure_ccd.py {what}", measure(), folder))

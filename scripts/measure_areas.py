"""Measure maps that are narrowed to the area of the detector's boxes, and write areas.json with its page.

usage: python scripts/measure_areas.py [FOLDER]   the networks of `wsfp ablate table3`, seed 0; trains those that it
                                                  has not left in the cache

FOLDER is where the results go, by default results/.  Eq. 15 presses all maps down with one weight, so it cannot give an
eye another size than a face.  The boxes that CCD accepts say how large the small parts are: here the map of each is
raised to the power that leaves so much of the picture above the threshold of the pseudo label.  Scored on val, where
settings are chosen.  This is ours, not the paper's.
"""

import sys
from collections.abc import Iterable, Sequence

import numpy as np

from wsfp_helpers.common.cache import cache_dir
from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.detect.base import BOX_CLASSES
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.method.fcam import Fcam, extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.method.regions import Accepted
from wsfp_helpers.profiles import Profile, profile
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels
from wsfp_helpers.stages import SHIPPED, accept_all, load_run, open_boxes, run_keyed
from wsfp_helpers.tooling.ablate import table3
from wsfp_helpers.tooling.results import scores_row, write_results

FILLS = (0.25, 0.5, 0.75, 1.0)
"""Shares of a box that its part may fill."""


def mean_areas(accepted: Sequence[Accepted], sizes: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Mean share of a picture that the accepted boxes of each component take; the mouth's is shared out to the lips.

    Args:
        accepted: Box (x1, y1, x2, y2) in pixels by component, one mapping a picture.
        sizes: Height and width of each picture.
    """
    shares: dict[str, list[float]] = {name: [] for name in BOX_CLASSES}
    for boxes, (height, width) in zip(accepted, sizes, strict=True):
        for name, (left, top, right, bottom) in boxes.items():
            shares[name].append((right - left) * (bottom - top) / (height * width))
    return {
        part: float(np.mean(shares[name])) / len(parts)
        for name, parts in BOX_CLASSES.items()
        if shares[name]
        for part in parts
    }


def narrowed(fcam: Fcam, areas: dict[str, float], fill: float, theta: float) -> np.ndarray:
    """Pseudo label ``(H, W)`` uint8 from maps that exceed ``theta`` in ``fill * areas`` of the picture at most."""
    maps = fcam.maps().copy()
    for k, values in zip(fcam.classes, maps, strict=True):
        if COMPONENTS[k] in areas:
            edge = float(np.quantile(values, 1 - fill * areas[COMPONENTS[k]]))
            if theta < edge < 1:  # a power of 1 or more: nothing is widened
                values **= np.log(theta) / np.log(edge)
    best = maps.argmax(0)
    chosen = np.asarray(fcam.classes)[best] + 1
    return np.where(maps.max(0) > theta, chosen, 0).astype(np.uint8)


def rows(config: Profile) -> Iterable[dict]:
    """CCD alone and the full method on val, with one threshold for all parts and with each fill."""
    boxes, training, val = open_boxes(SHIPPED, config), config.faces("train").weak, config.faces("val")
    areas = mean_areas(accept_all(training, boxes, config.ccd), [boxes[key].size for key in training.ids])
    for line in table3(config)[1:]:
        vit, _ = load_run(run_keyed(line.change(config, 0), SHIPPED, cache_dir() / "ablate"))
        maps = list(extract(vit, val.weak, config.fcam))
        plain = score_pseudo_labels((pseudo_label(each, config.theta) for each in maps), val)
        yield scores_row(line.name, [plain])
        for fill in FILLS:
            labels = (narrowed(each, areas, fill, config.theta) for each in maps)
            yield scores_row(f"{line.name}, areas of boxes times {fill}", [score_pseudo_labels(labels, val)])


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    target = sys.argv[1] if len(sys.argv) == 2 else "results"
    with exit_on_bad_input():
        print(write_results("areas", "python scripts/measure_areas.py", [*rows(profile("embedded"))], target))

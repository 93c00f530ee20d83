"""Measure which warning of `wsfp parse` finds the bad maps, and write warnings.json with its page and plot.

usage: python scripts/measure_warnings.py [FOLDER]     rendered faces, and FRL London where it is found

FOLDER is where the results go, by default results/.  Every second face of a set is shown as it is, the others are
spoilt in one of eight ways, so that there are bad maps to find.  Maps of a face are as good as their mean F1.  The
worst tenth of a set ought to be warned of, and of the others at most a tenth.  The measure and its limit were chosen on
celeb/val and on every third person of FRL London, the share of eyes that `wsfp parse` asks for on celeb/val; the other
sets report.
"""

import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from tqdm.auto import tqdm

from wsfp_helpers.common.errors import exit_on_bad_input
from wsfp_helpers.common.pictures import resize_label_map
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.frl import find_frl_london, frl_london
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK, IGNORE
from wsfp_helpers.parsing.light import LightParser, look_together
from wsfp_helpers.parsing.load import SHIPPED_PARSERS, load_parser
from wsfp_helpers.parsing.photographs import find_doubt
from wsfp_helpers.parsing.zoom import Parsed, ZoomSettings, agree, parse_canvases, to_canvas
from wsfp_helpers.score.confusion import evaluate_pairs
from wsfp_helpers.tooling.results import row, write_results

MEASURES = ("parsers", "mirror", "confidence")
"""Agreement of the parsers, and of a look with its mirror image, in the closest look at the face; mean confidence."""
SPOILT = ("blurred", "noisy", "dark", "grey", "turned", "covered", "sunglasses", "compressed")
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
_EYES = [CELEBAMASK.index(name) for name in ("l_eye", "r_eye", "l_brow", "r_brow")]
_SIZE = 640


def spoil(image: np.ndarray, truth: np.ndarray, how: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A harder picture ``(H, W, 3)`` uint8, and its label map: 255 where nobody can know any more."""
    (height, width), picture, truth = truth.shape, Image.fromarray(image), truth.copy()
    match how:
        case "blurred":
            return np.array(picture.filter(ImageFilter.GaussianBlur(width * rng.uniform(0.01, 0.05)))), truth
        case "noisy":
            return (image + rng.normal(0, rng.uniform(20, 80), image.shape)).clip(0, 255).astype(np.uint8), truth
        case "dark":
            return (image * rng.uniform(0.04, 0.3)).astype(np.uint8), truth
        case "grey":
            grey = (np.array(picture.convert("L")) - 128.0) * rng.uniform(1, 3) + 128
            return np.dstack([grey.clip(0, 255).astype(np.uint8)] * 3), truth
        case "turned":
            angle = rng.uniform(25, 180) * rng.choice([-1, 1])
            turned = Image.fromarray(truth).rotate(angle, Image.Resampling.NEAREST, fillcolor=IGNORE)
            return np.array(picture.rotate(angle, Image.Resampling.BICUBIC)), np.array(turned)
        case "compressed":
            small = picture.resize((max(8, int(width * rng.uniform(0.12, 0.35))),) * 2, Image.Resampling.BICUBIC)
            small.save(file := io.BytesIO(), "JPEG", quality=int(rng.integers(5, 25)))
            return np.array(Image.open(file).resize((width, height), Image.Resampling.BICUBIC)), truth
    rows, columns = np.nonzero(np.isin(truth, _EYES))
    if not len(rows):
        return image, truth
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    y, x = np.mgrid[:height, :width]
    if how == "sunglasses":
        across = [((x - left) / (right - left) - middle) / 0.29 for middle in (0.25, 0.75)]
        down = (y - (0.4 * top + 0.6 * bottom)) / (0.8 * (bottom - top))
        hidden = np.any([side**2 + down**2 < 1 for side in across], 0)
        truth[hidden] = CELEBAMASK.index("eye_g")
    else:
        place = rng.uniform(0, 1), rng.uniform(0, 0.6)
        hidden = (y > top + place[0] * (bottom - top)) & (y < top + (1.5 + place[0]) * (bottom - top))
        hidden &= (x > left + place[1] * (right - left)) & (x < left + (place[1] + 0.5) * (right - left))
        truth[hidden] = IGNORE
    spoilt = image.copy()
    spoilt[hidden] = rng.integers(0, 40, 3) if how == "sunglasses" else rng.integers(0, 256, 3)
    return spoilt, truth


class Measured:
    """Parses pictures with both shipped parsers, and says how sure each measure is of the answer."""

    def __init__(self) -> None:
        shipped = [load_parser(name) for name in SHIPPED_PARSERS]
        self.parsers = [parser for parser in shipped if isinstance(parser, LightParser)]
        for parser in self.parsers:
            parser.fast = True
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def look(self, pictures: np.ndarray, flip: bool) -> list[Tensor]:
        """As of :data:`wsfp_helpers.parsing.zoom.Look`; keeps a look and its mirror image apart."""
        straight = look_together(self.parsers, pictures, False)
        if not flip:
            return straight
        order = torch.from_numpy(CELEBAMASK.flip)
        mirrored = look_together(self.parsers, np.ascontiguousarray(pictures[:, :, ::-1]), False)
        pairs = [(a, b.flip(-1)[:, order]) for a, b in zip(straight, mirrored, strict=True)]
        self.pairs = [(a[0], b[0]) for a, b in pairs]
        return [(a + b) / 2 for a, b in pairs]

    def __call__(self, image: np.ndarray) -> tuple[list[Parsed], dict[str, float]]:
        """What each parser saw of a picture ``(H, W, 3)`` uint8, and each of :data:`MEASURES`, 0 without a face."""
        size = image.shape[:2]
        parsed = parse_canvases(self.look, self.parsers[0].size, [to_canvas(image, size)], [size], ZoomSettings())[0]
        if parsed[0].face is None:
            return parsed, dict.fromkeys(MEASURES, 0.0)
        view, face = parsed[0].views[-1], parsed[0].face
        halves = [
            [replace(view, probability=half).inside(face).argmax(0).numpy() for half in pair] for pair in self.pairs
        ]
        return parsed, {
            "mirror": float(np.mean([agree(*pair) for pair in halves])),
            "parsers": agree(*(each.closest[1].numpy() for each in parsed)),
            "confidence": float(np.mean([each.certainty for each in parsed])),
        }


def measured(measure: Measured, faces: Faces, which: Iterable[int], name: str) -> dict[str, np.ndarray]:
    """Of one face after the other F1 in percent, each of :data:`MEASURES`, and whether `wsfp parse` warns.

    ``spoilt`` is its place in :data:`SPOILT`, -1 for a picture as it is.
    """
    found, rng = [], np.random.default_rng(0)
    for number, index in enumerate(tqdm(list(which), desc=name, unit="face", leave=False)):
        image, truth = faces.image(index), faces.label_map(index)
        if max(truth.shape) > _SIZE:
            image = np.array(Image.fromarray(image).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))
            truth = resize_label_map(truth, (_SIZE, _SIZE))
        spoilt = number // 2 % len(SPOILT) if number % 2 else -1
        if number % 2:
            image, truth = spoil(image, truth, SPOILT[spoilt], rng)
        parsed, said = measure(image)
        size = truth.shape
        said |= {"spoilt": spoilt, "warned": bool(find_doubt(parsed, to_canvas(image, size), size))}
        pairs = ((each.label_map()[0], truth) for each in parsed)
        said["F1"] = float(np.mean([evaluate_pairs([pair], scored=faces.scored).mean_f1 for pair in pairs]))
        found.append(said)
    return {key: np.array([each[key] for each in found]) for key in found[0]}


def rows(name: str, found: dict[str, np.ndarray]) -> Iterator[dict]:
    """How many bad maps each measure finds that may warn of a tenth of the others, and with the limit of wsfp parse."""
    worst = np.zeros(len(found["F1"]), bool)
    worst[np.argsort(found["F1"])[: max(1, round(len(worst) / 10))]] = True
    yield row(f"{name}: maps", "count", "", [len(worst)])
    for key in MEASURES:
        limit = np.sort(found[key][~worst])[(~worst).sum() // 10]
        yield row(
            f"{name}: {key}, worst tenth warned of", "recall", "percent", [100 * (found[key][worst] < limit).mean()]
        )
    sunglasses = found["spoilt"] == SPOILT.index("sunglasses")
    yield row(f"{name}: wsfp parse, worst tenth warned of", "recall", "percent", [100 * found["warned"][worst].mean()])
    for which, metric, chosen in (
        ("others", "warned", ~worst), ("unspoilt", "warned", found["spoilt"] < 0), ("sunglasses", "recall", sunglasses)
    ):  # fmt: skip
        yield row(f"{name}: wsfp parse, {which} warned of", metric, "percent", [100 * found["warned"][chosen].mean()])


def curves(found: dict[str, np.ndarray]) -> Iterator[dict]:
    """Mean F1 of the maps that are left when those of which a measure is least sure are left out."""
    for key in MEASURES:
        order = np.argsort(-found[key], kind="stable")
        for coverage in COVERAGES:
            kept = order[: round(coverage * len(order))]
            yield row(f"share kept, by {key} = {coverage}", "mean_f1", "percent", [found["F1"][kept].mean()])


def every_row(part: int = 1) -> Iterator[dict]:
    """The rows of all sets, of every ``part``-th face."""
    measure, reported = Measured(), []
    for split in ("celeb/val", "celeb/test", "lapa/test", "helen/test"):
        faces = synthfaces(split)
        found = measured(measure, faces, range(0, len(faces), part), split)
        yield from rows(f"{split}{' (chosen on)' if split == 'celeb/val' else ''}", found)
        reported += [found] if split != "celeb/val" else []
    if find_frl_london():
        faces = frl_london()
        third = measured(measure, faces, range(0, len(faces), 3 * part), "FRL London, every third")
        rest = measured(measure, faces, [i for i in range(len(faces)) if i % 3][::part], "FRL London, others")
        yield from rows("FRL London, every third (chosen on)", third)
        yield from rows("FRL London, the others", rest)
        reported.append(rest)
    yield from curves({key: np.concatenate([each[key] for each in reported]) for key in reported[0]})


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    target = sys.argv[1] if len(sys.argv) == 2 else "results"
    with exit_on_bad_input():
        print(write_results("warnings", "python scripts/measure_warnings.py", [*every_row()], target))

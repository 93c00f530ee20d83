"""FRL London: 102 real, consented faces with 189 hand-placed points each, drawn into 19-class label maps.

Pictures, points and self-reported facts: DeBruine and Jones 2017, CC BY 4.0, doi 10.6084/m9.figshare.5047666.v5, as
kept by the public repository debruine/webmorphR.stim.  What the points outline is drawn as smooth curves; where they
say nothing, or something is in front of the part, the map is 255 (ignored) and never a guess:

* scored (:data:`SCORED`): skin, nose, eyes, brows, ears, lips, and the upper part of the neck;
* never scored: hair, cloth, glasses, hats, jewellery, and the mouth, because every mouth is closed;
* skin: a band inside the hairline is ignored, since the points cross single locks there.  Where hair hangs further
  in, the whole forehead is ignored, and so are brows and ears under hair: ``assets/frl_london_hidden.csv`` lists
  them, made by looking at every picture.  The upper front of the ear, often under hair, is always ignored;
* background: only two side bands above the shoulders, plain studio wall in all 102 pictures.
"""

import csv
from collections.abc import Collection
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import requests
from scipy.interpolate import splev, splprep
from tqdm.auto import tqdm

from wsfp_helpers.common.cache import cache_dir, data_dirs
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS, atomic_path, existing, existing_file, hold_folder, sha256_of
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.folder import PictureFiles
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS, IGNORE

REGISTRY = ASSETS / "frl_london.sha256.txt"
HIDDEN = ASSETS / "frl_london_hidden.csv"
COMMIT = "fa8b78fda2d659bb74ce62fcd99c4407551d2a77"
URL = f"https://raw.githubusercontent.com/debruine/webmorphR.stim/{COMMIT}/"
LICENCE = "FRL London: DeBruine and Jones 2017, CC BY 4.0, doi 10.6084/m9.figshare.5047666.v5"

NAME = "FRL London"
POINTS, SIZE = 189, 1350
SCORED = ("skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "u_lip", "l_lip", "neck")
"""Classes that the points outline; all others are ignored everywhere and have label 0."""

FOREHEAD = "forehead"
AGE_BANDS = ((18, "18-24"), (25, "25-34"), (35, "35-44"), (45, "45-54"))

_HAIRLINE = (109, *range(134, 145), 112)
_FACE = (*_HAIRLINE, 187, 113, 188, 114, 133, *range(132, 125, -1), 125, 111, 186, 110, 185)
_BAND = (110, 185, *_HAIRLINE, 187, 113)
_BAND_WIDTH = 0.12
_WALL_X, _WALL_Y = 0.14, 0.55


def frl_london(root: str | Path | None = None) -> Faces:
    """The 102 photographs 1350 x 1350 with label maps drawn from their points (scheme CelebAMask-HQ).

    ``root`` is the folder that holds ``inst/`` and ``data-raw/``; without it :func:`find_frl_london` looks for one.
    A class has label 1 when the map has it.  Attributes: ``age`` (years, NaN when not given), and the groups
    ``gender``, ``age band`` and ``ethnicity``, as the people reported them.  Raises :class:`InputError` when there is
    no copy.
    """
    folder = Path(root) if root is not None else find_frl_london()
    if folder is None:
        raise InputError(
            f"no complete copy of FRL London in {' or '.join(str(d / 'frl_london') for d in data_dirs())}: run "
            f"`wsfp data get frl-london` (38 MB), or set WSFP_DATA to a folder that holds frl_london/"
        )
    facts = _read_table(existing(folder / "data-raw" / "london_info.csv", "table of FRL London"))
    ids, stills = [f"{row['face_id']}_03" for row in facts], folder / "inst" / "neutral_front"
    hidden = hidden_parts()
    ages = np.array([row["face_age"] for row in facts], float)
    labels = np.array([[name in set(SCORED) - hidden.get(key, set()) for name in COMPONENTS] for key in ids])
    pictures = {key: stills / f"{key}.jpg" for key in ids}
    weak = WeakFaces(NAME, ids, PictureFiles(pictures), labels, licence=LICENCE, framed=False)
    gender, ethnicity = (np.array([row[column] for row in facts]) for column in ("face_gender", "face_eth"))
    bands = np.array([age_band(age) for age in ages])
    groups = {"gender": gender, "age band": bands, "ethnicity": ethnicity}
    return Faces(weak, partial(_label_map, stills), {"age": ages, **groups}, groups, SCORED)


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        if not rows or not all(f"inst/neutral_front/{row['face_id']}_03.jpg" in registry() for row in rows):
            raise ValueError("nobody, or somebody else")
        return [
            {key: row[key] for key in ("face_id", "face_gender", "face_eth")}
            | {"face_age": float("nan") if row["face_age"] == "NA" else float(row["face_age"])}
            for row in rows
        ]
    except (csv.Error, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not the table of FRL London, or was edited: remove it and run `wsfp data get frl-london`"
        ) from error


def _label_map(stills: Path, key: str) -> np.ndarray:
    return draw_label_map(read_points(stills / f"{key}.tem"), hidden_parts().get(key, ()))


def age_band(age: float) -> str:
    """Band of an age in years, ``"unknown"`` for NaN."""
    return next((name for start, name in reversed(AGE_BANDS) if age >= start), "unknown")


def find_frl_london() -> Path | None:
    """Folder of the first complete local copy in ``$WSFP_DATA`` or the cache, or ``None``; uses no network."""
    names = registry()
    folders = (folder / "frl_london" for folder in data_dirs())
    return next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)


def fetch_frl_london() -> Path:
    """Download the 206 files (38 MB) to the cache, each checked against its SHA-256; returns the folder.

    Files already there are kept, so an interrupted download goes on.  Raises :class:`InputError` without network, when
    the cache cannot be written, and while another process is fetching.
    """
    folder = cache_dir() / "frl_london"
    try:
        with hold_folder(folder):
            for name, digest in tqdm(registry().items(), desc="FRL London", unit="file"):
                _fetch(name, digest, folder / name)
    except InputError as error:
        raise InputError(f"{error} for the cache, which WSFP_CACHE names") from error
    except ValueError as error:
        raise InputError(
            f"could not download {name} of FRL London from {URL} ({error}): check the network and run the command "
            f"again, or set WSFP_DATA to a folder that holds frl_london/"
        ) from error
    return folder


def _fetch(name: str, digest: str, path: Path) -> None:
    """Download a file that is not there, or another one; raises :class:`ValueError` when it does not arrive."""
    if path.is_file() and sha256_of(path) == digest:
        return
    with atomic_path(path) as part:
        try:
            pooch.HTTPDownloader(timeout=60)(URL + name, str(part), None)
        except requests.RequestException as error:  # an OSError, but not of the disk
            raise ValueError(type(error).__name__) from error
        if sha256_of(part) != digest:
            raise ValueError("another SHA-256")


@cache
def registry() -> dict[str, str]:
    """SHA-256 of every file of the data set, by its path below the folder (and below :data:`URL`)."""
    return dict(line.split() for line in REGISTRY.read_text(encoding="utf-8").splitlines())


@cache
def hidden_parts() -> dict[str, set[str]]:
    """Parts under hair by picture: class names, and ``"forehead"`` for the skin above the brows."""
    with HIDDEN.open(encoding="utf-8") as file:
        return {row["id"]: set(row["hidden"].split()) for row in csv.DictReader(file)}


def read_points(path: str | Path) -> np.ndarray:
    """Points ``(189, 2)`` float64 of a ``.tem`` file as (x, y) in pixels of the photograph.

    Raises :class:`InputError` when the file is not a template of 189 points.
    """
    lines = existing_file(path, "point file").read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        points = np.array([line.split() for line in lines[1 : int(lines[0]) + 1]], float)
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} is not a .tem point file ({error}): download it again") from error
    if not (abs(points) < 10**5).all():
        raise InputError(f"{path} has points that are no pixels of a photograph: download it again")
    if points.shape != (POINTS, 2):
        raise InputError(f"{path} has points of shape {points.shape}: expected {(POINTS, 2)}; download it again")
    return points


def draw_label_map(points: np.ndarray, hidden: Collection[str] = ()) -> np.ndarray:
    """Label map ``(1350, 1350)`` uint8 from points ``(189, 2)`` as (x, y); parts named in ``hidden`` become 255."""
    label_map = np.full((SIZE, SIZE), IGNORE, np.uint8)
    wall = round(_WALL_X * SIZE)
    label_map[: round(_WALL_Y * SIZE), np.r_[:wall, SIZE - wall : SIZE]] = 0
    for name, outline in outlines(points).items():
        scored = name in SCORED and name not in hidden
        if name != FOREHEAD or name in hidden:
            label_map[fill(outline, label_map.shape)] = CELEBAMASK.index(name) if scored else IGNORE
    return label_map


def outlines(points: np.ndarray) -> dict[str, np.ndarray]:
    """Closed outlines ``(n, 2)`` as (x, y) of the parts in painting order (skin below nose, eyes and lips).

    Besides :data:`SCORED` there are three that only ever hide skin: ``hairline`` (the band inside it),
    ``forehead`` (all above the brows) and ``mouth`` (the line between the lips).
    """
    p = np.asarray(points, float)
    band = _curve(p[list(_BAND)])
    inwards = p[:2].mean(0) - band
    return {
        "neck": _outline(p, range(126, 133), [157], [184, 183], [145]),
        "skin": _curve(p[list(_FACE)], closed=True),
        # It begins a little outside, so that no pixel of skin is left between two curves that are not quite the same.
        "hairline": np.vstack([band - 0.02 * inwards, (band + _BAND_WIDTH * inwards)[::-1]]),
        FOREHEAD: _outline(p, _HAIRLINE, range(82, 76, -1), range(76, 70, -1)),
        "nose": _nose(p),
        "l_eye": _outline(p, range(23, 28), [27, 33, 32, 31, 23]),
        "r_eye": _outline(p, range(18, 23), [22, 30, 29, 28, 18]),
        "l_brow": _outline(p, range(77, 83), [82, 86, 85, 77]),
        "r_brow": _outline(p, range(71, 77), [76, 84, 83, 71]),
        "l_ear": _outline(p, [*range(120, 125), 114], [114, 188, 113]),
        "r_ear": _outline(p, [*range(115, 120), 111], [111, 186, 110]),
        "mouth": _outline(p, [87, *range(94, 99), 93], [93, *range(103, 98, -1), 87]),
        "u_lip": _outline(p, range(87, 94), [93, *range(98, 93, -1), 87]),
        "l_lip": _outline(p, [87, *range(99, 104), 93], [93, *range(108, 103, -1), 87]),
    }


def fill(outline: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies in a closed outline ``(n, 2)`` as (x, y), even-odd rule: bool ``(H, W)``.

    Marks where a row crosses an edge and counts the marks to the left, which is over ten times faster at this size than
    asking every pixel (``skimage.draw.polygon``).
    """
    (x, y), (next_x, next_y) = outline.T, np.roll(outline, -1, 0).T
    rows = np.arange(shape[0])[:, None]
    row, edge = np.nonzero((y <= rows) != (next_y <= rows))
    crossing = x[edge] + (row - y[edge]) * (next_x - x)[edge] / (next_y - y)[edge]
    marks = np.zeros((shape[0], shape[1] + 1), bool)
    np.logical_xor.at(marks, (row, np.ceil(crossing).clip(0, shape[1]).astype(int)), True)
    return np.logical_xor.accumulate(marks[:, :-1], 1)


def _nose(p: np.ndarray) -> np.ndarray:
    # The points follow the ridge (50-54, 56-60), not the flank: an annotator's outline runs a quarter of the way
    # from the ridge to the inner corner of the eye, and from there to the wing.
    right = p[52] + 0.25 * (p[22] - p[51])
    left = p[58] + 0.25 * (p[23] - p[57])
    return np.vstack(
        [
            _curve(np.vstack([p[50], right, p[61:64]])),
            _outline(p, [63, 64], [64, 55, 69], [69, 68]),
            _curve(np.vstack([p[68:65:-1], left, p[56]])),
        ]
    )


def _outline(p: np.ndarray, *pieces: Collection[int]) -> np.ndarray:
    return np.vstack([_curve(p[list(piece)]) for piece in pieces])


def _curve(points: np.ndarray, closed: bool = False, step: float = 2.0) -> np.ndarray:
    """Smooth curve ``(n, 2)`` through ``points``, about ``step`` pixels between neighbours; corners only at the ends.

    A cubic spline over the square root of the chords (centripetal), which does not loop where points are close.
    """
    points = np.vstack([points, points[:1]]) if closed else points
    chords = np.linalg.norm(np.diff(points, axis=0), axis=1)
    points, chords = points[np.r_[True, chords > 0]], chords[chords > 0]
    if len(points) < 3:
        return points
    along = np.r_[0, np.cumsum(np.sqrt(chords))] / np.sqrt(chords).sum()
    spline, _ = splprep(points.T, u=along, k=min(3, len(points) - 1), s=0, per=closed)
    return np.stack(splev(np.linspace(0, 1, max(8, int(chords.sum() / step))), spline), 1)

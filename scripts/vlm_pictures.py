"""Pictures and captions that the embedded image-text models are trained on, one source for each kind of model.

A source draws pictures and says what they show; :func:`write_captions` names some of it.  Only :class:`OutlinedFaces`
opens label maps: the other sources are given :class:`~wsfp_helpers.data.weak.WeakFaces`, which have none.
"""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import matplotlib.cbook
import numpy as np
import open_clip
import skimage.data
import sklearn.datasets
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw
from skimage.draw import random_shapes
from skimage.filters import gaussian
from torch import Tensor

from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK, PROMPTS

SIZE = 96
"""Side of the pictures that the image tower takes."""
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
PARTS = CELEBAMASK.words
FACE_FORMS = (
    "a photo of a face with {}", "a photo of {}", "a close up of {}", "a close up photo of a face with {}",
    "a portrait of a person with {}", "a picture with {}", "{}",
)  # fmt: skip
OTHER_FORMS = ("a photo of {}", "a close up of {}", "a picture with {}", "a picture of {}", "{}")
CANONICAL = (FACE_FORMS[0].format(PARTS[0]), *PROMPTS)
Centres = Callable[[torch.Generator], tuple[Tensor, Tensor]]


class Source(Protocol):
    """Pictures and what they show, without end."""

    things: tuple[str, ...]
    """What captions can name; the first 19 are the classes of faces."""
    prompts: tuple[str, ...]
    """Texts that are asked of every picture beside the captions: one for each of the first things, or none."""
    most: int
    """How many things a caption names at most."""

    def draw(self, rng: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
        """Normalised pictures ``(n, 3, SIZE, SIZE)`` and their state ``(n, things)``: 1 shown, 0 not, NaN unsure."""


class OutlinedFaces:
    """Faces, covered or faded by soft maps such as TCD's, whose captions come from their label maps.

    Args:
        faces: Pictures and label maps, square and of one size.
        size: Side of what is drawn.
        mean: Of the normalisation ``(3, 1, 1)``.
        std: Of the normalisation.
    """

    things, prompts, most = PARTS, CANONICAL, 4

    def __init__(self, faces: Faces, size: int = SIZE, mean: Tensor = MEAN, std: Tensor = STD) -> None:
        self.size, self.mean, self.std = size, mean, std
        self.images = to_tensor(faces.weak)
        self.maps = torch.from_numpy(np.stack([faces.label_map(i) for i in range(len(faces))]))
        counts = torch.stack([m.flatten().long().bincount(minlength=256) for m in self.maps])
        self.totals = counts[:, : len(PARTS)].float()
        self.weights = rarest(self.totals > 9)

    def draw(self, rng: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
        """See :class:`Source`."""
        return self.show(rng, torch.multinomial(self.weights, n, replacement=True, generator=rng))

    def show(self, rng: torch.Generator, index: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the faces at ``index`` ``(n,)``."""
        images, grid, mirrored, side = crop(
            rng, self.images[index], partial(part_centres, maps=self.maps[index]), size=self.size
        )
        maps = self.maps[index].float()[:, None]
        maps = F.grid_sample(maps, grid, mode="nearest", padding_mode="border", align_corners=False)[:, 0].long()
        maps = torch.where(mirrored.view(-1, 1, 1), torch.from_numpy(CELEBAMASK.flip)[maps], maps)
        centres = partial(part_centres, maps=maps)
        images, left = cover(rng, jitter(rng, images), centres)
        alpha = fade(rng, len(images), centres, self.size)
        return (images - self.mean) / self.std * alpha[:, None], in_sight(
            maps, alpha, left, self.totals[index], 1 / side
        )


class LabelledFaces:
    """Faces whose captions come from their image-level labels: whole faces and close-ups, some of them covered.

    What a label denies is nowhere in the picture.  What it grants is taken as shown in every close-up and behind every
    cover as well, which is often wrong: a caption of the whole picture says no more.
    """

    things, prompts, most = PARTS, CANONICAL, 4

    def __init__(self, faces: WeakFaces) -> None:
        self.images, self.state = to_tensor(faces), labels_of(faces)
        self.weights = rarest(self.state > 0)

    def draw(self, rng: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
        """See :class:`Source`."""
        index = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        images, _, mirrored, _ = crop(rng, self.images[index], partial(anywhere, n=n), closest=0.35)
        images, _ = cover(rng, jitter(rng, images), partial(anywhere, n=n))
        state = self.state[index]
        return (images - MEAN) / STD, torch.where(mirrored[:, None], state[:, CELEBAMASK.flip.copy()], state)


class Everyday:
    """Shapes, textures, landscapes and a few photographs; one picture in ten is a whole face, and one at least.

    A caption of a face names one to three of the parts that its image-level labels grant, and nobody says that the
    others are there; 'left' and 'right' are a coin toss.
    """

    prompts, most = (), 3
    share_of_faces = 1 / 12

    def __init__(self, faces: WeakFaces) -> None:
        self.faces, self.labels = to_tensor(faces), labels_of(faces)[:, 1:]
        self.photographs = open_photographs()
        self.things = (*PARTS, *OTHER_THINGS)
        self._ids = {thing: i for i, thing in enumerate(self.things)}

    def draw(self, rng: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
        """See :class:`Source`."""
        images, state = torch.empty(n, 3, SIZE, SIZE), torch.zeros(n, len(self.things))
        are_faces = chance(rng, n, self.share_of_faces)
        are_faces[0] = True
        images[are_faces], state[are_faces, : len(PARTS)] = self._faces(rng, int(are_faces.sum()))
        draws = np.random.default_rng(int(torch.randint(2**31, (1,), generator=rng)))
        for row in torch.nonzero(~are_faces)[:, 0].tolist():
            kind = draws.choice([shapes, texture, landscape, self._photograph], p=(0.35, 0.15, 0.2, 0.3))
            picture, shown = kind(draws)
            images[row] = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
            state[row, [self._ids[thing] for thing in shown]] = 1.0
        return (jitter(rng, images) - MEAN) / STD, state

    def _faces(self, rng: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
        index = torch.randint(0, len(self.faces), (n,), generator=rng)
        images, *_ = crop(rng, self.faces[index], partial(anywhere, n=n), close_ups=0.0)
        order = torch.rand(self.labels[index].shape, generator=rng) * self.labels[index]
        said = torch.randint(0, self.most, (n, 1), generator=rng)
        named = (order > 0) & (order >= order.topk(self.most).values.gather(1, said))
        return images, exchange_sides(rng, F.pad(named.float(), (1, 0)))

    def _photograph(self, draws: np.random.Generator) -> tuple[np.ndarray, set[str]]:
        name = draws.choice(list(self.photographs))
        picture = self.photographs[name]
        side = min(picture.size) * draws.uniform(0.5, 1)
        left, top = (draws.uniform(0, length - side) for length in picture.size)
        cut = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))
        return cut[:, :: draws.choice((-1, 1))], {name}


def to_tensor(faces: WeakFaces) -> Tensor:
    """All pictures of a set, in memory: ``(n, 3, H, W)`` in [0, 1]."""
    images = np.stack([faces.image(i) for i in range(len(faces))])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def labels_of(faces: WeakFaces) -> Tensor:
    """Image-level labels ``(n, 19)``; the background is always there."""
    return F.pad(torch.from_numpy(faces.labels).float(), (1, 0), value=1.0)


def rarest(present: Tensor) -> Tensor:
    """Weights ``(n,)`` to draw pictures with, from ``(n, 19)`` bool: higher where a picture shows a rare part."""
    rarity = present.float().mean(0).clamp(min=0.02).rsqrt()
    return (present * rarity).amax(1)


def write_captions(rng: torch.Generator, state: Tensor, source: Source) -> tuple[list[str], Tensor]:
    """One caption a picture, naming some of the things it shows in random order; also what it names.

    Gives captions and ``(n, things)`` bool.  Where nothing is certain the caption names the background.
    """
    captions, named = [], torch.zeros(state.shape, dtype=torch.bool)
    for row, seen in enumerate(state == 1):
        order = torch.randperm(len(source.things), generator=rng)
        chosen = [int(k) for k in order if seen[k]][: int(torch.randint(1, source.most + 1, (1,), generator=rng))]
        chosen = chosen or [0]
        named[row, chosen] = True
        words = [source.things[k] for k in chosen]
        text = " ".join([", ".join(words[:-1]), "and", words[-1]]) if len(words) > 1 else words[0]
        forms = FACE_FORMS if chosen[0] < len(PARTS) else OTHER_FORMS
        captions.append(forms[int(torch.randint(0, len(forms), (1,), generator=rng))].format(text))
    return captions, named


def vocabulary(source: Source) -> list[str]:
    """All words of captions and prompts, in order."""
    texts = [*FACE_FORMS, *source.things, "and", *(OTHER_FORMS if len(source.things) > len(PARTS) else ())]
    return sorted({word for text in texts for word in text.replace("{}", "").split()})


def exchange_sides(rng: torch.Generator, state: Tensor) -> Tensor:
    """Left and right change places in the captions of half of the pictures."""
    return torch.where(chance(rng, len(state), 0.5)[:, None], state[:, CELEBAMASK.flip.copy()], state)


# --- what is done to pictures -----------------------------------------------------------------------------------------


def uniform(rng: torch.Generator, n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """``(n,)`` draws between ``low`` and ``high``."""
    return low + (high - low) * torch.rand(n, generator=rng)


def chance(rng: torch.Generator, n: int, p: float) -> Tensor:
    """``(n,)`` bool, each true with probability ``p``."""
    return torch.rand(n, generator=rng) < p


def smooth_noise(rng: torch.Generator, n: int, size: int) -> Tensor:
    """``(n, size, size)`` of about unit variance, on a grid of 3 to 20 cells."""
    cells = int(torch.randint(3, 21, (1,), generator=rng))
    field = torch.randn(n, 1, cells, cells, generator=rng)
    return F.interpolate(field, (size, size), mode="bicubic", align_corners=False)[:, 0] * 1.3


def anywhere(rng: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Centres in [0, 1], all equally likely."""
    return uniform(rng, n), uniform(rng, n)


def part_centres(rng: torch.Generator, maps: Tensor, share: float = 0.6) -> tuple[Tensor, Tensor]:
    """Centres in [0, 1]: with probability ``share`` a random pixel of a random part in sight, else anywhere."""
    n, size = maps.shape[0], maps.shape[-1]
    flat = maps.reshape(n, -1).long()
    seen = torch.zeros(n, 256).scatter_(1, flat, 1.0)[:, : len(PARTS)]
    part = torch.multinomial(seen, 1, generator=rng)
    pixel = torch.multinomial((flat == part).float(), 1, generator=rng)[:, 0]
    elsewhere = ~chance(rng, n, share)
    pixel[elsewhere] = torch.randint(0, size * size, (n,), generator=rng)[elsewhere]
    return (pixel % size + 0.5) / size, (pixel // size + 0.5) / size


def blobs(rng: torch.Generator, n: int, centres: Centres, size: int) -> Tensor:
    """Free-form spots ``(n, size, size)`` in [0, 1]: a wobbly ellipse or two, or one side of a line; sharp or soft.

    The first ellipse is at one of the ``centres``.
    """
    grid = (torch.arange(24) + 0.5) / 24
    column = (n, 1, 1)
    distance = torch.full((n, 24, 24), 9.0)
    for keep in (torch.ones(n, dtype=torch.bool), chance(rng, n, 0.25)):
        x, y = centres(rng) if keep.all() else anywhere(rng, n)
        angle, radius = uniform(rng, n, 0, 2 * math.pi), torch.exp(uniform(rng, n, math.log(0.04), math.log(0.5)))
        stretch = torch.exp(uniform(rng, n, -0.6, 0.6))
        dx, dy = grid.view(1, 1, -1) - x.view(column), grid.view(1, -1, 1) - y.view(column)
        cos, sin = angle.cos().view(column), angle.sin().view(column)
        along, across = dx * cos + dy * sin, dy * cos - dx * sin
        ellipse = (
            (along / (radius * stretch).view(column)) ** 2 + (across / (radius / stretch).view(column)) ** 2
        ).sqrt()
        line = 1 + along * 8
        new = torch.where((chance(rng, n, 0.2) & keep).view(column), line, ellipse)
        distance = torch.where(keep.view(column), torch.minimum(distance, new), distance)
    wobble = smooth_noise(rng, n, 24)
    softness = torch.exp(uniform(rng, n, math.log(0.03), math.log(0.4))).view(column)
    field = (1 + 0.3 * wobble - distance) / softness
    return torch.sigmoid(F.interpolate(field[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0])


def crop(
    rng: torch.Generator,
    images: Tensor,
    centres: Centres,
    close_ups: float = 0.5,
    closest: float = 0.12,
    size: int = SIZE,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Whole faces and close-ups, half of them mirrored, turned by up to 10 degrees.

    Args:
        rng: Of all draws.
        images: ``(n, 3, H, W)`` in [0, 1].
        centres: Where close-ups are.
        close_ups: Their share.
        closest: Side of the smallest, in relation to the picture's.
        size: Side of what is cut out, in pixels.

    Returns:
        Pictures ``(n, 3, size, size)``, the grid of ``torch.nn.functional.grid_sample`` that cut them out, whether each
        is mirrored ``(n,)``, and its side in relation to the picture's ``(n,)``.
    """
    n = len(images)
    whole = chance(rng, n, 1 - close_ups)
    side = torch.where(whole, uniform(rng, n, 0.85, 1.05), torch.exp(uniform(rng, n, math.log(closest), math.log(0.9))))
    x, y = centres(rng)
    room = (1 - side).abs() / 2 + 0.03
    x = torch.where(whole, 0.5 + (x - 0.5) * room, x + uniform(rng, n, -0.3, 0.3) * side)
    y = torch.where(whole, 0.5 + (y - 0.5) * room, y + uniform(rng, n, -0.3, 0.3) * side)
    inside = side.clamp(max=1) / 2
    x, y = torch.maximum(torch.minimum(x, 1 - inside), inside), torch.maximum(torch.minimum(y, 1 - inside), inside)
    angle = uniform(rng, n, -0.17, 0.17)
    mirrored = chance(rng, n, 0.5)
    sign = torch.where(mirrored, -1.0, 1.0)
    rows = [
        torch.stack([side * angle.cos() * sign, -side * angle.sin(), 2 * x - 1], 1),
        torch.stack([side * angle.sin() * sign, side * angle.cos(), 2 * y - 1], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), [n, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False), grid, mirrored, side


def jitter(rng: torch.Generator, images: Tensor) -> Tensor:
    """Light, contrast, saturation, tint, a little blur and noise; ``(n, 3, S, S)`` in [0, 1]."""
    n = len(images)
    column = (n, 1, 1, 1)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * uniform(rng, n, 0.5, 1.4).view(column)
    centre = images.mean((1, 2, 3), keepdim=True)
    images = centre + (images - centre) * uniform(rng, n, 0.7, 1.35).view(column)
    images = images * uniform(rng, 3 * n, 0.9, 1.1).view(n, 3, 1, 1) * uniform(rng, n, 0.7, 1.3).view(column)
    soft = F.interpolate(F.avg_pool2d(images, 2), images.shape[-2:], mode="bilinear", align_corners=False)
    images = torch.where(chance(rng, n, 0.25).view(column), soft, images)
    noise = torch.randn(images.shape, generator=rng) * uniform(rng, n, 0, 0.05).view(column)
    return (images + noise * chance(rng, n, 0.3).view(column)).clamp(0, 1)


def cover(rng: torch.Generator, images: Tensor, centres: Centres) -> tuple[Tensor, Tensor]:
    """Cover a box or a blob of a quarter of the pictures with black, a colour or noise; also gives what is left."""
    n, size = len(images), images.shape[-1]
    grid = (torch.arange(size) + 0.5) / size
    x, y = centres(rng)
    half_width, half_height = uniform(rng, n, 0.03, 0.3).view(-1, 1, 1), uniform(rng, n, 0.03, 0.3).view(-1, 1, 1)
    box = ((grid.view(1, 1, -1) - x.view(-1, 1, 1)).abs() < half_width) & (
        (grid.view(1, -1, 1) - y.view(-1, 1, 1)).abs() < half_height
    )
    shape = torch.where(chance(rng, n, 0.6).view(-1, 1, 1), box, blobs(rng, n, centres, size) > 0.5)
    shape = shape & chance(rng, n, 0.25).view(-1, 1, 1)
    colour = torch.rand(n, 3, 1, 1, generator=rng) * (~chance(rng, n, 0.5)).view(-1, 1, 1, 1)
    grain = torch.randn(images.shape, generator=rng) * 0.2 * chance(rng, n, 0.2).view(-1, 1, 1, 1)
    return torch.where(shape[:, None], (colour + grain).clamp(0, 1), images), ~shape


def fade(rng: torch.Generator, n: int, centres: Centres, size: int) -> Tensor:
    """Soft maps ``(n, S, S)`` in [0, 1] such as TCD multiplies a picture with: none, spots, their reverse, noise."""
    spots = blobs(rng, n, centres, size)
    sharpness = torch.exp(uniform(rng, n, math.log(1.5), math.log(12))).view(-1, 1, 1)
    noise = torch.sigmoid((smooth_noise(rng, n, size) - uniform(rng, n, -1, 1).view(-1, 1, 1)) * sharpness)
    kind = uniform(rng, n).view(-1, 1, 1)
    maps = torch.where(kind < 0.5, spots, torch.where(kind < 0.65, 1 - spots, noise))
    low = (uniform(rng, n, 0, 0.12) * chance(rng, n, 0.3)).view(-1, 1, 1)
    high = torch.where(chance(rng, n, 0.5), uniform(rng, n, 0.4, 1.0), 1.0).view(-1, 1, 1)
    return torch.where(kind < 0.8, low + (high - low) * maps, high)


def in_sight(maps: Tensor, alpha: Tensor, left: Tensor, totals: Tensor, zoom: Tensor) -> Tensor:
    """Which classes a person would name ``(n, 19)``: 1 in sight, 0 not, NaN neither (too little, or too faint).

    In sight: at least half of the part and 3 pixels, or 3 % of the picture, or a quarter of all that is shown.
    """
    n, area = maps.shape[0], maps[0].numel()
    flat, scale = maps.reshape(n, -1), area * zoom.view(-1, 1) ** 2 / 160**2

    def count(shown: Tensor) -> Tensor:
        return torch.zeros(n, 256).scatter_add_(1, flat, shown.reshape(n, -1).float())[:, : len(PARTS)]

    sure, maybe = count((alpha > 0.3) & left), count((alpha > 0.1) & left)
    whole = (totals * scale).clamp(min=1)
    named = (sure >= 0.5 * whole) & (sure >= 3) | (sure >= 0.03 * area)
    named |= (sure >= 0.25 * sure.sum(1, keepdim=True)) & (sure >= 0.005 * area)
    absent = (maybe < 0.12 * whole) & (maybe < 0.006 * area) & (maybe < 0.08 * maybe.sum(1, keepdim=True).clamp(min=9))
    state = torch.full(named.shape, math.nan)
    state[absent] = 0.0
    state[named] = 1.0
    return state


# --- pictures that are no faces ---------------------------------------------------------------------------------------

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown")
SHAPES = ("rectangle", "circle", "triangle", "ellipse")
PATTERNS = ("stripes", "checks", "dots", "clouds")
GROUNDS = {"meadow": (90, 150, 60), "sea": (30, 90, 150), "beach": (220, 200, 140)}
NUMBERS = {2: "two", 3: "three"}
PHOTOGRAPHS = {
    "chelsea": "cat", "coffee": "cup of coffee", "rocket": "rocket", "horse": "horse", "coins": "coins",
    "brick": "bricks", "grass": "grass", "gravel": "gravel", "moon": "craters", "hubble_deep_field": "galaxies",
    "page": "printed page", "text": "written text", "clock": "clock", "retina": "retina", "cell": "cell",
    "immunohistochemistry": "tissue", "checkerboard": "checkerboard",
}  # fmt: skip
"""Functions of :mod:`skimage.data` whose files are in its wheel, and what they show; no people."""
OTHER_THINGS = (
    *(f"{colour} {thing}" for colour in COLOURS for thing in SHAPES + PATTERNS),
    *(f"{number} {shape}s" for number in NUMBERS.values() for shape in SHAPES),
    *(f"{shape} on the {side}" for shape in SHAPES for side in ("left", "right")),
    *(f"{shape} at the {end}" for shape in SHAPES for end in ("top", "bottom")),
    *GROUNDS, "blue sky", "night sky", "sun", "moon", "house", "tree",
    *PHOTOGRAPHS.values(), "motorcycle", "temple", "flower", "present",
)  # fmt: skip
"""What the pictures of :class:`Everyday` show beside parts of faces."""


def paint(draws: np.random.Generator, colour: str) -> np.ndarray:
    """RGB ``(3,)`` near a named colour, 0 to 254."""
    return (np.array(to_rgb(colour)) * 255 + draws.uniform(-30, 30, 3)).clip(0, 254).astype(np.uint8)


def texture(draws: np.random.Generator) -> tuple[np.ndarray, set[str]]:
    """Stripes, checks, dots or clouds of one colour on black, grey or white."""
    y, x = np.mgrid[:SIZE, :SIZE] * draws.uniform(0.15, 0.8)
    angle = draws.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    pattern, colour = draws.choice(PATTERNS), draws.choice(COLOURS)
    shown = {
        "stripes": np.sin(along) > 0,
        "checks": np.sin(along) * np.sin(across) > 0,
        "dots": np.cos(along) * np.cos(across) > 0.4,
        "clouds": gaussian(draws.standard_normal((SIZE, SIZE)), draws.uniform(4, 10)) > 0,
    }[pattern]
    ground = np.full(3, draws.choice((0, 128, 255)), np.uint8)
    return np.where(shown[..., None], paint(draws, colour), ground), {f"{colour} {pattern}"}


def shapes(draws: np.random.Generator) -> tuple[np.ndarray, set[str]]:
    """One to three shapes on a plain or textured ground: their colours, numbers and places (the viewer's sides)."""
    picture, shown = texture(draws)
    if draws.random() < 0.6:
        picture, shown = np.full_like(picture, draws.choice((0, 128, 255))), set()
    count: Counter[str] = Counter()
    for _ in range(draws.integers(1, 4)):
        colour, shape = draws.choice(COLOURS), draws.choice(SHAPES)
        ranges = tuple((int(value), int(value) + 1) for value in paint(draws, colour))
        canvas, [(_, ((top, bottom), (left, right)))] = random_shapes(
            (SIZE, SIZE), 1, min_size=18, max_size=44, intensity_range=ranges, shape=str(shape), rng=draws
        )
        picture = np.where((canvas < 255).any(-1, keepdims=True), canvas, picture)
        count[shape] += 1
        shown |= {f"{colour} {shape}", f"{shape} on the {'left' if left + right < SIZE else 'right'}"}
        shown |= {f"{shape} at the {'top' if top + bottom < SIZE else 'bottom'}"}
    return picture, shown | {f"{NUMBERS[n]} {shape}s" for shape, n in count.items() if n > 1}


def landscape(draws: np.random.Generator) -> tuple[np.ndarray, set[str]]:
    """A drawing of meadow, sea or beach below a sky by day or night; sun or moon, a house, trees."""
    night, ground = draws.random() < 0.3, str(draws.choice(list(GROUNDS)))
    horizon = int(draws.integers(45, 70))
    picture = Image.new("RGB", (SIZE, SIZE), (20, 25, 60) if night else (140, 190, 235))
    drawing, shown = ImageDraw.Draw(picture), {ground, "night sky" if night else "blue sky"}
    if draws.random() < 0.6:
        x, y, radius = int(draws.integers(10, 86)), int(draws.integers(10, 30)), int(draws.integers(5, 11))
        drawing.circle((x, y), radius, (240, 240, 220) if night else (255, 220, 60))
        shown.add("moon" if night else "sun")
    drawing.rectangle((0, horizon, SIZE, SIZE), GROUNDS[ground])
    if ground != "sea" and draws.random() < 0.6:
        x, side = int(draws.integers(5, 65)), int(draws.integers(16, 30))
        drawing.rectangle((x, horizon - side // 2, x + side, horizon + side // 2), tuple(paint(draws, "brown")))
        roof = [(x - 4, horizon - side // 2), (x + side + 4, horizon - side // 2), (x + side // 2, horizon - side)]
        drawing.polygon(roof, (150, 40, 30))
        shown.add("house")
    for _ in range(draws.integers(0, 4) if ground == "meadow" else 0):
        x, y, height = int(draws.integers(5, 90)), int(draws.integers(horizon, 90)), int(draws.integers(12, 30))
        drawing.line((x, y, x, y - height), (90, 60, 30), 3)
        drawing.circle((x, y - height), height // 2, tuple(paint(draws, "green")))
        shown.add("tree")
    return np.asarray(picture), shown


def open_photographs() -> dict[str, Image.Image]:
    """What the wheels of scikit-image, scikit-learn and Matplotlib ship, RGB, by the thing that each shows."""
    pictures = {thing: getattr(skimage.data, name)() for name, thing in PHOTOGRAPHS.items()}
    pictures["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    pictures |= {"temple": sklearn.datasets.load_sample_image("china.jpg")}
    pictures |= {"flower": sklearn.datasets.load_sample_image("flower.jpg")}
    images = {thing: Image.fromarray(picture).convert("RGB") for thing, picture in pictures.items()}
    path = Path(matplotlib.cbook.get_sample_data("Minduka_Present_Blue_Pack.png", asfileobj=False))
    images["present"] = Image.open(path).convert("RGB")
    return images

"""Augmented copies for the light parser: what a photograph may do to a face that a renderer never does.

Everything acts on the picture and on the *target that training was given* (a rendered mask for the upper bound, a
pseudo label for the weak parser); no other label is looked at, and by default none is needed to change the picture.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter

from wsfp_helpers.common.configs import check_range
from wsfp_helpers.common.pictures import flip_image
from wsfp_helpers.labels import CELEBAMASK, IGNORE, flip_label_map

_BROWS = (CELEBAMASK.index("l_brow"), CELEBAMASK.index("r_brow"))


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths of the augmentation; probabilities are in [0, 1], lengths are fractions of the picture's side."""

    wide: float = 0.25
    """Probability of a wide framing (zoom 0.4-0.8) rather than one of 0.8-1.8 times the original."""
    rotation: float = 12.0
    """Standard deviation in degrees."""
    elastic: float = 0.012
    """Root mean square of the smooth random displacement: moves brows towards eyes, lips towards noses."""
    background: float = 0.0
    """Probability that everything the target calls background is replaced."""
    fade: float = 0.0
    """Probability that brows are blended into the skin around them: rendered ones are darker than real ones."""
    occlusion: float = 0.15
    photometric: float = 0.9

    def __post_init__(self) -> None:
        shares = ("wide", "elastic", "background", "fade", "occlusion", "photometric")
        check_range(self, rotation=(0, 180), **dict.fromkeys(shares, (0, 1)))


PLAIN = AugmentConfig(wide=0, rotation=0, elastic=0, occlusion=0, photometric=0)
"""No augmentation beyond the flip and small changes of the framing."""

WITH_MASKS = AugmentConfig(background=0.4, fade=0.5)
"""With the two that need to know where parts are: for targets as exact as the rendered masks of the upper bound."""


def augment(
    picture: np.ndarray, target: np.ndarray, rng: np.random.Generator, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """One augmented copy of ``(H, W, 3)`` uint8 and its target ``(H, W)`` uint8, of the same size.

    A flip exchanges left and right classes.  What comes from outside the picture and what is covered is 255.
    """
    if rng.random() < 0.5:
        picture, target = flip_image(picture), flip_label_map(target)
    if rng.random() < config.fade:
        picture = fade_brows(picture, target, rng)
    if rng.random() < config.background:
        picture = replace_background(picture, target, rng)
    picture, target = warp(picture, target, rng, config)
    if rng.random() < config.occlusion:
        picture, target = occlude(picture, target, rng)
    if rng.random() < config.photometric:
        picture = photometric(picture, rng)
    return picture, target


def fade_brows(picture: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend the brows of the target 20-75 % into the colour of the surroundings of each."""
    image = picture.astype(np.float32)
    strength = rng.uniform(0.2, 0.75)
    for brow in _BROWS:
        inside = target == brow
        if not inside.any():
            continue
        around = gaussian_filter((target == 1).astype(np.float32), 4) + 1e-4
        skin = np.stack([gaussian_filter(image[..., c] * (target == 1), 4) for c in range(3)], -1) / around[..., None]
        weight = strength * gaussian_filter(inside.astype(np.float32), 0.8)[..., None]
        weight = weight * np.minimum(around / 0.05, 1)[..., None]
        image = image * (1 - weight) + skin * weight
    return _uint8(image)


def replace_background(picture: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put a plain colour, a gradient or coloured noise behind everything that the target does not call background."""
    alpha = gaussian_filter((target != 0).astype(np.float32), rng.uniform(0.4, 1.0))[..., None]
    return _uint8(alpha * picture + (1 - alpha) * random_texture(target.shape, rng))


def random_texture(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """``(H, W, 3)`` float32 in [0, 255]: plain, a gradient, or noise with a natural spectrum."""
    kind, first, second = rng.integers(3), rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    if kind == 0:
        mix = np.zeros(shape, np.float32)
    elif kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
        mix = 0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2)
    else:
        mix = natural_noise(shape, rng, rng.uniform(0.7, 1.8))
        mix = np.clip(0.5 + 0.25 * mix, 0, 1)
    noise = rng.normal(0, rng.uniform(0, 12), (*shape, 1))
    return np.clip(first + mix[..., None] * (second - first) + noise, 0, 255).astype(np.float32)


def natural_noise(shape: tuple[int, int], rng: np.random.Generator, falloff: float) -> np.ndarray:
    """``(H, W)`` float32 noise of mean 0, deviation 1; its amplitude is frequency to the power ``-falloff``."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=shape)) / frequency**falloff
    noise = np.fft.irfft2(spectrum, shape)
    return (noise / noise.std()).astype(np.float32)


def warp(
    picture: np.ndarray, target: np.ndarray, rng: np.random.Generator, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Zoom, stretch, turn, shift and bend, all in one resampling; what lies outside the picture gets the label 255."""
    zoom = np.exp(rng.uniform(*np.log((0.4, 0.8) if rng.random() < config.wide else (0.8, 1.8))))
    stretch = np.exp(rng.normal(0, 0.06))
    angle = np.deg2rad(rng.normal(0, config.rotation))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([1 / (zoom * stretch), stretch / zoom])
    reach = 0.15 + 0.7 * abs(1 - 1 / zoom) * (1 if zoom > 1 else 0.6)
    shift = rng.uniform(-reach, reach, 2)
    theta = torch.from_numpy(np.column_stack([matrix, shift])).float()[None]
    height, width = target.shape
    grid = F.affine_grid(theta, [1, 1, height, width], align_corners=False)
    bend = torch.from_numpy(gaussian_filter(rng.normal(size=(height, width, 2)), (height / 16, width / 16, 0))).float()
    grid = grid + bend / bend.std() * 2 * config.elastic / zoom
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    image = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)[0].permute(1, 2, 0).numpy()
    ids = torch.from_numpy(target).float()[None, None] - IGNORE
    labels = F.grid_sample(ids, grid, mode="nearest", align_corners=False)[0, 0].numpy() + IGNORE
    if rng.random() < 0.5:
        # A texture around the picture is background; below it the shoulders would go on, so nothing is said there.
        x, y = grid[0].numpy().transpose(2, 0, 1)
        outside = (abs(x) > 1) | (abs(y) > 1)
        image[outside] = random_texture(target.shape, rng)[outside]
        labels[outside & (y < 1)] = 0
    return _uint8(image), labels.round().astype(np.uint8)


def occlude(picture: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cover an ellipse of 5-25 % of the side with a texture; covered pixels become 255."""
    height, width = target.shape
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0, height), rng.uniform(0, width)
    ry, rx = rng.uniform(0.05, 0.25) * height, rng.uniform(0.05, 0.25) * width
    covered = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    picture, target = picture.copy(), target.copy()
    picture[covered] = random_texture(target.shape, rng)[covered]
    target[covered] = IGNORE
    return picture, target


def photometric(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light, colour, grain, sharpness and compression of another camera."""
    image = picture.astype(np.float32) / 255
    shape = image.shape[:2]
    if rng.random() < 0.4:
        image *= np.exp(rng.uniform(0, 0.3) * natural_noise(shape, rng, 1.8))[..., None]
    if rng.random() < 0.3:
        image += rng.uniform(0.01, 0.05) * natural_noise(shape, rng, rng.uniform(0.2, 1.0))[..., None]
    image = np.clip(image * np.exp(rng.normal(0, 0.08, 3)), 0, 1) ** np.exp(rng.normal(0, 0.3))
    grey = image.mean(-1, keepdims=True)
    saturation = 0.0 if rng.random() < 0.07 else rng.uniform(0.4, 1.4)
    image = grey + saturation * (image - grey)
    contrast, middle = np.exp(rng.normal(0, 0.25)), image.mean()
    image = (image - middle) * contrast + middle + rng.normal(0, 0.08)
    choice = rng.random()
    if choice < 0.35:
        image = gaussian_filter(image, (sigma := rng.uniform(0.3, 1.5), sigma, 0))
    elif choice < 0.6:
        soft = gaussian_filter(image, (1.0, 1.0, 0))
        image = image + rng.uniform(0.2, 1.2) * (image - soft)
    if rng.random() < 0.35:
        image += rng.normal(0, rng.uniform(0.005, 0.05), image.shape)
    result = _uint8(image * 255)
    return jpeg(result, int(rng.integers(25, 95))) if rng.random() < 0.3 else result


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """The picture after JPEG compression."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return np.array(Image.open(buffer, formats=["JPEG"]))


def _uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)

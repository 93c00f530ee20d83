"""Name the clusters of the frozen features: better pseudo labels from the same supervision.  Ours, not the paper's.

The FCAMs say roughly where a part is, and paint the jaw as neck and the wall as clothes.  What they lack is outlines,
and the frozen features have them: k-means over the tokens of all pictures separates wall, skin, hair, hat and clothes
without knowing what they are called.  Image-level labels, accepted boxes (Eq. 1) and FCAMs, which carry the words,
know the names:

1. :func:`cluster` the tokens of the whole data set, several times;
2. gather the :class:`Evidence` of each cluster, and :func:`name_tokens` by it where it is clear;
3. :func:`refine`: a small network learns the names of the clear tokens and answers for all, a few rounds (EM);
4. :func:`region_label` enlarges the regions and draws the small parts (``method/shapes.py``).

Prior knowledge beside the supervision, all of it here and in ``shapes.py``: what touches the upper or side border is
background; between the boxes of the inner face there is skin; the neck is skin below the mouth and outside that hull;
and the shapes of small parts in their boxes.  No label map is looked at; the constants were chosen on celeb/val.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from skimage.morphology import convex_hull_image
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor, nn

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import Box
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.method.fcam import EPSILON, Fcam, FcamFolder
from wsfp_helpers.method.shapes import INNER, draw_parts, draw_parts_by_maps
from wsfp_helpers.nets.trunk import features, load_trunk

REGIONS = ("background", "skin", "hair", "hat", "cloth", "neck")
"""What a token can be.  Skin includes the parts on it, until they are drawn; the neck is split off skin at the end."""
NAMED = REGIONS[:5]
"""The regions that clusters are named by evidence.  A neck among them would take every token without a name."""
CLASS_IDS = np.array([0, *(COMPONENTS.index(name) + 1 for name in REGIONS[1:])], np.uint8)
"""The class of each of :data:`REGIONS`."""

Accepted = Mapping[str, Box]
"""The accepted box of each component of one picture that has one (:func:`wsfp_helpers.method.ccd.accepted_boxes`)."""


@dataclass(frozen=True)
class RegionConfig:
    """How regions are found and drawn; every step can be left out, for the table of what each is worth."""

    clusters: tuple[int, ...] = (256, 256, 256, 512, 128)
    """Clusters of each k-means; what they say of a token is averaged.  Empty: every token is its own cluster."""
    dims: int = 64
    """Principal components of the tokens."""
    fcam: bool = True
    """Evidence of the FCAMs.  Without it only border, hull and labels name a cluster."""
    contrast: bool = True
    """Evidence of the image-level labels: who has the cluster, and who has not."""
    boxes: bool = True
    """Evidence of the accepted boxes.  Without it the small parts are where their FCAM is strongest on skin."""
    border_weight: float = 2.0
    """Of a cluster's share of tokens at the upper and side border, as evidence for the background."""
    skin_weight: float = 0.6
    """Of the FCAM of skin, which covers hair as well, beside the share inside the hull."""
    contrast_weight: float = 1.5
    """Of FCAM times contrast."""
    smoothing: float = 10.0
    """Pictures without contrast that are added to those with and without a part, against chance."""
    always: float = 0.95
    """A part that a larger share of the pictures has gives no contrast: its FCAM alone speaks for it."""
    level: float = 0.2
    """A token has a clear name if the evidence for it exceeds this ..."""
    margin: float = 0.1
    """... and that for any other name by so much."""
    rounds: int = 2
    """Rounds of EM before the neck is split off and a last one is done; 0: the evidence alone decides."""
    keep: float = 0.95
    """Probability from which a token teaches in the next round."""
    shapes: bool = True
    """Draws shapes in the boxes; without them a part fills its box."""
    radius: int = 8
    """Of the guided filter, in pixels of a picture 160 pixels wide; 0: no filter."""
    theta: float = 0.5
    """Threshold of the maps of glasses."""
    jewellery: float = 0.85
    """Threshold of the maps of earrings and necklaces, which are smaller than a token."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """What is known of every token of a data set: ``n`` pictures with ``g * g`` tokens each."""

    features: np.ndarray
    """``(n, g * g, dims)`` float32, principal components of spread 1."""
    maps: np.ndarray
    """FCAMs ``(n, g * g, K)`` float32, each scaled to [0, 1] over its picture; 0 where the label is 0."""
    hull: np.ndarray
    """``(n, g * g)`` float32: the share of a token inside the hull of the inner face's boxes; 0 without boxes."""
    below: np.ndarray
    """``(n, g * g)`` float32: height below the centre of the inner face, 0.5 at the bottom of the mouth's box."""
    labels: np.ndarray
    """Image-level labels ``(n, K)`` uint8."""

    @property
    def border(self) -> np.ndarray:
        """``(n, g * g)`` bool: whether a token touches the upper or a side border."""
        side = round(self.hull.shape[1] ** 0.5)
        rows, columns = np.divmod(np.arange(side * side), side)
        return np.broadcast_to((rows == 0) | (columns == 0) | (columns == side - 1), self.hull.shape)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for the names of ``C`` clusters."""

    border: np.ndarray
    """``(C,)``: share of its tokens at the upper and side border."""
    inside: np.ndarray
    """``(C,)``: share inside the hull of the inner face's boxes."""
    below: np.ndarray
    """``(C,)``: mean of :attr:`Tokens.below`."""
    fcam: np.ndarray
    """``(C, K)`` in [0, 1]: mean FCAM of each component."""
    contrast: np.ndarray
    """``(C, K)`` in [0, 1]: 0 where pictures without a part have the cluster as often as those with it, 1 where
    they never have it."""


def gather(
    tokens: Tensor, fcams: Iterable[Fcam], boxes: Sequence[Accepted], labels: np.ndarray, config: RegionConfig
) -> Tokens:
    """Put together what is known of the tokens ``(n, g * g, d)`` of the frozen trunk.

    Args:
        tokens: Float16 or float32, row by row of a square grid.
        fcams: The maps of every picture; any grid.
        boxes: Accepted boxes of every picture in pixels.
        labels: Image-level labels ``(n, K)``.
        config: Says how many principal components are kept, and whether boxes are used.
    """
    n, count, width = tokens.shape
    side = round(count**0.5)
    flat = tokens.reshape(-1, width)
    sample = np.random.default_rng(0).permutation(n * count)[:40_000]
    pca = PCA(min(config.dims, width, len(sample)), random_state=0).fit(flat[np.sort(sample)].float().numpy())
    features = np.concatenate([pca.transform(part.float().numpy()) for part in flat.split(100_000)]).astype(np.float32)
    maps = np.zeros((n, count, labels.shape[1]), np.float32)
    hull, below = np.zeros((n, count), np.float32), np.zeros((n, count), np.float32)
    for i, (fcam, accepted) in enumerate(zip(fcams, boxes, strict=True)):
        maps[i][:, fcam.classes] = fcam.maps((side, side)).reshape(len(fcam.classes), -1).T
        inner = np.array([accepted[name] for name in INNER if name in accepted]) * side / ([*fcam.size[::-1]] * 2)
        if config.boxes and len(inner):
            hull[i] = _hull_share(inner, side).ravel()
            top, bottom = inner[:, 1].min(), inner[:, 3].max()
            below[i] = np.repeat((np.arange(side) + 0.5 - (top + bottom) / 2) / (bottom - top), side)
    return Tokens((features / features.std()).reshape(n, count, -1), maps, hull, below, labels)


def _hull_share(boxes: np.ndarray, side: int, fine: int = 8) -> np.ndarray:
    """Share ``(side, side)`` of each cell inside the convex hull of boxes ``(m, 4)`` given in cells."""
    mask = np.zeros((side * fine, side * fine), bool)
    for x1, y1, x2, y2 in np.round(boxes * fine).astype(int).clip(0):
        mask[y1:y2, x1:x2] = True
    hull = convex_hull_image(mask) if mask.any() else mask
    return hull.reshape(side, fine, side, fine).mean((1, 3))


def cluster(known: Tokens, config: RegionConfig, seed: int = 0) -> list[np.ndarray]:
    """The cluster ``(n, g * g)`` int32 of every token, for each k-means of ``config.clusters``."""
    flat = known.features.reshape(-1, known.features.shape[-1])
    found = []
    for i, count in enumerate(config.clusters):
        means = MiniBatchKMeans(
            min(count, len(flat)), batch_size=4096, n_init=1, random_state=len(config.clusters) * seed + i
        )
        found.append(means.fit_predict(flat).reshape(known.hull.shape))
    return found


def weigh(ids: np.ndarray, known: Tokens, config: RegionConfig) -> Evidence:
    """The evidence for the names of the clusters ``ids`` ``(n, g * g)``."""
    n, count = len(ids), int(ids.max()) + 1
    size = np.maximum(np.bincount(ids.ravel(), minlength=count), 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(ids.ravel(), values.ravel(), count) / size

    occupancy = np.bincount((np.arange(n)[:, None] * count + ids).ravel(), minlength=n * count).reshape(n, count)
    seen, has = np.log1p(occupancy), known.labels.astype(float)
    average = config.smoothing * seen.mean(0)[:, None]
    with_part = (seen.T @ has + average) / (has.sum(0) + config.smoothing)
    without = (seen.T @ (1 - has) + average) / ((1 - has).sum(0) + config.smoothing)
    contrast = (1 - without / np.maximum(with_part, EPSILON)).clip(0, 1)
    fcam = np.stack([mean(known.maps[..., k]) for k in range(known.maps.shape[-1])], 1)
    return Evidence(mean(known.border), mean(known.hull), mean(known.below), fcam, contrast)


def name_clusters(evidence: Evidence, labels: np.ndarray, config: RegionConfig) -> np.ndarray:
    """How much speaks for each of :data:`NAMED`: ``(C, 5)``, not negative.

    .. code-block:: text

        background   2 border                          what touches the border
        skin         0.6 FCAM + share inside the hull  (its FCAM covers the hair, too)
        others       1.5 FCAM * contrast               where maps and labels agree, or, of a part that nearly all have,
                     FCAM                              its map alone

    What the labels name is not background, skin or hair as well: those lose by half of the strongest such evidence.
    Clothes and the lower neck are in sight in the same pictures, the closely framed ones, so clothes have a name only
    where FCAM * contrast exceeds the neck's FCAM.
    """
    columns, explained = [config.border_weight * evidence.border], np.zeros(len(evidence.border))
    for name in NAMED[1:]:
        k = COMPONENTS.index(name)
        fcam = (
            evidence.fcam[:, k] if config.fcam else np.full(len(evidence.border), float(name not in ("skin", "hair")))
        )
        if name == "skin":
            score = config.skin_weight * fcam + evidence.inside
        elif config.contrast and labels[:, k].mean() <= config.always:
            score = config.contrast_weight * fcam * evidence.contrast[:, k]
            if name == "cloth" and config.fcam:
                score *= score > config.contrast_weight * evidence.fcam[:, COMPONENTS.index("neck")]
            explained = np.maximum(explained, (score / 2).clip(0, 1))
        else:
            score = fcam
        columns.append(score)
    columns[:3] = [column * (1 - explained) for column in columns[:3]]
    return np.stack(columns, 1)


def name_tokens(
    known: Tokens, clusterings: Sequence[np.ndarray], config: RegionConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The evidence of every token, averaged over the clusterings, and the names that are clear.

    Returns:
        Evidence ``(n, g * g, 5)`` for :data:`NAMED`, negative where the picture has no such part; the strongest name
        ``(n, g * g)`` int64; and whether it is clear ``(n, g * g)`` bool.  Inside the hull a token is clearly skin.
    """
    scores = [name_clusters(weigh(ids, known, config), known.labels, config)[ids] for ids in clusterings]
    if not scores:
        maps = known.maps.reshape(-1, known.maps.shape[-1])
        single = Evidence(known.border.ravel(), known.hull.ravel(), known.below.ravel(), maps, np.ones_like(maps))
        scores = [name_clusters(single, known.labels, config).reshape(*known.hull.shape, -1)]
    score = np.where(_absent(known.labels, NAMED)[:, None], -1.0, np.mean(scores, 0))
    second, first = np.sort(score, -1)[..., -2:].transpose(2, 0, 1)
    names, clear = score.argmax(-1), (first > config.level) & (first - second > config.margin)
    return score, *_with_hull(names, clear, known)


def _with_hull(names: np.ndarray, clear: np.ndarray, known: Tokens) -> tuple[np.ndarray, np.ndarray]:
    inside = known.hull > 0.5
    return np.where(inside, NAMED.index("skin"), names), clear | inside


def _absent(labels: np.ndarray, regions: Sequence[str]) -> np.ndarray:
    """``(n, len(regions))`` bool: regions that the image-level label excludes; never the background."""
    no = np.zeros(len(labels), bool)
    return np.stack([labels[:, COMPONENTS.index(r)] == 0 if r in COMPONENTS else no for r in regions], 1)


def refine(known: Tokens, clusterings: Sequence[np.ndarray], config: RegionConfig, seed: int = 0) -> np.ndarray:
    """Probability ``(n, g * g, 6)`` float32 of each of :data:`REGIONS`, 0 where the label excludes one.

    A network with one hidden layer learns the clear names from the features of the token alone and answers for every
    token; what it is sure of teaches the next round.  Then the neck is split off: tokens called skin whose clusters lie
    below the mouth and hardly in the hull, in most clusterings (without boxes there is no such place, and no neck).
    """
    score, names, clear = name_tokens(known, clusterings, config)
    if not config.rounds:
        weight = np.exp(8 * score) * ~_absent(known.labels, NAMED)[:, None]
        return np.pad(weight / weight.sum(-1, keepdims=True), ((0, 0), (0, 0), (0, 1))).astype(np.float32)
    for turn in range(config.rounds):
        probability = _learn(known, names, clear, NAMED, 10 * seed + turn)
        names, clear = _with_hull(probability.argmax(-1), probability.max(-1) > config.keep, known)
    if not config.boxes:
        return np.pad(probability, ((0, 0), (0, 0), (0, 1)))
    found = [weigh(ids, known, config) for ids in clusterings]
    low = [((e.below > 0.6) & (e.inside < 0.02))[ids] for e, ids in zip(found, clusterings, strict=True)]
    share = np.mean(low, 0) if low else ((known.below > 0.6) & (known.hull < 0.02)).astype(float)
    skin = names == REGIONS.index("skin")
    names = np.where(skin & (share > 0.8), REGIONS.index("neck"), names)
    names, clear = _with_hull(names, clear & ~(skin & (share > 0.2) & (share <= 0.8)), known)
    return _learn(known, names, clear, REGIONS, 10 * seed + config.rounds)


def _learn(known: Tokens, names: np.ndarray, clear: np.ndarray, regions: Sequence[str], seed: int) -> np.ndarray:
    """Fit a small network to the clear tokens and return its probabilities ``(n, g * g, len(regions))``."""
    features = torch.from_numpy(known.features).flatten(0, 1)
    absent = torch.from_numpy(_absent(known.labels, regions)).repeat_interleave(known.hull.shape[1], 0)
    if not clear.any():
        raise InputError("no token has a clear name: give maps of a trained network, or boxes of the same pictures")
    teachers, target = torch.from_numpy(np.flatnonzero(clear)), torch.from_numpy(names.ravel())
    random = torch.Generator().manual_seed(seed)
    torch.set_flush_denormal(True)  # sure answers have gradients below 1e-38, on which a CPU is many times slower
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(features.shape[1], 64), nn.GELU(), nn.Linear(64, len(regions)))
    steps, batch = 400, min(8192, len(teachers))
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(steps):
        chosen = teachers[torch.randint(len(teachers), (batch,), generator=random)]
        loss = F.cross_entropy(network(features[chosen]).masked_fill(absent[chosen], -1e4), target[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        scores = [network(part) for part in features.split(100_000)]
        return torch.cat(scores).masked_fill(absent, -1e4).softmax(1).numpy().reshape(*names.shape, -1)


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of a data set, and what is needed to draw the label of a picture."""

    faces: WeakFaces
    fcams: FcamFolder
    boxes: Sequence[Accepted]
    config: RegionConfig
    probability: np.ndarray
    """``(n, g * g, 6)`` float32 of each of :data:`REGIONS`."""

    def label(self, index: int) -> np.ndarray:
        """:func:`region_label` of the i-th picture."""
        fcam = self.fcams.by_id(self.faces.ids[index])
        return region_label(self.faces.image(index), self.probability[index], fcam, self.boxes[index], self.config)


def find_regions(
    faces: WeakFaces, fcams: FcamFolder, boxes: Sequence[Accepted], config: RegionConfig, seed: int = 0
) -> Regions:
    """All steps but the drawing, for a whole data set.

    Args:
        faces: Pictures and image-level labels.
        fcams: The maps of at least these pictures.
        boxes: Accepted boxes of each picture in order.
        config: The settings.
        seed: Of k-means and of the small networks.
    """
    tokens = features((faces.image(i) for i in range(len(faces))), load_trunk(), len(faces))
    known = gather(tokens, map(fcams.by_id, faces.ids), boxes, faces.labels, config)
    return Regions(faces, fcams, boxes, config, refine(known, cluster(known, config, seed), config, seed))


def region_label(
    image: np.ndarray, probability: np.ndarray, fcam: Fcam, accepted: Accepted, config: RegionConfig
) -> np.ndarray:
    """Pseudo label ``(H, W)`` uint8 of a picture.

    Args:
        image: Picture ``(H, W, 3)`` uint8, whose edges guide the enlargement.
        probability: That of each of :data:`REGIONS`, ``(g * g, 6)``.
        fcam: Its maps, for glasses and jewellery and, without boxes, for every part on the skin.
        accepted: Its accepted boxes in pixels.
        config: The settings.
    """
    size, side = image.shape[:2], round(len(probability) ** 0.5)
    grid = torch.from_numpy(probability.T.reshape(1, -1, side, side).copy())
    large = F.interpolate(grid, size, mode="bilinear", align_corners=False)[0].numpy()
    grey = image.mean(2, dtype=np.float32) / 255
    if config.radius:
        large = guided_filter(grey, large, max(round(config.radius * size[1] / 160), 1))
    regions = CLASS_IDS[large.argmax(0)]
    if config.boxes:
        drawn = draw_parts(regions, grey, fcam.classes.tolist(), accepted, config.shapes)
    else:
        drawn = draw_parts_by_maps(regions, fcam)
    thresholds = {"eye_g": config.theta, "ear_r": config.jewellery, "neck_l": config.jewellery}
    worn = [(i, k) for i, k in enumerate(fcam.classes) if COMPONENTS[k] in thresholds]
    maps = fcam.maps(size) if worn else ()
    for i, k in worn:
        drawn[maps[i] > thresholds[COMPONENTS[k]]] = k + 1
    return drawn


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float = 1e-3) -> np.ndarray:
    """Smooth maps ``(C, H, W)`` along the edges of a grey picture ``(H, W)`` in [0, 1] (He, Sun and Tang, 2010)."""

    def mean(x: np.ndarray) -> np.ndarray:
        return uniform_filter(x, (0,) * (x.ndim - 2) + (2 * radius + 1,) * 2, mode="nearest")

    centre, average = mean(guide), mean(values)
    slope = (mean(guide * values) - centre * average) / (mean(guide * guide) - centre**2 + epsilon)
    return mean(slope) * guide + mean(average - slope * centre)

"""Checks of the tasks: the stub is open, right answers pass in more than one way, wrong ones learn why, each its own.

``CASES`` has for every check what it is given beside the answer, right answers and typical wrong ones.
"""

import inspect
import re
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import jupytext
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tools.notebooks import NOTEBOOKS
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK, COMPONENTS, LAPA, K, to_lapa_table
from wsfp_helpers.method.cooccurrence import label_information
from wsfp_helpers.notebook.checks import nb00, nb01, nb02, nb03, nb04, nb05, nb06, nb07, nb08
from wsfp_helpers.score.confusion import Scores

MODULES = (nb00, nb01, nb02, nb03, nb04, nb05, nb06, nb07, nb08)


@dataclass
class Case:
    """A check with right answers, wrong ones, and its other arguments, made when they are needed."""

    check: object
    right: list
    wrong: list
    rest: object = field(default=tuple)

    @property
    def open(self):
        if callable(self.right[0]):

            def stub(*_, **__):
                raise NotImplementedError("your code here")

            return stub
        return ...


# Notebook 00 ---------------------------------------------------------------------------------------------------------


@cache
def val():
    return synthfaces("celeb/val")


def list_of_parts(label_map):
    return np.array([(label_map == k + 1).sum() >= 10 for k in range(K)], np.uint8)


def three_largest():
    truth = val().label_map(0)
    return set(sorted(COMPONENTS, key=lambda n: -(truth == CELEBAMASK.index(n)).sum())[:3])


def clip_es_shares(v, parts, background, scale):
    return (scale * torch.cat([parts, background]) @ v).softmax(0)[: len(parts)]


def clip_es_shares_by_loops(v, parts, background, scale):
    powers = [float((scale * text @ v).exp()) for text in (*parts, *background)]
    return [power / sum(powers) for power in powers[: len(parts)]]


def failure(found, right, own):
    if found < 0.15:
        return "missed"
    return "elsewhere" if right < 0.2 else "both sides" if own < 0.65 else "none of these"


CASES = [
    Case(
        nb00.largest,
        [three_largest(), tuple(three_largest())],
        [{"skin", "hair", "l_eye"}, {"skin", "hair"}, {"background", "skin", "hair"}, {"Skin", "hair", "nose"}],
        lambda: (val().label_map(0),),
    ),
    Case(
        nb00.image_labels,
        [list_of_parts, lambda m: [int(np.count_nonzero(m == k) > 9) for k in range(1, 19)]],
        [
            lambda m: np.array([(m == k).sum() >= 10 for k in range(19)]),
            lambda m: np.array([(m == k + 1).any() for k in range(K)]),
            lambda m: np.array([(m == k).sum() >= 10 for k in range(K)]),
            lambda m: np.array([(m == k + 1).sum() > 10 for k in range(K)]),
        ],
        lambda: (val(),),
    ),
    Case(
        nb00.lost_by_mirror,
        [
            {"l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"},
            ["r_ear", "l_ear", "l_brow", "r_brow", "r_eye", "l_eye"],
        ],
        [{"l_eye", "r_eye", "l_lip"}, {"l_eye", "r_eye", "l_brow", "r_brow"}, {"ear_r", "l_eye"}, {"nose", "l_eye"}],
    ),
    Case(nb00.lazy_parser, ["accuracy high, mean F1 low"] * 2, ["both high", "both low", "accuracy low, mean F1 high"]),
]

# Notebook 01 ---------------------------------------------------------------------------------------------------------


@cache
def labels():
    return synthfaces("celeb/train").labels


def mean_first(tokens, weight, bias):
    return tokens.mean(1) @ weight.T + bias


def share_by_search(wanted):
    for q in np.arange(0, 0.51, 0.01):
        if label_information(np.array([1 - q]))[0] >= wanted:
            return q


def share_by_table(wanted):
    shares = np.arange(0, 0.51, 0.01)
    return shares[np.argmax(label_information(1 - shares) >= wanted)]


CASES += [
    Case(
        nb01.equal_columns,
        [("skin", "nose"), {"nose", "skin"}],
        [("l_eye", "r_eye"), ("hat", "eye_g"), ("nose", "nose"), ("skin", "hat")],
        lambda: (labels(),),
    ),
    Case(
        nb01.most_bits,
        ["mouth", {"mouth"}],
        ["skin", "hat", "l_ear", "nose_"],
        lambda: (label_information(labels().mean(0)),),
    ),
    Case(
        nb01.classifier,
        [mean_first, lambda t, w, b: (t @ w.T + b).mean(1)],
        [
            lambda t, w, b: t @ w.T,
            lambda t, w, b: (t @ w.T).sum(1) + b,
            lambda t, w, b: t.mean(1) @ w.T,
            lambda t, w, b: torch.sigmoid(mean_first(t, w, b)),
            lambda t, w, b: (t @ w.T).amax(1) + b,
        ],
    ),
    Case(nb01.shuffled_hat, ["no better than chance"] * 2, ["still on the hat", "nothing on the map", "on the hair"]),
    Case(
        nb01.smallest_share,
        [share_by_table, share_by_search],
        [
            lambda w: 1 - share_by_table(w),
            lambda w: w / 2,
            lambda w: share_by_table(w) + (0.01 if 0 < w < 1 else 0),
            lambda w: max(0, share_by_table(w) - 0.01),
        ],
    ),
]

# Notebook 02 ---------------------------------------------------------------------------------------------------------


def eq1(candidates, part, width, threshold=0.35):
    for c in candidates:
        middle = (c.box[0] + c.box[2]) / 2
        wrong = (part.startswith("r_") and middle >= width / 2) or (part.startswith("l_") and middle <= width / 2)
        if c.score > threshold and not wrong:
            return c


def eq1_by_list(candidates, part, width, threshold=0.35):
    def good(c):
        offset = c.box[0] + c.box[2] - width
        return c.score > threshold and {"l": offset > 0, "r": offset < 0}.get(part[0] if part[1] == "_" else "", True)

    return next(filter(good, candidates), None)


def other_side(candidates, part, width):
    return eq1(candidates, {"l": "r", "r": "l"}.get(part[0], part[0]) + part[1:] if part[1] == "_" else part, width)


def left_edge(candidates, part, width):
    return eq1([c for c in candidates if part[:2] != "l_" or c.box[0] > width / 2], part, width)


def on_the_line(candidates, part, width):
    for c in candidates:
        middle = (c.box[0] + c.box[2]) / 2
        if c.score > 0.35 and not (
            (part[:2] == "r_" and middle > width / 2) or (part[:2] == "l_" and middle < width / 2)
        ):
            return c


HIDDEN = {"mouth": ("mouth", "u_lip", "l_lip")}


def eq2(image, y, boxes):
    image, y = image.copy(), y.copy()
    for name, (x1, y1, x2, y2) in boxes.items():
        image[int(y1) : int(y2), int(x1) : int(x2)] = 0
        y[[COMPONENTS.index(n) for n in HIDDEN.get(name, (name,))]] = 0
    return image, y


def eq2_by_mask(image, y, boxes):
    rows, columns = np.indices(image.shape[:2])
    inside = np.zeros(image.shape[:2], bool)
    for x1, y1, x2, y2 in boxes.values():
        inside |= (columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2)
    gone = {n for name in boxes for n in HIDDEN.get(name, (name,))}
    return image * ~inside[..., None], np.array([v and n not in gone for n, v in zip(COMPONENTS, y, strict=True)])


def eq2_in_place(image, y, boxes):
    for x1, y1, x2, y2 in boxes.values():
        image[int(y1) : int(y2), int(x1) : int(x2)] = 0
    return image, y


def eq2_transposed(image, y, boxes):
    return eq2(image, y, {n: (b[1], b[0], b[3], b[2]) for n, b in boxes.items()})


def eq2_without_lips(image, y, boxes):
    new = y.copy()
    new[[COMPONENTS.index(n) for n in boxes]] = 0
    return eq2(image, y, boxes)[0], new


CASES += [
    Case(
        nb02.beyond_ccd,
        [{"skin", "hair", "neck"}, ["neck", "hair", "skin"]],
        [{"skin", "u_lip"}, {"nose", "skin"}, {"skin", "hair", "neck", "hat"}, {"skin"}],
    ),
    Case(nb02.best_box, ["about half"] * 2, ["nearly always", "hardly ever", "one in four"]),
    Case(
        nb02.equation_1,
        [eq1, eq1_by_list],
        [
            other_side,
            lambda c, p, w: c[0],
            left_edge,
            on_the_line,
            lambda c, p, w: eq1(c, p, w, threshold=0),
            lambda c, p, w: eq1(c, p, 160),
        ],
    ),
    Case(
        nb02.equation_2,
        [eq2, eq2_by_mask],
        [
            eq2_in_place,
            eq2_transposed,
            eq2_without_lips,
            lambda i, y, b: (eq2(i, y, b)[0], y.copy()),
            lambda i, y, b: (i.copy(), eq2(i, y, b)[1]),
            lambda i, y, b: eq2(i, y, b)[0],
        ],
    ),
    Case(
        nb02.always_masked,
        ["the label is constant again"] * 2,
        ["there are too few boxes", "more masking is more contrast", "the pictures are too dark"],
    ),
    Case(
        nb02.bits_after,
        [lambda p, r: label_information(np.array([1 - p * r]))[0], lambda p, r: float(label_information(p * r))],
        [
            lambda p, r: label_information(np.array([1 - p]))[0],
            lambda p, r: r * label_information(np.array([1 - p]))[0],
            lambda p, r: p * r,
            lambda p, r: 1 - p * r,
        ],
    ),
]

# Notebook 03 ---------------------------------------------------------------------------------------------------------


def tangent(c, tau=0.05):
    line = -np.log(tau) - (c - tau) / tau
    return torch.where(c < tau, line, -c.clamp(min=tau).log())


def tangent_by_clamp(c, tau=0.05):
    return -c.clamp(min=tau).log() + (tau - c).clamp(min=0) / tau


def without_clamp(c, tau=0.05):
    return torch.where(c < tau, -np.log(tau) - (c - tau) / tau, -c.log())


def push(v, text, present):
    cosine = (F.normalize(v, dim=-1) * text).sum(-1).clamp(0, 0.9999)
    return -((1 - cosine).log() * present).sum(-1).mean()


def push_by_loop(v, text, present):
    total = 0
    for b in range(len(v)):
        for k in range(len(text)):
            if present[b, k]:
                total = total - torch.log(1 - F.cosine_similarity(v[b, k], text[k], dim=0).clamp(min=0))
    return total / len(v)


def others(v, text, present, itself=False, everyone=False):
    cosine = F.normalize(v, dim=-1) @ F.normalize(text, dim=-1).T
    pairs = present[:, :, None] * (1 if everyone else present[:, None, :])
    pairs = pairs * (1 if itself else 1 - torch.eye(len(text)))
    return -(pairs * (1 - cosine.clamp(0, 0.9999)).log()).sum((1, 2))


def others_by_loop(v, text, present):
    total = torch.tensor(0.0)
    for b, row in enumerate(present):
        there = row.nonzero()[:, 0].tolist()
        for k in there:
            for m in there:
                if k != m:
                    total -= (1 - F.cosine_similarity(v[b, k], text[m], dim=0).clamp(min=0)).log()
    return total / len(v)


CASES += [
    Case(nb03.cosine_that_drops, ["u_lip"] * 2, ["nose", "l_eye", "skin"]),
    Case(
        nb03.tangent,
        [tangent, tangent_by_clamp],
        [
            without_clamp,
            lambda c, tau=0.05: torch.where(c < tau, tangent(c, tau) + 10, tangent(c, tau)),
            lambda c, tau=0.05: -c.clamp(min=1e-4).log(),
            lambda c, tau=0.05: -c.log(),
            lambda c, tau=0.05: tangent(c, 0.05),
            lambda c, tau=0.05: tangent(c, tau) / np.log(10),
        ],
    ),
    Case(
        nb03.background,
        [lambda x, p: x * (1 - p), lambda x, p: x - x * p],
        [lambda x, p: x * p, lambda x, p: x - p, lambda x, p: x * (p < 0.5), lambda x, p: 1 - x * p],
    ),
    Case(
        nb03.push_background,
        [push, push_by_loop],
        [
            lambda v, t, y: -push(v, t, y),
            lambda v, t, y: push(v, t, torch.ones_like(y)),
            lambda v, t, y: 3 * push(v, t, y),
            lambda v, t, y: -(F.cosine_similarity(v, t, dim=-1).clamp(1e-4, 0.9999).log() * y).sum(-1).mean(),
            lambda v, t, y: -((1 - (v * t).sum(-1).clamp(0, 0.9999)).log() * y).sum(-1).mean(),
        ],
    ),
    Case(
        nb03.push_present,
        [lambda *a: others(*a).mean(), others_by_loop],
        [
            lambda *a: others(*a, everyone=True).mean(),
            lambda *a: others(*a, itself=True).mean(),
            lambda *a: others(*a).sum(),
            others,
        ],
    ),
    Case(nb03.exchanged_prompts, ["to the right eye"] * 2, ["nowhere: labels hold it", "to both eyes", "to the mouth"]),
    Case(nb03.without_background, ["skin"] * 2, ["nose", "l_eye", "hat"]),
]

# Notebook 04 ---------------------------------------------------------------------------------------------------------


def own_share(activation, truth, part):
    return (truth == CELEBAMASK.index(part))[activation > 0.5].mean()


def own_share_by_counts(activation, truth, part):
    above, on = activation > 0.5, truth == CELEBAMASK.index(part)
    return (above & on).sum() / above.sum()


CASES += [
    Case(nb04.found_by_base, ["mouth"] * 2, ["nose", "l_eye", "skin"]),
    Case(nb04.gains_by_text, ["skin"] * 2, ["nose", "l_eye", "hat"]),
    Case(
        nb04.own_share,
        [own_share, own_share_by_counts],
        [
            lambda a, t, p: (t == CELEBAMASK.index(p))[a >= 0.5].mean(),
            lambda a, t, p: ((a > 0.5) & (t == CELEBAMASK.index(p))).mean(),
            lambda a, t, p: (a > 0.5)[t == CELEBAMASK.index(p)].mean(),
            lambda a, t, p: (t == COMPONENTS.index(p))[a > 0.5].mean(),
        ],
    ),
    Case(
        nb04.fuse,
        [lambda a, p: (a * p.relu()).sqrt(), lambda a, p: a**0.5 * p.clamp(min=0) ** 0.5],
        [
            lambda a, p: (a * p).sqrt(),
            lambda a, p: a * p.relu(),
            lambda a, p: (a + p.relu()) / 2,
            lambda a, p: (a * p.abs()).sqrt(),
        ],
    ),
    Case(
        nb04.with_mirror,
        [
            lambda p, m: p + m.flip(-1)[:, CELEBAMASK.flip_components],
            lambda p, m: p + torch.flip(m[:, CELEBAMASK.flip_components], dims=(3,)),
        ],
        [
            lambda p, m: p + m,
            lambda p, m: p + m.flip(-1),
            lambda p, m: p + m.flip(-2)[:, CELEBAMASK.flip_components],
            lambda p, m: (p + m.flip(-1))[:, CELEBAMASK.flip_components],
        ],
    ),
    Case(nb04.absent_part, ["1"] * 2, ["0", "about 0.1", "it depends on the necklace"]),
]

# Notebook 05 ---------------------------------------------------------------------------------------------------------

AUTOMATIC = {"A": "hair", "B": "cloth", "C": "background", "D": "hat", "E": "skin", "F": "hat"}


def label_of(maps, classes, theta):
    stack = np.concatenate([np.full((1, *maps.shape[1:]), theta), maps])
    return np.r_[0, classes + 1][stack.argmax(0)]


def label_by_where(maps, classes, theta):
    return np.where(maps.max(0) > theta, classes[maps.argmax(0)] + 1, 0)


def contrast(tokens, has):
    amount = np.log1p(tokens)
    return max(0.0, 1 - amount[has == 0].mean() / amount[has == 1].mean())


def contrast_by_sums(tokens, has):
    with_, without = (np.log(1 + tokens) * (has == h) for h in (1, 0))
    return np.clip(1 - (without.sum() / (has == 0).sum()) / (with_.sum() / (has == 1).sum()), 0, 1)


TABLE = np.eye(5)[[0, 1, 2, 3, 4, 1]]
EVIDENCE = SimpleNamespace(border=TABLE[:, 0], table=TABLE)


def shares(scores):
    return float((scores.argmax(1) == TABLE.argmax(1)).mean())


CASES += [
    Case(
        nb05.high_threshold,
        ["all parts shrink at once"] * 2,
        ["only wrong parts vanish", "the eyes get their outline", "the wall becomes skin"],
    ),
    Case(
        nb05.pseudo_label,
        [label_of, label_by_where],
        [
            lambda m, c, t: label_of(m, np.arange(len(c)), t),
            lambda m, c, t: label_of(m, c - 1, t),
            lambda m, c, t: label_of(m, c, 0.0),
            lambda m, c, t: label_of(m, c, 1 - t),
        ],
    ),
    Case(
        nb05.cluster_names,
        [AUTOMATIC | {"G": "neck"}, AUTOMATIC | {"G": "skin"}],
        [
            AUTOMATIC | {"G": "neck", "C": "hair"},
            AUTOMATIC | {"G": "neck", "F": "hair"},
            AUTOMATIC | {"G": "hat"},
            AUTOMATIC,
            AUTOMATIC | {"G": "collar"},
        ],
        lambda: (AUTOMATIC,),
    ),
    Case(
        nb05.contrast,
        [contrast, contrast_by_sums],
        [
            lambda t, h: contrast(t, 1 - h),
            lambda t, h: max(0, 1 - t[h == 0].mean() / t[h == 1].mean()),
            lambda t, h: 1 - np.log1p(t)[h == 0].mean() / np.log1p(t)[h == 1].mean(),
            lambda t, h: max(0, 1 - np.log1p(t[h == 0].mean()) / np.log1p(t[h == 1].mean())),
        ],
    ),
    Case(
        nb05.naming_rule,
        [lambda e: e.table, lambda e: 0.1 + 2 * e.table],
        [
            lambda e: np.ones((6, 5)),
            lambda e: e.table.T,
            lambda e: e.table[:, :4],
            lambda e: np.roll(e.table, 1, 1),
            lambda e: e.table + np.nan,
        ],
        lambda: (EVIDENCE, shares),
    ),
]

# Notebook 06 ---------------------------------------------------------------------------------------------------------


def masked_loss(scores, target):
    return F.cross_entropy(scores, target, ignore_index=255)


def masked_by_hand(scores, target):
    known = target != 255
    each = -scores.log_softmax(1).gather(1, target.where(known, 0)[:, None])[:, 0]
    return each[known].mean()


def zeros(target):
    return target.where(target != 255, 0)


def neighbours(x):
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    return np.stack([padded[..., :-2, 1:-1], padded[..., 2:, 1:-1], padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]])


def refined(probability, grey, sharp=0.1, sign=-1, normal=True):
    weight = np.exp(sign * ((neighbours(grey) - grey) / sharp) ** 2)
    weight = weight / weight.sum(0) if normal else weight
    return (neighbours(probability) * weight[:, None]).sum(0)


def refined_by_einsum(probability, grey, sharp=0.1):
    weight = torch.tensor(-(((neighbours(grey) - grey) / sharp) ** 2)).softmax(0).numpy()
    return np.einsum("nhw,nchw->chw", weight, neighbours(probability))


CASES += [
    Case(
        nb06.copied_error, ["neck on the jaw"] * 2, ["ear on the wall", "crumbs of mouth", "a brow on the wrong face"]
    ),
    Case(nb06.whose_truth, ["more with its labels"] * 2, ["more with the truth", "equally", "it cannot be known"]),
    Case(
        nb06.masked_loss,
        [masked_loss, masked_by_hand],
        [
            lambda s, t: F.cross_entropy(s, zeros(t)),
            lambda s, t: (F.cross_entropy(s, zeros(t), reduction="none") * (t != 255)).mean(),
            lambda s, t: F.cross_entropy(s, t, ignore_index=255, reduction="sum"),
            lambda s, t: -masked_loss(s, t),
            lambda s, t: -s.gather(1, zeros(t)[:, None])[:, 0][t != 255].mean(),
        ],
    ),
    Case(
        nb06.refine_once,
        [refined, refined_by_einsum],
        [
            lambda p, g, sharp=0.1: refined(p, g, sharp, normal=False),
            lambda p, g, sharp=0.1: refined(p, g, sharp, sign=1),
            lambda p, g, sharp=0.1: neighbours(p).mean(0),
            lambda p, g, sharp=0.1: refined(p, g, 0.1),
        ],
        lambda: (neighbours,),
    ),
    Case(
        nb06.gain_of_better_labels, ["less than its labels"] * 2, ["more than its labels", "nothing", "exactly as much"]
    ),
]

# Notebook 07 ---------------------------------------------------------------------------------------------------------

BY_NAME = {
    "skin": "skin", "nose": "nose", "l_eye": "left_eye", "r_eye": "right_eye", "l_brow": "left_eyebrow",
    "r_brow": "right_eyebrow", "mouth": "inner_mouth", "u_lip": "upper_lip", "l_lip": "lower_lip", "hair": "hair",
}  # fmt: skip


def table_with(pairs):
    other = dict(pairs)
    found = np.zeros(19, np.uint8)
    for name, target in BY_NAME.items():
        found[CELEBAMASK.index(name)] = LAPA.index(other.get(target, target))
    return found


BOTH = [*LAPA.pairs, *((b, a) for a, b in LAPA.pairs)]


@cache
def faces_matrices():
    rng = np.random.default_rng(0)
    matrices = np.zeros((24, 19, 19), int)
    for matrix in matrices:
        matrix[np.arange(1, 19), np.arange(1, 19)] = rng.integers(50, 400, 18)
        matrix[np.arange(1, 19), 0] = rng.integers(0, 300, 18)
    return matrices


def bootstrap(matrices, percents=(2.5, 97.5), statistic=None, samples=300):
    draws = np.random.default_rng(1).integers(len(matrices), size=(samples, len(matrices)))
    statistic = statistic or (lambda chosen: Scores(chosen.sum(0)).mean_f1)
    return np.percentile([statistic(matrices[draw]) for draw in draws], percents)


def bootstrap_by_sorting(matrices):
    draws = np.random.default_rng(1).integers(len(matrices), size=(300, len(matrices)))
    means = sorted(Scores(matrices[draw].sum(0)).mean_f1 for draw in draws)
    return means[7], means[292]


def differing(groups):
    large = [name for name, (n, _, _) in groups.items() if n >= 10]
    return [(a, b) for a in large for b in large if groups[a][1] > groups[b][2]]


def differing_as_sets(groups):
    return {
        frozenset((a, b)) for a in groups for b in groups
        if min(groups[a][0], groups[b][0]) >= 10 and (groups[a][2] < groups[b][1] or groups[b][2] < groups[a][1])
    }  # fmt: skip


CASES += [
    Case(nb07.perfect_by_name, ["60"] * 2, ["100", "40", "0"]),
    Case(
        nb07.geometric_table,
        [lambda: table_with(BOTH), lambda: list(to_lapa_table("geometric"))],
        [
            lambda: to_lapa_table("by-name"),
            lambda: table_with(BOTH[:1] + BOTH[2:3]),
            lambda: table_with(LAPA.pairs),
            lambda: table_with([*BOTH, ("lower_lip", "upper_lip")]),
            lambda: table_with(BOTH)[1:],
        ],
    ),
    Case(
        nb07.interval,
        [bootstrap, bootstrap_by_sorting],
        [
            lambda m: bootstrap(m)[::-1],
            lambda m: bootstrap(m, statistic=lambda c: np.mean([Scores(each).mean_f1 for each in c])),
            lambda m: bootstrap(m, (0, 100)),
            lambda m: bootstrap(m, (16, 84)),
            lambda m: bootstrap(m, samples=1),
        ],
        lambda: (faces_matrices(),),
    ),
    Case(nb07.by_pixels, ["far too narrow"] * 2, ["the same", "far too wide", "shifted"]),
    Case(
        nb07.differ,
        [differing, differing_as_sets],
        [
            lambda g: [(a, b) for a in g for b in g if g[a][1] > g[b][2]],
            lambda g: [(a, b) for a in "abc" for b in "abc" if g[a][1] > g[b][1]],
            lambda g: [],
            lambda g: [(a, a) for a in g],
        ],
    ),
    Case(nb08.tells_sides, ["CLIMS"] * 2, ["MCTformer+", "MoRe", "CLIP-ES", "WeakCLIP"]),
    Case(nb08.area_weight, [4, 5.0], [-1.0, 1.0, 20.0, "5"], lambda: (lambda weight: 1 / (1 + weight), 0.18)),
    Case(
        nb08.shares,
        [clip_es_shares, clip_es_shares_by_loops],
        [
            lambda v, parts, back, scale: (scale * parts @ v).softmax(0),
            lambda v, parts, back, scale: parts @ v,
            lambda v, parts, back, scale: (torch.cat([parts, back]) @ v).softmax(0)[: len(parts)],
            lambda v, parts, back, scale: (scale * torch.cat([parts, back]) @ v).softmax(0),
            lambda v, parts, back, scale: (scale * torch.cat([back, parts]) @ v).softmax(0)[: len(parts)],
        ],
    ),
    Case(
        nb08.without_background,
        ["hardly anything"] * 2,
        ["the wall lights up", "all maps become the same", "left and right are exchanged"],
    ),
    Case(
        nb08.failure,
        [failure, lambda *numbers: failure(*map(float, numbers))],
        [
            lambda found, right, own: "none of these",
            lambda found, right, own: "missed" if found < 0.15 else "none of these",
            lambda found, right, own: "elsewhere" if right < 0.2 else failure(found, right, own),
            lambda found, right, own: "missed" if found < 0.15 else "elsewhere" if right < 0.2 else "both sides",
            lambda found, right, own: failure(found - 0.01, right, own),
        ],
    ),
]

# ---------------------------------------------------------------------------------------------------------------------

IDS = [f"{case.check.__module__[-4:]}-{case.check.__name__}" for case in CASES]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # wrong answers divide by zero


def message(case, answer):
    with pytest.raises(AssertionError) as caught:
        case.check(answer, *case.rest())
    return str(caught.value)


@pytest.mark.parametrize("case", CASES, ids=IDS)
class TestCheck:
    def test_the_unchanged_stub_is_open(self, case):
        with pytest.raises(NotImplementedError):
            case.check(case.open, *case.rest())

    def test_right_answers_pass(self, case):
        assert len(case.right) >= 2
        for answer in case.right:
            case.check(answer, *case.rest())

    def test_wrong_answers_learn_why(self, case):
        messages = [message(case, answer) for answer in case.wrong]
        assert len(messages) >= 3 and len(set(messages)) == len(messages), messages
        assert all(len(text) > 20 for text in messages), messages

    def test_nothing_at_all_is_no_answer(self, case):
        answer = (lambda *_, **__: None) if callable(case.right[0]) else "no idea"
        with pytest.raises((AssertionError, TypeError, AttributeError)):
            case.check(answer, *case.rest())


def public(module):
    return {name for name, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__[-4:])
def test_every_check_is_tried_and_used(module):
    assert public(module) == {case.check.__name__ for case in CASES if case.check.__module__ == module.__name__}
    (source,) = NOTEBOOKS.glob(f"src/{module.__name__[-2:]}_*.py")
    cells = [c for c in jupytext.read(source).cells if "check" in c.metadata.get("tags", [])]
    used = [name for cell in cells for name in re.findall(r"checks\.(\w+)\(", cell.source)]
    assert sorted(used) == sorted(public(module)), "each check belongs to one task of its notebook"

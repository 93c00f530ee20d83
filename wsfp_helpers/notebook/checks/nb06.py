"""Checks of notebook 06."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsfp_helpers.notebook.checks.common import array, choose, given, require


def copied_error(answer: object) -> None:
    """Which error of its labels a student network copies."""
    choose(answer, "neck on the jaw", {
        "ear on the wall": "it is there in one picture and not in the next: nothing in the picture predicts it",
        "crumbs of mouth": "they lie elsewhere in each face; a small network averages them away",
        "a brow on the wrong face": "a single accident among 48 faces hardly moves the loss",
    })  # fmt: skip


def whose_truth(answer: object) -> None:
    """Whether a student agrees more with its labels or with the truth."""
    choose(answer, "more with its labels", {
        "more with the truth": "it has never seen the truth; what the labels get wrong everywhere, it gets wrong, too",
        "equally": "that would need as many errors put right as made anew: count the wrong pixels that it copies",
        "it cannot be known": "it can: for these rendered faces both are there, and a score of each",
    })  # fmt: skip


def masked_loss(answer: Callable) -> None:
    """Cross-entropy over the pixels whose target is not 255."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 5, 4, 4, generator=generator)
    target = torch.randint(0, 5, (2, 4, 4), generator=generator)
    target[:, 0], target[0, 1, :2] = 255, 255
    given(found := answer(scores, target))
    require(isinstance(found, Tensor) and found.ndim == 0, "a loss is one number")
    each = F.cross_entropy(scores, target.where(target != 255, 0), reduction="none")
    wanted = F.cross_entropy(scores, target, ignore_index=255)
    require(
        not torch.isclose(found, each.mean()), "255 is counted as the background: it means that nothing is known there"
    )
    require(
        not torch.isclose(found, (each * (target != 255)).mean()),
        "a mean over all pixels: the more is ignored, the smaller the loss; divide by the pixels that count",
    )
    require(
        not torch.isclose(found, (each * (target != 255)).sum()),
        "a sum: the loss would grow with the size of the picture",
    )
    require(not torch.isclose(found, -wanted), "the sign: a loss is minus the logarithm of the probability")
    plain = -scores.gather(1, target.where(target != 255, 0)[:, None])[:, 0][target != 255].mean()
    require(
        not torch.isclose(found, plain), "raw scores are no log-probabilities: take log_softmax over the classes first"
    )
    require(torch.isclose(found, wanted, rtol=1e-4), "not the mean cross-entropy of the pixels that are not 255")


def refine_once(answer: Callable, neighbours: Callable[[np.ndarray], np.ndarray]) -> None:
    """One step along the edges of a grey picture."""
    flat, edge = np.full((6, 6), 0.5), np.repeat([[0, 0, 0, 1, 1, 1]], 6, 0).astype(float)
    one = np.stack([1 - edge, edge])  # (2, 6, 6): two classes that meet at the edge
    given(answer(one, flat))
    blurred = array(answer(one, flat), one.shape, "probabilities")
    plain = neighbours(one)
    require(not np.allclose(blurred, plain.sum(0)), "the weights of a pixel must sum to 1: divide by their sum")
    require(
        np.allclose(blurred, plain.mean(0)),
        "on a flat picture all weights are equal: the plain mean of four neighbours",
    )
    kept = answer(one, edge)
    require(not np.allclose(kept, plain.mean(0)), "the grey picture makes no difference: weights depend on g_n - g")
    require(
        kept[1, 2, 2] < 0.1, "things cross a strong edge: far greys must weigh less, so mind the minus in the exponent"
    )
    require(np.allclose(kept.sum(0), 1), "the probabilities of a pixel no longer sum to 1")
    wide, narrow = (answer(one, edge * 0.3, sharp=s)[1, 2, 2] for s in (1.0, 0.05))
    require(wide > narrow + 0.05, "`sharp` makes no difference: it divides the difference of the greys")
    require(
        np.allclose(kept, one, atol=1e-6),
        "nothing may cross an edge from 0 to 1 at sharp = 0.1: is the difference squared?",
    )


def gain_of_better_labels(answer: object) -> None:
    """Whether a student gains as much as its labels."""
    choose(answer, "less than its labels", {
        "more than its labels": "it would have to put right what they get wrong; and it draws on a grid of 20 x 20",
        "nothing": "errors that are the same everywhere are copied, and so is what is right everywhere",
        "exactly as much": "an eye is hardly one of its 20 x 20 cells: some of the outlines cannot be drawn",
    })  # fmt: skip

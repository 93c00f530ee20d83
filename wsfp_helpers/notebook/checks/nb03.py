"""Checks of notebook 03."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsfp_helpers.method import tcd
from wsfp_helpers.method.tcd import TcdConfig
from wsfp_helpers.notebook.checks.common import choose, given, require


def cosine_that_drops(answer: object) -> None:
    """Which cosine drops most when mouth and chin are covered."""
    choose(answer, "u_lip", {
        "nose": "it drops as well, for this judge knows regions better than parts; but what is under the black box?",
        "l_eye": "the eyes are in full sight: only what is covered can be missed",
        "skin": "much skin is left above the box, enough to be called a face with skin",
    })  # fmt: skip


def tangent(answer: Callable) -> None:
    """-log(c) down to tau, and below its tangent."""
    tau = 0.05
    c = torch.cat([torch.linspace(-1, 0.99, 400), torch.tensor([0.0])]).requires_grad_()
    given(value := answer(c))
    require(isinstance(value, Tensor), "return a tensor, so that a loss can be differentiated")
    require(value.shape == c.shape, f"one value for each cosine: expected the shape {tuple(c.shape)}")
    above = c > 0.06
    require(not value[above].isnan().any() and (value[above] > 0).all(), "above tau: -log of a cosine is positive")
    require(torch.allclose(value[above], -c[above].log(), atol=1e-5), "above tau it must be -log(c), the natural one")
    require(torch.isfinite(value).all(), "below zero a logarithm is not a number: there the straight line goes on")
    slope = torch.autograd.grad(value.sum(), c)[0]
    require(
        torch.isfinite(slope).all(),
        "at c = 0 the gradient is not finite: `where` also differentiates what it does not choose, so clamp first",
    )
    below = c < 0.04
    require((slope[below] != 0).all(), "flat below tau: that is the clamp of CLIMS, the dead zone without a gradient")
    require(
        torch.allclose(slope[below], torch.tensor(-1 / tau)), "below tau the slope is that of -log at tau: -1 / tau"
    )
    step = answer(torch.tensor([tau - 1e-6])) - answer(torch.tensor([tau + 1e-6]))
    require(step.abs() < 1e-2, f"the line does not meet the curve at tau: there is a step of {step.item():.2f}")
    require(abs(answer(torch.tensor([0.1]), tau=0.2).item() - (0.5 - np.log(0.2))) < 1e-4, "use the tau that is given")


def background(answer: Callable) -> None:
    """What a map leaves of normalised pictures (Eq. 6)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 8, generator=generator)
    p = torch.rand(2, 1, 8, 8, generator=generator)
    given(found := answer(x, p))
    require(isinstance(found, Tensor) and found.shape == x.shape, "expected pictures of the shape (n, 3, S, S)")
    require(not torch.allclose(found, x * p), "that is the foreground, Eq. 5: what the map keeps")
    require(
        not torch.allclose(found, x - p), "subtracting a map makes the picture darker, it does not cut anything out"
    )
    require(not torch.allclose(found, x * (p < 0.5)), "a threshold has no gradient: the map could not learn from it")
    require(
        torch.allclose(found, x * (1 - p), atol=1e-6),
        "not x · (1 - P): where P is 1 nothing is left, where it is 0 everything",
    )


def push_background(answer: Callable) -> None:
    """Eq. 13 as printed: a sum over present components, averaged over pictures."""
    generator = torch.Generator().manual_seed(1)
    text = F.normalize(torch.randn(5, 16, generator=generator), dim=-1)
    v = text + 0.8 * torch.randn(3, 5, 16, generator=generator)
    present = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 1, 1], [1, 0, 0, 1, 0]])
    given(found := answer(v, text, present))
    require(
        isinstance(found, Tensor) and found.ndim == 0, "a loss is one number: sum over components, mean over pictures"
    )
    cosine = F.cosine_similarity(v, text, dim=-1).clamp(0, 0.9999)
    terms = -(1 - cosine).log()
    wanted = (terms * present).sum(-1).mean()
    pull = -(cosine.clamp(min=1e-4).log() * present).sum(-1).mean()
    require(found > 0, "the sign: the loss must fall when the cosine falls")
    require(
        not torch.isclose(found, pull, rtol=1e-2), "that pulls to the text, as Eq. 9: pushing takes log(1 - cosine)"
    )
    require(not torch.isclose(found, terms.sum(-1).mean()), "absent components count, too: multiply by the labels")
    require(
        not torch.isclose(found, (terms * present).sum()),
        "a sum over pictures: it would grow with the batch, take the mean",
    )
    require(torch.isclose(found, wanted, rtol=1e-4), "not -Σ y·log(1 - cos), averaged over pictures; is v of length 1?")


def push_present(answer: Callable) -> None:
    """Eq. 11, where only the other present components count as negatives."""
    generator = torch.Generator().manual_seed(2)
    text = F.normalize(torch.randn(6, 16, generator=generator).abs(), dim=-1)
    v = text + 0.1 * torch.randn(4, 6, 16, generator=generator)
    present = torch.tensor([[1, 1, 0, 1, 1, 0], [1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 1]])
    given(found := answer(v, text, present))
    require(isinstance(found, Tensor) and found.ndim == 0, "a loss is one number: sum over k and l, mean over pictures")

    def value(**settings: object) -> Tensor:
        return tcd.negative_class(v, text, present, TcdConfig(**{"reduction": "sum", **settings}))  # type: ignore[arg-type]

    wanted, everyone = value(negatives="present"), value()
    require(
        not torch.isclose(found, everyone), "those are all 17 others: only parts that the picture has are asked for"
    )
    cosine = F.normalize(v, dim=-1) @ text.T
    pairs = present[:, :, None] * present[:, None, :]
    itself = -(pairs * (1 - cosine.clamp(0, 0.9999)).log()).sum((1, 2)).mean()
    require(not torch.isclose(found, itself), "l = k counts, too: that pushes a part away from its own text")
    require(not torch.isclose(found, 4 * wanted), "a sum over pictures: take the mean over the batch")
    require(not torch.isclose(found, value(negatives="present", reduction="mean"), rtol=1e-3), (
        "a mean over l: the task asks for the sum that the equation prints"
    ))  # fmt: skip
    require(
        torch.isclose(found, wanted, rtol=1e-4),
        "not the package's value: cosines below 0 count as 0, and v has any length",
    )


def exchanged_prompts(answer: object) -> None:
    """Where the left eye's map goes when the prompts of left and right change places."""
    choose(answer, "to the right eye", {
        "nowhere: labels hold it": "most lists have both eyes, so labels hardly tell them apart; text is louder",
        "to both eyes": "then the two texts would have to be alike; these are different vectors, only exchanged",
        "to the mouth": "the judge still knows what an eye looks like; only the side is wrong",
    })  # fmt: skip


def without_background(answer: object) -> None:
    """Which class loses most without Eq. 13."""
    choose(answer, "skin", {
        "nose": "CCD had found the nose, before any text: look at its column in the figure of notebook 04",
        "l_eye": "an eye is a small part of what is left over; and what its map keeps is judged by Eq. 9",
        "hat": "its label differs from face to face: it needs no text at all",
    })  # fmt: skip

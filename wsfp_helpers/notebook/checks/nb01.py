"""Checks of notebook 01."""

from collections.abc import Callable

import numpy as np
import torch

from wsfp_helpers.labels import COMPONENTS, K
from wsfp_helpers.notebook.checks.common import array, choose, given, names, require


def equal_columns(answer: object, labels: np.ndarray) -> None:
    """Two classes whose columns of the label table ``(n, K)`` are equal."""
    found = names(answer)
    require(len(found) == 2, "two different classes are asked for")
    a, b = sorted(found)
    first, second = labels[:, COMPONENTS.index(a)], labels[:, COMPONENTS.index(b)]
    differ = int((first != second).sum())
    often = abs(int(first.sum()) - int(second.sum())) < 5
    reason = "equally often is not the same faces" if often else "one is there far more often than the other"
    require(not differ or differ > 10, f"close: {a} and {b} differ in {differ} pictures, and those tell them apart")
    require(not differ, f"{a} and {b} differ in {differ} pictures: {reason}; which classes does every face have?")


def most_bits(answer: object, bits: np.ndarray) -> None:
    """The class whose label tells most, from the bits ``(K,)``."""
    found = names(answer)
    require(len(found) == 1, "one class is asked for")
    (name,) = found
    told, best = bits[COMPONENTS.index(name)], int(np.argmax(bits))
    require(told > 0.02, f"{name} is nearly always there: you could write its column without looking, {told:.2f} bits")
    require(told > 0.7, f"{name} tells {told:.2f} bits: rare or frequent is easily guessed; a coin is not")
    require(name == COMPONENTS[best], f"close: {name} tells {told:.3f} bits, but one class is nearer to half and half")


def classifier(answer: Callable) -> None:
    """The scores of a linear classifier, the mean over patches, from tokens, weight and bias."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 400, 8, generator=generator)
    weight, bias = torch.randn(K, 8, generator=generator), torch.randn(K, generator=generator)
    found = answer(tokens, weight, bias)
    require(not isinstance(found, tuple), "return the scores only")
    found = found.detach() if isinstance(found, torch.Tensor) else found
    require(
        tuple(getattr(found, "shape", ())) != (3, 400, K), "those are the maps: a score is their mean over the patches"
    )
    scores = array(found, (3, K), "scores")
    wanted = (tokens.mean(1) @ weight.T + bias).numpy()
    plain = wanted - bias.numpy()
    require(not np.allclose(scores, plain, atol=1e-4), "the bias is missing: z is the mean of w·f plus b")
    require(
        not np.allclose(scores, 400 * plain + bias.numpy(), atol=1e-2), "a sum over the patches: the score is a mean"
    )
    require(
        not np.allclose(scores, 1 / (1 + np.exp(-wanted)), atol=1e-4),
        "these are probabilities: the loss takes the sigmoid itself, so return the scores z",
    )
    require(np.allclose(scores, wanted, atol=1e-4), "not the mean over patches of w·f, plus b")


def shuffled_hat(answer: object) -> None:
    """What becomes of the hat's map when its labels are dealt out at random."""
    choose(answer, "no better than chance", {
        "still on the hat": "how would it know? The pictures that are called hat have none, but for a few",
        "nothing on the map": "a map is stretched from 0 to 1, so something is always hottest",
        "on the hair": "that would need a reason in the labels; these were dealt out by chance",
    })  # fmt: skip


def smallest_share(answer: Callable) -> None:
    """The smallest share of pictures to be masked, in steps of 0.01, for some bits."""
    none, half, one = answer(0), answer(0.5), answer(1)
    given(none, half, one)
    require(none is not None, "your function returns None; does it end with `return`?")
    require(np.isclose(none, 0), "no bits are wanted: nothing has to be masked, so begin with the share 0")
    require(not np.isclose(half, 0.89), "that is the share that keeps its nose: the question is how many are masked")
    require(
        not np.isclose(half, 0.25) and not np.isclose(half, 0.5),
        "bits do not grow in proportion to the share: the first zeros tell most",
    )
    p = 1 - half + np.array([0, 0.01])
    found, before = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    require(found >= 0.5, f"with {half:.2f} the nose tells {found:.2f} bits, less than the 0.5 that are wanted")
    require(before < 0.5, f"{half:.2f} is enough for 0.5 bits, but so is {half - 0.01:.2f}: the smallest is asked for")
    require(np.isclose(one, 0.5), f"for one whole bit half of the pictures are masked, not {one}")

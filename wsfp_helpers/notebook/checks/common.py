"""What all checks need: open answers, committed ones, and arrays of the right shape."""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import ArrayLike

from wsfp_helpers.labels import COMPONENTS


def given(*answers: object) -> None:
    """Raise ``NotImplementedError`` where an answer is still the ``...`` of the task."""
    if any(answer is ... for answer in answers):
        raise NotImplementedError("no answer yet")


def require(holds: object, message: str) -> None:
    """Raise ``AssertionError`` with the message unless the condition holds."""
    if not holds:
        raise AssertionError(message)


def choose(answer: object, right: str, wrong: Mapping[str, str]) -> None:
    """A choice from a list: ``wrong`` holds for each other answer why it is not right."""
    given(answer)
    options = ", ".join(repr(option) for option in sorted({right, *wrong}))
    require(isinstance(answer, str) and answer in {right, *wrong}, f"answer with one of {options}")
    require(answer == right, wrong.get(str(answer), ""))


def names(answer: object, among: Collection[str] = COMPONENTS) -> set[str]:
    """A set of class names from a string or a collection of strings."""
    given(answer)
    found = {answer} if isinstance(answer, str) else set(answer) if isinstance(answer, Collection) else {answer}
    unknown = sorted(str(name) for name in found if name not in among)
    require(not unknown, f"no class is called {', '.join(unknown)}: take the short names, for example 'nose'")
    return {str(name) for name in found}


def array(answer: object, shape: tuple[int, ...], what: str) -> np.ndarray:
    """The answer as an array of that shape."""
    given(answer)
    require(answer is not None, f"{what}: your function returns None; does it end with `return`?")
    found = np.asarray(answer)
    require(found.shape == shape, f"{what}: expected the shape {shape}, got {found.shape}")
    return found


def close(a: ArrayLike, b: ArrayLike, tolerance: float = 1e-5) -> bool:
    """Whether two arrays are equal to within a tolerance; NaN equals nothing."""
    return bool(np.allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance))

"""Checks of notebook 05."""

from collections.abc import Callable, Mapping

import numpy as np

from wsfp_helpers.notebook.checks.common import array, choose, given, require


def high_threshold(answer: object) -> None:
    """What a threshold of 0.8 does to the parts."""
    choose(answer, "all parts shrink at once", {
        "only wrong parts vanish": "the constant knows nothing of right and wrong: a wrong map reaches 1, too",
        "the eyes get their outline": "two parts meet where their maps are equal; the constant does not move that",
        "the wall becomes skin": "the other way round: a higher constant gives more to the background",
    })  # fmt: skip


def pseudo_label(answer: Callable) -> None:
    """The label map from maps, their classes and theta."""
    maps = np.zeros((3, 2, 3))
    maps[0], maps[1, 0], maps[2, 1] = 0.4, [0.9, 0.3, 0.6], [0.5, 0.2, 0.7]
    classes = np.array([0, 3, 11])  # skin, l_eye, l_lip: the components' own numbers
    given(answer(maps, classes, 0.35))
    found = array(answer(maps, classes, 0.35), (2, 3), "label map")
    require(found.max() > 3, "these are positions in the stack (0 to 3); each has to become the id of its class")
    require(12 in found, "the id of a component is its number plus one, for 0 is the background")
    wanted = np.array([[4, 1, 4], [12, 1, 12]])
    require(
        (found == wanted).all(), f"at theta 0.35 expected {wanted.tolist()}, got {found.tolist()}: the strongest wins"
    )
    found = answer(maps, classes, 0.65)
    require((np.asarray(found) == 0).any(), "theta does nothing: where no map is above it, the pixel is background")
    require(
        (np.asarray(found) == [[4, 0, 0], [0, 0, 12]]).all(), "at theta 0.65 only values above 0.65 keep their part"
    )


def cluster_names(answer: Mapping[str, str], automatic: Mapping[str, str]) -> None:
    """Names of the clusters A to F, and of G."""
    given(answer)
    require(
        isinstance(answer, Mapping) and set(answer) == set("ABCDEFG"), "a dictionary with a name for each of A to G"
    )
    allowed = {"background", "skin", "hair", "hat", "cloth", "neck"}
    unknown = sorted(set(answer.values()) - allowed)
    require(
        not unknown,
        f"{', '.join(map(str, unknown))}: take background, skin, hair, hat, cloth, and for G what you think",
    )
    advice = {
        "background": "hardly anything but a wall lies at the border of the picture: read that column first",
        "hat": "the contrast of hats decides: hardly any token of it is in pictures without a hat",
        "cloth": "the contrast of clothes is what is rare here, not the map",
        "skin": "what lies inside the hull of eyes, nose and mouth can be nothing else",
        "hair": "the map of hair is high, and no rarer evidence speaks for something else",
    }
    for letter in "CDFBEA":
        require(answer[letter] == automatic[letter], f"{letter} is not {answer[letter]}: {advice[automatic[letter]]}")
    require(
        answer["G"] in ("neck", "skin"),
        "G is none of the five: whose map is highest there?",
    )


def contrast(answer: Callable) -> None:
    """1 - m0 / m1 of log(1 + tokens), cut off at 0."""
    has = np.array([1, 1, 0, 0])
    given(only := answer(np.array([10, 10, 0, 0]), has))
    require(only is not None, "your function returns None; does it end with `return`?")
    require(not np.isclose(only, 0), "m0 and m1 are exchanged: a cluster that only wearers have is worth 1")
    require(np.isclose(only, 1), f"a cluster that only wearers have has contrast 1, not {only:.3g}")
    require(np.isclose(answer(np.array([7, 7, 7, 7]), has), 0), "a cluster that everybody has says nothing: 0")
    less = answer(np.array([1, 1, 9, 9]), has)
    require(less >= 0, f"a cluster that wearers have less of gives {less:.2f}: cut off at 0")
    some = answer(np.array([20, 0, 4, 0]), has)
    wanted = 1 - np.log1p(4) / np.log1p(20)
    require(
        not np.isclose(some, 1 - 4 / 20), "of log(1 + tokens), not of tokens: one picture with many must not decide"
    )
    require(
        not np.isclose(some, 1 - np.log1p(2) / np.log1p(10)),
        "the mean of the logarithms, not the logarithm of the mean",
    )
    require(np.isclose(some, wanted), f"expected {wanted:.3f} for tokens 20, 0 with and 4, 0 without, got {some:.3f}")


def naming_rule(answer: Callable, evidence: object, right_share: Callable[[np.ndarray], float]) -> None:
    """A rule that names clusters: ``right_share`` says how many tokens get the right name from scores ``(C, 5)``."""
    scores = answer(evidence)
    given(scores)
    count = len(evidence.border)  # type: ignore[attr-defined]
    require(np.ndim(scores) == 2, "a column for each of the five names: stack them with np.stack(..., 1)")
    require(np.shape(scores) != (5, count), "rows and columns are exchanged: a row for each cluster")
    scores = array(scores, (count, 5), "scores")
    require(np.isfinite(scores).all(), "some scores are not finite")
    used = np.unique(scores.argmax(1))
    missing = [name for k, name in enumerate(("background", "skin", "hair", "hat", "cloth")) if k not in used]
    require(not missing, f"no cluster at all is called {', '.join(missing)}: is its score on the scale of the others?")
    share = right_share(scores)
    hint = "border for the wall, hull for the face, map times contrast for what is worn"
    require(share > 0.75, f"{100 * share:.1f} % of the tokens are right, 75 are asked for: {hint}")

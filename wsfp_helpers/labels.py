"""Classes, sides and prompts: the one place that knows which eye is left.

CelebAMask-HQ (and SynthFaces-19) name sides from the *subject*: ``l_eye`` is the eye on the right half of a frontal
picture.  LaPa and Helen name them from the *viewer*.  ``l_lip`` is the *lower* lip everywhere, so a flip never
exchanges ``u_lip`` and ``l_lip``.  Facts and their sources: docs/design.md, 1.9, 6.1-6.4.
"""

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import flip_image

IGNORE = 255
"""Label value of pixels that take part neither in training nor in a score."""


@dataclass(frozen=True)
class Scheme:
    """An ordered set of classes and the side its names are given from (``"subject"`` or ``"viewer"``).

    ``words`` holds the words of each class for prompts and figures, ``pairs`` the names that a horizontal flip
    exchanges.  Class 0 is always the background.
    """

    name: str
    classes: tuple[str, ...]
    words: tuple[str, ...]
    side: str
    pairs: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def components(self) -> tuple[str, ...]:
        """All classes but the background, in order: position k here is class k + 1."""
        return self.classes[1:]

    def index(self, name: str) -> int:
        """Class id of ``name``; raises :class:`InputError` naming the nearest known class."""
        if name in self.classes:
            return self.classes.index(name)
        near = get_close_matches(name, self.classes, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self.classes)}"
        raise InputError(f"unknown class {name!r} for {self.name}; {hint}")

    @property
    def flip(self) -> np.ndarray:
        """``(C,)`` int64: class id that each class becomes in a horizontally flipped picture (an involution)."""
        order = np.arange(len(self))
        for left, right in self.pairs:
            a, b = self.classes.index(left), self.classes.index(right)
            order[a], order[b] = b, a
        return order

    @property
    def flip_components(self) -> np.ndarray:
        """``(C - 1,)`` int64: the same for arrays without a background channel (labels, FCAMs, class tokens)."""
        return self.flip[1:] - 1

    def picture_half(self, name: str) -> str | None:
        """Half of a frontal picture on which a sided class lies: ``"left"``, ``"right"``, or ``None`` if unsided."""
        for left, right in self.pairs:
            if name in (left, right):
                from_left = name == left
                return "left" if from_left == (self.side == "viewer") else "right"
        self.index(name)
        return None


CELEBAMASK = Scheme(
    name="celebamask",
    classes=(
        "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth",
        "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
    ),
    words=(
        "background", "skin", "nose", "eyeglasses", "left eye", "right eye", "left eyebrow", "right eyebrow",
        "left ear", "right ear", "mouth", "upper lip", "lower lip", "hair", "hat", "earring", "necklace", "neck",
        "clothes",
    ),
    side="subject",
    pairs=(("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")),
)  # fmt: skip
"""The 18 + 1 classes of CelebAMask-HQ in its official (painting) order; K = 18 components."""

LAPA = Scheme(
    name="lapa",
    classes=(
        "background", "skin", "left_eyebrow", "right_eyebrow", "left_eye", "right_eye", "nose", "upper_lip",
        "inner_mouth", "lower_lip", "hair",
    ),
    words=(
        "background", "skin", "left eyebrow", "right eyebrow", "left eye", "right eye", "nose", "upper lip",
        "inner mouth", "lower lip", "hair",
    ),
    side="viewer",
    pairs=(("left_eyebrow", "right_eyebrow"), ("left_eye", "right_eye")),
)  # fmt: skip
"""The 11 classes of LaPa and Helen; in LaPa the skin includes the ears, in Helen it does not."""

SCHEMES = {scheme.name: scheme for scheme in (CELEBAMASK, LAPA)}

COMPONENTS = CELEBAMASK.components
K = len(COMPONENTS)


def flip_label_map(label_map: np.ndarray, scheme: Scheme = CELEBAMASK) -> np.ndarray:
    """Mirror a label map ``(H, W)`` uint8 and exchange its left and right classes; 255 stays 255."""
    return lookup(scheme.flip)[flip_image(label_map)]


def lookup(table: np.ndarray) -> np.ndarray:
    """256-entry uint8 table from class ids to class ids; everything beyond the table becomes 255."""
    full = np.full(256, IGNORE, np.uint8)
    full[: len(table)] = table
    return full


_BY_NAME = {
    "skin": "skin", "nose": "nose", "u_lip": "upper_lip", "mouth": "inner_mouth", "l_lip": "lower_lip", "hair": "hair",
    "l_eye": "left_eye", "r_eye": "right_eye", "l_brow": "left_eyebrow", "r_brow": "right_eyebrow",
}  # fmt: skip


def to_lapa_table(mode: str = "geometric", ears_to_skin: bool = False) -> np.ndarray:
    """``(19,)`` uint8 table from CelebAMask-HQ to LaPa/Helen classes (paper 4.2.2; docs/design.md, 6.4).

    ``geometric`` (default) keeps every part where it is in the picture, so the names of the sides are exchanged:
    the subject's ``l_eye`` is LaPa's ``right_eye``.  ``by-name`` maps left to left, which compares eyes and brows with
    the opposite side; it is there to show what that costs.  ``ears_to_skin`` follows LaPa, whose skin has the ears.
    """
    if mode not in ("geometric", "by-name"):
        raise InputError(f"unknown 19 -> 11 mode {mode!r}: expected 'geometric' or 'by-name'")
    table = np.zeros(len(CELEBAMASK), np.uint8)
    for source, target in _BY_NAME.items():
        table[CELEBAMASK.index(source)] = LAPA.index(target)
    if mode == "geometric":
        table = LAPA.flip[table].astype(np.uint8)
    if ears_to_skin:
        table[[CELEBAMASK.index("l_ear"), CELEBAMASK.index("r_ear")]] = LAPA.index("skin")
    return table


def to_lapa(label_map: np.ndarray, mode: str = "geometric", ears_to_skin: bool = False) -> np.ndarray:
    """Map a CelebAMask-HQ label map ``(H, W)`` uint8 to LaPa/Helen classes; 255 stays 255."""
    return lookup(to_lapa_table(mode, ears_to_skin))[label_map]


HELEN_MERGED = {
    "brows": ("left_eyebrow", "right_eyebrow"),
    "eyes": ("left_eye", "right_eye"),
    "mouth_all": ("upper_lip", "inner_mouth", "lower_lip"),
    "overall": (
        "left_eyebrow", "right_eyebrow", "left_eye", "right_eye", "nose", "upper_lip", "inner_mouth", "lower_lip",
    ),
}  # fmt: skip
"""Merged classes that the Helen tradition lists beside the plain ones (docs/design.md, 7)."""


def prompt(component: str) -> str:
    """Text prompt T_k of a component (paper 3.4): ``'a photo of a face with left eye'``, no full stop."""
    return f"a photo of a face with {CELEBAMASK.words[CELEBAMASK.index(component)]}"


PROMPTS = tuple(prompt(component) for component in COMPONENTS)
"""The K prompts in the order of :data:`COMPONENTS`."""

NEIGHBOURS = (
    ("background", "skin"), ("background", "hair"), ("background", "hat"), ("background", "neck"),
    ("background", "cloth"), ("background", "l_ear"), ("background", "r_ear"), ("background", "ear_r"),
    ("skin", "nose"), ("skin", "eye_g"), ("skin", "l_eye"), ("skin", "r_eye"), ("skin", "l_brow"), ("skin", "r_brow"),
    ("skin", "l_ear"), ("skin", "r_ear"), ("skin", "u_lip"), ("skin", "l_lip"), ("skin", "hair"), ("skin", "hat"),
    ("skin", "neck"), ("skin", "ear_r"), ("nose", "eye_g"), ("nose", "u_lip"), ("eye_g", "l_eye"), ("eye_g", "r_eye"),
    ("eye_g", "l_brow"), ("eye_g", "r_brow"), ("eye_g", "hair"), ("l_eye", "l_brow"), ("r_eye", "r_brow"),
    ("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear"), ("l_brow", "hair"), ("r_brow", "hair"),
    ("mouth", "u_lip"), ("mouth", "l_lip"), ("u_lip", "l_lip"), ("l_ear", "hair"), ("r_ear", "hair"),
    ("l_ear", "ear_r"), ("r_ear", "ear_r"), ("hair", "hat"), ("hair", "neck"), ("hair", "cloth"), ("hair", "ear_r"),
    ("neck", "neck_l"), ("neck", "cloth"), ("neck", "ear_r"), ("neck_l", "cloth"),
)  # fmt: skip
"""Classes that touch on a face, or are compared with each other: their colours must stay apart."""

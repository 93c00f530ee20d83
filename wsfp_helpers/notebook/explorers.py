"""Figures with controls: each function shows one, and keeps for itself what it draws from.

A notebook binds names again and again, so nothing here looks a name up there: what a control redraws hours later is the
picture that the function was called with.  The calls work in ipywidgets 7.7 and 8; without a front end the first
picture stays as an output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np
from ipywidgets import Dropdown, FloatSlider, IntSlider, interact
from skimage.segmentation import find_boundaries

from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import PHRASE_OF, Candidates
from wsfp_helpers.labels import COMPONENTS
from wsfp_helpers.method.ccd import MASKABLE, CCDConfig, judge
from wsfp_helpers.method.fcam import Fcam, FcamConfig, extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.method.vit import MultiClassTokenViT
from wsfp_helpers.notebook.draw import draw_boxes
from wsfp_helpers.notebook.plots import gallery, heat, overlay, show
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels

Variant = Literal["fused", "patch", "attention"]


def filter_candidates(image: np.ndarray, candidates: Candidates) -> None:
    """Eq. 1 on the candidates of one picture ``(H, W, 3)`` uint8, for any part and score threshold."""

    def draw(part: str, threshold: float) -> None:
        steps = judge(candidates[PHRASE_OF[part]], part, image.shape[:2], CCDConfig(score_threshold=threshold))
        words = [("" if verdict == "accepted" else "x ") + verdict for _, verdict in steps]
        picture = draw_boxes(image, [candidate.box for candidate, _ in steps], words)
        figure = gallery([picture], [f"{part}, score above {threshold:.2f}"], "Which candidate is accepted?", size=3.5)
        verdicts = ", ".join(verdict for _, verdict in steps) or "none"
        show(figure, alt=f"The face with the candidates for {part}; verdicts: {verdicts}.")

    interact(draw, part=_choice(MASKABLE, "l_brow"), threshold=_slider(0.05, 0.95, 0.05, 0.35))


def compare_networks(models: Mapping[str, MultiClassTokenViT], faces: WeakFaces) -> None:
    """The map of any part of any of the faces by each network, side by side, also of parts that the face lacks."""
    everything = replace(faces, labels=np.ones_like(faces.labels))

    @cache
    def maps(face: int, network: str, variant: Variant) -> np.ndarray:
        config = FcamConfig((1.0,), variant=variant, affinity=False)
        return next(extract(models[network], everything.subset([face]), config)).maps()  # (K, H, W)

    def draw(face: int, part: str, variant: Variant, threshold: float) -> None:
        picture, k = faces.image(face), COMPONENTS.index(part)
        pictures, titles = [picture], ["picture"]
        for network in models:
            found = maps(face, network, variant)[k]
            rim = find_boundaries(found > threshold, mode="inner")
            pictures.append(np.where(rim[..., None], np.uint8(255), heat(picture, found)))
            titles.append(f"{network}: {100 * (found > threshold).mean():.0f} % above")
        note = "" if faces.labels[face, k] else " (not on this face's list)"
        show(
            gallery(pictures, titles, f"{part}{note}, {variant}, threshold {threshold:.2f}", size=2.6),
            alt=f"A face and the {variant} map of its {part} by {', '.join(models)}, outlined at {threshold:.2f}.",
        )

    interact(
        draw, face=_steps(len(faces), 3), part=_choice(COMPONENTS, "nose"),
        variant=_choice(("patch", "fused", "attention"), "patch"), threshold=_slider(0.05, 0.95, 0.05, 0.5),
    )  # fmt: skip


def move_threshold(fcams: Sequence[Fcam], faces: Faces) -> None:
    """The pseudo label of any of the faces at any threshold, with its F1, beside the truth."""

    def draw(face: int, theta: float) -> None:
        picture, answer = faces.image(face), pseudo_label(fcams[face], theta)
        score = score_pseudo_labels([answer], faces.subset([face])).mean_f1
        pictures = [picture, overlay(picture, answer), overlay(picture, faces.label_map(face))]
        titles = ["picture", f"theta {theta:.2f}: F1 {score:.0f}", "truth"]
        show(
            gallery(pictures, titles, "Threshold explorer", 3, 2.6, [int(k) for k in np.unique(answer) if k]),
            alt=f"Face {face}, its pseudo label at theta {theta:.2f}, F1 {score:.0f}, and its truth.",
        )

    interact(draw, face=_steps(len(faces), 6), theta=_slider(0.05, 0.95, 0.05, 0.5))


def _choice(options: Sequence[str], first: str) -> Dropdown:
    return Dropdown(options=list(options), value=first)


def _slider(low: float, high: float, step: float, first: float) -> FloatSlider:
    return FloatSlider(min=low, max=high, step=step, value=first)


def _steps(count: int, first: int) -> IntSlider:
    return IntSlider(min=0, max=count - 1, value=first, continuous_update=False)

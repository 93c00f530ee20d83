"""Figures with controls: each function shows one, and keeps for itself what it draws from.

A notebook binds names again and again, so nothing here looks a name up there: what a control redraws hours later is the
picture that the function was called with.  The calls work in ipywidgets 7.7 and 8; without a front end the first
picture stays as an output.
"""

from collections.abc import Sequence

import numpy as np
from ipywidgets import Dropdown, FloatSlider, interact

from wsfp_helpers.detect.base import PHRASE_OF, Candidates
from wsfp_helpers.method.ccd import MASKABLE, CCDConfig, judge
from wsfp_helpers.notebook.draw import draw_boxes
from wsfp_helpers.notebook.plots import gallery, show


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


def _choice(options: Sequence[str], first: str) -> Dropdown:
    return Dropdown(options=list(options), value=first)


def _slider(low: float, high: float, step: float, first: float) -> FloatSlider:
    return FloatSlider(min=low, max=high, step=step, value=first)

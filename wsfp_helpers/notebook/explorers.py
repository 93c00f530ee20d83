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
import torch
from IPython.display import display
from ipywidgets import (
    Checkbox,
    Dropdown,
    FloatSlider,
    GridBox,
    IntSlider,
    Layout,
    SelectionSlider,
    interact,
    interactive,
)
from matplotlib import colormaps
from PIL import Image
from skimage.segmentation import find_boundaries
from torch import Tensor

from wsfp_helpers.common.pictures import to_tensor
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import PHRASE_OF, Candidates
from wsfp_helpers.labels import COMPONENTS, PROMPTS
from wsfp_helpers.method.ccd import MASKABLE, CCDConfig, judge
from wsfp_helpers.method.cooccurrence import conditional, joint_counts, lift
from wsfp_helpers.method.fcam import Fcam, FcamConfig, extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.method.tcd import (
    TcdConfig,
    background,
    encode_renders,
    foreground,
    negative_background,
    negative_foreground,
    positive_foreground,
    regularisation,
)
from wsfp_helpers.method.vit import ClassTokenOutput, MultiClassTokenViT, patch_attention
from wsfp_helpers.nets.vlm import VisionLanguageModel
from wsfp_helpers.notebook.draw import draw_boxes
from wsfp_helpers.notebook.ladder import climb
from wsfp_helpers.notebook.plots import bars, gallery, heat, overlay, seed_bars, show
from wsfp_helpers.palette import paint
from wsfp_helpers.score.pseudo_labels import score_pseudo_labels

Variant = Literal["fused", "patch", "attention"]


def co_occurrence(labels: np.ndarray) -> None:
    """For any class, how often each other comes with it, beside its lift, from a label table ``(n, K)``."""
    counts = joint_counts(labels)
    given, lifts = conditional(counts), lift(counts, len(labels))

    def draw(given_class: str) -> None:
        k = COMPONENTS.index(given_class)
        others = [name for name in COMPONENTS if name != given_class]
        places = [COMPONENTS.index(name) for name in others]
        figure = bars(
            {f"P(class | {given_class})": list(given[k, places]), "lift, cut at 2": list(lifts[k, places].clip(max=2))},
            others, f"{int(counts[k, k])} of {len(labels)} faces have {given_class}", "share; lift (1: no relation)",
        )  # fmt: skip
        figure.axes[0].axhline(1, color="black", linewidth=0.8, linestyle=":")
        strongest = others[int(np.nanargmax(np.abs(lifts[k, places] - 1)))]
        show(figure, alt=f"Bars by class, given {given_class}; its lift is farthest from 1 for {strongest}.")

    interact(draw, given_class=_choice(COMPONENTS, "eye_g"))


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


def be_the_map(image: np.ndarray, vlm: VisionLanguageModel) -> None:
    """A soft spot as the map of a part: what it keeps and what it leaves of a picture, with the cosines of both."""
    text = vlm.text(PROMPTS)  # (K, D)
    picture = vlm.prepare(to_tensor([image]))  # (1, 3, S, S)
    rows, columns = torch.meshgrid(*[torch.linspace(0, 100, vlm.size)] * 2, indexing="ij")

    @torch.no_grad()
    def draw(part: str, x: int, y: int, size: int) -> None:
        spot = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * size**2))  # (S, S)
        shown = torch.cat([foreground(picture, spot), background(picture, spot)])
        kept, left = (vlm.encode_image(shown) @ text[COMPONENTS.index(part)]).tolist()
        seen = (shown * vlm.std + vlm.mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        titles = ["the map", f"it keeps (Eq. 5): {kept:.2f}", f"it leaves (Eq. 6): {left:.2f}"]
        figure = gallery([heat(image, spot.numpy()), *seen], titles, f"Cosines with “a face with {part}”", 3, 2.8)
        show(figure, alt=f"A spot on a face, what it keeps, cosine {kept:.2f} with {part}, and leaves, {left:.2f}.")

    interact(draw, part=_choice(COMPONENTS, "nose"), x=_percent(50), y=_percent(55), size=_number(2, 60, 10))


def loss_switchboard(
    image: np.ndarray, labels: Tensor, output: ClassTokenOutput, vlm: VisionLanguageModel, config: TcdConfig
) -> None:
    """Where the chosen terms of TCD want the map of a part to rise and to fall, on one picture.

    The gradients of all terms with respect to the map P are taken once; a switch only adds them up.
    """
    p = patch_attention(output.patch_map.detach()).requires_grad_()  # (1, K, h, w)
    labels, text = labels[None], vlm.text(PROMPTS)
    shown = labels.bool()
    kept, left = encode_renders(p, to_tensor([image]), shown, vlm)
    assert kept is not None and left is not None
    terms = {
        "pos_ffc": config.alpha1 * positive_foreground(kept, text, shown, config),
        "neg_ffc": config.beta1 * negative_foreground(kept, text, shown, config),
        "neg_bfc": config.beta2 * negative_background(left, text, shown, config),
        "reg": config.reg * regularisation(p),
    }
    wish = {name: -torch.autograd.grad(value, p, retain_graph=True)[0][0] for name, value in terms.items()}
    present = [COMPONENTS[k] for k in np.flatnonzero(labels[0])]

    def draw(part: str, **switches: bool) -> None:
        k = COMPONENTS.index(part)
        chosen = [name for name, on in switches.items() if on]
        total = sum((wish[name][k] for name in chosen), torch.zeros(p.shape[2:]))
        strongest = float(total.abs().max())
        colours = colormaps["PuOr_r"](0.5 + 0.5 * total.numpy() / (strongest or 1))[..., :3]
        wanted = np.array(Image.fromarray((255 * colours).astype(np.uint8)).resize(image.shape[1::-1]))
        mixed = (0.35 * image.mean(2, keepdims=True) + 0.65 * wanted).astype(np.uint8)
        pictures = [image, heat(image, p[0, k].detach().numpy()), mixed]
        titles = ["picture", f"map P of {part}", f"orange: up, purple: down; most {strongest:.0e}"]
        words = " + ".join(chosen) or "no term"
        show(
            gallery(pictures, titles, f"What {words} want of the map", 3, 2.8),
            alt=f"A face, the map of its {part}, and where {words} want it to rise and to fall.",
        )

    switches = {name: Checkbox(value=True, description=name) for name in terms}
    interact(draw, part=_choice(present, "l_eye"), **switches)


def edit_list(fcams: Sequence[Fcam], faces: Faces) -> None:
    """Pseudo labels of any of the faces from a list of parts that is edited box by box; ``fcams`` have all parts."""
    maps = cache(lambda face: fcams[face].maps())  # (K, H, W)

    def draw(face: int, **ticked: bool) -> None:
        chosen = np.array([ticked[name] for name in COMPONENTS])
        stack = np.concatenate([np.full((1, *maps(face).shape[1:]), 0.5), maps(face)[chosen]])
        answer = np.r_[0, np.flatnonzero(chosen) + 1][stack.argmax(0)].astype(np.uint8)
        score = score_pseudo_labels([answer], faces.subset([face])).mean_f1
        wrong = [name for name, on, y in zip(COMPONENTS, chosen, faces.labels[face], strict=True) if on != bool(y)]
        pictures = [faces.image(face), paint(answer), paint(faces.label_map(face))]
        titles = ["picture", f"from your list: F1 {score:.0f}", "truth"]
        words = f"differs from y in: {', '.join(wrong)}" if wrong else "the list is y"
        show(
            gallery(pictures, titles, words, 3, 2.8, [int(k) for k in np.unique(answer) if k]),
            alt=f"A face, the pseudo label from an edited list, F1 {score:.0f}, and its truth; the list {words}.",
        )

    number = _steps(len(faces), 6)
    boxes = {
        name: Checkbox(value=bool(y), description=name, indent=False, layout=Layout(width="110px"))
        for name, y in zip(COMPONENTS, faces.labels[6], strict=True)
    }
    widget = interactive(draw, face=number, **boxes)
    grid = GridBox(list(boxes.values()), layout=Layout(grid_template_columns="repeat(6, 115px)"))
    widget.children = (number, grid, widget.out)
    display(widget)


def browse_errors(sets: Mapping[str, Faces], answers: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Faces of each set from the worst to the best, with a parser's answer ``(n, H, W)``, the truth and the errors."""
    order = {
        (name, parser): np.argsort([
            score_pseudo_labels([answer], faces.subset([i])).mean_f1 for i, answer in enumerate(answers[name][parser])
        ])
        for name, faces in sets.items() for parser in answers[name]
    }  # fmt: skip
    fewest = min(len(faces) for faces in sets.values())

    def draw(world: str, parser: str, rank: int) -> None:
        faces, i = sets[world], int(order[world, parser][rank])
        picture, truth, answer = faces.image(i), faces.label_map(i), answers[world][parser][i]
        score = score_pseudo_labels([answer], faces.subset([i])).mean_f1
        wrong = np.where((answer != truth)[..., None], np.uint8(255), picture // 3)
        pictures = [picture, paint(answer), paint(truth), wrong]
        titles = [f"face {i}", f"{parser}: F1 {score:.0f}", "truth", f"wrong: {100 * (answer != truth).mean():.0f} %"]
        show(
            gallery(
                pictures,
                titles,
                f"{world}, number {rank + 1} from the worst",
                4,
                2.6,
                [int(k) for k in np.union1d(truth, answer) if k],
            ),
            alt=f"A {world} face, what the {parser} parser says, F1 {score:.0f}, the truth, and the wrong pixels.",
        )

    parsers = list(next(iter(answers.values())))
    interact(
        draw, world=_choice(list(sets), next(iter(sets))), parser=_choice(parsers, parsers[0]), rank=_steps(fewest, 0)
    )


def ladder(faces: WeakFaces, titles: Sequence[str], scores: Mapping[str, str]) -> None:
    """Step by step through the method with a slider: the map of a part above, the labels below.

    ``scores`` says of each step what it scores, and on which split.
    """
    rungs = {rung.name: rung for rung in climb(faces)}
    everything = sorted({int(k) for rung in rungs.values() for k in np.unique(rung.labels) if k})

    def draw(step: str, part: str) -> None:
        rung, k = rungs[step], COMPONENTS.index(part)
        pictures = [faces.image(i) for i in range(len(faces))]
        above = [heat(picture, maps[k]) for picture, maps in zip(pictures, rung.maps, strict=True)]
        below = [overlay(picture, labels, opacity=0.75) for picture, labels in zip(pictures, rung.labels, strict=True)]
        names = [f"{title}: map of {part}" for title in titles] + [f"{title}: labels" for title in titles]
        figure = gallery([*above, *below], names, f"{step}: {scores[step]}", len(faces), 2.8, everything)
        show(figure, alt=f"Two faces at the step {step}: the maps of {part} above, labels of all parts below.")

    steps = SelectionSlider(options=list(rungs), value=next(iter(rungs)), continuous_update=False)
    interact(draw, step=steps, part=_choice(COMPONENTS, "skin"))


def sort_systems(columns: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """One column of a table of systems as bars, in the order of the same or of another column.

    Args:
        columns: For each column the seeds' values of every system, by name.
    """

    def draw(shown: str, order: str) -> None:
        names = sorted(columns[order], key=lambda name: -float(np.mean(columns[order][name])))
        bars_ = {name: columns[shown][name] for name in names}
        numbers = "; ".join(f"{name} {np.mean(values):.1f}" for name, values in bars_.items())
        show(
            seed_bars(bars_, f"{shown}, in the order of: {order}", "mean F1 (%)"),
            alt=f"Bars of {shown}, in the order of {order}: {numbers}.",
        )

    first = next(iter(columns))
    interact(draw, shown=_choice(list(columns), first), order=_choice(list(columns), first))


def _choice(options: Sequence[str], first: str) -> Dropdown:
    return Dropdown(options=list(options), value=first)


def _slider(low: float, high: float, step: float, first: float) -> FloatSlider:
    return FloatSlider(min=low, max=high, step=step, value=first)


def _steps(count: int, first: int) -> IntSlider:
    return IntSlider(min=0, max=count - 1, value=first, continuous_update=False)


def _percent(first: int) -> IntSlider:
    return IntSlider(min=0, max=100, value=first)


def _number(low: int, high: int, first: int) -> IntSlider:
    return IntSlider(min=low, max=high, value=first)

"""CLIMS (Xie et al., CVPR 2022): maps that nothing but an image-text model trains.

Kept: the start from a trained baseline (here MCTformer+, whose own losses are then off); P = sigmoid of the patch
head, and for each present component what P shows and what it hides, as in Eq. 5 and 6 of DisFaceRep, which took them
from here; the four losses with their weights, the clamped logarithm and the sum of the third.
Reduced: the ResNet-50 is the ViT of the course; on a CPU so many components of a picture are rendered in a step as TCD
renders; no IRN behind the maps, as the paper compares without post-processing.
Changed: a list of natural backgrounds (railway, water, ...) means nothing on a face, where hair, skin and cloth are
classes.  The texts of the other components take its place.  They are 17, and a face shows a dozen of them, so the
sum has many more terms than in the original: smaller weights of it are among the settings tried.
Supervision: image-level labels and texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import PROMPTS
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.method.tcd import TcdConfig, attract, encode_renders, regularisation, repel, sample_components
from wsfp_helpers.method.vit import patch_attention
from wsfp_helpers.systems.base import Batch, Found, Parts, VitNetwork, VitSystem, found_in_fcam

CLAMPED = TcdConfig(sim_mode="clims")
"""How CLIMS keeps its logarithms finite."""
COOCCURRING = 0.26
"""Cosine from which a text counts as seen beside a component: that of the original for VOC."""


@dataclass(frozen=True)
class ClimsConfig:
    """Weights of the four losses (CLIMS's own for VOC), and what ``val`` may choose."""

    lr: float = 2e-3
    """Learning rate of the patch head in the profile ``embedded``; others scale it as their own."""
    theta: float = 0.5
    """Background threshold."""
    otm: float = 10.0
    """Object-text matching."""
    btm: float = 24.0
    """Background-text matching."""
    cbs: float = 1.0
    """Suppression of what co-occurs."""
    reg: float = 0.2
    """Area."""
    renders: int = 8
    """Present components of a picture that are rendered in a step (0: all)."""


class Clims(VitSystem):
    """CLIMS on the class-token ViT, whose patch head gives P."""

    title, paper, supervision = "CLIMS", "Xie et al., CVPR 2022", "I+L"
    models = ("vlm",)
    reads = ("theta",)
    chosen = 1
    tried = (ClimsConfig(), ClimsConfig(cbs=0.1), ClimsConfig(theta=0.7, cbs=0.1), ClimsConfig(cbs=0.03))
    settings: ClimsConfig

    def __init__(self, parts: Parts, settings: ClimsConfig, seed: int = 0) -> None:
        super().__init__(parts, settings, seed)
        self.network = VitNetwork(parts.build_vit(seed))

    def fit(self, faces: WeakFaces, folder: Path | None = None) -> None:
        """Train on from the baseline of the profile with this seed."""
        baseline = self.parts.trained_vit(False, 1.0, self.seed)
        self.network.vit.load_state_dict(baseline.state_dict())
        self.train(faces, folder, self.settings.lr, self.parts.vlm.size)

    def loss(self, batch: Batch, step: int) -> Tensor:
        """The four losses, weighted."""
        config, vlm = self.settings, self.parts.vlm.to(batch.inputs.device)
        p, text = patch_attention(self.network.vit(batch.inputs).patch_map), vlm.text(PROMPTS)
        rendered = sample_components(batch.labels, config.renders)
        v_ffc, v_bfc = encode_renders(p, batch.pictures, rendered, vlm)
        assert v_ffc is not None and v_bfc is not None
        return (
            config.otm * object_text(v_ffc, text, rendered)
            + config.btm * background_text(v_bfc, text, rendered)
            + config.cbs * cooccurring(v_ffc, text, rendered)
            + config.reg * regularisation(p)
        )

    def find(self, faces: WeakFaces) -> Iterator[Found]:
        """Activation maps against the constant background of the settings."""
        for fcam in extract(self.network.vit, faces, self.parts.fcam):
            yield found_in_fcam(fcam, self.settings.theta)


def object_text(v_ffc: Tensor, text: Tensor, rendered: Tensor) -> Tensor:
    """Object-text matching: what a map shows should look like its component.

    Args:
        v_ffc: Vectors of what the maps show ``(B, K, D)``, of unit length.
        text: Vectors of the components' texts ``(K, D)``, of unit length.
        rendered: Pairs (b, k) that count, ``(B, K)`` bool.
    """
    # L_OTM = − mean over pairs of log s(v_ffc^k, v_txt^k)
    return attract((v_ffc * text).sum(-1)[rendered], CLAMPED).mean()


def background_text(v_bfc: Tensor, text: Tensor, rendered: Tensor) -> Tensor:
    """Background-text matching: what a map hides should not look like its component.

    Shapes as :func:`object_text`.
    """
    # L_BTM = − mean over pairs of log(1 − s(v_bfc^k, v_txt^k))
    return repel((v_bfc * text).sum(-1)[rendered], CLAMPED).mean()


def cooccurring(v_ffc: Tensor, text: Tensor, rendered: Tensor) -> Tensor:
    """Co-occurring background suppression: what a map shows should look like nothing else.

    Shapes as :func:`object_text`; a sum, in which only texts count that are clearly seen.
    """
    cosines = v_ffc[rendered] @ text.T  # (n, K)
    others = ~torch.eye(len(text), dtype=torch.bool, device=text.device)[rendered.nonzero()[:, 1]]
    # L_CBS = − Σ over pairs Σ_{l ≠ k, s > 0.26} log(1 − s(v_ffc^k, v_txt^l))
    return repel(cosines[others & (cosines > COOCCURRING)], CLAMPED).sum()

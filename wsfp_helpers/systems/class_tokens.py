"""MCTformer+ (Xu et al., TPAMI 2024) and DisFaceRep, the paper's own method, as two of the compared systems.

Both are the class-token ViT of :mod:`wsfp_helpers.method`, as everywhere in this course; here they only take the form
of the others.  Supervision: image-level labels; DisFaceRep also texts, and the boxes of a detector that knows words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.method.vit import MultiClassTokenViT
from wsfp_helpers.systems.base import Found, Parts, System, found_in_fcam


@dataclass(frozen=True)
class ClassTokenConfig:
    """What ``val`` may choose."""

    speed: float = 1.0
    """Factor on the learning rate of the profile."""
    theta: float = 0.5
    """Background threshold."""


class McTformerPlus(System):
    """The baseline of the paper: class tokens, a patch head, three losses of image-level labels."""

    title, paper, supervision = "MCTformer+", "Xu et al., TPAMI 2024", "I"
    tried = (ClassTokenConfig(), ClassTokenConfig(theta=0.7), ClassTokenConfig(2.0), ClassTokenConfig(2.0, 0.7))
    reads = ("theta",)
    chosen = 2
    disentangled = False
    network: MultiClassTokenViT

    def __init__(self, parts: Parts, settings: ClassTokenConfig, seed: int = 0) -> None:
        super().__init__(parts, settings, seed)
        self.network = parts.build_vit(seed)

    def fit(self, faces: WeakFaces, folder: Path | None = None) -> None:
        """Take the network that the profile's own training gives with this seed; ``faces`` are those of the profile."""
        trained = self.parts.trained_vit(self.disentangled, self.settings.speed, self.seed)
        self.network.load_state_dict(trained.state_dict())

    def find(self, faces: WeakFaces) -> Iterator[Found]:
        """Activation maps against the constant background of the settings."""
        for fcam in extract(self.network, faces, self.parts.fcam):
            yield found_in_fcam(fcam, self.settings.theta)


class DisFaceRep(McTformerPlus):
    """The paper's method: the baseline with CCD and TCD."""

    title, paper, supervision = "DisFaceRep", "Wang et al., ACM MM 2025", "I+L+B"
    models = ("vlm",)
    disentangled = True

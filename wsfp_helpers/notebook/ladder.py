"""The ladder: the same pictures through every step of the method, from the baseline to full supervision."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from wsfp_helpers.common.files import ASSETS
from wsfp_helpers.data.photograph import astronaut
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import COMPONENTS, K
from wsfp_helpers.method.fcam import extract
from wsfp_helpers.method.pseudo import pseudo_label
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.profiles import profile
from wsfp_helpers.stages import load_shipped


@dataclass(frozen=True)
class Rung:
    """One step: its name, maps ``(n, K, H, W)`` in [0, 1] and labels ``(n, H, W)``."""

    name: str
    maps: np.ndarray
    labels: np.ndarray


NETWORKS = {"baseline": "base", "+ CCD": "ccd", "+ TCD": "full"}
"""Steps that end in pseudo labels, and their shipped weights."""
PARSERS = {
    "parser, plain labels": "plain", "parser, labels + boxes (ours)": "weak", "parser, full supervision": "supervised",
}  # fmt: skip
"""Steps that end in a shipped parser."""
SHOWN_BY_PHOTOGRAPH = (
    "skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip", "hair", "neck", "cloth",
)  # fmt: skip


def climb(faces: WeakFaces) -> Iterator[Rung]:
    """The rungs for faces with their image-level labels, which the first three need and the parsers do not.

    Pictures of one size, framed as in training.
    """
    pictures = np.stack([faces.image(i) for i in range(len(faces))])
    for name, weights in NETWORKS.items():
        fcams = list(extract(load_shipped(weights), faces, profile("embedded").fcam))
        maps = np.zeros((len(faces), K, *pictures.shape[1:3]), np.float32)
        for each, fcam in zip(maps, fcams, strict=True):
            each[fcam.classes] = fcam.maps()
        labels = np.stack([pseudo_label(fcam) for fcam in fcams])
        yield Rung(name, maps, labels)
    for name, kind in PARSERS.items():
        parser = load_parser(ASSETS / f"parser_{kind}.safetensors")
        probability = parser.probabilities(pictures).numpy()  # (n, 19, H, W)
        yield Rung(name, probability[:, 1:], probability.argmax(1).astype(np.uint8))


def two_faces() -> WeakFaces:
    """The first face of celeb/val and a photograph, both 160 x 160, with lists of what each shows."""
    faces, photograph = synthfaces("celeb/val"), Image.fromarray(astronaut()).resize((160, 160))
    listed = np.isin(COMPONENTS, SHOWN_BY_PHOTOGRAPH).astype(np.uint8)
    pictures = {"rendered": faces.image(0), "photograph": np.array(photograph)}
    return WeakFaces("two faces", list(pictures), pictures.__getitem__, np.stack([faces.labels[0], listed]))

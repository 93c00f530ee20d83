"""Label maps that somebody else made, to stand in the tables beside ours: a folder of index PNGs with a card.

The authors' own results, a supervised parser, or a model that segments anything: whatever wrote ``ID.png`` for every
picture of a part of the data, and says in ``card.json`` what it is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wsfp_helpers.common.configs import check_range, read_config
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import existing, read_json
from wsfp_helpers.common.pictures import read_label_map
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.labels import CELEBAMASK

CARD = "card.json"


@dataclass(frozen=True)
class Card:
    """What ``card.json`` says of a folder of label maps."""

    system: str
    """Name in the tables."""
    paper: str
    """Where the system was published."""
    commit: str
    """Commit or version of the code that made the maps."""
    weights: str
    """Which weights, and what they were trained on."""
    by: str
    """Who ran it."""
    part: Literal["train", "val", "test"]
    """Which part of the profile's data the maps are of."""
    size: tuple[int, int]
    """Height and width of every map."""
    classes: tuple[str, ...]
    """Names of the classes in the order of the ids, the background first."""

    def __post_init__(self) -> None:
        check_range(self, size=(1, 10**5))


def read_card(folder: str | Path) -> Card:
    """The card of a folder of label maps.

    Raises:
        InputError: There is none, a field is missing or of another type, or the classes are not CelebAMask-HQ's.
    """
    path = existing(Path(folder) / CARD, "card of imported label maps")
    card = read_config(Card, read_json(path), path)
    if card.classes != CELEBAMASK.classes:
        place = next((i for i, (a, b) in enumerate(zip(card.classes, CELEBAMASK.classes, strict=False)) if a != b), 0)
        raise InputError(
            f"{path}: its {len(card.classes)} classes are not the {len(CELEBAMASK)} of CelebAMask-HQ in their order, "
            f"from id {place} on: write the maps again in this order: {', '.join(CELEBAMASK.classes)}"
        )
    return card


def read_maps(folder: str | Path, faces: WeakFaces) -> list[np.ndarray]:
    """The label maps ``(H, W)`` uint8 of all ``faces``, each as large as the card says.

    Raises:
        InputError: A map is missing, is no index PNG of 19 classes, or has another size.
    """
    folder, card = Path(folder), read_card(folder)
    if missing := [key for key in faces.ids if not (folder / f"{key}.png").exists()]:
        raise InputError(
            f"{folder} lacks {len(missing):,} of {len(faces):,} label maps of {faces.name}, the first is "
            f"{missing[0]}.png: is {card.part!r} the right part?"
        )
    maps = []
    for key in faces.ids:
        maps.append(read_label_map(folder / f"{key}.png", len(CELEBAMASK)))
        if maps[-1].shape != card.size:
            raise InputError(
                f"{folder / key}.png is {maps[-1].shape[1]} x {maps[-1].shape[0]}, the card says {card.size[1]} x "
                f"{card.size[0]}: correct the card, or write the map again"
            )
    return maps

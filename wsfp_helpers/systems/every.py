"""The nine systems by name, in the order of Table 1."""

from difflib import get_close_matches
from typing import Any

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.systems.base import Parts, System
from wsfp_helpers.systems.class_tokens import DisFaceRep, McTformerPlus
from wsfp_helpers.systems.clims import Clims
from wsfp_helpers.systems.clip_es import ClipEs
from wsfp_helpers.systems.more import MoRe
from wsfp_helpers.systems.seco import SeCo
from wsfp_helpers.systems.weakclip import WeakClip
from wsfp_helpers.systems.weclip import WeClip, WeClipPlus

SYSTEMS: dict[str, type[System]] = {
    each.title.lower(): each
    for each in (McTformerPlus, SeCo, MoRe, Clims, ClipEs, WeakClip, WeClip, WeClipPlus, DisFaceRep)
}
"""Systems by the name that the command line takes."""


def find_system(name: str) -> type[System]:
    """The system of a name; raises :class:`InputError` for an unknown one."""
    if name.lower() not in SYSTEMS:
        near = get_close_matches(name.lower(), SYSTEMS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(SYSTEMS)}"
        raise InputError(f"unknown system {name!r}: {hint}")
    return SYSTEMS[name.lower()]


def make_system(name: str, parts: Parts, settings: Any = None, seed: int = 0) -> System:
    """A system with its first values; ``settings`` default to those that were chosen on ``val``."""
    kind = find_system(name)
    return kind(parts, kind.tried[kind.chosen] if settings is None else settings, seed)

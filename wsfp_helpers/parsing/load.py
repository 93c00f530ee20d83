"""Trained parsers from their files: the two that are shipped, and those that ``wsfp parser`` wrote.

Both shipped ones have the same network and the same training; ``weak`` learnt from image-level labels and the boxes of
a detector, ``supervised`` from rendered masks: the difference is what pixel labels buy (assets/parser.md).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from wsfp_helpers.common.checkpoints import load_strictly, read_about, read_weights
from wsfp_helpers.common.configs import read_config
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS, existing_file
from wsfp_helpers.nets.trunk import Trunk, load_trunk
from wsfp_helpers.parsing.deeplab import NETWORKS, DeepLabConfig, DeepLabParser, build_network
from wsfp_helpers.parsing.light import NETWORK, LightDecoder, LightParser, ParserConfig
from wsfp_helpers.parsing.zoom import FaceParser

SHIPPED_PARSERS = {name: ASSETS / f"parser_{name}.safetensors" for name in ("weak", "supervised")}
"""Files of the parsers that come with the package."""
Network = TypeVar("Network", bound=nn.Module)


def load_parser(which: str | Path = "weak", trunk: Trunk | None = None) -> FaceParser:
    """A shipped parser, ``"weak"`` or ``"supervised"``, or one from a file that ``wsfp parser`` wrote.

    Raises:
        InputError: The file is missing, truncated, of another network or made for another trunk.
    """
    what = f"parser ({', '.join(SHIPPED_PARSERS)}, or a file of wsfp parser)"
    path = existing_file(SHIPPED_PARSERS.get(str(which), which), what, "parser.safetensors")
    facts = read_about(path)
    network = facts.get("network") if isinstance(facts, dict) else None
    if network == NETWORK:
        trunk = trunk or load_trunk()
        if facts.get("trunk") != trunk.fingerprint:
            raise InputError(
                f"{path} was trained on the trunk {facts.get('trunk')}, this one is {trunk.fingerprint}: train again"
            )
        config = read_config(ParserConfig, facts.get("config"), path)
        return LightParser(_restore(lambda: LightDecoder(config, trunk.width), path), trunk, config, facts)
    if network in NETWORKS:
        settings = read_config(DeepLabConfig, facts.get("config"), path)
        return DeepLabParser(_restore(lambda: build_network(settings.network), path), settings, facts)
    raise InputError(
        f"{path} is not the file of a parser (its header names the network {network}): expected {NETWORK} or one of "
        f"{', '.join(NETWORKS)}; choose another file, or train one"
    )


def _restore(build: Callable[[], Network], path: Path) -> Network:
    """The network that ``build`` makes, with the weights of the file."""
    try:
        network = build()
    except (ValueError, TypeError, RuntimeError) as error:  # a width of -4, an unknown name, more than the memory holds
        why = str(error).splitlines()[0]
        raise InputError(
            f"{path} describes a network that cannot be built ({why}): choose another file, or train one"
        ) from error
    load_strictly(network, read_weights(path), path, "load it with the network that it was trained with")
    return network

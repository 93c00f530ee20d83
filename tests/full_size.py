"""A miniature of the full-size world: each data set and each weight file in its true form, small."""

import shutil
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from tests.fixtures import TinyResNet38, make_celebamask, make_helen, make_lapa, picture, save
from tests.test_stages import FakeDetector
from tests.tooling.test_resnet38 import mxnet_bytes
from wsfp_helpers import stages
from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.data import celebamask, helen, lapa
from wsfp_helpers.detect.base import PHRASES
from wsfp_helpers.method.vit import MultiClassTokenViT
from wsfp_helpers.profiles import BERT, DEIT, FLIP, GROUNDING_DINO
from wsfp_helpers.tooling import weights
from wsfp_helpers.tooling.resnet38 import MXNET_FILE, convert_mxnet
from wsfp_helpers.tooling.smoke import bert_vocabulary

SMALL = (
    "model.size=64", "model.blocks=1", "train.epochs=1", "train.batch_size=2", "train.workers=0", "train.precision=no",
    "train.tcd.max_classes_per_image=2", "parser.size=64", "parser.crop=64", "parser.fit.steps=2", "parser.fit.batch=2",
    "parser.workers=0", "parser.precision=no", "parser.test_scales=[1.0]", "fcam.scales=[1.0]",
)  # fmt: skip
"""Settings with which a stage of the paper profile takes a second or two."""
_TOWER = {"width": 32, "heads": 4, "layers": 2}
_KINDS = {"arg": ("gamma", "beta"), "aux": ("moving_mean", "moving_var")}


def small_resnet38() -> TinyResNet38:
    """A backbone with almost no weights and ResNet38's 4,096 channels at the end, at 1/8 of the picture's size."""
    return TinyResNet38((1, 4, 1, 1), (1, 4096, 1, 1))


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Let the paper profile read small networks and data sets of a few pictures."""
    config = open_clip.get_model_config("ViT-B-16-quickgelu") | {"embed_dim": 32}
    config["vision_cfg"] = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 8, "layers": 2}
    config["text_cfg"] = {"context_length": 77, "vocab_size": 49408, **_TOWER}
    patch.setattr("wsfp_helpers.nets.clip._local_config", lambda name: config)
    for user in ("wsfp_helpers.tooling.resnet38", "wsfp_helpers.parsing.deeplab"):
        patch.setattr(f"{user}.ResNet38", small_resnet38)
    counts = {"train": 2, "val": 2, "test": 2}
    for module in (celebamask, lapa, helen):
        patch.setattr(module, "COUNTS", counts)
    for function in (celebamask.celebamask, celebamask.merge, celebamask.split_ids):
        defaults = [counts if isinstance(each, dict) else each for each in function.__defaults__]
        patch.setattr(function, "__defaults__", tuple(defaults))
    patch.setattr(stages, "load_detector", _fake_detector)


def _fake_detector(name: str, weights: Path, text_encoder: Path | None, device: str) -> FakeDetector:
    """In place of Grounding DINO, of which no configuration is small; its files have to be there."""
    assert name == "groundingdino" and weights.exists() and (weights.is_dir() or text_encoder.is_dir())
    return FakeDetector()


def offer(patch: pytest.MonkeyPatch, url: str) -> None:
    """Let ``wsfp weights get`` ask another server; sums are then those of the first download."""
    known = {}
    for name, each in weights.WEIGHTS.items():
        files = [weights.File(f"{url}/{file.place}", file.place) for file in each.files]
        convert = each.convert and partial(convert_mxnet, md5=None)
        known[name] = replace(each, files=tuple(files), convert=convert)
    patch.setattr(weights, "WEIGHTS", known)


def serve(folder: Path) -> ThreadingHTTPServer:
    """A web server for the files of ``folder``, until its ``shutdown`` is called."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def make_data(root: Path) -> None:
    """The three data sets that the user brings, with two pictures to test on, which intervals need."""
    faces = make_celebamask(root / "CelebAMask-HQ")
    with (faces / celebamask.MAPPING).open("a") as mapping, (faces / celebamask.PARTITION).open("a") as partition:
        for key, like, code in ((3, 1, 1), (4, 2, 2)):
            save(picture(key, 1024, 1024), faces / celebamask.IMAGES / f"{key}.jpg")
            for mask in (faces / celebamask.PART_MASKS / "0").glob(f"0000{like}_*.png"):
                shutil.copy(mask, mask.with_name(f"0000{key}{mask.name[5:]}"))
            mapping.write(f"{key} {key} 19000{key}.jpg\n")
            partition.write(f"19000{key}.jpg {code}\n")
    lapa_test, helen_root = make_lapa(root / "LaPa") / "test", make_helen(root / "Helen")
    save(picture(7, 80, 60), lapa_test / "images" / "10.jpg")
    shutil.copy(lapa_test / "labels" / "9.png", lapa_test / "labels" / "10.png")
    save(picture(8, 96, 72), helen_root / "images" / "14_1.jpg")
    for mask in (helen_root / "labels" / "13_1").glob("*.png"):
        save(Image.open(mask), helen_root / "labels" / "14_1" / mask.name.replace("13_1", "14_1"))
    with (helen_root / "testing.txt").open("a") as names:
        names.write("2 , 14_1\n")


def make_hub(root: Path) -> None:
    """Every file that ``wsfp weights get`` fetches, with random numbers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vit = MultiClassTokenViT(size=224)
    deit = {name: value for name, value in vit.state_dict().items() if name.startswith(("blocks.", "patch_embed."))}
    deit |= {"cls_token": vit.cls_token[:, :1], "pos_embed": torch.randn(1, 197, 384) * 0.02}
    save_weights(root / DEIT, deit)
    vision = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        vision_config=vision | {"image_size": 32, "patch_size": 16}, text_config=vision, projection_dim=32
    )
    (root / FLIP).mkdir(parents=True)
    config.save_pretrained(root / FLIP)
    torch.save(transformers.CLIPModel(config).state_dict(), root / FLIP / "pytorch_model.bin")
    _make_detector(root, transformers)
    (root / "weights" / MXNET_FILE).write_bytes(mxnet_bytes(_mxnet_arrays()))


def _make_detector(root: Path, transformers) -> None:
    """Grounding DINO in its own form, as groundingdino-py saves it, and a small BERT."""
    pytest.importorskip("groundingdino", reason="pip install 'wsfp-helpers[groundingdino]'")
    from wsfp_helpers.detect.groundingdino import build_package_model

    bert = root / BERT
    bert.mkdir(parents=True)
    (bert / "vocab.txt").write_text(bert_vocabulary(PHRASES))
    transformers.BertTokenizerFast(str(bert / "vocab.txt")).save_pretrained(bert)
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    transformers.BertModel(transformers.BertConfig(vocab_size=1100, **shape)).save_pretrained(bert)
    model, _ = build_package_model(None, bert, "", "swint")
    torch.save({"model": model.state_dict()}, root / GROUNDING_DINO)


def _mxnet_arrays() -> dict[str, np.ndarray]:
    rng, state = np.random.default_rng(0), small_resnet38().state_dict()
    names = {
        "stem.weight": "arg:conv1a_weight", "blocks.2a.conv_a.weight": "arg:res2a_branch2a_weight",
        "blocks.2a.conv_b1.weight": "arg:res2a_branch2b1_weight",
        "blocks.2a.shortcut.weight": "arg:res2a_branch1_weight",
    }  # fmt: skip
    arrays = {theirs: 0.1 * rng.normal(size=state[ours].shape) for ours, theirs in names.items()}
    for name, width in (("bn2a_branch2a", 4), ("bn2a_branch2b1", 4), ("bn7", 4096)):
        arrays |= {f"{kind}:{name}_{part}": np.ones(width) for kind, parts in _KINDS.items() for part in parts}
    arrays["arg:linear1000_weight"] = np.zeros((10, 8))
    return {name: array.astype(np.float32) for name, array in arrays.items()}

"""Grounding DINO on random weights: both packages, the same answer.  A tiny BERT and small pictures keep it fast."""

import shutil
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.detect.groundingdino import (
    QUERIES,
    BertWrapper,
    GroundingDino,
    build_package_model,
    caption,
    enlarged,
)
from wsfp_helpers.detect.load import load_detector
from wsfp_helpers.detect.transformers_dino import build_transformers_model
from wsfp_helpers.tooling.smoke import bert_vocabulary

transformers = pytest.importorskip("transformers")
FIVE = int(transformers.__version__.split(".")[0]) >= 5


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A random two-layer BERT whose special tokens have the ids of bert-base-uncased."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text(bert_vocabulary(["eye", "##brow", "ear", "nose", "mouth"]))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=1100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(bert):
    """The packaged Swin-T config with weights that make the queries differ (the package's start has equal boxes)."""
    pytest.importorskip("groundingdino", reason="pip install 'wsfp-helpers[groundingdino]'")
    torch.manual_seed(1)
    model, _ = build_package_model(None, bert, "", "swint")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "bbox_embed" in name:
                value.normal_(0, 0.05)
            if "gamma_" in name:
                value.fill_(0.3)
    return model


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return np.kron(coarse, np.ones((20, 20, 1), np.uint8))


LOW = {"box_threshold": 0.0, "text_threshold": 0.0, "short_side": 160}


def test_forward_and_post_processing(model, picture):
    detector = GroundingDino(model, model.tokenizer, **LOW)
    with torch.no_grad():
        (logits,), (boxes,) = (x[0] for x in detector.forward(detector.prepare(picture), [caption("eye")]))
    found = detector.select(logits, boxes, (120, 160), "eye")
    assert logits.shape[0] == boxes.shape[0] == len(boxes) == QUERIES
    assert 0 < len(found) <= QUERIES and found == sorted(found, key=lambda d: -d.score)

    scores = logits.sigmoid().max(1).values
    keep, expected = 0.9 * float(scores.max()), []
    detector = GroundingDino(model, model.tokenizer, box_threshold=keep, text_threshold=0.0, short_side=160)
    for score, (cx, cy, w, h) in zip(scores.tolist(), boxes.tolist(), strict=True):
        x1, x2 = max(0, (cx - w / 2) * 160), min(160, (cx + w / 2) * 160)
        y1, y2 = max(0, (cy - h / 2) * 120), min(120, (cy + h / 2) * 120)
        if score > keep and x1 < x2 and y1 < y2:
            expected.append((x1, y1, x2, y2, score))
    found = detector.select(logits, boxes, (120, 160), "eye")
    assert np.allclose([(*d.box, d.score) for d in found], sorted(expected, key=lambda row: -row[4]))
    assert {d.phrase for d in found} == {"eye"}


def check_one_pass(detector, pixels):
    """Two pictures and two phrases in one pass: one of the four against the model alone.  Returns what Swin saw."""
    seen, pictures = [], torch.cat([pixels, pixels.flip(3)])
    swin = next(m for name, m in detector.model.named_modules() if name.endswith(("patch_embed", "patch_embeddings")))
    handle = swin.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    detector.batched = True
    logits, boxes = detector.forward(pictures, ["eye .", "nose ."])
    handle.remove()
    alone_logits, alone_boxes = whole_model(detector, pictures[1:], "nose .")
    assert torch.allclose(logits[1, 1, :, :4], alone_logits[:, :4], rtol=0, atol=1e-5)
    assert torch.allclose(boxes[1, 1], alone_boxes, rtol=0, atol=1e-6)
    assert (boxes[1, 1] - boxes[1, 0]).abs().max() > 1e-3 and (boxes[1, 1] - boxes[0, 1]).abs().max() > 1e-3
    return seen


def whole_model(detector, pixels, text):
    """The packages' own call, a picture and a phrase at a time."""
    if detector.name == "groundingdino-py":
        output = detector.model(pixels, captions=[text])
        return output["pred_logits"][0], output["pred_boxes"][0]
    output = detector.model(pixel_values=pixels, **detector.tokenizer(text, return_tensors="pt"))
    return output.logits[0], output.pred_boxes[0]


def test_phrases_of_the_same_length_share_the_image_network(model, picture):
    # In double precision, as below: among random weights' nearly equal proposals single lets the last bit decide which
    # are the 900, and one that is another moves all a little.
    double = deepcopy(model).double()
    detector = GroundingDino(double, double.tokenizer, **LOW)
    detector.prepare = lambda image: GroundingDino.prepare(detector, image).double()
    passes, phrases = [], ("eye", "eyebrow", "nose")  # the second has two tokens
    double.backbone[0].patch_embed.register_forward_hook(lambda *_: passes.append(1))
    found = detector.detect_batch([picture, picture[:, ::-1]], phrases)
    assert len(passes) == 4 and [tuple(each) for each in found] == [phrases] * 2
    detector.batched = True
    [again] = detector.detect_batch([picture], ["eye", "nose"])
    for phrase in again:
        assert len(again[phrase]) == len(found[0][phrase]) > 0
        first, second = (np.array([(*d.box, d.score) for d in each]) for each in (again[phrase], found[0][phrase]))
        assert np.allclose(first, second, rtol=0, atol=1e-6)
    assert np.abs(np.subtract(*([d.score for d in again[phrase]] for phrase in again))).max() > 0.3


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The same weights twice, with another name for each tensor that has several.

    The second is in the original's form, was trained on several GPUs, and has a tensor that neither package knows.
    """
    folder, last = tmp_path_factory.mktemp("weights"), {}
    save_model(model, str(folder / "swint.safetensors"))
    kept = load_file(folder / "swint.safetensors").keys()
    for name, value in model.state_dict().items():
        last[value.data_ptr()] = name
    assert len(kept) == len(last) < len(model.state_dict()) and kept != {*last.values()}
    weights = {f"module.{name}": value for name, value in model.state_dict().items() if name in last.values()}
    torch.save({"model": weights | {"module.label_enc.weight": torch.zeros(2, 2)}}, folder / "swint.pth")
    return {path.suffix: path for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_transformers_agrees(model, files, suffix, bert, picture, tmp_path):
    """The same file through groundingdino-py and through transformers."""
    path = files[suffix]
    ours = load_detector("groundingdino-py", path, bert, **LOW)
    loaded = ours.model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
    theirs = load_detector("groundingdino", path, bert, **LOW)
    assert (ours.name, theirs.name) == ("groundingdino-py", "grounding-dino-transformers")

    # In double precision: in single, rounding exchanges proposals with nearly equal scores, and rows no longer match.
    pixels = ours.prepare(picture).double()
    ours.model.double(), theirs.model.double()
    with torch.no_grad():
        one, two = ([x[0, 0] for x in d.forward(pixels, [caption("eyebrow")])] for d in (ours, theirs))
        if suffix == ".pth":
            assert check_one_pass(theirs, pixels) == [2]
    words = 5  # [CLS] eye ##brow . [SEP]
    near = 1e-4 if FIVE else 1e-9  # groundingdino-py keeps the words' positions in single precision, transformers 4 too
    assert torch.allclose(one[0][:, :words], two[0][:, :words], rtol=0, atol=near)
    assert torch.allclose(one[1], two[1], rtol=0, atol=near / 100)
    assert one[1].std(0).min() > 1e-3 and one[0][:, 1].std() > 1e-3  # the queries differ, so agreement means something

    theirs.model.save_pretrained(tmp_path / "folder")
    theirs.tokenizer.save_pretrained(tmp_path / "folder")
    again = load_detector("groundingdino", tmp_path / "folder", **LOW)
    before, after = theirs.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[key], before[key].float()) for key in before)
    assert again.tokenizer("eyebrow .")["input_ids"] == theirs.tokenizer("eyebrow .")["input_ids"]


@pytest.mark.skipif(FIVE, reason="the package's own wrapper fails there")
def test_the_wrapper_for_transformers_5_changes_nothing(model, bert, picture, monkeypatch):
    from groundingdino.models.GroundingDINO.bertwarper import BertModelWarper

    assert type(model.bert) is BertWrapper
    detector = GroundingDino(model, model.tokenizer, **LOW)
    pixels = detector.prepare(picture)
    theirs = BertModelWarper(transformers.BertModel.from_pretrained(bert).eval())
    assert theirs.state_dict().keys() == model.bert.state_dict().keys()
    with torch.no_grad():
        ours = detector.forward(pixels, ["eye ."])[0][0, 0][:, :4]
        monkeypatch.setattr(model.bert, "forward", theirs.forward)
        assert torch.equal(detector.forward(pixels, ["eye ."])[0][0, 0][:, :4], ours)
        theirs.embeddings.word_embeddings.weight[400:402] += 1  # the sentence matters, so equality means something
        assert not torch.equal(detector.forward(pixels, ["eye ."])[0][0, 0][:, :4], ours)


class Tokenizer:
    """[CLS] word . [SEP]"""

    def __call__(self, text):
        return {"input_ids": [101, 400, 1012, 102]}

    def convert_tokens_to_ids(self, tokens):
        return [{"[CLS]": 101, "[SEP]": 102, ".": 1012}[token] for token in tokens]


def test_both_thresholds_decide():
    detector = GroundingDino(torch.nn.Identity(), Tokenizer())
    probability = torch.tensor(
        [
            [0.1, 0.50, 0.1, 0.1],
            [0.1, 0.30, 0.1, 0.1],  # below the box threshold
            [0.1, 0.20, 0.9, 0.1],  # only the full stop answers
            [0.1, 0.26, 0.9, 0.1],
            [0.1, 0.90, 0.1, 0.1],  # outside the picture
        ]
    )
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4]] * 4 + [[1.4, 0.5, 0.2, 0.2]])
    found = detector.select(torch.logit(probability), boxes, (100, 200), "eye")
    assert [round(d.score, 4) for d in found] == [0.9, 0.5]
    assert np.allclose(found[0].box, (80, 30, 120, 70), atol=1e-4)


@pytest.mark.parametrize(
    ("size", "expected"), [((1024, 1024), (800, 800)), ((160, 160), (800, 800)), ((500, 2000), (333, 1333))]
)
def test_size_of_the_picture(size, expected):
    assert enlarged(*size) == expected


def test_small_pictures_have_enough_tokens():
    for size in ((128, 128), (20, 2000), (1, 3000), (97, 131)):
        height, width = enlarged(*size, short=64)
        assert sum((height // s) * (width // s) for s in (8, 16, 32, 64)) >= QUERIES, size


def test_captions():
    assert [caption(p) for p in ("eye", " Eyebrow. ", "left ear")] == ["eye .", "eyebrow .", "left ear ."]


def test_bad_weights(tmp_path, bert):
    with pytest.raises(InputError, match=r"needs weights: run `wsfp weights get groundingdino bert`, or take "):
        load_detector("groundingdino")
    with pytest.raises(InputError, match=r"no Grounding DINO weights at .*IDEA-Research/GroundingDINO"):
        load_detector("groundingdino", tmp_path / "none.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 half a file")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    for name in ("cut.pth", "cut.safetensors"):
        with pytest.raises(InputError, match=r"cannot be read as Grounding DINO weights .*IDEA-Research/GroundingDINO"):
            load_detector("groundingdino", tmp_path / name, bert)
    torch.save({"model": {"module.a": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=r"needs a text encoder, a local folder with BERT: run .* take .*bert-base-uncased"
    ):
        load_detector("groundingdino", tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"no BERT folder .*bert-base-uncased"):
        load_detector("groundingdino", tmp_path / "other.pth", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no Grounding DINO folder at .*IDEA-Research/grounding-dino-tiny"):
        load_detector("groundingdino", tmp_path / "empty")
    with pytest.raises(InputError, match="unknown detector 'yolo'"):
        load_detector("yolo")


@pytest.mark.parametrize(
    ("release", "fits"), [("4.57.6", True), ("5.15.0", False), ("5.22.2", False), ("5.23.0", True)]
)
def test_releases_that_answer_wrongly_are_refused(release, fits, tmp_path, monkeypatch):
    """An empty folder is no model either: the error says which of the two it was."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("wsfp_helpers.detect.transformers_dino.version", lambda package: release)
    words = "cannot be loaded as Grounding DINO" if fits else "pip install 'transformers"
    with pytest.raises(InputError, match=words):
        load_detector("groundingdino", tmp_path)


def test_the_package_is_asked_for_by_name(files, bert, monkeypatch):
    monkeypatch.setattr("wsfp_helpers.detect.load.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package of that name: run `pip install groundingdino-py"):
        load_detector("groundingdino-py", files[".pth"], bert)


def test_without_transformers_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr("wsfp_helpers.detect.load.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package transformers: run pip install -e '\.\[detector\]'"):
        load_detector("groundingdino", "file.pth")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_half_a_file_of_bert_is_named_by_its_folder(bert, tmp_path, monkeypatch, name):
    shutil.copytree(bert, tmp_path / "half")
    transformers.BertTokenizerFast.from_pretrained(bert).save_pretrained(tmp_path / "half")
    whole = (tmp_path / "half" / name).read_bytes()
    (tmp_path / "half" / name).write_bytes(whole[: len(whole) // 2])
    nothing = {"missing_keys": [], "mismatched_keys": []}
    monkeypatch.setattr(
        transformers.GroundingDinoForObjectDetection, "from_pretrained", lambda *_, **__: (None, nothing)
    )
    with pytest.raises(InputError, match=r"half.* cannot be read .*: run `wsfp weights get groundingdino bert`"):
        build_transformers_model({}, tmp_path / "half", "file.pth", "swint")


def test_a_broken_folder(files, bert, tmp_path):
    detector = load_detector("groundingdino", files[".pth"], bert)
    detector.model.save_pretrained(tmp_path)
    detector.tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.text_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        InputError, match=r"model\.text_projection\.weight is missing .*IDEA-Research/grounding-dino-tiny"
    ):
        load_detector("groundingdino", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    with pytest.raises(InputError, match=r"cannot be loaded as Grounding DINO \(.*IDEA-Research/grounding-dino-tiny"):
        load_detector("groundingdino", tmp_path)


@pytest.mark.parametrize(("there", "found"), [(None, "nothing"), (torch.zeros(3, 64), r"\(3, 64\)")])
def test_weights_of_another_model(model, bert, there, found):
    weights = model.state_dict()
    del weights["feat_map.weight"]
    if there is not None:
        weights["feat_map.weight"] = there
    start, end = r"^file\.pth is of another network: ", "; run `wsfp weights get groundingdino bert`"
    with pytest.raises(InputError, match=rf"{start}for feat_map\.weight it has {found}, expected \(256, 64\){end}"):
        build_package_model(weights, bert, "file.pth", "swint")
    with pytest.raises(InputError, match=rf"{start}model\.text_projection\.weight is missing or of another shape{end}"):
        build_transformers_model(weights, bert, "file.pth", "swint")


@pytest.mark.promise(
    "security", "a hostile pickle in place of Grounding DINO", "a sentence that names the file", "no code runs"
)
def test_no_code_is_unpickled(tmp_path, bert):
    class Evil:
        def __reduce__(self):
            return (sys.exit, ("ran",))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="cannot be read as Grounding DINO weights"):
        load_detector("groundingdino", tmp_path / "evil.pth", bert)

"""Image-text models: FLIP against transformers, the frozen interface, files and prompts, the embedded models."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import ASSETS
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import COMPONENTS, PROMPTS
from wsfp_helpers.nets.clip import (
    FLIP_ARCHITECTURE,
    convert_flip,
    flip_from_huggingface,
    from_huggingface,
    open_clip_model,
)
from wsfp_helpers.nets.vlm import (
    VisionLanguageModel,
    WordTokenizer,
    embedded_model,
    fold_batch_norms,
    mini_clip,
    mini_flip,
)

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
TINY = "wsfp-test-tiny"
TINY_CONFIG = dict(
    embed_dim=24,
    quick_gelu=True,
    vision_cfg=dict(image_size=32, layers=2, width=64, head_width=32, patch_size=8),
    text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=4, layers=3),
)


@pytest.fixture(scope="module", autouse=True)
def tiny_architecture(tmp_path_factory: pytest.TempPathFactory) -> None:
    """FLIP's architecture with small numbers, under a name that open_clip knows."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{TINY}.json").write_text(json.dumps(TINY_CONFIG))
    (folder / f"{TINY}-16.json").write_text(
        json.dumps(TINY_CONFIG | {"vision_cfg": TINY_CONFIG["vision_cfg"] | {"patch_size": 16}})
    )
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory: pytest.TempPathFactory):
    """transformers' own CLIPModel on random weights, and the folder that it saves."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vision = dict(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = dict(hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    ).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("flip")
    model.save_pretrained(folder)
    return model, folder


class TwoPixels(nn.Module):
    """A CLIP so small that its vectors are known: the picture's channel means, and a row of weights for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.eye(4, 3))
        self.texts_encoded = 0

    def encode_image(self, pictures):
        return pictures.mean((2, 3)) * self.rows[0].sum()

    def encode_text(self, tokens):
        self.texts_encoded += len(tokens)
        return self.rows[tokens[:, 0] % 3] * 5


def tiny(size: int = 4) -> VisionLanguageModel:
    return VisionLanguageModel("tiny", TwoPixels(), WordTokenizer(["red", "green"], 4), size, MEAN, STD)


# --- FLIP -------------------------------------------------------------------------------------------------------------


def test_converted_flip_equals_transformers(huggingface) -> None:
    theirs, folder = huggingface
    ours = flip_from_huggingface(folder, TINY)
    pictures = torch.randn(3, 3, 32, 32)
    tokens = ours.tokenize(list(PROMPTS))
    with torch.no_grad():
        image = theirs.visual_projection(theirs.vision_model(pixel_values=pictures).pooler_output)
        # Hugging Face pools at the first end mark: its own padding is not there, so the mask does not matter
        text = theirs.text_projection(theirs.text_model(input_ids=tokens).pooler_output)
    unit = image / image.norm(dim=1, keepdim=True)
    torch.testing.assert_close(ours.encode_image(pictures), unit, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.text(PROMPTS), text / text.norm(dim=1, keepdim=True), atol=1e-5, rtol=1e-5)


def test_flip_has_the_parameters_that_table_5_implies() -> None:
    with torch.device("meta"):
        clip = open_clip.CLIP(**open_clip.get_model_config(FLIP_ARCHITECTURE))
    assert sum(p.numel() for p in clip.parameters()) == 149_620_737


def test_every_weight_of_the_true_flip_has_a_place() -> None:
    """Names and shapes at full size, without the memory: transformers' B/16 on the meta device."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig(vision_config=dict(patch_size=16))
    with torch.device("meta"):
        theirs = transformers.CLIPModel(config).state_dict()
        ours = open_clip.CLIP(**open_clip.get_model_config(FLIP_ARCHITECTURE)).state_dict()
    converted = from_huggingface(theirs)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in ours.items()}


def test_converted_file_loads_as_an_open_clip_model(huggingface, tmp_path: Path) -> None:
    target = convert_flip(huggingface[1], tmp_path / "flip.safetensors", TINY)
    picture = torch.randn(1, 3, 32, 32)
    expected = flip_from_huggingface(huggingface[1], TINY).encode_image(picture)
    torch.testing.assert_close(open_clip_model(TINY, target).encode_image(picture), expected, atol=0, rtol=0)
    torch.save(load_file(target), tmp_path / "flip.pt")
    torch.testing.assert_close(open_clip_model(TINY, tmp_path / "flip.pt").encode_image(picture), expected)


@pytest.mark.promise("security", "a pickle in place of FLIP", "a sentence that names the file", "only weights are read")
def test_a_pickled_flip_is_read_as_weights_only(huggingface, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((huggingface[1] / "config.json").read_text())
    torch.save(load_file(huggingface[1] / "model.safetensors"), tmp_path / "pytorch_model.bin")
    picture = torch.randn(1, 3, 32, 32)
    expected = flip_from_huggingface(huggingface[1], TINY).encode_image(picture)
    torch.testing.assert_close(flip_from_huggingface(tmp_path, TINY).encode_image(picture), expected)
    for content, wrong in (
        (Fraction(1, 2), "cannot be read as FLIP weights"),
        (["no", "weights"], "cannot be read as FLIP weights"),
        ({"a": 1}, "has no weight 'logit_scale'"),
    ):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError, match=rf"pytorch_model\.bin {wrong}"):
            flip_from_huggingface(tmp_path, TINY)


def broken(tmp_path: Path, source: Path, **config) -> Path:
    """A copy of FLIP's folder with changes to its config; the weights may be changed afterwards."""
    content = json.loads((source / "config.json").read_text()) | config
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    return tmp_path


def test_a_truncated_flip_is_named(huggingface, tmp_path: Path) -> None:
    folder = broken(tmp_path, huggingface[1])
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read as FLIP weights .* truncated"):
        flip_from_huggingface(folder, TINY)


def test_a_flip_with_a_weight_missing_is_named(huggingface, tmp_path: Path) -> None:
    folder = broken(tmp_path, huggingface[1])
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"no weight 'text_projection\.weight'"):
        flip_from_huggingface(folder, TINY)


def test_another_model_and_another_shape_are_refused(huggingface, tmp_path: Path) -> None:
    folder = broken(tmp_path, huggingface[1], model_type="blip")
    with pytest.raises(InputError, match=r"type 'blip', expected 'clip'"):
        flip_from_huggingface(folder, TINY)
    broken(tmp_path, huggingface[1], text_config=dict(hidden_act="gelu"))
    with pytest.raises(InputError, match=r"hidden_act 'gelu' in text_config, expected 'quick_gelu'"):
        flip_from_huggingface(folder, TINY)
    misfit = (
        r"model\.safetensors is of another network: for visual\.conv1\.weight it has \(64, 3, 8, 8\), "
        r"expected \(64, 3, 16, 16\); choose the file of wsfp-test-tiny-16"
    )
    with pytest.raises(InputError, match=misfit):
        flip_from_huggingface(huggingface[1], f"{TINY}-16")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        *[(content, "describes a model of type None, expected 'clip'") for content in ([], "clip", 3, None)],
        *[({"vision_config": tower}, "has hidden_act None in vision_config") for tower in (None, [], "x")],
    ],
    ids=str,
)
def test_a_config_of_flip_edited_by_hand_is_refused(huggingface, tmp_path: Path, content, words) -> None:
    folder = broken(tmp_path, huggingface[1])
    whole = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(whole | content if isinstance(content, dict) else content))
    with pytest.raises(InputError, match=rf"config\.json {words}"):
        flip_from_huggingface(folder, TINY)


@pytest.mark.parametrize("shape", [(), (1,), (64, 3)], ids=str)
def test_a_flip_whose_weights_cannot_be_joined_is_named(huggingface, tmp_path: Path, shape) -> None:
    folder = broken(tmp_path, huggingface[1])
    name = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    save_file(load_file(folder / "model.safetensors") | {name: torch.zeros(shape)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors has weights of other sizes than .*: download") as error:
        flip_from_huggingface(folder, TINY)
    assert "\n" not in str(error.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no FLIP folder at"):
        flip_from_huggingface(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(InputError, match=r"no FLIP weights at .*pytorch_model\.bin"):
        flip_from_huggingface(tmp_path)
    with pytest.raises(InputError, match="no weights of ViT-B-16 at"):
        open_clip_model("ViT-B-16", tmp_path / "nothing.pt")


def test_unknown_architectures_are_refused_without_a_download(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown open_clip architecture 'ViT-B-61': did you mean 'ViT-B-16'\?"):
        open_clip_model("ViT-B-61", tmp_path)
    with pytest.raises(InputError, match="not a plain CLIP with a bundled tokeniser"):
        open_clip_model("ViT-B-16-SigLIP", tmp_path)


# --- the interface ----------------------------------------------------------------------------------------------------


def test_text_is_encoded_once() -> None:
    model = tiny()
    first = model.text(["red", "green"])
    assert model.text(("red", "green")) is first
    assert model.clip.texts_encoded == 2
    assert not first.requires_grad
    model.text(["green"])
    assert model.clip.texts_encoded == 3


def test_vectors_have_unit_length() -> None:
    model = tiny()
    for vectors in (model.encode_image(torch.randn(5, 3, 4, 4)), model.text(["red", "green"])):
        np.testing.assert_allclose(np.linalg.norm(vectors.numpy(), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("make", [tiny, mini_flip])
def test_gradients_reach_the_picture_and_no_parameter(make) -> None:
    model = make().train()
    assert not any(module.training for module in model.modules())
    pictures = torch.randn(2, 3, model.size, model.size, requires_grad=True)
    text = model.text(["red"] if model.name == "tiny" else PROMPTS)
    (model.encode_image(pictures) @ text.T)[:, 0].sum().backward()
    assert pictures.grad.abs().amax((1, 2, 3)).min() > 0
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_prepare_normalises_and_keeps_a_picture_of_the_right_size() -> None:
    picture = torch.rand(2, 3, 4, 4)
    prepared = tiny().prepare(picture)
    for c in range(3):
        torch.testing.assert_close(prepared[:, c], (picture[:, c] - MEAN[c]) / STD[c])


@pytest.mark.parametrize("shape", [(9, 9), (3, 8), (160, 160), (1, 1)])
def test_prepare_resizes_any_picture(shape: tuple[int, int]) -> None:
    grey = torch.full((1, 3, *shape), 0.7)
    prepared = tiny(8).prepare(grey)
    assert prepared.shape == (1, 3, 8, 8)
    torch.testing.assert_close(prepared * tiny().std + tiny().mean, torch.full((1, 3, 8, 8), 0.7))


def test_prepare_never_leaves_the_range_of_colours() -> None:
    checker = (torch.arange(12).view(1, 1, 12, 1) + torch.arange(12)).remainder(2).expand(1, 3, 12, 12).float()
    colours = tiny(16).prepare(checker) * tiny().std + tiny().mean
    assert colours.min() >= -1e-6
    assert colours.max() <= 1 + 1e-6


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected pictures of shape \(B, 3, H, W\) in \[0, 1\], got \(4, 4, 3\)"):
        tiny().prepare(torch.zeros(4, 4, 3))
    with pytest.raises(ValueError, match=r"tiny expected pictures of shape \(B, 3, 4, 4\).* got \(1, 3, 5, 4\)"):
        tiny().encode_image(torch.zeros(1, 3, 5, 4))


# --- the word tokenizer -----------------------------------------------------------------------------------------------


def test_words_become_ids_between_start_and_end() -> None:
    tokenizer = WordTokenizer(["eye", "left", "nose"], 6)
    assert tokenizer(["left eye", "Nose, eye."]).tolist() == [[4, 2, 1, 5, 0, 0], [4, 3, 1, 5, 0, 0]]
    assert tokenizer.size == 6
    assert tokenizer([]).shape == (0, 6)


def test_unknown_words_and_long_prompts_are_refused() -> None:
    tokenizer = WordTokenizer(["left", "eye"], 4)
    with pytest.raises(InputError, match=r"'left eyes' has words .* never saw: eyes; did you mean 'eye'\?"):
        tokenizer(["left eye", "left eyes"])
    with pytest.raises(InputError, match="never saw: xylophone; its 2 words"):
        tokenizer(["xylophone"])
    with pytest.raises(InputError, match="has 3 words: expected at most 2"):
        tokenizer(["left left eye"])


# --- the embedded models ----------------------------------------------------------------------------------------------


def held_out_faces() -> list[int]:
    """Pictures of ``celeb/pretrain`` of every tenth identity: the training script never saw them."""
    order = list(dict.fromkeys(synthfaces("celeb/pretrain").attributes["identity"]))
    identities = synthfaces("celeb/pretrain").attributes["identity"]
    return [i for i, identity in enumerate(identities) if order.index(identity) % 10 == 9]


def test_mini_flip_knows_the_prompts() -> None:
    model = mini_flip()
    texts = model.text(PROMPTS)
    assert texts.shape[0] == len(COMPONENTS)
    assert (texts @ texts.T)[~torch.eye(len(COMPONENTS), dtype=torch.bool)].max() < 0.5
    with pytest.raises(InputError, match="never saw: xylophone"):
        model.text(["a photo of a xylophone"])


def test_mini_flip_is_small_and_carries_a_card() -> None:
    assert (ASSETS / "mini_flip.safetensors").stat().st_size < 10e6
    card = (ASSETS / "mini_flip.md").read_text()
    assert "python -m scripts.train_mini_vlm mini_flip" in card
    assert "Licence" in card


def test_mini_flip_tells_left_from_right_where_mini_clip_cannot() -> None:
    """Of two pictures that are mirror images with one eye covered, the one that shows the left eye says so."""
    faces, pairs = synthfaces("celeb/pretrain"), (("l_eye", "r_eye"), ("l_brow", "r_brow"))
    share = {}
    for model in (mini_flip(), mini_clip()):
        right = []
        for i in held_out_faces():
            picture, label_map = torch.from_numpy(faces.image(i)).permute(2, 0, 1).float() / 255, faces.label_map(i)
            for left, other in pairs:
                a, b = COMPONENTS.index(left), COMPONENTS.index(other)
                columns = np.nonzero(label_map == b + 1)[1]
                if not len(columns) or not (label_map == a + 1).any():
                    continue
                covered = picture.clone()
                covered[..., min(columns) : max(columns) + 1] = 0
                both = model.encode_image(model.prepare(torch.stack([covered, covered.flip(-1)])))
                cosine = both @ model.text(PROMPTS)[[a, b]].T
                right.append(bool(cosine[0, 0] - cosine[0, 1] > cosine[1, 0] - cosine[1, 1]))
        share[model.name] = np.mean(right)
    assert share["mini_flip"] > 0.9
    assert share["mini_flip"] > share["mini_clip"]


def test_mini_flip_finds_parts_on_faces_it_never_saw() -> None:
    """A soft spot on a part shows it better, and a soft hole hides it better, than the same one turned upside down.

    Not that a spot beats its own reverse: for eyes and brows it does not (docs/experiments.md).
    """
    faces, model = synthfaces("celeb/pretrain"), mini_flip()
    grid = (torch.arange(model.size) + 0.5) / model.size
    shown, hidden = [], []
    for i in held_out_faces()[::4]:
        picture = model.prepare(torch.from_numpy(faces.image(i)).permute(2, 0, 1)[None].float() / 255)
        for name in ("nose", "l_brow", "r_brow", "u_lip", "neck"):
            k = COMPONENTS.index(name)
            rows, columns = np.nonzero(faces.label_map(i) == k + 1)
            y, x = (rows.mean() + 0.5) / 160, (columns.mean() + 0.5) / 160
            height, width = max(np.ptp(rows) / 160, 0.1), max(np.ptp(columns) / 160, 0.1)
            distance = torch.hypot((grid[:, None] - y) / height, (grid[None, :] - x) / width)
            spot = torch.sigmoid((1 - distance) / 0.15)
            maps = torch.stack([spot, spot.flip(0), 1 - spot, 1 - spot.flip(0)])[:, None]
            cosine = model.encode_image(picture * maps) @ model.text(PROMPTS)[k]
            shown.append(bool(cosine[0] > cosine[1]))
            hidden.append(bool(cosine[2] < cosine[3]))
    assert len(shown) > 40
    assert np.mean(shown) > 0.9
    assert np.mean(hidden) > 0.9


def test_embedded_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no JSON file at .*mini_flip\.json"):
        embedded_model("mini_flip", tmp_path)
    description = json.loads((ASSETS / "mini_flip.json").read_text())
    (tmp_path / "mini_flip.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"no weights of mini_flip at .*mini_flip\.safetensors"):
        embedded_model("mini_flip", tmp_path)
    description["model_cfg"]["text_cfg"]["vocab_size"] += 1
    (tmp_path / "mini_flip.json").write_text(json.dumps(description))
    (tmp_path / "mini_flip.safetensors").write_bytes((ASSETS / "mini_flip.safetensors").read_bytes())
    rows = json.loads((ASSETS / "mini_flip.json").read_text())["model_cfg"]["text_cfg"]["vocab_size"]
    misfit = rf"for token_embedding\.weight it has \({rows}, \d+\), expected \({rows + 1}, \d+\); .* mini_flip"
    with pytest.raises(InputError, match=misfit):
        embedded_model("mini_flip", tmp_path)


def test_folded_batch_norms_leave_the_function_and_its_gradient_alone() -> None:
    torch.manual_seed(0)
    vision = dict(layers=(1, 1, 1, 1), width=16, head_width=16, image_size=64)
    text = dict(context_length=8, vocab_size=20, width=32, heads=2, layers=1)
    tower = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text).visual.eval()
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    pictures = torch.randn(3, 3, 64, 64, requires_grad=True)
    plain = tower(pictures)
    (gradient,) = torch.autograd.grad(plain.square().sum(), pictures)
    fold_batch_norms(tower)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    folded = tower(pictures)
    (folded_gradient,) = torch.autograd.grad(folded.square().sum(), pictures)
    assert (folded - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert (folded_gradient - gradient).abs().max() <= 1e-5 * gradient.abs().max()

"""The training loop: gradients reach what is trained, text is encoded once, kills and processes change nothing."""

import ast
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

import wsfp_helpers
from wsfp_helpers import losses
from wsfp_helpers.data.base import Faces, WeakFaces
from wsfp_helpers.labels import PROMPTS, K
from wsfp_helpers.runs import read_metrics
from wsfp_helpers.storage import InputError
from wsfp_helpers.train import (
    DisFaceRep,
    Objective,
    TrainConfig,
    TrainingSet,
    choose,
    load_model,
    preset,
    render,
    save_model,
    train,
)
from wsfp_helpers.trunk import IMAGENET_MEAN, IMAGENET_STD
from wsfp_helpers.vit import MultiClassTokenViT, Projector
from wsfp_helpers.vlm import VisionLanguageModel, WordTokenizer

CONFIG = TrainConfig(epochs=2, batch_size=4, lr=1e-3, warmup_epochs=1, save_every=3)


def tiny_vlm():
    """A real open_clip model with two layers a tower."""
    words = sorted({word for prompt in PROMPTS for word in prompt.split()})
    tokenizer = WordTokenizer(words, 16)
    torch.manual_seed(0)
    tower = {"width": 32, "heads": 2, "layers": 1}
    clip = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "patch_size": 16, "head_width": 16, "width": 32, "layers": 1},
        text_cfg={"context_length": 16, "vocab_size": tokenizer.size, **tower},
    )
    return VisionLanguageModel("tiny", clip, tokenizer, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def tiny_faces(n=12, size=64):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (n, size, size, 3), np.uint8)
    labels = rng.integers(0, 2, (n, K), np.uint8)
    labels[:, 0] = 1
    ids = [f"{i:03d}" for i in range(n)]
    return WeakFaces("tiny", ids, lambda key: pictures[int(key)], labels)


def tiny_vit(seed=0, **changes):
    torch.manual_seed(seed)
    return MultiClassTokenViT(**({"blocks": 2, "size": 64, "width": 24, "heads": 2, "drop_path": 0.1} | changes))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_two_runs_with_one_seed_are_identical():
    first, second = (train(tiny_vit(), tiny_faces(), CONFIG, vlm=tiny_vlm()) for _ in range(2))
    other = train(tiny_vit(), tiny_faces(), replace(CONFIG, seed=1), vlm=tiny_vlm())
    assert same(first, second)
    assert not same(first, other)


def test_every_trained_parameter_and_nothing_frozen_gets_a_gradient():
    vlm, faces = tiny_vlm(), tiny_faces()
    model = DisFaceRep(tiny_vit(drop_path=0.0), Projector(24, 8, 16))
    pictures = torch.rand(4, 3, 32, 32)
    output, v_cls = model(model.vit.inputs([faces.image(i) for i in range(4)]))
    loss, terms = Objective(CONFIG, vlm)(output, v_cls, pictures, torch.from_numpy(faces.labels[:4]).float())
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    assert all(p.grad is None for p in vlm.parameters())
    assert set(terms) == {
        "loss", "class_mlsm", "contrast", "patch_mlsm", "pos_cls", "pos_ffc", "neg_cls", "neg_ffc", "neg_bfc", "reg",
        "dead",
    }  # fmt: skip


def test_text_is_encoded_once():
    vlm, calls = tiny_vlm(), []
    encode = vlm.clip.encode_text
    vlm.clip.encode_text = lambda tokens: calls.append(1) or encode(tokens)
    train(tiny_vit(), tiny_faces(), CONFIG, vlm=vlm)
    assert len(calls) == 1


def test_render_equals_one_picture_at_a_time():
    vlm, p, pictures = tiny_vlm(), torch.rand(2, 3, 4, 4), torch.rand(2, 3, 32, 32)
    rendered = torch.tensor([[True, False, True], [False, False, True]])
    foreground, background = render(p, pictures, rendered, vlm)
    for b in range(2):
        for k in range(3):
            if not rendered[b, k]:
                assert not foreground[b, k].abs().sum() and not background[b, k].abs().sum()
                continue
            mask = torch.nn.functional.interpolate(p[b : b + 1, k : k + 1], (32, 32), mode="bilinear")
            prepared = vlm.prepare(pictures[b : b + 1])
            torch.testing.assert_close(foreground[b, k], vlm.encode_image(prepared * mask)[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                background[b, k], vlm.encode_image(prepared * (1 - mask))[0], atol=1e-5, rtol=1e-5
            )
    only = render(p, pictures, rendered, vlm, foreground=False)
    assert only[0] is None
    torch.testing.assert_close(only[1], background)


def test_pieces_equal_one_call_and_are_encoded_again_in_backward(monkeypatch):
    vlm, pictures, rendered = tiny_vlm(), torch.rand(2, 3, 32, 32), torch.tensor([[True] * 4, [False] + [True] * 3])
    p, sizes, encode = torch.rand(2, 4, 4, 4, requires_grad=True), [], vlm.encode_image
    vlm.encode_image = lambda piece: sizes.append(len(piece)) or encode(piece)
    weights = torch.randn(2, 2, 4, 16)
    results = []
    for piece in (14, 5):
        monkeypatch.setattr("wsfp_helpers.train.PIECE", piece)
        vectors = torch.stack(render(p, pictures, rendered, vlm))
        results.append((vectors, *torch.autograd.grad((vectors * weights).sum(), p)))
    assert results[0][1].abs().sum() > 0
    torch.testing.assert_close(results[1], results[0], atol=1e-6, rtol=1e-6)
    assert sizes[:4] == [14, 5, 5, 4]
    assert sorted(sizes[4:]) == [4, 5, 5]


def test_choose_takes_present_components_only():
    labels = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert torch.equal(choose(labels, 0), labels.bool())
    torch.manual_seed(0)
    picked = torch.stack([choose(labels, 2) for _ in range(50)])
    assert (picked.sum(-1) == torch.tensor([2, 1, 0])).all()
    assert not (picked & ~labels.bool()).any()
    assert picked[:, 0, :3].any(0).all()


@pytest.mark.parametrize(("precision", "expected"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_the_vlm_runs_at_the_precision_of_the_run_and_the_losses_do_not(precision, expected, monkeypatch):
    vlm, seen, given = tiny_vlm(), set(), []
    vlm.clip.visual.conv1.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))

    def spied(original):
        def spy(*args):
            given.append((original(*args).dtype, torch.is_autocast_enabled("cpu")))
            return original(*args)

        return spy

    for name in ("contrastive_class_token", "positive_foreground", "negative_foreground", "negative_background"):
        monkeypatch.setattr(losses, name, spied(getattr(losses, name)))
    train(tiny_vit(), tiny_faces(), replace(CONFIG, precision=precision, epochs=1), vlm=vlm)
    assert seen == {expected}
    assert set(given) == {(torch.float32, False)}


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_train import CONFIG, tiny_faces, tiny_vit, tiny_vlm, train
train(tiny_vit(), tiny_faces(), CONFIG, Path({run!r}), tiny_vlm(),
      on_step=lambda step, terms: step == 5 and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_resume_after_kill_9_is_bit_identical(tmp_path):
    """The kill comes in the middle of the second epoch, two steps after the last checkpoint."""
    script = KILLED.format(tests=str(Path(__file__).parent), run=str(tmp_path / "killed"))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed = train(tiny_vit(seed=7), tiny_faces(), CONFIG, tmp_path / "killed", tiny_vlm())
    (tmp_path / "whole").mkdir()
    whole = train(tiny_vit(), tiny_faces(), CONFIG, tmp_path / "whole", tiny_vlm())
    assert same(resumed, whole)
    rows = [read_metrics(tmp_path / name) for name in ("killed", "whole")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]


class Stop(Exception):
    """Ends a training before its end."""


def stop(step, terms):
    """Stop in the middle of the second epoch."""
    if step == 4:
        raise Stop


def test_ema_and_accumulation_resume_too(tmp_path):
    config = replace(CONFIG, ema=0.9, accumulate=2, batch_size=2, clip=1.0, save_every=1)
    whole = train(tiny_vit(), tiny_faces(), config, vlm=tiny_vlm())
    with pytest.raises(Stop):
        train(tiny_vit(), tiny_faces(), config, tmp_path, tiny_vlm(), stop)
    assert same(train(tiny_vit(3), tiny_faces(), config, tmp_path, tiny_vlm()), whole)


@pytest.mark.parametrize(("augmentation", "workers"), [("jitter", 0), ("mctformer", 0), ("mctformer", 2)])
def test_augmented_training_resumes_whatever_the_number_of_workers(augmentation, workers, tmp_path):
    config = replace(CONFIG, augmentation=augmentation, save_every=1)
    whole = train(tiny_vit(), tiny_faces(), config, vlm=tiny_vlm())
    config = replace(config, workers=workers)
    with pytest.raises(Stop):
        train(tiny_vit(), tiny_faces(), config, tmp_path, tiny_vlm(), stop)
    assert same(train(tiny_vit(3), tiny_faces(), config, tmp_path, tiny_vlm()), whole)


@pytest.mark.parametrize("augmentation", ["jitter", "mctformer"])
def test_augmentation_depends_on_seed_epoch_and_index_alone(augmentation):
    tiny = tiny_faces(2)
    faces = WeakFaces("twins", tiny.ids, lambda key: tiny.image(0), tiny.labels)

    def picture(epoch, index, seed=0):
        return TrainingSet(faces, tiny_vit(), 32, augmentation, seed)[epoch, index]["input"]

    def generators():
        numpy = np.random.get_state()  # noqa: NPY002
        return random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()

    data = TrainingSet(faces, tiny_vit(), 32, augmentation)
    before = generators()
    first = data[0, 0]["input"]
    assert generators() == before
    random.seed(5)
    assert torch.equal(first, picture(0, 0))
    for other in (picture(1, 0), picture(0, 1), picture(0, 0, seed=1)):
        assert not torch.equal(first, other)


def test_accumulated_micro_batches_equal_one_batch():
    """Without drop path two micro-batches of 3 give the gradient of one batch of 6."""
    whole = train(tiny_vit(drop_path=0.0), tiny_faces(), replace(CONFIG, batch_size=6), vlm=tiny_vlm())
    config = replace(CONFIG, batch_size=3, accumulate=2)
    halves = train(tiny_vit(drop_path=0.0), tiny_faces(), config, vlm=tiny_vlm())
    for a, b in zip(whole.state_dict().values(), halves.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


PROCESSES = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_train import CONFIG, replace, tiny_faces, tiny_vit, tiny_vlm, train
run = Path({run!r})
run.mkdir(exist_ok=True)
train(tiny_vit(drop_path=0.0), tiny_faces(), replace(CONFIG, augmentation="mctformer"), run, tiny_vlm())
"""


def test_two_processes_give_the_losses_of_one(tmp_path):
    losses = {}
    for count in (1, 2):
        run = tmp_path / str(count)
        script = tmp_path / f"run{count}.py"
        script.write_text(PROCESSES.format(tests=str(Path(__file__).parent), run=str(run)))
        command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(count)]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        command += ["--main_process_port", "0"] if count > 1 else []
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run([*command, str(script)], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        losses[count] = [row["loss"] for row in read_metrics(run)]
    assert len(losses[1]) == 6
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)


def test_learning_rate_schedule():
    config = TrainConfig(epochs=10, warmup_epochs=2, lr=1.0, warmup_lr=0.1, min_lr=0.2)
    assert config.learning_rate(0) == pytest.approx(0.1)
    assert config.learning_rate(2) == pytest.approx(1.0)
    assert config.learning_rate(6) == pytest.approx((1.0 + 0.2) / 2)
    assert config.learning_rate(10) == pytest.approx(0.2)
    assert preset("mctformer").learning_rate(5) == pytest.approx(5e-4 * 32 / 512)
    assert replace(preset("mctformer"), batch_size=8, accumulate=4).learning_rate(5) == pytest.approx(5e-4 * 32 / 512)
    assert preset("paper").learning_rate(5) == pytest.approx(5e-6)


def test_backbone_lr_slows_all_but_the_heads():
    vlm, before = tiny_vlm(), {name: p.clone() for name, p in tiny_vit().named_parameters()}
    model = train(tiny_vit(), tiny_faces(), replace(CONFIG, backbone_lr=0.0, weight_decay=0.0), vlm=vlm)
    moved = {name for name, p in model.vit.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"patch_head.weight", "patch_head.bias"}


def test_faces_may_change_with_the_epoch():
    seen = []
    train(tiny_vit(), lambda epoch: seen.append(epoch) or tiny_faces(), replace(CONFIG, tcd=None))
    assert sorted(set(seen)) == [0, 1]


def test_jitter_changes_the_light_only():
    faces, vit = tiny_faces(1), tiny_vit()
    plain, jittered = (TrainingSet(faces, vit, 32, name)[0, 0] for name in ("none", "jitter"))
    assert torch.equal(plain["labels"], jittered["labels"])
    assert not torch.equal(plain["input"], jittered["input"])
    assert torch.stack([plain["input"].flatten(), jittered["input"].flatten()]).corrcoef()[0, 1] > 0.9


def test_mctformer_augmentation_is_the_parents_recipe():
    """At the ViT's own size, RandAugment filled with ImageNet's mean colour, a quarter of the pictures erased."""
    black = WeakFaces("black", ["0"], lambda key: np.zeros((50, 70, 3), np.uint8), tiny_faces(1).labels)
    data = TrainingSet(black, tiny_vit(size=96), 32, "mctformer")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pictures = [data[epoch, 0]["input"] * std + mean for epoch in range(200)]
    assert {picture.shape for picture in pictures} == {(3, 96, 96)}
    erased = [bool((picture < -0.01).any() and (picture > 1.01).any()) for picture in pictures]
    assert 0.15 < np.mean(erased) < 0.35
    fill = torch.tensor([124.0, 116.0, 104.0]).view(3, 1, 1)
    assert any(((picture * 255 - fill).abs() < 0.1).all(0).any() for picture in pictures)


def test_mctformer_augmentation_survives_its_largest_magnitude(monkeypatch):
    """A draw of 10 comes once in some hundred pictures; a picture posterised to 0 bits would end the training."""
    monkeypatch.setattr("random.gauss", lambda mean, deviation: 10.0)
    data = TrainingSet(tiny_faces(1), tiny_vit(), 32, "mctformer")
    for epoch in range(40):
        assert data[epoch, 0]["input"].isfinite().all()


def test_mctformer_augmentation_exchanges_the_labels_of_a_mirrored_picture(monkeypatch):
    faces = tiny_faces(1)
    data, labels = TrainingSet(faces, tiny_vit(), 32, "mctformer"), faces.labels[0].tolist()
    exchanged = faces.labels[0][faces.scheme.flip_components].tolist()
    assert exchanged != labels
    items = [data[epoch, 0] for epoch in range(40)]
    monkeypatch.setattr("wsfp_helpers.train.flip_image", lambda picture: picture)
    mirrored = [not torch.equal(item["input"], data[epoch, 0]["input"]) for epoch, item in enumerate(items)]
    assert 10 < sum(mirrored) < 30
    assert [item["labels"].tolist() for item in items] == [exchanged if each else labels for each in mirrored]


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="vision-language model"):
        train(tiny_vit(), tiny_faces(), CONFIG)
    with pytest.raises(InputError, match="12 pictures and batch size 16"):
        train(tiny_vit(), tiny_faces(), replace(CONFIG, batch_size=16, tcd=None))
    with pytest.raises(InputError, match="preset 'papr'"):
        preset("papr")
    train(tiny_vit(), tiny_faces(), replace(CONFIG, tcd=None), tmp_path)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InputError, match=r"checkpoint\.safetensors is a checkpoint of another model"):
        train(tiny_vit(width=48), tiny_faces(), replace(CONFIG, tcd=None), tmp_path)
    checkpoint.write_bytes(checkpoint.read_bytes()[:900])
    with pytest.raises(InputError, match="truncated"):
        train(tiny_vit(), tiny_faces(), replace(CONFIG, tcd=None), tmp_path)


def test_models_load_only_where_they_fit(tmp_path):
    model = DisFaceRep(tiny_vit(), Projector(24, 8, 16))
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tiny_vit(seed=3), tmp_path / "model.safetensors")
    assert same(loaded, model.vit)
    with pytest.raises(InputError, match="another architecture"):
        load_model(tiny_vit(blocks=3), tmp_path / "model.safetensors")


def test_training_cannot_reach_a_label_map():
    """``WeakFaces`` has no label map, whatever it is asked, and the stages' modules never name one."""
    hidden = np.full((64, 64), 7, np.uint8)
    weak = tiny_faces()
    faces = Faces("f", weak.ids, weak.image, weak.labels, read_map=lambda key: hidden)
    given = faces.weak()
    assert not hasattr(given, "label_map")
    reachable, seen = [given], set()
    while reachable:
        thing = reachable.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        assert thing is not hidden and not isinstance(thing, Faces)
        reachable += list(getattr(thing, "__dict__", {}).values()) if not isinstance(thing, type) else []
    package = Path(wsfp_helpers.__file__).parent
    for stage in ("cooccurrence", "ccd", "vit", "losses", "train", "fcam"):
        names = {
            node.attr
            for node in ast.walk(ast.parse((package / f"{stage}.py").read_text()))
            if isinstance(node, ast.Attribute)
        }
        assert "label_map" not in names and "_read_map" not in names, stage

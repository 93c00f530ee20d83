"""The training loop: gradients reach what is trained, text is encoded once, kills and processes change nothing."""

import ast
import copy
import functools
import json
import pkgutil
import random
import signal
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import fixtures
import numpy as np
import pytest
import torch
from fixtures import CONFIG, make_celebamask, make_folder, run_in_processes, same, tiny_faces, tiny_vit, tiny_vlm
from torch.utils.data import default_collate

import wsfp_helpers
from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import IMAGENET_MEAN, IMAGENET_STD
from wsfp_helpers.common.runs import read_metrics
from wsfp_helpers.data.celebamask import celebamask
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.folder import folder
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.method import tcd as losses
from wsfp_helpers.method.ccd import mask_image
from wsfp_helpers.method.tcd import Objective
from wsfp_helpers.method.train import DisFaceRep, TrainConfig, Trainer, TrainingSet, load_model, preset, train
from wsfp_helpers.method.vit import Projector, vit_inputs

PACKAGE, TESTS = Path(wsfp_helpers.__file__).parent, Path(fixtures.__file__).parent
TERMS = {
    "loss", "class_mlsm", "contrast", "patch_mlsm", "pos_cls", "pos_ffc", "neg_cls", "neg_ffc", "neg_bfc", "reg",
    "dead",
}  # fmt: skip


@pytest.mark.promise("determinism", "`train` twice with one seed, and with another", "-", "the same weights; others")
def test_two_runs_with_one_seed_are_identical():
    first, second = (train(tiny_vit(), tiny_faces(), CONFIG, vlm=tiny_vlm()) for _ in range(2))
    other = train(tiny_vit(), tiny_faces(), replace(CONFIG, seed=1), vlm=tiny_vlm())
    assert same(first, second)
    assert not same(first, other)


def test_every_trained_parameter_and_nothing_frozen_gets_a_gradient():
    vlm, faces = tiny_vlm(), tiny_faces()
    model = DisFaceRep(tiny_vit(drop_path=0.0), Projector(24, 8, 16))
    pictures = torch.rand(4, 3, 32, 32)
    output, v_cls = model(vit_inputs(model.vit, [faces.image(i) for i in range(4)]))
    labels = torch.from_numpy(faces.labels[:4]).float()
    loss, terms = Objective(CONFIG.tcd, vlm, CONFIG.keep_base_losses)(output, v_cls, pictures, labels)
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    assert all(p.grad is None for p in vlm.parameters())
    assert set(terms) == TERMS


def test_text_is_encoded_once():
    vlm, calls = tiny_vlm(), []
    encode = vlm.clip.encode_text
    vlm.clip.encode_text = lambda tokens: calls.append(1) or encode(tokens)
    train(tiny_vit(), tiny_faces(), CONFIG, vlm=vlm)
    assert len(calls) == 1


@pytest.mark.parametrize(("precision", "expected"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_the_vlm_runs_at_the_precision_of_the_run_and_the_losses_do_not(precision, expected, monkeypatch):
    vlm, seen, given = tiny_vlm(), set(), []
    vlm.clip.visual.conv1.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))

    def spied(original):
        def spy(*args):
            given.append((original(*args).dtype, torch.is_autocast_enabled("cpu")))
            return original(*args)

        return spy

    for name in ("class_token_contrast", "positive_foreground", "negative_foreground", "negative_background"):
        monkeypatch.setattr(losses, name, spied(getattr(losses, name)))
    train(tiny_vit(), tiny_faces(), replace(CONFIG, precision=precision, epochs=1), vlm=vlm)
    assert seen == {expected}
    assert set(given) == {(torch.float32, False)}


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from fixtures import CONFIG, tiny_faces, tiny_vit, tiny_vlm
from wsfp_helpers.method.train import train
train(tiny_vit(), tiny_faces(), CONFIG, Path({run!r}), tiny_vlm(),
      on_step=lambda step, terms: step == 5 and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.promise(
    "kills and faults",
    "`kill -9` between two saved states of `train`",
    "nothing; goes on from the last state to the same weights and metrics",
    "the last state",
)
def test_resume_after_kill_9_is_bit_identical(tmp_path):
    """The kill comes in the middle of the second epoch, two steps after the last checkpoint."""
    script = KILLED.format(tests=str(TESTS), run=str(tmp_path / "killed"))
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
@pytest.mark.promise(
    "kills and faults",
    "a break of a training with augmentation, then another number of workers",
    "nothing; the same weights",
    "the last state",
)
def test_augmented_training_resumes_whatever_the_number_of_workers(augmentation, workers, tmp_path):
    config = replace(CONFIG, augmentation=augmentation, save_every=1)
    whole = train(tiny_vit(), tiny_faces(), config, vlm=tiny_vlm())
    config = replace(config, workers=workers)
    with pytest.raises(Stop):
        train(tiny_vit(), tiny_faces(), config, tmp_path, tiny_vlm(), stop)
    assert same(train(tiny_vit(3), tiny_faces(), config, tmp_path, tiny_vlm()), whole)


@pytest.mark.parametrize("augmentation", ["jitter", "mctformer"])
@pytest.mark.promise("determinism", "augmentation of a picture, whatever was drawn before", "-", "the same picture")
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


def test_accumulated_micro_batches_give_the_gradient_of_one_batch():
    """Without drop path.  Gradients, because AdamW makes a whole step of the last bit of one that is nearly 0."""
    found = []
    for batches in ([range(6)], [range(3), range(3, 6)]):
        config = replace(CONFIG, batch_size=6 // len(batches), accumulate=len(batches))
        trainer = Trainer(tiny_vit(drop_path=0.0), tiny_faces(), config, vlm=tiny_vlm())
        parameters = dict(trainer.model.named_parameters())
        trainer.optimiser.optimizer.register_step_pre_hook(
            lambda *_, own=parameters: found.append({name: p.grad.clone() for name, p in own.items()})
        )
        trainer.step(batches_of(trainer, *batches))
    whole, halves = found
    for name, gradient in whole.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(halves[name], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=1e-4)


def test_logged_terms_are_the_mean_over_the_micro_batches(monkeypatch):
    """Against an objective evaluated by hand, on the two micro-batches of the first step and the first values."""
    vlm, given, rows = tiny_vlm(), [], []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, batches: given.append(batches) or step(self, batches))
    trainer = Trainer(tiny_vit(drop_path=0.0), tiny_faces(), replace(CONFIG, batch_size=3, accumulate=2), vlm=vlm)
    first = copy.deepcopy(trainer.model)
    trainer.fit(lambda number, row: rows.append(row))
    assert [[len(batch["labels"]) for batch in batches] for batches in given] == [[3, 3]] * 4
    by_hand = []
    for batch in given[0]:
        with torch.no_grad():
            output, v_cls = first(batch["input"])
            by_hand.append(Objective(CONFIG.tcd, vlm)(output, v_cls, batch["picture"], batch["labels"])[1])
    assert by_hand[0].keys() == by_hand[1].keys() == TERMS == rows[0].keys() - {"step", "epoch", "lr"}
    for name in TERMS:
        one, other = (float(terms[name]) for terms in by_hand)
        assert rows[0][name] == pytest.approx((one + other) / 2, rel=1e-5, abs=1e-6), name
    assert abs(float(by_hand[0]["loss"] - by_hand[1]["loss"])) > 1e-3  # or either of the two would pass for the mean


def batches_of(trainer, *places):
    """Batches as :meth:`Trainer.step` takes them, of the pictures at ``places``."""
    data = TrainingSet(tiny_faces(), trainer.model.vit, trainer.picture_size)
    return [default_collate([data[0, index] for index in batch]) for batch in places]


def test_a_step_can_be_made_by_hand():
    trainer = Trainer(tiny_vit(drop_path=0.0), tiny_faces(), replace(CONFIG, warmup_epochs=0), vlm=tiny_vlm())
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    terms = trainer.step(batches_of(trainer, range(4)))
    assert terms.keys() == TERMS
    assert np.isfinite(list(terms.values())).all()
    assert [name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])] == []
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    for _ in range(5):
        last = trainer.step(batches_of(trainer, range(4)))
    assert last["loss"] < terms["loss"]


def test_a_step_takes_as_many_batches_as_the_config_says():
    trainer = Trainer(tiny_vit(), tiny_faces(), replace(CONFIG, tcd=None, batch_size=3, accumulate=2))
    before = copy.deepcopy(trainer.model)
    for places in ([range(3)], [range(3)] * 3, []):
        with pytest.raises(ValueError, match=rf"{len(places)} batches for a step: expected 2"):
            trainer.step(batches_of(trainer, *places))
    assert same(trainer.model, before)
    trainer.step(batches_of(trainer, range(3), range(3, 6)))
    assert not same(trainer.model, before)


PROCESSES = """
from pathlib import Path
from dataclasses import replace
from fixtures import CONFIG, tiny_faces, tiny_vit, tiny_vlm
from wsfp_helpers.method.tcd import TcdConfig
from wsfp_helpers.method.train import train

class Stop(Exception):
    pass

def stop(step, row):
    if step == {last}:
        raise Stop

run = Path({run!r})
try:
    train(tiny_vit(drop_path=0.5), tiny_faces(), replace(CONFIG, **{changes!r}), run, tiny_vlm(), stop)
except Stop:
    pass
"""
CHANGES = {
    "augmentation": "mctformer", "save_every": 1, "clip": 1.0, "tcd": losses.TcdConfig(max_classes_per_image=3),
}  # fmt: skip
"""With random numbers of every kind: of pictures, of stochastic depth, and of the choice of renders."""


@pytest.fixture(scope="module")
def one_process():
    rows = []
    config = replace(CONFIG, **CHANGES)
    train(tiny_vit(drop_path=0.5), tiny_faces(), config, vlm=tiny_vlm(), on_step=lambda step, row: rows.append(row))
    return rows


@pytest.mark.parametrize(("count", "last"), [(3, 6), (2, 4)])
def test_processes_give_the_losses_of_one_which_may_go_on_alone(one_process, tmp_path, count, last):
    """Four pictures a batch are one, one and two for three processes; two go on from one and stop in epoch two."""
    run = tmp_path / "run"

    def stop(step, row):
        if step == 2:
            raise ZeroDivisionError

    if count == 2:
        with pytest.raises(ZeroDivisionError):
            train(tiny_vit(drop_path=0.5), tiny_faces(), replace(CONFIG, **CHANGES), run, tiny_vlm(), stop)
    done = run_in_processes(PROCESSES.format(run=str(run), changes=CHANGES, last=last), count, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [row["step"] for row in read_metrics(run)] == [*range(1, last + 1)]
    train(tiny_vit(seed=7, drop_path=0.5), tiny_faces(), replace(CONFIG, **CHANGES), run, tiny_vlm())
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [row["step"] for row in one_process] == [1, 2, 3, 4, 5, 6]
    for name in TERMS - {"dead"}:  # a share of the pairs of a process, which no loss depends on
        expected = [row[name] for row in one_process]
        assert [row[name] for row in rows] == pytest.approx(expected, rel=1e-6, abs=1e-6), name


def test_processes_do_not_wait_for_a_projector_that_no_loss_reaches(tmp_path):
    """As in rows of Table 4, whose class tokens have no text."""
    changes = {"epochs": 1, "tcd": losses.TcdConfig(alpha0=0, beta0=0, max_classes_per_image=1)}
    done = run_in_processes(PROCESSES.format(run=str(tmp_path / "run"), changes=changes, last=9), 2, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(read_metrics(tmp_path / "run")) == 3


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
    seen, config = [], replace(CONFIG, tcd=None)
    faces = tiny_faces()
    black = replace(faces, read=lambda key: np.zeros((64, 64, 3), np.uint8))
    always = train(tiny_vit(), faces, config)
    unchanged = train(tiny_vit(), lambda epoch: seen.append(epoch) or faces, config)
    assert sorted(set(seen)) == [0, 1]
    assert same(unchanged, always)
    assert not same(train(tiny_vit(), lambda epoch: black if epoch else faces, config), always)


def test_jitter_changes_the_light_only():
    faces, vit = tiny_faces(1), tiny_vit()
    plain, jittered = (TrainingSet(faces, vit, 32, name)[0, 0] for name in ("none", "jitter"))
    assert torch.equal(plain["labels"], jittered["labels"])
    assert not torch.equal(plain["input"], jittered["input"])
    assert torch.stack([plain["input"].flatten(), jittered["input"].flatten()]).corrcoef()[0, 1] > 0.9


def test_jitter_leaves_masked_boxes_black():
    faces = replace(tiny_faces(1), read=lambda key: mask_image(tiny_faces(1).image(0), [(16, 24, 40, 48)]))
    data = TrainingSet(faces, tiny_vit(), 64, "jitter")
    shown = torch.stack([data[epoch, 0]["picture"] for epoch in range(40)])
    assert not shown[..., 24:48, 16:40].any()
    assert (shown.flatten(1).std(0) > 0).sum() > 0.8 * 3 * (64 * 64 - 24 * 24)


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
    monkeypatch.setattr("wsfp_helpers.method.train.flip_image", lambda picture: picture)
    mirrored = [not torch.equal(item["input"], data[epoch, 0]["input"]) for epoch, item in enumerate(items)]
    assert 10 < sum(mirrored) < 30
    assert [item["labels"].tolist() for item in items] == [exchanged if each else labels for each in mirrored]


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="vision-language model"):
        train(tiny_vit(), tiny_faces(), CONFIG)
    with pytest.raises(InputError, match="12 pictures and batch size 16"):
        train(tiny_vit(), tiny_faces(), replace(CONFIG, batch_size=16, tcd=None))
    trainer = Trainer(tiny_vit(), tiny_faces(), replace(CONFIG, tcd=None))
    trainer.accelerator = types.SimpleNamespace(num_processes=5)
    with pytest.raises(InputError, match=r"batch size 4 on 5 processes: expected .* a picture of it for every process"):
        trainer._count_steps()
    with pytest.raises(InputError, match="preset 'papr'"):
        preset("papr")
    train(tiny_vit(), tiny_faces(), replace(CONFIG, tcd=None), tmp_path)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(
        InputError, match=r"checkpoint\.safetensors is of another network: .* has \(24,\), expected \(48,\)"
    ):
        train(tiny_vit(width=48), tiny_faces(), replace(CONFIG, tcd=None), tmp_path)
    checkpoint.write_bytes(checkpoint.read_bytes()[:900])
    with pytest.raises(InputError, match=r"checkpoint\.safetensors cannot be read as .* truncated"):
        train(tiny_vit(), tiny_faces(), replace(CONFIG, tcd=None), tmp_path)


def test_models_load_only_where_they_fit(tmp_path):
    model = DisFaceRep(tiny_vit(), Projector(24, 8, 16))
    save_weights(tmp_path / "model.safetensors", model.state_dict())
    loaded = load_model(tiny_vit(seed=3), tmp_path / "model.safetensors")
    assert same(loaded, model.vit)
    with pytest.raises(InputError, match=r"for blocks\.2\.\S+ it has nothing, expected \(24,\); .* another profile"):
        load_model(tiny_vit(blocks=3), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"for blocks\.1\.\S+ it has \(24,\), expected nothing"):
        load_model(tiny_vit(blocks=1), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="no weights of a trained network at"):
        load_model(tiny_vit(), tmp_path / "none.safetensors")


IMPORTS = """
import importlib, json, sys
for name in {modules!r}:
    importlib.import_module(name)
print(json.dumps([name for name in sys.modules if name.split(".")[0] == "wsfp_helpers"]))
"""


def test_no_module_of_the_method_loads_one_that_reads_label_maps():
    every = {module.name for module in pkgutil.walk_packages(wsfp_helpers.__path__, "wsfp_helpers.")}
    method = sorted(name for name in every if name.startswith("wsfp_helpers.method."))
    with_maps = {name for name in every if name.startswith(("wsfp_helpers.data.", "wsfp_helpers.score"))}
    with_maps.remove("wsfp_helpers.data.weak")
    for name in (
        "method.train",
        "method.pseudo",
        "data.faces",
        "data.synthfaces",
        "data.celebamask",
        "score.confusion",
    ):
        assert f"wsfp_helpers.{name}" in {*method, *with_maps}

    def loaded_by(modules):
        command = [sys.executable, "-c", IMPORTS.format(modules=modules)]
        return set(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    loaded = loaded_by(method)
    assert loaded >= {*method, "wsfp_helpers.data.weak"}
    assert loaded & with_maps == set()
    rooms = {name.split(".")[1] for name in loaded - {"wsfp_helpers"}}
    assert rooms <= {"common", "labels", "nets", "palette", "data", "detect", "method"}
    systems = sorted(name for name in every if name.startswith("wsfp_helpers.systems."))
    assert "wsfp_helpers.systems.weclip" in systems and loaded_by(systems) & with_maps == set()
    assert loaded_by(["wsfp_helpers.stages"]) & with_maps  # so that the check can fail


def reachable(start):
    """Everything that an object holds: attributes, items, and what functions close over, have bound or by default."""
    waiting, seen = [start], {}
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType | str | bytes):
            continue
        seen[id(thing)] = thing
        waiting += getattr(thing, "__dict__", {}).values()
        if isinstance(thing, dict):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset):
            waiting += thing
        elif isinstance(thing, types.FunctionType):
            waiting += [cell.cell_contents for cell in thing.__closure__ or ()]
            waiting += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        elif isinstance(thing, types.MethodType):
            waiting += [thing.__self__, thing.__func__]
        elif isinstance(thing, functools.partial):
            waiting += [thing.func, *thing.args, *thing.keywords.values()]
    return list(seen.values())


def test_training_cannot_reach_a_label_map():
    """``WeakFaces`` has no label map, whatever it is asked, and the stages' modules never name one."""
    hidden = np.full((64, 64), 7, np.uint8)
    faces = Faces(tiny_faces(), read_map=lambda key: hidden)
    given = faces.weak
    assert not isinstance(faces, WeakFaces)
    assert not hasattr(given, "label_map") and not hasattr(given, "read_map")
    for some in (given, given.subset([1, 2])):
        for thing in reachable(some):
            assert thing is not hidden and not isinstance(thing, Faces)
    assert any(thing is hidden for thing in reachable(faces))  # the search finds it where it is
    stages = sorted((PACKAGE / "method").glob("*.py"))
    assert len(stages) > 7
    for stage in stages:
        tree = ast.walk(ast.parse(stage.read_text()))
        names = {node.attr for node in tree if isinstance(node, ast.Attribute)}
        assert not names & {"label_map", "read_map", "_read_map"}, stage


@pytest.mark.parametrize(
    "make",
    [
        lambda path: synthfaces("celeb/val"),
        lambda path: folder(make_folder(path)),
        lambda path: celebamask(make_celebamask(path), counts=fixtures.CELEBA_COUNTS),
    ],
    ids=["synthfaces", "folder", "celebamask"],
)
@pytest.mark.promise(
    "security", "the pictures of a set that training is given", "-", "no label map can be reached from them"
)
def test_the_pictures_of_a_set_lead_to_no_label_map(make, tmp_path, tmp_cache):
    faces = make(tmp_path)
    own = {id(thing) for thing in reachable(faces.read_map) if callable(thing)}
    assert id(faces.read_map) in own
    for thing in reachable(faces.weak):
        assert id(thing) not in own and not isinstance(thing, Faces)


MEMORY = """
import numpy as np, torch
from wsfp_helpers.common.memory import PeakMemory, memory_in_use
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.method.train import TrainingSet
from wsfp_helpers.nets import trunk
from wsfp_helpers.profiles import profile

trunk._stored = lambda path, tokens, width: torch.zeros(tokens, width, dtype=torch.float16)
picture, ids = np.zeros((8, 8, 3), np.uint8), [str(i) for i in range(600)]
vit, faces = profile("embedded").model.empty(), WeakFaces("n", ids, lambda key: picture, np.ones((600, 18), np.uint8))
TrainingSet(faces.subset([0]), vit, 16)
before = memory_in_use()
with PeakMemory() as peak:
    held = TrainingSet(faces, vit, 16)
print(peak.most - before, held.features.nbytes)
"""


@pytest.mark.promise("memory", "the features of a training set while it is built", "-", "in memory once")
def test_features_are_held_once_while_a_training_set_is_built():
    # In a process of its own: this one may free the memory of other tests meanwhile.
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    most, held = map(int, done.stdout.split())
    assert held > 1.5e8 and 0.5 * held < most < 1.4 * held  # the system may take back other pages meanwhile

"""The stages from folder to folder on a few faces: they fit each other, resume, and refuse what does not belong."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from fixtures import CELEBA_COUNTS, make_celebamask, make_lapa

from wsfp_helpers import stages
from wsfp_helpers.common.checkpoints import save_weights
from wsfp_helpers.common.configs import plain
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import read_json
from wsfp_helpers.common.pictures import read_label_map, write_index_png
from wsfp_helpers.common.runs import read_metrics
from wsfp_helpers.data.celebamask import celebamask, merge
from wsfp_helpers.data.faces import Faces
from wsfp_helpers.data.lapa import lapa
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import PHRASES, Detection
from wsfp_helpers.detect.boxes import BoxRecord, read_boxes
from wsfp_helpers.labels import to_lapa, to_lapa_table
from wsfp_helpers.method.ccd import CCDConfig
from wsfp_helpers.method.fcam import FcamConfig
from wsfp_helpers.method.pseudo import pseudo_label, write_pseudo_labels
from wsfp_helpers.method.tcd import TcdConfig
from wsfp_helpers.method.train import DisFaceRep
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.parsing.photographs import parse_photographs, predict_set
from wsfp_helpers.profiles import Source, profile
from wsfp_helpers.score.folders import evaluate_folders

COUNT, MODEL = 4, "model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def few_faces(tmp_path_factory):
    """A cache of its own, and only the first faces of each split."""
    patch = pytest.MonkeyPatch()
    patch.setenv("WSFP_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(Source, "open", lambda self: synthfaces(self.split).subset(range(COUNT)))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def tiny():
    embedded = profile("embedded")
    fit = replace(embedded.parser.fit, steps=2, batch=2)
    return replace(
        embedded,
        train=replace(embedded.train, epochs=1, batch_size=2, warmup_epochs=0),
        parser=replace(embedded.parser, copies=0, rare_copies=0, fit=fit),
    )


def baseline(config, seed=0):
    """The profile without CCD and TCD."""
    return replace(config, ccd=None, train=replace(config.train, tcd=None, seed=seed))


def without_text(config, seed=0):
    """The profile with CCD alone."""
    return replace(config, train=replace(config.train, tcd=None, seed=seed))


class FakeDetector:
    """A nose in the middle of every picture, and nothing else."""

    name = "fake"
    phrases = PHRASES

    def detect_batch(self, images, phrases=PHRASES):
        nose = [Detection((60.0, 60.0, 90.0, 100.0), 0.9, "nose")]
        return [{phrase: nose if phrase == "nose" else [] for phrase in phrases} for _ in images]


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    return stages.run_train(baseline(tiny, 3), tmp_path_factory.mktemp("runs") / "base")


def test_a_run_directory_says_how_it_was_trained(trained):
    content = json.loads((trained / "config.json").read_text())
    assert content["seed"] == content["config"]["profile"]["train"]["seed"] == 3
    assert content["config"]["boxes"] is None and content["config"]["profile"]["train"]["tcd"] is None
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == COUNT // 2


def test_a_finished_run_started_again_changes_nothing(trained, tiny):
    before = (trained / MODEL).read_bytes()
    stages.run_train(baseline(tiny, 3), trained)
    assert (trained / MODEL).read_bytes() == before
    with pytest.raises(InputError, match="seed = 3, this one has 4"):
        stages.run_train(baseline(tiny, 4), trained)


@pytest.fixture
def instant(monkeypatch):
    """Trainings that end at once and save the network as it was built; gives what they were asked to train on."""
    seen = []

    def train(vit, data, config, out, vlm):
        seen.append(data)
        save_weights(out / MODEL, DisFaceRep(vit).state_dict())

    monkeypatch.setattr(stages, "train", train)
    return seen


def test_a_run_is_read_as_it_was_made(tiny, tmp_path, instant):
    made = replace(
        tiny, fcam=FcamConfig(scales=(1.0, 0.5), variant="fused"), theta=0.35, vlm="mini_clip", subset=7,
        train_data=replace(tiny.train_data, split="celeb/val"), ccd=CCDConfig(probability=0.25, reference="face"),
        train=replace(tiny.train, seed=5, tcd=TcdConfig(alpha0=0.5, negatives="present"), clip=1.0),
        parser=replace(tiny.parser, width=48), model=replace(tiny.model, token_init_noise=0.01),
    )  # fmt: skip
    _, config = stages.load_run(stages.run_train(made, tmp_path / "full"))
    assert config == made
    _, config = stages.load_run(stages.run_train(baseline(made, 6), tmp_path / "base"))
    assert config == baseline(made, 6)


@pytest.mark.parametrize(("boxes", "masked"), [(None, False), ("shipped", True)])
def test_a_run_of_version_0_1_is_read(tiny, tmp_path, boxes, masked):
    """Its config has no subset and no general model, and settings of CCD also where nothing was masked."""
    old = plain(tiny)
    for field in ("subset", "general_vlm"):
        del old[field]
    content = {"seed": 0, "config": {"profile": old, "boxes": boxes, "redraw": False, "mix_originals": False}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    save_weights(tmp_path / MODEL, DisFaceRep(tiny.model.empty()).state_dict())
    _, config = stages.load_run(tmp_path)
    assert config == (tiny if masked else replace(tiny, ccd=None))


def test_networks_are_kept_by_what_they_depend_on(tiny, tmp_path, instant):
    first = stages.run_keyed(without_text(tiny), "shipped", tmp_path)
    assert stages.run_keyed(without_text(tiny), "shipped", tmp_path) == first and len(instant) == 1
    others = [without_text(tiny, 1), baseline(tiny), replace(without_text(tiny), theta=0.4)]
    others += [replace(without_text(tiny), ccd=CCDConfig(probability=0.25))]
    folders = {stages.run_keyed(config, "shipped", tmp_path) for config in others}
    assert len(folders | {first}) == 5 and len(instant) == 5


def write_noses(path, tiny, name="fake"):
    """A boxes file with a nose in the middle of every training picture."""
    nose = [Detection((60.0, 60.0, 90.0, 100.0), 0.9, "nose")]
    found = {phrase: [] for phrase in PHRASES} | {"nose": nose}
    records = [BoxRecord(key, (160, 160), name, found) for key in tiny.faces("train").ids]
    path.write_text("".join(record.line() for record in records))
    return path


def test_a_run_refuses_other_boxes_of_the_same_name(tiny, tmp_path, instant):
    boxes = write_noses(tmp_path / "boxes.jsonl", tiny)
    stages.run_train(without_text(tiny), tmp_path / "run", boxes)
    stages.run_train(without_text(tiny), tmp_path / "run", boxes)
    write_noses(boxes, tiny, "other")
    with pytest.raises(InputError, match=r"boxes = 'boxes-\w{12}', this one has 'boxes-\w{12}'"):
        stages.run_train(without_text(tiny), tmp_path / "run", boxes)


@pytest.mark.parametrize("redraw", [False, True])
def test_boxes_that_lack_pictures_claim_no_folder(tiny, tmp_path, redraw):
    record = BoxRecord(tiny.faces("train").ids[0], (160, 160), "fake", {phrase: [] for phrase in PHRASES})
    (tmp_path / "few.jsonl").write_text(record.line())
    with pytest.raises(InputError, match=rf"few\.jsonl lack {COUNT - 1} of the {COUNT} images"):
        stages.run_train(without_text(tiny), tmp_path / "run", tmp_path / "few.jsonl", redraw=redraw)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["redraw", "mix_originals"])
def test_options_of_masking_need_ccd(tiny, tmp_path, option):
    with pytest.raises(InputError, match="leave them out, or use CCD"):
        stages.run_train(baseline(tiny), tmp_path / "run", **{option: True})
    assert not (tmp_path / "run").exists()


def test_maps_pseudo_labels_and_parser_follow(trained, tiny, tmp_path, monkeypatch):
    fcams = stages.run_fcam(trained, tmp_path / "fcams")
    faces = tiny.faces("train")
    assert sorted(fcams.ids) == sorted(faces.ids)
    labels = write_pseudo_labels(fcams, tmp_path / "labels")
    for key, row in zip(faces.ids, faces.labels, strict=True):
        found = set(np.unique(read_label_map(labels / f"{key}.png", 19)).tolist())
        assert found - {0} and found - {0} <= set((np.flatnonzero(row) + 1).tolist())
    path = stages.run_parser(tiny, labels, tmp_path / "parser")
    label_map, _ = load_parser(path).predict(faces.image(0))
    assert label_map.shape == (160, 160)
    assert [row["step"] for row in read_metrics(path.parent)] == [1, 2]
    assert sorted(p.name for p in path.parent.iterdir()) == ["config.json", "metrics.jsonl", "parser.safetensors"]
    monkeypatch.setattr(type(tiny.parser), "train", None)  # a finished run does not train again
    assert stages.run_parser(tiny, labels, tmp_path / "parser") == path
    with pytest.raises(InputError, match="seed = 0, this one has 1"):
        stages.run_parser(tiny, labels, tmp_path / "parser", seed=1)


@pytest.fixture
def ones(tiny, tmp_path):
    """A folder of pseudo labels that call everything skin."""
    for key in tiny.faces("train").ids:
        write_index_png(tmp_path / "labels" / f"{key}.png", np.ones((160, 160), np.uint8), PALETTE)
    return tmp_path / "labels"


def test_a_parser_goes_by_the_content_of_its_labels_and_not_by_their_path(ones, tiny, tmp_path, monkeypatch):
    path = stages.run_parser(tiny, ones, tmp_path / "parser")
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert stages.run_parser(tiny, "labels", "parser").read_bytes() == before
    assert str(tmp_path).encode() not in before and str(tmp_path) not in (tmp_path / "parser/config.json").read_text()
    write_index_png(ones / f"{tiny.faces('train').ids[0]}.png", np.zeros((160, 160), np.uint8), PALETTE)
    with pytest.raises(InputError, match=r"labels = 'labels-\w{12}', this one has 'labels-\w{12}'"):
        stages.run_parser(tiny, ones, tmp_path / "parser")


def test_a_parser_of_version_0_1_named_the_folder_of_its_labels(ones, tiny, tmp_path):
    stages.run_parser(tiny, ones, tmp_path / "parser")
    about = tmp_path / "parser" / "config.json"
    content = json.loads(about.read_text())
    content["config"]["labels"] = str(ones)
    about.write_text(json.dumps(content))
    assert stages.run_parser(tiny, ones, tmp_path / "parser").exists()
    shutil.copytree(ones, tmp_path / "others")
    with pytest.raises(InputError, match=r"holds a run with config\.labels = "):
        stages.run_parser(tiny, tmp_path / "others", tmp_path / "parser")


def test_a_parser_whose_file_could_not_be_written_is_not_trained_again(tiny, tmp_path, monkeypatch):
    for key in tiny.faces("train").ids:
        write_index_png(tmp_path / "labels" / f"{key}.png", np.ones((160, 160), np.uint8), PALETTE)

    def full(self, path, **facts):
        raise InputError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(stages.LightParser, "save", full)
        with pytest.raises(InputError, match="no space left"):
            stages.run_parser(tiny, tmp_path / "labels", tmp_path / "parser")
    lines = (tmp_path / "parser" / "metrics.jsonl").read_text()
    assert stages.run_parser(tiny, tmp_path / "labels", tmp_path / "parser").exists()
    assert (tmp_path / "parser" / "metrics.jsonl").read_text() == lines


def test_a_run_that_did_not_end_has_no_model(trained, tmp_path):
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    with pytest.raises(InputError, match="did the training end"):
        stages.load_run(tmp_path)
    with pytest.raises(InputError, match="no run directory"):
        stages.load_run(tmp_path / "nothing")


EMBEDDED = {"boxes": None, "profile": plain(profile("embedded"))}


@pytest.mark.parametrize(
    "content",
    [
        {}, [], {"config": []}, {"config": {"profile": "embedded", "parser": {}}}, {"config": {"boxes": None}},
        {"config": EMBEDDED | {"profile": EMBEDDED["profile"] | {"theta": "high"}}},
        {"config": EMBEDDED | {"profile": EMBEDDED["profile"] | {"colour": "red"}}},
        {"config": EMBEDDED | {"profile": EMBEDDED["profile"] | {"ccd": {"probability": 7}}}},
    ],
    ids=lambda content: str(content)[:30],
)  # fmt: skip
def test_the_run_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        InputError, match=r"config\.json (is not that of a run of `wsfp train`|does not hold a Profile)"
    ):
        stages.load_run(tmp_path)


def test_ccd_in_shares_is_ccd_in_one_piece(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "load_detector", lambda *_: FakeDetector())
    whole = stages.run_ccd(tiny, tmp_path / "whole", seed=1)
    for number in range(2):
        assert stages.run_ccd(tiny, tmp_path / "shares", shard=(number, 2)) is None
    assert stages.run_ccd(tiny, tmp_path / "shares", seed=1) == whole
    one, other = (read_boxes(tmp_path / folder / "boxes.jsonl") for folder in ("whole", "shares"))
    assert one == other and list(one) == list(tiny.faces("train").ids)


def test_a_missing_share_is_made_up_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "load_detector", lambda *_: FakeDetector())
    whole = stages.run_ccd(tiny, tmp_path / "whole")
    stages.run_ccd(tiny, tmp_path / "shares", shard=(1, 2))
    assert stages.run_ccd(tiny, tmp_path / "shares") == whole
    assert [path.name for path in sorted((tmp_path / "shares").iterdir())] == ["boxes.jsonl", "report.json"]
    assert read_boxes(tmp_path / "shares/boxes.jsonl") == read_boxes(tmp_path / "whole/boxes.jsonl")


@pytest.mark.parametrize("name", ["x-of-y", "²-of-²", "0-of-9999999999", "1-of-"])
def test_files_that_are_named_almost_like_shares_are_none(tiny, tmp_path, monkeypatch, name):
    monkeypatch.setattr(stages, "load_detector", lambda *_: FakeDetector())
    (tmp_path / f"boxes.{name}.jsonl").touch()
    stages.run_ccd(tiny, tmp_path)
    assert list(read_boxes(tmp_path / "boxes.jsonl")) == list(tiny.faces("train").ids)


def test_the_table_of_ccd_adds_up(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "load_detector", lambda *_: FakeDetector())
    report = stages.run_ccd(tiny, tmp_path, seed=1)
    lines = stages.format_ccd(report).splitlines()
    nose = next(line for line in lines if line.startswith("nose")).split()
    assert nose[1:4] == [str(COUNT)] * 3 and 0 < int(nose[4]) < COUNT
    assert lines[-1] == f"labels that changed: nose {COUNT} -> {COUNT - int(nose[4])}"


def test_masks_reach_the_training(tiny, tmp_path, instant):
    always = replace(without_text(tiny), ccd=replace(tiny.ccd, probability=1.0))
    stages.run_train(always, tmp_path / "run", write_noses(tmp_path / "boxes.jsonl", tiny))
    (data,) = instant
    assert not data.labels[:, 1].any() and not data.image(0)[60:100, 60:90].any()
    assert type(data) is WeakFaces


def test_the_threshold_of_a_run_goes_with_its_maps(tiny, tmp_path, instant):
    run = stages.run_train(replace(baseline(tiny), theta=0.875), tmp_path / "run")
    fcams = stages.run_fcam(run, tmp_path / "fcams")
    for folder, theta, expected in (("own", None, 0.875), ("told", 0.25, 0.25)):
        labels = stages.run_pseudo(tmp_path / "fcams", tmp_path / folder, theta)
        assert read_json(labels / "settings.json")["theta"] == expected
        found = read_label_map(labels / f"{fcams.ids[0]}.png", 19)
        assert np.array_equal(found, pseudo_label(fcams[0], expected))
    (tmp_path / "fcams" / "run.json").unlink()  # maps of version 0.1
    assert read_json(stages.run_pseudo(tmp_path / "fcams", tmp_path / "old") / "settings.json")["theta"] == 0.5


def test_shipped_boxes_are_of_the_shipped_faces(tmp_path):
    other = replace(profile("embedded"), train_data=Source("celebamask", "train"))
    with pytest.raises(InputError, match=r"shipped boxes are those of SynthFaces-19 .* not of train: run `wsfp ccd`"):
        stages.open_boxes("shipped", other)


@pytest.fixture
def maps(trained, tmp_path):
    stages.run_fcam(trained, tmp_path / "fcams")
    return tmp_path / "fcams"


def test_regions_are_pseudo_labels_that_no_label_map_went_into(maps, tiny, tmp_path, monkeypatch):
    def forbidden(self, index):
        raise AssertionError("a label map was opened")

    monkeypatch.setattr(Faces, "label_map", forbidden)
    out = stages.run_regions(tiny, maps, tmp_path / "labels")
    faces = tiny.faces("train").weak
    labels = [read_label_map(out / f"{key}.png", 19) for key in faces.ids]
    for label, present in zip(labels, faces.labels, strict=True):
        assert label.shape == (160, 160) and set(np.unique(label)) - {0} <= set(np.flatnonzero(present) + 1)
    (out / f"{faces.ids[1]}.png").unlink()
    stages.run_regions(tiny, maps, out)
    np.testing.assert_array_equal(read_label_map(out / f"{faces.ids[1]}.png", 19), labels[1])
    stages.run_parser(tiny, out, tmp_path / "parser")


def test_regions_refuse_what_does_not_belong(maps, tiny, tmp_path):
    stages.run_regions(tiny, maps, tmp_path / "labels")
    with pytest.raises(InputError, match="seed"):
        stages.run_regions(tiny, maps, tmp_path / "labels", seed=1)
    first = sorted(maps.glob("*.safetensors"))[0]
    first.unlink()
    with pytest.raises(InputError, match=f"lacks the FCAMs of 1 of 4 pictures, the first is {first.stem}"):
        stages.run_regions(tiny, maps, tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_a_parser_needs_all_its_labels(tiny, tmp_path):
    write_index_png(tmp_path / f"{tiny.faces('train').ids[0]}.png", np.zeros((160, 160), np.uint8), PALETTE)
    with pytest.raises(InputError, match=rf"lacks {COUNT - 1} of {COUNT} pseudo labels"):
        stages.run_parser(tiny, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def full_size(tmp_path, monkeypatch):
    """A CelebAMask-HQ of four pictures below $WSFP_DATA, no backbone, and the paper profile with a small network."""
    monkeypatch.setenv("WSFP_DATA", str(tmp_path))
    root = make_celebamask(tmp_path / "CelebAMask-HQ")
    monkeypatch.setattr(Source, "open", lambda self: celebamask(root, self.split, counts=CELEBA_COUNTS))
    paper = profile("paper")
    fit = replace(paper.parser.fit, steps=2, batch=2)
    small = {
        "network": "lraspp_mobilenet_v3_large",
        "weights": None,
        "size": 64,
        "crop": 64,
        "test_scales": (1.0, 1.25),
        "workers": 0,
    }
    return replace(paper, parser=replace(paper.parser, fit=fit, **small)), root


def test_the_paper_profile_goes_from_pseudo_labels_to_scores_of_its_test_set(full_size, tmp_path):
    paper, root = full_size
    merge(root, tmp_path / "maps", CELEBA_COUNTS)
    path = stages.run_parser(paper, tmp_path / "maps" / "train", tmp_path / "parser")
    assert len(read_metrics(path.parent)) == 2
    pred = predict_set(paper.faces("test").weak, tmp_path / "pred", path)
    assert read_label_map(pred / "2.png", 19).shape == (1024, 1024)
    (found,) = stages.predict_faces(load_parser(path), paper.faces("test").weak)
    assert np.array_equal(found, read_label_map(pred / "2.png", 19))
    assert evaluate_folders(pred, tmp_path / "maps" / "test").images == 1
    report = parse_photographs(root / "CelebA-HQ-img" / "1.jpg", tmp_path / "parsed", path)
    assert [p.name for p in report.written] == ["1.png"] and not report.failed


def test_a_parser_is_scored_in_the_classes_of_another_set(tmp_path, monkeypatch):
    faces = lapa(make_lapa(tmp_path), "train")
    rng = np.random.default_rng(0)
    found = [rng.integers(0, 19, faces.label_map(i).shape, np.uint8) for i in range(len(faces))]
    monkeypatch.setattr(stages, "predict_faces", lambda *_: iter(found))
    matrices = stages.score_parser(None, faces, table=to_lapa_table(ears_to_skin=True))
    for i, matrix in enumerate(matrices):
        expected = np.zeros((11, 11), int)
        np.add.at(expected, (faces.label_map(i), to_lapa(found[i], ears_to_skin=True)), 1)
        assert (matrix == expected).all()


def test_the_paper_parser_is_not_trained_without_its_backbone(full_size, tmp_path):
    paper, root = full_size
    merge(root, tmp_path / "maps", CELEBA_COUNTS)
    with pytest.raises(InputError, match=r"resnet38_a1\.safetensors below \$WSFP_DATA"):
        stages.run_parser(replace(paper, parser=profile("paper").parser), tmp_path / "maps" / "train", tmp_path / "run")

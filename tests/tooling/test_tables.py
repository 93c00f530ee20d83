"""Tables 1 and 2: every parser on every set, in the classes of the set, kept and not computed twice; imported maps."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsfp_helpers.common.configs import change
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import write_json
from wsfp_helpers.common.pictures import write_index_png
from wsfp_helpers.data.frl import SCORED
from wsfp_helpers.data.synthfaces import synthfaces
from wsfp_helpers.labels import CELEBAMASK, LAPA
from wsfp_helpers.nets.trunk import Trunk
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing.load import load_parser
from wsfp_helpers.profiles import Source, profile
from wsfp_helpers.score.confusion import Scores
from wsfp_helpers.stages import predict_faces
from wsfp_helpers.systems.base import Found, System
from wsfp_helpers.tooling import tables
from wsfp_helpers.tooling.results import read_results

COUNT = 4
BASELINE, FULL = "MCTformer+", "DisFaceRep"


class Oracle:
    """A parser that knows the truth of all faces, or with ``mirrored`` says the other side."""

    def __init__(self, mirrored=False):
        self.truth, self.asked, self.mirrored = {}, 0, mirrored
        for split in ("celeb/val", "celeb/test", "lapa/test", "helen/test"):
            faces = synthfaces(split).subset(range(COUNT))
            self.truth |= {faces.image(i).tobytes(): faces.label_map(i) for i in range(COUNT)}

    def answer(self, image):
        self.asked += 1
        truth = self.truth[image.tobytes()]
        exchange = np.arange(256, dtype=np.uint8)
        exchange[[4, 5, 6, 7, 8, 9]] = [5, 4, 7, 6, 9, 8]
        return exchange[truth] if self.mirrored else truth

    def predict(self, image, settings=None):
        answer = self.answer(image)
        return answer, np.ones(answer.shape, np.float32)

    def probabilities(self, pictures):
        maps = torch.from_numpy(np.stack([self.answer(picture) for picture in pictures]))
        return F.one_hot(maps.long(), len(CELEBAMASK)).movedim(-1, 1)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Few faces, no copy of FRL London, results below the test's folder, and oracles instead of trained parsers."""
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WSFP_DATA", raising=False)
    monkeypatch.setattr(Source, "open", lambda self: synthfaces(self.split).subset(range(COUNT)))
    oracles = {"mctformer+": Oracle(mirrored=True), "disfacerep": Oracle(), tables.SUPERVISED: Oracle()}
    asked = {}

    def parser(self, method, seed):
        folder = tmp_path / f"{method[:5]}{seed}"
        folder.mkdir(exist_ok=True)
        path = folder / "parser.safetensors"
        path.write_bytes(weights)
        asked[path] = oracles[method]
        return path

    weights = b"a parser"
    monkeypatch.setattr(tables.Study, "parser", parser)
    monkeypatch.setattr(tables, "load_parser", asked.get)

    def labels(self, method, seed):
        faces = self.config.faces("train")
        for i, key in enumerate(faces.ids):
            write_index_png(tmp_path / "labels" / f"{key}.png", faces.label_map(i), PALETTE)
        return tmp_path / "labels"

    monkeypatch.setattr(tables.Study, "labels", labels)
    return oracles, tmp_path


def compare(folder, seeds):
    names = ("mctformer+", "disfacerep")
    tables.compare(names, profile("embedded"), "shipped", seeds, folder / "work", folder / "results")


def rows(name, folder, metric="mean_f1"):
    content = read_results(name, folder / "results")
    assert len({row["name"] for row in content["rows"]}) == len(content["rows"])
    return {row["name"]: row for row in content["rows"] if row["metric"] == metric}


def test_table_1_scores_masks_and_parsers(study):
    _, folder = study
    compare(folder, (0, 1))
    found = rows("table1", folder)
    assert list(found) == [
        *(f"{name}: {part}" for name in (BASELINE, FULL) for part in ("pseudo masks", "val", "test")),
        f"{tables.SUPERVISED}: val", f"{tables.SUPERVISED}: test",
    ]  # fmt: skip
    assert found[f"{FULL}: pseudo masks"]["seeds"] == found[f"{FULL}: val"]["seeds"] == [100, 100]
    mirrored = found[f"{BASELINE}: test"]
    assert mirrored["per_class"]["l_eye"] == [0, 0] and mirrored["per_class"]["nose"] == [100, 100]


def test_table_2_is_in_eleven_classes_by_place(study):
    _, folder = study
    compare(folder, (3,))
    found = rows("table2", folder)
    assert [name.split(": ")[1] for name in found] == ["LaPa-like", "Helen-like"] * 3
    assert found[f"{FULL}: LaPa-like"]["seeds"] == [100]
    assert list(found[f"{FULL}: LaPa-like"]["per_class"]) == list(LAPA.components)
    assert found[f"{BASELINE}: Helen-like"]["per_class"]["left_eyebrow"] == [0]


def test_a_score_is_not_computed_twice(study):
    oracles, folder = study
    compare(folder, (0,))
    asked = oracles["disfacerep"].asked
    before = json.loads((folder / "results" / "table2.json").read_text())
    compare(folder, (0,))
    assert oracles["disfacerep"].asked == asked == 4 * COUNT  # val, test, LaPa-like and Helen-like
    assert json.loads((folder / "results" / "table2.json").read_text())["rows"] == before["rows"]


def test_a_parser_that_was_trained_again_is_scored_again(study, monkeypatch):
    oracles, folder = study
    faces = synthfaces("celeb/val").subset(range(COUNT))
    study = tables.Study(profile("embedded"), "shipped", (0,), folder)
    study.matrices("disfacerep", faces)
    again = folder / "disfa0" / "parser.safetensors"
    monkeypatch.setattr(tables.Study, "parser", lambda *_: again.write_bytes(b"other") and again)
    monkeypatch.setattr(tables, "load_parser", lambda path: oracles["mctformer+"])
    matrices = study.matrices("disfacerep", faces)
    assert oracles["mctformer+"].asked == COUNT
    assert Scores(matrices[0].sum(0)).per_class["l_eye"] == 0


def test_every_row_has_its_interval(study):
    _, folder = study
    compare(folder, (0, 1))
    found = rows("table2", folder)
    assert list(rows("table2", folder, "mean_f1_low")) == [f"{name} [95 % low]" for name in found]
    assert list(rows("table2", folder, "mean_f1_high")) == [f"{name} [95 % high]" for name in found]


def test_groups_are_written_with_table_2(study):
    _, folder = study
    compare(folder, (0, 1))
    found = rows("groups", folder)
    tones = synthfaces("celeb/test").subset(range(COUNT)).attributes["skin_tone"].astype(float)
    for low, high in ((0, 2), (2, 4), (4, 6), (6, 10)):
        count = sum(low <= tone < high for tone in tones)
        names = [name for name in found if f"{FULL}, SynthFaces test, skin tone = {low} to {high} (" in name]
        assert len(names) == bool(count)
        assert all(f"(n = {count}: too few to compare)" in name for name in names)
    assert all(row["seeds"] == [100, 100] for name, row in found.items() if FULL in name)


def test_groups_of_real_people(study, monkeypatch):
    _, folder = study
    faces = synthfaces("celeb/test").subset(range(COUNT))
    people = replace(faces, groups={"gender": np.array(list("ffmf")), "age band": np.array(list("aabb"))})
    monkeypatch.setattr(Source, "open", lambda self: people if self.split == "celeb/test" else faces)
    compare(folder, (0,))
    found = [name.split(", ")[2] for name in rows("groups", folder) if name.startswith(FULL)]
    counts = ["gender = f (n = 3", "gender = m (n = 1", "age band = a (n = 2", "age band = b (n = 2"]
    assert [name.split(":")[0] for name in found] == counts


def test_tokens_of_the_cache_give_what_a_parser_answers_by_itself(tmp_path, monkeypatch):
    """Two pictures in two batches, against a whole forward pass for each picture."""
    monkeypatch.setenv("WSFP_CACHE", str(tmp_path))
    parser, faces = load_parser("supervised"), synthfaces("lapa/test").subset(range(2))
    fast = np.stack(list(predict_faces(parser, faces.weak, 1)))
    slow = np.stack([parser.probabilities(faces.image(i)[None])[0].argmax(0).numpy() for i in range(2)])
    assert fast.shape == slow.shape and len(np.unique(slow)) > 10
    assert (fast == slow).mean() > 0.998  # tokens are kept at half precision
    monkeypatch.setattr(Trunk, "forward", lambda *_: pytest.fail("computed again"))
    assert (np.stack(list(predict_faces(parser, faces.weak, 2))) == fast).mean() > 0.9999


def test_real_photographs_are_looked_at_as_parse_does_and_scored_in_what_their_points_outline(study, monkeypatch):
    _, folder = study
    monkeypatch.setattr(Oracle, "probabilities", lambda *_: pytest.fail("looked at as a rendered face"))
    faces = synthfaces("celeb/test").subset(range(COUNT))
    faces = replace(faces, weak=replace(faces.weak, framed=False), scored=SCORED)
    found = tables.Study(profile("embedded"), "shipped", (0, 2), folder).matrices("disfacerep", faces)
    assert found.shape == (2, COUNT, 19, 19)
    scores = Scores(found[1].sum(0), scored=faces.scored)
    assert "hair" not in scores.per_class and scores.mean_f1 == 100


def test_pages_of_the_full_size_world_have_names_of_their_own_and_say_what_was_changed():
    paper = profile("paper")
    assert (
        tables._page_name("table1", paper) == "paper_table1" and tables._page_name("table1", profile("frl")) == "table1"
    )
    assert tables.Study(paper, "shipped", (0,)).others == ("LaPa", "Helen")
    assert [tables._place(column) for column in ("LaPa", "Helen-like", "val")] == [3, 4, 1]
    changed = change(paper, ["train.epochs=1", "parser.test_scales=[1.0]"])
    assert tables._command("tune", ["more"], changed, [0]) == (
        "wsfp systems tune more --profile paper --set train.epochs=1 --set parser.test_scales=[1.0]"
    )


@dataclass(frozen=True)
class Share:
    columns: int


class Shares(System):
    """A system that names the first present component in so many of eight columns of the picture."""

    title, paper, supervision, tried, reads = "Shares", "nowhere", "I", (Share(8), Share(4)), ("columns",)
    trained = 0

    def fit(self, faces, folder=None):
        Shares.trained += 1

    def find(self, faces):
        for i, key in enumerate(faces.ids):
            first = int(faces.labels[i].argmax())
            scores = torch.ones(1, 8, 8)
            scores[:, :, self.settings.columns :] = -1.0
            yield Found(key, np.array([first]), scores, torch.zeros(8, 8), (160, 160))


def test_settings_are_scored_on_val(study, monkeypatch):
    _, folder = study
    monkeypatch.setitem(tables.SYSTEMS, "shares", Shares)
    tables.tune(["shares"], profile("embedded"), "shipped", folder / "work", folder / "results")
    found = rows("systems_val", folder)
    assert list(found) == ["Shares, 0: Share(columns=8)", "Shares, 1: Share(columns=4)"]
    assert Shares.trained == 1  # the settings only say how it is read
    faces = synthfaces("celeb/val").subset(range(COUNT))
    assert (faces.labels[:, 0] == 1).all()  # so skin is what is named everywhere
    for name, columns in (("Shares, 0: Share(columns=8)", 160), ("Shares, 1: Share(columns=4)", 80)):
        truth = np.stack([faces.label_map(i) == 1 for i in range(COUNT)])
        f1 = 2 * truth[:, :, :columns].sum() / (truth.sum() + truth[:, :, :columns].size)
        present = (np.stack([faces.label_map(i) for i in range(COUNT)])[..., None] == np.arange(1, 19)).any((0, 1, 2))
        assert found[name]["seeds"][0] == pytest.approx(100 * f1 / present.sum(), abs=0.5)


@pytest.mark.parametrize(("order", "tau"), [((3, 2, 1), -1.0), ((1, 2, 3), 1.0)])
def test_the_order_is_held_against_that_of_the_paper(order, tau):
    names = ("clims", "mctformer+", "disfacerep")  # rising in every column of the paper
    measured = {
        name: [{"name": f"{name}: {column}", "seeds": [value, value]} for column in tables.COLUMNS]
        for name, value in zip(names, order, strict=True)
    }
    found = {row["name"]: row["seeds"] for row in tables._with_published(measured, tables.COLUMNS)}
    for column in tables.COLUMNS:
        name = f"order as in the paper: {column}"
        assert found[name] == pytest.approx([tau, tau])
        assert found[name + tables.LOW][0] <= found[name + tables.HIGH][0]
    assert found["DisFaceRep: Helen-like, published (real faces, full size)"] == [27.66]
    assert not [name for name in found if name.startswith("SeCo")], "only systems that were measured"


def test_two_systems_have_no_order(study):
    two = {name: [{"name": f"x: {column}", "seeds": [1.0]} for column in tables.COLUMNS] for name in ("clims", "seco")}
    assert not [row for row in tables._with_published(two, tables.COLUMNS) if "order" in row["name"]]


def card(**changes):
    about = {
        "system": "SAM", "paper": "Kirillov et al., ICCV 2023", "commit": "abc", "weights": "ViT-H", "by": "a student",
        "part": "val", "size": [160, 160], "classes": list(CELEBAMASK.classes),
    }  # fmt: skip
    return about | changes


@pytest.fixture
def maps(study):
    """A folder of the true label maps of val, with their card."""
    folder, faces = study[1] / "sam", synthfaces("celeb/val").subset(range(COUNT))
    for i, key in enumerate(faces.ids):
        write_index_png(folder / f"{key}.png", faces.label_map(i), PALETTE)
    write_json(folder / "card.json", card())
    return folder


def test_maps_of_others_stand_in_the_table(study, maps):
    folder = study[1]
    assert tables.add_imported(maps, profile("embedded"), folder / "work").mean_f1 == 100
    compare(folder, (0,))
    imported = {name: row["seeds"] for name, row in rows("table1", folder).items() if "imported" in name}
    assert list(imported) == ["SAM (imported: Kirillov et al., ICCV 2023, commit abc, ViT-H, run by a student): val"]
    assert list(imported.values()) == [[100]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"classes": list(CELEBAMASK.classes[:-1])}, "18 classes are not the 19 of CelebAMask-HQ"),
        ({"classes": ["background", "nose", "skin", *CELEBAMASK.classes[3:]]}, "from id 1 on"),
        ({"size": [80, 160]}, "is 160 x 160, the card says 160 x 80"),
        ({"size": "large"}, "does not hold a Card"),
        ({"part": "holiday"}, "does not hold a Card"),
        ({"part": "test"}, r"lacks 4 of 4 label maps .* is 'test' the right part\?"),
        ({"by": None}, "does not hold a Card"),
        ({"licence": "none"}, "does not hold a Card"),
    ],
)
def test_a_card_that_lies_is_refused(study, maps, changes, sentence, monkeypatch):
    monkeypatch.setattr(Source, "open", lambda self: synthfaces(self.split).subset(range(COUNT)))
    write_json(maps / "card.json", card(**changes))
    with pytest.raises(InputError, match=sentence):
        tables.add_imported(maps, profile("embedded"), study[1] / "work")
    assert not (study[1] / "work").exists()


def test_a_map_that_is_missing_or_no_label_map_is_named(study, maps):
    path = sorted(maps.glob("*.png"))[0]
    path.write_bytes(b"no PNG")
    with pytest.raises(InputError, match=path.name):
        tables.add_imported(maps, profile("embedded"), study[1] / "work")
    path.unlink()
    with pytest.raises(InputError, match=f"lacks 1 of 4 label maps .* the first is {path.name}"):
        tables.add_imported(maps, profile("embedded"), study[1] / "work")

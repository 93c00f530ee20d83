"""`wsfp parse`: what is written for every kind of picture, and what is said when there is nothing to write."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.pictures import read_image, read_label_map
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.palette import PALETTE
from wsfp_helpers.parsing import photographs as module
from wsfp_helpers.parsing.light import LightParser, ParserConfig
from wsfp_helpers.parsing.photographs import parse_photographs, predict_set
from wsfp_helpers.parsing.zoom import CANVAS

FACE_GREY, WALL_GREY = 200, 40


class Grey(LightParser):
    """Calls bright pixels skin, bright red ones an eye, with a fixed probability, everything else background."""

    def __init__(self, sure=0.95, weight=1.0):
        super().__init__(torch.nn.Linear(1, 1), None, ParserConfig(size=32))
        torch.nn.init.constant_(self.network.weight, weight)
        torch.nn.init.zeros_(self.network.bias)
        self.sure, self.seen = sure, []

    def probabilities(self, pictures, flip=True):
        self.seen.append(flip)
        bright = torch.from_numpy(pictures.mean(-1) > 127)
        skin = torch.where(bright, self.sure, 1 - self.sure)
        out = torch.zeros(len(pictures), 19, *pictures.shape[1:3])
        eye = bright & torch.from_numpy(pictures[..., 0] > pictures[..., 2].astype(int) + 60)
        out[:, 0], out[:, 1], out[:, 4] = 1 - skin, torch.where(eye, 0, skin), torch.where(eye, skin, 0)
        return out


class Fickle(Grey):
    """Calls nose what was skin when it looks closer."""

    def probabilities(self, pictures, flip=True):
        out = super().probabilities(pictures, flip)
        if flip:
            out[:, 2] = out[:, 1].clone()
            out[:, 1] = 0
        return out


def photograph(height=60, width=40, rows=(15, 45), columns=(10, 30), eyes=False):
    image = np.full((height, width, 3), WALL_GREY, np.uint8)
    image[slice(*rows), slice(*columns)] = FACE_GREY
    if eyes:
        down, across = (slice(start + (end - start) // 3, start + (end - start) // 2) for start, end in (rows, columns))
        image[down, across] = 230, 120, 120
    return Image.fromarray(image)


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "photographs"
    source.mkdir()
    return source


@pytest.fixture
def shipped(monkeypatch):
    """Stand-ins for both shipped parsers: one is surer than the other, and calls less of the grey skin."""
    parsers = {"weak": Grey(), "supervised": Grey(0.8, weight=2.0)}
    monkeypatch.setattr(module, "load_parser", lambda name: parsers[name])
    monkeypatch.setattr(module, "look_together", lambda several, *seen: [one.probabilities(*seen) for one in several])
    return parsers


def skin_agrees(path, image):
    labels = read_label_map(path, 19)
    truth = np.array(image.convert("L")) > 127
    assert labels.shape == truth.shape
    return ((labels == 1) & truth).sum() / ((labels == 1) | truth).sum() > 0.8


def test_a_folder_gives_index_pngs_of_the_same_name_and_size(folder, tmp_path):
    photograph().save(folder / "tall.jpg")
    photograph(50, 90, (10, 40), (30, 60)).save(folder / "Wide.PNG")
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes(b"x")
    report = parse_photographs(folder, tmp_path / "out", Grey())
    assert [p.name for p in report.written] == ["Wide.png", "tall.png"] and not report.failed
    assert [text.split(":")[0] for text in report.warnings.values()] == ["hardly any eyes were found"] * 2
    for name, source in (("tall", "tall.jpg"), ("Wide", "Wide.PNG")):
        path = tmp_path / "out" / f"{name}.png"
        with Image.open(path) as picture:
            assert picture.mode == "P"
            assert picture.getpalette()[: 3 * 19] == PALETTE.ravel().tolist()
        assert skin_agrees(path, Image.open(folder / source))
    sheet = read_image(report.sheets[0])
    assert report.sheets[0].parent == tmp_path / "out" / "sheets" and sheet.shape[1] == 960
    assert "2 label maps" in str(report)


def test_files_of_other_formats_are_counted(folder, tmp_path):
    photograph().save(folder / "a.jpg")
    for name in ("IMG_2.HEIC", "IMG_1.HEIC", ".DS_Store"):
        (folder / name).write_bytes(b"x")
    (folder / "more").mkdir()
    report = parse_photographs(folder, tmp_path / "out", Grey())
    assert report.skipped == ["IMG_1.HEIC", "IMG_2.HEIC"] and not report.failed
    assert "skipped: 2 files" in str(report) and "the first is IMG_1.HEIC: convert" in str(report)
    photograph().save(folder / "a.gif")
    for name in ("a.gif", "IMG_1.HEIC"):
        with pytest.raises(InputError, match=rf"no photographs at .*{name}: expected \.jpg, .* files; convert others"):
            parse_photographs(folder / name, tmp_path / "other", Grey())
    (folder / "a.jpg").unlink()
    with pytest.raises(InputError, match="no photographs at"):
        parse_photographs(folder, tmp_path / "other", Grey())


def test_the_orientation_of_the_camera_is_applied(folder, tmp_path):
    upright = photograph(60, 40, (5, 30), (10, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turned a quarter clockwise on a screen
    upright.rotate(90, expand=True).save(folder / "phone.jpg", exif=exif, quality=95)
    parse_photographs(folder / "phone.jpg", tmp_path / "out", Grey())
    assert skin_agrees(tmp_path / "out" / "phone.png", upright)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "LA", "1"])
def test_other_colour_modes_are_read(folder, tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    photograph().convert(mode, dither=Image.Dither.NONE).save(folder / f"picture.{suffix}")
    report = parse_photographs(folder, tmp_path / "out", Grey())
    assert not report.failed and skin_agrees(tmp_path / "out" / "picture.png", photograph())


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_of_several_pictures_in_a_file_the_first_is_parsed(folder, tmp_path, suffix):
    other = photograph(rows=(0, 1))
    photograph().save(folder / f"a.{suffix}", save_all=True, append_images=[other, other], lossless=True)
    with Image.open(folder / f"a.{suffix}") as picture:
        assert picture.n_frames > 1
    assert not parse_photographs(folder, tmp_path / "out", Grey()).failed
    assert skin_agrees(tmp_path / "out" / "a.png", photograph())


def test_a_palette_may_have_transparent_colours(folder, tmp_path):
    picture = photograph().convert("P", dither=Image.Dither.NONE)
    picture.save(folder / "a.png", transparency=bytes(range(0, 256, 2)))
    assert not parse_photographs(folder, tmp_path / "out", Grey()).failed
    assert skin_agrees(tmp_path / "out" / "a.png", photograph())


def test_a_corrupt_photograph_is_named_and_the_others_go_on(folder, tmp_path):
    for name in ("a", "c"):
        photograph().save(folder / f"{name}.jpg")
    whole = (folder / "a.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "d.png").write_bytes(b"")
    report = parse_photographs(folder, tmp_path / "out", Grey())
    assert list(report.failed) == ["b.jpg", "d.png"] and "b.jpg" in str(report)
    assert sorted(p.name for p in (tmp_path / "out").glob("*")) == ["a.png", "c.png", "settings.json", "sheets"]


def test_no_clear_face_gets_an_answer_and_a_warning(folder, tmp_path):
    photograph(rows=(0, 1)).save(folder / "wall.png")
    report = parse_photographs(folder, tmp_path / "out", Grey())
    assert "no face" in report.warnings["wall.png"] and (tmp_path / "out" / "wall.png").exists()
    photograph().save(folder / "wall.png")
    report = parse_photographs(folder, tmp_path / "out", Grey(sure=0.6))
    assert "low confidence" in report.warnings["wall.png"] and "warning: wall.png" in str(report)


def test_parsers_that_disagree_about_the_face_are_a_warning(folder, tmp_path, shipped):
    photograph(eyes=True).save(folder / "a.png")
    assert not parse_photographs(folder, tmp_path / "agreed").warnings
    photograph().save(folder / "a.png")
    shipped["supervised"] = Fickle()
    assert parse_photographs(folder, tmp_path / "out").warnings["a.png"].startswith("the parsers disagree (0.00)")


@pytest.mark.parametrize("parser", [None, "weak"])
def test_a_face_without_eyes_gets_a_warning(folder, tmp_path, shipped, parser):
    photograph(eyes=True).save(folder / "a.png")
    photograph().save(folder / "b.png")
    warnings = parse_photographs(folder, tmp_path / "out", parser).warnings
    assert list(warnings) == ["b.png"] and warnings["b.png"].startswith("hardly any eyes were found")


def test_a_picture_that_can_show_no_face_gets_a_warning(folder, tmp_path):
    photograph(31, 40, (5, 25), (10, 30)).save(folder / "small.png")
    Image.new("RGB", (1, 1), "white").save(folder / "dot.png")
    noise = np.random.default_rng(0).normal(200, 1, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "blank.png")
    warnings = parse_photographs(folder, tmp_path / "out", Grey()).warnings
    assert warnings["small.png"].startswith("too small (40 x 31") and warnings["dot.png"].startswith("too small")
    assert "contrast" in warnings["blank.png"]


@pytest.mark.parametrize("colour", ["orange", "blue", "white", "black", (200, 30, 90)])
def test_a_flat_picture_of_any_colour_gets_a_warning(folder, tmp_path, colour):
    Image.new("RGB", (60, 40), colour).save(folder / "flat.png")
    assert "contrast" in parse_photographs(folder, tmp_path / "out", Grey()).warnings["flat.png"]


def test_a_large_photograph_is_looked_at_on_a_small_canvas(folder, tmp_path, monkeypatch):
    photograph(1500, 2000, (250, 1250), (500, 1300)).save(folder / "large.jpg")
    seen = []
    enlarge = module.enlarge_labels
    monkeypatch.setattr(
        module, "enlarge_labels", lambda values, size: (seen.append(values.shape), enlarge(values, size))[1]
    )
    parse_photographs(folder, tmp_path / "out", Grey())
    assert seen == [(19, CANVAS * 3 // 4, CANVAS)]
    assert read_label_map(tmp_path / "out" / "large.png", 19).shape == (1500, 2000)


def test_many_photographs_make_several_sheets(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PER_SHEET", 2)
    for k in range(5):
        photograph().save(folder / f"{k}.png")
    report = parse_photographs(folder, tmp_path / "out", Grey())
    assert [p.name for p in report.sheets] == ["sheet_001.png", "sheet_002.png", "sheet_003.png"]


def test_bad_input_is_refused_before_anything_is_written(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no photograph or folder at"):
        parse_photographs(tmp_path / "nowhere", out, Grey())
    with pytest.raises(InputError, match="no photographs at"):
        parse_photographs(folder, out, Grey())
    photograph().save(folder / "a.png")
    for same in (folder, folder / ".." / folder.name):
        with pytest.raises(InputError, match="folder of the photographs"):
            parse_photographs(folder, same, Grey())
    with pytest.raises(InputError, match="folder of the photographs"):
        parse_photographs(folder / "a.png", folder, Grey())
    with pytest.raises(InputError, match="is a file"):
        parse_photographs(folder, folder / "a.png", Grey())
    with pytest.raises(InputError, match="no parser"):
        parse_photographs(folder, out, tmp_path / "none.safetensors")
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=r"run is a folder: expected the parser \(weak, .*\) itself$"):
        parse_photographs(folder, out, tmp_path / "run")
    (tmp_path / "run" / "parser.safetensors").touch()
    with pytest.raises(InputError, match=r"did you mean .*run/parser\.safetensors\?"):
        parse_photographs(folder, out, tmp_path / "run")
    photograph().save(folder / "a.jpg")
    with pytest.raises(InputError, match="'a'"):
        parse_photographs(folder, out, Grey())
    assert not out.exists() and sorted(p.name for p in folder.iterdir()) == ["a.jpg", "a.png"]


def test_a_label_map_that_cannot_be_written_leaves_the_old_one(folder, tmp_path, monkeypatch):
    photograph().save(folder / "a.png")
    out = tmp_path / "out"
    parse_photographs(folder, out, Grey())
    before = (out / "a.png").read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match="No space left"):
        parse_photographs(folder, out, Grey())
    assert (out / "a.png").read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "settings.json", "sheets"]


def test_pictures_of_the_user_are_not_replaced(folder, tmp_path):
    photograph().save(folder / "a.jpg")
    album = tmp_path / "album"
    album.mkdir()
    (album / "a.png").write_bytes(b"a picture")
    with pytest.raises(InputError, match=r"album holds \*\.png files that are not label maps"):
        parse_photographs(folder, album, Grey())
    assert [(p.name, p.read_bytes()) for p in album.iterdir()] == [("a.png", b"a picture")]


@pytest.mark.parametrize("content", [b"", b"my notes", b"my notes\nand more", b'{"a": 1}\n'], ids=str)
def test_a_file_of_the_user_that_is_named_like_the_progress_is_left_alone(folder, tmp_path, content):
    photograph().save(folder / "a.jpg")
    notes = tmp_path / "out" / "unfinished.jsonl"
    notes.parent.mkdir()
    notes.write_bytes(content)
    with pytest.raises(InputError, match=r"unfinished\.jsonl is not of wsfp parse, .*: rename it or choose another"):
        parse_photographs(folder, tmp_path / "out", Grey())
    assert notes.read_bytes() == content and [path.name for path in notes.parent.iterdir()] == [notes.name]


def test_maps_of_another_parser_are_not_replaced(folder, tmp_path):
    photograph().save(folder / "a.jpg")
    out = tmp_path / "out"
    parse_photographs(folder, out, Grey())
    before = {p: p.read_bytes() for p in out.rglob("*.png")}
    with pytest.raises(InputError, match=r"out holds label maps made with .*choose another folder"):
        parse_photographs(folder, out, Grey(weight=2.0))
    assert {p: p.read_bytes() for p in out.rglob("*.png")} == before


def test_more_photographs_later_get_maps_and_sheets_of_their_own(folder, tmp_path):
    photograph().save(folder / "a.jpg")
    out = tmp_path / "out"
    (first,) = parse_photographs(folder, out, Grey()).sheets
    before = first.read_bytes()
    later = tmp_path / "later"
    later.mkdir()
    photograph(50, 90, (10, 40), (30, 60)).save(later / "b.jpg")
    (second,) = parse_photographs(later, out, Grey()).sheets
    assert sorted(p.name for p in out.glob("*.png")) == ["a.png", "b.png"]
    assert second.name == "sheet_002.png" and first.read_bytes() == before != second.read_bytes()


def test_both_shipped_parsers_answer_in_folders_of_their_own(folder, tmp_path, shipped):
    photograph().save(folder / "a.jpg")
    photograph(50, 90, (10, 40), (30, 60)).save(folder / "b.jpg")
    out = tmp_path / "out"
    report = parse_photographs(folder, out)
    assert [str(path.relative_to(out)) for path in report.written] == [
        "weak/a.png", "supervised/a.png", "weak/b.png", "supervised/b.png",
    ]  # fmt: skip
    assert all(skin_agrees(out / name / "a.png", photograph()) for name in shipped)
    said = report.as_dict()["photographs"]["b.jpg"]
    assert said["parsers"]["weak"]["map"] == str(out / "weak" / "b.png")
    sure = {name: each["parts"]["skin"]["confidence"] for name, each in said["parsers"].items()}
    assert sure["weak"] > sure["supervised"]
    assert read_image(report.sheets[0]).shape[1] == 2 * 3 * 240
    assert "weak (learnt without masks)" in str(report) and "supervised (learnt with masks)" in str(report)
    first = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert [path.name for path in parse_photographs(folder, out).sheets] == ["sheet_002.png"]
    assert all(path.read_bytes() == content for path, content in first.items())


@pytest.mark.parametrize("earlier", ["out", "out/weak"])
def test_maps_of_one_parser_and_of_both_do_not_mix(folder, tmp_path, shipped, earlier):
    photograph().save(folder / "a.jpg")
    parse_photographs(folder, tmp_path / earlier, Grey(weight=3.0))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=rf"{earlier} holds label maps made with .*choose another folder"):
        parse_photographs(folder, tmp_path / "out")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_photographs_that_lie_where_maps_would_be_written_are_refused(tmp_path, shipped):
    (tmp_path / "weak").mkdir()
    photograph().save(tmp_path / "weak" / "a.png")
    with pytest.raises(InputError, match="folder of the photographs"):
        parse_photographs(tmp_path / "weak", tmp_path)


@pytest.mark.promise(
    "kills and faults", "a break of `parse`", "nothing; goes on after the last group of four", "whole maps"
)
def test_an_interrupted_call_of_both_parsers_goes_on(folder, tmp_path, shipped, monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 2)
    for k in range(5):
        photograph(60 + k, 40).save(folder / f"{k}.png")
    parse_photographs(folder, tmp_path / "whole")
    dies, out = Dies(views=5), tmp_path / "out"
    weak = shipped["weak"]
    shipped["weak"] = dies
    with pytest.raises(KeyboardInterrupt):
        parse_photographs(folder, out)
    assert (out / "unfinished.jsonl").exists()
    shipped["weak"] = weak
    parse_photographs(folder, out)
    for path in (tmp_path / "whole").rglob("*"):
        again = out / path.relative_to(tmp_path / "whole")
        assert path.is_dir() or again.read_bytes() == path.read_bytes()
    assert not (out / "unfinished.jsonl").exists()


def test_the_legend_and_the_names_of_the_columns_are_above_the_photographs(folder, tmp_path, shipped):
    photograph().save(folder / "a.jpg")
    sheet = read_image(parse_photographs(folder, tmp_path / "out").sheets[0])
    for colour in PALETTE[1:]:
        rows, _ = np.nonzero((sheet == colour).all(-1))
        assert len(rows) >= 100 and rows.max() < len(sheet) - 258


def test_a_call_that_can_read_nothing_leaves_no_folder(folder, tmp_path):
    (folder / "a.jpg").write_bytes(b"no picture")
    assert list(parse_photographs(folder, tmp_path / "out", Grey()).failed) == ["a.jpg"]
    assert not (tmp_path / "out").exists()


class Dies(Grey):
    """Is interrupted when it has seen so many views."""

    def __init__(self, views=6):
        super().__init__()
        self.views = views

    def probabilities(self, pictures, flip=True):
        if len(self.seen) >= self.views:
            raise KeyboardInterrupt
        return super().probabilities(pictures, flip)


@pytest.mark.parametrize("half_a_line", [b"", b'{"call": "x", "pho'])
def test_an_interrupted_call_goes_on_where_it_was(folder, tmp_path, monkeypatch, half_a_line):
    monkeypatch.setattr(module, "PER_SHEET", 2)
    monkeypatch.setattr(module, "TOGETHER", 1)
    for k in range(5):
        photograph(60 + k, 40).save(folder / f"{k}.png")
    Image.new("RGB", (60, 40), "orange").save(folder / "0.png")
    looks, out = Grey(), tmp_path / "out"
    whole = parse_photographs(folder, tmp_path / "whole", looks)
    with pytest.raises(KeyboardInterrupt):
        parse_photographs(folder, out, Dies())
    with (out / "unfinished.jsonl").open("ab") as file:
        file.write(half_a_line)
    with pytest.raises(KeyboardInterrupt):
        parse_photographs(folder, out, Dies(views=1))
    again = Grey()
    report = parse_photographs(folder, out, again)
    assert 0 < len(again.seen) < len(looks.seen) and report.warnings == whole.warnings and "0.png" in report.warnings
    names = sorted(path.relative_to(out) for path in out.rglob("*"))
    assert names == sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*"))
    for name in names:
        assert (out / name).is_dir() or (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_threads_of_an_interrupted_call_end_before_their_next_look(folder, tmp_path, monkeypatch):
    parser, real = Grey(), module.parse_canvases

    def slow(look, side, canvases, *others):
        for _ in range(200 if parser.seen else 0):  # the first group is written at once
            look(np.zeros((1, side, side, 3), np.uint8), False)
            time.sleep(0.01)
        return real(look, side, canvases, *others)

    def interrupt(*_):
        raise KeyboardInterrupt

    for number in range(5 * module.TOGETHER):
        photograph().save(folder / f"{number:02}.png")
    monkeypatch.setattr(module, "parse_canvases", slow)
    monkeypatch.setattr(module, "_write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        parse_photographs(folder, tmp_path / "out", parser)
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join()
    assert len(parser.seen) < 100


@pytest.mark.promise(
    "kills and faults",
    "photographs that changed after a break of `parse`",
    "nothing; all are parsed anew",
    "no map of the old photograph",
)
def test_a_call_with_other_photographs_starts_anew_after_a_kill(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 1)
    for k in range(5):
        photograph(60 + k, 40).save(folder / f"{k}.png")
    with pytest.raises(KeyboardInterrupt):
        parse_photographs(folder, tmp_path / "out", Dies())
    photograph(80, 50).save(folder / "0.png")
    again = Grey()
    assert len(parse_photographs(folder, tmp_path / "out", again).written) == 5
    assert read_label_map(tmp_path / "out" / "0.png", 19).shape == (80, 50)
    assert not (tmp_path / "out" / "unfinished.jsonl").exists()


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a\nb",
        "zdjęcie",
        "写真",
        "😀",
        "x" * 251,
        "ü" * 125,
        "-rf",
        "a%d{}",
        b"\xff".decode("utf-8", "surrogateescape"),
    ],
)
def test_a_photograph_may_have_any_name(folder, tmp_path, name):
    photograph().save(folder / f"{name}.jpg", "JPEG")
    (folder / f"{name}2.jpg"[-20:]).write_bytes(b"no picture")
    report = parse_photographs(folder, tmp_path / "out", Grey())
    assert [path.name for path in report.written] == [f"{name}.png"] and len(report.failed) == 1
    assert (tmp_path / "out" / f"{name}.png").exists()
    assert len(str(report).splitlines()) == 1 + len(report.warnings) + len(report.failed)
    str(report).encode()


def test_areas_and_confidences_of_the_parts_add_up(folder, tmp_path):
    photograph(60, 40, (15, 45), (10, 30)).save(folder / "a.png")
    Image.new("RGB", (60, 40), "orange").save(folder / "b.png")
    (folder / "c.png").write_bytes(b"no picture")
    said = parse_photographs(folder, tmp_path / "out", Grey()).as_dict()
    assert list(said["photographs"]) == ["a.png", "b.png"] and list(said["failed"]) == ["c.png"]
    assert said["photographs"]["a.png"]["parsers"]["parser"]["map"] == str(tmp_path / "out" / "a.png")
    parts = said["photographs"]["a.png"]["parsers"]["parser"]["parts"]
    labels = read_label_map(tmp_path / "out" / "a.png", 19)
    assert parts["skin"]["area"] == pytest.approx((labels == 1).mean(), abs=1e-6)
    assert sum(part["area"] for part in parts.values()) == pytest.approx(1, abs=1e-5)
    assert 0.5 < parts["skin"]["confidence"] < 0.96 and set(parts) == {"background", "skin"}
    assert said["photographs"]["b.png"]["warning"].startswith("hardly any contrast")


@pytest.mark.parametrize("name", ["film.mp4", "Clip.MOV"])
def test_a_film_is_refused_with_the_way_to_pictures(folder, tmp_path, name):
    (folder / name).write_bytes(b"x")
    for source in (folder, folder / name):
        with pytest.raises(InputError, match=rf"{name} is a film.*ffmpeg -i {name}"):
            parse_photographs(source, tmp_path / "out", Grey())
    photograph().save(folder / "a.jpg")
    assert parse_photographs(folder, tmp_path / "out", Grey()).skipped == [name]


def test_only_a_parser_that_the_command_loads_itself_is_fast(folder, tmp_path, monkeypatch):
    photograph().save(folder / "a.jpg")
    given, loaded = Grey(), Grey()
    monkeypatch.setattr(module, "load_parser", lambda _: loaded)
    parse_photographs(folder, tmp_path / "given", given)
    parse_photographs(folder, tmp_path / "loaded", "weak")
    assert loaded.fast and not given.fast


def test_what_cannot_be_written_beside_the_network_ends_the_call(folder, tmp_path, monkeypatch):
    for k in range(3):
        photograph().save(folder / f"{k}.png")

    def refuse(path, *_):
        raise InputError(f"could not write {path}")

    monkeypatch.setattr(module, "write_index_png", refuse)
    with pytest.raises(InputError, match=r"could not write .*0\.png"):
        parse_photographs(folder, tmp_path / "out", Grey())


def two_faces(name):
    pictures = {"a": np.array(photograph(64, 64)), "b": np.array(photograph(48, 48))}
    return WeakFaces(name, list(pictures), pictures.get, np.ones((2, 18)), framed=name != "photographs"), pictures


def test_framed_faces_are_seen_once_as_a_whole_and_photographs_closer(tmp_path):
    for name, seen in (("celeb", [True, True]), ("photographs", [False, False, True] * 2)):
        (faces, pictures), grey = two_faces(name), Grey()
        out = predict_set(faces, tmp_path / name, grey)
        assert grey.seen[: len(seen)] == seen and (name == "celeb") == (len(grey.seen) == 2)
        for key, picture in pictures.items():
            assert skin_agrees(out / f"{key}.png", Image.fromarray(picture))


def test_an_interrupted_prediction_goes_on_and_another_parsers_folder_is_refused(tmp_path):
    (faces, _), grey = two_faces("celeb"), Grey()
    predict_set(faces, tmp_path / "out", grey)
    (tmp_path / "out" / "b.png").unlink()
    predict_set(faces, tmp_path / "out", grey)
    assert grey.seen == [True] * 3 and (tmp_path / "out" / "b.png").exists()
    with pytest.raises(InputError, match="choose another folder"):
        predict_set(faces, tmp_path / "out", Grey(weight=2.0))
    with pytest.raises(InputError, match="choose another folder"):
        predict_set(two_faces("other")[0], tmp_path / "out", grey)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the memory of one child is not known")
@pytest.mark.promise(
    "memory", "`parse` of a photograph of 100 million pixels", "the usual, below 2 GB", "a map of 100 million pixels"
)
def test_a_photograph_of_100_million_pixels_needs_less_than_two_gigabytes(tmp_path):
    photograph(100, 100, (20, 80), (30, 70)).resize((10_000, 10_000)).save(tmp_path / "large.png", compress_level=1)
    command = ["parse", "large.png", "--parser", "weak", "--out", "out"]
    process = subprocess.Popen([sys.executable, "-m", "wsfp_helpers.cli", *command], cwd=tmp_path)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0 and read_label_map(tmp_path / "out" / "large.png", 19).shape == (10_000, 10_000)
    assert used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) < 2e9

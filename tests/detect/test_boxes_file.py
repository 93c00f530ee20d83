"""The boxes file: format, resumption after a kill, shards, and what is refused."""

import numpy as np
import pytest
import torch

from wsfp_helpers.common.errors import InputError
from wsfp_helpers.data.weak import WeakFaces
from wsfp_helpers.detect.base import PHRASES, Detection, check_phrase, clip_box
from wsfp_helpers.detect.boxes import BoxRecord, detect_dataset, gather_boxes, read_boxes, shard_path
from wsfp_helpers.labels import K

LINE = (
    '{"id":"a","size":[20,30],"detector":"d","boxes":{"eye":[[1,2,3,4,0.5],[5,6,7.5,8,0.75]],'
    '"ear":[],"eyebrow":[],"nose":[],"mouth":[]}}\n'
)


def faces(number=10, name="tiny"):
    pictures = {f"{name}{i}": np.full((20, 30, 3), i, np.uint8) for i in range(number)}
    return WeakFaces(name, list(pictures), pictures.__getitem__, np.ones((number, K)))


class Counting:
    """Finds a nose whose place tells the picture's grey value; may die after some pictures."""

    phrases = PHRASES

    def __init__(self, name="counting", dies_after=None):
        self.name, self.seen, self.dies_after = name, 0, dies_after

    def __call__(self, image, phrase):
        self.seen += 1
        return [Detection((float(image[0, 0, 0]), 1.0, 20.0, 9.0), 0.5, "nose")] if phrase == "nose" else []

    def detect_batch(self, images, phrases=PHRASES):
        if self.dies_after is not None and self.seen >= self.dies_after * len(phrases):
            raise KeyboardInterrupt
        return [{p: self(image, p) for p in phrases} for image in images]


def test_format(tmp_path):
    path = tmp_path / "boxes.jsonl"
    path.write_text(LINE)
    record = read_boxes(path)["a"]
    assert (record.id, record.size, record.detector) == ("a", (20, 30), "d")
    assert record.candidates["eye"] == [
        Detection((5, 6, 7.5, 8), 0.75, "eye"), Detection((1, 2, 3, 4), 0.5, "eye")
    ]  # fmt: skip
    assert record.candidates["ear"] == []
    path.write_text(record.line())
    assert read_boxes(path) == {"a": record}


def test_records_are_read_when_they_are_asked_for(tmp_path):
    path = tmp_path / "boxes.jsonl"
    path.write_text(LINE + LINE.replace('"a"', '"b"'))
    boxes = read_boxes(path)
    assert list(boxes) == ["a", "b"] and boxes["b"].id == "b" and "c" not in boxes
    path.write_text(LINE.replace('"a"', '"b"') + LINE)
    with pytest.raises(InputError, match=r"boxes\.jsonl was changed while it was read"):
        boxes["a"]


@pytest.mark.promise(
    "kills and faults",
    "half a line at the end of `boxes.jsonl`",
    "for a reader, after how many pictures `wsfp ccd` goes on",
    "the half line is made again, the others stay",
)
def test_a_killed_run_goes_on(tmp_path):
    path, data, whole = tmp_path / "boxes.jsonl", faces(), tmp_path / "whole.jsonl"
    detect_dataset(data, Counting(), whole, batch=2)
    with pytest.raises(KeyboardInterrupt):
        detect_dataset(data, Counting(dies_after=4), path, batch=2)
    assert len(read_boxes(path)) == 4
    path.write_bytes(path.read_bytes()[:-17])  # the fourth line is cut in half
    with pytest.raises(InputError, match=r"last line of .* is cut.*goes on after 3 images"):
        read_boxes(path)
    again = Counting()
    detect_dataset(data, again, path, batch=2)
    assert again.seen == 7 * len(PHRASES)
    assert path.read_bytes() == whole.read_bytes()
    detect_dataset(data, again, path)
    assert again.seen == 7 * len(PHRASES)


@pytest.mark.promise("determinism", "detection in shares, and in one piece", "-", "the same `boxes.jsonl`")
def test_shards_give_the_same_file(tmp_path):
    data, out = faces(), tmp_path / "boxes.jsonl"
    for number in range(3):
        assert detect_dataset(data, Counting(), out, shard=(number, 3)) == shard_path(out, number, 3)
    assert list(gather_boxes(out, data, "counting")) == list(data.ids)
    detect_dataset(data, Counting(), tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.jsonl", "whole.jsonl"]
    with pytest.raises(InputError, match="shard 3 of 3"):
        detect_dataset(data, Counting(), out, shard=(3, 3))


class Small(Counting):
    """Runs out of memory where it is shown more than two pictures at a time."""

    def __init__(self, most=2):
        super().__init__()
        self.most = most

    def detect_batch(self, images, phrases=PHRASES):
        if len(images) > self.most:
            raise torch.cuda.OutOfMemoryError
        return super().detect_batch(images, phrases)


def test_a_gpu_with_little_memory_is_shown_fewer_pictures_at_a_time(tmp_path, capsys):
    found = detect_dataset(faces(), Small(), tmp_path / "small.jsonl")
    assert found.read_bytes() == detect_dataset(faces(), Counting(), tmp_path / "whole.jsonl").read_bytes()
    said = capsys.readouterr()
    assert "too many for the GPU: now 4" in said.err and "now 2" in said.err and "now 1" not in said.err + said.out
    with pytest.raises(torch.cuda.OutOfMemoryError):
        detect_dataset(faces(), Small(0), tmp_path / "none.jsonl")


@pytest.mark.promise(
    "kills and faults",
    "`--shard` of a killed detection, another number of shares than before",
    "nothing",
    "what was detected is kept once",
)
def test_shares_of_a_killed_detection_are_gathered_whatever_their_number(tmp_path):
    data, out = faces(), tmp_path / "boxes.jsonl"
    detect_dataset(data, Counting(), tmp_path / "whole.jsonl")
    detect_dataset(data.subset([7, 2]), Counting(), out)
    detect_dataset(data, Counting(), out, shard=(1, 3))
    path = detect_dataset(data, Counting(), out, shard=(0, 2))
    path.write_bytes(path.read_bytes()[:-17])
    assert [*gather_boxes(out, data, "counting")] == [f"tiny{i}" for i in (0, 1, 2, 4, 6, 7)]
    assert list(read_boxes(out)) == [f"tiny{i}" for i in (0, 1, 2, 4, 6, 7)] and not path.exists()
    before = out.read_bytes()
    for others, detector in ((faces(name="others"), "counting"), (data, "another")):
        with pytest.raises(InputError, match="other pictures or another detector"):
            gather_boxes(out, others, detector)
    assert out.read_bytes() == before
    again = Counting()
    detect_dataset(data, again, out)
    assert again.seen == 4 * len(PHRASES)
    gather_boxes(out, data, "counting")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line * 2, "line 2: the id 'a' is there twice"),
        (lambda line: line.replace("1,2,3,4", "1,2,31,4"), r"line 1: the eye box \[1, 2, 31, 4\] of a is not inside"),
        (lambda line: line.replace("1,2,3,4", "3,2,1,4"), "not inside its picture of 30 x 20"),
        (lambda line: line.replace("1,2,3,4", "-1,2,3,4"), "not inside its picture"),
        (lambda line: line.replace("1,2,3,4,", "1,2,3,"), "line 1 is not a line of a boxes file"),
        (lambda line: line[:30] + "\n" + line, "line 1 is not a line of a boxes file"),
        (lambda line: line.replace("size", "shape"), "line 1 is not a line of a boxes file"),
        (lambda line: "[]\n", "line 1 is not a line of a boxes file"),
    ],
)
def test_bad_files(tmp_path, change, message):
    path = tmp_path / "boxes.jsonl"
    path.write_text(change(LINE))
    with pytest.raises(InputError, match=message):
        read_boxes(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no boxes file at"):
        read_boxes(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"is a folder: expected the boxes file itself$"):
        read_boxes(tmp_path)
    (tmp_path / "boxes.jsonl").write_text(LINE)
    with pytest.raises(InputError, match=r"did you mean .*/boxes\.jsonl\?"):
        read_boxes(tmp_path)


@pytest.mark.parametrize("other", ["pictures", "detector", "phrases"])
def test_a_file_of_something_else_is_not_continued(tmp_path, other):
    path = detect_dataset(faces(), Counting(), tmp_path / "boxes.jsonl")
    before = path.read_bytes()
    data = faces(name="others") if other == "pictures" else faces()
    detector = Counting("another" if other == "detector" else "counting")
    with pytest.raises(InputError, match="other pictures or another detector"):
        detect_dataset(data, detector, path, ["nose"] if other == "phrases" else PHRASES)
    assert path.read_bytes() == before


def test_phrases_and_boxes_at_the_border():
    check_phrase(Counting(), "eye")
    with pytest.raises(InputError, match="does not know 'left eye': expected one of eye, eyebrow, ear, nose, mouth"):
        check_phrase(Counting(), "left eye")
    with pytest.raises(InputError, match="empty phrase"):
        check_phrase(Counting(), " . ")
    assert clip_box((-3, 2, 9, 30), 20, 8) == (0, 2, 8, 20)
    assert clip_box((9, 2, 12, 6), 20, 8) is None


def test_a_file_in_place_of_the_folder_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(InputError, match=r"could not write .*/file .*choose another folder"):
        detect_dataset(faces(), Counting(), tmp_path / "file" / "boxes.jsonl")
    assert (tmp_path / "file").read_text() == "old"


def test_rounding_keeps_boxes_valid(tmp_path):
    """A sliver that rounds to nothing is left out, so every file that is written can be read."""
    thin = Detection((3.01, 1.0, 3.02, 5.0), 0.9, "eye")
    whole = Detection((29.96, 1.0, 30.0, 5.0), 0.8, "eye")
    path = tmp_path / "boxes.jsonl"
    found = {phrase: [] for phrase in PHRASES} | {"eye": [thin, whole, thin._replace(box=(1.0, 1.0, 2.0, 2.0))]}
    path.write_text(BoxRecord("a", (20, 30), "d", found).line())
    assert [d.box for d in read_boxes(path)["a"].candidates["eye"]] == [(1, 1, 2, 2)]

"""The soak of the stages: every stage sees every picture, and the rows are those of what it took."""

import pytest

from tools import scale
from wsfp_helpers.common.errors import InputError
from wsfp_helpers.common.files import read_json


def test_a_stage_leaves_what_the_next_one_takes(tmp_path, monkeypatch):
    """In this process, which knows torch already."""
    count, place = scale.LEAST, tmp_path / "place"
    scale.make_pictures(place, count)
    for name in scale.STAGES:
        seconds, most = scale.run_stage(name, place, count)
        assert seconds > 0 and 100 < most < 5000, name
    assert len((place / "ccd" / "boxes.jsonl").read_text().splitlines()) == count
    assert read_json(place / "run" / "config.json")["config"]["profile"]["train_data"]["name"] == "shards"
    for folder in ("fcams", "labels", "test"):
        names = [path for path in (place / folder).iterdir() if path.suffix in (".png", ".safetensors")]
        assert len(names) == count, folder


def test_rows_of_memory_and_of_time_between_two_numbers(monkeypatch, tmp_path, capsys):
    class Here:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, call, *arguments):
            self.result = lambda: call(*arguments)
            return self

    monkeypatch.setattr(scale, "ProcessPoolExecutor", lambda *_: Here())
    monkeypatch.setattr(scale, "make_pictures", lambda place, count: None)
    monkeypatch.setattr(scale, "run_stage", lambda name, place, count: (3 + 0.002 * count, 500.0 + count / 1000))
    rows = {row["name"]: row["seeds"][0] for row in scale.soak_stages(30_000, tmp_path)}
    assert len(rows) == 5 * len(scale.STAGES) and len(capsys.readouterr().out.splitlines()) == 3 * len(scale.STAGES)
    assert rows["train, 30,000 pictures"] == 530 and rows["train, 1,000 pictures"] == 501
    assert rows["fcam, from 1,000 to 5,000 pictures"] == pytest.approx(2)
    assert rows["fcam, from 5,000 to 30,000 pictures"] == pytest.approx(2)


def test_too_few_pictures_are_a_sentence():
    with pytest.raises(InputError, match="--count is 99: expected 100 or more"):
        scale.main(["--count", "99"])

"""Configs: written and read back with their types, refused with a sentence, compared, keyed and printed."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from wsfp_helpers.common.configs import change, describe, differences, key_of, plain, read_config
from wsfp_helpers.common.errors import InputError


@dataclass(frozen=True)
class Inner:
    scales: tuple[float, ...] = (1.0, 0.5)
    mode: Literal["a", "b"] = "a"

    def __post_init__(self):
        if not self.scales:
            raise InputError("no scale: expected one or more")


@dataclass(frozen=True)
class Other:
    network: str = "big"


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float = 0.1
    steps: int = 3
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    either: Inner | Other = field(default_factory=Other)
    words: tuple[str, ...] = ("a",)


@pytest.mark.parametrize(
    "config",
    [
        Outer("x"),
        Outer("x", 2.0, 5, Inner((0.25,), "b"), Inner((3.0, 4.0)), Inner((1.0,))),
        Outer("x", either=Other("small"), words=("b", "c")),
    ],
)
def test_a_config_comes_back_from_json_as_it_was(config):
    assert read_config(Outer, plain(config), "f") == config


def test_whole_numbers_are_floats_where_floats_are_asked_for_and_missing_fields_get_their_default():
    config = read_config(Outer, {"name": "x", "rate": 1, "inner": {"scales": [1, 2]}}, "f")
    assert config.rate == 1.0 and type(config.rate) is float and config.steps == 3
    assert config.inner.scales == (1.0, 2.0)


@pytest.mark.parametrize(
    "content",
    [
        [], "text", None, 3, {}, {"name": 3}, {"name": "x", "steps": "two"}, {"name": "x", "steps": 1.5},
        {"name": "x", "unknown": 1}, {"name": "x", "inner": {"scales": 3}}, {"name": "x", "inner": {"scales": ["a"]}},
        {"name": "x", "inner": {"scales": []}}, {"name": "x", "inner": {"mode": "c"}}, {"name": "x", "inner": None},
        {"name": "x", "inner": {"what": 1}}, {"name": "x", "rate": True}, {"name": "x", "steps": True},
        {"name": "x", "either": {"network": 3}}, {"name": "x", "rate": 10**400},
        {"name": "x", "inner": {"scales": [-(10**400)]}}, {"name": "x", "inner": {"scales": "12"}}, {"name": ["x"]},
        {"name": "x", "words": "ab"}, {"name": "x", "words": {"a": 1}}, {"name": "x", "words": ["a", 1]},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_config_is_one_sentence_that_names_the_file(content):
    with pytest.raises(InputError, match=r"^run/config\.json does not hold a Outer \(.+\): choose another") as error:
        read_config(Outer, content, "run/config.json")
    assert "\n" not in str(error.value)


def test_plain_is_what_json_gives_back():
    assert plain({"a": Inner(), "b": (1, 2), "c": Path("x")}) == {
        "a": {"scales": [1.0, 0.5], "mode": "a"}, "b": [1, 2], "c": "x"
    }  # fmt: skip


def test_a_key_changes_with_every_value_and_not_with_the_order():
    config = {"a": Inner(), "b": 1}
    assert key_of(config) == key_of({"b": 1, "a": asdict(Inner())})
    others = [{"a": Inner((1.0,)), "b": 1}, {"a": Inner(), "b": 2}, {"a": Inner(), "b": 1, "c": None}, Inner()]
    assert len({key_of(each) for each in [config, *others]}) == 5 and len(key_of(config)) == 12


def test_differences_are_named_with_dots():
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}
    assert differences(old, new) == [("b.c", 2, 4), ("e", None, 5)]
    assert differences(old, old) == []


def test_every_field_is_printed():
    text = describe(Outer("x", maybe=Inner(mode="b")))
    assert [line.split()[0] for line in text.splitlines()] == [
        "name", "rate", "steps", "inner:", "scales", "mode", "maybe:", "scales", "mode", "either:", "network", "words"
    ]  # fmt: skip
    assert "    mode                 b" in text.splitlines()


def test_settings_change_what_they_name_and_nothing_else():
    before = Outer("x", maybe=Inner(), either=Inner())
    settings = ["rate=2", "inner.scales=[1, 0.25]", "inner.mode=b", "maybe.mode = b", "either.scales=[3.0]", 'name="5"']
    after = Outer("5", 2.0, 3, Inner((1.0, 0.25), "b"), Inner(mode="b"), Inner((3.0,)))
    assert change(before, settings) == after and before.rate == 0.1
    assert change(before, ["maybe=null"]) == Outer("x", either=Inner())
    assert change(before, []) == before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["steps"], "the setting 'steps' has no value: expected key=value"),
        (["steps=1", "steps=2"], "the setting steps is given twice"),
        (["step=1"], "unknown setting step: expected one of name, rate, steps"),
        (["inner.scale=1"], "unknown setting inner.scale: expected one of inner.scales, inner.mode$"),
        (["maybe.mode=b"], "maybe.mode is not there: maybe is None"),
        (["maybe=null", "maybe.mode=b"], "maybe.mode is not there: maybe is None"),
        (["steps=1.5"], r'steps=1.5 cannot be used: wrong value type for field "steps"'),
        (["steps=true"], "steps=true cannot be used"),
        (["inner.mode=c"], r'inner.mode="c" cannot be used: mode is .c.: expected one of a, b$'),
        (["inner.scales=[]"], r"inner.scales=\[\] cannot be used: no scale: expected one or more"),
        (["either={}"], "either is given an object: set what is in it one by one, as either.NAME=VALUE"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        change(Outer("x"), settings)

"""Configs as plain data: written as JSON, read back with their types, compared, printed and made into a key."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

import dacite

from wsfp_helpers.common.errors import InputError

Config = TypeVar("Config")
LAST_SEED = 99_999_999
"""The largest seed, small enough for every generator of random numbers that is started with a multiple of it."""


def plain(value: object) -> object:
    """What JSON gives back of ``value``: dataclasses and mappings as dictionaries, tuples as lists, paths as text."""
    return json.loads(json.dumps(value, default=_as_json))


def _as_json(value: object) -> object:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


def read_config(kind: type[Config], content: Any, where: object) -> Config:
    """A dataclass from plain data, with its nested dataclasses and tuples; fields that are left out get their default.

    Args:
        kind: The dataclass.
        content: What JSON gave for it.
        where: The file it comes from, for the sentence of an error.

    Raises:
        InputError: A field is unknown, has a value of another type, or a value that the dataclass refuses.
    """
    try:
        return _from_plain(kind, content)
    except ValueError as error:
        raise InputError(
            f"{where} does not hold a {kind.__name__} ({error}): choose another file, or make it again"
        ) from error


def _from_plain(kind: type[Config], content: Any) -> Config:
    """As :func:`read_config`, with a ``ValueError`` that says what is wrong."""
    settings = dacite.Config(strict=True, type_hooks={float: _as_float, int: _no_truth})
    try:
        if not isinstance(content, Mapping):
            raise TypeError(f"expected an object, got {content!r}")
        return dacite.from_dict(kind, _with_tuples(content), settings)
    except (dacite.DaciteError, TypeError, ValueError, OverflowError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, dacite.WrongTypeError) and get_origin(error.field_type) is Literal:
            among = ", ".join(map(str, get_args(error.field_type)))
            why = f"{error.field_path} is {error.value!r}: expected one of {among}"
        why = re.sub('value "<generator.*?>"', "a text", why)  # dacite's words for a text in place of a list
        raise ValueError(why) from error


def change(config: Config, settings: Sequence[str]) -> Config:
    """A copy of a dataclass with other values, each given as a text ``key=value``.

    Args:
        config: The dataclass; dots lead into nested ones, as in ``train.batch_size``.
        settings: A value is JSON (``35``, ``[1.0, 0.5]``, ``true``, ``null``), and else a text.

    Raises:
        InputError: A text has no ``=``, a key is unknown or comes twice, or a value is of another type or out of range.
    """
    values: dict[str, Any] = {}
    for text in settings:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise InputError(f"the setting {text!r} has no value: expected key=value, for example train.batch_size=35")
        if key in values:
            raise InputError(f"the setting {key} is given twice: leave one of them out")
        try:
            values[key] = json.loads(value)
        except (ValueError, RecursionError):
            values[key] = value
        if isinstance(values[key], dict):
            raise InputError(f"the setting {key} is given an object: set what is in it one by one, as {key}.NAME=VALUE")
    return _changed(config, values)


def _changed(config: Any, values: Mapping[str, Any], above: str = "") -> Any:
    names = [each.name for each in dataclasses.fields(config)]
    own: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name, inside, rest = key.partition(".")
        if name not in names:
            raise InputError(f"unknown setting {above}{name}: expected one of {', '.join(above + n for n in names)}")
        if inside:
            below.setdefault(name, {})[rest] = value
        else:
            own[name] = value
    changed = {}
    for name, parts in below.items():
        if name in own or not dataclasses.is_dataclass(inner := getattr(config, name)):
            value = own.get(name, getattr(config, name))
            raise InputError(f"the setting {above}{name}.{next(iter(parts))} is not there: {above}{name} is {value!r}")
        changed[name] = _changed(inner, parts, f"{above}{name}.")
    try:
        return dataclasses.replace(_from_plain(type(config), plain(config) | own), **changed)  # type: ignore[operator]
    except ValueError as error:
        given = ", ".join(f"{above}{name}={json.dumps(value)}" for name, value in own.items())
        raise InputError(f"the setting {given or above} cannot be used: {error}") from error


def _with_tuples(value: Any) -> Any:
    # Not dacite's own cast, which makes a tuple of a text as well.
    if isinstance(value, Mapping):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def check_range(config: object, **limits: tuple[float, float]) -> None:
    """Raise :class:`InputError` for a field outside its limits, NaN, or an empty tuple; ``None`` is always inside."""
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(each is not None and not low <= each <= high for each in values):
            raise InputError(f"{name} is {value}: expected {low:,} to {high:,}")


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(_no_truth(value), int) else value


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {value}")
    return value


def key_of(settings: object) -> str:
    """Twelve hexadecimal digits that change with ``settings``, for the name of a folder."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=_as_json).encode()).hexdigest()[:12]


def differences(old: Mapping, new: Mapping, prefix: str = "") -> list[tuple[str, object, object]]:
    """``(key, old value, new value)`` of all that differs, with dots for nested keys; ``None`` where it is missing."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found


def describe(config: Any, indent: str = "") -> str:
    """Every field of a dataclass with its value, one a line; nested ones are indented unless they print themselves."""
    lines = []
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__:
            lines += [f"{indent}{each.name}: {type(value).__name__}", describe(value, indent + "    ")]
        else:
            lines.append(f"{indent}{each.name:<{24 - len(indent)}} {value}")
    return "\n".join(lines)

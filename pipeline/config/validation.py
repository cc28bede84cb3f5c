"""What does not fit when plain values are read as a dataclass, told all at once and with the nearest right key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

from omegaconf import MISSING

_SCALARS: dict[Any, tuple[str, tuple[type, ...]]] = {
    str: ("text", (str, int, float)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    bool: ("true or false", (bool,)),
}
"""What a value of a scalar type must be, in words and as the types YAML gives."""


def is_number(value: Any) -> bool:
    """Check whether a value is a number: of true and false Python says so, a configuration does not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Check whether a value is a whole number of at least 1."""
    return is_number(value) and isinstance(value, int) and value >= 1


def without_nulls(value: Any, hint: Any) -> Any:
    """Return a configuration without the nulls that stand for no value: the default holds there, an entry of a mapping is gone.

    Args:
        value: what a YAML file holds, as dicts, lists and scalars.
        hint: the type it should have, as `find_misfits` takes it.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return value if value is None else without_nulls(value, _not_none(args))
    if not isinstance(value, dict):
        return value
    if origin is dict:
        if args[1] is Any:
            return value
        return {key: without_nulls(item, args[1]) for key, item in value.items() if item is not None}
    if not dataclasses.is_dataclass(hint):
        return value
    hints = _hints(typing.cast(type, hint))
    kept = {}
    for key, item in value.items():
        if item is None and key in hints and not _may_be_null(hints[key]):
            continue
        kept[key] = without_nulls(item, hints[key]) if key in hints else item
    return kept


def _may_be_null(hint: Any) -> bool:
    return hint is Any or types.NoneType in typing.get_args(hint)


def find_misfits(value: Any, hint: Any, key: str = "") -> Iterator[str]:
    """Yield one message per unknown key, missing key and value of a wrong type.

    Args:
        value: what a YAML file holds, as dicts, lists and scalars.
        hint: the type it should have: a dataclass, or a type that a field of one may have.
        key: the dotted name of `value` in its file.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if value == MISSING:
        yield f"{key} is missing; set it"
    elif dataclasses.is_dataclass(hint):
        yield from _of_block(value, typing.cast(type, hint), key)
    elif origin is types.UnionType:
        if value is not None:
            yield from find_misfits(value, _not_none(args), key)
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{key}: {value!r} must be a mapping of keys"
            return
        for name, item in value.items():
            if not isinstance(name, str):
                yield f"{key}: the key {name!r} must be text, so quote it"
            yield from find_misfits(item, args[1], f"{key}.{name}")
    elif origin is list:
        if not isinstance(value, list):
            yield f"{key}: {value!r} must be a list, for example [{value}]"
            return
        for number, item in enumerate(value):
            yield from find_misfits(item, args[0], f"{key}[{number}]")
    elif hint is Any:
        if isinstance(value, dict | list):
            for name, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from find_misfits(item, Any, f"{key}.{name}")
    elif hint in _SCALARS:
        words, accepted = _SCALARS[hint]
        if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
            quote = (
                "; YAML reads this word as a truth value, so quote it"
                if hint is str and isinstance(value, bool)
                else ""
            )
            yield f"{key}: {value!r} must be {words}{quote}"


def make_typed(value: Any, hint: Any) -> Any:
    """Return what a YAML file holds, and `find_misfits` has nothing to say of, as the type it should have.

    A whole number becomes a float, and a number a text, where that is wanted.

    Args:
        value: dicts, lists and scalars.
        hint: as `find_misfits` takes it.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else make_typed(value, _not_none(args))
    if origin is dict:
        return {key: make_typed(item, args[1]) for key, item in value.items()}
    if origin is list:
        return [make_typed(item, args[0]) for item in value]
    if dataclasses.is_dataclass(hint):
        hints, fields = _hints(typing.cast(type, hint)), _fields(typing.cast(type, hint))
        return typing.cast(type, hint)(**{fields[key]: make_typed(item, hints[key]) for key, item in value.items()})
    return hint(value) if hint in (str, float) else value


def key_of(field: str) -> str:
    """Return the key of a field in a file: its name, without the underscore behind one that is a word of Python (PEP 8)."""
    return field.removesuffix("_")


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Key: its type."""
    return {key_of(name): hint for name, hint in typing.get_type_hints(cls).items()}


@cache
def _fields(cls: type) -> dict[str, str]:
    """Key: the field."""
    return {key_of(part.name): part.name for part in dataclasses.fields(cls)}


def _not_none(args: tuple[Any, ...]) -> Any:
    return next(arg for arg in args if arg is not types.NoneType)


def _of_block(value: Any, cls: type, key: str) -> Iterator[str]:
    hints = _hints(cls)
    if not isinstance(value, dict):
        yield f"{key}: {value!r} must be a block of keys: {', '.join(hints)}"
        return
    prefix = f"{key}." if key else ""
    for name, item in value.items():
        if name in hints:
            yield from find_misfits(item, hints[name], f"{prefix}{name}")
        else:
            near = difflib.get_close_matches(str(name), hints, 1)
            yield f"{prefix}{name} is not a known key; " + (
                f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(hints)}"
            )
    for part in dataclasses.fields(cls):
        name = key_of(part.name)
        if part.default is MISSING and name not in value:
            yield f"{prefix}{name} is missing; set it"
        elif name not in value and dataclasses.is_dataclass(hints[name]):
            yield from _of_block({}, hints[name], f"{prefix}{name}")

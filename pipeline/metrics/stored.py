"""Dataclasses as the JSON that files hold, and back.

A field is a key, in the order of the fields; ``Annotated[float, "f1-score"]`` gives it another name, and the fields of an
``Annotated[…, SPREAD]`` stand among those around it. One with a default is left out where it holds that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
SPREAD = object()


def to_json(value: Any) -> Any:
    """Return a value with every dataclass in it, however deep, as a mapping."""
    if isinstance(value, Mapping):
        return {key: to_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(one) for one in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    found: dict[str, Any] = {}
    for one, _, key in _fields(type(value)):
        part = getattr(value, one.name)
        if key is SPREAD:
            found |= to_json(part) or {}
        elif one.default is MISSING or part != one.default:
            found[key] = to_json(part)
    return found


def from_json(kind: type[T], value: Mapping[str, Any]) -> T:
    """Return a dataclass from a mapping that `to_json` made. What is missing is None where it may be.

    Raises:
        ValueError: naming every key that is missing and may not be.
    """
    found: T = _read(kind, value)
    return found


def _read(kind: Any, value: Any) -> Any:
    parts = get_args(kind)
    if value is None:
        return None
    if get_origin(kind) in (Union, UnionType):
        return _read(next(part for part in parts if part is not NoneType), value)
    if isinstance(value, Mapping) and parts:
        return {key: _read(parts[1], one) for key, one in value.items()}
    if isinstance(value, list) and parts:
        return tuple(_read(parts[0], one) for one in value)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return value
    found: dict[str, Any] = {}
    missing = []
    for one, wanted, key in _fields(kind):
        may_be_none = NoneType in get_args(wanted)
        if key is SPREAD:
            inner: Any = next(part for part in (*get_args(wanted), wanted) if is_dataclass(part))
            there = not may_be_none or any(own in value for _, _, own in _fields(inner))
            found[one.name] = _read(inner, value) if there else None
        elif key in value:
            found[one.name] = _read(wanted, value[key])
        elif may_be_none and one.default is MISSING:
            found[one.name] = None
        elif one.default is one.default_factory is MISSING:
            missing.append(key)
    if missing:
        raise ValueError(f"no {', '.join(missing)} where {kind.__name__} should be")
    return kind(**found)


@cache
def _fields(kind: Any) -> list[tuple[dataclasses.Field[Any], Any, Any]]:
    """(field, its type, its key) of every field of a dataclass."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for one in dataclasses.fields(kind):
        wanted = hints[one.name]
        extras = getattr(wanted, "__metadata__", ())
        found.append((one, get_args(wanted)[0] if extras else wanted, extras[0] if extras else one.name))
    return found

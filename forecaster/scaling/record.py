"""Frozen dataclasses to JSON and back, bit by bit: what lets a stored decision be recomputed.

Floats travel as hex text (also NaN and the infinities), times as ISO 8601, durations as whole microseconds. The types
of the fields say how to read a value back, so the JSON holds no type names and can name no class to build.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from forecaster.errors import InputError

T = TypeVar("T")
_MICROSECOND = timedelta(microseconds=1)


def to_json(value: object) -> Any:
    """`value` as dicts, lists, text, numbers and None."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return float(value).hex()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} has no place in a record")


def from_json(kind: Callable[..., T], data: Any) -> T:
    """What `to_json` wrote, as a `kind`. Raises InputError where the data is not that."""
    try:
        return typing.cast(T, _reader(kind)(data))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the stored record is not a {getattr(kind, '__name__', kind)}: {error!r}") from error


@cache  # one entry per type that occurs in a record
def _reader(kind: Any) -> Callable[[Any], Any]:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(kind) if part is not type(None)]
        assert len(inner) == 1, kind  # only `X | None` occurs
        read = _reader(inner[0])
        return lambda data: None if data is None else read(data)
    if origin is tuple:
        parts = typing.get_args(kind)
        if len(parts) == 2 and parts[1] is Ellipsis:
            item = _reader(parts[0])
            return lambda data: tuple(item(one) for one in data)
        items = tuple(_reader(part) for part in parts)
        return lambda data: tuple(one(value) for one, value in zip(items, data, strict=True))
    if kind is float:
        return float.fromhex
    if kind is datetime:
        return datetime.fromisoformat
    if kind is timedelta:
        return lambda data: _MICROSECOND * data
    if is_dataclass(kind):
        build: Any = kind
        hints = typing.get_type_hints(kind)
        readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}
        # a field that an older release did not write takes its default
        return lambda data: build(**{name: read(data[name]) for name, read in readers.items() if name in data})
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind
    if kind in (str, int, bool):
        return lambda data: _exactly(kind, data)
    raise TypeError(f"{kind} has no place in a record")


def _exactly(kind: type, data: Any) -> Any:
    if type(data) is not kind:
        raise TypeError(f"{data!r} is not a {kind.__name__}")
    return data

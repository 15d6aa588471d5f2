"""Turns records, which are dataclasses, into json and back."""

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["from_json", "to_json"]

_T = TypeVar("_T")


def to_json(value: Any, decimals: int | None = None) -> Any:
    """Return a record, or lists and mappings of records, as json can hold it.

    A field that is None by default and has not been set is left out. JSON has no NaN and no
    infinity: they become None.

    Args:
        value: the record.
        decimals: how many digits after the point a float keeps; None: all.
    """
    if dataclasses.is_dataclass(value):
        given = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {
            _key(field): to_json(entry, decimals)
            for field, entry in given
            if not (entry is None and field.default is None)
        }
    if isinstance(value, Mapping):
        return {key: to_json(entry, decimals) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry, decimals) for entry in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if decimals is None else round(value, decimals)
    return value


def from_json(kind: type[_T], value: Any) -> _T:
    """Return the record of class `kind` that `to_json` turned into `value`.

    Keys that the class does not have are ignored.

    Raises:
        TypeError, ValueError, KeyError: the value is not such a record.
    """
    record: _T = _read(kind, value)
    return record


def _read(kind: Any, value: Any) -> Any:
    origin: Any = get_origin(kind) or kind
    inner = get_args(kind)
    if origin in (Union, UnionType):
        return _read_first(inner, value)
    if dataclasses.is_dataclass(origin):
        hints = get_type_hints(origin)
        given = {
            field.name: _read(hints[field.name], value[_key(field)])
            for field in dataclasses.fields(origin)
            if field.default is dataclasses.MISSING or _key(field) in value
        }
        return kind(**given)
    if isinstance(origin, type) and issubclass(origin, Enum):
        return origin(value)
    others: dict[Any, Any] = {Any: object, float: (int, float), tuple: list}
    if not isinstance(value, others.get(origin, origin)):
        raise TypeError(f"expected {kind}, got {value!r}")
    if origin is dict and inner:
        return {key: _read(inner[1], entry) for key, entry in value.items()}
    if origin is list and inner:
        return [_read(inner[0], entry) for entry in value]
    if origin is tuple:
        return tuple(_read(part, entry) for part, entry in zip(inner, value, strict=True))
    return value


def _read_first(kinds: tuple[Any, ...], value: Any) -> Any:
    """Return `value` as the first of `kinds` that it fits."""
    if value is None and NoneType in kinds:
        return None
    *others, last = (kind for kind in kinds if kind is not NoneType)
    for kind in others:
        try:
            return _read(kind, value)
        except (TypeError, ValueError, KeyError):
            continue
    return _read(last, value)


def _key(field: "dataclasses.Field[Any]") -> str:
    """Return a field's key in the json: its name, unless its metadata gives another."""
    return str(field.metadata.get("key", field.name))

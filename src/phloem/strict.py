"""Dataclasses from tables (TOML, JSON): strict about every key and type, and saying what was expected."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from phloem.errors import ConfigError, unknown_key

_T = TypeVar("_T")
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def from_table(cls: type[_T], table: Mapping[str, Any], where: str) -> _T:
    """The dataclass `cls` from `table`; `where` names the table in errors.

    Raises:
        ConfigError: a key is unknown (the nearest is named) or missing, or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise unknown_key(key, fields, where)
    values = {}
    for key, spec in fields.items():
        if key in table:
            values[key] = _value(hints[key], table[key], f"{where}: '{key}'", key)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where} lacks '{key}'")
    return cls(**values)


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return value if isinstance(value, hint) else from_table(hint, as_table(value, f"[{key}]"), f"[{key}]")
    if typing.get_origin(hint) is list:
        if not isinstance(value, list):
            raise ConfigError(f"{where} must be a list, found {value!r:.60}")
        return [_value(typing.get_args(hint)[0], item, where, key) for item in value]
    if typing.get_origin(hint) is dict:
        return as_table(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1000:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} must be {_KINDS.get(hint, hint)}, found {value!r:.60}")
    return value


def as_table(value: Any, where: str) -> dict[str, Any]:
    """`value` as a dict of its own, if it is a table of keys."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be a table of keys, found {value!r:.60}")
    return dict(value)

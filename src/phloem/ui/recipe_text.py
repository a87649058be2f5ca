"""A resolved recipe as TOML that `phloem build` reads back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def recipe_text(table: Mapping[str, Any]) -> str:
    """The recipe's keys as TOML: single values first, then a section per table; what is unset is left out.

    >>> print(recipe_text({"name": "x", "run": {"workers": 2}}))
    name = "x"
    <BLANKLINE>
    [run]
    workers = 2
    <BLANKLINE>
    """
    lines = [
        f"{_key(k)} = {_value(v)}" for k, v in table.items() if v is not None and not isinstance(v, Mapping)
    ]
    for name, section in table.items():
        if isinstance(section, Mapping) and section:
            lines += ["", f"[{_key(name)}]"]
            lines += [
                f"{_key(k)} = {_value(v)}"
                for k, v in section.items()
                if v is not None and not _empty(name, v)
            ]
    return "\n".join(lines) + "\n"


def _empty(section: str, value: Any) -> bool:
    """Whether a key of [sites] says nothing: 0 names, a count of 0."""
    return section == "sites" and value in (0, [])


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if value != float("inf") else "inf"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)

"""One text for one meaning: canonical JSON, and the digests taken from it.

The form is RFC 8785's for the values we use: keys sorted by their UTF-16 units, no white space, UTF-8, and numbers
that are integers or the shortest decimals that read back as the same double. NaN and infinities have no form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

from phloem.errors import ConfigError, FormatError

DEEPEST = 256
"""Lists and tables inside one another, in JSON from elsewhere."""

_BRACKETS = re.compile(rb"[\[\]{}]")
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)


def dumps(value: Any) -> bytes:
    """`value` as canonical JSON bytes.

    Raises:
        ConfigError: `value` holds something that JSON cannot say exactly (NaN, bytes, a set).

    >>> dumps({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    try:
        text = json.dumps(_ordered(plain(value)), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"this value has no canonical JSON form: {error}") from error


def loads(data: bytes) -> Any:
    """The value whose canonical JSON is `data`.

    Raises:
        FormatError: `data` is not JSON, or not in canonical form.
    """
    try:
        value = json.loads(shallow(data))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"expected canonical JSON, found bytes that do not parse: {error}") from error
    try:
        again = dumps(value)
    except ConfigError as error:
        raise FormatError(error.message) from error
    if again != data:
        raise FormatError("expected canonical JSON, found the same value written in another way")
    return value


def shallow(data: bytes) -> bytes:
    """`data`, if what it nests is not nested beyond DEEPEST.

    Python's parser counts on the interpreter's own limit, and where some library has raised that (py_ecc does, to
    100,000) deep nesting ends the process.

    Raises:
        ValueError: it is nested deeper.
    """
    if data.count(b"[") + data.count(b"{") > DEEPEST:
        steps = (1 if bracket in b"[{" else -1 for bracket in _BRACKETS.findall(_TEXTS.sub(b"", data)))
        if any(depth > DEEPEST for depth in itertools.accumulate(steps)):
            raise ValueError(f"it is nested more than {DEEPEST} deep")
    return data


def plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, all the way down; everything else as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _ordered(value: Any) -> Any:
    """The same value with the keys of its objects in order."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value, key=_units)}
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    return value


def _units(key: Any) -> bytes:
    """The UTF-16 units of a key, big-endian, which sort as RFC 8785 section 3.2.3 says."""
    if not isinstance(key, str):
        raise TypeError(f"an object's key is {key!r}, which is not text")
    return key.encode("utf-16-be", "surrogatepass")


def digest(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal: how blobs, states and plans are named."""
    return hashlib.sha256(data).hexdigest()

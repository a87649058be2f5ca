from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem import canonical
from phloem.codecs.classical import Int8
from phloem.errors import ConfigError, FormatError
from phloem.testing.strategies import json_values, tampered


@given(json_values)
def test_a_value_comes_back_from_its_text(value: Any) -> None:
    assert canonical.loads(canonical.dumps(value)) == value


@given(json_values)
def test_there_is_one_text_for_one_meaning(value: Any) -> None:
    text = canonical.dumps(value)
    for other in (json.dumps(value, indent=1), json.dumps(value, separators=(", ", ":"))):
        if other.encode() != text:
            with pytest.raises(FormatError):
                canonical.loads(other.encode())
    assert canonical.dumps(json.loads(text)) == text


@given(json_values.flatmap(lambda value: tampered(canonical.dumps(value))))
def test_altered_text_is_refused_or_is_canonical_itself(text: bytes) -> None:
    try:
        value = canonical.loads(text)
    except FormatError:
        return
    assert canonical.dumps(value) == text


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_format_errors(data: bytes) -> None:
    try:
        value = canonical.loads(data)
    except FormatError:
        return
    assert canonical.dumps(value) == data


def test_keys_are_sorted_and_dataclasses_are_tables() -> None:
    assert canonical.dumps({"b": (1, 2), "a": Int8(64)}) == b'{"a":{"block":64},"b":[1,2]}'


HOSTILE = {
    "NaN": b"NaN",
    "infinity": b"1e999",
    "a repeated key": b'{"a":1,"a":1}',
    "another order of keys": b'{"b":1,"a":1}',
    "white space": b"[1, 2]",
    "an escaped letter": b'"\\u0061"',
    "half a surrogate pair": b'"\\ud800"',
    "a longer number": b"1.50",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf1",
    "deep nesting": b"[" * 100_000 + b"]" * 100_000,
    "nesting that parses but is too deep to write": b"[" * 900 + b"]" * 900,
    "a number of 5000 digits": b"9" * 5000,
    "nothing": b"",
    "two values": b"1 2",
}


def test_deep_nesting_is_refused_whatever_the_interpreters_limit_is() -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        for deep in (b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000):
            with pytest.raises(FormatError, match="nested more than 256 deep"):
                canonical.loads(deep)
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    "value", [["[" * 1000], {'"{' * 500: '\\"[' * 500}, [[n] for n in range(1000)], [{"a": []}] * 300]
)
def test_brackets_in_texts_and_beside_each_other_are_no_nesting(value: Any) -> None:
    assert canonical.loads(canonical.dumps(value)) == value


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_text_is_refused(what: str) -> None:
    with pytest.raises(FormatError):
        canonical.loads(HOSTILE[what])


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], b"bytes", {1, 2}, object(), {"a": "\ud800"}])
def test_what_json_cannot_say_exactly_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="canonical JSON"):
        canonical.dumps(value)


def test_keys_are_in_the_order_of_their_utf_16_units() -> None:
    """RFC 8785, section 3.2.3: its own example, where code points would give another order."""
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    text = canonical.dumps(dict.fromkeys(keys, 0))
    assert list(json.loads(text)) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert canonical.loads(text) == dict.fromkeys(keys, 0)

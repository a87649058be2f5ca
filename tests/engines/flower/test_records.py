"""The form of what crosses: payloads, manifests, exact tensors, and what is refused of them."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import numpy as np
import pytest
import zstandard
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.flower.inside import Inside, arrays_in, model, record, same

from phloem.engines.flower.lazy import LazyArray, Opened, lazy_message
from phloem.engines.flower.records import (
    Manifest,
    Payload,
    figures_from_json,
    figures_to_json,
    in_type,
    is_packed,
    only_arrays,
    packed,
    replaced,
    unpacked,
)
from phloem.errors import ConfigError, FormatError

pytestmark = pytest.mark.service("flower")


# -- packed records ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "parts"), [(0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_a_payload_comes_out_as_it_went_in_in_as_many_parts_as_it_takes(size: int, parts: int) -> None:
    payload = bytes(range(size))
    found = packed(payload, part_bytes=10)
    assert len(found) == parts
    assert is_packed(found)
    assert unpacked(found) == payload


def test_other_records_are_not_taken_for_packed_ones() -> None:
    assert not is_packed(ArrayRecord())
    assert not is_packed(record(model()))
    mixed = packed(b"ab", part_bytes=1)
    mixed["1"] = Array(np.zeros(2, np.uint8))
    assert not is_packed(mixed)
    with pytest.raises(FormatError, match="no part 1"):
        unpacked(mixed)


@given(st.binary(min_size=8, max_size=8), st.binary(max_size=300), st.binary(max_size=50))
def test_the_fields_of_a_payload_come_out_as_they_went_in(token: bytes, message: bytes, exact: bytes) -> None:
    payload = Payload(token, message, exact)
    assert Payload.unpack(payload.pack()) == payload


@given(st.binary(max_size=40))
def test_any_bytes_are_a_payload_or_a_format_error(data: bytes) -> None:
    try:
        payload = Payload.unpack(data)
    except FormatError:
        return
    assert payload.pack() == data


def test_every_truncated_payload_is_refused_or_ends_in_its_exact_tensors() -> None:
    whole = Payload(b"8 bytes.", bytes(200), b"rest").pack()
    for end in range(len(whole) - 4):
        with pytest.raises(FormatError):
            Payload.unpack(whole[:end])


# -- manifests -----------------------------------------------------------------------------------------------------


def test_a_record_split_and_joined_is_the_same_to_the_bit_where_float32_holds_it() -> None:
    first = {name: array for name, array in model().items() if name != "double"}
    manifest = Manifest.of(record(first))
    joined = manifest.join(*manifest.split(record(first)))
    assert same(arrays_in(joined), first)
    assert list(joined) == list(first)
    assert set(manifest.layout.names) == {"weight", "bias", "scale", "empty", "half"}


def test_a_manifest_comes_back_from_its_json() -> None:
    manifest = Manifest.of(record(model()))
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [],
        {},
        "rows",
        [["w"]],
        [["w", "float32"]],
        [["w", "float32", 3]],
        [["w", "float32", "33"]],
        [["w", "float32", [3.0]]],
        [["w", "float32", [True]]],
        [["w", "float32", [-1]]],
        [["w", "float32", [1] * 20]],
        [["w", "float32", [1 << 60]]],
        [["w", "float32", [1 << 30, 1 << 30]]],
        [["w", "float32", [2]], ["n", "int64", [1 << 60]]],
        [["w", "float32", [2]], ["n", "int64", [-4]]],
        [["w", "object", [2]]],
        [["w", ["float32"], [2]]],
        [["w", "float32", [2]], ["w", "int8", [2]]],
        [[["w"], "float32", [2]]],
        [[7, "float32", [2]]],
        [["n", "int64", [2]]],
    ],
)
def test_a_manifest_that_is_none_is_a_format_error(rows: Any) -> None:
    with pytest.raises(FormatError):
        Manifest.from_json(rows)


def test_arrays_that_cannot_be_carried_are_named() -> None:
    for array in (np.ones(2, np.complex64), np.ones(2, ">f4"), np.array(["text"])):
        with pytest.raises(ConfigError, match="array 'odd'"):
            Manifest.of(record(model() | {"odd": array}))
    foreign = record(model())
    foreign["odd"] = Array("float32", (2,), "torch", b"....")
    with pytest.raises(ConfigError, match="in the form 'torch'"):
        Manifest.of(foreign)
    with pytest.raises(ConfigError, match="no array is floating point"):
        Manifest.of(record({"trees": np.zeros(4, np.uint8)}))


@pytest.mark.parametrize(
    ("values", "dtype", "wanted"),
    [
        ([1.6, -0.4, 2.5], "int64", [2, 0, 2]),
        ([300.0, -3.0, 254.6], "uint8", [255, 0, 255]),
        ([1e30, -1e30], "int64", [2**63 - 1, -(2**63)]),
        ([1e30, -1.0], "uint64", [2**64 - 1, 0]),
        ([0.7, 0.2, -0.1], "bool", [True, False, False]),
        ([True, False], "int8", [1, 0]),
        ([7, 9], "int32", [7, 9]),
    ],
)
def test_a_mean_of_counters_is_rounded_into_their_type(
    values: list[Any], dtype: str, wanted: list[Any]
) -> None:
    first = {"w": np.ones(1, np.float32), "n": np.zeros(len(values), dtype)}
    manifest = Manifest.of(record(first))
    _, exact = manifest.split(record(first | {"n": np.array(values)}))
    assert exact["n"].dtype == dtype
    assert exact["n"].tolist() == wanted


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1j])
def test_counters_that_are_no_numbers_are_refused(bad: complex) -> None:
    first = {"w": np.ones(1, np.float32), "n": np.zeros(2, np.int64)}
    with pytest.raises(ConfigError, match="array 'n'"):
        Manifest.of(record(first)).split(record(first | {"n": np.array([0, bad])}))


def test_values_beyond_a_types_range_become_its_largest() -> None:
    values = np.array([1e10, -1e10, 2.0], np.float32)
    assert in_type(values, "float16").tolist() == [65504, -65504, 2]
    assert in_type(values, "float32") is values
    assert in_type(values, "float64").dtype == np.float64


# -- exact tensors -------------------------------------------------------------------------------------------------

MANIFEST = Manifest.of(record(model()))


def exact_of(manifest: Manifest = MANIFEST) -> dict[str, Any]:
    return manifest.split(record(model()))[1]


def test_exact_tensors_come_out_as_they_went_in() -> None:
    assert same(MANIFEST.unpack_exact(MANIFEST.pack_exact(exact_of())), exact_of())
    floats_only = Manifest.of(record({"w": np.ones(2, np.float32)}))
    assert floats_only.pack_exact({}) == b""
    assert floats_only.unpack_exact(b"") == {}
    empty = Manifest.of(record({"w": np.ones(2, np.float32), "n": np.zeros((0, 2), np.int16)}))
    assert same(
        empty.unpack_exact(empty.pack_exact({"n": np.zeros((0, 2), np.int16)})), {"n": np.zeros((0, 2), "i2")}
    )


@given(st.binary(max_size=60))
def test_any_bytes_are_exact_tensors_or_a_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert sum(array.nbytes for array in MANIFEST.unpack_exact(data).values()) == MANIFEST.exact_bytes


def test_every_truncation_and_extension_of_exact_tensors_is_refused() -> None:
    data = MANIFEST.pack_exact(exact_of())
    for other in (*(data[:end] for end in range(len(data))), data + b"\0", data + data):
        with pytest.raises(FormatError):
            MANIFEST.unpack_exact(other)
    with pytest.raises(FormatError, match="expected 0 bytes"):
        Manifest.of(record({"w": np.ones(2, np.float32)})).unpack_exact(b"\0")


def test_a_truth_value_that_is_neither_is_refused() -> None:
    one = Manifest.of(record({"w": np.ones(2, np.float32), "mask": np.zeros(2, bool)}))
    with pytest.raises(FormatError, match="neither 0 nor 1"):
        one.unpack_exact(zstandard.compress(b"\x01\x02"))


def test_a_frame_that_claims_gigabytes_allocates_nothing() -> None:
    bomb = zstandard.compress(bytes(200_000_000))
    giant = Manifest.from_json([["w", "float32", [1 << 40]], ["n", "int64", [1 << 40]]])
    tracemalloc.start()
    try:
        for manifest in (MANIFEST, giant):
            with pytest.raises(FormatError):
                manifest.unpack_exact(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# -- contents ------------------------------------------------------------------------------------------------------


def test_replacing_a_record_leaves_the_content_as_it_is() -> None:
    content = RecordDict({"arrays": record(model()), "config": ConfigRecord({"a": 1})})
    other = replaced(content, "arrays", packed(b"x"))
    assert list(content) == ["arrays", "config"]
    assert content["arrays"] == record(model())
    assert other["config"] is content["config"]
    assert list(replaced(content, "arrays", None)) == ["config"]
    assert only_arrays(content) == ("arrays", content["arrays"])
    assert only_arrays(RecordDict({"a": packed(b""), "b": packed(b"")})) is None


def test_figures_come_back_from_their_json_nan_and_bytes_included() -> None:
    content = RecordDict(
        {
            "m": MetricRecord({"nan": float("nan"), "inf": [float("-inf"), 1.5], "n": 2**62, "list": [1, 2]}),
            "c": ConfigRecord({"b": b"\x00", "bs": [b"\x01", b""], "t": True, "s": "é", "ts": [False]}),
            "left out": packed(b""),
        }
    )
    back = figures_from_json(figures_to_json(content))
    assert repr(back) == repr(RecordDict({"m": content["m"], "c": content["c"]}))
    assert back["c"]["t"] is True


def test_one_decoded_reply_is_in_memory_at_a_time() -> None:
    Inside({}, {})  # a process of Flower's, in which messages can be made
    calls: list[int] = []

    def decoder(which: int) -> Any:
        def decode() -> dict[str, Any]:
            calls.append(which)
            return MANIFEST.split(record(model()))[0]

        return decode

    opened, content = Opened(), RecordDict({"arrays": packed(b"")})
    request = Message(content, 7, "train")
    replies = [
        lazy_message(Message(content, reply_to=request), "arrays", MANIFEST, exact_of(), decoder(n), opened)
        for n in range(2)
    ]
    assert not calls
    for reply in replies:
        found = arrays_in(reply.content["arrays"])
        assert {name: (a.dtype, a.shape) for name, a in found.items()} == {
            name: (a.dtype, a.shape) for name, a in model().items()
        }
        found["weight"][:] = 0  # the caller's own
    assert calls == [0, 1]
    assert replies[1].content["arrays"]["weight"].numpy().any()
    assert isinstance(replies[1].content["arrays"]["weight"], LazyArray)
    again = ArrayRecord(dict(replies[1].content["arrays"].items()))
    assert same(arrays_in(again), arrays_in(replies[1].content["arrays"]))

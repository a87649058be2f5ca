from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem import canonical
from phloem.errors import ConfigError, FormatError
from phloem.tensors import (
    DTYPES,
    Layout,
    TensorSpec,
    as_float32,
    read_state_record,
    state_digest,
    state_record,
    tensor_digest,
)
from phloem.testing.strategies import layouts, names, shapes, tampered, updates

FORMAT = Path(__file__).resolve().parent.parent / "docs" / "format.md"
UPDATE = {"w": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
#: Its record and id, from `printf` and `sha256sum`.
TWO_ZEROS = "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"
SIX_ONES = "f46913286d895f62d646314f400fc3d7a543cf34eb4ae56df87f43dc4582a36b"
RECORD = (
    '{"kind":"state","tensors":['
    f'["b","float32",[2],"{TWO_ZEROS}"],["w","float32",[2,3],"{SIX_ONES}"]'
    '],"version":1}'
).encode()
ID = "41346f075e7169afa4390c3b37e60748de4e10651eeb48a4be8bde55507508b4"
ROWS = ((TensorSpec("b", (2,)), TWO_ZEROS), (TensorSpec("w", (2, 3)), SIX_ONES))


@given(layouts())
def test_a_layout_comes_back_from_its_json(layout: Layout) -> None:
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert again.digest == layout.digest


@given(layouts().flatmap(lambda layout: tampered(layout.to_json())))
def test_an_altered_layout_is_refused_or_is_another_layout_written_properly(data: bytes) -> None:
    try:
        layout = Layout.from_json(data)
    except FormatError:
        return
    assert layout.to_json() == data


@given(st.binary(max_size=40))
def test_random_bytes_are_no_layout(data: bytes) -> None:
    with pytest.raises(FormatError):
        Layout.from_json(data)


HOSTILE = {
    "no list": {"w": [2]},
    "no tensors": [],
    "a name alone": ["w"],
    "three fields": [["w", [2], "float32"]],
    "a number as name": [[1, [2]]],
    "a size below zero": [["w", [-1]]],
    "a size that is no whole number": [["w", [2.0]]],
    "a size that is true": [["w", [True]]],
    "a huge size": [["w", [2**48]]],
    "a huge product": [["w", [2**20, 2**20, 2**20]]],
    "a huge product with a zero": [["w", [2**40, 2**40, 0]]],
    "seventeen dimensions": [["w", [1] * 17]],
    "names out of order": [["w", [1]], ["b", [1]]],
    "a name twice": [["w", [1]], ["w", [1]]],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_layout_is_refused(what: str) -> None:
    with pytest.raises(FormatError):
        Layout.from_json(json.dumps(HOSTILE[what], separators=(",", ":")).encode())


def test_a_layout_is_sorted_by_name_whatever_order_the_dict_had() -> None:
    assert Layout.of(UPDATE) == Layout.of(dict(reversed(UPDATE.items())))
    assert Layout.of(UPDATE).names == ("b", "w")
    assert Layout.of(UPDATE).size == 8
    with pytest.raises(ConfigError, match="sorted by name"):
        Layout((TensorSpec("w", ()), TensorSpec("b", ())))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3), (2, 1, 2, 2)])
def test_arrays_keep_every_shape_and_are_contiguous_float32(shape: tuple[int, ...]) -> None:
    source = np.arange(np.prod(shape, dtype=int), dtype=np.float64).reshape(shape)
    for tensor in (
        source,
        source.T,
        source.astype(np.float16),
        source.astype(">f4"),
        np.asfortranarray(source),
    ):
        array = Layout.of({"x": tensor}).arrays({"x": tensor})[0]
        assert array.dtype == np.float32
        assert array.dtype.isnative
        assert array.flags.c_contiguous
        assert np.array_equal(array, tensor)
        assert array.shape == np.shape(tensor)


@pytest.mark.parametrize("kind", ["int64", "int8", "bool", "complex64", "object", "U3"])
def test_a_tensor_that_is_not_floating_is_refused_by_name_and_type(kind: str) -> None:
    with pytest.raises(ConfigError, match="tensor 'counter' has type"):
        as_float32(np.zeros(3).astype(kind), "counter")


def test_a_double_beyond_float32_becomes_an_infinity_without_a_warning() -> None:
    assert as_float32(np.array([1e300, -1e300]), "x").tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"b": None}, "tensor 'b' is missing"),
        ({"extra": np.zeros(1)}, "tensor 'extra' is not part"),
        ({"w": np.ones((3, 2))}, r"tensor 'w': expected shape \(2, 3\), found \(3, 2\)"),
        ({"w": np.ones(6)}, "tensor 'w': expected shape"),
    ],
)
def test_tensors_that_do_not_fit_the_layout_are_named(change: dict[str, Any], said: str) -> None:
    changed = {name: array for name, array in {**UPDATE, **change}.items() if array is not None}
    with pytest.raises(ConfigError, match=said):
        Layout.of(UPDATE).arrays(changed)


@pytest.mark.parametrize("tensors", [{}, {1: np.zeros(2)}, {"x": np.zeros((1,) * 17)}])
def test_what_no_frame_could_carry_is_no_layout(tensors: dict[Any, Any]) -> None:
    with pytest.raises(ConfigError):
        Layout.of(tensors)


def test_the_record_and_the_id_of_a_state_are_the_golden_ones() -> None:
    assert (
        state_record((spec, tensor_digest(UPDATE[spec.name])) for spec in Layout.of(UPDATE).specs) == RECORD
    )
    assert state_digest(UPDATE) == hashlib.sha256(RECORD).hexdigest() == ID
    assert read_state_record(RECORD) == ROWS


def test_the_docs_have_the_golden_record() -> None:
    page = FORMAT.read_text(encoding="utf-8")
    assert RECORD.decode() in page.replace("\n    ", "")
    assert f"`{ID}`" in page


def test_a_record_has_one_form_whatever_order_its_rows_came_in() -> None:
    assert state_record(reversed(ROWS)) == RECORD
    beyond = [(TensorSpec(name, ()), TWO_ZEROS) for name in ("\U0001d6fc", "\uffee", "ü", "z")]
    assert [spec.name for spec, _ in read_state_record(state_record(beyond))] == [
        "z", "ü", "\uffee", "\U0001d6fc",
    ]  # fmt: skip


@st.composite
def rows_of_states(draw: st.DrawFn) -> list[tuple[TensorSpec, str]]:
    found = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    digests = st.binary(max_size=4).map(tensor_digest)
    return [(TensorSpec(name, draw(shapes), draw(st.sampled_from(DTYPES))), draw(digests)) for name in found]


@given(rows_of_states())
def test_a_states_record_comes_back_as_it_was_written(rows: list[tuple[TensorSpec, str]]) -> None:
    assert read_state_record(state_record(rows)) == tuple(sorted(rows, key=lambda row: row[0].name))


@given(rows_of_states().map(state_record).flatmap(tampered))
def test_an_altered_record_is_refused_or_is_another_record_written_properly(data: bytes) -> None:
    try:
        rows = read_state_record(data)
    except FormatError:
        return
    assert state_record(rows) == data


@given(st.binary(max_size=60))
def test_random_bytes_are_no_record(data: bytes) -> None:
    with pytest.raises(FormatError):
        read_state_record(data)


def record(*rows: Any, **other: Any) -> bytes:
    """A record of these rows, with other keys besides or instead."""
    return canonical.dumps({"kind": "state", "tensors": list(rows), "version": 1} | other)


SHA = "0" * 64
GOOD = ["w", "float32", [2], SHA]
DAMAGED = {
    "nothing": b"",
    "a list": canonical.dumps([GOOD]),
    "a number": b"1",
    "null": b"null",
    "no kind": canonical.dumps({"tensors": [GOOD], "version": 1}),
    "no tensors": canonical.dumps({"kind": "state", "version": 1}),
    "no version": canonical.dumps({"kind": "state", "tensors": [GOOD]}),
    "a key too many": record(GOOD, metadata={}),
    "another kind": record(GOOD, kind="layout"),
    "a kind that is no text": record(GOOD, kind=["state"]),
    "a later version": record(GOOD, version=2),
    "a version that is true": record(GOOD, version=True),
    "a version that is a float": record(GOOD, version=1.0),
    "a version that is a text": record(GOOD, version="1"),
    "no rows": record(),
    "rows by name": record(tensors={"w": GOOD}),
    "rows that are a text": record(tensors="wwww"),
    "a row that is a text": record("wwww"),
    "a row that is an object": record({"name": "w"}),
    "three fields": record(GOOD[:3]),
    "five fields": record([*GOOD, 0]),
    "a number as name": record([1, *GOOD[1:]]),
    "null as name": record([None, *GOOD[1:]]),
    "a dtype that nobody knows": record(["w", "float128", [2], SHA]),
    "a dtype as NumPy writes it": record(["w", "<f4", [2], SHA]),
    "a dtype that is a number": record(["w", 0, [2], SHA]),
    "a dtype that is a list": record(["w", ["float32"], [2], SHA]),
    "a shape that is a number": record(["w", "float32", 2, SHA]),
    "a shape that is null": record(["w", "float32", None, SHA]),
    "a size below zero": record(["w", "float32", [-1], SHA]),
    "a size that is a float": record(["w", "float32", [2.0], SHA]),
    "a size that is true": record(["w", "float32", [True], SHA]),
    "a size that is a list": record(["w", "float32", [[2]], SHA]),
    "a huge size": record(["w", "float32", [2**48], SHA]),
    "a size of two thousand digits": record(["w", "float32", [10**2000], SHA]),
    "a size of five thousand digits": record(["w", "float32", [7], SHA]).replace(b"[7]", b"[" + b"7" * 5000 + b"]"),
    "a huge product": record(["w", "float32", [2**20] * 3, SHA]),
    "a huge product with a zero": record(["w", "float32", [2**40, 2**40, 0], SHA]),
    "seventeen dimensions": record(["w", "float32", [1] * 17, SHA]),
    "a hundred thousand dimensions": record(["w", "float32", [1] * 100_000, SHA]),
    "a digest of 63 digits": record(["w", "float32", [2], SHA[1:]]),
    "a digest of 65 digits": record(["w", "float32", [2], SHA + "0"]),
    "a digest in capitals": record(["w", "float32", [2], "A" * 64]),
    "a digest in other digits": record(["w", "float32", [2], "\u0661" * 64]),
    "a digest and a line's end": record(["w", "float32", [2], SHA + "\n"]),
    "a digest that is a number": record(["w", "float32", [2], 0]),
    "a digest that is null": record(["w", "float32", [2], None]),
    "names out of order": record(GOOD, ["b", *GOOD[1:]]),
    "a name twice": record(GOOD, GOOD),
    "a name twice, with other content": record(GOOD, ["w", "int8", [3], "1" * 64]),
    "names in the order of UTF-16": record(["\U0001d6fc", *GOOD[1:]], ["\uffee", *GOOD[1:]]),
    "white space": RECORD.replace(b",", b", "),
    "a line's end": RECORD + b"\n",
    "two records": RECORD * 2,
    "keys out of order": RECORD[:-13].replace(b'{"kind"', b'{"version":1,"kind"') + b"}",
    "a key twice": RECORD.replace(b'{"kind":"state"', b'{"kind":"state","kind":"state"'),
    "an escape that is not needed": RECORD.replace(b'"w"', b'"\\u0077"'),
    "half a surrogate": RECORD.replace(b'"w"', b'"\\ud800"'),
    "no UTF-8": RECORD.replace(b'"w"', b'"\xff"'),
    "a byte order mark": b"\xef\xbb\xbf" + RECORD,
    "UTF-16": RECORD.decode().encode("utf-16"),
    "a size that is not a number": RECORD.replace(b"[2]", b"[NaN]"),
    "an infinite size": RECORD.replace(b"[2]", b"[Infinity]"),
    "a size beyond floats": RECORD.replace(b"[2]", b"[1e999]"),
    "a version that is not a number": RECORD.replace(b":1}", b":NaN}"),
    "minus zero": RECORD.replace(b"[2]", b"[-0]"),
    "a zero in front": RECORD.replace(b"[2]", b"[02]"),
    "a deep nest": b"[" * 100_000 + b"]" * 100_000,
    "a deep nest of objects": b'{"kind":' * 100_000,
    "a deep nest as kind": record(GOOD, kind=0).replace(b":0,", b":" + b"[" * 200 + b"]" * 200 + b","),
    "a deep nest as shape": record(["w", "float32", 0, SHA]).replace(b",0,", b"," + b"[" * 200 + b"]" * 200 + b","),
    "a deeper nest as shape": record(["w", "float32", 0, SHA]).replace(
        b",0,", b"," + b"[" * 50_000 + b"]" * 50_000 + b","
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_record_is_refused(what: str) -> None:
    assert read_state_record(record(GOOD)) == ((TensorSpec("w", (2,)), SHA),)
    with pytest.raises(FormatError):
        read_state_record(DAMAGED[what])


@pytest.mark.parametrize("depth", range(300, 1000, 20))
def test_a_nest_about_as_deep_as_the_stack_is_refused_like_any_other(depth: int) -> None:
    nest = b"[" * depth + b"]" * depth
    for place in (b"[2]", b'"float32"', b'"state"', b'"w"'):
        with pytest.raises(FormatError):
            read_state_record(RECORD.replace(place, nest))


def test_every_record_that_is_cut_short_is_refused() -> None:
    for size in range(len(RECORD)):
        with pytest.raises(FormatError):
            read_state_record(RECORD[:size])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "at least one row"),
        ([ROWS[0], ROWS[0]], "each name once; 'b' follows 'b'"),
        ([ROWS[0], (TensorSpec("b", (3,), "int8"), SHA)], "each name once"),
        ([(TensorSpec("b", (2,), "float128"), SHA)], "type 'float128'"),
        ([(TensorSpec("b", (2,)), SHA.upper()[1:])], "SHA-256 of 'b'"),
        ([(TensorSpec("b", (1,) * 17), SHA)], "short list of sizes"),
        ([(TensorSpec("b", (1 << 40, 1 << 40, 0)), SHA)], "more than any memory"),
        ([(TensorSpec("\ud800", ()), SHA)], "canonical JSON"),
    ],
)
def test_what_no_reader_would_take_is_not_written(rows: list[tuple[TensorSpec, str]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        state_record(rows)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "i8", "u4", "c8", "i1", "u1", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)])
def test_a_tensors_digest_is_that_of_its_little_endian_bytes_in_row_major_order(
    dtype: str, shape: tuple[int, ...]
) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 5).reshape(shape).astype(dtype)
    little = array.astype(array.dtype.newbyteorder("<")).tobytes()
    wanted = hashlib.sha256(little).hexdigest()
    wide = np.zeros((*shape, 2), dtype)
    wide[..., 0] = array
    big = array.astype(array.dtype.newbyteorder(">"))
    frozen = array.copy()
    frozen.flags.writeable = False
    for same in (array, big, np.asfortranarray(array), np.asfortranarray(big), wide[..., 0], frozen):
        assert tensor_digest(same) == wanted
    for same_bytes in (little, bytearray(little), memoryview(little), np.frombuffer(little, np.uint8)):
        assert tensor_digest(same_bytes) == wanted


def test_a_digest_tells_bits_apart_that_compare_equal_or_not_at_all() -> None:
    bits = [
        0x00000000,
        0x80000000,
        0x7FC00000,
        0xFFC00000,
        0x7FC00001,
        0x7F800001,
    ]  # ±0, NaNs, one signalling
    arrays = [np.array([one], np.uint32).view(np.float32) for one in bits]
    assert len(set(map(tensor_digest, arrays))) == len(bits)
    assert len({state_digest({"x": array}) for array in arrays}) == len(bits)


def test_tensors_of_equal_bytes_share_a_digest_and_states_of_them_do_not_share_an_id() -> None:
    tensors = [np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), np.zeros(6, np.float32)]
    assert len({*map(tensor_digest, tensors), tensor_digest(np.zeros(3, np.int64))}) == 1
    assert len({state_digest({"x": tensor}) for tensor in tensors}) == 3
    digest = tensor_digest(tensors[0])
    assert len({state_record([(TensorSpec("x", (6,), dtype), digest)]) for dtype in DTYPES}) == len(DTYPES)


def test_tensors_of_no_dimension_and_of_no_elements_are_in_the_record() -> None:
    state = {"scalar": np.array(1.5, np.float32), "empty": np.zeros((0, 4), np.float32)}
    wanted = record(
        ["empty", "float32", [0, 4], hashlib.sha256(b"").hexdigest()],
        ["scalar", "float32", [], hashlib.sha256(b"\0\0\xc0\x3f").hexdigest()],
    )
    assert state_digest(state) == hashlib.sha256(wanted).hexdigest()
    assert len({state_digest(state), state_digest(state | {"scalar": np.array([1.5], np.float32)})}) == 2


def test_no_tensor_is_copied_for_its_digest() -> None:
    state = {"x": np.ones((1 << 10, 1 << 10), np.float32), "y": np.ones(1 << 20, np.float32)}
    tracemalloc.start()
    try:
        state_digest(state)
        assert tracemalloc.get_traced_memory()[1] < state["x"].nbytes // 8
    finally:
        tracemalloc.stop()


def test_objects_have_no_digest() -> None:
    with pytest.raises(ConfigError, match="objects"):
        tensor_digest(np.array([None, "x"], object))


@given(updates())
def test_a_state_has_one_digest_whatever_holds_it(update: dict[str, Any]) -> None:
    digest = state_digest(update)
    assert state_digest(dict(reversed(update.items()))) == digest
    assert state_digest({name: array.astype(">f4") for name, array in update.items()}) == digest
    assert (
        state_digest({name: np.asarray(array, np.float64, order="F") for name, array in update.items()})
        == digest
    )


def test_a_changed_bit_name_or_shape_changes_the_digest() -> None:
    others: list[dict[str, Any]] = [
        UPDATE | {"b": np.array([0.0, -0.0])},
        UPDATE | {"b": np.array([0.0, 1e-45])},
        UPDATE | {"w": np.ones((3, 2))},
        {"w": UPDATE["w"], "c": UPDATE["b"]},
        UPDATE | {"empty": np.zeros((0, 2))},
    ]
    digests = {state_digest(UPDATE), *map(state_digest, others)}
    assert len(digests) == 6


def test_the_first_tensor_with_nan_or_infinity_is_named() -> None:
    layout = Layout.of(UPDATE)
    assert layout.first_non_finite(layout.arrays(UPDATE)) is None
    for bad in (np.nan, np.inf, -np.inf):
        assert layout.first_non_finite(layout.arrays(UPDATE | {"w": np.full((2, 3), bad)})) == "w"

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.errors import ConfigError, FormatError
from phloem.tensors import Layout, TensorSpec, as_float32, state_digest
from phloem.testing.strategies import layouts, tampered, updates

UPDATE = {"w": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}


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


def test_the_digest_of_a_state_is_the_documented_hash() -> None:
    text = b'[["b",[2]],["w",[2,3]]]'
    content = np.zeros(2, "<f4").tobytes() + np.ones(6, "<f4").tobytes()
    assert state_digest(UPDATE) == hashlib.sha256(b"phloem.state.v1\n" + text + content).hexdigest()


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

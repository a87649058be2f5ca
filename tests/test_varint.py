from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from phloem import varint
from phloem.errors import FormatError

numbers = st.integers(0, 2**64 - 1)


@given(numbers, st.binary(max_size=5), st.binary(max_size=5))
@example(0, b"", b"")
@example(2**64 - 1, b"", b"\x00")
def test_a_number_comes_back_wherever_it_stands(value: int, before: bytes, after: bytes) -> None:
    data = before + varint.pack(value) + after
    assert varint.unpack(data, len(before)) == (value, len(data) - len(after))


@given(numbers)
def test_a_number_takes_no_more_bytes_than_it_needs(value: int) -> None:
    assert len(varint.pack(value)) == max(1, -(-value.bit_length() // 7))


@given(numbers)
def test_every_truncation_is_refused(value: int) -> None:
    data = varint.pack(value)
    for size in range(len(data)):
        with pytest.raises(FormatError):
            varint.unpack(data[:size], 0)


@given(st.binary(max_size=12))
def test_random_bytes_are_refused_or_are_the_one_way_to_write_a_number(data: bytes) -> None:
    try:
        value, end = varint.unpack(data, 0)
    except FormatError:
        return
    assert varint.pack(value) == data[:end]


@pytest.mark.parametrize("data", ["8000", "ff00", "ffffffffffffffffff02", "80808080808080808080", "ff" * 11])
def test_a_number_written_longer_than_needed_or_beyond_64_bits_is_refused(data: str) -> None:
    with pytest.raises(FormatError, match="longer than it needs"):
        varint.unpack(bytes.fromhex(data), 0)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_number_outside_64_bits_is_not_written(value: int) -> None:
    with pytest.raises(FormatError, match="varint"):
        varint.pack(value)

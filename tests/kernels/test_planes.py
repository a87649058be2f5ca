"""Byte planes, blocks and differences: native equals reference, and every damage is found or harmless."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.errors import FormatError
from phloem.kernels import bytecoder, planes, reference
from phloem.seeds import generator

Bytes = npt.NDArray[np.uint8]
TYPES = [
    (1, 0),
    (1, 4),
    (1, 5),
    (2, 0),
    (2, 5),
    (2, 8),
    (4, 0),
    (4, 8),
    (8, 0),
    (8, 11),
]  # bytes, exponent bits
every_type = pytest.mark.parametrize(("itemsize", "exponent_bits"), TYPES)


@pytest.fixture
def levels(native: ModuleType) -> Iterator[tuple[str, ...]]:
    """The SIMD levels of this processor; the highest is in use again afterwards."""
    yield native.simd_levels()
    native.set_simd(native.simd_levels()[-1])


def words_of(itemsize: int, count: int, seed: int = 0) -> npt.NDArray[np.unsignedinteger]:
    """Every bit pattern is possible, and half of the words are near each other."""
    draw = generator(seed, "words", str(itemsize))
    words = np.frombuffer(draw.bytes(itemsize * count), f"<u{itemsize}").copy()
    words[::2] = words[:1] ^ (words[::2] & words.dtype.type(7))
    return words


def blocks() -> dict[str, Bytes]:
    draw = generator(0, "blocks")
    bell = np.clip(120 + 3 * draw.normal(size=70_000), 0, 255).astype(np.uint8)
    return {
        "empty": np.zeros(0, np.uint8),
        "one byte": np.full(1, 7, np.uint8),
        "constant": np.full(5000, 200, np.uint8),
        "two values": (draw.random(9000) < 0.3).astype(np.uint8) * 255,
        "one other byte": np.eye(1, 9_000, 8_999, dtype=np.uint8)[0],
        "one in 5,000": (draw.random(20_000) < 2e-4).astype(np.uint8),
        "bell": bell,
        "bell of 31": bell[:31],
        "bell of 4,096": bell[:4096],
        "bell of a whole number of steps": bell[:65_536],
        "random": np.frombuffer(draw.bytes(70_000), np.uint8),
        "nearly random": np.minimum(np.frombuffer(draw.bytes(70_000), np.uint8), 200),
        "every value and a peak": np.concatenate([np.arange(256), np.full(9_000, 3)]).astype(np.uint8),
        "rising": np.repeat(np.arange(256), np.arange(256)).astype(np.uint8),
        "short and skewed": np.array([5] * 60 + [9, 9, 255], np.uint8),
    }


@pytest.mark.parametrize("what", blocks())
def test_a_block_comes_back_and_the_position_is_the_one_after_it(what: str) -> None:
    data = blocks()[what]
    body = np.frombuffer(b"<" + bytecoder.block_encode(data) + b">>", np.uint8)
    out = np.full(data.size, 99, np.uint8)
    assert bytecoder.block_decode(body, 1, out) == body.size - 2
    assert out.tobytes() == data.tobytes()


@pytest.mark.parametrize("what", blocks())
def test_the_native_blocks_are_the_reference_blocks_at_every_level(
    what: str, native: ModuleType, levels: tuple[str, ...]
) -> None:
    data = blocks()[what]
    wanted = bytecoder.block_encode(data)
    for level in levels:
        native.set_simd(level)
        assert native.block_encode(data).hex() == wanted.hex(), level
        out = np.full(data.size, 99, np.uint8)
        body = np.frombuffer(wanted + b"tail", np.uint8)
        assert native.block_decode(body, 0, out) == len(wanted), level
        assert out.tobytes() == data.tobytes(), level


def test_the_kinds_are_the_smallest_ones() -> None:
    kinds = {what: bytecoder.block_encode(data)[0] for what, data in blocks().items()}
    assert kinds["constant"] == kinds["one byte"] == bytecoder.CONSTANT
    assert kinds["random"] == kinds["empty"] == kinds["bell of 31"] == bytecoder.RAW
    assert kinds["bell"] == kinds["nearly random"] == bytecoder.LANES
    assert kinds["two values"] == kinds["one in 5,000"] == bytecoder.ONE_LANE


def test_a_block_is_within_a_hundredth_of_its_entropy() -> None:
    data = blocks()["bell"]
    shares = np.bincount(data) / data.size
    entropy = -float((shares[shares > 0] * np.log2(shares[shares > 0])).sum()) * data.size / 8
    assert len(bytecoder.block_encode(data)) < 1.01 * entropy


def test_rare_values_keep_a_frequency_and_the_total_is_whole() -> None:
    draw = generator(0, "counts")
    for number in range(200):
        size = int(draw.integers(2, 257))
        counts = np.zeros(256, np.int64)
        scale = 10.0 ** draw.uniform(0, 5)
        counts[draw.permutation(256)[:size]] = 1 + (scale * draw.exponential(size=size) ** 3).astype(np.int64)
        frequencies = bytecoder.quantise_counts(counts)
        assert int(frequencies.sum()) == 4096, number
        assert ((frequencies > 0) == (counts > 0)).all()
        table = np.frombuffer(bytecoder.write_table(frequencies), np.uint8)
        again, end = bytecoder.read_table(table, 0)
        assert end == table.size
        assert (again == frequencies).all()


@given(st.binary(max_size=400), st.integers(0, 3), st.integers(1, 400))
def test_both_kernels_take_and_refuse_the_same_bytes(rest: bytes, kind: int, size: int) -> None:
    native = pytest.importorskip("phloem.kernels.native")
    body = np.frombuffer(bytes([kind]) + rest, np.uint8)
    same_end(native, body, size)


def test_both_kernels_take_and_refuse_the_same_damaged_blocks(native: ModuleType) -> None:
    draw = generator(0, "damaged blocks")
    whole = {what: bytecoder.block_encode(data) for what, data in blocks().items() if 30 < data.size < 10_000}
    taken = 0
    for what, block in whole.items():
        size = blocks()[what].size
        for _ in range(60):
            damaged = bytearray(block)
            for _ in range(int(draw.integers(1, 3))):
                damaged[int(draw.integers(min(len(block), 60)))] ^= 1 << int(draw.integers(8))
            cut = len(block) if draw.random() < 0.7 else int(draw.integers(len(block)))
            taken += same_end(native, np.frombuffer(bytes(damaged[:cut]), np.uint8), size)
    assert taken  # a raw byte may be any byte


def same_end(native: ModuleType, body: Bytes, size: int) -> bool:
    found: list[tuple[int, bytes] | None] = []
    for kernel in (reference, native):
        out = np.zeros(size, np.uint8)
        try:
            found.append((kernel.block_decode(body, 0, out), out.tobytes()))
        except FormatError:
            found.append(None)
    assert found[0] == found[1]
    return found[0] is not None


@every_type
@pytest.mark.parametrize("count", [0, 1, 33, 20_000])
def test_plain_planes_come_back_from_both_kernels(
    itemsize: int, exponent_bits: int, count: int, native: ModuleType, levels: tuple[str, ...]
) -> None:
    words = words_of(itemsize, count) if count else np.zeros(0, f"<u{itemsize}")
    wanted = planes.planes_split(words, exponent_bits)
    again = np.zeros_like(words)
    planes.planes_merge(wanted, again, exponent_bits)
    assert again.tobytes() == words.tobytes()
    for level in levels:
        native.set_simd(level)
        assert native.planes_split(words, exponent_bits).tobytes() == wanted.tobytes(), level
        again[:] = 0
        native.planes_merge(wanted, again, exponent_bits)
        assert again.tobytes() == words.tobytes(), level


@every_type
@pytest.mark.parametrize("count", [0, 1, 33, 20_000, 60_000])
def test_differences_come_back_from_both_kernels(
    itemsize: int, exponent_bits: int, count: int, native: ModuleType, levels: tuple[str, ...]
) -> None:
    words = words_of(itemsize, count) if count else np.zeros(0, f"<u{itemsize}")
    base = words_of(itemsize, count, 1) if count else words.copy()
    base[: count // 3] = words[: count // 3]
    ends = planes.differences_ends(base, exponent_bits)
    wanted = planes.differences_split(words, base, exponent_bits)
    assert (ends[-1] if ends else 0) == count
    for level in levels:
        native.set_simd(level)
        assert native.differences_ends(base, exponent_bits) == ends
        assert native.differences_split(words, base, exponent_bits).tobytes() == wanted.tobytes(), level
        for kernel in (reference, native):
            again = np.zeros_like(words)
            kernel.differences_merge(wanted, base, again, exponent_bits)
            assert again.tobytes() == words.tobytes(), (kernel.NAME, level)


def test_a_float32_has_its_exponent_in_the_highest_plane_and_its_sign_under_it() -> None:
    words = np.array([-1.5, 2.0], "<f4").view("<u4")
    assert planes.planes_split(words, 8).tolist() == [[0, 0], [0, 0], [0xC0, 0], [127, 128]]


def test_a_float64_has_the_low_bits_of_its_exponent_in_the_highest_plane() -> None:
    words = np.array([-1.5, 2.0], "<f8").view("<u8")
    assert planes.planes_split(words, 11)[6:].tolist() == [[0b011_1_1000, 0b100_0_0000], [0xFF, 0x00]]


def test_neighbouring_floats_differ_by_one_across_zero_too() -> None:
    base = np.array([1.0, -1.0, -0.0, 0.0, 1.0], np.float32)
    near = np.array([np.nextafter(np.float32(1), np.float32(2)), -1.0, 0.0, -0.0, 1.0], np.float32)
    near[1] = np.nextafter(np.float32(-1), np.float32(-2))
    # in the order of the base's exponents: the zeros (exponent 0), then the ones
    split = planes.differences_split(near.view("<u4"), base.view("<u4"), 8)
    assert split[0].tolist() == [2, 1, 2, 1, 0]
    assert not split[1:].any()


def test_classes_are_joined_until_they_are_large_and_the_rest_joins_the_last() -> None:
    base = np.concatenate(
        [np.full(n, 2.0**e, np.float32) for n, e in ((100, -9), (9000, -5), (8192, 0), (7, 3))]
    )
    assert planes.differences_ends(base.view("<u4"), 8) == [9100, 9100 + 8192 + 7]
    assert planes.differences_ends(base[:50].view("<u4"), 8) == [50]
    assert planes.differences_ends(base.view("<u4"), 0) == [base.size]

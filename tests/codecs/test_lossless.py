"""Bytes of every type, with and without a base, come back; damage is refused or harmless."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from phloem import kernels
from phloem.codecs import lossless
from phloem.codecs.base import Hints
from phloem.codecs.lossless import CHUNK, DTYPES, Lossless, decode_bytes, encode_bytes, needs_base
from phloem.errors import ConfigError, FormatError
from phloem.kernels import bytecoder
from phloem.seeds import generator
from phloem.tensors import Layout

DRAW = generator(0, "lossless")
WEIGHTS = DRAW.normal(scale=0.02, size=40_000).astype(np.float32)
NEAR = (WEIGHTS * (1 + 1e-5 * DRAW.normal(size=WEIGHTS.size))).astype(np.float32)


def halves(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


@given(st.binary(max_size=300), st.sampled_from(sorted(DTYPES)), st.booleans(), st.integers(0, 255))
def test_any_bytes_come_back(data: bytes, dtype: str, with_base: bool, other: int) -> None:
    base = bytes(byte ^ other if at % 7 == 0 else byte for at, byte in enumerate(data)) if with_base else None
    body = encode_bytes(data, dtype, base)
    assert bytes(decode_bytes(body, dtype, len(data), base)) == data
    assert len(body) <= len(data) + 1 + 8


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("size", [0, 1, 7, CHUNK + 5])
def test_every_type_and_ragged_sizes_come_back(dtype: str, size: int) -> None:
    draw = generator(size, "ragged")
    data = np.minimum(draw.geometric(0.05, size=size), 255).astype(np.uint8)
    base = data.copy()
    base[::50] ^= 1
    for held in (None, base):
        body = encode_bytes(data, dtype, held)
        assert bytes(decode_bytes(body, dtype, size, held)) == data.tobytes()


@pytest.mark.parametrize("level", [None, "base"])
def test_several_chunks_are_the_same_on_every_kernel(
    level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lossless, "CHUNK", 20_000)  # the reference takes its time
    if "native" not in kernels.available():
        pytest.skip("the native kernels are not built")
    draw = generator(0, "chunks")
    values = halves(draw.normal(size=50_000).astype(np.float32))
    base = None if level is None else values ^ (draw.random(values.size) < 0.1)
    bodies = []
    try:
        for kernel in ("reference", "native"):
            kernels.use(kernel)
            body = encode_bytes(values, "BF16", base)
            assert bytes(decode_bytes(body, "BF16", values.nbytes, base)) == values.tobytes()
            bodies.append(body)
    finally:
        kernels.use("auto")
    assert bodies[0] == bodies[1]


def test_nan_infinities_and_both_zeros_keep_their_bits() -> None:
    patterns = np.array([0x7FC00001, 0xFF800000, 0x7F800000, 0x80000000, 0, 1, 0xFFFFFFFF], "<u4")
    for base in (None, patterns[::-1].copy()):
        assert bytes(decode_bytes(encode_bytes(patterns, "F32", base), "F32", 28, base)) == patterns.tobytes()


@pytest.mark.parametrize(("dtype", "data"), [("F32", WEIGHTS), ("BF16", halves(WEIGHTS))])
def test_weights_are_smaller_than_zstd_19_makes_them(dtype: str, data: np.ndarray) -> None:
    assert len(encode_bytes(data, dtype)) < len(zstandard.ZstdCompressor(level=19).compress(data.tobytes()))


def test_random_bytes_grow_by_a_few_bytes_only() -> None:
    data = generator(0, "noise").bytes(4 * CHUNK)
    assert len(encode_bytes(data, "F32")) <= len(data) + 8


def test_repeated_rows_go_to_zstd_and_come_back() -> None:
    data = np.tile(WEIGHTS[:500], 80)
    body = encode_bytes(data, "F32")
    assert body[1] == bytecoder.ZSTD
    assert len(body) < data.nbytes / 20
    assert bytes(decode_bytes(body, "F32", data.nbytes)) == data.tobytes()


def test_a_near_base_saves_most_and_a_far_one_is_left_out() -> None:
    alone, near = encode_bytes(NEAR, "F32"), encode_bytes(NEAR, "F32", WEIGHTS)
    assert len(near) < 0.5 * len(alone)
    assert needs_base(near)
    far = encode_bytes(
        NEAR, "F32", generator(1, "far").normal(size=NEAR.size).astype(np.float32)[::-1].copy()
    )
    assert far == alone
    assert not needs_base(far)
    assert len(encode_bytes(WEIGHTS, "F32", WEIGHTS)) < 100


def test_only_some_chunks_may_use_the_base() -> None:
    same, other = np.zeros(CHUNK, np.uint16), halves(generator(2, "x").normal(size=CHUNK).astype(np.float32))
    data, base = np.concatenate([other, other]), np.concatenate([other, same])
    body = encode_bytes(data, "BF16", base)
    assert bytes(decode_bytes(body, "BF16", data.nbytes, base)) == data.tobytes()
    assert len(body) < 0.6 * len(encode_bytes(data, "BF16"))


def test_another_base_or_none_is_refused() -> None:
    body = encode_bytes(NEAR, "F32", WEIGHTS)
    with pytest.raises(FormatError, match="needs a base"):
        decode_bytes(body, "F32", NEAR.nbytes)
    for other in (NEAR, WEIGHTS[:-1], WEIGHTS[:0]):
        with pytest.raises(FormatError, match="not the base"):
            decode_bytes(body, "F32", NEAR.nbytes, other)


def test_calls_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="no element type"):
        encode_bytes(b"", "float32")
    with pytest.raises(ConfigError, match="no element type"):
        decode_bytes(b"\0", "float32", 0)
    with pytest.raises(ConfigError, match="the base has 3 bytes, expected 4"):
        encode_bytes(b"four", "F32", b"two")
    with pytest.raises(ConfigError, match="contiguous"):
        encode_bytes(WEIGHTS[::2], "F32")


def test_absurd_sizes_are_refused_before_memory_is_taken() -> None:
    body = encode_bytes(WEIGHTS, "F32")
    with pytest.raises(FormatError, match="cannot hold"):
        decode_bytes(body[:40], "F32", 1 << 60)


def damaged_bodies() -> list[tuple[str, bytes, np.ndarray | None, int, str]]:
    repeated = np.tile(WEIGHTS[:64], 40)
    return [
        ("plain", encode_bytes(WEIGHTS[:9000], "F32"), None, 36_000, "F32"),
        ("differences", encode_bytes(NEAR[:3000], "F32", WEIGHTS[:3000]), WEIGHTS[:3000], 12_000, "F32"),
        ("bf16", encode_bytes(halves(WEIGHTS[:9001]), "BF16"), None, 18_002, "BF16"),
        ("zstd", encode_bytes(repeated, "F32"), None, repeated.nbytes, "F32"),
        ("ragged", encode_bytes(WEIGHTS[:99].tobytes() + b"abc", "F64"), None, 399, "F64"),
    ]


@pytest.mark.parametrize("case", damaged_bodies(), ids=lambda case: case[0])
def test_every_truncation_and_extension_is_refused(
    case: tuple[str, bytes, np.ndarray | None, int, str],
) -> None:
    _, body, base, size, dtype = case
    cuts = range(len(body)) if len(body) < 600 else [*range(300), *range(300, len(body), 97), len(body) - 1]
    for cut in cuts:
        with pytest.raises(FormatError):
            decode_bytes(body[:cut], dtype, size, base)
    for more in (b"\0", b"\1", b"\xff\xff"):
        with pytest.raises(FormatError):
            decode_bytes(body + more, dtype, size, base)
    for other in (size - 1, size + 1, size + 4096, 0):
        if base is None:
            with pytest.raises(FormatError):
                decode_bytes(body, dtype, other)


@pytest.mark.parametrize("case", damaged_bodies(), ids=lambda case: case[0])
def test_every_flipped_bit_is_refused_or_gives_bytes_of_the_size(
    case: tuple[str, bytes, np.ndarray | None, int, str],
) -> None:
    _, body, base, size, dtype = case
    draw = generator(0, "flips", case[0])
    early = range(8 * min(len(body), 150))
    for bit in [*early, *draw.integers(8 * len(body), size=300).tolist()]:
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert len(decode_bytes(bytes(flipped), dtype, size, base)) == size
        except FormatError:
            continue


def test_zstd_blocks_that_claim_another_size_are_refused() -> None:
    for packed in (zstandard.compress(bytes(65)), zstandard.compress(bytes(63)), b"", b"not zstd at all"):
        body = bytes([0, bytecoder.ZSTD, len(packed)]) + packed
        with pytest.raises(FormatError, match="zstd"):
            decode_bytes(body, "U8", 64)
    with pytest.raises(FormatError, match="inside a zstd"):
        decode_bytes(bytes([0, bytecoder.ZSTD, 100]) + bytes(5), "U8", 64)


def test_a_zstd_frame_without_its_size_is_refused() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64))
    with pytest.raises(FormatError, match="zstd"):
        decode_bytes(bytes([0, bytecoder.ZSTD, len(packed)]) + packed, "U8", 64)


def test_the_codec_uses_what_both_ends_hold() -> None:
    layout = Layout.of({"a": NEAR[:30_000], "b": NEAR[30_000:].reshape(100, 100)})
    arrays = layout.arrays({"a": NEAR[:30_000], "b": NEAR[30_000:].reshape(100, 100)})
    held = [WEIGHTS[:30_000], WEIGHTS[30_000:].reshape(100, 100)]
    body = Lossless().encode(arrays, layout, Hints(held=held))
    assert len(body) < 0.5 * len(Lossless().encode(arrays, layout))
    again = Lossless.decode(body, layout, held)
    assert [array.tobytes() for array in again] == [array.tobytes() for array in arrays]
    with pytest.raises(FormatError, match="needs a base"):
        Lossless.decode(body, layout)


def test_the_codec_refuses_values_that_are_not_finite() -> None:
    body = encode_bytes(np.array([1.0, np.nan], "<f4"), "F32")
    with pytest.raises(FormatError, match="NaN"):
        Lossless.decode(body, Layout.of({"x": np.zeros(2)}))


def test_the_smallest_block_is_two_bytes_so_the_size_check_holds() -> None:
    body = encode_bytes(np.zeros(3 * CHUNK, np.float32), "F32")
    assert len(body) == 1 + 3 * 4 * 2
    assert lossless.CHUNK == 1 << 18

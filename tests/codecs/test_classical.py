from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from phloem import varint
from phloem.codecs import positions
from phloem.codecs.casts import BFloat16, NoCompression, from_bf16, to_bf16
from phloem.codecs.classical import Bins, Float8, Float16, Int4, Int8, Nf4, Sign, Ternary, Threshold, TopK
from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError, FormatError
from phloem.seeds import generator
from phloem.tensors import Array, Layout

floats = st.floats(-(2.0**100), 2.0**100, width=32)
vectors = npst.arrays(np.float32, st.integers(0, 60), elements=floats)


def there_and_back(codec: object, vector: Array) -> Array:
    layout = Layout.of({"x": vector})
    return codec.decode(codec.encode([vector], layout), layout)[0]  # type: ignore[attr-defined]


def test_every_finite_bfloat16_is_its_own_rounding() -> None:
    halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    finite = halves[np.isfinite(from_bf16(halves))]
    assert np.array_equal(to_bf16(from_bf16(finite)), finite)


@given(npst.arrays(np.float32, 20, elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_bf16_rounds_to_the_nearest_and_to_even_between_two(values: Array) -> None:
    halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    halves = halves[np.isfinite(from_bf16(halves))]
    grid = from_bf16(halves).astype(np.float64)
    for value, got in zip(values.astype(np.float64), to_bf16(values), strict=True):
        distance = np.abs(grid - value)
        nearest = halves[distance == distance.min()]
        assert got in nearest
        if len(set(from_bf16(nearest).tolist())) > 1:
            assert got % 2 == 0


def test_bf16_takes_the_even_neighbour_of_every_value_half_way_between_two() -> None:
    lower = np.arange(0x7F7F, dtype=np.uint32)  # every positive finite bfloat16 but the largest
    half_way = ((lower << 16) | 0x8000).view(np.float32)
    assert np.array_equal(to_bf16(half_way), lower + lower % 2)
    assert np.array_equal(to_bf16(-half_way), (lower + lower % 2) | 0x8000)


@given(npst.arrays(np.float32, 20, elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_bf16_keeps_its_stated_bound(values: Array) -> None:
    normal = values[np.abs(values) >= 2.0**-126]
    error = np.abs(there_and_back(BFloat16(), normal).astype(np.float64) - normal.astype(np.float64))
    assert (error <= 2.0**-8 * np.abs(normal.astype(np.float64))).all()


def test_none_is_the_plain_bytes_of_the_values() -> None:
    vector = generator(0, "none").normal(size=9).astype(np.float32)
    assert NoCompression().encode([vector], Layout.of({"x": vector})) == vector.astype("<f4").tobytes()


@given(vectors, st.integers(1, 70))
def test_int8_stays_within_half_its_scale(vector: Array, block: int) -> None:
    vector = np.where(np.abs(vector) < 1e-30, np.float32(0), vector)
    back = there_and_back(Int8(block), vector)
    for start in range(0, vector.size, block):
        part = slice(start, start + block)
        largest = float(np.abs(vector[part]).max())
        scale = largest / 127 * (1 + 2.0**-7)  # rounded up to bfloat16
        assert np.abs(back[part].astype(np.float64) - vector[part]).max() <= scale / 2 * (1 + 1e-6)


def test_int8_values_are_exact_products_of_integer_and_scale() -> None:
    vector = generator(0, "int8").standard_t(2, size=5000).astype(np.float32)
    layout = Layout.of({"x": vector})
    body = Int8(100).encode([vector], layout)
    scales = from_bf16(np.frombuffer(body, "<u2", 50, 1).astype(np.uint16)).astype(np.float64)
    integers = np.frombuffer(body, np.int8, 5000, 101).astype(np.float64)
    exact = integers * np.repeat(scales, 100)
    assert np.array_equal(Int8.decode(body, layout)[0].astype(np.float64), exact)


def test_int8_takes_8_bits_a_value_16_a_block_and_a_byte() -> None:
    layout = Layout.of({"x": np.zeros(1000)})
    assert len(Int8(64).encode([np.zeros(1000, np.float32)], layout)) == 1 + 2 * 16 + 1000


LAYOUT_2 = Layout.of({"x": np.zeros(2)})


@pytest.mark.parametrize(
    "body",
    [
        varint.pack(128) + b"\x80\x3f" + bytes([0x80, 1]),  # -128: with the largest scale an infinity
        varint.pack(128) + b"\x01\x7c" + bytes([1, 1]),
        varint.pack(128) + b"\x80\xbf" + bytes([1, 1]),
        varint.pack(128) + b"\xc0\x7f" + bytes([1, 1]),
        varint.pack(0) + b"\x80\x3f" + bytes([1, 1]),
        varint.pack(2**24 + 1) + b"\x80\x3f" + bytes([1, 1]),
        varint.pack(2**63) + b"\x80\x3f" + bytes([1, 1]),
    ],
    ids=[
        "-128",
        "scale too large",
        "scale negative",
        "scale NaN",
        "no block",
        "block too large",
        "block absurd",
    ],
)
def test_an_int8_body_outside_its_ranges_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        Int8.decode(body, LAYOUT_2)


@given(vectors, st.floats(0.01, 1.0))
def test_topk_keeps_the_largest_exactly_and_ties_go_to_the_front(vector: Array, fraction: float) -> None:
    count = min(vector.size, max(1, round(fraction * vector.size)))
    kept = sorted(range(vector.size), key=lambda place: (-abs(float(vector[place])), place))[:count]
    wanted = np.zeros_like(vector)
    wanted[kept] = vector[kept]
    assert there_and_back(TopK(fraction), vector).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("places", [[1, 0], [1, 1], [0, 2], [2, 3]], ids=str)
def test_a_topk_body_whose_positions_do_not_rise_or_leave_the_layout_is_refused(places: list[int]) -> None:
    body = varint.pack(2) + b"\0" + np.array(places, "<u4").tobytes() + np.ones(2, "<f4").tobytes()
    with pytest.raises(FormatError, match="positions"):
        TopK.decode(body, LAYOUT_2)


@given(npst.arrays(np.float32, (3, 7), elements=floats))
def test_sign_sends_the_mean_magnitude_of_a_tensor_with_the_sign_of_each_value(matrix: Array) -> None:
    back = there_and_back(Sign(), matrix)
    scale = np.float32(np.abs(matrix.astype(np.float64)).mean())
    assert np.allclose(np.abs(back), scale, rtol=1e-6)
    assert np.array_equal(back < 0, (matrix < 0) & (scale > 0))


@pytest.mark.parametrize(
    "body",
    [
        b"\0\0\x80\xbf\0",
        b"\0\0\xc0\x7f\0",
        b"\0\0\x80\x7f\0",
        b"\0\0\0\x80\0",
        b"\0\0\x80\x3f\x04",
    ],
    ids=["scale negative", "scale NaN", "scale infinite", "scale minus zero", "padding"],
)
def test_a_sign_body_with_a_bad_scale_or_padding_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        Sign.decode(body, LAYOUT_2)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"codec": "int8", "block": 0}, "'block' must lie between 1"),
        ({"codec": "int8", "block": 1.5}, "'block' must be a whole number"),
        ({"codec": "int8", "block": "8"}, "'block' must be a number"),
        ({"codec": "int8", "block": True}, "'block' must be a number"),
        ({"codec": "int8", "block": 10**400}, "'block' must lie between"),
        ({"codec": "int8", "blok": 8}, "did you mean 'block'"),
        ({"codec": "topk", "fraction": 0.0}, "'fraction' must lie between"),
        ({"codec": "topk", "fraction": float("nan")}, "'fraction' must lie between"),
        ({"codec": "topk", "fractoin": 0.1}, "did you mean 'fraction'"),
        ({"codec": "sign", "block": 8}, "codec 'sign' has no key 'block'"),
    ],
)
def test_a_wrong_configuration_says_what_was_expected(config: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        codec_from(config)


@pytest.mark.parametrize("format", ["e4m3", "e5m2"])
def test_fp8_is_torchs_cast_of_the_scaled_values(format: str) -> None:
    torch = pytest.importorskip("torch")
    kind = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[format]
    most = {"e4m3": 448.0, "e5m2": 57344.0}[format]
    draw = generator(0, "fp8")
    vector = (draw.normal(size=20_000) * 10.0 ** draw.uniform(-8, 0, 20_000)).astype(np.float32)
    vector[:256] = torch.arange(256, dtype=torch.uint8).view(kind).float().nan_to_num(0, 0, 0).numpy()
    vector[0] = most  # so that the power of two is one
    scaled = np.clip(vector, -most, most)
    wanted = torch.from_numpy(scaled).to(kind).float().numpy()
    assert np.array_equal(there_and_back(Float8(format), scaled), wanted)  # type: ignore[arg-type]


@given(vectors, st.integers(0, 70), st.sampled_from(["e4m3", "e5m2"]))
def test_fp8_keeps_its_stated_bound(vector: Array, block: int, format: str) -> None:
    back = there_and_back(Float8(format, block), vector)  # type: ignore[arg-type]
    relative, floor = {"e4m3": (2.0**-4, 2.0**-18), "e5m2": (2.0**-3, 2.0**-32)}[format]
    for start in range(0, vector.size, block or max(1, vector.size)):
        part = slice(start, start + (block or vector.size))
        largest = float(np.abs(vector[part]).max())
        if largest < 2.0**-100:
            continue
        error = np.abs(back[part].astype(np.float64) - vector[part])
        assert (error <= np.maximum(relative * np.abs(vector[part]), floor * largest)).all()


def test_fp16_is_ieee_half_precision_and_never_an_infinity() -> None:
    vector = np.array([1.0, 65504.0, 1e30, -7e4, 2.0**-24, 1e-9, -0.0, 1 / 3], np.float32)
    wanted = np.clip(vector, -65504, 65504).astype(np.float16).astype(np.float32)
    assert there_and_back(Float16(), vector).tobytes() == wanted.tobytes()


@given(vectors, st.integers(1, 70))
def test_int4_stays_within_half_its_scale(vector: Array, block: int) -> None:
    vector = np.where(np.abs(vector) < 1e-30, np.float32(0), vector)
    back = there_and_back(Int4(block), vector)
    for start in range(0, vector.size, block):
        part = slice(start, start + block)
        scale = float(np.abs(vector[part]).max()) / 7 * (1 + 2.0**-7)
        assert np.abs(back[part].astype(np.float64) - vector[part]).max() <= scale / 2 * (1 + 1e-6)


def test_nf4_has_the_published_error_of_a_normal_source() -> None:
    vector = generator(0, "nf4").normal(size=1 << 16).astype(np.float32)
    error = np.square(there_and_back(Nf4(), vector) - vector).mean()
    assert error == pytest.approx(0.0084, rel=0.05)  # research/codecs.md, table 1.1: block of 64


@given(
    st.lists(st.integers(0, 3000), unique=True, max_size=200).map(sorted),
    st.integers(0, 1 << 40),
    st.sampled_from(positions.KINDS),
)
def test_positions_come_back_from_where_they_begin(found: list[int], more: int, kind: str) -> None:
    size = 3001 if kind == "raw32" else 3001 + more
    wanted = np.array(found, np.int64)
    if kind == "rice" and wanted.size:
        wanted[-1] += more
    packed = positions.pack(wanted, size, kind)
    got, end = positions.unpack(b"ab" + packed + b"more", 2, size, "test")
    assert np.array_equal(got, wanted)
    assert end == 2 + len(packed)


@pytest.mark.parametrize(
    "damaged", ["0301010101a3", "030101018123", "03010102010123", "0301010123", "030101290123"]
)
def test_rice_codes_have_one_way_to_be_written(damaged: str) -> None:
    good = bytes.fromhex("030101010123")
    assert positions.unpack(good, 0, 10, "test")[0].tolist() == [1, 2, 9]
    with pytest.raises(FormatError):
        positions.unpack(bytes.fromhex(damaged), 0, 10, "test")


def test_a_rice_code_of_2_to_the_64_is_no_small_position() -> None:
    size = 1 << 24  # and 40 low bits below it
    high = bytes(size // 8) + b"\1"
    body = varint.pack(1) + b"\1" + varint.pack(len(high)) + bytes([40]) + bytes(5) + high
    with pytest.raises(FormatError, match="leave the layout"):
        positions.unpack(body, 0, size, "test")


@pytest.mark.parametrize("share", [1 / 64, 0.1, 0.001])
def test_rice_positions_take_little_more_than_their_entropy(share: float) -> None:
    size = 1 << 20
    chosen = np.flatnonzero(generator(0, "rice").random(size) < share)
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) / share
    taken = 8 * len(positions.pack(chosen, size, "rice")) / chosen.size
    assert entropy - 0.05 < taken < entropy + 0.15


def test_topk_in_chunks_keeps_as_many_in_every_chunk_and_in_short_ones_their_share() -> None:
    vector = generator(0, "chunks").normal(size=1000).astype(np.float32)
    vector[:256] *= 100
    back = there_and_back(TopK(1 / 16, "chunk", 256), vector)
    assert [np.count_nonzero(back[start : start + 256]) for start in range(0, 1000, 256)] == [16, 16, 16, 14]
    for start in (0, 256, 512):
        part, kept = np.abs(vector[start : start + 256]), back[start : start + 256] != 0
        assert part[kept].min() > part[~kept].max()


def test_topk_by_tensor_keeps_at_least_one_of_each() -> None:
    layout = Layout.of({"a": np.zeros(3), "b": np.zeros((100, 10)), "c": np.zeros((0, 2)), "d": np.zeros(())})
    arrays = [generator(0, name).normal(size=spec.shape).astype(np.float32).reshape(spec.shape)
              for name, spec in zip("abcd", layout.specs, strict=True)]  # fmt: skip
    back = TopK.decode(TopK(0.01, "tensor").encode(arrays, layout), layout)
    assert [np.count_nonzero(array) for array in back] == [1, 10, 0, 1]


def test_threshold_keeps_what_reaches_it() -> None:
    vector = np.array([0.5, -0.5, 0.49, -2.0, 0.0], np.float32)
    assert there_and_back(Threshold(0.5), vector).tolist() == [0.5, -0.5, 0.0, -2.0, 0.0]


def test_bins_decode_to_the_mean_of_what_fell_into_them() -> None:
    vector = np.array([-3.0, -2.8, 3.0, 2.0], np.float32)
    assert there_and_back(Bins(2), vector) == pytest.approx([-2.9, -2.9, 2.5, 2.5])
    assert there_and_back(Bins(1), np.full(5, 7.0, np.float32)).tolist() == [7.0] * 5


def test_ternary_packs_five_values_in_a_byte() -> None:
    layout = Layout.of({"x": np.zeros(1001)})
    assert len(Ternary().encode([np.ones(1001, np.float32)], layout)) == 4 + 201

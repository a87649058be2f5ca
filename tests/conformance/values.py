"""The bodies of docs/bodies.md that carry values one by one."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from tests.conformance.reader import Reader, Shape, require, saturated, size_of

MOST_BLOCK = 1 << 24
#: The normal-float levels of docs/bodies.md, as the bits of float32 values.
NF4 = (
    0xBF800000, 0xBF3239B1, 0xBF066B30, 0xBECA32A0, 0xBE91A24D, 0xBE3D353F, 0xBDBA7871, 0x00000000,
    0x3DA2FAFF, 0x3E24CAE3, 0x3E7C04DD, 0x3EAD033A, 0x3EE1A4B8, 0x3F1007AB, 0x3F3913B3, 0x3F800000,
)  # fmt: skip


def decode_none(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """Float32 values as they are."""
    return reader.floats(total(shapes))


def decode_bf16(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """Upper halves of float32."""
    bits = struct.unpack(f"<{total(shapes)}H", reader.take(2 * total(shapes)))
    require(all(one & 0x7F80 != 0x7F80 for one in bits), "a value is not finite")
    return [struct.unpack("<f", struct.pack("<I", one << 16))[0] for one in bits]


def decode_fp16(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """IEEE binary16."""
    values = list(struct.unpack(f"<{total(shapes)}e", reader.take(2 * total(shapes))))
    require(all(map(math.isfinite, values)), "a value is not finite")
    return values


def decode_fp8(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """8-bit floats times a power of two per group."""
    kind, block = reader.byte(), reader.number()
    require(kind < 2 and block <= MOST_BLOCK, "no such format")
    groups = list(map(size_of, shapes)) if block == 0 else blocks(total(shapes), block)
    exponents = [byte - 127 for byte in reader.take(len(groups))]
    require(all(-126 <= one <= 127 for one in exponents), "an exponent is out of range")
    fraction, bias, most = ((3, 7, 0x7E), (2, 15, 0x7B))[kind]
    codes = iter(reader.take(total(shapes)))
    values = []
    for size, exponent in zip(groups, exponents, strict=True):
        for _ in range(size):
            code = next(codes)
            size_code = code & 127
            require(size_code <= most, "a code is not a number")
            e, m = size_code >> fraction, size_code & ((1 << fraction) - 1)
            magnitude = math.ldexp(m + (e > 0) * (1 << fraction), max(e, 1) - bias - fraction + exponent)
            values.append(math.copysign(saturated(magnitude), -1.0 if code & 128 else 1.0))
    return values


def decode_int8(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """Blocks of 8-bit integers with a scale each."""
    block, scales = read_scales(reader, shapes)
    integers = struct.unpack(f"<{total(shapes)}b", reader.take(total(shapes)))
    require(-128 not in integers, "an integer is out of range")
    return [saturated(one * scales[i // block]) for i, one in enumerate(integers)]


def decode_int4(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """Blocks of 4-bit integers with a scale each."""
    block, scales = read_scales(reader, shapes)
    codes = reader.packed(total(shapes), 4)
    require(0 not in codes, "an integer is out of range")
    return [saturated((code - 8) * scales[i // block]) for i, code in enumerate(codes)]


def decode_nf4(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """Blocks of normal floats with a scale each."""
    block, scales = read_scales(reader, shapes)
    levels = [struct.unpack("<f", struct.pack("<I", bits))[0] for bits in NF4]
    codes = reader.packed(total(shapes), 4)
    return [saturated(levels[code] * scales[i // block]) for i, code in enumerate(codes)]


def decode_bins(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """The means of a few bins per tensor."""
    bits = reader.byte()
    require(1 <= bits <= 8, "no such number of bits")
    means = [reader.floats(1 << bits) for _ in shapes]
    bins = iter(reader.packed(total(shapes), bits))
    return [own[next(bins)] for own, shape in zip(means, shapes, strict=True) for _ in range(size_of(shape))]


def decode_qsgd(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """Levels of each bucket's unit."""
    bucket, levels = reader.number(), reader.number()
    require(1 <= bucket <= MOST_BLOCK and 1 <= levels <= 1 << 15, "no such buckets or levels")
    units = reader.halves(-(-total(shapes) // bucket), 0x7F7F)
    codes = reader.packed(total(shapes), (2 * levels).bit_length())
    require(all(code <= 2 * levels for code in codes), "a level is out of range")
    return [saturated((code - levels) * units[i // bucket]) for i, code in enumerate(codes)]


def decode_sign(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """A sign per value, a scale per tensor."""
    scales = reader.scales(len(shapes))
    minus = iter(reader.packed(total(shapes), 1))
    return [
        -scale if next(minus) else scale
        for scale, shape in zip(scales, shapes, strict=True)
        for _ in range(size_of(shape))
    ]


def decode_ternary(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """Minus, zero or plus each tensor's scale."""
    scales = reader.scales(len(shapes))
    digits = []
    for byte in reader.take(-(-total(shapes) // 5)):
        require(byte <= 242, "a byte is more than five digits")
        digits += [byte // 3**place % 3 for place in range(5)]
    require(not any(digits[total(shapes) :]), "the padding is not zero")
    found = iter(digits)
    return [
        (next(found) - 1) * scale
        for scale, shape in zip(scales, shapes, strict=True)
        for _ in range(size_of(shape))
    ]


def read_scales(reader: Reader, shapes: Sequence[Shape]) -> tuple[int, list[float]]:
    """The block size and the scale of each block."""
    block = reader.number()
    require(1 <= block <= MOST_BLOCK, "no such block")
    return block, reader.halves(-(-total(shapes) // block), 0x7C00)


def blocks(count: int, block: int) -> list[int]:
    """The sizes of the blocks of a vector."""
    return [min(block, count - start) for start in range(0, count, block)]


def total(shapes: Sequence[Shape]) -> int:
    """The number of values."""
    return sum(map(size_of, shapes))

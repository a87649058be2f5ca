"""Random streams, rotations, and the bodies that are rotated: docs/bodies.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.conformance.levels import LEVELS
from tests.conformance.reader import Reader, Shape, float32, require, saturated
from tests.conformance.values import total

MASK = (1 << 64) - 1


def word(seed: int, number: int) -> int:
    """A word of a stream."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def cut(count: int, block: int, least: int = 1) -> list[int]:
    """The sizes of the blocks, in order."""
    sizes, rest = [], -(-count // least) * least
    while rest:
        if block <= rest:
            sizes.append(block)
            rest -= block
        else:
            block //= 2
    return sizes


def rotated_back(
    vector: list[float], sizes: Sequence[int], seed: int, rounds: int, exponent: int = 0
) -> list[float]:
    """The vector before its rotation, times 2**exponent in every round."""
    for number in reversed(range(rounds)):
        stream = word(seed, (1 << 63) + number)
        turned: list[float] = []
        for size in sizes:
            half = size.bit_length() // 2  # ⌈log2(size) / 2⌉
            block = hadamard(vector[len(turned) : len(turned) + size])
            turned += [float32(value * 2.0 ** (exponent - half)) for value in block]
        vector = [
            -value if word(stream, i // 64) >> (i % 64) & 1 else value for i, value in enumerate(turned)
        ]
    return vector


def hadamard(block: list[float]) -> list[float]:
    """The Walsh-Hadamard transform, every operation in float32."""
    h = 1
    while h < len(block):
        for i in range(len(block)):
            if not i & h:
                a, b = block[i], block[i + h]
                block[i], block[i + h] = float32(a + b), float32(a - b)
        h *= 2
    return block


def read_block(reader: Reader, least: int) -> int:
    """The largest block, from its logarithm."""
    power = reader.byte()
    require(least <= power <= 16, "no such block")
    return 1 << power


def decode_eden(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """The nearest levels of rotated values, and a scale per block."""
    count = total(shapes)
    block, bits = read_block(reader, 6), reader.byte()
    require(bits <= 8, "no such number of bits")
    share = 0
    if bits == 0:
        share = reader.unsigned(2)
        require(share > 0, "no values")
    seed = reader.unsigned(8)
    sizes = cut(count, block, 64)
    scales = reader.scales(len(sizes))
    kept = [max(32, -(-size * share >> 16)) if share else size for size in sizes]
    positive = [level * 2.0**-20 for level in LEVELS[max(bits, 1) - 1]]
    levels = [-level for level in reversed(positive)] + positive
    codes = iter(reader.packed(sum(kept), max(bits, 1)))
    vector = []
    for size, some in zip(sizes, kept, strict=True):
        vector += [levels[next(codes)] for _ in range(some)] + [0.0] * (size - some)
    vector = rotated_back(vector, sizes, seed, 3 if share else 2)
    each = (scale for scale, size in zip(scales, sizes, strict=True) for _ in range(size))
    return [saturated(value * scale) for value, scale in zip(vector, each, strict=True)][:count]


def decode_linear(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """Rotated integers on a grid."""
    exponent, bits = reader.byte() - 128, reader.byte()
    require(-100 <= exponent <= 60 and 2 <= bits <= 24, "no such grid")
    block, most, senders = read_block(reader, 1), reader.number(), reader.number()
    require(senders <= most <= 1 << 22, "too many senders")
    seed = reader.unsigned(8)
    integers = reader.packed(total(shapes), bits)
    half = 1 << (bits - 1)
    vector = [float(one - 2 * half if one >= half else one) for one in integers]
    found = rotated_back(vector, cut(total(shapes), block), seed, 1, exponent)
    return [value + 0.0 for value in found]


def words(seed: int, count: int) -> Iterator[int]:
    """The first words of a stream."""
    return (word(seed, number) for number in range(count))

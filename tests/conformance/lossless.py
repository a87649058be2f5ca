"""The body of `lossless`: docs/bodies.md."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from tests.conformance.reader import Reader, Refused, require
from tests.conformance.zstandard import unzstd

CHUNK = 1 << 18
CLASS = 8192


@dataclass(frozen=True)
class Kind:
    """An element type: bytes, and bits of the exponent (0: an integer)."""

    size: int
    exponent: int


FLOAT32, BYTE = Kind(4, 8), Kind(1, 0)


def decode_bytes(body: bytes, kind: Kind, size: int, base: bytes | None = None) -> bytes:
    """The `size` bytes of a body."""
    reader = Reader(body)
    flags = reader.byte()
    require(flags < 2, "unknown flags")
    held: list[int] | None = None
    if flags:
        if base is None:
            raise Refused("the body needs a base")
        require(len(base) == size and zlib.crc32(base) == reader.unsigned(4), "another base")
        held = elements(base, kind)
    count = size // kind.size
    require(
        len(body) - reader.at >= -(-count // CHUNK) * 2 * kind.size + size % kind.size,
        "fewer bytes than blocks",
    )
    found: list[int] = []
    for start in range(0, count, CHUNK):
        length = min(CHUNK, count - start)
        differs = reader.byte() if flags else 0
        require(differs < 2, "neither plain nor differences")
        if differs and held is not None:
            found += read_differences(reader, kind, held[start : start + length])
        else:
            found += [turned_back(one, kind) for one in read_planes(reader, kind, length)]
    rest = reader.take(size % kind.size)
    reader.end()
    return b"".join(one.to_bytes(kind.size, "little") for one in found) + rest


def elements(data: bytes, kind: Kind) -> list[int]:
    """The whole elements of these bytes as unsigned integers."""
    last = len(data) // kind.size * kind.size
    return [int.from_bytes(data[at : at + kind.size], "little") for at in range(0, last, kind.size)]


def read_planes(reader: Reader, kind: Kind, count: int) -> list[int]:
    """Mapped elements from a block for each of their bytes."""
    planes = [read_block(reader, count) for _ in range(kind.size)]
    return [int.from_bytes(bytes(one), "little") for one in zip(*planes, strict=True)]


def turned_back(value: int, kind: Kind) -> int:
    """A plain element before it was mapped."""
    if kind.exponent == 0 or kind.size == 1:
        return value
    if kind.size == 8:  # llllllll hhh s
        sign, high, low = value >> 52 & 1, value >> 53 & 7, value >> 56
        return sign << 63 | high << 60 | low << 52 | value & (1 << 52) - 1
    below = 8 * kind.size - 9
    sign, exponent = value >> below & 1, value >> (below + 1)
    return sign << (below + 8) | exponent << below | value & (1 << below) - 1


def read_differences(reader: Reader, kind: Kind, base: list[int]) -> list[int]:
    """Elements from what they differ by from a base."""
    bits = 8 * kind.size
    keys = [key_of(one, kind) for one in base]
    order = sorted(range(len(base)), key=keys.__getitem__)
    folded: list[int] = []
    for size in classes(keys):
        folded += read_planes(reader, kind, size)
    found = [0] * len(base)
    for place, value in zip(order, folded, strict=True):
        change = value >> 1 if value & 1 == 0 else -(value >> 1) - 1
        found[place] = unordered((ordered(base[place], kind) + change) % (1 << bits), kind)
    return found


def key_of(value: int, kind: Kind) -> int:
    """What elements are ordered by."""
    field = value >> (8 * kind.size - 1 - kind.exponent) & (1 << kind.exponent) - 1
    if kind.exponent == 0:
        return 0
    return max(0, min(field - 800, 255)) if kind.size == 8 else field


def classes(keys: list[int]) -> list[int]:
    """The sizes of the classes."""
    sizes, held = [], 0
    for key in range(256):
        held += keys.count(key)
        if held >= CLASS:
            sizes.append(held)
            held = 0
    if held and sizes:
        sizes[-1] += held
    elif held:
        sizes.append(held)
    return sizes


def ordered(value: int, kind: Kind) -> int:
    """A float's bits as an integer in the floats' order."""
    sign = 1 << (8 * kind.size - 1)
    if kind.exponent == 0:
        return value
    return 2 * sign - 1 - value if value & sign else value | sign


def unordered(value: int, kind: Kind) -> int:
    """And back."""
    sign = 1 << (8 * kind.size - 1)
    if kind.exponent == 0:
        return value
    return value ^ sign if value & sign else 2 * sign - 1 - value


def read_block(reader: Reader, count: int) -> bytes:
    """One block of `count` bytes."""
    kind = reader.byte()
    if kind == 0:
        return reader.take(count)
    if kind == 1:
        return reader.take(1) * count
    if kind == 4:
        return unzstd(reader.string(), count)
    require(kind in (2, 3), "no such block")
    low, table = read_table(reader)
    slots = [low + value for value, frequency in enumerate(table) for _ in range(frequency)]
    starts = [sum(table[:value]) for value in range(len(table))]
    states = [reader.unsigned(4) for _ in range(1 if kind == 2 else 32)]
    require(all(1 << 15 <= state < 1 << 31 for state in states), "a state is out of range")
    found = bytearray()
    for i in range(count):
        state = states[i % len(states)]
        slot = state % 4096
        value = slots[slot]
        state = table[value - low] * (state // 4096) + slot - starts[value - low]
        if state < 1 << 15:
            state = state << 16 | reader.unsigned(2)
        states[i % len(states)] = state
        found.append(value)
    require(all(state == 1 << 15 for state in states), "a lane does not end at 2**15")
    return bytes(found)


def read_table(reader: Reader) -> tuple[int, list[int]]:
    """The lowest value, and the frequencies from it up."""
    low, high = reader.byte(), reader.byte()
    require(low < high, "an empty range")
    number, size, at = int.from_bytes(reader.data[reader.at :], "little"), len(reader.data) - reader.at, 3
    order, frequency, left = number & 7, 0, 4096
    table: list[int] = []
    for _ in range(low, high):
        ones = 0
        while number >> at & 1:
            ones, at = ones + 1, at + 1
            require(ones <= 13, "a number is too long")
        at += 1
        width = ones + order
        value = (1 << width | number >> at & (1 << width) - 1) - (1 << order)
        at += width
        require(at <= 8 * size, "ends inside a table")
        frequency += value >> 1 if value & 1 == 0 else -(value >> 1) - 1
        require(0 <= frequency < left and (bool(table) or frequency > 0), "a frequency is out of range")
        table.append(frequency)
        left -= frequency
    used = (at + 7) // 8
    require(number >> at & (1 << (8 * used - at)) - 1 == 0, "the padding is not zero")
    reader.take(used)
    return low, [*table, left]

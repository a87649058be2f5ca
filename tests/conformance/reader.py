"""Bytes, numbers and bits as the pages of the format define them; everything else reads through these."""

from __future__ import annotations

import math
import struct

#: The one place that knows which version of the format this decoder reads: byte 0 of a frame is 0xB0 + VERSION.
VERSION = 1
FLOAT32_MOST = (2.0 - 2.0**-23) * 2.0**127

Shape = tuple[int, ...]


class Refused(Exception):
    """The bytes are not what the format allows."""


def require(condition: bool, what: str) -> None:
    """Nothing, or a refusal."""
    if not condition:
        raise Refused(what)


def float32(value: float) -> float:
    """The nearest float32 (ties to even), infinite beyond the largest."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def saturated(value: float) -> float:
    """The nearest float32, the largest finite one of its sign beyond."""
    return max(-FLOAT32_MOST, min(float32(value), FLOAT32_MOST))


def size_of(shape: Shape) -> int:
    """The number of elements."""
    return math.prod(shape)


class Reader:
    """Reads a byte string from the front."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, count: int) -> bytes:
        """The next bytes."""
        require(count <= len(self.data) - self.at, "ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def number(self) -> int:
        """Unsigned LEB128, below 2**64, in its shortest form."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            require(shift < 70, "a number is too long")
        require(value < 1 << 64 and (byte != 0 or shift == 0), "a number is not in its shortest form")
        return value

    def unsigned(self, size: int) -> int:
        """A little-endian integer of so many bytes."""
        return int.from_bytes(self.take(size), "little")

    def string(self) -> bytes:
        """A number n and n bytes."""
        return self.take(self.number())

    def floats(self, count: int) -> list[float]:
        """Float32 values that must be finite."""
        values = list(struct.unpack(f"<{count}f", self.take(4 * count)))
        require(all(map(math.isfinite, values)), "a value is not finite")
        return values

    def scales(self, count: int) -> list[float]:
        """Finite float32 values whose sign bit is clear."""
        values = self.floats(count)
        require(all(math.copysign(1.0, value) > 0 for value in values), "a scale is negative")
        return values

    def halves(self, count: int, most: int) -> list[float]:
        """Upper halves of float32 values, whose bits are at most `most`."""
        bits = struct.unpack(f"<{count}H", self.take(2 * count))
        require(all(one <= most for one in bits), "a scale is out of range")
        return [struct.unpack("<f", struct.pack("<I", one << 16))[0] for one in bits]

    def packed(self, count: int, width: int) -> list[int]:
        """Integers of `width` bits, lowest bit first; the last byte is filled with zeros."""
        return unpack_bits(self.take((count * width + 7) // 8), count, width)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        """Nothing may follow."""
        require(self.at == len(self.data), "bytes follow the end")


def unpack_bits(data: bytes, count: int, width: int) -> list[int]:
    """All integers of `width` bits that fill these bytes but for zeros."""
    bits = Bits(data)
    values = [bits.take(width) for _ in range(count)]
    bits.end()
    return values


class Bits:
    """Reads bits, those of a byte from the lowest."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, width: int) -> int:
        """The next integer of `width` bits, its lowest bit first."""
        require(self.at + width <= 8 * len(self.data), "ends inside bits")
        first, last = self.at >> 3, (self.at + width + 7) >> 3
        value = int.from_bytes(self.data[first:last], "little") >> (self.at & 7) & ((1 << width) - 1)
        self.at += width
        return value

    def end(self) -> None:
        """Only fewer than eight zeros may be left."""
        left = 8 * len(self.data) - self.at
        require(left < 8, "bytes follow the bits")
        require(self.take(left) == 0, "the padding is not zero")

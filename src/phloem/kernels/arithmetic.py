"""A binary arithmetic coder with 64 bits of range, for the adaptive efforts.

`ArithmeticEncoder` and `ArithmeticDecoder` have the same methods: each codes one value and returns it. The
encoder takes the value as an argument; the decoder ignores that argument and returns what it reads.

* A code word is a number in [0, 1), written in big-endian words of 32 bits. `low` and `range` begin as 0 and
  2**64 - 1. A bit whose probability of a one is `one` / 2**22 takes the upper (range >> 22) * `one` of the range
  when it is a one, the rest when it is a zero. A raw value of w bits (w at most 16) divides the range by 2**w.
  Whenever the range is below 2**32 afterwards, the upper word of `low` is written and both move up by 32 bits. A
  carry goes back into the words already written.
* The end: the fewest bytes (one to five) that stay in [low, low + range) whatever follows them, the smallest such
  number; so no code word is the beginning of another. Beyond the last byte a decoder reads zeros, and it refuses
  data that do not end in exactly this way: it knows `low`, the window of 64 bits that it looks at less its distance
  from it.

Source: G. N. N. Martin, "Range encoding" (1979).
"""

from __future__ import annotations

from phloem.errors import FormatError
from phloem.kernels.logistic import SHARE_BITS

_WORD = (1 << 32) - 1
_RANGE = (1 << 64) - 1
_HINT = "The frame is cut short, altered, or meant for another model."


def shortest_end(low: int, range_: int) -> tuple[int, int]:
    """The fewest leading bytes that stay in [low, low + range) whatever follows: a number modulo 2**64, their count."""
    count = 1
    while True:
        mask = _RANGE >> (8 * count)
        value = (low + mask) & ~mask
        if value - low + mask < range_:
            return value & _RANGE, count
        count += 1


class ArithmeticEncoder:
    """Writes."""

    decodes = False

    def __init__(self) -> None:
        self._low = 0
        self._range = _RANGE
        self._out = bytearray()

    def bit(self, one: int, bit: int = 0) -> int:
        """Write a bit."""
        part = (self._range >> SHARE_BITS) * one
        if bit:
            self._add(self._range - part)
            self._range = part
        else:
            self._range -= part
        self._settle()
        return bit

    def raw(self, width: int, value: int = 0) -> int:
        """Write `width` equally likely bits."""
        self._range >>= width
        self._add(self._range * value)
        self._settle()
        return value

    def finish(self) -> bytes:
        """All bytes."""
        value, count = shortest_end(self._low, self._range)
        if value < self._low:
            self._carry()
        return bytes(self._out) + (value >> (64 - 8 * count)).to_bytes(count, "big")

    def _add(self, amount: int) -> None:
        self._low += amount
        if self._low > _RANGE:
            self._low &= _RANGE
            self._carry()

    def _carry(self) -> None:
        at = len(self._out) - 1
        while self._out[at] == 255:
            self._out[at] = 0
            at -= 1
        self._out[at] += 1

    def _settle(self) -> None:
        if self._range <= _WORD:
            self._out += (self._low >> 32).to_bytes(4, "big")
            self._low = (self._low & _WORD) << 32
            self._range <<= 32


class ArithmeticDecoder:
    """Reads; refuses data that end long before the values do."""

    decodes = True

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._range = _RANGE
        self._next = 0
        self._code = self._word() << 32
        self._code |= self._word()

    def bit(self, one: int, bit: int = 0) -> int:
        """Read a bit."""
        part = (self._range >> SHARE_BITS) * one
        rest = self._range - part
        bit = int(self._code >= rest)
        if bit:
            self._code -= rest
            self._range = part
        else:
            self._range = rest
        self._settle()
        return bit

    def raw(self, width: int, value: int = 0) -> int:
        """Read `width` equally likely bits."""
        self._range >>= width
        value = min(self._code // self._range, (1 << width) - 1)
        self._code -= value * self._range
        self._settle()
        return value

    def finish(self) -> None:
        """Nothing but the shortest end may stand where the values end.

        Raises:
            FormatError: the data are not what an encoder would have written, to the last byte.
        """
        start = self._next - 8
        window = int.from_bytes(self._data[start : start + 8].ljust(8, b"\0"), "big")
        value, count = shortest_end((window - self._code) & _RANGE, self._range)
        if self._code >= self._range or value != window or len(self._data) != start + count:
            raise FormatError("The coded coefficients do not end where the part ends.", hint=_HINT)

    def _word(self) -> int:
        if self._next >= len(self._data) + 8:
            raise FormatError("The body ends inside the coded coefficients.", hint=_HINT)
        word = int.from_bytes(self._data[self._next : self._next + 4].ljust(4, b"\0"), "big")
        self._next += 4
        return word

    def _settle(self) -> None:
        if self._range <= _WORD:
            self._code = ((self._code << 32) | self._word()) & _RANGE
            self._range <<= 32

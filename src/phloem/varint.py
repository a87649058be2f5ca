"""Unsigned integers in as few bytes as they need: seven bits a byte, low bits first (LEB128)."""

from __future__ import annotations

from phloem.errors import FormatError

_LONGEST = 10  # bytes of a 64-bit integer


def pack(value: int) -> bytes:
    """`value` (0 ≤ value < 2^64) as LEB128.

    >>> pack(300).hex()
    'ac02'
    """
    if not 0 <= value < 1 << 64:
        raise FormatError(f"a varint holds 0 to 2^64 - 1, found {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def unpack(data: bytes, start: int) -> tuple[int, int]:
    """The integer that starts at `start`, and the position after it.

    Raises:
        FormatError: the data end inside it, or it is longer than it needs to be.
    """
    value = 0
    for position in range(_LONGEST):
        if start + position >= len(data):
            raise FormatError("the data end inside a number")
        byte = data[start + position]
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            if (position and byte == 0) or value >= 1 << 64:
                break
            return value, start + position + 1
    raise FormatError("a number is longer than it needs to be")

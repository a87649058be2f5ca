"""Small unsigned integers of one width, packed: least significant bit first, no padding between them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phloem.errors import FormatError

Unsigned = npt.NDArray[np.uint32]

_PLAIN = {8: "<u1", 16: "<u2", 32: "<u4"}
_PART = 1 << 17  # values at a time; a multiple of 8, so every part ends on a byte


def packed_size(count: int, width: int) -> int:
    """The bytes that `count` values of `width` bits take."""
    return -(-count * width // 8)


def pack(values: npt.NDArray[np.integer], width: int) -> bytes:
    """The bytes of `values`, each below 2^width; the last byte is filled with zeros.

    >>> pack(np.array([1, 2, 3]), 2).hex()
    '39'
    """
    if width in _PLAIN:
        return values.astype(_PLAIN[width]).tobytes()
    parts = []
    places = np.arange(width, dtype=np.uint32)
    for start in range(0, values.size, _PART):
        part = values[start : start + _PART].astype(np.uint32)
        bits = (part[:, None] >> places & np.uint32(1)).astype(np.uint8)  # (values, width)
        parts.append(np.packbits(bits.reshape(-1), bitorder="little").tobytes())
    return b"".join(parts)


def unpack(data: bytes, start: int, count: int, width: int) -> Unsigned:
    """`count` values of `width` bits from the bytes at `start`, which are known to be there.

    Raises:
        FormatError: the bits that fill the last byte are not zero.

    >>> unpack(bytes.fromhex("39"), 0, 3, 2).tolist()
    [1, 2, 3]
    """
    raw = np.frombuffer(data, np.uint8, packed_size(count, width), start)
    if width in _PLAIN:
        return raw.view(_PLAIN[width]).astype(np.uint32)
    spare = 8 * raw.size - count * width
    if spare and raw[-1] >> (8 - spare):
        raise FormatError("padding bits must be zero")
    values = np.empty(count, np.uint32)
    weights = np.uint32(1) << np.arange(width, dtype=np.uint32)
    for first in range(0, count, _PART):
        last = min(first + _PART, count)
        bits = np.unpackbits(
            raw[first * width // 8 : packed_size(last, width)],
            bitorder="little",
            count=(last - first) * width,
        )
        values[first:last] = bits.reshape(-1, width).astype(np.uint32) @ weights
    return values

"""Raw bits, least significant first, packed into bytes without alignment between fields."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BitArray = npt.NDArray[np.uint8]


def spread(values: IntArray, widths: IntArray) -> BitArray:
    """The bits of each value, its own width of them, one after another.

    >>> spread(np.array([5, 1]), np.array([3, 2])).tolist()
    [1, 0, 1, 1, 0]
    """
    total = int(widths.sum())
    if total == 0:
        return np.zeros(0, dtype=np.uint8)
    owner = np.repeat(np.arange(values.size), widths)  # (bits,)
    within = np.arange(total) - np.repeat(np.cumsum(widths) - widths, widths)
    return ((values[owner] >> within) & 1).astype(np.uint8)


def gather(bits: BitArray, widths: IntArray) -> IntArray:
    """The values whose bits lie one after another: the inverse of `spread`.

    >>> gather(np.array([1, 0, 1, 1, 0], dtype=np.uint8), np.array([3, 2])).tolist()
    [5, 1]
    """
    values = np.zeros(widths.size, dtype=np.int64)
    used = np.flatnonzero(widths)
    if used.size == 0:
        return values
    starts = (np.cumsum(widths) - widths)[used]
    within = np.arange(bits.size) - np.repeat(starts, widths[used])
    values[used] = np.add.reduceat(bits.astype(np.int64) << within, starts)
    return values


def pack(bits: BitArray) -> bytes:
    """The bytes that hold these bits; the last byte is filled with zeros."""
    return np.packbits(bits, bitorder="little").tobytes()


def unpack(data: bytes) -> BitArray:
    """All bits of these bytes."""
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")

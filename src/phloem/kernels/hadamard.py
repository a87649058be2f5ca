"""The Walsh-Hadamard transform and random signs, in place: the specification of the native kernels.

Hadamard. A block of 2^m values goes through m stages, h = 1, 2, 4, … 2^(m−1): for every i whose bit h is zero
the values at i and i + h become their sum and their difference (first minus second). Then each is multiplied
by `scale`. Every operation is one float32 operation, so the order of the work inside a stage does not matter.

Signs. The sign bit of value i is turned over where bit i mod 64 of word ⌊i / 64⌋ of the stream is one
(`phloem.kernels.streams`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phloem.kernels.streams import words

FloatArray = npt.NDArray[np.float32]

_PART = 1 << 16  # values at a time, so that all stages of a block find it in the cache


def hadamard(vector: FloatArray, size: int, scale: float) -> None:
    """Transforms every block of `size` values, a power of two, and multiplies by `scale`."""
    rows = max(1, _PART // size)
    blocks = vector.reshape(-1, size)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(blocks), rows):
            part = blocks[start : start + rows]
            h = 1
            while h < size:
                pairs = part.reshape(-1, 2, h)  # (pairs of runs, 2, h)
                difference = pairs[:, 0] - pairs[:, 1]
                pairs[:, 0] += pairs[:, 1]
                pairs[:, 1] = difference
                h *= 2
            part *= np.float32(scale)


def flip(vector: FloatArray, seed: int) -> None:
    """Turns the signs over that the stream `seed` names."""
    little = words(seed, -(-vector.size // 64)).astype("<u8", copy=False).view(np.uint8)
    for start in range(0, vector.size, _PART):
        part = vector[start : start + _PART]
        bits = np.unpackbits(little[start // 8 : start // 8 + _PART // 8], bitorder="little", count=part.size)
        part.view(np.uint32)[:] ^= bits.astype(np.uint32) << np.uint32(31)

"""Random numbers that both ends can make: a counter-based stream of 64-bit words, integers only.

Specification. With all arithmetic modulo 2^64, word i of the stream `seed` is SplitMix64's:

    z = seed + (i + 1) · 9E3779B97F4A7C15
    z = (z ^ z >> 30) · BF58476D1CE4E5B9
    z = (z ^ z >> 27) · 94D049BB133111EB
    word = z ^ z >> 31

Stream number k under a seed has word 2^63 + k as its own seed. Source: Steele, Lea, Flood, Fast splittable
pseudorandom number generators, 2014. Good statistics, no secret: who sees a word can compute all others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float32]

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_PART = 1 << 18  # words made at a time, so that temporaries stay in the cache


def words(seed: int, count: int, first: int = 0) -> Words:
    """`count` words of the stream, from word `first` on.

    >>> [hex(word) for word in words(0, 2).tolist()]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    out = np.empty(count, np.uint64)
    for start in range(0, count, _PART):
        z = np.arange(first + start + 1, first + min(start + _PART, count) + 1, dtype=np.uint64)
        z *= np.uint64(_STEP)
        z += np.uint64(seed & _MASK)
        z ^= z >> np.uint64(30)
        z *= np.uint64(_FIRST)
        z ^= z >> np.uint64(27)
        z *= np.uint64(_SECOND)
        z ^= z >> np.uint64(31)
        out[start : start + z.size] = z
    return out


def stream(seed: int, number: int) -> int:
    """The seed of stream `number` under `seed`.

    >>> stream(7, 0) != stream(7, 1)
    True
    """
    z = (seed + ((1 << 63) + number + 1) * _STEP) & _MASK
    z = (z ^ z >> 30) * _FIRST & _MASK
    z = (z ^ z >> 27) * _SECOND & _MASK
    return z ^ z >> 31


def uniforms(seed: int, count: int) -> FloatArray:
    """`count` multiples of 2⁻²⁴ in [0, 1): the low half of each word first, the upper 24 bits of each half."""
    halves = words(seed, -(-count // 2)).astype("<u8", copy=False).view("<u4")[:count]
    return (halves >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)

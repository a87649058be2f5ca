"""Tables of the adaptive coder, made by integer arithmetic: the logistic function, its inverse, logarithms, rates.

The logistic domain is ln(p / (1 - p)) in 256ths, from -2,815 to 2,815; probabilities are those of a one, in
65,536ths (`squash`) or in 2**22nds (adaptive chances).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from math import isqrt

import numpy as np
import numpy.typing as npt

#: Mixed predictions stay within plus and minus this.
STRETCH_MOST = 2815
#: Probabilities of adaptive chances have this many bits, and are coded as no less than LEAST, no more than ONE - LEAST.
SHARE_BITS = 22
SHARE_ONE = 1 << SHARE_BITS
SHARE_LEAST = 32
#: A chance learns at the rate 1 / (n + 1.5) on its n-th use, and from the 255th on at that of the 255th.
USES_MOST = 255

#: exp(-1 / 256) in 2**64ths.
_DECAY = 18374827034086858297


@dataclass(frozen=True, eq=False)
class LogisticTables:
    """The tables.

    Shapes: `squash` (5631,), from -STRETCH_MOST up, in 65,536ths; `stretch_middle` (4096,) by the upper twelve
    bits of a 22-bit probability; `stretch_tail` (4096,) by a probability below 1/64, without its last four bits;
    `log16` (64,), sixteen times log2 of 1 + i / 64, rounded; `rates` (256,) in 65,536ths; `priors`
    (48,), m / (1 + m) in 2**22nds for m of 2**-11 up in half-octaves: the flags of a geometric model.
    """

    stretch_middle: npt.NDArray[np.int16]
    stretch_tail: npt.NDArray[np.int16]
    squash: npt.NDArray[np.uint16]
    log16: npt.NDArray[np.uint8]
    rates: npt.NDArray[np.uint32]
    priors: npt.NDArray[np.uint32]


@cache
def logistic_tables() -> LogisticTables:
    """The tables, built on first use (about thirty milliseconds)."""
    fine = _logistic()  # 2**64ths
    middle = [_inverse(fine, (2 * i + 1) << 51) for i in range(4096)]
    tail = [_inverse(fine, (2 * i + 1) << 45) for i in range(4096)]
    squash = [max(1, min((value + (1 << 47)) >> 48, 65535)) for value in fine]
    log16 = [(((64 + i) ** 32).bit_length() - 1 - 192 + 1) // 2 for i in range(64)]
    return LogisticTables(
        stretch_middle=np.array(middle, dtype=np.int16),
        stretch_tail=np.array(tail, dtype=np.int16),
        squash=np.array(squash, dtype=np.uint16),
        log16=np.array(log16, dtype=np.uint8),
        rates=np.array([131072 // (2 * n + 3) for n in range(USES_MOST + 1)], dtype=np.uint32),
        priors=np.array(
            [(1 << 54) // ((1 << 32) + isqrt(1 << (86 - level))) for level in range(48)], dtype=np.uint32
        ),
    )


def _logistic() -> list[int]:
    """1 / (1 + exp(-x / 256)) for x from -STRETCH_MOST up, in 2**64ths rounded down."""
    upper = []
    power = 1 << 64  # exp(-x / 256)
    for _ in range(STRETCH_MOST + 1):
        upper.append((1 << 128) // ((1 << 64) + power))
        power = (power * _DECAY) >> 64
    return [(1 << 64) - value for value in upper[:0:-1]] + upper


def _inverse(fine: list[int], probability: int) -> int:
    """The smallest x whose logistic function reaches a probability in 2**64ths, clipped."""
    return min(bisect_left(fine, probability), 2 * STRETCH_MOST) - STRETCH_MOST


def log16(value: int) -> int:
    """Sixteen times log2 of a positive integer, from its seven leading bits.

    >>> log16(1), log16(2), log16(1000)
    (0, 16, 159)
    """
    top = value.bit_length() - 1
    lead = value >> (top - 6) if top >= 6 else value << (6 - top)
    return 16 * top + _logs()[lead & 63]


@cache
def _logs() -> list[int]:
    return [int(log) for log in logistic_tables().log16]

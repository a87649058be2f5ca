"""Constants of the `ecsq` bit stream: every table is built by integer arithmetic or written out as integers.

Nothing here depends on the C library's `log` or `exp`, so both kernels and every machine use the same
numbers. The native kernel gets these tables handed over once, when it is loaded.

Units: `Q16` is a number of bits times 65,536. A class `k` has the nominal mean magnitude `2**(k / 2)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import isqrt, ldexp

import numpy as np
import numpy.typing as npt

#: Nominal class range: a tensor's level, plus a row's and a column's of at most eight half-octaves each.
LEVEL_LOWEST, LEVEL_HIGHEST = -64, 48
LEVEL_REACH = 8
CLASS_LOWEST = LEVEL_LOWEST - 2 * LEVEL_REACH
CLASS_HIGHEST = LEVEL_HIGHEST + 2 * LEVEL_REACH
CLASSES = CLASS_HIGHEST - CLASS_LOWEST + 1

#: Rounding follows a tensor's scale in so many parts of a class: by whole classes the size would jump.
CLASS_PARTS = 16

#: The highest class coded by gaps; its nominal share of non-zeros is 0.059. Measured flat from 0.06 to 0.15.
SPARSE_HIGHEST = -8

#: Tensors smaller than this have one level only: row and column levels would not pay for themselves.
LEVELS_SMALLEST = 512

#: Rounding offset of the scale pass: count what will be coded (measured on five updates from 0.002 to 4
#: bits: 0.125 takes 0.6 % fewer bytes than 0.2, 3 % below 0.05 bit; 0.1 and 0.15 are within 0.2 % of it).
SCALE_OFFSET = 0.125

#: Lagrangian weights of the closed-form dead zone, in steps per bit: between zero and one, from 0.04 in dense classes
#: to 0.06 in sparse ones, and between larger magnitudes. Up to 0.09 in the sparsest takes 6 % fewer bytes at equal
#: error (eight updates), but starves the rows that are seldom sent: with error feedback a digits run then needs 13 %
#: more rounds (72 seeds, 95 % interval 5 to 22 %).
ZERO_WEIGHT_LEAST, ZERO_WEIGHT_MOST = 0.04, 0.06
ZERO_WEIGHT_SLOPE, ZERO_WEIGHT_FROM = 0.006, -3
LARGER_WEIGHT = 0.12
#: They keep the error within 1.6 steps.
THRESHOLD_MOST, OFFSET_LEAST = 1.59, -0.45

#: Magnitudes one and two are decoded as (64 m + c) / 64 steps, c from here up, six bits, for sparse and
#: dense classes apart. Centres that follow the class's thresholds, or an exponential density between them,
#: measured no better.
CENTROID_LOWEST = -16

#: Quantised magnitudes stay below this.
MAGNITUDE_HIGHEST = (1 << 24) - 1

#: Probabilities of coded tokens have this many bits.
FREQUENCY_BITS = 12
FREQUENCY_TOTAL = 1 << FREQUENCY_BITS

#: Below this number of coded tokens they join the range coder; from it on, 32 rANS lanes.
LANES_FROM = 20_000
LANES = 32

#: First magnitude and number of extra raw bits of each of the sixteen tokens.
TOKENS = 16
TOKEN_BASE = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 64, 0)
TOKEN_BITS = (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 5, 8, 24)
TOKEN_ESCAPE = 15

#: A gap token of this value means "this many blocks without a non-zero, and read on".
GAP_REPEAT = 15

#: The ladder of hazards P(token = t | token >= t): logits -6.0, -5.7 ... 6.0 as probabilities times 65,536.
LADDER = (
    162, 219, 295, 397, 535, 720, 968, 1300, 1743, 2331, 3108, 4127, 5451, 7150, 9296, 11955, 15170,
    18943, 23222, 27889, 32768, 37647, 42314, 46593, 50366, 53581, 56240, 58386, 60085, 61409,
    62428, 63205, 63793, 64236, 64568, 64816, 65001, 65139, 65241, 65317, 65374,
)  # fmt: skip
LADDER_TOP = len(LADDER) - 1


@dataclass(frozen=True, eq=False)
class Tables:
    """The derived tables, one row per class where the name says `class`.

    Shapes: `half_octaves` (199,), the lower ends of levels -99 ... 99; `octaves` (99,), those of -98, -96
    ... 98; `logs` (4096,); `thresholds` and `offsets` (CLASS_PARTS * (CLASSES - 1) + 1,); the others (CLASSES,)
    or (ladder,).
    """

    half_octaves: npt.NDArray[np.float64]
    octaves: npt.NDArray[np.float64]
    logs: npt.NDArray[np.int64]
    ladder_costs: npt.NDArray[np.int64]
    class_costs: npt.NDArray[np.int64]
    class_means: tuple[int, ...]
    thresholds: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32]


@cache
def tables() -> Tables:
    """The tables, built on first use (about ten milliseconds)."""
    classes = range(CLASS_LOWEST, CLASS_HIGHEST + 1)
    class_costs = [_log2_q16((1 << 128) + isqrt(1 << (k + 256)), 128) for k in classes]
    # b_k: what a one costs more than a zero in a geometric class, in Q16 bits, at most 16 bits
    rises = [min(cost - k * 32768, 16 << 16) for cost, k in zip(class_costs, classes, strict=True)]
    thresholds, offsets = [], []
    for part in range(CLASS_PARTS * (CLASSES - 1) + 1):
        place, over = divmod(part, CLASS_PARTS)
        rise = rises[place]
        if over:
            rise += (rises[place + 1] - rise) * over // CLASS_PARTS
        k = CLASS_LOWEST + part / CLASS_PARTS
        weight = ZERO_WEIGHT_LEAST + ZERO_WEIGHT_SLOPE * (ZERO_WEIGHT_FROM - k)
        weight = max(ZERO_WEIGHT_LEAST, min(weight, ZERO_WEIGHT_MOST))
        thresholds.append(min(0.5 + weight * (1.0 + rise / 65536.0), THRESHOLD_MOST))
        offsets.append(max(0.5 - LARGER_WEIGHT * (rise / 65536.0), OFFSET_LEAST))
    logs = _mantissa_logs()
    return Tables(
        half_octaves=np.array([_power(2 * level - 1) for level in range(-99, 100)]),
        octaves=np.array([_power(4 * octave - 2) for octave in range(-49, 50)]),
        logs=logs,
        ladder_costs=np.array([(16 << 16) - log2_q16(p, logs) for p in LADDER], dtype=np.int64),
        class_costs=np.array(class_costs, dtype=np.int64),
        class_means=tuple(isqrt(1 << (min(k, 0) + 192)) >> 64 for k in classes),  # Q32; sparse classes only
        thresholds=np.array(thresholds, dtype=np.float32),
        offsets=np.array(offsets, dtype=np.float32),
    )


def log2_q16(number: int, logs: npt.NDArray[np.int64]) -> int:
    """log2 of a positive integer in Q16, from its 13 leading bits; exact to about 2**-12."""
    exponent = number.bit_length() - 1
    return (exponent << 16) + int(logs[((number << 12) >> exponent) - 4096])


def _power(quarters: int) -> float:
    """2**(quarters / 4), rounded down to 53 bits."""
    octaves, rest = divmod(quarters, 4)
    return ldexp(float(isqrt(isqrt(1 << (rest + 208)))), octaves - 52)


def _log2_q16(value: int, fraction_bits: int) -> int:
    """log2 of `value / 2**fraction_bits` in Q16, rounded, by repeated squaring."""
    exponent = value.bit_length() - 1
    mantissa = (value << 63) >> exponent
    bits = 0
    for _ in range(17):
        mantissa = (mantissa * mantissa) >> 63
        carry = mantissa >> 64
        mantissa >>= carry
        bits = 2 * bits + carry
    return ((exponent - fraction_bits) << 16) + ((bits + 1) >> 1)


def _mantissa_logs() -> npt.NDArray[np.int64]:
    """log2(1 + i / 4096) in Q16 for i = 0 ... 4095, rounded down, by repeated squaring."""
    mantissa = (np.arange(4096, 8192, dtype=np.uint64)) << np.uint64(19)  # Q31
    bits = np.zeros(4096, dtype=np.int64)
    for _ in range(16):
        mantissa = (mantissa * mantissa) >> np.uint64(31)
        carry = mantissa >> np.uint64(32)
        mantissa = mantissa >> carry
        bits = 2 * bits + carry.astype(np.int64)
    return bits

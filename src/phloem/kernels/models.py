"""Token tables: the parametric gap table and the explicit hazard tables, and how the encoder chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from phloem.kernels.tables import FREQUENCY_TOTAL, LADDER, LADDER_TOP, TOKENS, tables

#: Assumed cost, in Q16 bits, of coding a ladder step that differs by d from its prediction: 0.7, then 2.7 +
#: 0.9 d.
_SIDE_COSTS = np.array([46_000] + [118_000 + 59_000 * d for d in range(1, LADDER_TOP + 1)], dtype=np.int64)


def gap_shift(others: int, ones: int) -> int:
    """The number of raw bits of a gap: so many that the mean of the rest lies between 2.5 and 5."""
    shift = 0
    while 2 * (others >> (shift + 1)) >= 5 * ones:
        shift += 1
    return shift


def gap_frequencies(others: int, ones: int, shift: int) -> tuple[int, ...]:
    """The geometric table of `gap >> shift`, for `ones` non-zeros among `ones + others` coefficients."""
    survival = (others << 32) // (others + ones)
    for _ in range(shift):
        survival = (survival * survival) >> 32
    reach = 1 << 32
    frequencies = []
    for _ in range(TOKENS - 1):
        further = (reach * survival) >> 32
        frequencies.append(max(1, ((reach - further) * FREQUENCY_TOTAL + (1 << 31)) >> 32))
        reach = further
    frequencies.append(max(1, (reach * FREQUENCY_TOTAL + (1 << 31)) >> 32))
    frequencies[0] += FREQUENCY_TOTAL - sum(frequencies)
    return tuple(frequencies)


def hazard_frequencies(hazards: Sequence[int]) -> tuple[int, ...]:
    """The 12-bit table of tokens 0 ... len(hazards), given the ladder steps of P(token = t | token >= t)."""
    rest = FREQUENCY_TOTAL
    frequencies = []
    for index, hazard in enumerate(hazards):
        share = (rest * LADDER[hazard] + 32768) >> 16
        share = max(1, min(share, rest - (len(hazards) - index)))
        frequencies.append(share)
        rest -= share
    return (*frequencies, rest)


def choose_hazards(counts: npt.NDArray[np.int64], predictions: Sequence[int]) -> list[int]:
    """The ladder steps that cost least, data and side information together. Shape of `counts`: (16,)."""
    highest = int(np.flatnonzero(counts)[-1])
    if highest == 0:
        return []
    here = counts[:highest]  # (t,)
    beyond = int(counts.sum()) - np.cumsum(here)
    costs = tables().ladder_costs
    distance = np.abs(np.asarray(predictions[:highest])[:, None] - np.arange(LADDER_TOP + 1))
    total = here[:, None] * costs + beyond[:, None] * costs[::-1] + _SIDE_COSTS[distance]  # (t, ladder)
    return [int(step) for step in total.argmin(axis=1)]


@cache
def token_starts(frequencies: tuple[int, ...]) -> tuple[int, ...]:
    """Where each token's slots begin."""
    starts = [0]
    for frequency in frequencies[:-1]:
        starts.append(starts[-1] + frequency)
    return tuple(starts)

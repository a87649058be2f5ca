"""Sums over whole updates that come out the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_ENERGY_LANES = 16


def ecsq_extent(arrays: Sequence[FloatArray]) -> tuple[float, int]:
    """The largest magnitude, and the index of the first tensor with a NaN or an infinity (-1: none)."""
    extent = 0.0
    for index, array in enumerate(arrays):
        if array.size:
            largest = float(np.abs(array).max())
            if not np.isfinite(largest):
                return extent, index
            extent = max(extent, largest)
    return extent, -1


def ecsq_extent_of_sum(
    arrays: Sequence[FloatArray], others: Sequence[FloatArray], sums: Sequence[FloatArray] | None = None
) -> tuple[float, int]:
    """As `ecsq_extent`, of the float32 sums, which are written into `sums` (the arrays themselves, even)."""
    found = []
    with np.errstate(over="ignore", invalid="ignore"):
        for index, (array, other) in enumerate(zip(arrays, others, strict=True)):
            total = np.asarray(array + other)
            found.append(total)
            if sums is not None:
                sums[index][...] = total
    return ecsq_extent(found)


def ecsq_energy(arrays: Sequence[FloatArray], others: Sequence[FloatArray] | None = None) -> float:
    """The sum of squares of the arrays, or of their differences from the others.

    Sixteen float64 sums per tensor, element `i` in sum `i % 16`, then added in order: the same on every
    machine.
    """
    total = 0.0
    for index, array in enumerate(arrays):
        wide = array.reshape(-1).astype(np.float64)
        if others is not None:
            wide -= others[index].reshape(-1)
        wide *= wide
        padded = np.zeros(-(-wide.size // _ENERGY_LANES) * _ENERGY_LANES)
        padded[: wide.size] = wide
        lanes = np.zeros(_ENERGY_LANES)
        if wide.size:
            lanes = np.cumsum(padded.reshape(-1, _ENERGY_LANES), axis=0)[-1]
        for lane in lanes.tolist():
            total += lane
    return total

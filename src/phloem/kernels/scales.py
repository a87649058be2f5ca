"""Scale classes: levels of tensors, rows and columns, in half-octaves of the mean quantised magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phloem.kernels.parts import Piece, matrix
from phloem.kernels.tables import (
    CLASS_LOWEST,
    CLASS_PARTS,
    CLASSES,
    LEVEL_HIGHEST,
    LEVEL_LOWEST,
    LEVEL_REACH,
    LEVELS_SMALLEST,
    log2_q16,
    tables,
)

IntArray = npt.NDArray[np.int64]

#: How the levels of a direction are sent: not at all, in octaves, in half-octaves.
NONE, OCTAVES, HALVES = 0, 1, 2
#: Weights of the prior in a row's mean, in quantised units: two candidates, the encoder takes the cheaper.
_PRIORS = (2, 6)
#: What a direction with levels must save before it is worth sending them: 16 bits.
_OVERHEAD = 16 << 16


@dataclass(frozen=True)
class Shape:
    """A tensor seen as a matrix (`parts.matrix`)."""

    rows: int
    columns: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> Shape:
        """The matrix view of a tensor's shape."""
        return cls(*matrix(shape))

    @property
    def size(self) -> int:
        """The number of coefficients."""
        return self.rows * self.columns

    @property
    def levelled(self) -> bool:
        """Whether rows and columns may have levels of their own."""
        return self.rows > 1 and self.size >= LEVELS_SMALLEST


@dataclass(frozen=True)
class Direction:
    """The levels of all rows (or columns), and in which unit they are sent. Shape of `levels`: (rows,)."""

    mode: int
    levels: IntArray


@dataclass(frozen=True)
class Scales:
    """The levels of one tensor that is not all zero.

    Attributes:
        excess: how far the scales of the tensor's coefficients are above their classes, in parts of a class: how far
            its own scale is above its level. Only the encoder knows.
    """

    shape: Shape
    level: int
    rows: Direction
    columns: Direction
    excess: int = 0

    def classes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """The classes of the coefficients from `start` to `stop`, counted from the lowest. Shape: (stop - start,)."""
        width = self.shape.columns
        if self.shape.rows == 1:
            return np.full(stop - start, self.level - CLASS_LOWEST, dtype=np.uint8)
        rows = (self.rows.levels[start // width : stop // width] + (self.level - CLASS_LOWEST)).astype(
            np.uint8
        )
        return (rows[:, None] + self.columns.levels.astype(np.int8).view(np.uint8)).reshape(-1)


def flat(count: int) -> Direction:
    """A direction without levels; it takes no memory, whatever its length."""
    return Direction(NONE, np.broadcast_to(np.int64(0), count))


def measure(magnitudes: npt.NDArray[np.int32], shape: Shape) -> Scales | None:
    """The scales of a tensor from its coarsely quantised magnitudes, or None where all are zero."""
    total = int(magnitudes.sum(dtype=np.int64))
    if total == 0:
        return None
    mean = float(total) / float(shape.size)
    level = int(np.searchsorted(tables().half_octaves, mean, side="right")) - 100
    level = max(LEVEL_LOWEST, min(level, LEVEL_HIGHEST))
    excess = excess_of(total, shape.size, level)
    if not shape.levelled:
        return Scales(shape, level, flat(shape.rows), flat(shape.columns), excess)
    matrix = magnitudes.reshape(shape.rows, shape.columns)
    rows = _choose(matrix.sum(axis=1, dtype=np.int64), shape.columns, total, level)
    columns = _choose(matrix.sum(axis=0, dtype=np.int64), shape.rows, total, level)
    return Scales(shape, level, rows, columns, excess)


def excess_of(total: int, size: int, level: int) -> int:
    """How far a mean of `total / size` is above its level, in parts of a class, at most half a class."""
    logs = tables().logs
    above = 2 * (log2_q16(total, logs) - log2_q16(size, logs)) - (level << 16)  # Q16
    half = CLASS_PARTS // 2
    return max(-half, min((above * CLASS_PARTS + (1 << 15)) >> 16, half))


def class_counts(pieces: Sequence[Piece], scales: Sequence[Scales | None]) -> IntArray:
    """Each class's size in a part, without looking at every coefficient. Shape: (classes,)."""
    counts = np.zeros(CLASSES, dtype=np.int64)
    for piece in pieces:
        scale = scales[piece.tensor]
        if scale is None:
            continue
        lowest = scale.level - 2 * LEVEL_REACH - CLASS_LOWEST
        if scale.shape.rows == 1:
            counts[lowest + 2 * LEVEL_REACH] += piece.stop - piece.start
            continue
        width = scale.shape.columns
        rows = _level_counts(scale.rows, piece.start // width, piece.stop // width)
        found = np.convolve(rows, _level_counts(scale.columns, 0, width))
        counts[lowest : lowest + found.size] += found
    return counts


def _level_counts(direction: Direction, start: int, stop: int) -> IntArray:
    """How many rows (or columns) have each level, from the lowest. Shape: (2 * LEVEL_REACH + 1,)."""
    if direction.mode == NONE:
        counts = np.zeros(2 * LEVEL_REACH + 1, dtype=np.int64)
        counts[LEVEL_REACH] = stop - start
        return counts
    return np.bincount(direction.levels[start:stop] + LEVEL_REACH, minlength=2 * LEVEL_REACH + 1)


def class_order(pieces: Sequence[Piece], scales: Sequence[Scales | None]) -> IntArray:
    """The permutation that sorts the coefficients of a part by class; those of zero tensors are left out.

    Positions count the coefficients of the part's other tensors. Shape: (coefficients,).
    """
    classes = [
        scale.classes(piece.start, piece.stop)
        for piece in pieces
        if (scale := scales[piece.tensor]) is not None
    ]
    if not classes:
        return np.zeros(0, dtype=np.int64)
    return np.argsort(np.concatenate(classes), kind="stable")


def _choose(sums: IntArray, others: int, total: int, level: int) -> Direction:
    """The cheapest way to send one direction; `others` is the number of coefficients behind each sum."""
    best = flat(sums.size)
    least = _geometric_cost(sums.size * others, total, level)
    for prior in _PRIORS:
        ratio = ((sums + prior) * sums.size).astype(np.float64) / float(total + prior * sums.size)
        halves = np.searchsorted(tables().half_octaves, ratio, side="right") - 100
        octaves = 2 * np.searchsorted(tables().octaves, ratio, side="right") - 100
        for mode, levels in ((OCTAVES, octaves), (HALVES, halves)):
            levels = levels.clip(-LEVEL_REACH, LEVEL_REACH)
            cost = _direction_cost(sums, levels, others, level)
            if cost < least:
                best, least = Direction(mode, levels.astype(np.int64)), cost
    return best


def _direction_cost(sums: IntArray, levels: IntArray, others: int, level: int) -> int:
    """Q16 bits of a tensor whose rows have these levels, and of the levels themselves."""
    logs = tables().logs
    counts = np.bincount(levels + LEVEL_REACH)
    low = np.bincount(levels + LEVEL_REACH, weights=(sums & 0xFFFFFFFF))
    high = np.bincount(levels + LEVEL_REACH, weights=(sums >> 32))
    cost = _OVERHEAD + sums.size * log2_q16(sums.size, logs)
    for index in np.flatnonzero(counts):
        count = int(counts[index])
        mass = int(low[index]) + (int(high[index]) << 32)
        cost += _geometric_cost(count * others, mass, level + int(index) - LEVEL_REACH)
        cost -= count * log2_q16(count, logs)
    return cost


def _geometric_cost(count: int, mass: int, level: int) -> int:
    """Q16 bits of `count` magnitudes that add up to `mass`, in a geometric class of this level."""
    return (count + mass) * int(tables().class_costs[level - CLASS_LOWEST]) - mass * level * 32768

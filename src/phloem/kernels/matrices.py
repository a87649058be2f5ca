"""Thin matrices, and matrices' rows and columns: the specification of the native kernels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LANES = 16  # sums of products


def add_products(left: FloatArray, right: FloatArray, total: FloatArray) -> None:
    """Adds left (m × r) times right (r × n) to `total` in place, one rank after another.

    For each value one product and one sum, each rounded to float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for column, row in zip(left.T, right, strict=True):
            total += column[:, None] * row


def orthonormal(rows: DoubleArray) -> None:
    """Makes the rows (r × m) orthonormal one after another, in place; those that depend on rows before become zero.

    Modified Gram-Schmidt, every row twice, in float64. A sum of products is sixteen sums, product i in sum i % 16, each
    from first to last, which are then added in order: the same bits on every machine.
    """
    for j, row in enumerate(rows if rows.size else ()):
        before = _length(row)
        for _ in range(2):
            for other in rows[:j]:
                row -= other * _product(other, row)
        length = _length(row)
        row[:] = row / length if length > 1e-10 * before else 0.0


def _length(row: DoubleArray) -> float:
    return math.sqrt(_product(row, row))


def _product(one: DoubleArray, other: DoubleArray) -> float:
    padded = np.zeros(-(-one.size // _LANES) * _LANES)
    padded[: one.size] = one * other
    lanes = np.cumsum(padded.reshape(-1, _LANES), axis=0)[-1] if one.size else np.zeros(_LANES)
    return float(np.cumsum(lanes)[-1])


def scale_rows_and_columns(matrix: FloatArray, rows: FloatArray, columns: FloatArray) -> None:
    """Multiplies every value, in place, by its row's number, and then by its column's."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        matrix *= rows[:, None]
        matrix *= columns


def squares_of_rows_and_columns(matrix: FloatArray, unit: float) -> tuple[IntArray, IntArray]:
    """Sums over rows, and over columns, of the squares of value ÷ unit rounded to a whole number, ties to even.

    Args:
        matrix: of at most 2**20 units, and so many rows and columns at most that their squares stay below 2**63:
            2**23. Shape: (m, n).
        unit: a power of two.

    Returns:
        The sums. Shapes: (m,), (n,).
    """
    whole = np.rint(matrix.astype(np.float64) / unit).astype(np.int64)
    np.multiply(whole, whole, out=whole)
    return whole.sum(axis=1), whole.sum(axis=0)

"""Thin matrices, and matrices' rows and columns: every level has the bits of the reference."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from phloem.kernels import reference
from phloem.seeds import generator


@pytest.mark.parametrize(
    ("rows", "rank", "columns"), [(1, 1, 1), (7, 3, 255), (5, 24, 257), (40, 1, 700), (0, 2, 9)]
)
def test_thin_matrices_are_multiplied_to_the_same_bits_at_every_level(
    restored_simd: ModuleType, rows: int, rank: int, columns: int
) -> None:
    draw = generator(0, "products", rows, rank, columns)
    left = (draw.normal(size=(rows, rank)) * 10.0 ** draw.uniform(-20, 20, size=(rows, rank))).astype(
        np.float32
    )
    right = draw.normal(size=(rank, columns)).astype(np.float32)
    plain = draw.normal(size=(rows, columns)).astype(np.float32)
    wanted = plain.copy()
    reference.add_products(left, right, wanted)
    for level in restored_simd.simd_levels():
        restored_simd.set_simd(level)
        got = plain.copy()
        restored_simd.add_products(left, right, got)
        assert got.tobytes() == wanted.tobytes(), level
    with pytest.raises(ValueError, match="can be multiplied"):
        restored_simd.add_products(left, right, np.zeros((rows, columns + 1), np.float32))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 2), (4, 100), (16, 513), (0, 5), (2, 0)])
def test_rows_become_orthonormal_with_the_same_bits_as_in_the_reference(
    restored_simd: ModuleType, count: int, size: int
) -> None:
    draw = generator(0, "orthonormal", count)
    rows = draw.normal(size=(count, size))
    if count > 2:
        rows[2] = rows[0] - 2.0 * rows[1]  # depends on those before
    wanted, got = rows.copy(), rows.copy()
    reference.orthonormal(wanted)
    restored_simd.orthonormal(got)
    assert got.tobytes() == wanted.tobytes()
    gram = got @ got.T
    independent = np.diag(gram) > 0.5
    assert independent.sum() == (min(count - (count > 2), size) if size else 0)
    np.testing.assert_allclose(gram, np.diag(independent.astype(float)), atol=1e-12)


SIZES = [(1, 1), (3, 5), (40, 129), (1, 1000), (257, 3), (0, 4), (3, 0)]


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_values_are_scaled_by_row_then_by_column_to_the_same_bits(
    restored_simd: ModuleType, rows: int, columns: int
) -> None:
    draw = generator(0, "scales", rows, columns)
    matrix = draw.normal(size=(rows, columns)) * 10.0 ** draw.uniform(-44, 38, size=(rows, columns))
    by_row, by_column = (
        (draw.normal(size=length) * 2.0 ** draw.integers(-90, 90, size=length)).astype(np.float32)
        for length in (rows, columns)
    )
    wanted = matrix.astype(np.float32)
    reference.scale_rows_and_columns(wanted, by_row, by_column)
    for level in restored_simd.simd_levels():
        restored_simd.set_simd(level)
        got = matrix.astype(np.float32)
        restored_simd.scale_rows_and_columns(got, by_row, by_column)
        assert got.tobytes() == wanted.tobytes(), level
    with pytest.raises(ValueError, match="each row and each column"):
        restored_simd.scale_rows_and_columns(got, by_row, np.ones(columns + 1, np.float32))


@pytest.mark.parametrize("exponent", [-149, -60, 0, 60])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_squares_are_summed_as_whole_numbers(
    restored_simd: ModuleType, rows: int, columns: int, exponent: int
) -> None:
    draw = generator(0, "squares", rows, columns)
    unit = 2.0**exponent
    halves = draw.integers(-(2**21), 2**21, size=(rows, columns)) / 2.0  # ties are among them
    matrix = (halves * unit).astype(np.float32)
    wanted = reference.squares_of_rows_and_columns(matrix, unit)
    exact = np.rint(matrix.astype(np.float64) / unit).astype(object) ** 2
    assert wanted[0].tolist() == exact.sum(axis=1).tolist()
    assert wanted[1].tolist() == exact.sum(axis=0).tolist()
    for level in restored_simd.simd_levels():
        restored_simd.set_simd(level)
        got = restored_simd.squares_of_rows_and_columns(matrix, unit)
        assert [sums.tolist() for sums in got] == [sums.tolist() for sums in wanted], level
    with pytest.raises(ValueError, match="power of two"):
        restored_simd.squares_of_rows_and_columns(matrix, 3.0)

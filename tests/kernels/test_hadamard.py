from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from phloem.kernels import reference
from phloem.seeds import generator


@pytest.mark.parametrize("exponent", range(17))
def test_every_simd_level_transforms_to_the_bits_of_the_reference(
    restored_simd: ModuleType, exponent: int
) -> None:
    draw = generator(0, "hadamard", exponent)
    plain = draw.normal(size=3 << exponent) * 10.0 ** draw.uniform(-30, 30, size=3 << exponent)
    wanted = plain.astype(np.float32)
    reference.hadamard(wanted, 1 << exponent, 0.7071)
    for level in restored_simd.simd_levels():
        restored_simd.set_simd(level)
        got = plain.astype(np.float32)
        restored_simd.hadamard(got, 1 << exponent, 0.7071)
        assert got.tobytes() == wanted.tobytes(), level


@pytest.mark.parametrize("size", [0, 1, 31, 63, 64, 65, 1000, 70_001])
def test_every_simd_level_turns_the_signs_over_that_the_reference_does(
    restored_simd: ModuleType, size: int
) -> None:
    plain = generator(0, "flip", size).normal(size=size).astype(np.float32)
    for seed in (0, (1 << 64) - 1):
        wanted = plain.copy()
        reference.flip(wanted, seed)
        assert size < 31 or 0.2 < np.mean(wanted != plain) < 0.8
        for level in restored_simd.simd_levels():
            restored_simd.set_simd(level)
            got = plain.copy()
            restored_simd.flip(got, seed)
            assert got.tobytes() == wanted.tobytes(), level


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_the_transform_is_the_matrix_of_walsh_and_hadamard(kernels: ModuleType, size: int) -> None:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.kron([[1, 1], [1, -1]], matrix)
    vector = generator(0, "matrix").integers(-50, 50, 2 * size).astype(np.float32)
    got = vector.copy()
    kernels.hadamard(got, size, 0.5)
    assert np.array_equal(got.reshape(2, size), 0.5 * vector.reshape(2, size) @ matrix)


def test_the_native_kernel_refuses_other_sizes(native: ModuleType) -> None:
    for size in (0, 3, 8):
        with pytest.raises(ValueError, match="power of two"):
            native.hadamard(np.zeros(12, np.float32), size, 1.0)


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

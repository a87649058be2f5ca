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

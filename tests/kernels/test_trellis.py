"""Dependent quantisation: both kernels to the bit, the state machine by hand, and what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from phloem.errors import ConfigError
from phloem.kernels import reference
from phloem.kernels.steps import Step
from phloem.kernels.trellis import NEXT, WEIGHT_DENSE, WEIGHT_SPARSE, WINDOW

FloatArray = npt.NDArray[np.float32]
Shapes = Sequence[tuple[int, ...]]
MakeUpdate = Callable[[str, Shapes, int], list[FloatArray]]

KINDS = ["laplace", "student", "cauchy", "sparse", "constant", "zero", "wide", "subnormal", "largest", "rows"]
SHAPES: list[Shapes] = [[()], [(0, 4), (3,)], [(60, 40), (8, 4, 3, 3), (10,)], [(600, 1)]]
SHARES = [2.0, 0.2, 0.02, 1e-4, 1e-9]


def _step(arrays: Sequence[FloatArray], share: float) -> Step:
    extent, _ = reference.ecsq_extent(arrays)
    return Step.near((extent or 1.0) * share).fitted(extent)


def _entropy(symbols: npt.NDArray[np.integer]) -> float:
    """Bits of these symbols at their own frequencies."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(symbols.size / counts)).sum())


@pytest.mark.parametrize("states", [4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_native_equals_the_reference(
    kind: str, states: int, native: ModuleType, make_update: MakeUpdate
) -> None:
    for seed, shapes in enumerate(SHAPES):
        arrays = make_update(kind, shapes, seed)
        for place, share in enumerate(SHARES):
            step, weight = _step(arrays, share), (WEIGHT_SPARSE, WEIGHT_DENSE, 0)[place % 3]
            expected = reference.trellis_quantise(arrays, step, states, weight)
            found = native.trellis_quantise(arrays, step, states, weight)
            for one, other in zip(expected, found, strict=True):
                assert one.dtype == other.dtype == np.int32
                assert one.tobytes() == other.tobytes()
                assert np.array_equal(
                    reference.trellis_states(one, states), native.trellis_states(one, states)
                )
                values = reference.trellis_reconstruct(one, step, states)
                assert values.tobytes() == native.trellis_reconstruct(one, step, states).tobytes()


@pytest.mark.parametrize("states", [4, 8])
def test_windows_join(states: int, native: ModuleType, make_update: MakeUpdate) -> None:
    arrays = make_update("laplace", [(WINDOW + 300,)], 1)
    step = Step.near(0.4)
    expected = reference.trellis_quantise(arrays, step, states, WEIGHT_DENSE)[0]
    assert np.array_equal(expected, native.trellis_quantise(arrays, step, states, WEIGHT_DENSE)[0])


@pytest.mark.parametrize("states", [4, 8])
@pytest.mark.parametrize("share", [0.5, 0.02, 1e-3])
def test_every_simd_level_gives_the_same_indices(
    share: float, states: int, restored_simd: ModuleType, make_update: MakeUpdate
) -> None:
    arrays = make_update("rows", [(300, 271), (16, 8, 3, 3), (77,)], 2)
    step, found = _step(arrays, share), []
    for level in restored_simd.simd_levels():
        restored_simd.set_simd(level)
        found.append([k.tobytes() for k in restored_simd.trellis_quantise(arrays, step, states)])
    assert all(one == found[0] for one in found)


def test_positions_by_hand(kernels: ModuleType) -> None:
    # states 0 (even), 2 (odd), 1 (even), 0, 0: one on the even grid leads to the odd one
    indices = np.array([1, -2, 3, 2, 0], dtype=np.int32)
    assert kernels.trellis_states(indices, 4).tolist() == [0, 2, 1, 0, 0]
    values = kernels.trellis_reconstruct(indices, Step.near(0.5), 4)
    assert values.tolist() == [1.0, -1.5, 3.0, 2.0, 0.0]
    assert values.dtype == np.float32


@pytest.mark.parametrize("states", [4, 8])
def test_the_machine_is_a_trellis(states: int) -> None:
    for parity in (0, 1):
        assert sorted(row[parity] for row in NEXT[states]) == list(range(states))
    half = states // 2
    for state in range(states):
        before = [s for s in range(states) if state in NEXT[states][s]]
        assert len(before) == 2
        assert (before[0] < half) == (before[1] < half)  # so the paths that meet differ by two grid steps


@pytest.mark.parametrize("states", [4, 8])
@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-7])
def test_reconstruction_is_exact_and_near(
    share: float, states: int, kernels: ModuleType, make_update: MakeUpdate
) -> None:
    for kind in ("laplace", "cauchy", "largest"):
        array = make_update(kind, [(30, 40)], 5)
        step = _step(array, share)
        indices = kernels.trellis_quantise(array, step, states)[0]
        odd = kernels.trellis_states(indices, states) >= states // 2
        positions = 2 * indices.astype(np.int64) - np.sign(indices) * odd
        assert np.abs(positions).max() <= step.magnitude_highest
        values = kernels.trellis_reconstruct(indices, step, states)
        assert np.isfinite(values).all()
        assert (np.sign(values) * np.sign(array[0].reshape(-1)) >= 0).all()
        error = np.abs(values.astype(np.float64) - array[0].reshape(-1)) / step.value
        assert error.max() <= 4.0
        below = np.abs(positions) < 4096  # with twelve bits of step: exact products
        exact = positions[below] * step.value
        assert np.array_equal(values[below].astype(np.float64), exact)


@pytest.mark.parametrize("scale", [1.0, 0.7, 0.2])
def test_better_than_a_scalar_quantiser(scale: float, native: ModuleType) -> None:
    """At the same error, fewer bits than the best of many dead-zone quantisers; eight states beat four."""
    x = np.random.default_rng(7).laplace(size=200_000).astype(np.float32)

    def scalar(step: float, dead: float) -> tuple[float, float]:
        k = np.trunc(np.abs(x) / step + dead)
        levels = k.astype(np.int64)
        means = np.bincount(levels, weights=np.abs(x)) / np.maximum(np.bincount(levels), 1)
        means[0] = 0.0
        error = float(((np.abs(x) - means[levels]) ** 2).sum())
        return error, _entropy(np.sign(x) * k)

    def best_scalar(error: float) -> float:
        """The least bits of dead-zone quantisers with this error, by interpolation over steps."""
        least = np.inf
        for dead in (0.2, 0.3, 0.4):
            points = [scalar(step, dead) for step in np.geomspace(0.2, 5.0, 40)]
            errors, bits = zip(*points, strict=True)
            least = min(least, float(np.interp(np.log(error), np.log(errors), bits)))
        return least

    weight = WEIGHT_DENSE if scale < 0.5 else WEIGHT_SPARSE
    ratios = []
    for states in (4, 8):
        step = Step.near(scale)
        k = native.trellis_quantise([x], step, states, weight)[0]
        odd = native.trellis_states(k, states) >= states // 2
        positions = np.abs(2 * k - np.sign(k) * odd)
        means = np.bincount(positions, weights=np.abs(x)) / np.maximum(np.bincount(positions), 1)
        means[0] = 0.0
        error = float(((np.abs(x) - means[positions]) ** 2).sum())
        ratios.append((_entropy(k[odd]) + _entropy(k[~odd])) / best_scalar(error))
    assert ratios[0] < 0.99
    assert ratios[1] < ratios[0]


def test_refusals(kernels: ModuleType) -> None:
    x, step = [np.ones(3, dtype=np.float32)], Step.near(2.0**120)
    with pytest.raises(ConfigError, match="trellis of 5 states"):
        kernels.trellis_quantise(x, step, 5)
    with pytest.raises(ConfigError, match="out of range"):
        kernels.trellis_quantise(x, step, 4, 2000)
    far = np.array([200], dtype=np.int32)
    with pytest.raises(ConfigError, match="stands at position 400, beyond 255"):
        kernels.trellis_reconstruct(far, step, 4)

"""Updates of many kinds, and every kernel that can be built here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from phloem.kernels import available, reference

FloatArray = npt.NDArray[np.float32]
Shapes = Sequence[tuple[int, ...]]
MakeUpdate = Callable[[str, Shapes, int], list[FloatArray]]


def _make_update(kind: str, shapes: Shapes, seed: int) -> list[FloatArray]:
    rng = np.random.default_rng(seed)

    def values(shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        normal = rng.standard_normal(shape)
        if kind == "rows":  # what scale classes are made for
            for axis, size in enumerate(shape[:2]):
                scale = np.exp(1.5 * rng.standard_normal(size))
                normal = normal * scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])
            return normal
        return {
            "gaussian": lambda: normal,
            "laplace": lambda: rng.laplace(size=shape),
            "student": lambda: rng.standard_t(3, size=shape),
            "cauchy": lambda: rng.standard_cauchy(size=shape),
            "sparse": lambda: normal * (rng.random(shape) < 0.01),
            "constant": lambda: np.full(shape, 0.7),
            "zero": lambda: np.zeros(shape),
            "wide": lambda: normal * 10.0 ** rng.uniform(-30, 30, size=shape),
            "subnormal": lambda: normal * 1e-40,
            "largest": lambda: np.sign(normal) * 3.4028234e38,
        }[kind]()

    return [np.asarray(values(shape), dtype=np.float32).reshape(shape) for shape in shapes]


@pytest.fixture(scope="session")
def make_update() -> MakeUpdate:
    """A function (kind, shapes, seed) -> arrays."""
    return _make_update


@pytest.fixture(scope="session")
def native() -> ModuleType:
    """The native kernels; a test that needs them is skipped where they were not built."""
    if "native" not in available():
        pytest.skip("the native kernels are not built")
    import phloem.kernels.native as module

    return module


@pytest.fixture
def restored_simd(native: ModuleType) -> Iterator[ModuleType]:
    """The native kernels, with the highest SIMD level again afterwards."""
    yield native
    native.set_simd(native.simd_levels()[-1])


@pytest.fixture(params=["reference", "native"])
def kernels(request: pytest.FixtureRequest) -> ModuleType:
    """Either kernel."""
    return reference if request.param == "reference" else request.getfixturevalue("native")

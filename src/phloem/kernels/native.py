"""The C++ kernels behind the functions of `reference`; importing this fails where they were not built."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phloem.errors import FormatError
from phloem.kernels import _native
from phloem.kernels.steps import Step, read_head
from phloem.kernels.tables import LADDER, tables

FloatArray = npt.NDArray[np.float32]

NAME = "native"


def ecsq_extent(arrays: Sequence[FloatArray]) -> tuple[float, int]:
    """The largest magnitude, and the index of the first tensor with a NaN or an infinity (-1: none)."""
    extent, broken = _native.extent(list(arrays))
    return float(extent), int(broken)


def ecsq_energy(arrays: Sequence[FloatArray], others: Sequence[FloatArray] | None = None) -> float:
    """The sum of squares of the arrays, or of their differences from the others."""
    return float(_native.energy(list(arrays), [] if others is None else list(others)))


def ecsq_encode(arrays: Sequence[FloatArray], step: Step) -> bytes:
    """The body of these tensors at this step."""
    return bytes(_native.encode(list(arrays), *_fields(step)))


def ecsq_decode(body: bytes | memoryview, shapes: Sequence[tuple[int, ...]]) -> list[FloatArray]:
    """The tensors of a body.

    Raises:
        FormatError: the bytes are not a body for these shapes, to the last bit.
    """
    data = bytes(body)
    step, all_zero = read_head(data)
    arrays = [np.zeros(shape, dtype=np.float32) for shape in shapes]
    if all_zero:
        return arrays
    try:
        _native.decode(data, arrays, *_fields(step))
    except _native.FormatError as error:
        raise FormatError(str(error), hint="The frame is damaged, or meant for another model.") from None
    return arrays


def hadamard(vector: FloatArray, size: int, scale: float) -> None:
    """Transforms every block of `size` values, a power of two, and multiplies by `scale`."""
    _native.hadamard(vector, size, scale)


def flip(vector: FloatArray, seed: int) -> None:
    """Turns the signs over that the stream `seed` names."""
    _native.flip(vector, seed)


def simd_levels() -> tuple[str, ...]:
    """The SIMD levels of this processor, the lowest first; the highest is used."""
    return tuple(_native.simd_levels())


def set_simd(level: str) -> None:
    """Use this SIMD level from now on, in this process; results are the same."""
    _native.set_simd(level)


def _fields(step: Step) -> tuple[int, int, int, float]:
    return step.significand, step.exponent, step.magnitude_highest, step.value


def _load() -> None:
    known = tables()
    _native.load_tables(
        known.half_octaves,
        known.octaves,
        known.logs,
        known.ladder_costs,
        known.class_costs,
        np.array(known.class_means, dtype=np.uint64),
        known.class_thresholds,
        known.class_offsets,
        np.array(LADDER, dtype=np.uint32),
    )


_load()

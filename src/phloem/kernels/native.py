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
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.unsignedinteger]

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


def planes_split(words: Words, exponent_bits: int) -> Bytes:
    """The plain planes. Shape: (bytes of an element, elements)."""
    planes = np.empty((words.itemsize, words.size), np.uint8)
    _native.planes_split(words.view(np.uint8), words.itemsize, exponent_bits > 0, planes.reshape(-1))
    return planes


def planes_merge(planes: Bytes, out: Words, exponent_bits: int) -> None:
    """Fills `out` with the elements of plain planes."""
    _native.planes_merge(planes.reshape(-1), out.itemsize, exponent_bits > 0, out.view(np.uint8))


def differences_ends(base: Words, exponent_bits: int) -> list[int]:
    """Where each class of this base ends in the planes of differences."""
    return list(_native.differences_ends(base.view(np.uint8), base.itemsize, exponent_bits))


def differences_split(words: Words, base: Words, exponent_bits: int) -> Bytes:
    """The planes of the differences, in class order. Shape: (bytes of an element, elements)."""
    planes = np.empty((words.itemsize, words.size), np.uint8)
    _native.differences_split(
        words.view(np.uint8), base.view(np.uint8), words.itemsize, exponent_bits, planes.reshape(-1)
    )
    return planes


def differences_merge(planes: Bytes, base: Words, out: Words, exponent_bits: int) -> None:
    """Fills `out` with the elements whose differences from `base` these planes hold."""
    _native.differences_merge(
        planes.reshape(-1), base.view(np.uint8), out.itemsize, exponent_bits, out.view(np.uint8)
    )


def block_encode(data: Bytes) -> bytes:
    """The block of these bytes."""
    return bytes(_native.block_encode(data))


def block_decode(body: Bytes, start: int, out: Bytes) -> int:
    """Fills `out` from the block that starts at `start` (any kind but zstd); the position after it.

    Raises:
        FormatError: the bytes are not a block of so many bytes.
    """
    try:
        return int(_native.block_decode(body, start, out))
    except _native.FormatError as error:
        raise FormatError(str(error), hint="The frame is damaged, or meant for another model.") from None


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

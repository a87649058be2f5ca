"""The C++ kernels behind the functions of `reference`; importing this fails where they were not built."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from phloem.errors import ConfigError, FormatError
from phloem.kernels import _native, efforts
from phloem.kernels.decoder import Put, check_parts, put_all
from phloem.kernels.efforts import AdaptiveKernels, Held
from phloem.kernels.logistic import logistic_tables
from phloem.kernels.parts import matrix, partition, parts_within
from phloem.kernels.steps import FLAG_ALL_ZERO, FLAG_IMPORTANCE, MODEL_FLAGS, Step, read_head, steps_of
from phloem.kernels.tables import LADDER, MAGNITUDE_HIGHEST, tables
from phloem.kernels.threads import threads
from phloem.kernels.trellis import WEIGHT_SPARSE, check_farthest, check_states, check_weight

Body = bytes | memoryview
FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.unsignedinteger]
IndexArray = npt.NDArray[np.int32]
HeldArray = npt.NDArray[np.int8]

NAME = "native"

# Those that need nothing around them; `matrices` and `hadamard` say what they do.
add_products, orthonormal = _native.add_products, _native.orthonormal
scale_rows_and_columns = _native.scale_rows_and_columns
hadamard, flip = _native.hadamard, _native.flip

_DAMAGED = "The frame is damaged, or meant for another model."
_PUTS = ("store", "add", "subtract", "accumulate")


def ecsq_extent(arrays: Sequence[FloatArray]) -> tuple[float, int]:
    """The largest magnitude, and the index of the first tensor with a NaN or an infinity (-1: none)."""
    extent, broken = _native.extent(list(arrays))
    return float(extent), int(broken)


def ecsq_energy(arrays: Sequence[FloatArray], others: Sequence[FloatArray] | None = None) -> float:
    """The sum of squares of the arrays, or of their differences from the others."""
    return float(_native.energy(list(arrays), [] if others is None else list(others)))


def ecsq_extent_of_sum(
    arrays: Sequence[FloatArray], others: Sequence[FloatArray], sums: Sequence[FloatArray] | None = None
) -> tuple[float, int]:
    """As `ecsq_extent`, of the float32 sums, which are written into `sums` (the arrays themselves, even)."""
    found = _native.extent_of_sum(list(arrays), list(others), [] if sums is None else list(sums))
    return float(found[0]), int(found[1])


def ecsq_encode(arrays: Sequence[FloatArray], step: Step, importances: Sequence[int] = ()) -> bytes:
    """The body of these tensors at this step, finer by quarters of an octave where importances are given."""
    steps_of(step, importances, len(arrays))  # refuses steps out of range
    pieces = _pieces(tuple(array.shape for array in arrays))
    weighted = bool(importances)
    fields = (step.significand, step.exponent, weighted, list(importances), threads())
    return bytes(_native.encode(list(arrays), pieces, *fields))


def ecsq_decode(body: Body, shapes: Sequence[tuple[int, ...]], held: Held = None) -> list[FloatArray]:
    """The tensors of a body.

    Raises:
        FormatError: the bytes are not a body for these shapes, to the last bit.
    """
    arrays = [np.zeros(shape, dtype=np.float32) for shape in shapes]
    ecsq_decode_into(body, arrays, "store", held)
    return arrays


def ecsq_decode_into(
    body: Body, arrays: Sequence[FloatArray], put: Put, held: Held = None, *, in_parts: bool = False
) -> None:
    """Put the tensors of a body into arrays of zeros, or add them to arrays, or subtract them, in float32.

    "accumulate" adds as well, faster, to arrays that are sums of earlier adds: no negative zero is among them.

    Raises:
        FormatError: the bytes are not a body for these shapes, to the last bit; the arrays are as before, or with
            `in_parts`, which puts parts of effort `balanced` or `best` one by one, void.
    """
    code, data = _put(put), bytes(body)
    step, flags = read_head(data)
    if flags == FLAG_ALL_ZERO:
        for array in arrays if put == "add" else ():
            np.add(array, np.float32(0), out=array)  # a negative zero becomes a positive one
        return
    if flags & MODEL_FLAGS:
        adds: efforts.Put = "add" if put == "accumulate" else put
        efforts.decode_into(_this(), data, arrays, adds, held, in_parts=in_parts)
        return
    _call(_native.decode, data, arrays, step, flags, code, threads())


class Opened:
    """An open body (`reference.Opened`)."""

    def __init__(self, body: Body, shapes: Sequence[tuple[int, ...]]) -> None:
        """Reads the side information.

        Raises:
            FormatError: the bytes are not a body for these shapes.
        """
        self._data, self._shapes = bytes(body), tuple(shapes)
        step, flags = read_head(self._data)
        self._whole = bool(flags & (FLAG_ALL_ZERO | MODEL_FLAGS))  # nothing to open, or one stream
        if self._whole:
            return
        check_parts(self._data, self._shapes)
        rows, columns = np.array([matrix(shape) for shape in self._shapes], np.int64).reshape(-1, 2).T.copy()
        known = step.significand, step.exponent, flags == FLAG_IMPORTANCE
        try:
            self._native = _native.Opened(self._data, rows, columns, _pieces(self._shapes), *known)
        except _native.FormatError as error:
            raise FormatError(str(error), hint=_DAMAGED) from None

    @property
    def whole(self) -> bool:
        """Whether it has no parts that can be decoded alone."""
        return self._whole

    def add_all(self, bodies: Sequence[Opened], first: int, arrays: Sequence[FloatArray]) -> None:
        """Adds bodies like this."""
        parts = parts_within(self._shapes, first, len(arrays))
        natives = [body._native for body in bodies]
        try:
            _native.add_all(natives, first, list(arrays), parts.start, parts.stop, threads())
        except _native.FormatError as error:
            raise FormatError(str(error), hint=_DAMAGED) from None

    def put(self, first: int, arrays: Sequence[FloatArray], put: Put) -> None:
        """Puts the tensors from `first` on, as many as there are arrays."""
        parts = parts_within(self._shapes, first, len(arrays))
        if self._whole:
            put_all(arrays, ecsq_decode(self._data, self._shapes)[first : first + len(arrays)], put)
            return
        try:
            self._native.put(first, list(arrays), parts.start, parts.stop, _put(put), threads())
        except _native.FormatError as error:
            raise FormatError(str(error), hint=_DAMAGED) from None


def ecsq_add_all(bodies: Sequence[Opened], first: int, arrays: Sequence[FloatArray]) -> None:
    """Add open bodies of the same shapes, one after another, to the tensors from `first` on, in float32.

    Raises:
        FormatError: one of them is damaged; the arrays are as before, if all are of effort `fast`.
    """
    if any(body.whole for body in bodies):
        for body in bodies:
            body.put(first, arrays, "add")
    elif bodies:
        bodies[0].add_all(bodies, first, arrays)


def ecsq_subtract_encoded(body: bytes, arrays: Sequence[FloatArray], held: Held = None) -> None:
    """Subtract a body from the very arrays that it was encoded from: what its sender still owes."""
    step, flags = read_head(body)
    if flags & MODEL_FLAGS:
        efforts.decode_into(_this(), body, arrays, "subtract", held, in_parts=True)
    elif flags != FLAG_ALL_ZERO:
        _call(_native.subtract_encoded, body, arrays, step, flags, threads())


def _put(put: Put) -> int:
    if put not in _PUTS:
        raise ConfigError(f"Decoded values cannot be '{put}'.", hint=f"known: {', '.join(_PUTS)}")
    return _PUTS.index(put)


def _this() -> AdaptiveKernels:
    return cast(AdaptiveKernels, sys.modules[__name__])


def _call(
    function: Callable[..., None],
    body: bytes,
    arrays: Sequence[FloatArray],
    step: Step,
    flags: int,
    *options: int,
) -> None:
    shapes = tuple(array.shape for array in arrays)
    check_parts(body, shapes)
    weighted = flags == FLAG_IMPORTANCE
    try:
        function(body, list(arrays), _pieces(shapes), step.significand, step.exponent, weighted, *options)
    except _native.FormatError as error:
        raise FormatError(str(error), hint=_DAMAGED) from None


def _pieces(shapes: tuple[tuple[int, ...], ...]) -> npt.NDArray[np.int64]:
    return np.array(partition(shapes), dtype=np.int64).reshape(-1, 4)


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


def adaptive_centres(array: FloatArray, indices: IndexArray, step: Step, states: int) -> list[int]:
    """Sums of |x| / step in 1024ths, and counts, of magnitudes one and two on either grid: eight numbers."""
    inverse = np.float32(1.0) / np.float32(step.value)
    return list(_native.adaptive_centres(array, indices, float(inverse), states))


def adaptive_choose(
    arrays: Sequence[FloatArray],
    steps: Sequence[Step],
    held: Sequence[HeldArray],
    shapes: Sequence[tuple[int, int]],
    mixing: bool,
) -> tuple[bytes, list[IndexArray]]:
    """The stream of indices that are chosen on the way, and the indices."""
    indices = [np.empty(array.size, dtype=np.int32) for array in arrays]
    highest = [step.magnitude_highest for step in steps]
    inverses = [float(np.float32(1.0) / np.float32(step.value)) for step in steps]
    data = _native.adaptive_pack(
        list(arrays), inverses, indices, list(held), list(shapes), mixing, 0, highest
    )
    return bytes(data), indices


def adaptive_pack(
    indices: Sequence[IndexArray],
    held: Sequence[HeldArray],
    shapes: Sequence[tuple[int, int]],
    mixing: bool,
    states: int,
) -> bytes:
    """The stream of these indices."""
    fields = (list(indices), list(held), list(shapes), mixing, states, [MAGNITUDE_HIGHEST] * len(shapes))
    return bytes(_native.adaptive_pack([], [], *fields))


def adaptive_unpack(
    data: bytes,
    held: Sequence[HeldArray],
    shapes: Sequence[tuple[int, int]],
    mixing: bool,
    states: int,
    highest: Sequence[int],
) -> list[IndexArray]:
    """The indices of a stream.

    Raises:
        FormatError: the bytes are not a stream for these shapes, to the last bit.
    """
    indices = [np.empty(rows * columns, dtype=np.int32) for rows, columns in shapes]
    try:
        _native.adaptive_unpack(data, indices, list(held), list(shapes), mixing, states, list(highest))
    except _native.FormatError as error:
        raise FormatError(str(error), hint="The frame is damaged, or meant for another model.") from None
    return indices


def adaptive_values(
    indices: IndexArray, states: int, values: FloatArray, step: Step, put: Put, out: FloatArray
) -> None:
    """Put decoded values into a flat array; `values` are those of magnitudes one and two, even and odd."""
    _native.adaptive_values(indices, states, values, step.value, _PUTS.index(put), out)


def trellis_quantise(
    arrays: Sequence[FloatArray], step: Step, states: int, weight: int = WEIGHT_SPARSE
) -> list[IndexArray]:
    """The indices of every tensor, flat. `step` is the grid step, `weight` what a bit may cost."""
    check_states(states)
    check_weight(weight)
    indices = [np.empty(array.size, dtype=np.int32) for array in arrays]
    _native.trellis_quantise(list(arrays), indices, states, weight, step.magnitude_highest, step.value)
    return indices


def trellis_states(indices: IndexArray, states: int) -> npt.NDArray[np.uint8]:
    """The state in which each index of one tensor is coded."""
    check_states(states)
    found = np.empty(indices.size, dtype=np.uint8)
    _native.trellis_states(indices, found, states)
    return found


def trellis_reconstruct(indices: IndexArray, step: Step, states: int) -> FloatArray:
    """The values of one tensor's indices.

    Raises:
        ConfigError: an index beyond what the step may be multiplied by.
    """
    check_states(states)
    values = np.empty(indices.size, dtype=np.float32)
    check_farthest(_native.trellis_reconstruct(indices, values, states, step.value), step)
    return values


def squares_of_rows_and_columns(
    matrix: FloatArray, unit: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sums of squares (`matrices.squares_of_rows_and_columns`). Shapes: (m,), (n,)."""
    rows, columns = (np.empty(length, np.int64) for length in matrix.shape)
    _native.squares_of_rows_and_columns(matrix, unit, rows, columns)
    return rows, columns


def simd_levels() -> tuple[str, ...]:
    """The SIMD levels of this processor, the lowest first; the highest is used."""
    return tuple(_native.simd_levels())


def set_simd(level: str) -> None:
    """Use this SIMD level from now on, in this process; results are the same."""
    _native.set_simd(level)


def _load() -> None:
    known = tables()
    _native.load_tables(
        known.half_octaves,
        known.octaves,
        known.logs,
        known.ladder_costs,
        known.class_costs,
        np.array(known.class_means, dtype=np.uint64),
        known.thresholds,
        known.offsets,
        np.array(LADDER, dtype=np.uint32),
    )
    logistic = logistic_tables()
    _native.load_logistic_tables(
        logistic.stretch_middle,
        logistic.stretch_tail,
        logistic.squash,
        logistic.log16,
        logistic.rates,
        logistic.priors,
    )


_load()

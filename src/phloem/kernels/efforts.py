"""Bodies of the efforts `balanced` and `best`: what stands around the adaptively coded indices.

Bytes: the head (`steps`) with a model flag; where the flag says that an update both ends hold helps, its
CRC-32 (big-endian, over the float32 values of all tensors in order, little-endian); where tensors have
importances, the range coder's bytes with them (`side`); the centres of magnitudes one and two; then the parts of
the update (`parts`), each a stream of `adaptive` that starts anew, preceded by its length as a varint unless it is
the last.

* A scalar quantiser's magnitudes one and two are decoded as (64 m + c) / 64 steps: two values c + 16 of six bits in
  two bytes, big-endian, the upper four bits zero.
* The dependent quantiser's are decoded as (64 p + c) / 64 steps, p being the position on the grid (`trellis`): four
  values in three bytes, for positions 2 and 4 of the even and 1 and 3 of the odd grid, at most the largest float32.
  Its states start anew with every piece of a tensor.
* A body whose indices are all zero is the head alone with the flag "all zero", as for `fast`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from phloem import varint
from phloem.errors import ConfigError, FormatError
from phloem.kernels.parts import Piece, count_parts, matrix, partition
from phloem.kernels.rangecoder import RangeDecoder, RangeEncoder
from phloem.kernels.scales import Shape
from phloem.kernels.side import CONTEXTS, code_importances
from phloem.kernels.steps import (
    FLAG_ALL_ZERO,
    FLAG_BALANCED,
    FLAG_BEST,
    FLAG_DEPENDENT,
    FLAG_HELD,
    FLAG_IMPORTANCE,
    MODEL_FLAGS,
    STEP_BYTES,
    Step,
    read_head,
    steps_of,
)
from phloem.kernels.tables import CENTROID_LOWEST
from phloem.kernels.threads import threads

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int32]
HeldArray = npt.NDArray[np.int8]
Effort = Literal["balanced", "best"]
#: An update of the same shapes that both ends have, or None.
Held = Sequence[FloatArray] | None
Put = Literal["store", "add", "subtract"]
T = TypeVar("T")

#: States of the dependent quantiser.
STATES = 8
_HINT = "The frame is cut short, altered, or meant for another model."
_FLOAT32_MOST = float(np.finfo(np.float32).max)
#: Positions on the grid of magnitudes one and two: even, then odd.
_POSITIONS = (2, 4, 1, 3)


class AdaptiveKernels(Protocol):
    """What both kernels offer for these efforts; arrays are flat and C-contiguous."""

    def adaptive_choose(
        self,
        arrays: Sequence[FloatArray],
        steps: Sequence[Step],
        held: Sequence[HeldArray],
        shapes: Sequence[tuple[int, int]],
        mixing: bool,
    ) -> tuple[bytes, list[IndexArray]]:
        """The stream of indices that are chosen on the way, with the scalar quantiser, and the indices."""
        ...

    def trellis_quantise(
        self, arrays: Sequence[FloatArray], step: Step, states: int, weight: int = ...
    ) -> list[IndexArray]:
        """The dependent quantiser's indices, one flat array per matrix."""
        ...

    def adaptive_centres(self, array: FloatArray, indices: IndexArray, step: Step, states: int) -> list[int]:
        """Sums of |x| / step in 1024ths, and counts, of magnitudes one and two on either grid: eight numbers."""
        ...

    def adaptive_pack(
        self,
        indices: Sequence[IndexArray],
        held: Sequence[HeldArray],
        shapes: Sequence[tuple[int, int]],
        mixing: bool,
        states: int,
    ) -> bytes:
        """The stream of these indices."""
        ...

    def adaptive_unpack(
        self,
        data: bytes,
        held: Sequence[HeldArray],
        shapes: Sequence[tuple[int, int]],
        mixing: bool,
        states: int,
        highest: Sequence[int],
    ) -> list[IndexArray]:
        """The indices of a stream, or FormatError."""
        ...

    def adaptive_values(
        self, indices: IndexArray, states: int, values: FloatArray, step: Step, put: Put, out: FloatArray
    ) -> None:
        """Put decoded values into a flat array; `values` are those of magnitudes one and two, even and odd."""
        ...


@dataclass(frozen=True)
class _Plan:
    """How an update is cut, and with which steps."""

    pieces: tuple[tuple[Piece, ...], ...]
    steps: list[Step]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shapes: tuple[tuple[int, ...], ...], step: Step, importances: Sequence[int]) -> _Plan:
        """The plan for these shapes."""
        steps, _ = steps_of(step, importances, len(shapes))
        parts: list[list[Piece]] = []
        for piece in partition(shapes):
            if piece.part == len(parts):
                parts.append([])
            parts[piece.part].append(piece)
        return cls(tuple(map(tuple, parts)), steps, shapes)

    def block(self, piece: Piece) -> tuple[int, int]:
        """The rows and columns of a piece."""
        rows, columns = matrix(self.shapes[piece.tensor])
        size = piece.stop - piece.start
        return (1, size) if rows == 1 else (size // columns, columns)


def encode(
    kernels: AdaptiveKernels,
    arrays: Sequence[FloatArray],
    step: Step,
    effort: Effort,
    *,
    importances: Sequence[int] = (),
    held: Held = None,
    weight: int = 0,
) -> bytes:
    """The body of these tensors at this step, with the scalar quantiser where `weight` is 0.

    Otherwise with the dependent one: `step` is that of its grid, the weight that of a bit, in 256ths of a squared step.

    Error bound: |x - decoded| is at most 3 of the tensor's steps, for magnitudes that the step was fitted to: zero
    is chosen before m where the m (2 |x| - m) squared steps saved weigh less than 52 bits at most, and centres
    are off by 0.75.
    """
    plan = _Plan.of(tuple(array.shape for array in arrays), step, importances)
    flat = [array.reshape(-1) for array in arrays]
    mixing = effort == "best"
    known = held if mixing else None
    cut = [[flat[piece.tensor][piece.start : piece.stop] for piece in part] for part in plan.pieces]

    states = STATES if weight else 0

    def pack(number: int) -> tuple[bytes, list[int] | None]:
        part, arrays = plan.pieces[number], cut[number]
        near = [_held_positions(known, piece, plan, states) for piece in part] if known is not None else []
        blocks = [plan.block(piece) for piece in part]
        steps = [plan.steps[piece.tensor] for piece in part]
        if weight:
            matrices = [array.reshape(block) for array, block in zip(arrays, blocks, strict=True)]
            indices = _dependent(kernels, matrices, steps, weight)
            stream = kernels.adaptive_pack(indices, near, blocks, mixing, states)
        else:
            stream, indices = kernels.adaptive_choose(arrays, steps, near, blocks, mixing)
        if not any(one.any() for one in indices):
            return stream, None
        sums = map(kernels.adaptive_centres, arrays, indices, steps, [states] * len(steps))
        return stream, [sum(own) for own in zip(*sums, strict=True)]

    packed = _each(pack, range(len(plan.pieces)))
    found = [sums for _, sums in packed if sums is not None]
    if not found:
        return step.pack(FLAG_ALL_ZERO)
    flags = (FLAG_BEST if mixing else FLAG_BALANCED) | (FLAG_HELD if known is not None else 0)
    flags |= (FLAG_DEPENDENT if weight else 0) | (FLAG_IMPORTANCE if importances else 0)
    body = [step.pack(flags)]
    if known is not None:
        body.append(_check_of(known))
    if importances:
        coder = RangeEncoder(CONTEXTS)
        code_importances(coder, [Shape.of(shape) for shape in plan.shapes], importances)
        body.append(coder.finish())
    body.append(_pack_centres(_centres([sum(own) for own in zip(*found, strict=True)], states), states))
    for number, (stream, _) in enumerate(packed):
        if number + 1 < len(packed):
            body.append(varint.pack(len(stream)))
        body.append(stream)
    return b"".join(body)


def decode_into(
    kernels: AdaptiveKernels,
    body: bytes,
    arrays: Sequence[FloatArray],
    put: Put,
    held: Held = None,
    *,
    in_parts: bool = False,
) -> None:
    """Put the tensors of a body of these efforts into arrays of zeros, or add them, or subtract them, in float32.

    `in_parts`: every part is put as soon as it is decoded, which needs the memory of one; after an error the arrays
    are void.

    Raises:
        FormatError: the bytes are not a body for these shapes, to the last bit, or `held` is not what the sender
            held; without `in_parts` the arrays are as before.
    """
    step, flags = read_head(body)
    shapes = tuple(array.shape for array in arrays)
    position = STEP_BYTES
    known = None
    if flags & FLAG_HELD == FLAG_HELD:
        known = _matching(held, shapes, body[position : position + 4])
        position += 4
    # a part takes a byte at least, so a short body cannot make us plan for a huge layout
    if count_parts(tuple(shapes)) > len(body):
        raise FormatError("The body is too short for the parts of this layout.", hint=_HINT)
    importances: list[int] = []
    if flags & FLAG_IMPORTANCE:
        coder = RangeDecoder(CONTEXTS, body, position)
        importances = code_importances(coder, [Shape.of(shape) for shape in shapes], [0] * len(shapes))
        position = coder.position
    try:
        plan = _Plan.of(shapes, step, importances)
    except ConfigError as error:
        raise FormatError(error.message, hint=_HINT) from None
    states = STATES if flags & FLAG_DEPENDENT else 0
    centres, position = _unpack_centres(body, position, states)
    if not plan.pieces:
        raise FormatError("A body that is not all zero has no tensors.", hint=_HINT)
    mixing = flags & MODEL_FLAGS != FLAG_BALANCED

    def unpack(job: tuple[tuple[Piece, ...], bytes]) -> list[IndexArray]:
        part, data = job
        near = [_held_positions(known, piece, plan, states) for piece in part] if known is not None else []
        blocks = [plan.block(piece) for piece in part]
        highest = [plan.steps[piece.tensor].magnitude_highest for piece in part]
        return kernels.adaptive_unpack(data, near, blocks, mixing, states, highest)

    def place(part: Sequence[Piece], indices: Sequence[IndexArray]) -> bool:
        """Puts the values of one part; whether any is not zero."""
        for piece, own in zip(part, indices, strict=True):
            step = plan.steps[piece.tensor]
            out = arrays[piece.tensor].reshape(-1)[piece.start : piece.stop]
            kernels.adaptive_values(own, states, _small_values(centres, step, states), step, put, out)
        return any(own.any() for own in indices)

    jobs = list(zip(plan.pieces, _streams(body, position, len(plan.pieces)), strict=True))
    nothing = FormatError("Every tensor of a body that is not all zero is zero.", hint=_HINT)
    if put == "store" or in_parts:  # what was zero can be zero again
        try:
            if not any(_each(lambda job: place(job[0], unpack(job)), jobs)):
                raise nothing
        except FormatError:
            for array in arrays if put == "store" else ():
                array[...] = 0.0
            raise
        return
    decoded = _each(unpack, jobs)
    if not any(own.any() for part in decoded for own in part):
        raise nothing
    for part, indices in zip(plan.pieces, decoded, strict=True):
        place(part, indices)


def _dependent(
    kernels: AdaptiveKernels, matrices: Sequence[FloatArray], steps: Sequence[Step], weight: int
) -> list[IndexArray]:
    """The dependent quantiser's indices of a part; tensors share their rates where all have one step."""
    if len(set(steps)) == 1:
        return kernels.trellis_quantise(matrices, steps[0], STATES, weight)
    alone = zip(matrices, steps, strict=True)
    return [kernels.trellis_quantise([matrix], step, STATES, weight)[0] for matrix, step in alone]


def _centres(sums: Sequence[int], states: int) -> list[int]:
    """What magnitudes one and two stand for, in 64ths of a step beyond their position, as sent."""
    found = []
    for total, count, position in zip(sums[:4], sums[4:], _POSITIONS, strict=True):
        place = position if states else position // 2
        centre = (2 * total + 16 * count) // (32 * count) - 64 * place if count else 0
        found.append(max(0, min(centre - CENTROID_LOWEST, 63)))
    return found


def _pack_centres(centres: Sequence[int], states: int) -> bytes:
    number = 0
    sent = centres if states else centres[:2]
    for centre in sent:
        number = number << 6 | centre
    return number.to_bytes(3 if states else 2, "big")


def _unpack_centres(body: bytes, position: int, states: int) -> tuple[list[int], int]:
    """The centres in 64ths beyond their position, and where they end."""
    count, size = (4, 3) if states else (2, 2)
    if position + size > len(body):
        raise FormatError("The body ends inside the centres.", hint=_HINT)
    number = int.from_bytes(body[position : position + size], "big")
    if number >> (6 * count):
        raise FormatError("The bits before the centres are not zero.", hint=_HINT)
    shifts = range(6 * (count - 1), -1, -6)
    return [(number >> shift & 63) + CENTROID_LOWEST for shift in shifts], position + size


def _small_values(centres: Sequence[int], step: Step, states: int) -> FloatArray:
    """The values of magnitudes one and two, even and odd. Shape: (4,)."""
    places = _POSITIONS if states else (1, 2, 0, 0)
    own = [*centres, 0, 0][:4]
    values = [(64 * p + c) * step.value / 64.0 for p, c in zip(places, own, strict=True)]
    return np.array([min(value, _FLOAT32_MOST) for value in values], dtype=np.float32)


def _streams(body: bytes, position: int, parts: int) -> list[bytes]:
    streams = []
    for _ in range(parts - 1):
        length, position = varint.unpack(body, position)
        if length > len(body) - position:
            raise FormatError("The body ends inside a part.", hint=_HINT)
        streams.append(body[position : position + length])
        position += length
    return [*streams, body[position:]]


def _check_of(held: Sequence[FloatArray]) -> bytes:
    check = 0
    for array in held:
        check = zlib.crc32(np.ascontiguousarray(array, dtype="<f4").tobytes(), check)
    return check.to_bytes(4, "big")


def _matching(held: Held, shapes: tuple[tuple[int, ...], ...], check: bytes) -> Sequence[FloatArray]:
    """The update that both ends hold, if it is the one that the sender held."""
    if held is None:
        raise FormatError(
            "The frame needs the update that its sender and receiver both held.",
            hint="decode it with the update of the round before",
        )
    if tuple(array.shape for array in held) != shapes or _check_of(held) != check:
        raise FormatError(
            "The frame needs another update than the one given as held.",
            hint="decode it with the update that the sender used",
        )
    return held


def _held_positions(held: Sequence[FloatArray], piece: Piece, plan: _Plan, states: int) -> HeldArray:
    """The held values in half steps (or grid steps), rounded, at most 127 either way."""
    values = np.asarray(held[piece.tensor], dtype=np.float32).reshape(-1)[piece.start : piece.stop]
    inverse = np.float32(1.0 if states else 2.0) / np.float32(plan.steps[piece.tensor].value)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        sizes = np.abs(values) * inverse + np.float32(0.5)
        sizes = np.where(sizes < np.float32(127.0), sizes, np.float32(127.0)).astype(np.int8)
    return np.where(values < 0, -sizes, sizes).astype(np.int8)


def _each(function: Callable[..., T], jobs: Sequence[object]) -> list[T]:
    """The results for all jobs, in order, by as many threads as are allowed."""
    if threads() == 1 or len(jobs) < 2:
        return [function(job) for job in jobs]
    with ThreadPoolExecutor(min(threads(), len(jobs))) as pool:
        return list(pool.map(function, jobs))

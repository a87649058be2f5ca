"""The NumPy kernels: the specification of the `ecsq` body, effort `fast`.

Body: a step and flags (3 bytes, see `steps`); unless the flag "all zero" says that nothing follows, the range
coder's bytes and the parts (`parts`). No lengths but those of parts: everything else knows its end, and together
they are the body to the last byte.

* The range coder (`rangecoder`) carries, in this order (`side`): with the flag "importance", every tensor's
  importance; the scales of every tensor; per class, from the lowest, its counts part by part and its table; the
  centroids. A class that no part has takes no bits.
* A tensor of importance j has the step divided by 2**(j/4), to a twelve-bit significand (`Step.finer`).
* A coefficient's class is the sum of its tensor's, its row's and its column's level (`scales`), in half-octaves of
  the mean quantised magnitude. The coefficients of a class in a part are ordered by tensor, row, column.
* A sparse class sends gaps between non-zeros (token and raw low bits), then the magnitudes less one. A dense class
  sends one token per coefficient (`tokens`). Gap tables follow from the counts of all parts together, the others
  are sent as hazards (`models`); all parts share them. A table with a single token sends no tokens.
* One part: its tokens follow in the same range coder when they are fewer than 20,000, else in 32 rANS lanes
  (`rans`) after it; then its raw bits, to the end of the body.
* Several parts: after the range coder the lengths of all parts but the last (`varint`), then the parts. Each has
  its tokens (none: nothing; fewer than 20,000: a range coder of its own; else lanes), then its raw bits.
* Tokens are ordered by class: gaps, then magnitudes. Each table's tokens are a run, which begins at lane 0.
* Raw bits (`bits`): low bits of gaps, extra bits of magnitudes, signs of non-zeros, each in class order. Padding
  of the last byte is zero.
* A magnitude q is decoded as q steps, one and two as 64ths of a step from the centroids: the exact product,
  rounded once to float32.
* An encoder's freedom is in the levels, the magnitudes, the hazards and the centroids. This encoder's choices
  are integer or elementwise float32 arithmetic throughout, and the native one makes the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from phloem.kernels import adaptive, decoder, efforts, grid
from phloem.kernels.bytecoder import block_decode, block_encode
from phloem.kernels.decoder import Put, put_all
from phloem.kernels.efforts import AdaptiveKernels, Held
from phloem.kernels.encoder import ecsq_encode
from phloem.kernels.grid import adaptive_centres
from phloem.kernels.hadamard import flip, hadamard
from phloem.kernels.matrices import (
    add_products,
    orthonormal,
    scale_rows_and_columns,
    squares_of_rows_and_columns,
)
from phloem.kernels.parts import parts_within
from phloem.kernels.planes import (
    differences_ends,
    differences_merge,
    differences_split,
    planes_merge,
    planes_split,
)
from phloem.kernels.statistics import ecsq_energy, ecsq_extent, ecsq_extent_of_sum
from phloem.kernels.steps import MODEL_FLAGS, STEP_BYTES, Step, read_head
from phloem.kernels.tables import MAGNITUDE_HIGHEST
from phloem.kernels.trellis import trellis_quantise, trellis_reconstruct, trellis_states

__all__ = [
    "NAME",
    "adaptive_centres",
    "adaptive_choose",
    "adaptive_pack",
    "adaptive_unpack",
    "adaptive_values",
    "add_products",
    "block_decode",
    "block_encode",
    "differences_ends",
    "differences_merge",
    "differences_split",
    "ecsq_decode",
    "ecsq_decode_into",
    "ecsq_encode",
    "ecsq_energy",
    "ecsq_extent",
    "ecsq_extent_of_sum",
    "ecsq_subtract_encoded",
    "flip",
    "hadamard",
    "orthonormal",
    "planes_merge",
    "planes_split",
    "scale_rows_and_columns",
    "squares_of_rows_and_columns",
    "trellis_quantise",
    "trellis_reconstruct",
    "trellis_states",
]

NAME = "reference"

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int32]
HeldArray = npt.NDArray[np.int8]


def ecsq_decode(
    body: bytes | memoryview, shapes: Sequence[tuple[int, ...]], held: Held = None
) -> list[FloatArray]:
    """The tensors of a body.

    Raises:
        FormatError: the bytes are not a body for these shapes, to the last bit.
    """
    arrays = [np.zeros(shape, dtype=np.float32) for shape in shapes]
    ecsq_decode_into(body, arrays, "store", held)
    return arrays


def ecsq_decode_into(
    body: bytes | memoryview,
    arrays: Sequence[FloatArray],
    put: Put,
    held: Held = None,
    *,
    in_parts: bool = False,
) -> None:
    """Put the tensors of a body into arrays of zeros, or add them to arrays, or subtract them, in float32.

    Raises:
        FormatError: the bytes are not a body for these shapes, to the last bit; the arrays are as before, or with
            `in_parts`, which puts parts of effort `balanced` or `best` one by one, void.
    """
    if read_head(bytes(body[:STEP_BYTES]))[1] & MODEL_FLAGS:
        this = cast(AdaptiveKernels, sys.modules[__name__])
        efforts.decode_into(
            this, bytes(body), arrays, "add" if put == "accumulate" else put, held, in_parts=in_parts
        )
    else:
        decoder.ecsq_decode_into(body, arrays, put)


class Opened:
    """A body of which parts are decoded alone; a kernel may leave what is not asked for unread.

    May be used by several threads at a time.
    """

    def __init__(self, body: bytes | memoryview, shapes: Sequence[tuple[int, ...]]) -> None:
        """Reads the side information.

        Raises:
            FormatError: the bytes are not a body for these shapes.
        """
        self._shapes = tuple(shapes)
        self._values = ecsq_decode(body, shapes)

    def put(self, first: int, arrays: Sequence[FloatArray], put: Put) -> None:
        """Puts the tensors from `first` on, as many as there are arrays, as `ecsq_decode_into` does.

        Raises:
            FormatError: the bytes are not a body for these shapes; the arrays are as before.
            ConfigError: the tensors share a part of the body (`parts`) with others.
        """
        parts_within(self._shapes, first, len(arrays))
        put_all(arrays, self._values[first : first + len(arrays)], put)


def ecsq_add_all(bodies: Sequence[Opened], first: int, arrays: Sequence[FloatArray]) -> None:
    """Add open bodies of the same shapes, one after another, to the tensors from `first` on, in float32.

    Raises:
        FormatError: one of them is damaged; the arrays are as before, if all are of effort `fast`.
    """
    for body in bodies:
        body.put(first, arrays, "add")


def ecsq_subtract_encoded(body: bytes, arrays: Sequence[FloatArray], held: Held = None) -> None:
    """Subtract a body from the very arrays that it was encoded from: what its sender still owes."""
    if read_head(body)[1] & MODEL_FLAGS:
        this = cast(AdaptiveKernels, sys.modules[__name__])
        efforts.decode_into(this, body, arrays, "subtract", held, in_parts=True)
    else:
        decoder.ecsq_decode_into(body, arrays, "subtract")


def adaptive_choose(
    arrays: Sequence[FloatArray],
    steps: Sequence[Step],
    held: Sequence[HeldArray],
    shapes: Sequence[tuple[int, int]],
    mixing: bool,
) -> tuple[bytes, list[IndexArray]]:
    """The stream of indices that are chosen on the way, and the indices."""
    inverses = [np.float32(1.0) / np.float32(step.value) for step in steps]
    highest = [step.magnitude_highest for step in steps]
    return adaptive.choose_and_pack(arrays, inverses, held, shapes, mixing, highest)


def adaptive_pack(
    indices: Sequence[IndexArray],
    held: Sequence[HeldArray],
    shapes: Sequence[tuple[int, int]],
    mixing: bool,
    states: int,
) -> bytes:
    """The stream of these indices."""
    return adaptive.pack(indices, held, shapes, mixing, states, [MAGNITUDE_HIGHEST] * len(shapes))


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
    return adaptive.unpack(data, held, shapes, mixing, states, highest)


def adaptive_values(
    indices: IndexArray, states: int, values: FloatArray, step: Step, put: Put, out: FloatArray
) -> None:
    """Put decoded values into a flat array; `values` are those of magnitudes one and two, even and odd."""
    found = grid.decoded(indices, states, values, step)
    if put == "store":
        out[:] = found
        return
    with np.errstate(over="ignore", invalid="ignore"):
        (np.add if put == "add" else np.subtract)(out, found, out=out)

"""`lowrank`: every matrix as the product of two thin ones.

Specification. The transform's bytes are a varint rank r ≥ 1 and a byte of damping (0 or 64). A tensor of at least two
dimensions is seen as the matrix first dimension × all others, m × n; if r (m + n) < m n it becomes the tensors P
(m × r) and Q (n × r), else it stays as it is. The tensors that are left to carry are, in the layout's order and named
by place, P and Q or the tensor. To decode: starting from zero, for j = 0 … r − 1 every element adds the float32
product P[i, j] · Q[k, j], each product and each sum rounded to float32; then × 2^damping, infinities becoming the
largest finite value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from phloem import varint
from phloem.codecs.base import Hints
from phloem.codecs.config import check_whole
from phloem.codecs.split import damped, join, read_damping, require_finite, restored, split
from phloem.codecs.transform import Applied, Opened, Transform
from phloem.errors import ConfigError, FormatError
from phloem.kernels import backend
from phloem.kernels.streams import uniforms
from phloem.seeds import seed_for
from phloem.tensors import Array, Layout, TensorSpec

Matrix = npt.NDArray[np.float64]

_LARGEST_RANK = 1024
_ITERATIONS = 4  # of what `factored` makes
MOST_BITS = 10.0
_SWEEPS, _TURNED = (
    12,
    1e-4,
)  # of the rotations: at most so many, until no two columns are less orthogonal than that


@dataclass(frozen=True)
class LowRank(Transform):
    """The best rank-`rank` matrix that a step or two of subspace iteration finds, for every matrix it makes smaller.

    32 · rank · (m + n) bits for an m × n matrix; vectors and small matrices go as they are. One-shot: it starts
    from random vectors every time, so two iterations are worth their time where the spectrum decays slowly. A
    matrix of rank `rank` comes back but for rounding. Source: Vogels et al., PowerSGD, 2019, Algorithm 1
    without warm start.

    Args:
        rank: columns of the thin matrices.
        iterations: of subspace iteration.
        aligned: turn the columns into the directions of the singular vectors and share each singular value evenly
            between the two sides, which is what a quantiser after it wants: its step then costs every direction as
            much as that is worth, and small ones become zero. Source: one-sided Jacobi rotations, M. R. Hestenes,
            Inversion of matrices by biorthogonalization, 1958.
    """

    rank: int = 4
    iterations: int = 1
    aligned: bool = False

    name: ClassVar[str] = "lowrank"
    code: ClassVar[int] = 16
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("codec 'lowrank'", "rank", self.rank, 1, _LARGEST_RANK)
        check_whole("codec 'lowrank'", "iterations", self.iterations, 1, 8)
        if not isinstance(self.aligned, bool):
            raise ConfigError(f"codec 'lowrank': 'aligned' must be true or false, found {self.aligned!r:.40}")

    def apply(self, arrays: Sequence[Array], layout: Layout, hints: Hints) -> Applied:
        """The rank and the damping; the thin matrices."""
        damping, vector = damped(join(arrays))
        left: list[Array] = []
        for number, (spec, array) in enumerate(zip(layout.specs, split(vector, layout), strict=True)):
            shape = _thin(spec, self.rank)
            if shape is None:
                left.append(array)
            else:
                seed = seed_for(hints.seed, self.name, number)
                left += self._factors(array.reshape(shape).astype(np.float64), seed)
        side = varint.pack(self.rank) + bytes([damping])
        return Applied(side, left, _thin_layout(layout, self.rank))

    def _factors(self, matrix: Matrix, seed: int) -> list[Array]:
        columns = matrix.shape[1]
        turned = np.ascontiguousarray(matrix.T)
        start = uniforms(seed, columns * self.rank).astype(np.float64).reshape(columns, self.rank)
        right = start - 0.5
        for _ in range(self.iterations):
            left = _orthonormal(_product(turned, right))
            right = _product(matrix, left)
        if self.aligned:
            _align(left, right)
        return [left.astype(np.float32), right.astype(np.float32)]

    @classmethod
    def open(cls, body: bytes, start: int, layout: Layout) -> tuple[Opened, int]:
        """The products of the thin matrices."""
        rank, start = varint.unpack(body, start)
        if not 1 <= rank <= _LARGEST_RANK:
            raise FormatError(f"lowrank: expected a rank from 1 to {_LARGEST_RANK}, found {rank}")
        damping, end = read_damping(body, start, cls.name)

        def undo(arrays: list[Array]) -> list[Array]:
            parts = iter(arrays)
            whole = []
            for spec in layout.specs:
                first = next(parts)
                if _thin(spec, rank) is not None:
                    right = np.ascontiguousarray(next(parts).T)
                    total = np.zeros((len(first), right.shape[1]), np.float32)
                    backend().add_products(np.ascontiguousarray(first), right, total)
                    first = total
                whole.append(require_finite(restored(first.reshape(spec.shape), damping), cls.name))
            return whole

        return Opened(_thin_layout(layout, rank), undo), end


def factored(specs: Sequence[TensorSpec], bits: float, rank: int, effort: str = "fast") -> Mapping[str, Any]:
    """The chain that codes an update of these tensors as thin matrices in `bits` wire bits per parameter of its own.

    Changes of fine-tuned models are near matrices of low rank: at equal bits the error is then a fraction of what
    `ecsq` leaves. More than `MOST_BITS` per value of the thin matrices are not spent: what they leave out stays.

    Raises:
        ConfigError: the rank or the bits are out of range.
    """
    stage = LowRank(rank, iterations=_ITERATIONS, aligned=True)
    left = _thin_layout(Layout(tuple(specs)), rank).size
    inner = min(bits * sum(spec.size for spec in specs) / max(left, 1), MOST_BITS)
    quantiser = {"codec": "ecsq", "bits": inner, "effort": effort}
    lowrank = {"codec": stage.name, "rank": rank, "iterations": stage.iterations, "aligned": True}
    return {"codec": "chain", "stages": [lowrank, quantiser]}


def _thin(spec: TensorSpec, rank: int) -> tuple[int, int] | None:
    """The matrix that the tensor is seen as, where two thin ones are smaller than it."""
    if len(spec.shape) < 2 or spec.size == 0:
        return None
    rows, columns = spec.shape[0], spec.size // spec.shape[0]
    return (rows, columns) if rank * (rows + columns) < rows * columns else None


def _thin_layout(layout: Layout, rank: int) -> Layout:
    specs = []
    for number, spec in enumerate(layout.specs):
        shape = _thin(spec, rank)
        if shape is None:
            specs.append(TensorSpec(f"{number:08d}", spec.shape))
        else:
            specs += [
                TensorSpec(f"{number:08d}.{side}", (size, rank))
                for side, size in zip("pq", shape, strict=True)
            ]
    return Layout(tuple(specs))


def _product(rows: Matrix, thin: Matrix) -> Matrix:
    """rowsᵀ · thin, summed row by row: the same on every machine, which no BLAS promises."""
    total = np.zeros((rows.shape[1], thin.shape[1]))
    for row, weights in zip(rows, thin, strict=True):
        total += row[:, None] * weights
    return total


def _orthonormal(matrix: Matrix) -> Matrix:
    """Columns made orthonormal one after another; dependent ones become zero."""
    rows = np.array(matrix.T, order="C")
    backend().orthonormal(rows)
    return np.ascontiguousarray(rows.T)


def _align(left: Matrix, right: Matrix) -> None:
    """Rotates the columns of both until those of `right` are orthogonal, then gives both the same lengths, in place."""
    for _ in range(_SWEEPS):
        turned = 0.0
        for i, j in itertools.combinations(range(right.shape[1]), 2):
            one, other = right[:, i], right[:, j]
            both = float(np.cumsum(one * other)[-1])
            lengths = _length(one) ** 2, _length(other) ** 2
            size = math.sqrt(lengths[0] * lengths[1])
            if abs(both) <= 1e-9 * size:
                continue
            turned = max(turned, abs(both) / size)
            ratio = (lengths[1] - lengths[0]) / (2.0 * both)
            tangent = math.copysign(1.0, ratio) / (abs(ratio) + math.sqrt(1.0 + ratio * ratio))
            cosine = 1.0 / math.sqrt(1.0 + tangent * tangent)
            sine = tangent * cosine
            for matrix in (left, right):
                first, second = matrix[:, i].copy(), matrix[:, j].copy()
                matrix[:, i], matrix[:, j] = cosine * first - sine * second, sine * first + cosine * second
        if turned < _TURNED:
            break
    for j in range(right.shape[1]):
        size = math.sqrt(_length(right[:, j]))
        left[:, j] *= size
        right[:, j] /= size or 1.0


def _length(column: Matrix) -> float:
    return float(np.sqrt(np.cumsum(column * column)[-1]))

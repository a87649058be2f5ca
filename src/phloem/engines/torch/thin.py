"""Gradients of matrices as products of two thin ones, both compressed: what a few directions of them carry.

Per step and matrix M (m × n) of gradient + residual, with Q (n × r) of the step before:

    P = M Q                   the mean of all ranks' P, in frames; its columns made orthonormal are U, one at all ranks
    Q = Mᵀ U                  the mean of all ranks' Q, in frames
    M̂ = U Qᵀ                  added up in one order everywhere, so all ranks have the same bits

They are coded as Pᵀ and Qᵀ, whose rows are long and each of a size of its own: so the codec works through them fastest.
Matrices stay where they are: of those in a GPU's memory only P and Q cross to the processor, whose codecs know them.

A rank keeps M − U Qᵀ of its own Q as its frame told it, and what the mean of Q lost. Vectors and small matrices go with
Q: U is orthonormal, so one quantiser step is the right one for all of them. Source: Vogels et al., PowerSGD, 2019,
Algorithms 1 and 2 (warm start, error feedback); there P and Q travel as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from phloem.engines.torch import gpu
from phloem.engines.torch.buffers import host, on_host
from phloem.engines.torch.cutting import spans
from phloem.engines.torch.owing import matrix_of
from phloem.engines.torch.peers import Peers
from phloem.engines.torch.reduce import Legs, Pair, ShardedMean, Tensors
from phloem.kernels import backend
from phloem.seeds import generator
from phloem.tensors import Array


@dataclass(frozen=True)
class _Matrix:
    """A matrix of a bucket, and the columns from where to where that its Pᵀ and its Qᵀ are cut at."""

    place: int
    size: tuple[int, int]
    left: list[tuple[int, int]]
    right: list[tuple[int, int]]


@dataclass(frozen=True)
class _Bucket:
    """The tensors of one bucket: which are matrices, what P and Q have to carry."""

    matrices: tuple[_Matrix, ...]
    plain: tuple[int, ...]
    first: Tensors
    second: Tensors


class ThinMean:
    """Reduces buckets through thin matrices of `rank` columns."""

    def __init__(
        self,
        peers: Peers,
        shapes: Mapping[str, tuple[int, ...]],
        rank: int,
        first: Pair,
        second: Pair,
        seed: int = 0,
    ) -> None:
        """`first` codes P, `second` codes Q and what is no matrix."""
        self.shapes, self.rank, self.first, self.second, self.seed = dict(shapes), rank, first, second, seed
        self.sharded = ShardedMean(peers, seed)
        self.right: dict[str, Array] = {}  # Q of the last step, by parameter: the same at all ranks
        self._buckets: dict[tuple[str, ...], _Bucket] = {}

    def mean(
        self,
        names: tuple[str, ...],
        tensors: Sequence[torch.Tensor],
        owed: Sequence[torch.Tensor],
        tags: Sequence[int],
        number: int,
    ) -> str | None:
        """Overwrites `tensors` with the mean of tensors + owed, `owed` with what this rank then owes; or says why not.

        Where it says so, all values of `tensors` are NaN at every rank and `owed` is nothing to go on with. Takes four
        tags, and a number of its own.

        Raises:
            StateError: a rank is gone, or did not answer in time.
        """
        bucket = self._bucket(names)
        first = self.sharded.open(bucket.first, tags[:2], 2 * number)
        second = self.sharded.open(bucket.second, tags[2:], 2 * number + 1)
        for tensor, less in zip(tensors, owed, strict=True):
            tensor += less
        wholes = [tensors[matrix.place].view(matrix.size) for matrix in bucket.matrices]
        left = [
            host(self._start(names[matrix.place], matrix.size[1], number).T.to(whole.device) @ whole.T)
            for matrix, whole in zip(bucket.matrices, wholes, strict=True)
        ]
        cuts = [matrix.left for matrix in bucket.matrices]
        pieces = _cut(left, cuts)
        # P is a direction to look in: what its frames lose is not lost
        broken = self.sharded.mean(bucket.first, pieces, None, self.first, first, None)
        # what is no number in P makes Q none as well: then the second exchange says so, too
        bases = [
            torch.from_numpy(_orthonormal(array)).to(whole.device)
            for array, whole in zip(_joined(pieces, cuts), wholes, strict=True)
        ]
        broken = self._second(bucket, names, tensors, owed, wholes, bases, second) or broken
        if broken is not None:
            for tensor in tensors:
                tensor.fill_(math.nan)
        return broken

    def _second(
        self,
        bucket: _Bucket,
        names: tuple[str, ...],
        tensors: Sequence[torch.Tensor],
        owed: Sequence[torch.Tensor],
        wholes: Sequence[torch.Tensor],
        bases: Sequence[torch.Tensor],
        legs: Legs,
    ) -> str | None:
        """The exchange of Q, and of the tensors that are no thin matrices, with what is owed of them."""
        cuts = [matrix.right for matrix in bucket.matrices]
        pieces = _cut([host(base @ whole) for whole, base in zip(wholes, bases, strict=True)], cuts)
        told = [array.copy() for array in pieces]

        def keep(lost: Sequence[Array]) -> None:
            for array, less in zip(told, lost, strict=False):
                np.subtract(array, less, out=array)
            for place, less in zip(bucket.plain, lost[len(told) :], strict=True):
                owed[place].copy_(torch.from_numpy(less))

        together = [*pieces, *(host(tensors[place]) for place in bucket.plain)]
        broken = self.sharded.mean(bucket.second, together, None, self.second, legs, keep)
        if broken is not None:
            return broken
        for place, array in zip(bucket.plain, together[len(pieces) :], strict=True):
            if not on_host(tensors[place]):
                tensors[place].copy_(torch.from_numpy(array))
        both = zip(_joined(told, cuts), _joined(pieces, cuts), strict=True)
        for matrix, whole, base, (own, mean) in zip(bucket.matrices, wholes, bases, both, strict=True):
            split(whole, owed[matrix.place].view(matrix.size), base, own, mean)
            self.right[names[matrix.place]] = np.ascontiguousarray(mean.T)
        return None

    def _bucket(self, names: tuple[str, ...]) -> _Bucket:
        if names not in self._buckets:
            ranks, matrices, plain = self.sharded.peers.world, [], []
            left: dict[str, tuple[int, ...]] = {}
            right: dict[str, tuple[int, ...]] = {}
            for place, name in enumerate(names):
                shape = self.shapes[name]
                rows, columns = matrix_of(shape)
                if len(shape) < 2 or 2 * self.rank * (rows + columns) > rows * columns:
                    plain.append(place)
                    continue
                cuts = [spans(length, length * self.rank, ranks) for length in (rows, columns)]
                matrices.append(_Matrix(place, (rows, columns), *cuts))
                left |= {f"{name}.p[{first}:{last}]": (self.rank, last - first) for first, last in cuts[0]}
                right |= {f"{name}.q[{first}:{last}]": (self.rank, last - first) for first, last in cuts[1]}
            others = {names[place]: self.shapes[names[place]] for place in plain}
            self._buckets[names] = _Bucket(
                tuple(matrices),
                tuple(plain),
                Tensors.of(left, ranks, whole=left),
                Tensors.of(right | others, ranks, whole=right),
            )
        return self._buckets[names]

    def _start(self, name: str, columns: int, number: int) -> torch.Tensor:
        """The directions to look in, n × r: those of the last step, each so long that its column of P has length 1.

        They need not be the same to the bit at all ranks: P is whatever the mean of the frames says.
        """
        right = torch.zeros(columns, self.rank, dtype=torch.float32)
        if name in self.right:
            right = torch.from_numpy(self.right[name])
        lengths = torch.linalg.vector_norm(right, dim=0)  # the singular values, nearly
        rows, factors = torch.linalg.qr(right)
        # nothing in it, or as good as another: a direction that is free to look elsewhere
        new = factors.diagonal().abs() <= 1e-3 * lengths
        if bool(new.any()):
            rng = generator(self.seed, "directions", name, number)
            fresh = rng.standard_normal((columns, int(new.sum())), np.float32) / np.float32(
                math.sqrt(columns)
            )
            rows[:, new] = torch.from_numpy(fresh)
            lengths[new] = float(lengths[~new].min()) if not bool(new.all()) else 1.0
        start: torch.Tensor = rows / lengths
        return start


def split(whole: torch.Tensor, owed: torch.Tensor, base: torch.Tensor, told: Array, mean: Array) -> None:
    """Leaves baseᵀ × mean in `whole`, and in `owed` what `whole` was, less baseᵀ × told: the same bits everywhere.

    Args:
        whole: float32, contiguous, on one device. Shape: (m, n).
        owed: there, too. Shape: (m, n).
        base: there, too. Shape: (r, m).
        told: what the second product is made of. Shape: (r, n).
        mean: what the first is made of. Shape: (r, n).
    """
    if on_host(whole):
        matrix, left = host(whole), np.ascontiguousarray(host(base).T)
        backend().add_products(left, -told, matrix)
        owed.copy_(whole)
        matrix.fill(0.0)
        backend().add_products(left, mean, matrix)
    else:
        there = [torch.from_numpy(array).to(whole.device) for array in (told, mean)]
        gpu.split(whole.device)(whole, owed, base, *there)


def _cut(arrays: Sequence[Array], cuts: Sequence[Sequence[tuple[int, int]]]) -> list[Array]:
    """These columns of the arrays, one array after another."""
    return [
        np.ascontiguousarray(array[:, first:last])
        for array, places in zip(arrays, cuts, strict=True)
        for first, last in places
    ]


def _joined(pieces: Sequence[Array], cuts: Sequence[Sequence[tuple[int, int]]]) -> list[Array]:
    """Takes `_cut` back."""
    left = iter(pieces)
    every = [[next(left) for _ in places] for places in cuts]
    return [own[0] if len(own) == 1 else np.concatenate(own, axis=1) for own in every]


def _orthonormal(left: Array) -> Array:
    """The rows of Pᵀ made orthonormal: the same bits everywhere."""
    rows = left.astype(np.float64)
    backend().orthonormal(rows)
    return rows.astype(np.float32)

"""Gradients of matrices as products of two thin ones, both compressed: what a few directions of them carry.

Per step and matrix M (m × n) of gradient + residual, with Q (n × r) of the step before:

    P = M Q                   the mean of all ranks' P, in frames; its columns made orthonormal are U, one at all ranks
    Q = Mᵀ U                  the mean of all ranks' Q, in frames
    M̂ = U Qᵀ                  added up in one order everywhere, so all ranks have the same bits

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
from phloem.engines.torch.peers import Peers
from phloem.engines.torch.reduce import Legs, Pair, ShardedMean, Tensors
from phloem.kernels import backend
from phloem.seeds import generator
from phloem.tensors import Array


@dataclass(frozen=True)
class _Bucket:
    """The tensors of one bucket: the matrices by place, what P and Q have to carry."""

    thin: dict[int, tuple[int, int]]  # place: rows, columns
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
        wholes = [tensors[place].view(size) for place, size in bucket.thin.items()]
        left = [
            host(whole @ self._start(names[place], whole.shape[1], number).to(whole.device))
            for place, whole in zip(bucket.thin, wholes, strict=True)
        ]
        # P is a direction to look in: what its frames lose is not lost
        broken = self.sharded.mean(bucket.first, left, None, self.first, first, None)
        # what is no number in P makes Q none as well: then the second exchange says so, too
        bases = [
            torch.from_numpy(_orthonormal(array)).to(whole.device)
            for array, whole in zip(left, wholes, strict=True)
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
        right = [host(whole.T @ base) for whole, base in zip(wholes, bases, strict=True)]
        told = [array.copy() for array in right]
        plain = [place for place in range(len(names)) if place not in bucket.thin]

        def keep(lost: Sequence[Array]) -> None:
            for array, less in zip(told, lost, strict=False):
                np.subtract(array, less, out=array)
            for place, less in zip(plain, lost[len(told) :], strict=True):
                owed[place].copy_(torch.from_numpy(less))

        together = [*right, *(host(tensors[place]) for place in plain)]
        broken = self.sharded.mean(bucket.second, together, None, self.second, legs, keep)
        if broken is not None:
            return broken
        for place, array in zip(plain, together[len(right) :], strict=True):
            if not on_host(tensors[place]):
                tensors[place].copy_(torch.from_numpy(array))
        for number, (place, size) in enumerate(bucket.thin.items()):
            split(wholes[number], owed[place].view(size), bases[number], told[number], right[number])
            self.right[names[place]] = right[number]
        return None

    def _bucket(self, names: tuple[str, ...]) -> _Bucket:
        if names not in self._buckets:
            thin = {}
            for place, name in enumerate(names):
                shape = self.shapes[name]
                rows = shape[0] if shape else 1
                columns = math.prod(shape[1:])
                if len(shape) > 1 and 2 * self.rank * (rows + columns) <= rows * columns:
                    thin[place] = (rows, columns)
            left = {f"{names[place]}.p": (size[0], self.rank) for place, size in thin.items()}
            right = {f"{names[place]}.q": (size[1], self.rank) for place, size in thin.items()}
            plain = {name: self.shapes[name] for place, name in enumerate(names) if place not in thin}
            ranks = self.sharded.peers.world
            self._buckets[names] = _Bucket(thin, Tensors.of(left, ranks), Tensors.of(right | plain, ranks))
        return self._buckets[names]

    def _start(self, name: str, columns: int, number: int) -> torch.Tensor:
        """The directions to look in, n × r: those of the last step, each so long that its column of P has length 1.

        They need not be the same to the bit at all ranks: P is whatever the mean of the frames says.
        """
        right = torch.zeros(columns, self.rank)
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
    """Leaves base × meanᵀ in `whole`, and in `owed` what `whole` was, less base × toldᵀ: the same bits everywhere.

    Args:
        whole: float32, contiguous, on one device. Shape: (m, n).
        owed: there, too. Shape: (m, n).
        base: there, too. Shape: (m, r).
        told: what the second product is made of. Shape: (n, r).
        mean: what the first is made of. Shape: (n, r).
    """
    if on_host(whole):
        matrix, left = host(whole), host(base)
        backend().add_products(left, -np.ascontiguousarray(told.T), matrix)
        owed.copy_(whole)
        matrix.fill(0.0)
        backend().add_products(left, np.ascontiguousarray(mean.T), matrix)
    else:
        there = [torch.from_numpy(array).to(whole.device) for array in (told, mean)]
        gpu.split()(whole, owed, base, *there)


def _orthonormal(left: Array) -> Array:
    """The columns of P made orthonormal: the same bits everywhere."""
    rows = np.array(left.T, np.float64, order="C")
    backend().orthonormal(rows)
    return np.ascontiguousarray(rows.T, np.float32)

"""Codecs that send some of the values: `topk`, `threshold` and `randomk`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from phloem import varint
from phloem.codecs import positions as places
from phloem.codecs.base import Hints
from phloem.codecs.config import check_choice, check_number, check_whole
from phloem.codecs.positions import Positions
from phloem.codecs.split import join, saturated, split, take
from phloem.codecs.transform import Applied, Opened, Transform
from phloem.errors import FormatError
from phloem.kernels.streams import words
from phloem.seeds import seed_for
from phloem.tensors import Array, Layout, TensorSpec

Mask = npt.NDArray[np.bool_]

_PART = 1 << 18  # words at a time


@dataclass(frozen=True)
class TopK(Transform):
    """The `fraction` of values with the largest magnitude, and where they are.

    32 bits for each kept value and, with Rice-coded gaps, about log2(1/fraction) + 1.5 for its position. Ties go to
    the lower position. Source: Aji and Heafield, Sparse communication for distributed gradient descent, 2017;
    chunks as in Sarfi et al., Communication efficient LLM pre-training with SparseLoCo, 2025 (64 of 4096; theirs
    are 64 × 64 squares of a matrix, ours runs of its rows).

    Args:
        fraction: how many to keep, at least one in each scope.
        scope: where the largest are looked for: "global", in each "tensor", or in each "chunk" of a tensor.
        chunk: values in a chunk; the last chunk of a tensor may be shorter.
        indices: "rice", or "raw32" for the plain positions that frameworks send.
    """

    fraction: float = 0.01
    scope: Literal["global", "tensor", "chunk"] = "global"
    chunk: int = 4096
    indices: Literal["rice", "raw32"] = "rice"

    name: ClassVar[str] = "topk"
    code: ClassVar[int] = 4
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("codec 'topk'", "fraction", self.fraction, 1e-9, 1.0)
        check_choice("codec 'topk'", "scope", self.scope, ("global", "tensor", "chunk"))
        check_whole("codec 'topk'", "chunk", self.chunk, 1, 1 << 24)
        check_choice("codec 'topk'", "indices", self.indices, places.KINDS)

    def apply(self, arrays: Sequence[Array], layout: Layout, hints: Hints) -> Applied:
        """The positions; the kept values, tensor by tensor."""
        vector = join(arrays)
        magnitudes, found, start = np.abs(vector), [], 0
        scopes = [layout.size] if self.scope == "global" else [spec.size for spec in layout.specs]
        for size in scopes:
            width = min(self.chunk, size) if self.scope == "chunk" else size
            whole = size // width * width if size else 0
            for first, last in ((start, start + whole), (start + whole, start + size)):
                if last > first:
                    rows = magnitudes[first:last].reshape(-1, min(width, last - first))
                    found.append(first + np.flatnonzero(self._largest(rows)))
            start += size
        kept = np.concatenate(found) if found else np.zeros(0, np.int64)
        return _selected(vector, kept, layout, places.pack(kept, layout.size, self.indices))

    def _largest(self, rows: Array) -> Mask:
        """Which values are among the largest of their row."""
        width = rows.shape[1]
        count = min(width, max(1, round(self.fraction * width)))
        least = np.partition(rows, width - count, axis=1)[:, width - count, None]  # (rows, 1)
        mask: Mask = rows >= least
        crowded = np.flatnonzero(mask.sum(axis=1) > count)
        if crowded.size:
            above, ties = rows[crowded] > least[crowded], rows[crowded] == least[crowded]
            free = count - above.sum(axis=1, keepdims=True)
            mask[crowded] = above | (ties & (np.cumsum(ties, axis=1, dtype=np.int32) <= free))
        return mask

    @classmethod
    def open(cls, body: bytes, start: int, layout: Layout) -> tuple[Opened, int]:
        """Zeros, but for the values that were kept."""
        kept, start = places.unpack(body, start, layout.size, cls.name)
        return _scattered(kept, layout), start


@dataclass(frozen=True)
class Threshold(Transform):
    """The values of at least a fixed magnitude, and where they are.

    How many there are is the update's business: pair it with a `clip_norm`, or look at the sizes. Source: Strom,
    Scalable distributed DNN training using commodity GPU cloud computing, 2015, with the values themselves.

    Args:
        threshold: the least magnitude that is sent, in the update's own unit.
        indices: "rice", or "raw32" for the plain positions that frameworks send.
    """

    threshold: float
    indices: Literal["rice", "raw32"] = "rice"

    name: ClassVar[str] = "threshold"
    code: ClassVar[int] = 14
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("codec 'threshold'", "threshold", self.threshold, 2.0**-149, 2.0**127)
        check_choice("codec 'threshold'", "indices", self.indices, places.KINDS)

    def apply(self, arrays: Sequence[Array], layout: Layout, hints: Hints) -> Applied:
        """The positions; the kept values, tensor by tensor."""
        vector = join(arrays)
        kept = np.flatnonzero(np.abs(vector) >= np.float32(self.threshold))
        return _selected(vector, kept, layout, places.pack(kept, layout.size, self.indices))

    @classmethod
    def open(cls, body: bytes, start: int, layout: Layout) -> tuple[Opened, int]:
        """Zeros, but for the values that were kept."""
        kept, start = places.unpack(body, start, layout.size, cls.name)
        return _scattered(kept, layout), start


@dataclass(frozen=True)
class RandomK(Transform):
    """A random `fraction` of the values, each divided by the fraction: unbiased, positions for 8 bytes.

    Of n values k are sent; the decoder multiplies by n ÷ k (a float32 nearest to it), and draws the positions
    again: those of the k smallest words of the stream that the body's seed names, the lower position first where
    words are equal. Source: Stich et al., Sparsified SGD with memory, 2018, Definition 2.1; Konečný et al., Federated
    learning: strategies for improving communication efficiency, 2016, §2 (random masks by seed).
    """

    fraction: float = 0.01

    name: ClassVar[str] = "randomk"
    code: ClassVar[int] = 13
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("codec 'randomk'", "fraction", self.fraction, 1e-9, 1.0)

    def apply(self, arrays: Sequence[Array], layout: Layout, hints: Hints) -> Applied:
        """The number of values and a seed; the values drawn, tensor by tensor."""
        count = min(layout.size, max(1, round(self.fraction * layout.size)))
        seed = seed_for(hints.seed, self.name)
        kept = _drawn(layout.size, count, seed)
        return _selected(join(arrays), kept, layout, varint.pack(count) + seed.to_bytes(8, "little"))

    @classmethod
    def open(cls, body: bytes, start: int, layout: Layout) -> tuple[Opened, int]:
        """Zeros, but for the values that were drawn, times n ÷ k."""
        count, start = varint.unpack(body, start)
        if count > layout.size:
            raise FormatError(f"randomk: the frame claims {count} values of {layout.size}")
        end = take(body, start, 8, cls.name)
        take(body, end, 1 if count else 0, cls.name)  # nothing is drawn for a frame that ends here
        kept = _drawn(layout.size, count, int.from_bytes(body[start:end], "little"))
        return _scattered(kept, layout, np.float32(layout.size / max(count, 1))), end


def _drawn(size: int, count: int, seed: int) -> Positions:
    """The positions of the `count` smallest of `size` words, rising; in memory for `count`, not for `size`."""
    if count in (0, size):
        return np.arange(count)
    likely = (count + 8 * math.isqrt(count) + 32) * (1 << 64) // size  # words below: nearly always enough
    while True:
        limit = np.uint64(min(likely, (1 << 64) - 1))
        places, found = [], []
        for first in range(0, size, _PART):
            part = words(seed, min(_PART, size - first), first)
            low = np.flatnonzero(part <= limit)
            places.append(first + low)
            found.append(part[low])
        candidates, below = np.concatenate(places), np.concatenate(found)
        if below.size >= count:
            chosen: Positions = np.sort(candidates[np.argsort(below, kind="stable")[:count]])
            return chosen
        likely *= 2


def _kept_layout(kept: Positions, layout: Layout) -> Layout:
    """The tensors again, each as long as what was kept of it."""
    ends = np.cumsum([spec.size for spec in layout.specs])
    counts = np.diff(np.searchsorted(kept, ends), prepend=0).tolist()
    specs = zip(layout.specs, counts, strict=True)
    return Layout(tuple(TensorSpec(spec.name, (count,)) for spec, count in specs))


def _selected(vector: Array, kept: Positions, layout: Layout, side: bytes) -> Applied:
    inner = _kept_layout(kept, layout)
    return Applied(side, split(vector[kept], inner), inner)


def _scattered(kept: Positions, layout: Layout, factor: np.float32 | None = None) -> Opened:
    def undo(arrays: list[Array]) -> list[Array]:
        vector = np.zeros(layout.size, np.float32)
        with np.errstate(over="ignore"):
            vector[kept] = join(arrays) if factor is None else saturated(join(arrays) * factor)
        return split(vector, layout)

    return Opened(_kept_layout(kept, layout), undo)

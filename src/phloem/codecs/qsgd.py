"""`qsgd`: stochastic rounding to a few levels of each bucket's norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from phloem import varint
from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.blocks import (
    LARGEST_BLOCK,
    in_scales,
    read_block,
    read_scales,
    rows_of,
    scales_for,
)
from phloem.codecs.config import FromConfig, check_choice, check_whole
from phloem.codecs.split import exactly, join, saturated, split
from phloem.errors import FormatError
from phloem.kernels import packing
from phloem.kernels.streams import uniforms
from phloem.seeds import seed_for
from phloem.tensors import Array, Layout

MOST_LEVELS = 1 << 15
_LARGEST_UNIT_BITS = np.uint16(0x7F7F)


@dataclass(frozen=True)
class Qsgd(FromConfig):
    """Every value as a level from −levels to levels of its bucket's norm, rounded at random to one of two.

    ⌈log2(2 · levels + 1)⌉ + 16/bucket bits per parameter. The mean is the value. Variance bound for bucket size d
    and s levels of the Euclidean norm: min(d/s², √d/s) · |bucket|², times (1 + 2⁻⁷)² because the unit, norm ÷ s,
    is rounded up to bfloat16 (which makes products exact). Values at 2^120 and beyond may be cut. Source: Alistarh
    et al., QSGD, 2017, §3.1 and Lemma 3.1; `norm = "max"` is the variant of its §5; levels at fixed width.
    """

    levels: int = 7
    bucket: int = 512
    norm: Literal["l2", "max"] = "l2"

    name: ClassVar[str] = "qsgd"
    code: ClassVar[int] = 11
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("codec 'qsgd'", "levels", self.levels, 1, MOST_LEVELS)
        check_whole("codec 'qsgd'", "bucket", self.bucket, 1, LARGEST_BLOCK)
        check_choice("codec 'qsgd'", "norm", self.norm, ("l2", "max"))

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The bucket size, the number of levels, one bfloat16 unit per bucket, level + levels packed."""
        vector = join(arrays)
        rows = rows_of(vector, self.bucket)  # (buckets, bucket)
        if self.norm == "max":
            norms = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
        else:
            norms = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
        with np.errstate(over="ignore"):
            units = scales_for(saturated((norms / self.levels).astype(np.float32)), _LARGEST_UNIT_BITS)
        scaled = np.abs(in_scales(rows, units).reshape(-1)[: vector.size])
        low = np.floor(scaled)
        up = uniforms(seed_for(hints.seed, self.name), vector.size) < scaled - low
        level = np.minimum(low + up, np.float32(self.levels)).astype(np.int32)
        codes = np.where(vector < 0, -level, level) + self.levels
        head = varint.pack(self.bucket) + varint.pack(self.levels)
        return head + units.astype("<u2", copy=False).tobytes() + packing.pack(codes, _width(self.levels))

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """Level × unit of its bucket; products beyond float32 become its largest value."""
        bucket, start = read_block(body, cls.name)
        levels, start = varint.unpack(body, start)
        if not 1 <= levels <= MOST_LEVELS:
            raise FormatError(f"qsgd: expected 1 to {MOST_LEVELS} levels, found {levels}")
        buckets, width = -(-layout.size // bucket), _width(levels)
        exactly(body, start + 2 * buckets + packing.packed_size(layout.size, width), cls.name)
        units = read_scales(body, start, buckets, cls.name, _LARGEST_UNIT_BITS)
        codes = packing.unpack(body, start + 2 * buckets, layout.size, width)
        if (codes > 2 * levels).any():
            raise FormatError(f"qsgd: a level is above {levels}")
        each = np.repeat(units, min(bucket, layout.size))[: layout.size]
        with np.errstate(over="ignore"):
            vector = (codes.astype(np.float32) - np.float32(levels)) * each
        return split(saturated(vector), layout)


def _width(levels: int) -> int:
    return (2 * levels).bit_length()

"""`linear`: integers that may be summed before they are decoded, also under the masks of secure aggregation.

Specification. The body is

    byte e + 128 · byte bits b · byte log2(block) · varint most senders · varint senders in this body
    8 bytes seed · one integer modulo 2^b per value, packed

The sum of bodies has the senders' sum and, value by value, the sum of the integers modulo 2^b; all else must be equal.
To decode: integers from 2^(b−1) on stand for themselves minus 2^b. The vector is cut as in `phloem.codecs.rotation`
down to blocks of one; every block of 2^m is transformed and multiplied by 2^(e − ⌈m/2⌉), the signs of stream 0 of the
seed are turned over, and zeros made positive. As long as the transformed integers stay below 2^24 every operation is
exact, so the sum's decode equals the decodes' sum to the bit; beyond, both are within float32 rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from phloem import varint
from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig, check_number, check_whole
from phloem.codecs.rotation import check_block, cut, read_block, rotate, rotate_back
from phloem.codecs.split import damped, exactly, join, split, take
from phloem.errors import ConfigError, FormatError
from phloem.kernels import packing
from phloem.kernels.streams import uniforms
from phloem.seeds import seed_for
from phloem.tensors import Array, Layout

_LOWEST, _HIGHEST = -100, 60  # of e
_MOST_BITS = 24
_MOST_SENDERS = 1 << 22


@dataclass(frozen=True)
class Linear(FromConfig):
    """A rotated update on a grid that all senders share, as integers modulo 2^bits: `bits` bits per parameter.

    Unbiased by stochastic rounding. All senders must use one configuration. Each clips its integers to
    (2^(bits−1) − 1) ÷ senders, rounded down, so that the sum of as many cannot wrap; a step so fine that values
    are clipped makes them biased. Error bound without clipping: a step per rotated value, up to √2 steps in
    blocks of odd log2. Source: Bonawitz et al., Practical secure aggregation, 2017, §7 (sums modulo R); Suresh et
    al., Distributed mean estimation with limited communication, 2017, §3 (rotation); Chen et al., The Poisson
    binomial mechanism and Kairouz et al., The distributed discrete Gaussian mechanism, 2021, §4 (both together).

    Args:
        step: of the grid, in the update's unit; rounded down to a power of two.
        bits: of an integer.
        senders: how many bodies may be summed at most.
        seed: of the rotation, shared.
        block: values that are rotated together.
    """

    step: float
    bits: int = 16
    senders: int = 64
    seed: int = 0
    block: int = 4096

    name: ClassVar[str] = "linear"
    code: ClassVar[int] = 17
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("codec 'linear'", "step", self.step, 2.0**_LOWEST, 2.0**_HIGHEST)
        check_whole("codec 'linear'", "bits", self.bits, 2, _MOST_BITS)
        check_whole("codec 'linear'", "senders", self.senders, 1, _MOST_SENDERS)
        check_whole("codec 'linear'", "seed", self.seed, 0, (1 << 63) - 1)
        check_block("codec 'linear'", self.block, 2)
        if self._largest < 1:
            raise ConfigError(
                f"codec 'linear': {self.senders} senders do not fit {self.bits} bits",
                hint=f"at most {(1 << self.bits - 1) - 1} fit",
            )

    @property
    def _largest(self) -> int:
        return ((1 << self.bits - 1) - 1) // self.senders

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The grid, the senders, the integers."""
        exponent = math.frexp(self.step)[1] - 1
        damping, vector = damped(join(arrays))
        rotated = vector.copy()
        rotate(rotated, cut(layout.size, self.block), self.seed, 1)
        with np.errstate(over="ignore"):
            scaled = rotated * np.float32(2.0**damping) * np.float32(2.0**-exponent)
        scaled = np.clip(scaled, -self._largest, self._largest)
        low = np.floor(scaled)
        up = uniforms(seed_for(hints.seed, self.name), layout.size) < scaled - low
        integers = (low + up).astype(np.int64) & (1 << self.bits) - 1
        head = bytes([exponent + 128, self.bits, self.block.bit_length() - 1])
        head += varint.pack(self.senders) + varint.pack(1) + self.seed.to_bytes(8, "little")
        return head + packing.pack(integers, self.bits)

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """The integers on the grid, rotated back."""
        grid = _Grid.read(body, layout)
        integers = packing.unpack(body, grid.start, layout.size, grid.bits).astype(np.int32)
        vector = np.where(integers >> grid.bits - 1, integers - (1 << grid.bits), integers).astype(np.float32)
        rotate_back(vector, cut(layout.size, grid.block), grid.seed, 1, 2.0**grid.exponent)
        vector += np.float32(0)  # minus zero would be lost in a sum
        return split(vector, layout)

    @classmethod
    def sum_bodies(cls, bodies: Sequence[bytes], layout: Layout) -> bytes:
        """The body of the sum.

        Raises:
            FormatError: the bodies have different grids, or more senders than fit.
        """
        grids = [_Grid.read(body, layout) for body in bodies]
        total = np.zeros(layout.size, np.uint32)
        senders = sum(grid.senders for grid in grids)
        for body, grid in zip(bodies, grids, strict=True):
            if (grid.shared, grid.seed) != (grids[0].shared, grids[0].seed):
                raise FormatError("linear: the bodies have different grids")
            total += packing.unpack(body, grid.start, layout.size, grid.bits)
        if senders > grids[0].most:
            raise FormatError(f"linear: a sum of {senders} senders, expected at most {grids[0].most}")
        head = grids[0].shared + varint.pack(senders) + grids[0].seed.to_bytes(8, "little")
        return head + packing.pack(total & np.uint32((1 << grids[0].bits) - 1), grids[0].bits)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The head of a body."""

    exponent: int
    bits: int
    block: int
    most: int
    senders: int
    seed: int
    start: int

    @classmethod
    def read(cls, body: bytes, layout: Layout) -> _Grid:
        """The head of a body that is of this layout's size."""
        take(body, 0, 3, Linear.name)
        exponent, bits = body[0] - 128, body[1]
        if not _LOWEST <= exponent <= _HIGHEST or not 2 <= bits <= _MOST_BITS:
            raise FormatError(f"linear: a step of 2^{exponent} or {bits} bits is outside the format")
        block, start = read_block(body, 2, 2, Linear.name)
        most, start = varint.unpack(body, start)
        senders, start = varint.unpack(body, start)
        if senders > most or most > _MOST_SENDERS:
            raise FormatError(f"linear: a sum of {senders} senders, expected at most {most}")
        end = take(body, start, 8, Linear.name)
        exactly(body, end + packing.packed_size(layout.size, bits), Linear.name)
        return cls(exponent, bits, block, most, senders, int.from_bytes(body[start:end], "little"), end)

    @property
    def shared(self) -> bytes:
        """What all senders must agree on, but for the seed, as in the body."""
        return bytes([self.exponent + 128, self.bits, self.block.bit_length() - 1]) + varint.pack(self.most)

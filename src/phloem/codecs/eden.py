"""`eden`: a random rotation, the nearest of a few levels, and a scale that makes the mean right.

Specification. The body is

    byte log2(block), 6 to 16 · byte bits, 1 to 8, or 0 and a 16-bit little-endian f > 0
    8 bytes seed · one float32 per block · the codes, packed

The vector is cut (`phloem.codecs.rotation`) into blocks of `block` down to 64 values, zeros filling the last one to
64. With 1 to 8 bits every rotated value has a code; with bits 0 only the first max(32, ⌈size · f ÷ 2^16⌉) of each
block, of one bit. Codes of all blocks follow each other at their width. To decode: code c becomes level c of the
table in `phloem.kernels.lloydmax`, values without a code zero; two rounds of rotation (three with bits 0) are undone;
every value is multiplied by its block's float32, and infinities become the largest finite value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig, check_number
from phloem.codecs.rotation import Blocks, check_block, cut, read_block, rotate, rotate_back
from phloem.codecs.split import exactly, join, saturated, split, take
from phloem.errors import ConfigError, FormatError
from phloem.kernels import packing
from phloem.kernels.lloydmax import levels, nearest
from phloem.seeds import seed_for
from phloem.tensors import Array, Layout

SMALLEST_BLOCK = 64
_FEWEST = 32  # codes of a block: with fewer the scale, one over their sum, has a heavy tail
_PART = 1 << 18  # values quantised at a time
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Eden(FromConfig):
    """Rotated values at the nearest of 2^bits levels, unbiased by scale: `bits` bits per parameter and 32 a block.

    The scale is |Rx|² ÷ ⟨Rx, levels⟩, so that the decoded block's part along x is exactly x; what is left is
    noise in random directions. E|error|² ÷ |x|² = D ÷ (1 − D) with D the quantiser's error: 0.571, 0.133, 0.0358,
    0.00959 for 1 to 4 bits, and π ÷ (2 · bits) − 1 below one bit, where the rest of the values is left out. Source:
    Vargaftik et al., EDEN, 2022, Algorithm 1 and §4. Differences: blocks instead of padding to a power of two, and
    two rounds of signs and Hadamard (three below one bit) instead of one. One round makes a block of two spikes two
    values, and the mean is off by 0.67 of the norm for spikes 3 and 2; with these rounds no such bias was above
    0.002 of the norm in 10^4 to 10^5 draws. The levels are those of `phloem.kernels.lloydmax`.
    """

    bits: float = 1.0
    block: int = 8192

    name: ClassVar[str] = "eden"
    code: ClassVar[int] = 15
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("codec 'eden'", "bits", self.bits, 2.0**-10, 8.0)
        if self.bits > 1 and self.bits != int(self.bits):
            raise ConfigError(f"codec 'eden': 'bits' above 1 must be a whole number, found {self.bits:g}")
        check_block("codec 'eden'", self.block, SMALLEST_BLOCK)

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The bits, the seed, the scales, the codes."""
        seed = seed_for(hints.seed, self.name)
        width = max(1, int(self.bits))
        share = 0 if self.bits >= 1 else min(65535, round(self.bits * 65536))
        blocks = cut(layout.size, self.block, SMALLEST_BLOCK)
        vector = np.zeros(blocks[-1].end if blocks else 0, np.float32)
        vector[: layout.size] = join(arrays)
        power = _power(vector)
        vector *= np.float32(2.0**power)
        rotate(vector, blocks, seed, _rounds(share))
        scales, codes = [], []
        for part in _parts(blocks):
            shape = (part.count, part.size)
            some = _quantised(
                vector[part.start : part.end].reshape(shape), _kept(part.size, share), levels(width)
            )
            scales.append(np.clip(some[0] * 2.0**-power, 0.0, _LARGEST).astype("<f4"))
            codes.append(some[1].reshape(-1))
        head = bytes([self.block.bit_length() - 1, 0 if share else width])
        head += (share.to_bytes(2, "little") if share else b"") + seed.to_bytes(8, "little")
        packed = packing.pack(np.concatenate(codes), width) if codes else b""
        return head + b"".join(scale.tobytes() for scale in scales) + packed

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """Levels, rotated back, × the block's scale."""
        block, start = read_block(body, 0, SMALLEST_BLOCK, cls.name)
        width, start = body[1] if len(body) > 1 else 255, 2
        if width > 8:
            raise FormatError(f"eden: expected at most 8 bits, found {width}")
        share = 0
        if width == 0:
            width, start = 1, take(body, start, 2, cls.name)
            share = int.from_bytes(body[2:4], "little")
            if share == 0:
                raise FormatError("eden: expected a share of the values above zero")
        end = take(body, start, 8, cls.name)
        seed = int.from_bytes(body[start:end], "little")
        blocks = cut(layout.size, block, SMALLEST_BLOCK)
        count = sum(part.count for part in blocks)
        total = sum(part.count * _kept(part.size, share) for part in blocks)
        exactly(body, end + 4 * count + packing.packed_size(total, width), cls.name)
        scales = np.frombuffer(body, "<f4", count, end).astype(np.float32)
        if not np.isfinite(scales).all() or np.signbit(scales).any():
            raise FormatError("eden: a scale is negative or not finite")
        values = levels(width)[packing.unpack(body, end + 4 * count, total, width)]
        vector = np.zeros(blocks[-1].end if blocks else 0, np.float32)
        begin = 0
        for part in blocks:
            kept = _kept(part.size, share)
            rows = vector[part.start : part.end].reshape(part.count, part.size)
            rows[:, :kept] = values[begin : begin + part.count * kept].reshape(part.count, kept)
            begin += part.count * kept
        rotate_back(vector, blocks, seed, _rounds(share))
        each = np.repeat(scales, [part.size for part in blocks for _ in range(part.count)])
        with np.errstate(over="ignore"):
            vector *= each
        return split(saturated(vector), layout)


def _kept(size: int, share: int) -> int:
    """How many values of a block have a code."""
    return max(_FEWEST, -(-size * share // 65536)) if share else size


def _rounds(share: int) -> int:
    """Fewer codes than values need a rotation that is nearer to uniform, or sparse blocks leave a bias."""
    return 3 if share else 2


def _parts(blocks: Sequence[Blocks]) -> Iterator[Blocks]:
    """The blocks in order, some 2^18 values at a time."""
    for same in blocks:
        step = max(1, _PART // same.size)
        for first in range(0, same.count, step):
            start = same.start + first * same.size
            yield Blocks(start, same.size, min(step, same.count - first))


def _quantised(rows: Array, kept: int, table: Array) -> tuple[Array, Array]:
    """The scale of every row, and the codes of its first `kept` values."""
    energy = np.square(rows, dtype=np.float64).sum(axis=1)  # (blocks,)
    normal = np.sqrt(rows.shape[1] / np.where(energy > 0, energy, 1.0)).astype(np.float32)
    codes = nearest(rows[:, :kept] * normal[:, None], table)
    along = (rows[:, :kept].astype(np.float64) * table[codes]).sum(axis=1)
    zero = (energy == 0) | (along <= 0)
    return np.where(zero, 0.0, energy / np.where(zero, 1.0, along)), np.where(zero[:, None], 0, codes)


def _power(vector: Array) -> int:
    """By which power of two to multiply so that sums of squares and of values stay inside float32."""
    extent = float(np.abs(vector).max(initial=0.0))
    return -64 if extent >= 2.0**64 else 64 if 0.0 < extent < 2.0**-64 else 0

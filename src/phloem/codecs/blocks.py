"""Blocks of small integers with one scale each: `int8`, `int4` and `nf4`.

A block's scale is a bfloat16: its largest magnitude divided by the largest level, rounded up. Products of integer
and scale are therefore exact in float32. A scale below 2⁻¹²⁶ is sent as zero, and so are its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from phloem import varint
from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.casts import Halves, from_bf16, to_bf16
from phloem.codecs.config import FromConfig, check_whole
from phloem.codecs.split import exactly, join, split
from phloem.errors import FormatError
from phloem.kernels import packing
from phloem.kernels.lloydmax import nearest
from phloem.tensors import Array, Layout

LARGEST_BLOCK = 1 << 24

_SMALLEST_SCALE = np.float32(2.0**-126)
_LARGEST_SCALE_BITS = np.uint16(0x7C00)  # 2^121 · 1.0: 127 times it is still finite
#: What a block of 4-bit normal floats can say, in its scale. Source: Dettmers et al., QLoRA, 2023, appendix E.
_NORMAL_FLOATS = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


def rows_of(vector: Array, block: int) -> Array:
    """The vector as one row per block, the last one filled with zeros."""
    blocks = -(-vector.size // block)
    padded = np.zeros(blocks * block, np.float32)
    padded[: vector.size] = vector
    return padded.reshape(blocks, block)


def scales_for(magnitudes: Array, largest_bits: np.uint16 = _LARGEST_SCALE_BITS) -> Halves:
    """Magnitudes rounded up to bfloat16, at most `largest_bits`, zero below 2⁻¹²⁶."""
    halves = to_bf16(magnitudes)
    low = from_bf16(halves) < magnitudes
    halves = np.minimum(halves + low.astype(np.uint16), largest_bits)
    return np.where(from_bf16(halves) < _SMALLEST_SCALE, np.uint16(0), halves)


def in_scales(rows: Array, halves: Halves) -> Array:
    """Every value divided by its row's scale; zeros where that is zero."""
    safe = np.maximum(from_bf16(halves), _SMALLEST_SCALE)[:, None]
    scaled: Array = np.divide(rows, safe, dtype=np.float32)
    scaled[halves == 0] = 0.0
    return scaled


def read_scales(
    body: bytes, start: int, count: int, codec: str, largest_bits: np.uint16 = _LARGEST_SCALE_BITS
) -> Array:
    """`count` scales from the bytes at `start`, which are known to be there."""
    halves = np.frombuffer(body, "<u2", count, start).astype(np.uint16)
    if (halves > largest_bits).any():
        raise FormatError(f"{codec}: a block's scale is negative, infinite or too large")
    return from_bf16(halves)


def read_block(body: bytes, codec: str) -> tuple[int, int]:
    """The block size that a body begins with, and the position after it."""
    block, start = varint.unpack(body, 0)
    if not 1 <= block <= LARGEST_BLOCK:
        raise FormatError(f"{codec}: expected a block size from 1 to 2^24, found {block}")
    return block, start


def _encode(block: int, most: int, arrays: Sequence[Array]) -> tuple[bytes, Array]:
    """The block size and the scales as bytes, and the values in their scales, without padding."""
    vector = join(arrays)
    rows = rows_of(vector, block)  # (blocks, block)
    wanted = (np.abs(rows).max(axis=1, initial=0.0) / np.float32(most)).astype(np.float32)
    halves = scales_for(wanted)
    head = varint.pack(block) + halves.astype("<u2", copy=False).tobytes()
    return head, in_scales(rows, halves).reshape(-1)[: vector.size]


def _open(body: bytes, layout: Layout, width: int, codec: str) -> tuple[Array, int]:
    """The scale of every value, and where the integers begin."""
    block, start = read_block(body, codec)
    blocks = -(-layout.size // block)
    exactly(body, start + 2 * blocks + packing.packed_size(layout.size, width), codec)
    scales = read_scales(body, start, blocks, codec)
    return np.repeat(scales, min(block, layout.size))[: layout.size], start + 2 * blocks


@dataclass(frozen=True)
class Int8(FromConfig):
    """Blocks of 8-bit integers with one bfloat16 scale each: 8 + 16/block bits per parameter.

    The integers run from −127 to 127. Error bound: half the scale. Source: Dettmers et al., 8-bit optimizers via
    block-wise quantization, 2022, §2 (linear instead of dynamic levels).
    """

    block: int = 128

    name: ClassVar[str] = "int8"
    code: ClassVar[int] = 3
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("codec 'int8'", "block", self.block, 1, LARGEST_BLOCK)

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The block size, the scales, the integers."""
        head, scaled = _encode(self.block, 127, arrays)
        return head + np.clip(np.rint(scaled), -127, 127).astype(np.int8).tobytes()

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """Integer × scale of its block."""
        scales, start = _open(body, layout, 8, cls.name)
        integers = np.frombuffer(body, np.int8, layout.size, start)
        if (integers == -128).any():
            raise FormatError("int8: an integer is -128, which no encoder writes")
        return split(integers.astype(np.float32) * scales, layout)


@dataclass(frozen=True)
class Int4(FromConfig):
    """Blocks of 4-bit integers with one bfloat16 scale each: 4 + 16/block bits per parameter.

    The integers run from −7 to 7 and are packed two to a byte, plus 8. Error bound: half the scale. Source: as
    `int8`, at half its width.
    """

    block: int = 32

    name: ClassVar[str] = "int4"
    code: ClassVar[int] = 10
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("codec 'int4'", "block", self.block, 1, LARGEST_BLOCK)

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The block size, the scales, the integers plus 8."""
        head, scaled = _encode(self.block, 7, arrays)
        return head + packing.pack((np.clip(np.rint(scaled), -7, 7) + 8).astype(np.uint8), 4)

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """Integer × scale of its block."""
        scales, start = _open(body, layout, 4, cls.name)
        codes = packing.unpack(body, start, layout.size, 4)
        if (codes == 0).any():
            raise FormatError("int4: an integer is -8, which no encoder writes")
        return split((codes.astype(np.float32) - np.float32(8)) * scales, layout)


@dataclass(frozen=True)
class Nf4(FromConfig):
    """Blocks of 4-bit normal floats with one bfloat16 scale each: 4 + 16/block bits per parameter.

    Sixteen levels, denser near zero, as if the values of a block were normal. The decoder multiplies the level
    by the scale, one float32 product. Source: Dettmers et al., QLoRA, 2023, §3 and appendix E (levels).
    """

    block: int = 64

    name: ClassVar[str] = "nf4"
    code: ClassVar[int] = 21
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("codec 'nf4'", "block", self.block, 1, LARGEST_BLOCK)

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The block size, the scales, the nearest level's number for each value."""
        head, scaled = _encode(self.block, 1, arrays)
        return head + packing.pack(nearest(scaled, _NORMAL_FLOATS), 4)

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """Level × scale of its block."""
        scales, start = _open(body, layout, 4, cls.name)
        codes = packing.unpack(body, start, layout.size, 4)
        return split(_NORMAL_FLOATS[codes] * scales, layout)

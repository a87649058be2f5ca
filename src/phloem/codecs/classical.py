"""The field's simple codecs, by the names that people expect: block int8, top-k and sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from phloem import varint
from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.casts import from_bf16, to_bf16
from phloem.codecs.config import FromConfig, check_number
from phloem.codecs.split import exactly, join, require_finite, split
from phloem.errors import ConfigError, FormatError
from phloem.tensors import Array, Layout

_SMALLEST_SCALE = np.float32(2.0**-126)
_LARGEST_SCALE_BITS = np.uint16(0x7C00)  # 2^121 · 1.0: 127 times it is still finite


@dataclass(frozen=True)
class Int8(FromConfig):
    """Blocks of 8-bit integers with one bfloat16 scale each: 8 + 16/block bits per parameter.

    The scale is the block's largest magnitude ÷ 127, rounded up to bfloat16, so the product integer × scale is
    exact in float32 (7 + 8 significant bits). Error bound: half the scale. Source: Dettmers et al., 8-bit
    optimizers via block-wise quantization, 2022, §2 (linear instead of dynamic levels).
    """

    block: int = 128

    name: ClassVar[str] = "int8"
    code: ClassVar[int] = 3
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("codec 'int8'", "block", self.block, 1, 1 << 24)
        if not isinstance(self.block, int):
            raise ConfigError(f"codec 'int8': 'block' must be a whole number, found {self.block!r}")

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The block size, the scales, the integers."""
        vector = join(arrays)
        blocks = -(-vector.size // self.block)
        padded = np.zeros(blocks * self.block, np.float32)
        padded[: vector.size] = vector
        rows = padded.reshape(blocks, self.block)  # (blocks, block)
        wanted = (np.abs(rows).max(axis=1, initial=0.0) / np.float32(127)).astype(np.float32)
        halves = to_bf16(wanted)
        low = from_bf16(halves) < wanted
        halves = np.minimum(halves + low.astype(np.uint16), _LARGEST_SCALE_BITS)
        scales = from_bf16(halves)
        halves = np.where(scales < _SMALLEST_SCALE, np.uint16(0), halves)
        safe = np.maximum(scales, _SMALLEST_SCALE)[:, None]
        integers = np.clip(np.rint(rows / safe), -127, 127).astype(np.int8)
        integers[halves == 0] = 0
        return (
            varint.pack(self.block)
            + halves.astype("<u2", copy=False).tobytes()
            + integers.reshape(-1)[: vector.size].tobytes()
        )

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """Integer × scale of its block."""
        block, start = varint.unpack(body, 0)
        if not 1 <= block <= 1 << 24:
            raise FormatError(f"int8: expected a block size from 1 to 2^24, found {block}")
        blocks = -(-layout.size // block)
        exactly(body, start + 2 * blocks + layout.size, cls.name)
        halves = np.frombuffer(body, "<u2", blocks, start).astype(np.uint16)
        if (halves > _LARGEST_SCALE_BITS).any():
            raise FormatError("int8: a block's scale is negative, infinite or too large")
        integers = np.frombuffer(body, np.int8, layout.size, start + 2 * blocks)
        if (integers == -128).any():
            raise FormatError("int8: an integer is -128, which no encoder writes")
        scales = np.repeat(from_bf16(halves), block)[: layout.size]
        return split(integers.astype(np.float32) * scales, layout)


@dataclass(frozen=True)
class TopK(FromConfig):
    """The `fraction` of values with the largest magnitude, as float32 with 32-bit positions.

    64 bits per kept value. Ties go to the lower position. Source: Aji and Heafield, Sparse communication for
    distributed gradient descent, 2017; this is the plain form that frameworks ship.
    """

    fraction: float = 0.01

    name: ClassVar[str] = "topk"
    code: ClassVar[int] = 4
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("codec 'topk'", "fraction", self.fraction, 1e-9, 1.0)

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The number kept, their positions in order, their values."""
        vector = join(arrays)
        if vector.size >= 1 << 32:
            raise ConfigError("codec 'topk' reaches 2^32 parameters", hint="use 'ecsq'")
        count = min(vector.size, max(1, round(self.fraction * vector.size)))
        magnitudes = np.abs(vector)
        if count:
            threshold = np.partition(magnitudes, vector.size - count)[vector.size - count]
            above = np.flatnonzero(magnitudes > threshold)
            ties = np.flatnonzero(magnitudes == threshold)[: count - above.size]
            kept = np.sort(np.concatenate([above, ties]))
        else:
            kept = np.zeros(0, np.int64)
        body: bytes = varint.pack(count) + kept.astype("<u4").tobytes() + vector[kept].astype("<f4").tobytes()
        return body

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """Zeros, but for the values that were kept."""
        count, start = varint.unpack(body, 0)
        if count > layout.size:
            raise FormatError(f"topk: the frame claims {count} values of {layout.size}")
        exactly(body, start + 8 * count, cls.name)
        kept = np.frombuffer(body, "<u4", count, start).astype(np.int64)
        if count and (kept[-1] >= layout.size or (np.diff(kept) <= 0).any()):
            raise FormatError("topk: positions must rise and stay inside the layout")
        vector = np.zeros(layout.size, np.float32)
        vector[kept] = np.frombuffer(body, "<f4", count, start + 4 * count)
        return split(require_finite(vector, cls.name), layout)


@dataclass(frozen=True)
class Sign(FromConfig):
    """The sign of every value and the mean magnitude of its tensor: 1 bit per parameter.

    Zero counts as positive. Meant for use with error feedback. Source: Karimireddy et al., Error feedback fixes
    signSGD, 2019, Algorithm 1 with the scaled sign per tensor.
    """

    name: ClassVar[str] = "sign"
    code: ClassVar[int] = 5
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """One float32 scale per tensor, then the packed signs."""
        scales = [np.abs(array).mean(dtype=np.float64) if array.size else 0.0 for array in arrays]
        signs = np.packbits(np.signbit(join(arrays)) & (join(arrays) != 0), bitorder="little")
        return np.array(scales, "<f4").tobytes() + signs.tobytes()

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """Plus or minus the tensor's scale."""
        tensors = len(layout.specs)
        exactly(body, 4 * tensors + -(-layout.size // 8), cls.name)
        scales = np.frombuffer(body, "<f4", tensors)
        if not (np.isfinite(scales).all() and (scales >= 0).all() and not np.signbit(scales).any()):
            raise FormatError("sign: a tensor's scale is negative or not finite")
        packed = np.frombuffer(body, np.uint8, offset=4 * tensors)
        bits = np.unpackbits(packed, bitorder="little")
        if bits[layout.size :].any():
            raise FormatError("sign: padding bits must be zero")
        sizes = [spec.size for spec in layout.specs]
        vector = np.repeat(scales.astype(np.float32), sizes)
        return split(np.where(bits[: layout.size] == 1, -vector, vector).astype(np.float32), layout)

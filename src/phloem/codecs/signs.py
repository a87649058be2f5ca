"""One scale per tensor and next to nothing per value: `sign` and `ternary`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig
from phloem.codecs.split import exactly, join, split
from phloem.errors import FormatError
from phloem.kernels.streams import uniforms
from phloem.seeds import seed_for
from phloem.tensors import Array, Layout

_TRITS = 5  # in a byte: 3^5 = 243
_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


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
        scales = _read_scales(body, layout, cls.name)
        packed = np.frombuffer(body, np.uint8, offset=4 * tensors)
        bits = np.unpackbits(packed, bitorder="little")
        if bits[layout.size :].any():
            raise FormatError("sign: padding bits must be zero")
        return split(np.where(bits[: layout.size] == 1, -scales, scales).astype(np.float32), layout)


@dataclass(frozen=True)
class Ternary(FromConfig):
    """Minus, zero or plus the largest magnitude of the tensor, at random: 1.6 bits per parameter.

    A value x of a tensor with largest magnitude s becomes s · sign(x) with probability |x| ÷ s and zero
    otherwise, so the mean is x. Its error is large where a tensor has heavy tails. Five values share a byte.
    Source: Wen et al., TernGrad, 2017, §3.1, layer-wise scaling; without gradient clipping, which is biased.
    """

    name: ClassVar[str] = "ternary"
    code: ClassVar[int] = 12
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = False

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """One float32 scale per tensor, then 1 + sign in base 3, the first of five values the lowest digit."""
        vector = join(arrays)
        scales = np.array([np.abs(array).max(initial=0.0) for array in arrays], np.float32)
        each = np.repeat(scales, [spec.size for spec in layout.specs])
        chance = np.abs(vector) / np.where(each > 0, each, np.float32(1))
        kept = uniforms(seed_for(hints.seed, self.name), vector.size) < chance
        digits = np.zeros((-(-vector.size // _TRITS), _TRITS), np.uint8)
        digits.reshape(-1)[: vector.size] = 1 + np.sign(vector).astype(np.int8) * kept
        packed = (digits * _POWERS).sum(axis=1, dtype=np.uint8)
        return bytes(scales.astype("<f4", copy=False).tobytes() + packed.tobytes())

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """Minus, zero or plus the tensor's scale."""
        tensors = len(layout.specs)
        exactly(body, 4 * tensors + -(-layout.size // _TRITS), cls.name)
        scales = _read_scales(body, layout, cls.name)
        packed = np.frombuffer(body, np.uint8, offset=4 * tensors)
        if (packed > 242).any():
            raise FormatError("ternary: a byte holds more than five digits of base 3")
        digits = (packed[:, None] // _POWERS % np.uint8(3)).reshape(-1)
        if digits[layout.size :].any():
            raise FormatError("ternary: padding digits must be zero")
        return split((digits[: layout.size].astype(np.float32) - np.float32(1)) * scales, layout)


def _read_scales(body: bytes, layout: Layout, codec: str) -> Array:
    """The scale of every value: the first float32 of a body, one per tensor."""
    scales = np.frombuffer(body, "<f4", len(layout.specs))
    if not (np.isfinite(scales).all() and not np.signbit(scales).any()):
        raise FormatError(f"{codec}: a tensor's scale is negative or not finite")
    return np.repeat(scales.astype(np.float32), [spec.size for spec in layout.specs])

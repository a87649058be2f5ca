"""The casts: `none` sends float32 as it is, `bf16` keeps the upper half of every value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig
from phloem.codecs.split import exactly, join, require_finite, split
from phloem.tensors import Array, Layout

Halves = npt.NDArray[np.uint16]

_LARGEST_BF16 = np.uint16(0x7F7F)


@dataclass(frozen=True)
class NoCompression(FromConfig):
    """Every value as little-endian float32: 32 bits per parameter. Lossless.

    The honest worst case.
    """

    name: ClassVar[str] = "none"
    code: ClassVar[int] = 0
    lossless: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = True

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The values, in layout order."""
        return join(arrays).astype("<f4", copy=False).tobytes()

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """The values again, bit for bit."""
        exactly(body, 4 * layout.size, cls.name)
        vector = np.frombuffer(body, dtype="<f4").astype(np.float32)
        return split(require_finite(vector, cls.name), layout)


@dataclass(frozen=True)
class BFloat16(FromConfig):
    """Every value rounded to bfloat16, nearest even: 16 bits per parameter.

    Error bound: |error| ≤ 2⁻⁸ · |value| for normal values; magnitudes above bfloat16's largest are sent as the
    largest. Source: the rounding of IEEE 754-2019 §4.3.1 on the upper 16 bits of binary32.
    """

    name: ClassVar[str] = "bf16"
    code: ClassVar[int] = 2
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """Two bytes per value."""
        return to_bf16(join(arrays)).astype("<u2", copy=False).tobytes()

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """The rounded values as float32."""
        exactly(body, 2 * layout.size, cls.name)
        vector = from_bf16(np.frombuffer(body, dtype="<u2"))
        return split(require_finite(vector, cls.name), layout)


def to_bf16(values: Array) -> Halves:
    """The upper halves of float32 values, rounded to nearest even and never to infinity."""
    bits = values.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        np.uint16
    )
    sign = rounded & np.uint16(0x8000)
    halves: Halves = np.minimum(rounded & np.uint16(0x7FFF), _LARGEST_BF16) | sign
    return halves


def from_bf16(halves: Halves) -> Array:
    """bfloat16 values as float32."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)

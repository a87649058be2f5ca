"""`fp8`: 8-bit floats with one power of two per tensor or block.

Specification. `e4m3` has 4 exponent bits (bias 7), 3 fraction bits, no infinities, NaN only at 7F and FF, the largest
value 448; `e5m2` has 5 exponent bits (bias 15), 2 fraction bits, infinities and NaNs from 7C on, the largest value
57344. Source: Micikevicius et al., FP8 formats for deep learning, 2022, Table 1; OCP OFP8, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from phloem import varint
from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.blocks import LARGEST_BLOCK
from phloem.codecs.config import FromConfig, check_choice, check_whole
from phloem.codecs.split import exactly, join, saturated, split
from phloem.errors import FormatError
from phloem.tensors import Array, Layout

_BIAS_OF_SCALE = 127
_LOWEST, _HIGHEST = -126, 127  # powers of two that are normal float32 values


@dataclass(frozen=True)
class _Format:
    number: int
    fraction: int  # bits
    bias: int
    largest_code: int

    def values(self) -> Array:
        """The values of the codes from 0 to the largest."""
        codes = np.arange(self.largest_code + 1)
        exponent, fraction = codes >> self.fraction, codes & (1 << self.fraction) - 1
        whole = np.where(exponent > 0, fraction + (1 << self.fraction), fraction)
        powers = np.maximum(exponent, 1) - self.bias - self.fraction
        magnitudes: Array = np.ldexp(whole.astype(np.float32), powers).astype(np.float32)
        return magnitudes

    def codes(self, values: Array) -> npt.NDArray[np.uint8]:
        """The nearest codes of float32 values, to even between two, never beyond the largest."""
        magnitude = np.abs(values)
        bits = magnitude.view(np.uint32)
        dropped = np.uint32(23 - self.fraction)
        half = np.uint32((1 << 22 - self.fraction) - 1)
        rounded = bits + half + (bits >> dropped & np.uint32(1)) >> dropped
        normal = rounded.astype(np.int64) - (127 - self.bias << self.fraction)
        unit = np.float32(2.0 ** (self.bias - 1 + self.fraction))
        with np.errstate(over="ignore"):
            below = np.rint(np.minimum(magnitude * unit, np.float32(255)))
        is_normal = magnitude >= np.float32(2.0 ** (1 - self.bias))
        codes = np.minimum(np.where(is_normal, normal, below), self.largest_code).astype(np.uint8)
        return codes | (np.signbit(values).astype(np.uint8) << np.uint8(7))


_FORMATS = {"e4m3": _Format(0, 3, 7, 0x7E), "e5m2": _Format(1, 2, 15, 0x7B)}
_BY_NUMBER = {known.number: known for known in _FORMATS.values()}


@dataclass(frozen=True)
class Float8(FromConfig):
    """Every value as an 8-bit float times its tensor's or block's power of two: 8 bits per parameter and a little.

    The power of two is the smallest that keeps the largest magnitude inside the format. Error bound: 2⁻⁴ (e4m3) or
    2⁻³ (e5m2) of a value, or 2⁻¹⁸ (e4m3) or 2⁻³² (e5m2) of the largest magnitude, whichever is more,
    where the largest is at least 2⁻¹⁰⁰.

    Args:
        format: "e4m3" or "e5m2".
        block: values that share a power of two; 0 for one per tensor.
    """

    format: Literal["e4m3", "e5m2"] = "e4m3"
    block: int = 0

    name: ClassVar[str] = "fp8"
    code: ClassVar[int] = 9
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("codec 'fp8'", "format", self.format, tuple(_FORMATS))
        check_whole("codec 'fp8'", "block", self.block, 0, LARGEST_BLOCK)

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The format, the block size, the exponents plus 127, the codes."""
        chosen = _FORMATS[self.format]
        vector, sizes = join(arrays), _sizes(layout, self.block)
        starts = np.cumsum(sizes) - sizes
        largest = np.zeros(sizes.size, np.float32)
        filled = np.flatnonzero(sizes)
        if filled.size:
            largest[filled] = np.maximum.reduceat(np.abs(vector), starts[filled])
        # x = m · 2^e with ½ ≤ m < 1, so the smallest k with x ≤ most · 2^k is the e's difference or one more
        part, power = np.frexp(largest)
        most_part, most_power = np.frexp(chosen.values()[-1])
        exponents = np.clip(power - most_power + (part > most_part), _LOWEST, _HIGHEST).astype(np.int64)
        inverse = np.ldexp(np.float32(1), -np.repeat(exponents, sizes)).astype(np.float32)
        codes = chosen.codes(vector * inverse)
        head = bytes([chosen.number]) + varint.pack(self.block)
        return bytes(head + (exponents + _BIAS_OF_SCALE).astype(np.uint8).tobytes() + codes.tobytes())

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """8-bit float × power of two; products beyond float32 become its largest value."""
        if not body or body[0] not in _BY_NUMBER:
            raise FormatError("fp8: the format is neither e4m3 nor e5m2")
        block, start = varint.unpack(body, 1)
        if block > LARGEST_BLOCK:
            raise FormatError(f"fp8: expected a block size up to 2^24, found {block}")
        count = -(-layout.size // block) if block else len(layout.specs)
        exactly(body, start + count + layout.size, cls.name)
        exponents = np.frombuffer(body, np.uint8, count, start).astype(np.int64) - _BIAS_OF_SCALE
        if ((exponents < _LOWEST) | (exponents > _HIGHEST)).any():
            raise FormatError("fp8: a power of two is not a normal float32 value")
        codes = np.frombuffer(body, np.uint8, layout.size, start + count)
        magnitudes = _BY_NUMBER[body[0]].values()
        table = np.concatenate([magnitudes, np.full(128 - magnitudes.size, np.nan, np.float32)])
        values = np.concatenate([table, -table])[codes]
        if np.isnan(values).any():
            raise FormatError("fp8: the frame carries NaN or infinity")
        powers = np.ldexp(np.float32(1), exponents).astype(np.float32)
        with np.errstate(over="ignore"):
            return split(saturated(values * np.repeat(powers, _sizes(layout, block))), layout)


def _sizes(layout: Layout, block: int) -> npt.NDArray[np.int64]:
    """How many values share each power of two."""
    if not block:
        return np.array([spec.size for spec in layout.specs], np.int64)
    sizes = np.full(-(-layout.size // block), block, np.int64)
    if layout.size % block:
        sizes[-1] = layout.size % block
    return sizes

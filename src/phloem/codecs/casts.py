"""The casts: `none` sends float32 as it is, `bf16` and `fp16` 16 bits of every value.

They go through an update in runs of values, so that besides it and its frame they need next to no memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig
from phloem.codecs.split import exactly, require_finite
from phloem.errors import FormatError
from phloem.tensors import Array, Layout

Halves = npt.NDArray[np.uint16]
Numbers = npt.NDArray[Any]

RUN = 1 << 16
"""Values that are cast at a time: they and what is made of them fit into a core's second cache."""

_LARGEST_BF16 = np.uint16(0x7F7F)
_LARGEST_FP16 = np.float32(65504)


class Cast(FromConfig):
    """A codec that gives every value so many bytes, whatever the others are."""

    name: ClassVar[str]
    wire: ClassVar[np.dtype[Any]]

    @staticmethod
    def narrowed(values: Array) -> Numbers:
        """float32 values as they travel."""
        raise NotImplementedError

    @staticmethod
    def widened(numbers: Numbers) -> Array:
        """What travelled as float32 values."""
        raise NotImplementedError

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The values, in layout order."""
        return b"".join(self.runs(arrays))

    def runs(self, arrays: Sequence[Array]) -> Iterator[memoryview]:
        """The body, run by run."""
        for array in arrays:
            values = np.ascontiguousarray(array, np.float32).reshape(-1)
            for at in range(0, values.size, RUN):
                narrow = self.narrowed(values[at : at + RUN]).astype(self.wire, copy=False)
                yield narrow.view(np.uint8).data

    @classmethod
    def decode(cls, body: bytes | memoryview, layout: Layout, held: Held = None) -> list[Array]:
        """The values as float32: those of `none` bit for bit."""
        exactly(
            body, cls.wire.itemsize * layout.size, cls.name
        )  # before there is memory for a layout that lies
        arrays = [np.empty(spec.shape, np.float32) for spec in layout.specs]
        for target, values in cls._opened(body, layout, arrays):
            target[:] = require_finite(values, cls.name)
        return arrays

    @classmethod
    def apply(
        cls,
        body: bytes | memoryview,
        layout: Layout,
        arrays: Sequence[Array],
        by: Callable[..., Any],
    ) -> None:
        """`by` (np.add, np.subtract) of every value in place of `arrays`, which are contiguous.

        Raises:
            FormatError: as `decode`; the arrays are as before.
        """
        for _, values in cls._opened(body, layout, arrays):
            require_finite(values, cls.name)
        for target, values in cls._opened(body, layout, arrays):
            by(target, values, out=target)

    @classmethod
    def _opened(
        cls, body: bytes | memoryview, layout: Layout, arrays: Sequence[Array]
    ) -> Iterator[tuple[Array, Array]]:
        """Runs of the arrays with the values of the body that belong there."""
        exactly(body, cls.wire.itemsize * layout.size, cls.name)
        numbers, start = np.frombuffer(body, cls.wire), 0
        for flat in _flat(arrays):
            for at in range(0, flat.size, RUN):
                target = flat[at : at + RUN]
                yield target, cls.widened(numbers[start : start + target.size])
                start += target.size


@dataclass(frozen=True)
class NoCompression(Cast):
    """Every value as little-endian float32: 32 bits per parameter. Lossless.

    The honest worst case.
    """

    name: ClassVar[str] = "none"
    code: ClassVar[int] = 0
    lossless: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = True
    wire: ClassVar[np.dtype[Any]] = np.dtype("<f4")

    @staticmethod
    def narrowed(values: Array) -> Numbers:
        """The values."""
        return values

    @staticmethod
    def widened(numbers: Numbers) -> Array:
        """The values."""
        return numbers.astype(np.float32, copy=False)

    @classmethod
    def sum_bodies(cls, bodies: Sequence[bytes], layout: Layout) -> bytes:
        """The body of the sum, float32 addition in the order of the bodies."""
        for body in bodies:
            exactly(body, 4 * layout.size, cls.name)
        parts = [np.frombuffer(body, "<f4").astype(np.float32) for body in bodies]
        total: Array = functools.reduce(np.add, parts)
        return total.astype("<f4", copy=False).tobytes()


@dataclass(frozen=True)
class BFloat16(Cast):
    """Every value rounded to bfloat16, nearest even: 16 bits per parameter.

    Error bound: |error| ≤ 2⁻⁸ · |value| for normal values; magnitudes above bfloat16's largest are sent as the
    largest. Source: the rounding of IEEE 754-2019 §4.3.1 on the upper 16 bits of binary32.
    """

    name: ClassVar[str] = "bf16"
    code: ClassVar[int] = 2
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False
    wire: ClassVar[np.dtype[Any]] = np.dtype("<u2")

    @staticmethod
    def narrowed(values: Array) -> Numbers:
        """Two bytes per value."""
        return to_bf16(values)

    @staticmethod
    def widened(numbers: Numbers) -> Array:
        """The rounded values."""
        return from_bf16(numbers)


@dataclass(frozen=True)
class Float16(Cast):
    """Every value rounded to IEEE binary16, nearest even: 16 bits per parameter.

    Magnitudes above 65504 are sent as 65504, and those below 2⁻²⁵ as zero: gradients are often that small, so
    `bf16` is the safer cast. Error bound: |error| ≤ 2⁻¹¹ · |value| from 2⁻¹⁴ to 65504, ≤ 2⁻²⁵ below. Source: IEEE
    754-2019 §3.6 and §4.3.1.
    """

    name: ClassVar[str] = "fp16"
    code: ClassVar[int] = 8
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False
    wire: ClassVar[np.dtype[Any]] = np.dtype("<f2")

    @staticmethod
    def narrowed(values: Array) -> Numbers:
        """Two bytes per value."""
        return np.clip(values, -_LARGEST_FP16, _LARGEST_FP16).astype("<f2")

    @staticmethod
    def widened(numbers: Numbers) -> Array:
        """The rounded values."""
        return numbers.astype(np.float32)


def _flat(arrays: Sequence[Array]) -> Iterator[Array]:
    """Views of contiguous arrays as vectors.

    Raises:
        FormatError: one has gaps.
    """
    for array in arrays:
        if not array.flags.c_contiguous:
            raise FormatError("expected contiguous arrays, found a view with gaps")
        yield array.reshape(-1)


def to_bf16(values: Array) -> Halves:
    """The upper halves of float32 values, rounded to nearest even and never to infinity."""
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    odd += np.uint32(0x7FFF)
    odd += bits
    halves: Halves = (odd >> np.uint32(16)).astype(np.uint16)
    sign = halves & np.uint16(0x8000)
    halves &= np.uint16(0x7FFF)
    np.minimum(halves, _LARGEST_BF16, out=halves)
    halves |= sign
    return halves


def from_bf16(halves: Halves) -> Array:
    """bfloat16 values as float32."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)

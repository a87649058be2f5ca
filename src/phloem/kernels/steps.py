"""Quantiser steps: twelve significant bits, so that a step times a small integer is exact in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from phloem.errors import ConfigError, FormatError
from phloem.kernels.tables import MAGNITUDE_HIGHEST

#: A flag: every tensor is zero, and the body ends after the step.
FLAG_ALL_ZERO = 1
#: A flag: tensors have steps of their own, given by their importances.
FLAG_IMPORTANCE = 2
#: Flags of the model (`efforts`): `balanced`, `best`, and `best` with an update that both ends hold.
FLAG_BALANCED, FLAG_BEST, FLAG_HELD = 4, 8, 12
MODEL_FLAGS = 12
#: A flag, with a model's only: the quantiser is dependent (`trellis`), and the step is that of its grid.
FLAG_DEPENDENT = 16
#: An importance in quarters of an octave of the step is at most this, up or down.
IMPORTANCE_REACH = 128
#: A body begins with its step and flags.
STEP_BYTES = 3

_HINT = "The frame is cut short, altered, or meant for another model."
_FLOAT32_MOST = (2.0 - 2.0**-23) * 2.0**127
_EXPONENT_LOWEST, _EXPONENT_HIGHEST = -124, 125
#: 2**(0/4) ... 2**(3/4) in 65,536ths.
_QUARTERS = (65536, 77936, 92682, 110218)


@dataclass(frozen=True)
class Step:
    """A step `significand * 2**(exponent - 11)`, from 2**-124 to just below 2**126.

    Below 2**-124 a subnormal input could round to something else than zero, and results would depend on
    whether the processor flushes subnormals.

    >>> Step.near(0.1).value
    0.100006103515625
    """

    significand: int
    exponent: int

    def __post_init__(self) -> None:
        if not (2048 <= self.significand < 4096 and _EXPONENT_LOWEST <= self.exponent <= _EXPONENT_HIGHEST):
            raise ConfigError(
                f"A step of {self.significand} * 2**{self.exponent - 11} is out of range.",
                hint="use a step from 2**-124 to 2**125",
            )

    @classmethod
    def near(cls, value: float) -> Step:
        """The nearest step, clipped to the range."""
        fraction, exponent = math.frexp(min(max(value, 2.0**_EXPONENT_LOWEST), 2.0**_EXPONENT_HIGHEST))
        significand = round(fraction * 4096.0)
        if significand == 4096:
            significand, exponent = 2048, exponent + 1
        return cls(significand, exponent - 1)

    @cached_property
    def value(self) -> float:
        """The step as a number."""
        return math.ldexp(float(self.significand), self.exponent - 11)

    @property
    def magnitude_highest(self) -> int:
        """The largest integer that this step may be multiplied by: below 2**24, and finite in float32."""
        return min(MAGNITUDE_HIGHEST, math.floor(_FLOAT32_MOST / self.value))

    def finer(self, quarters: int) -> Step:
        """The step divided by 2**(quarters / 4), by integer arithmetic to a twelve-bit significand.

        >>> Step.near(1.0).finer(4).value, Step.near(1.0).finer(-2).value
        (0.5, 1.4140625)
        """
        octaves, rest = divmod(-quarters, 4)
        significand = (self.significand * _QUARTERS[rest] + 32768) >> 16
        exponent = self.exponent + octaves
        if significand >= 4096:
            significand, exponent = (significand + 1) >> 1, exponent + 1
        return Step(significand, exponent)

    def fitted(self, extent: float) -> Step:
        """The nearest step not below this one that codes magnitudes up to `extent` exactly.

        An integer with b bits times a significand with 24 - b bits is exact, so a large extent costs the step
        some of its twelve bits; beyond 2**23 steps it must grow.
        """
        step = self
        for keep in range(12, 0, -1):
            unit = 1 << (12 - keep)
            step = Step._from(-(-step.significand // unit) * unit, step.exponent)
            if math.floor(extent / step.value + 1.0).bit_length() + keep <= 24:
                return step
        fraction, exponent = math.frexp(extent)
        return Step(2048, exponent - 23 if fraction < 1.0 - 2.0**-23 else exponent - 22)

    @classmethod
    def _from(cls, significand: int, exponent: int) -> Step:
        return cls(2048, exponent + 1) if significand == 4096 else cls(significand, exponent)

    def pack(self, flags: int) -> bytes:
        """Three bytes: eight bits of exponent, eleven of fraction, five flags; big-endian.

        >>> Step.near(1.0).pack(1).hex()
        '7f0001'
        """
        return ((self.exponent + 127) << 16 | (self.significand - 2048) << 5 | flags).to_bytes(3, "big")


def steps_of(step: Step, importances: Sequence[int], tensors: int) -> tuple[list[Step], int]:
    """Every tensor's step, and the highest magnitude that all of them may be multiplied by.

    Raises:
        ConfigError: a step out of range.
    """
    steps = [step.finer(quarters) for quarters in importances] if importances else [step] * tensors
    return steps, min((one.magnitude_highest for one in steps), default=MAGNITUDE_HIGHEST)


def read_head(data: bytes) -> tuple[Step, int]:
    """The step that a body begins with, and its flags.

    Raises:
        FormatError: too short, a step out of range, unknown flags, or bytes after an all-zero body.
    """
    if len(data) < STEP_BYTES:
        raise FormatError(f"A body of {len(data)} bytes is too short to hold a step.", hint=_HINT)
    number = int.from_bytes(data[:STEP_BYTES], "big")
    try:
        step = Step(2048 + (number >> 5 & 2047), (number >> 16) - 127)
    except ConfigError as error:
        raise FormatError(error.message, hint=_HINT) from None
    flags = number & 31
    if (flags & FLAG_ALL_ZERO and flags != FLAG_ALL_ZERO) or (
        flags & FLAG_DEPENDENT and not flags & MODEL_FLAGS
    ):
        raise FormatError(f"The body has unknown flags {flags:#x}.", hint=_HINT)
    if flags == FLAG_ALL_ZERO and len(data) != STEP_BYTES:
        raise FormatError(f"{len(data) - STEP_BYTES} bytes follow an all-zero body.", hint=_HINT)
    return step, flags

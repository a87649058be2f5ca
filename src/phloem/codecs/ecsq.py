"""`ecsq`: entropy-coded dead-zone quantisation with scale classes; one knob, the step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig, check_number
from phloem.codecs.ratecontrol import Goal, Model, Trial, find
from phloem.errors import ConfigError
from phloem.kernels import Step, backend
from phloem.kernels.steps import STEP_BYTES, read_head
from phloem.tensors import Array, Layout

Body = bytes  # inside the class that word is a field

#: A frame of fewer bytes carries nothing but overhead; smaller targets are raised to this.
_SMALLEST_TARGET = 24.0
#: So many bytes are little, whatever the target.
_FEW_BYTES = 64
#: Above this many bits per parameter targets are met within 2 %, below within 5 %.
_FINE_FROM = 0.25


@dataclass(frozen=True)
class Ecsq(FromConfig):
    """Entropy-coded dead-zone quantisation; give exactly one of the four qualities.

    Args:
        bits: wire bits per parameter of the body, met within 2 % from 0.25 bit up and about 5 % below,
            where the size does not jump; a target below 24 bytes is raised to that, or small models would
            never speak.
        bytes: the most bytes that the body may take, never exceeded; `wire.frame.pack` takes its own bytes off
            first, so there it is the frame that fits. As near below as `bits` comes.
        step: the quantiser step; it is rounded to at most twelve significant bits.
        nmse: squared error divided by the update's energy, met within 2 %.
        effort: how hard the encoder works; version 0 has `fast`.

    Error bound: at most 1.6 steps per value (the step that the body names, see `last_step`).

    >>> import numpy as np
    >>> layout = Layout.of({"w": np.zeros(1000)})
    >>> codec = Ecsq(bits=1.0)
    >>> body = codec.encode([np.linspace(-1, 1, 1000, dtype=np.float32)], layout)
    >>> codec.decode(body, layout)[0].shape
    (1000,)
    """

    bits: float | None = None
    bytes: int | None = None
    step: float | None = None
    nmse: float | None = None
    effort: Literal["fast"] = "fast"

    name: ClassVar[str] = "ecsq"
    code: ClassVar[int] = 1
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        given = [key for key in ("bits", "bytes", "step", "nmse") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(f"'{key}'" for key in given) or "none"
            raise ConfigError(
                f"codec 'ecsq' needs exactly one of 'bits', 'bytes', 'step' and 'nmse', found {found}",
                hint="'bits' is wire bits per parameter, for example bits = 0.05",
            )
        ranges = {
            "bits": (1e-6, 24.0),
            "bytes": (STEP_BYTES, 2.0**53),
            "step": (2.0**-124, 2.0**125),
            "nmse": (1e-12, 1.0),
        }
        low, high = ranges[given[0]]
        check_number("codec 'ecsq'", given[0], getattr(self, given[0]), low, high)
        if self.bytes is not None and not isinstance(self.bytes, int):
            raise ConfigError(f"codec 'ecsq': 'bytes' must be a whole number, found {self.bytes!r}")
        if self.effort != "fast":
            raise ConfigError(f"codec 'ecsq' has no effort {self.effort!r}", hint="version 0 has 'fast'")

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> Body:
        """The body of these tensors; the hint `guess`, the step of a similar update, saves encodes.

        Raises:
            ConfigError: a tensor has a NaN or an infinity.
        """
        kernels = backend()
        guess = hints.guess
        extent, broken = kernels.ecsq_extent(arrays)
        if broken >= 0:
            raise ConfigError(
                f"tensor '{layout.specs[broken].name}' holds a NaN or an infinity",
                hint="check the learning rate; nothing was encoded",
            )
        if extent == 0.0:
            return kernels.ecsq_encode(arrays, Step.near(self.step or guess or 1.0))
        if self.step is not None:
            return kernels.ecsq_encode(arrays, Step.near(self.step).fitted(extent))
        if guess is not None and not extent * 2.0**-25 < guess < extent * 4.0:
            guess = None  # nothing like this update
        if self.nmse is not None:
            return self._meet_error(arrays, layout, extent, guess, self.nmse)
        return self._meet_size(arrays, layout, extent, guess)

    def _meet_size(self, arrays: Sequence[Array], layout: Layout, extent: float, guess: float | None) -> Body:
        target = float(self.bytes or max((self.bits or 0.0) * layout.size / 8.0, _SMALLEST_TARGET))
        rate = 8.0 * target / layout.size
        tolerance = max(0.015 if rate >= _FINE_FROM else 0.04, 1.5 / target)
        kernels = backend()

        def attempt(part: Sequence[Array], step: Step) -> Trial:
            fitted = step.fitted(extent)
            body = kernels.ecsq_encode(part, fitted)
            share = sum(array.size for array in part) / layout.size
            return Trial(fitted, body, math.log(len(body) / share))

        # d ln(size) / d log2(step): a bit per parameter at high rates, steeper as coefficients die out
        slope = -1.0 / rate if rate >= 1.0 else -1.0 - 0.35 * math.log2(1.0 / rate)
        jump = max(0.1, math.log1p(_FEW_BYTES / target))
        goal = Goal(math.log(target), tolerance, slope, jump, excess=4.0, ceiling=self.bytes is not None)
        found = find(attempt, arrays, goal, rate, guess, lambda: Model(arrays).step_for_bits(rate))
        step = found.step
        while self.bytes is not None and len(found.body) > self.bytes:
            step = Step.near(min(step.value * (1.0 + 2.0 * tolerance), 2.0 * extent))
            found = attempt(arrays, step)
        return found.body

    def _meet_error(
        self, arrays: Sequence[Array], layout: Layout, extent: float, guess: float | None, nmse: float
    ) -> Body:
        kernels = backend()
        target = min(nmse, 0.999)

        def attempt(part: Sequence[Array], step: Step) -> Trial:
            fitted = step.fitted(extent)
            body = kernels.ecsq_encode(part, fitted)
            decoded = kernels.ecsq_decode(body, [array.shape for array in part])
            share = kernels.ecsq_energy(part, decoded) / max(kernels.ecsq_energy(part), 1e-300)
            return Trial(fitted, body, math.log(max(share, 1e-300)) - math.log(max(1.0 - share, 1e-9)))

        goal = Goal(math.log(target) - math.log(1.0 - target), 0.012, 1.4)
        bits = 0.5 * math.log2(1.0 / target)
        return find(attempt, arrays, goal, bits, guess, lambda: Model(arrays).step_for_error(target)).body

    @classmethod
    def decode(cls, body: Body, layout: Layout, held: Held = None) -> list[Array]:
        """The tensors of a body.

        Raises:
            FormatError: the bytes are not a body for this layout, to the last bit.
        """
        return backend().ecsq_decode(body, [spec.shape for spec in layout.specs])

    def within(self, size_bytes: int) -> Ecsq:
        """The same codec with another bound on the body's size.

        Raises:
            ConfigError: no body is so small.
        """
        if size_bytes < STEP_BYTES:
            raise ConfigError(
                f"codec 'ecsq': {self.bytes} bytes are too few: a frame with nothing in it takes "
                f"{(self.bytes or 0) - size_bytes + STEP_BYTES}",
                hint="a frame that carries its layout needs room for that as well",
            )
        return dataclasses.replace(self, bytes=size_bytes)

    @staticmethod
    def last_step(body: Body) -> float:
        """The step of a body: the next update's `guess`.

        Raises:
            FormatError: the body does not begin with a step.
        """
        return read_head(body)[0].value

    @staticmethod
    def maximum_bytes(layout: Layout) -> int:
        """More than any body of this layout can take: 80 bits per parameter and 64 KiB."""
        return 10 * layout.size + 65_536

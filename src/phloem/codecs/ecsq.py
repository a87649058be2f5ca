"""`ecsq`: entropy-coded dead-zone quantisation with scale classes; one knob, the step."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig, check_number
from phloem.codecs.ratecontrol import Sample, Trial, search
from phloem.errors import ConfigError
from phloem.kernels import Step, backend, efforts
from phloem.kernels.steps import read_head
from phloem.tensors import Array, Layout

_log = logging.getLogger(__name__)

#: A frame of fewer bytes carries nothing but overhead; smaller targets are raised to this.
_SMALLEST_TARGET = 24.0
#: Above this many bits per parameter targets are met within 2 %, below within 5 %.
_FINE_FROM = 0.25


@dataclass(frozen=True)
class Ecsq(FromConfig):
    """Entropy-coded dead-zone quantisation; give exactly one of the three.

    Args:
        bits: wire bits per parameter of the body, met within 2 % from 0.25 bit up and about 5 % below,
            where the size does not jump; a target below 24 bytes is raised to that, or small models would
            never speak.
        step: the quantiser step; it is rounded to at most twelve significant bits.
        nmse: squared error divided by the update's energy, met within 2 %.
        effort: how hard the encoder works: `fast`, at memory speed; `balanced`, with probabilities that adapt;
            `best`, with several contexts mixed, which alone makes use of the hint `held`.

    Error bound: at most 1.6 steps per value with `fast` (the step that the body names, see `last_step`), at most 3
    with the others.

    >>> import numpy as np
    >>> layout = Layout.of({"w": np.zeros(1000)})
    >>> codec = Ecsq(bits=1.0)
    >>> body = codec.encode([np.linspace(-1, 1, 1000, dtype=np.float32)], layout)
    >>> codec.decode(body, layout)[0].shape
    (1000,)
    """

    bits: float | None = None
    step: float | None = None
    nmse: float | None = None
    effort: Literal["fast", "balanced", "best"] = "fast"

    name: ClassVar[str] = "ecsq"
    code: ClassVar[int] = 1
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        given = [key for key in ("bits", "step", "nmse") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(f"'{key}'" for key in given) or "none"
            raise ConfigError(
                f"codec 'ecsq' needs exactly one of 'bits', 'step' and 'nmse', found {found}",
                hint="'bits' is wire bits per parameter, for example bits = 0.05",
            )
        ranges = {"bits": (1e-6, 24.0), "step": (2.0**-124, 2.0**125), "nmse": (1e-12, 1.0)}
        low, high = ranges[given[0]]
        check_number("codec 'ecsq'", given[0], getattr(self, given[0]), low, high)
        if self.effort not in ("fast", "balanced", "best"):
            raise ConfigError(
                f"codec 'ecsq' has no effort {self.effort!r}", hint="known: 'fast', 'balanced', 'best'"
            )

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
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
        if self.effort == "best" and kernels.NAME == "reference":
            _log.warning("effort 'best' without native kernels takes minutes per million parameters")
        held = hints.held if self.effort == "best" else None
        if self.step is not None:
            return self._body(arrays, Step.near(self.step).fitted(extent), held)
        if guess is not None and not 0.0 < guess < math.inf:
            guess = None
        if self.nmse is not None:
            return self._meet_error(arrays, layout, extent, guess, self.nmse, held)
        return self._meet_size(arrays, layout, extent, guess, held)

    def _body(self, arrays: Sequence[Array], step: Step, held: Held) -> bytes:
        if self.effort == "fast":
            return backend().ecsq_encode(arrays, step)
        return efforts.encode(backend(), arrays, step, self.effort, held=held)

    def _meet_size(
        self, arrays: Sequence[Array], layout: Layout, extent: float, guess: float | None, held: Held
    ) -> bytes:
        assert self.bits is not None
        target = max(self.bits * layout.size / 8.0, _SMALLEST_TARGET)
        rate = 8.0 * target / layout.size
        tolerance = max(0.015 if rate >= _FINE_FROM else 0.04, 1.5 / target)

        def attempt(step: Step) -> Trial:
            fitted = step.fitted(extent)
            body = self._body(arrays, fitted, held)
            return Trial(fitted, body, math.log(len(body)))

        # d ln(size) / d log2(step): a bit per parameter at high rates, steeper as coefficients die out
        slope = -1.0 / rate if rate >= 1.0 else -1.0 - 0.35 * math.log2(1.0 / rate)
        found = search(
            attempt,
            guess,
            lambda: Sample(arrays).step_for_bits(rate),
            math.log(target),
            slope,
            tolerance,
            excess=4.0,
        )
        return found.body

    def _meet_error(
        self,
        arrays: Sequence[Array],
        layout: Layout,
        extent: float,
        guess: float | None,
        nmse: float,
        held: Held,
    ) -> bytes:
        kernels = backend()
        energy = kernels.ecsq_energy(arrays)
        shapes = [spec.shape for spec in layout.specs]
        target = min(nmse, 0.999)

        def attempt(step: Step) -> Trial:
            fitted = step.fitted(extent)
            body = self._body(arrays, fitted, held)
            share = kernels.ecsq_energy(arrays, kernels.ecsq_decode(body, shapes, held)) / energy
            return Trial(fitted, body, math.log(max(share, 1e-300)) - math.log(max(1.0 - share, 1e-9)))

        goal = math.log(target) - math.log(1.0 - target)
        return search(attempt, guess, lambda: Sample(arrays).step_for_error(target), goal, 1.4, 0.012).body

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """The tensors of a body.

        Raises:
            FormatError: the bytes are not a body for this layout, to the last bit.
        """
        return backend().ecsq_decode(body, [spec.shape for spec in layout.specs], held)

    @staticmethod
    def last_step(body: bytes) -> float:
        """The step of a body: the next update's `guess`.

        Raises:
            FormatError: the body does not begin with a step.
        """
        return read_head(body)[0].value

    @staticmethod
    def maximum_bytes(layout: Layout) -> int:
        """More than any body of this layout can take: 80 bits per parameter and 64 KiB."""
        return 10 * layout.size + 65_536

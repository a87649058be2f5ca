"""`ecsq`: entropy-coded dead-zone quantisation with scale classes; one knob, the step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, get_args

from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig, check_number
from phloem.codecs.ratecontrol import Sample, Trial, search
from phloem.errors import ConfigError
from phloem.kernels import Put, Step, backend, efforts
from phloem.kernels.steps import FLAG_DEPENDENT, IMPORTANCE_REACH, read_head
from phloem.kernels.trellis import WEIGHT_SPARSE
from phloem.tensors import Array, Layout

Effort = Literal["fast", "balanced", "best"]

#: The grid step of the dependent quantiser that `best` uses, in steps: it takes about as many bits as a scalar
#: quantiser of one step.
_GRID = 0.6

_log = logging.getLogger(__name__)

#: A frame of fewer bytes carries nothing but overhead; smaller targets are raised to this.
_SMALLEST_TARGET = 24.0
#: Above this many bits per parameter targets are met within 2 %, below within 5 %.
_FINE_FROM = 0.25
#: From this many bits per parameter a sender finds its residual faster by quantising again than by decoding.
_QUANTISE_AGAIN_FROM = 0.1


@dataclass(frozen=True)
class _Encode:
    """Encodes of one update at any step: the step is fitted to the largest magnitude."""

    arrays: Sequence[Array]
    extent: float
    importances: Sequence[int]
    effort: Effort
    held: Held

    def body(self, step: Step) -> tuple[Step, bytes]:
        """The fitted step and the body."""
        finest = 2.0 ** (max(self.importances, default=0) / 4.0)
        extent = self.extent * max(1.0, 1.001 * finest) if self.importances else self.extent
        if self.effort == "best":
            grid = Step.near(_GRID * step.value).fitted(extent)
            body = efforts.encode(
                backend(),
                self.arrays,
                grid,
                "best",
                importances=self.importances,
                held=self.held,
                weight=WEIGHT_SPARSE,
            )
            return Step.near(grid.value / _GRID), body
        fitted = step.fitted(extent)
        if self.effort == "fast":
            return fitted, backend().ecsq_encode(self.arrays, fitted, self.importances)
        return fitted, efforts.encode(
            backend(), self.arrays, fitted, self.effort, importances=self.importances
        )


def _weights(importance: Mapping[str, float] | None, layout: Layout) -> list[float] | None:
    """The weight of every tensor, or None where there are no importances."""
    if not importance:
        return None
    return [
        math.prod(weight for pattern, weight in sorted(importance.items()) if fnmatchcase(spec.name, pattern))
        for spec in layout.specs
    ]


def _quarters(weights: Sequence[float] | None, layout: Layout) -> list[int]:
    """By how many quarters of an octave every tensor's step is finer: 2 log2 of its weight, to the nearest."""
    result = []
    for weight, spec in zip(weights or (), layout.specs, strict=bool(weights)):
        share, exponent = math.frexp(weight)  # no logarithm: the same on every machine
        quarters = 2 * exponent - (2 if share < 2.0**-0.75 else 1 if share < 2.0**-0.25 else 0)
        result.append(max(-IMPORTANCE_REACH, min(quarters, IMPORTANCE_REACH)) if spec.size else 0)
    return result if any(result) else []


def _energy(
    arrays: Sequence[Array], others: Sequence[Array] | None, weights: Sequence[float] | None
) -> float:
    """The sum of squares of the arrays, or of differences; weighted by tensor where there are weights."""
    kernels = backend()
    if weights is None:
        return kernels.ecsq_energy(arrays, others)
    total = 0.0
    for index, weight in enumerate(weights):
        other = None if others is None else others[index : index + 1]
        total += weight * kernels.ecsq_energy(arrays[index : index + 1], other)
    return total


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
            `best`, with several contexts mixed and dependent quantisation, which alone makes use of the hint
            `held`.
        importance: weights of the squared error by patterns of tensor names (`*`, `?`, `[...]`), such as
            {"head*": 4.0}; where several match, their product counts, and where none does, 1. A tensor of weight
            w gets the step divided by √w, to the nearest quarter of an octave. `nmse` is then the weighted
            error divided by the weighted energy.

    Error bound: at most 1.6 steps per value with `fast`, 3 with `balanced`, 4 with `best` (the step that the body
    names, see `last_step`; divided by √w).

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
    effort: Effort = "fast"
    importance: Mapping[str, float] | None = None

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
        if self.effort not in get_args(Effort):
            known = ", ".join(f"'{effort}'" for effort in get_args(Effort))
            raise ConfigError(f"codec 'ecsq' has no effort {self.effort!r}", hint=f"known: {known}")
        if not isinstance(self.importance, Mapping | None):
            raise ConfigError(
                f"codec 'ecsq': 'importance' must be a table, found {self.importance!r:.40}",
                hint='for example importance = {"head*" = 4.0}',
            )
        for pattern, weight in (self.importance or {}).items():
            check_number("codec 'ecsq'", f"importance.{pattern}", weight, 1e-6, 1e6)

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The body of these tensors; the hint `guess`, the step of a similar update, saves encodes.

        Raises:
            ConfigError: a tensor has a NaN or an infinity.
        """
        kernels = backend()
        guess = hints.guess
        extent = hints.extent
        if extent is None:
            extent, broken = kernels.ecsq_extent(arrays)
            if broken >= 0:
                raise ConfigError(
                    f"tensor '{layout.specs[broken].name}' holds a NaN or an infinity",
                    hint="check the learning rate; nothing was encoded",
                )
        if extent == 0.0:
            return kernels.ecsq_encode(arrays, Step.near(self.step or guess or 1.0))
        weights = _weights(self.importance, layout)
        if self.effort == "best" and kernels.NAME == "reference":
            _log.warning("effort 'best' without native kernels takes a minute for a million parameters")
        held = hints.held if self.effort == "best" else None
        encode = _Encode(arrays, extent, _quarters(weights, layout), self.effort, held)
        if self.step is not None:
            return encode.body(Step.near(self.step))[1]
        if guess is not None and not 0.0 < guess < math.inf:
            guess = None
        if self.nmse is not None:
            return self._meet_error(encode, layout, weights, guess, self.nmse)
        return self._meet_size(encode, layout, guess)

    def _meet_size(self, encode: _Encode, layout: Layout, guess: float | None) -> bytes:
        assert self.bits is not None
        target = max(self.bits * layout.size / 8.0, _SMALLEST_TARGET)
        rate = 8.0 * target / layout.size
        tolerance = max(0.015 if rate >= _FINE_FROM else 0.04, 1.5 / target)

        def attempt(step: Step) -> Trial:
            fitted, body = encode.body(step)
            return Trial(fitted, body, math.log(len(body)))

        # d ln(size) / d log2(step): a bit per parameter at high rates, steeper as coefficients die out
        slope = -1.0 / rate if rate >= 1.0 else -1.0 - 0.35 * math.log2(1.0 / rate)
        found = search(
            attempt,
            guess,
            lambda: Sample(encode.arrays).step_for_bits(rate),
            math.log(target),
            slope,
            tolerance,
            excess=4.0,
        )
        return found.body

    def _meet_error(
        self,
        encode: _Encode,
        layout: Layout,
        weights: Sequence[float] | None,
        guess: float | None,
        nmse: float,
    ) -> bytes:
        kernels = backend()
        arrays = encode.arrays
        energy = _energy(arrays, None, weights)
        shapes = [spec.shape for spec in layout.specs]
        target = min(nmse, 0.999)

        def attempt(step: Step) -> Trial:
            fitted, body = encode.body(step)
            share = _energy(arrays, kernels.ecsq_decode(body, shapes, encode.held), weights) / energy
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

    @classmethod
    def decode_into(cls, body: bytes, layout: Layout, arrays: Sequence[Array], put: Put) -> None:
        """Puts the tensors of a body into zeros, or adds them to arrays, or subtracts them, in place.

        Raises:
            FormatError: as `decode`; the arrays are as before.
        """
        backend().ecsq_decode_into(body, arrays, put)

    @classmethod
    def subtract_encoded(cls, body: bytes, layout: Layout, arrays: Sequence[Array]) -> None:
        """Subtracts a body in place from the very arrays that it was encoded from: what its sender still owes.

        Where many values are not zero, quantising again is faster than decoding; the result is the same.
        """
        if 8 * len(body) < _QUANTISE_AGAIN_FROM * layout.size:
            backend().ecsq_decode_into(body, arrays, "subtract")
        else:
            backend().ecsq_subtract_encoded(body, arrays)

    @staticmethod
    def last_step(body: bytes) -> float:
        """The step of a body: the next update's `guess`.

        Raises:
            FormatError: the body does not begin with a step.
        """
        step, flags = read_head(body)
        return step.value / _GRID if flags & FLAG_DEPENDENT else step.value

    @staticmethod
    def maximum_bytes(layout: Layout) -> int:
        """More than any body of this layout can take: 80 bits per parameter and 64 KiB."""
        return 10 * layout.size + 65_536

"""`ecsq`: entropy-coded dead-zone quantisation with scale classes; one knob, the step."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig, check_number
from phloem.codecs.importance import quarters_of, weighted_energy, weights_of
from phloem.codecs.ratecontrol import Goal, Model, Trial, find
from phloem.errors import ConfigError
from phloem.kernels import Opened, Put, Step, backend, efforts
from phloem.kernels.steps import FLAG_DEPENDENT, MODEL_FLAGS, STEP_BYTES, read_head
from phloem.kernels.trellis import WEIGHT_SPARSE
from phloem.tensors import Array, Layout

Body = bytes  # inside the class that word is a field
Effort = Literal["fast", "balanced", "best"]

_log = logging.getLogger(__name__)

#: The grid step of the dependent quantiser that `best` uses, in steps: it takes about as many bits as a scalar
#: quantiser of one step.
_GRID = 0.6

#: A frame of fewer bytes carries nothing but overhead; smaller targets are raised to this.
_SMALLEST_TARGET = 24.0
#: So many bytes are little, whatever the target.
_FEW_BYTES = 64
#: Above this many bits per parameter targets are met within 2 %, below within 5 %.
_FINE_FROM = 0.25
#: From this many bits per parameter a sender finds its residual faster by quantising again than by decoding.
_QUANTISE_AGAIN_FROM = 0.1


@dataclass(frozen=True)
class _Encoder:
    """Encodes of one update, or of a sample of it, at any step: the step is fitted to the largest magnitude."""

    extent: float
    importances: Sequence[int]
    effort: Effort
    held: Held

    @property
    def finest(self) -> float:
        """By what the finest tensor's step is divided."""
        return float(2.0 ** (max(self.importances, default=0) / 4.0))

    def held_by(self, arrays: Sequence[Array]) -> Held:
        """The update that both ends hold; None for a sample, which is of other shapes."""
        held = self.held or ()
        return held if [a.shape for a in held] == [a.shape for a in arrays] else None

    def body(self, arrays: Sequence[Array], step: Step) -> tuple[Step, Body]:
        """The fitted step and the body."""
        extent = self.extent * max(1.0, 1.001 * self.finest) if self.importances else self.extent
        kernels, importances = backend(), self.importances
        if self.effort == "best":
            grid = Step.near(_GRID * step.value).fitted(extent)
            body = efforts.encode(
                kernels,
                arrays,
                grid,
                "best",
                importances=importances,
                held=self.held_by(arrays),
                weight=WEIGHT_SPARSE,
            )
            return Step.near(grid.value / _GRID), body
        fitted = step.fitted(extent)
        if self.effort == "fast":
            return fitted, kernels.ecsq_encode(arrays, fitted, importances)
        return fitted, efforts.encode(kernels, arrays, fitted, self.effort, importances=importances)


@dataclass(frozen=True)
class Ecsq(FromConfig):
    """Entropy-coded dead-zone quantisation; give exactly one of the four qualities.

    Args:
        bits: wire bits per parameter of the body, met within 2 % from 0.25 bit up and about 5 % below, where the
            size does not jump: it does where magnitudes are nearly equal, below 0.01 bit where levels stop paying
            for themselves, and with `balanced` on Gaussian noise below 0.3 bit (by up to 20 %). A target below 24
            bytes is raised to that, or small models would never speak.
        bytes: the most bytes that the body may take, never exceeded; `wire.frame.pack` takes its own bytes off
            first, so there it is the frame that fits. As near below as `bits` comes.
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
    bytes: int | None = None
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

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> Body:
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
        weights = weights_of(self.importance, layout)
        if self.effort == "best" and kernels.NAME == "reference":
            _log.warning("effort 'best' without native kernels takes a minute for a million parameters")
        held = hints.held if self.effort == "best" else None
        encoder = _Encoder(extent, quarters_of(weights, layout), self.effort, held)
        if self.step is not None:
            return encoder.body(arrays, Step.near(self.step))[1]
        if guess is not None and not extent * 2.0**-25 < guess < extent * 4.0:
            guess = None  # nothing like this update
        if self.nmse is not None:
            return self._meet_error(encoder, arrays, weights, guess, self.nmse)
        return self._meet_size(encoder, arrays, guess, hints.slack)

    def _meet_size(
        self, encoder: _Encoder, arrays: Sequence[Array], guess: float | None, slack: float
    ) -> Body:
        size = sum(array.size for array in arrays)
        target = float(self.bytes or max((self.bits or 0.0) * size / 8.0, _SMALLEST_TARGET))
        rate = 8.0 * target / size
        tolerance = max(0.015 if rate >= _FINE_FROM else 0.04, 1.5 / target)

        def attempt(by: _Encoder, part: Sequence[Array], step: Step) -> Trial:
            fitted, body = by.body(part, step)
            return Trial(fitted, body, math.log(len(body) * size / sum(array.size for array in part)))

        if slack > 0.0 and guess is not None and self.bytes is None:
            trial = attempt(encoder, arrays, Step.near(guess))
            if abs(trial.measured - math.log(target)) <= math.log1p(slack):
                return trial.body
        # d ln(size) / d log2(step): a bit per parameter at high rates, steeper as coefficients die out
        slope = -1.0 / rate if rate >= 1.0 else -1.0 - 0.35 * math.log2(1.0 / rate)
        jump = max(0.1, math.log1p(_FEW_BYTES / target))
        goal = Goal(math.log(target), tolerance, slope, jump, excess=4.0, ceiling=self.bytes is not None)
        found = find(
            partial(attempt, encoder),
            arrays,
            goal,
            rate,
            guess,
            lambda: Model(arrays).step_for_bits(rate),
        )
        step = found.step
        while self.bytes is not None and len(found.body) > self.bytes:
            step = Step.near(min(step.value * (1.0 + 2.0 * tolerance), 4.0 * encoder.extent * encoder.finest))
            found = attempt(encoder, arrays, step)
        return found.body

    def _meet_error(
        self,
        encoder: _Encoder,
        arrays: Sequence[Array],
        weights: Sequence[float] | None,
        guess: float | None,
        nmse: float,
    ) -> Body:
        kernels = backend()
        target = min(nmse, 0.999)

        def attempt(by: _Encoder, part: Sequence[Array], step: Step) -> Trial:
            fitted, body = by.body(part, step)
            decoded = kernels.ecsq_decode(body, [array.shape for array in part], by.held_by(part))
            energy = weighted_energy(part, None, weights)
            share = weighted_energy(part, decoded, weights) / energy if energy else 0.0
            return Trial(fitted, body, math.log(max(share, 1e-300)) - math.log(max(1.0 - share, 1e-9)))

        return find(
            partial(attempt, encoder),
            arrays,
            Goal(math.log(target) - math.log(1.0 - target), 0.012, 1.4),
            0.5 * math.log2(1.0 / target),
            guess,
            lambda: Model(arrays).step_for_error(target),
        ).body

    @classmethod
    def decode(cls, body: Body, layout: Layout, held: Held = None) -> list[Array]:
        """The tensors of a body.

        Raises:
            FormatError: the bytes are not a body for this layout, to the last bit.
        """
        return backend().ecsq_decode(body, [spec.shape for spec in layout.specs], held)

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

    @classmethod
    def decode_into(
        cls, body: Body, layout: Layout, arrays: Sequence[Array], put: Put, *, in_parts: bool = False
    ) -> None:
        """Puts the tensors of a body into zeros, or adds them to arrays, or subtracts them, in place.

        With `in_parts` every part of a large body is put once it is decoded, which needs less memory.

        Raises:
            FormatError: as `decode`; the arrays are as before, or with `in_parts` void.
        """
        backend().ecsq_decode_into(body, arrays, put, in_parts=in_parts)

    @staticmethod
    def has_parts(head: Body) -> bool:
        """Whether parts of a body that begins like this can be decoded without the others: effort `fast` alone.

        Raises:
            FormatError: no body begins like this.
        """
        return not read_head(head[:STEP_BYTES])[1] & MODEL_FLAGS

    @classmethod
    def open(cls, body: Body, layout: Layout) -> Opened:
        """A body of which some tensors are decoded: those of whole parts (`kernels.parts`).

        Raises:
            FormatError: as `decode`, as far as was looked.
        """
        return backend().Opened(body, [spec.shape for spec in layout.specs])

    @staticmethod
    def add_all(bodies: Sequence[Opened], first: int, arrays: Sequence[Array]) -> None:
        """Adds open bodies of one layout to its tensors from number `first` on, one after another, in place.

        The same as putting each, and faster: values stay in the cache from one body to the next.

        Raises:
            FormatError: as `decode`; the arrays are as before, if all are of effort `fast`.
        """
        backend().ecsq_add_all(bodies, first, arrays)

    @classmethod
    def subtract_encoded(cls, body: Body, layout: Layout, arrays: Sequence[Array]) -> None:
        """Subtracts a body in place from the very arrays that it was encoded from: what its sender still owes.

        Where many values are not zero, quantising again is faster than decoding; the result is the same.
        """
        if cls.has_parts(body) and 8 * len(body) < _QUANTISE_AGAIN_FROM * layout.size:
            backend().ecsq_decode_into(body, arrays, "subtract")
        else:
            backend().ecsq_subtract_encoded(body, arrays)

    @staticmethod
    def last_step(body: Body) -> float:
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

"""Meeting a size or an error over a whole file: `codecs.ratecontrol` on a sample, and few passes over the file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from phloem.codecs.ecsq import Ecsq
from phloem.codecs.ratecontrol import Attempt, Goal, Model, Trial, find, thinned
from phloem.errors import ConfigError
from phloem.files.pair import Pair
from phloem.files.sections import Section
from phloem.files.tensorfile import Progress, bytes_of
from phloem.kernels import Step
from phloem.tensors import Array, Layout, TensorSpec

#: The sample of an update has about this many parameters; a smaller update is searched as it is.
_SAMPLE = 1 << 21
#: Above this many bits per parameter sizes are met within 2 %, below within 5 % or 64 bytes; here a little less.
_FINE_FROM = 0.25
#: A section with nothing in it takes this many bytes.
EMPTY_BODY_BYTES = 3
#: `bits` may be missed by this much; so much a small model gets, and then a body that says something.
SLACK_BYTES, _LEAST_BODY_BYTES = 64, 24
_LEAST = 1e-300
#: Octaves that a correction may go on the word of a slope.
_STRIDE = 3.0


@dataclass(frozen=True)
class Survey:
    """What one look at the whole update gives.

    Attributes:
        sample: every n-th row of every coded tensor, or all of a small update.
        layout: the sample's names and shapes.
        parameters: how many parameters are coded in all.
        extent: the largest magnitude.
    """

    sample: list[Array]
    layout: Layout
    parameters: int
    extent: float

    @classmethod
    def of(cls, pair: Pair, coded: Sequence[Section], progress: Progress) -> Survey:
        """The survey of a pair's coded tensors.

        Raises:
            ConfigError: a tensor holds NaN or infinity.
        """
        specs = [spec for section in coded for spec in section.specs]
        parameters, total, done = sum(spec.size for spec in specs), sum(map(bytes_of, specs)), 0
        every = -(-parameters // _SAMPLE)
        sample, extent = [], 0.0
        for spec in specs:
            update = pair.update(spec)
            if update.size:
                extent = max(extent, float(update.max()), -float(update.min()))
            sample.append(np.array(thinned([update], every)[0]) if every > 1 else update)
            done += bytes_of(spec)
            progress("looking for the step", done, total)
        shapes = [TensorSpec(spec.name, part.shape) for spec, part in zip(specs, sample, strict=True)]
        return cls(sample, Layout(tuple(shapes)), parameters, extent)

    @property
    def share(self) -> float:
        """How much of the coded parameters is in the sample."""
        return sum(array.size for array in self.sample) / max(1, self.parameters)

    @property
    def complete(self) -> bool:
        """Whether the sample is the whole update."""
        return self.share == 1.0


@dataclass(frozen=True)
class Whole:
    """One pass over the file: its draft, size and measured error."""

    draft: BinaryIO
    size_bytes: int
    error: float | None


def at_step(codec: Ecsq, step: float) -> Ecsq:
    """The same codec at a given step."""
    return dataclasses.replace(codec, bits=None, bytes=None, nmse=None, step=step)


def meet(
    codec: Ecsq,
    attempt: Callable[[float], Whole],
    forget: Callable[[BinaryIO], None],
    survey: Survey,
    parameters: int,
    beside: int,
) -> Whole:
    """The pass that comes nearest to what the codec asks for, of the whole file.

    Args:
        codec: with bits, bytes or nmse.
        attempt: one pass at a step.
        forget: called for a draft that is not needed.
        survey: of the update.
        parameters: of the file, coded and exact.
        beside: the bytes of the file that the step does not change.

    Raises:
        ConfigError: what does not depend on the step takes more bytes than asked for.
    """
    if codec.nmse is not None:
        return _Search(codec, attempt, forget, survey, 0, 0).nearest_error(min(codec.nmse, 0.999))
    if codec.bytes is not None:
        wanted = codec.bytes
    else:
        wanted = math.floor((codec.bits or 0.0) * parameters / 8.0)
        wanted = max(wanted, min(wanted + SLACK_BYTES, beside + _LEAST_BODY_BYTES))
    return _Search(codec, attempt, forget, survey, beside, wanted).nearest_size(parameters)


def not_enough(wanted: int, least: int, parameters: int) -> ConfigError:
    """The refusal of a size below what does not depend on the step."""
    return ConfigError(
        f"{wanted} bytes are not enough: names, shapes and tensors that travel exactly take {least}",
        hint=f"ask for more than {8 * least / parameters:.2g} bits per parameter" if parameters else None,
    )


class _Search:
    """One search; keeps the best pass and forgets the others."""

    def __init__(
        self,
        codec: Ecsq,
        attempt: Callable[[float], Whole],
        forget: Callable[[BinaryIO], None],
        survey: Survey,
        beside: int,
        wanted: int,
    ) -> None:
        self._codec, self._attempt, self._forget = codec, attempt, forget
        self._survey, self._beside, self._wanted = survey, beside, wanted
        self._best: tuple[tuple[float, float], Step, Whole] | None = None

    def nearest_size(self, parameters: int) -> Whole:
        """The pass whose size is the wanted one, or not more if that was asked for."""
        wanted, ceiling = self._wanted, self._codec.bytes is not None
        coded = wanted - self._beside
        if coded < EMPTY_BODY_BYTES:
            raise not_enough(wanted, self._beside + EMPTY_BODY_BYTES, parameters)
        bits = 8.0 * coded / max(1, self._survey.parameters)
        fine = 8.0 * (wanted + 1) / max(1, parameters) >= _FINE_FROM  # whole bytes of what was asked for
        tolerance = max(0.015 if fine else 0.04, 1.5 / wanted) if not ceiling else max(0.01, 1.5 / wanted)
        # d ln(size) / d log2(step): a bit per parameter at high rates, steeper as coefficients die out
        slope = (-1.0 / bits if bits >= 1.0 else -1.0 - 0.35 * math.log2(1.0 / bits)) * coded / wanted
        goal = Goal(math.log(wanted), tolerance, slope, excess=4.0, ceiling=ceiling)

        def of_sample(body: bytes) -> float:
            return math.log(self._beside + len(body) / self._survey.share)

        def start() -> float:
            return Model(self._survey.sample).step_for_bits(bits)

        whole, step = self._find(goal, bits, start, lambda whole: math.log(whole.size_bytes), of_sample)
        while ceiling and whole.size_bytes > wanted:
            if step.value >= 2.0 * self._survey.extent:
                raise ConfigError(
                    f"{wanted} bytes are not enough: a frame with nothing in it takes {whole.size_bytes}"
                )
            step = Step.near(min(step.value * (1.0 + 2.0 * tolerance), 2.0 * self._survey.extent))
            self._forget(whole.draft)
            whole = self._attempt(step.value)
        return whole

    def nearest_error(self, target: float) -> Whole:
        """The pass whose error is nearest to the target."""
        goal = Goal(math.log(target) - math.log(1.0 - target), 0.012, 1.4)

        def of_sample(body: bytes) -> float:
            decoded = Ecsq.decode(body, self._survey.layout)
            lost = sum(_energy(a - b) for a, b in zip(self._survey.sample, decoded, strict=True))
            return _odds(lost / max(sum(map(_energy, self._survey.sample)), _LEAST))

        def start() -> float:
            return Model(self._survey.sample).step_for_error(target)

        bits = max(0.5 * math.log2(1.0 / target), 1e-3)
        return self._find(goal, bits, start, lambda whole: _odds(whole.error or 0.0), of_sample)[0]

    def _find(
        self,
        goal: Goal,
        bits: float,
        start: Callable[[], float],
        of_whole: Callable[[Whole], float],
        of_sample: Callable[[bytes], float],
    ) -> tuple[Whole, Step]:
        survey = self._survey
        if survey.extent == 0.0:
            return self._attempt(1.0), Step.near(1.0)
        known: dict[Step, Trial] = {}

        def on_whole(_: Sequence[Array], step: Step) -> Trial:
            if step not in known:
                whole = self._attempt(step.value)
                known[step] = Trial(step, b"", of_whole(whole))
                self._keep(goal.rank(known[step]), step, whole)
            return known[step]

        def on_sample(_: Sequence[Array], step: Step) -> Trial:
            body = at_step(self._codec, step.value).encode(survey.sample, survey.layout)
            return Trial(step, b"", of_sample(body))

        if survey.complete:
            find(on_whole, [], goal, bits, None, start)
        else:
            self._few_passes(goal, bits, start, on_whole, on_sample)
        assert self._best is not None
        return self._best[2], self._best[1]

    @staticmethod
    def _few_passes(
        goal: Goal, bits: float, start: Callable[[], float], on_whole: Attempt, on_sample: Attempt
    ) -> None:
        """At most three passes over the file.

        What the first misses by moves the search on the sample; the third is on the line through the others.
        """
        aim = Goal(goal.aim, goal.tolerance / 4.0, goal.slope)
        # No arrays: the search takes what it is given to be small, and its attempts know what they encode.
        found = find(on_sample, [], aim, bits, None, start)
        first = on_whole([], found.step)
        if goal.met(first):
            return
        moved = dataclasses.replace(aim, measured=aim.measured + found.measured - first.measured)
        second = on_whole([], find(on_sample, [], moved, bits, found.step.value, start).step)
        if not goal.met(second):
            if goal.ceiling:  # the last chance: rather a little less than none
                aim = dataclasses.replace(aim, measured=aim.measured - goal.tolerance)
            on_whole([], Step.near(2.0 ** _secant(first, second, aim)))

    def _keep(self, rank: tuple[float, float], step: Step, whole: Whole) -> None:
        if self._best is not None:
            if self._best[0] <= rank:
                self._forget(whole.draft)
                return
            self._forget(self._best[2].draft)
        self._best = rank, step, whole


def _secant(first: Trial, second: Trial, goal: Goal) -> float:
    """The log2(step) at which the line through two trials meets the goal, or the goal's slope from the second one."""
    at = math.log2(second.step.value)
    run = at - math.log2(first.step.value)
    slope = (second.measured - first.measured) / run if run else goal.slope
    if slope / goal.slope < 0.1:
        slope = goal.slope
    return at + max(-_STRIDE, min((goal.measured - second.measured) / slope, _STRIDE))


def _energy(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _odds(share: float) -> float:
    return math.log(max(share, _LEAST)) - math.log(max(1.0 - share, 1e-9))

"""Finding the quantiser step that meets a size or an error: search on a sample, then at most three real encodes.

A small update is its own sample. Of a larger one every n-th row of every tensor is coded, with the codec
itself, until the sample meets the goal. The whole is then encoded at that step; where it misses, the sample's
curve is shifted to go through what came out and followed to the goal, and if need be the secant of the two
encodes gives a third. A guess from an earlier
update is tried on the whole before anything is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from phloem.kernels import Step
from phloem.tensors import Array

#: Encodes of the whole of a large update: one, and two corrections (not counting a guess that was far off).
MOST_ENCODES = 3
#: Encodes of a sample, or of a small update, in one search; four are typical.
MOST_SAMPLE_ENCODES = 10
#: Updates of no more parameters are searched as they are: an encode takes a few milliseconds.
WHOLE = 1 << 20
#: A sample has about so many parameters, or as many as give so many bits when coded.
_SAMPLE, _SAMPLE_BITS = 1 << 18, 1 << 16
#: The model looks at about this many values.
_MODEL_SAMPLE = 1 << 16
#: Scale classes save about this share of the bits of one geometric model.
_CLASS_GAIN = 0.8
#: A guess that misses by more than this says nothing about where the goal is.
_STRAY = 0.4
#: Octaves that a search may go in one stride on the word of a slope.
_STRIDE = 3.0


@dataclass(frozen=True)
class Trial:
    """One encode: the step, its body, and the measured quantity (natural log of size, or logit of error)."""

    step: Step
    body: bytes
    measured: float


@dataclass(frozen=True)
class Goal:
    """What to reach, in the unit of `Trial.measured`.

    Attributes:
        measured: the wanted value.
        tolerance: how far from it is near enough.
        slope: roughly, its derivative by log2(step); negative for sizes.
        jump: a miss above the goal by more than this is a jump of the measure, not a search that ended early,
        excess: and counts so many times as much as one below.
        ceiling: a trial above the goal does not count at all.
    """

    measured: float
    tolerance: float
    slope: float
    jump: float = 0.1
    excess: float = 1.0
    ceiling: bool = False

    def miss(self, trial: Trial) -> float:
        """How bad a trial is; infinite above a ceiling."""
        above = trial.measured - self.measured
        if above > 0.0 and self.ceiling:
            return math.inf
        return self.excess * above if above > self.jump else abs(above)

    def rank(self, trial: Trial) -> tuple[float, float]:
        """The smallest is the best trial; if all are above a ceiling, the lowest."""
        return self.miss(trial), trial.measured

    def met(self, trial: Trial) -> bool:
        """Near enough."""
        return self.miss(trial) <= self.tolerance

    @property
    def aim(self) -> float:
        """Where to aim: under a ceiling, in the middle of what is near enough."""
        return self.measured - (self.tolerance / 2.0 if self.ceiling else 0.0)


Attempt = Callable[[Sequence[Array], Step], Trial]


def find(
    attempt: Attempt,
    arrays: Sequence[Array],
    goal: Goal,
    bits: float,
    guess: float | None,
    model: Callable[[], float],
) -> Trial:
    """The trial on the whole of `arrays` that comes nearest to the goal; deterministic.

    Args:
        attempt: encodes arrays at a step; what it measures must mean the same of a sample and of the whole.
        arrays: the update.
        goal: what to reach.
        bits: about how many bits per parameter that takes: how large a sample must be.
        guess: the step of an earlier, similar update.
        model: a step to begin with where there is no guess.
    """
    size = sum(array.size for array in arrays)
    whole = _Trials(attempt, arrays)
    if size <= WHOLE:
        tolerance = goal.tolerance / (2.0 if goal.ceiling else 1.0)
        whole.search(math.log2(guess or model()), goal, goal.aim, tolerance)
        return min(whole.all, key=goal.rank)
    stray = None
    if guess is not None:
        trial = whole.at(math.log2(guess))
        if goal.met(trial):
            return trial
        stray = trial if abs(trial.measured - goal.aim) > _STRAY else None
    every = max(2, int(size / max(_SAMPLE, _SAMPLE_BITS / bits)))
    sample = _Trials(attempt, thinned(arrays, every))
    position = math.log2(guess or model())
    while len(whole.all) < MOST_ENCODES + (stray is not None):
        telling = [trial for trial in whole.all if trial is not stray]
        if len(telling) < 2:
            shift = 0.0
            for trial in telling:
                shift = trial.measured - sample.at(math.log2(trial.step.value)).measured
            position = sample.search(position, goal, goal.aim - shift, goal.tolerance / 4.0)
        else:
            position = _secant(telling[-2], telling[-1], goal)
        before = len(whole.all)
        if goal.met(whole.at(position)) or len(whole.all) == before:
            break
    return min(whole.all, key=goal.rank)


def thinned(arrays: Sequence[Array], every: int) -> list[Array]:
    """Every n-th row of each tensor (every n-th value of a vector), beginning in the middle of the first n."""
    kept = []
    for array in arrays:
        rows = (
            array.reshape(1 if array.ndim < 2 else array.shape[0], -1) if array.size else array.reshape(1, 0)
        )
        if rows.shape[0] == 1:
            kept.append(np.ascontiguousarray(rows[0, min(every // 2, rows.size - 1) :: every]))
        else:
            kept.append(np.ascontiguousarray(rows[min(every // 2, rows.shape[0] - 1) :: every]))
    return kept


@dataclass
class _Trials:
    """The encodes of one list of arrays; no step is tried twice."""

    attempt: Attempt
    arrays: Sequence[Array]
    all: list[Trial] = field(default_factory=list)
    _asked: dict[Step, Trial] = field(default_factory=dict)

    def at(self, position: float) -> Trial:
        """The trial at 2**position."""
        step = Step.near(2.0 ** max(-124.0, min(position, 125.0)))
        if step not in self._asked:
            trial = self.attempt(self.arrays, step)
            known = next((earlier for earlier in self.all if earlier.step == trial.step), None)
            if known is None:
                self.all.append(trial)
            self._asked[step] = known or trial
        return self._asked[step]

    def search(self, position: float, goal: Goal, wanted: float, tolerance: float) -> float:
        """Where the measure is `wanted`, within the tolerance if ten encodes reach it.

        The measure is monotonic up to small ripples. The false-position method in the Illinois form (an end
        that stays twice counts half), because near a cliff (values of nearly equal magnitude) the secant of
        two trials means nothing.
        """
        ends: dict[bool, tuple[float, float]] = {}  # measure above the goal: (log2 step, measure - wanted)
        for trial in sorted(self.all, key=lambda trial: -abs(trial.measured - wanted)):
            error = trial.measured - wanted
            ends[error > 0.0] = (math.log2(trial.step.value), error)
        slope, last = goal.slope, None
        for _ in range(MOST_SAMPLE_ENCODES):
            if ends:
                position = _next(ends, slope)
            count = len(self.all)
            trial = self.at(position)
            at, error = math.log2(trial.step.value), trial.measured - wanted
            if abs(error) <= tolerance or len(self.all) == count:
                return at
            side = error > 0.0
            if side == last:
                slope /= 1.5  # on one side still: go further each time
                if (not side) in ends:
                    place, weight = ends[not side]
                    ends[not side] = (place, weight / 2.0)
            ends[side] = (at, max(-4.0, min(error, 4.0)))
            last = side
        return _next(ends, slope)


def _secant(first: Trial, second: Trial, goal: Goal) -> float:
    """Where the line through two trials meets the goal, or the goal's own slope if their line goes the wrong way."""
    at = math.log2(second.step.value)
    run = at - math.log2(first.step.value)
    slope = (second.measured - first.measured) / run if run else goal.slope
    if slope / goal.slope < 0.1:
        slope = goal.slope
    return at + max(-_STRIDE, min((goal.aim - second.measured) / slope, _STRIDE))


def _next(ends: dict[bool, tuple[float, float]], slope: float) -> float:
    """Between both ends, or beyond the one that there is."""
    (at, error), *rest = ends.values()
    if not rest:
        return at - max(-_STRIDE, min(error / slope, _STRIDE))
    other, weight = rest[0]
    return at + max(0.05, min(error / (error - weight), 0.95)) * (other - at)


class Model:
    """Histograms of magnitudes in eighths of an octave: where a search begins that has no better idea."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        size = sum(array.size for array in arrays)
        stride = max(1, size // _MODEL_SAMPLE) | 1
        counts = np.zeros((len(arrays), 2048))
        for row, array in zip(counts, arrays, strict=True):
            codes = (array.reshape(-1)[::stride].view(np.uint32) & 0x7FFFFFFF) >> 20
            row += np.bincount(codes, minlength=2048)
        used = np.flatnonzero(counts.any(axis=0))
        sizes = counts.sum(axis=1, keepdims=True)
        self._weights = sizes[:, 0] / max(1.0, sizes.sum())  # (tensors,)
        self._counts = counts[:, used] / np.maximum(sizes, 1.0)  # (tensors, bins)
        centres = (used.astype(np.uint32) << 20 | 1 << 19).view(np.float32).astype(np.float64)
        self._centres = np.where(used == 0, 0.0, centres)

    def step_for_bits(self, bits: float) -> float:
        """The step at which a geometric model per tensor, less what classes save, takes this many bits."""
        return self._solve(lambda step: self._bits(step) > bits)

    def step_for_error(self, nmse: float) -> float:
        """The step whose expected error is this share of the energy."""
        return self._solve(lambda step: self._error(step) < nmse)

    def _bits(self, step: float) -> float:
        magnitudes = np.floor(self._centres / step + 0.3)
        ones = self._counts @ (magnitudes > 0.0)
        mean = np.maximum(self._counts @ magnitudes, 1e-12)
        geometric = np.log2(1.0 + mean) + mean * np.log1p(1.0 / mean) / math.log(2.0)
        return float(self._weights @ (_CLASS_GAIN * geometric + ones))

    def _error(self, step: float) -> float:
        squares = self._centres**2
        lost = np.where(self._centres < 0.8 * step, squares, step * step / 12.0)
        energy = self._weights @ (self._counts @ squares)
        return float(self._weights @ (self._counts @ lost) / max(energy, 1e-300))

    @staticmethod
    def _solve(too_small: Callable[[float], bool]) -> float:
        low, high = -124.0, 125.0
        for _ in range(24):
            middle = (low + high) / 2.0
            if too_small(2.0**middle):
                low = middle
            else:
                high = middle
        return float(2.0**high)

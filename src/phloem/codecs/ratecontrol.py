"""Finding the quantiser step that meets a size or an error: a model to start with, then real encodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from phloem.kernels import Step
from phloem.tensors import Array

#: Never more real encodes than this; three are typical.
MOST_ENCODES = 10
#: A sample for the first guess has about this many values.
_SAMPLE = 1 << 18
#: Scale classes save about this share of the bits of one geometric model.
_CLASS_GAIN = 0.8
#: A guess that misses the goal by more than this (natural log of size, logit of error) is dropped.
_GUESS_MISS = 0.7
#: A miss above the goal by more than this is a jump of the measure, not a search that ended early.
_JUMP = 0.1


@dataclass(frozen=True)
class Trial:
    """One encode: the step, its body, and the measured quantity (natural log of size, or logit of error)."""

    step: Step
    body: bytes
    measured: float


def search(
    attempt: Callable[[Step], Trial],
    guess: float | None,
    model: Callable[[], float],
    goal: float,
    slope: float,
    tolerance: float,
    excess: float = 1.0,
) -> Trial:
    """The trial whose measure is nearest to `goal`, within `tolerance` if ten encodes reach it.

    The measure is monotonic in log2(step) up to small ripples; `slope` is its derivative, used until two
    trials lie on both sides. A guess that misses by more than a factor of two gives way to the model. From
    then on: the false-position method, in the Illinois form (an end that stays twice counts half), because
    near a cliff (updates of nearly equal magnitude) the secant of two trials means nothing. Deterministic.

    Where the measure jumps over the goal, missing far above counts `excess` times as much as missing below.
    """
    position = math.log2(model() if guess is None else guess)
    ends: dict[bool, tuple[float, float]] = {}  # measure above the goal: (log2 step, measure - goal)
    trials: list[Trial] = []
    for _ in range(MOST_ENCODES):
        trial = attempt(Step.near(2.0 ** max(-124.0, min(position, 125.0))))
        if any(trial.step == earlier.step for earlier in trials):
            break
        trials.append(trial)
        error = trial.measured - goal
        if abs(error) <= tolerance:
            break
        side = error > 0.0
        if side in ends:
            slope /= 1.5  # on one side still: go further each time
            if (not side) in ends and (trials[-2].measured > goal) == side:
                at, weight = ends[not side]
                ends[not side] = (at, weight / 2.0)
        ends[side] = (math.log2(trial.step.value), max(-4.0, min(error, 4.0)))
        at, error = ends[side]
        if (not side) in ends:
            other, weight = ends[not side]
            share = error / (error - weight)
            position = at + max(0.05, min(share, 0.95)) * (other - at)
        elif guess is not None and len(trials) == 1 and abs(error) > _GUESS_MISS:
            position = math.log2(model())
            ends.clear()
        else:
            position = at - max(-3.0, min(error / slope, 3.0))

    def miss(trial: Trial) -> float:
        above = trial.measured - goal
        return excess * above if above > _JUMP else abs(above)

    return min(trials, key=miss)


class Sample:
    """Histograms of magnitudes in eighths of an octave: enough to guess the size or error at any step."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        size = sum(array.size for array in arrays)
        stride = max(1, size // _SAMPLE) | 1
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

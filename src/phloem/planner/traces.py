"""Lines whose rate changes with time: stretches of a constant rate, from a file or made from a seed.

The makers follow what was fitted to recorded lines (research/adaptive-hardware.md §2c): a Markov chain of four states
that moves every second, on top of a mean of its own for every line, with a slow drift for the memory that a chain of
seconds does not have. Fitted to downlinks: lines upwards are slower.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phloem.errors import ConfigError
from phloem.seeds import generator

_SECONDS = 600
_SLOWEST = 8e3  # bits per second in an outage: a line that stands still would hold a round for ever


@dataclass(frozen=True)
class Trace:
    """A rate over time, from its beginning again when it is over.

    Attributes:
        rates: bits per second, one per stretch.
        each: seconds of a stretch.
    """

    rates: tuple[float, ...]
    each: float = 1.0

    def __post_init__(self) -> None:
        if not self.rates or not all(0 < rate < 1e15 for rate in self.rates) or not 0 < self.each < 1e9:
            raise ConfigError("a trace needs positive rates in bits per second")

    @functools.cached_property
    def _sums(self) -> list[float]:
        """The bits that crossed at the beginning of every stretch, and at the end of the last."""
        return [0.0, *itertools.accumulate(rate * self.each for rate in self.rates)]

    def seconds(self, size_bytes: float, at: float) -> float:
        """How long `size_bytes` take that begin to cross at second `at`."""
        sums = self._sums
        length = self.each * len(self.rates)
        turns, phase = divmod(at, length)
        place = min(int(phase / self.each), len(self.rates) - 1)
        begun = sums[place] + (phase - place * self.each) * self.rates[place]
        whole, rest = divmod(begun + 8.0 * size_bytes, sums[-1])
        last = min(bisect.bisect_right(sums, rest) - 1, len(self.rates) - 1)
        ends = (turns + whole) * length + last * self.each + (rest - sums[last]) / self.rates[last]
        return max(ends - at, 0.0)

    @property
    def mean(self) -> float:
        """The mean rate in bits per second."""
        return sum(self.rates) / len(self.rates)


def constant(rate: float) -> Trace:
    """A line that never changes."""
    return Trace((rate,), 1e6)


def cellular(seed: int, generation: str = "4g", seconds: int = _SECONDS) -> Trace:
    """A mobile line as it was fitted: "3g" of about 1 Mbit/s, "4g" of about 30."""
    rng = generator(seed, "trace", generation)
    median, spread, means, rows = _CHAINS[generation]
    mean = float(rng.lognormal(math.log(median), spread))
    state, drift, rates = 2, 0.0, []
    for _ in range(seconds):
        state = int(rng.choice(4, p=np.array(rows[state]) / sum(rows[state])))
        drift = 0.99 * drift + 0.04 * float(rng.standard_normal())  # a memory of a hundred seconds
        noise = float(rng.lognormal(0.0, 0.15))
        rates.append(max(1e6 * mean * means[state] * math.exp(drift) * noise, _SLOWEST))
    return Trace(tuple(rates))


def drifting(seed: int, low: float, high: float, seconds: int = _SECONDS) -> Trace:
    """A line that wanders slowly between two rates, by their logarithms, there and back."""
    phase = float(generator(seed, "trace", "drifting").random())
    middle, half = 0.5 * (math.log(high) + math.log(low)), 0.5 * (math.log(high) - math.log(low))
    angles = (2 * math.pi * (phase + second / seconds) for second in range(seconds))
    return Trace(tuple(math.exp(middle + half * math.sin(angle)) for angle in angles))


def switching(seed: int, low: float, high: float, seconds: int = _SECONDS, stays: float = 60.0) -> Trace:
    """A line that changes abruptly between two rates, on average after `stays` seconds; it begins with the higher."""
    rng = generator(seed, "trace", "switching")
    rates, fast = [], True
    for _ in range(seconds):
        rates.append(high if fast else low)
        fast ^= bool(rng.random() < 1.0 / stays)
    return Trace(tuple(rates))


def read_trace(path: Path) -> Trace:
    """A trace from a JSON file: `{"seconds_each": 1.0, "bits_per_second": [...]}`.

    Raises:
        ConfigError: it is none.
    """
    try:
        table = json.loads(path.read_text("utf-8"))
        return Trace(tuple(float(rate) for rate in table["bits_per_second"]), float(table["seconds_each"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is no trace of a line: {error}",
            hint='expected {"seconds_each": 1.0, "bits_per_second": [...]}',
        ) from error


_CHAINS: Mapping[str, tuple[float, float, Sequence[float], Sequence[Sequence[float]]]] = {
    "3g": (
        1.0,
        0.59,
        (0.02, 0.25, 1.02, 2.27),
        (
            (0.911, 0.066, 0.018, 0.005),
            (0.064, 0.777, 0.143, 0.015),
            (0.003, 0.080, 0.784, 0.133),
            (0.001, 0.009, 0.229, 0.760),
        ),
    ),
    "4g": (
        30.2,
        0.29,
        (0.0, 0.31, 0.97, 1.85),
        (
            (0.416, 0.241, 0.307, 0.035),
            (0.045, 0.607, 0.325, 0.023),
            (0.001, 0.076, 0.835, 0.088),
            (0.0, 0.008, 0.405, 0.587),
        ),
    ),
}

MAKERS: Mapping[str, Callable[[int, float], Trace]] = {
    "cellular-3g": lambda seed, rate: cellular(seed, "3g"),
    "cellular-4g": lambda seed, rate: cellular(seed, "4g"),
    "drifting": lambda seed, rate: drifting(seed, rate / math.sqrt(10), rate * math.sqrt(10)),
    "switching": lambda seed, rate: switching(seed, rate / 10, rate),
}
"""What `[link] trace` names; each takes a seed and the line's rate, in bits per second."""

"""The ideal of memoryless coding: uniform thresholds with a dead zone, centroids, and the entropy of the levels.

ECSQ as in research on it (a threshold T, then steps of s; ideal order-0 code), once for a distribution in closed form
and once for the very values that were coded. The second one knows each level's centroid and counts exactly and pays
nothing for telling them, so it is a little better than any coder of independent values can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from rates import bits_at

Values = npt.NDArray[np.float64]

DEAD_ZONES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0, 1.15)  # T ÷ s
_LEVELS = 200_000
_COUNTED = 64  # values that a level needs before its own centroid is used


@dataclass(frozen=True)
class Source:
    """A symmetric distribution of unit variance.

    Attributes:
        tail: P(X > x), for x ≥ 0.
        moment: E[X; X > x].
        draw: n values from a generator.
        energy: E[X²; X > x], where the energy far out matters.
        reach: where P(X > x) is under 1e-13, or the energy beyond is known.
    """

    tail: Callable[[Values], Values]
    moment: Callable[[Values], Values]
    draw: Callable[[np.random.Generator, int], Values]
    energy: Callable[[float], float] = lambda x: 0.0
    reach: float = 25.0


def _student_t3() -> Source:
    """Student's t with 3 degrees of freedom, divided by its deviation √3; a tenth of its energy lies beyond 6."""
    law = stats.t(3)

    def energy(x: float) -> float:
        z = math.sqrt(3) * x
        return 2 / math.pi * (math.sqrt(3) * z / (3 + z * z) + math.pi / 2 - math.atan(z / math.sqrt(3))) / 2

    return Source(
        lambda x: law.sf(math.sqrt(3) * x),
        lambda x: (1 + x * x) / 2 * math.sqrt(3) * law.pdf(math.sqrt(3) * x),
        lambda rng, n: rng.standard_t(3, n) / math.sqrt(3),
        energy,
        reach=1000.0,
    )


def _half_power() -> Source:
    """Density ∝ exp(−√(x/a)): the generalised Gaussian of shape 1/2; E[x²] = a² Γ(6)/Γ(2)."""
    a = math.sqrt(1 / 120)

    def draw(rng: np.random.Generator, n: int) -> Values:
        return a * np.square(rng.gamma(2.0, 1.0, n)) * rng.choice([-1.0, 1.0], n)

    return Source(
        lambda x: special.gammaincc(2, np.sqrt(x / a)) / 2,
        lambda x: a * special.gamma(4) / special.gamma(2) * special.gammaincc(4, np.sqrt(x / a)) / 2,
        draw,
        reach=120.0,
    )


SOURCES: Mapping[str, Source] = {
    "gaussian": Source(
        lambda x: special.ndtr(-x), lambda x: stats.norm.pdf(x), lambda rng, n: rng.standard_normal(n)
    ),
    "laplace": Source(
        lambda x: np.exp(-math.sqrt(2) * x) / 2,
        lambda x: (x + 1 / math.sqrt(2)) * np.exp(-math.sqrt(2) * x) / 2,
        lambda rng, n: rng.laplace(0, 1 / math.sqrt(2), n),
    ),
    "student-t3": _student_t3(),
    "ggd-half": _half_power(),
}


def of_source(source: Source, step: float, dead_zone: float) -> tuple[float, float]:
    """(bits, NMSE) of the ideal quantiser on the distribution; what lies beyond its reach is one exact level."""
    edges = step * (dead_zone + np.arange(max(2, min(_LEVELS, int(source.reach / step)))))
    tails, moments = source.tail(edges), source.moment(edges)
    chances, sums = tails[:-1] - tails[1:], moments[:-1] - moments[1:]
    energy = float(np.sum(np.divide(sums * sums, chances, out=np.zeros_like(sums), where=chances > 0)))
    energy += source.energy(float(edges[-1]))
    chances = np.append(chances, tails[-1])
    return _entropy(np.concatenate([[1 - 2 * tails[0]], chances, chances])), 1 - 2 * energy


class Sample:
    """The ideal quantiser on given values, their magnitudes sorted once."""

    def __init__(self, values: npt.NDArray[np.float32]) -> None:
        self.magnitudes = np.sort(np.abs(values.reshape(-1)).astype(np.float64))
        self.sums = np.concatenate([[0.0], np.cumsum(self.magnitudes)])
        self.energy = float(np.sum(np.square(self.magnitudes)))
        self.rms = math.sqrt(self.energy / len(self.magnitudes))

    def at(self, step: float, dead_zone: float) -> tuple[float, float]:
        """(bits, NMSE); `step` in units of the values' root mean square."""
        total = len(self.magnitudes)
        width = step * self.rms
        levels = min(_LEVELS, int(self.magnitudes[-1] / width) + 2)
        edges = width * (dead_zone + np.arange(levels))
        places = np.concatenate([np.searchsorted(self.magnitudes, edges), [total]])
        counts = np.diff(places)
        sums = np.diff(self.sums[places])
        middle = np.append(edges[:-1] + width / 2, edges[-1])
        centroid = np.where(counts >= _COUNTED, sums / np.maximum(counts, 1), middle)
        gained = float(np.sum(2 * centroid * sums - counts * centroid * centroid))
        chances = counts / total / 2  # the sign is a fair coin
        return _entropy(np.concatenate([[places[0] / total], chances, chances])), 1 - gained / self.energy


def _entropy(chances: Values) -> float:
    some = chances[chances > 0]
    return float(-np.sum(some * np.log2(some)))


def curves(
    at: Callable[[float, float], tuple[float, float]], steps: Sequence[float]
) -> list[list[tuple[float, float]]]:
    """Per dead zone the (bits, NMSE) over the steps."""
    return [[at(step, zone) for step in steps] for zone in DEAD_ZONES]


def ideal_bits(nmse: float, found: Sequence[Sequence[tuple[float, float]]]) -> float | None:
    """The fewest bits for this NMSE over all dead zones; None outside every curve."""
    bits = [
        bits_at(nmse, [d for _, d in inside], [b for b, _ in inside])
        for one in found
        if (inside := [(b, d) for b, d in one if b > 0 and 0 < d < 1])
    ]
    known = [b for b in bits if b is not None]
    return min(known) if known else None

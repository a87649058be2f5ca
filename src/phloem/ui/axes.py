"""Axes of charts: which range, which ticks, and where a value lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_LOG_FROM = 20.0  # a range that spans more than this factor is drawn by its logarithm


@dataclass(frozen=True)
class Axis:
    """A range of values with ticks, drawn from pixel `start` to pixel `end`."""

    low: float
    high: float
    ticks: tuple[float, ...]
    text: Callable[[float], str]
    start: float = 0.0
    end: float = 1.0
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        if self.log:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def axis_for(
    values: Iterable[float],
    text: Callable[[float], str],
    start: float,
    end: float,
    *,
    zero: bool = False,
    log: bool | None = None,
    ticks: int = 5,
) -> Axis:
    """An axis that holds all finite values; logarithmic where they are positive and span a factor above 20.

    Args:
        values: what will be drawn.
        text: a tick's label.
        start: the pixel of the low end.
        end: the pixel of the high end.
        zero: whether 0 belongs on the axis.
        log: decides instead of the rule.
        ticks: about how many.
    """
    found = [value for value in values if math.isfinite(value)]
    if log is None:
        log = bool(found) and min(found) > 0 and max(found) / min(found) > _LOG_FROM and not zero
    if log:
        found = [value for value in found if value > 0] or [1.0]
        low, high = min(found) / 1.15, max(found) * 1.15
        return Axis(low, high, _log_ticks(low, high), text, start, end, True)
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    low = min(low, 0.0) if zero else low
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        high = low + (abs(low) or 1.0)
    step = _nice((high - low) / max(ticks - 1, 1))
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    count = round((high - low) / step)
    marks = tuple(float(f"{(low / step + n) * step:.12g}") for n in range(count + 1))
    return Axis(low, high, marks, text, start, end)


def _nice(step: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten.

    >>> _nice(0.23), _nice(3.0)
    (0.25, 5.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(n * power for n in (1.0, 2.0, 2.5, 5.0, 10.0) if n * power >= step * (1 - 1e-9))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten; where fewer than three fit, 2 and 5 between them, too."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = tuple(f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high)
        if len(ticks) >= 3:
            break
    return ticks

"""What is known of a line in one direction, from the transfers that crossed it.

A transfer of `size` bytes takes `fixed + size / goodput` seconds. Both logarithms are estimated at once by an extended
Kalman filter, so that small transfers teach the fixed part and large ones the goodput, and neither is taken for the
other. The noise is measured too: a mean square of the surprises, which gives the width of every prediction.

Source: the logarithm of goodput followed with its variance predicts transfers on recorded lines as well as anything
longer, and knows how wrong it is (research/adaptive-hardware.md §2a). Gain 0.3 and 0.2 from there.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from phloem.errors import StateError

SLOWEST, FASTEST = 1e2, 1e12  # bytes per second: what is outside is no line but a clock that jumped
_SHORTEST, _LONGEST = 1e-6, 1e6  # seconds, likewise
_GAIN = 0.3  # of a steady filter
_FORGETS = 0.2  # of the mean square of surprises
_LEAST_NOISE = 0.02**2  # a log-second: no clock and no queue are steadier
_DRIFT = _GAIN**2 / (1 - _GAIN)  # process noise over measurement noise that gives this gain
_FIXED_DRIFT = 0.02  # the fixed part moves less
_HOPE = 2.0  # standard deviations
_SWERVE = 0.7  # log-seconds: a surprise past that is a new regime, not noise


@dataclass(frozen=True)
class Line:
    """One direction of one site's line.

    Attributes:
        goodput, fixed: logarithms of bytes per second, and of seconds.
        variances: of both, and their covariance.
        noise: mean square of past surprises, in squared log-seconds.
        seen: how many transfers it is made from.
        ignored: transfers whose size or duration made no sense.
        moving: the part of the last transfer's time that its size made up.
    """

    goodput: float = math.log(1.25e6)
    fixed: float = math.log(0.05)
    variances: tuple[float, float, float] = (4.0, 1.0, 0.0)
    noise: float = 0.05
    seen: int = 0
    ignored: int = 0
    moving: float = 1.0

    @property
    def bytes_per_second(self) -> float:
        """The goodput."""
        return math.exp(self.goodput)

    @property
    def fixed_seconds(self) -> float:
        """What a transfer takes however small it is."""
        return math.exp(self.fixed)

    def seconds(self, size: float, z: float = 0.0) -> float:
        """How long `size` bytes take; at z standard deviations beyond the median."""
        median = self.fixed_seconds + size / self.bytes_per_second
        return median * math.exp(z * self.deviation(size)) if z else median

    def deviation(self, size: float) -> float:
        """The standard deviation of the logarithm of the next transfer's seconds."""
        share, rest = self._shares(size)
        var_goodput, var_fixed, covariance = self.variances
        known = share**2 * var_goodput + rest**2 * var_fixed - 2 * share * rest * covariance
        return math.sqrt(max(known, 0.0) + self.noise)

    def _shares(self, size: float) -> tuple[float, float]:
        """The parts of a transfer's time that its size, and that the fixed cost makes up."""
        moving = size / self.bytes_per_second
        total = self.fixed_seconds + moving
        return moving / total, self.fixed_seconds / total

    def after(self, size: float, seconds: float) -> Line:
        """The line after a transfer; one that makes no sense is counted and changes nothing else."""
        if not (size > 0 and _SHORTEST <= seconds <= _LONGEST and math.isfinite(size)):
            return replace(self, ignored=self.ignored + 1)
        observed = math.log(seconds)
        surprise = observed - math.log(self.seconds(size))
        noise = self.noise
        if self.seen:
            noise = max((1 - _FORGETS) * noise + _FORGETS * min(surprise**2, 4.0), _LEAST_NOISE)
        measuring = max(noise * (1 - _GAIN), _LEAST_NOISE)
        var_goodput, var_fixed, covariance = self.variances
        if self.seen:
            var_goodput += _DRIFT * measuring
            var_fixed += _FIXED_DRIFT * measuring
        if self.seen and abs(surprise) > _SWERVE:  # believe it: what was known is of another time
            var_goodput += surprise**2
        share, rest = self._shares(size)
        # the observation's gradient is (-share, +rest)
        down_goodput = -share * var_goodput + rest * covariance
        down_fixed = -share * covariance + rest * var_fixed
        total = -share * down_goodput + rest * down_fixed + measuring
        gain_goodput, gain_fixed = down_goodput / total, down_fixed / total
        goodput = min(max(self.goodput + gain_goodput * surprise, math.log(SLOWEST)), math.log(FASTEST))
        fixed = min(max(self.fixed + gain_fixed * surprise, math.log(_SHORTEST)), observed)
        return replace(
            self,
            goodput=goodput,
            fixed=fixed,
            moving=size / (size + math.exp(min(goodput + fixed, 700.0))),
            variances=(
                max(var_goodput - gain_goodput * down_goodput, 1e-9),
                max(var_fixed - gain_fixed * down_fixed, 1e-9),
                covariance - gain_goodput * down_fixed,
            ),
            noise=noise,
            seen=self.seen + 1,
        )

    def failed(self) -> Line:
        """The line after a transfer that never came to its end: slower than was thought, and less certain."""
        var_goodput, var_fixed, covariance = self.variances
        goodput = max(self.goodput - math.log(2.0), math.log(SLOWEST))
        return replace(self, goodput=goodput, variances=(min(var_goodput + 0.5, 4.0), var_fixed, covariance))

    def rested(self) -> Line:
        """The line after a round without a transfer: as it was, but less certain."""
        var_goodput, var_fixed, covariance = self.variances
        return replace(self, variances=(min(var_goodput + _DRIFT * self.noise, 4.0), var_fixed, covariance))

    def hoped(self) -> Line:
        """The line as good as it may well be, where not noise but ignorance is in the way.

        Small transfers do not show what large ones would take; whoever believes the worst never finds out.
        """
        excess = max(self.variances[0] - self.noise, 0.0)
        hope = _HOPE * (1.0 - self.moving) * math.sqrt(excess)
        return replace(self, goodput=min(self.goodput + hope, math.log(FASTEST)))

    def as_it_was(self, before: Line, size: float, seconds: float) -> Line:
        """The line at the moment of a transfer, for the question what another size would have taken in its place.

        The filter's answer, moved to what was observed as far as that transfer could tell about the goodput.
        """
        if self.seen == before.seen:
            return self
        share, _ = self._shares(size)
        moving = max(seconds - self.fixed_seconds, 0.1 * seconds)
        observed = math.log(min(max(size / moving, SLOWEST), FASTEST))
        return replace(self, goodput=self.goodput + share * (observed - self.goodput))

    def to_json(self) -> dict[str, Any]:
        """The line as plain values."""
        return {**asdict(self), "variances": list(self.variances)}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Line:
        """The line that `to_json` gave.

        Raises:
            StateError: it is none.
        """
        try:
            found = cls(**{**table, "variances": tuple(map(float, table["variances"]))})
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"a saved line is damaged: {error}") from error
        return found

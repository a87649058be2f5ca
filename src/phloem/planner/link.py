"""What is known of a line in one direction, from the transfers that crossed it.

A transfer of `size` bytes takes `fixed + size / goodput` seconds. Both logarithms are estimated at once by an iterated
extended Kalman filter, so that small transfers teach the fixed part and large ones the goodput, and neither is taken
for the other. The noise is measured too: a mean square of the surprises, which gives the width of every prediction;
and that is widened after a transfer outside its interval and narrowed after one inside, so that in the long run four
fifths are inside on any line (Gibbs and Candès, Adaptive conformal inference under distribution shift, 2021).

Where the system knows the line's round trip (`phloem.tcp`), it is one more observation of the fixed part, from below.
Its delivery rate is none of the goodput: benchmarks/adaptation_round_trip.py has what it would be worth.

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
HOPE = 2.0
"""Standard deviations by which a line may be better than it is thought to be, where small transfers do not show it."""

_SMALL = 0.3  # log-seconds: a surprise that one linear step takes in
_STEPS, _STRIDE, _SETTLED = 6, 2.0, 1e-4
EIGHTY = 1.2816
"""Standard deviations on either side that hold four fifths of a normal distribution."""

_WIDENS = 0.15  # logarithm: a miss widens the next interval by four fifths of it, a hit narrows it by a fifth
_NARROWEST, _WIDEST = 0.25, 4.0
_SWERVE = 0.7  # log-seconds: a surprise past that is a new regime, not noise
_TURNS = 0.8  # round trips that a message takes: half of one where it was awaited, one where both ends start together
_TURNS_NOISE = 0.5**2  # squared log-seconds: TCP's slow start may ask for more
_PROGRAMS, _PROGRAMS_NOISE = 1e-3, 1.5**2  # seconds that both ends' programs take, and how well that is known
_LONGER = (
    4.0  # times a transfer's seconds that its round trip may be: twice, but clocks of several ends made them
)
_SAME = 0.2  # log-seconds: a round trip that moved less has told nothing new


@dataclass(frozen=True)
class Line:
    """One direction of one site's line.

    Attributes:
        goodput, fixed: logarithms of bytes per second, and of seconds.
        variances: of both, and their covariance.
        noise: mean square of past surprises, in squared log-seconds.
        width: what the noise's standard deviation is multiplied by, so that intervals hold what they should.
        seen: how many transfers it is made from.
        ignored: transfers whose size or duration made no sense.
        round_trip: the last that was heard of, in seconds; 0 before one was.
        moving: the part of the last transfer's time that its size made up.
        swing, at: how far the goodput was from this, in log-seconds, while so many bytes crossed; 0 where it is not
            about one moment.
    """

    goodput: float = math.log(1.25e6)
    fixed: float = math.log(0.05)
    variances: tuple[float, float, float] = (4.0, 1.0, 0.0)
    noise: float = 0.05
    width: float = 1.0
    seen: int = 0
    ignored: int = 0
    round_trip: float = 0.0
    moving: float = 1.0
    swing: float = 0.0
    at: float = 1.0

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
        """The standard deviation of the logarithm of the next transfer's seconds, widened as past ones ask for."""
        share, rest = self._shares(size)
        var_goodput, var_fixed, covariance = self.variances
        known = share**2 * var_goodput + rest**2 * var_fixed - 2 * share * rest * covariance
        return math.sqrt(max(known, 0.0) + self.width**2 * self.noise)

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
        noise, width = self.noise, self.width
        if self.seen:
            outside = abs(surprise) > EIGHTY * self.deviation(size)
            width = min(max(width * math.exp(_WIDENS * (outside - 0.2)), _NARROWEST), _WIDEST)
            noise = max((1 - _FORGETS) * noise + _FORGETS * min(surprise**2, 4.0), _LEAST_NOISE)
        measuring = max(noise * (1 - _GAIN), _LEAST_NOISE)
        var_goodput, var_fixed, covariance = self.variances
        if self.seen:
            var_goodput += _DRIFT * measuring
            var_fixed += _FIXED_DRIFT * measuring
        if self.seen and abs(surprise) > _SWERVE:  # believe it: what was known is of another time
            var_goodput += surprise**2
        variances = var_goodput, var_fixed, covariance
        goodput, fixed = self._settled(variances, size, observed, measuring, surprise)
        moving = size / (size + math.exp(min(goodput + fixed, 700.0)))
        toward, across, total = _gains(moving, variances, measuring)
        return replace(
            self,
            goodput=goodput,
            fixed=fixed,
            moving=moving,
            variances=(
                max(var_goodput - toward * toward / total, 1e-9),
                max(var_fixed - across * across / total, 1e-9),
                covariance - toward * across / total,
            ),
            noise=noise,
            width=width,
            seen=self.seen + 1,
        )

    def _settled(
        self,
        variances: tuple[float, float, float],
        size: float,
        observed: float,
        noise: float,
        surprise: float,
    ) -> tuple[float, float]:
        """The likeliest logarithms of goodput and fixed part, after a transfer of so many log-seconds.

        An iterated filter (Gauss and Newton's steps on the posterior): one linear step would put a slow line's first
        transfers down to a fixed part, for a small frame's time hardly depends on the goodput that was expected. Where
        the surprise is large it also starts from a line whose time is all moving, and the likelier end is taken.
        """
        starts = [(self.goodput, self.fixed)]
        if abs(surprise) > _SMALL:
            starts.append((math.log(size) - observed, min(self.fixed, observed - 2.0)))
        ends = [self._descended(variances, size, observed, noise, start) for start in starts]
        return min(ends)[1:]

    def _descended(
        self,
        variances: tuple[float, float, float],
        size: float,
        observed: float,
        noise: float,
        start: tuple[float, float],
    ) -> tuple[float, float, float]:
        """How unlikely the end of a descent from `start` is, and the end."""
        goodput, fixed = start
        for _ in range(_STEPS):
            moving = size / (size + math.exp(min(goodput + fixed, 700.0)))
            toward, across, total = _gains(moving, variances, noise)
            wanted = observed - self._log_seconds(goodput, fixed, size)
            wanted += moving * (self.goodput - goodput) - (1.0 - moving) * (self.fixed - fixed)
            aim_goodput = self.goodput + toward / total * wanted
            aim_fixed = self.fixed + across / total * wanted
            was = goodput, fixed
            goodput += min(max(aim_goodput - goodput, -_STRIDE), _STRIDE)
            fixed += min(max(aim_fixed - fixed, -_STRIDE), _STRIDE)
            goodput = min(max(goodput, math.log(SLOWEST)), math.log(FASTEST))
            fixed = min(max(fixed, math.log(_SHORTEST)), observed)
            if abs(goodput - was[0]) + abs(fixed - was[1]) < _SETTLED:
                break
        var_goodput, var_fixed, covariance = variances
        by_goodput, by_fixed = goodput - self.goodput, fixed - self.fixed
        prior = var_fixed * by_goodput**2 - 2 * covariance * by_goodput * by_fixed + var_goodput * by_fixed**2
        prior /= max(var_goodput * var_fixed - covariance**2, 1e-12)
        error = observed - self._log_seconds(goodput, fixed, size)
        return prior + error**2 / noise, goodput, fixed

    @staticmethod
    def _log_seconds(goodput: float, fixed: float, size: float) -> float:
        moving = math.log(size) - goodput
        return max(moving, fixed) + math.log1p(math.exp(-abs(moving - fixed)))

    def heard(self, round_trip_seconds: float, took_seconds: float) -> Line:
        """The line where the system knows its round trip, besides a transfer that took so long; that comes in `after`.

        An observation of the fixed part with a standard deviation of half a log-second, more where programs take longer
        than the round trip; but a lower bound: where it says less than was thought, it says nothing, for slow start
        takes several round trips, and a proxy may answer in the peer's place (RFC 3135). The same number again is no
        second observation. None, for which 0 stands, is ignored, and so is one of more than four times the transfer,
        which took about half of it at least.

        >>> round(Line().fixed_seconds, 3), round(Line().heard(0.2, took_seconds=0.25).fixed_seconds, 3)
        (0.05, 0.128)
        """
        if not _SHORTEST <= round_trip_seconds <= min(_LONGER * took_seconds, _LONGEST):
            return self
        if self.round_trip and abs(math.log(round_trip_seconds / self.round_trip)) < _SAME:
            return self
        expected = _TURNS * round_trip_seconds + _PROGRAMS
        programs, surprise = _PROGRAMS / expected, math.log(expected) - self.fixed
        if surprise <= 0:
            return replace(self, round_trip=round_trip_seconds)
        noise = (1 - programs) ** 2 * _TURNS_NOISE + programs**2 * _PROGRAMS_NOISE
        var_goodput, var_fixed, covariance = self.variances
        gain = 1 / (var_fixed + noise)
        goodput = self.goodput + gain * covariance * surprise
        return replace(
            self,
            goodput=min(max(goodput, math.log(SLOWEST)), math.log(FASTEST)),
            fixed=self.fixed + gain * var_fixed * surprise,
            variances=(
                max(var_goodput - gain * covariance**2, 1e-9),
                max(var_fixed - gain * var_fixed**2, 1e-9),
                covariance - gain * covariance * var_fixed,
            ),
            round_trip=round_trip_seconds,
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

    def as_it_was(self, before: Line, size: float, seconds: float) -> Line:
        """The line at the moment of a transfer, for the question what another size would have taken in its place.

        The filter's answer, moved to what was observed as far as that transfer could tell about the goodput. A longer
        transfer would have had more of the line's ups and downs in it.
        """
        if self.seen == before.seen:
            return self
        share, _ = self._shares(size)
        moving = max(seconds - self.fixed_seconds, 0.1 * seconds)
        observed = math.log(min(max(size / moving, SLOWEST), FASTEST))
        usual = before.goodput if before.seen else self.goodput
        return replace(
            self, goodput=usual, swing=self.goodput - usual + share * (observed - self.goodput), at=size
        )

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


def _gains(moving: float, variances: tuple[float, float, float], noise: float) -> tuple[float, float, float]:
    """The covariances of goodput and of the fixed part with the next observation, and its variance.

    Its gradient is (-moving, 1 - moving).
    """
    var_goodput, var_fixed, covariance = variances
    toward = -moving * var_goodput + (1.0 - moving) * covariance
    across = -moving * covariance + (1.0 - moving) * var_fixed
    return toward, across, -moving * toward + (1.0 - moving) * across + noise

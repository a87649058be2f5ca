"""What no saving may cost: a run that gets worse is sent finer frames, and one that goes on doing so all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

_GAIN = 0.3
_SLOW = 0.1  # of the variance
_SIGMAS = 5.0  # of a variance whose outliers are cut off, about 4 of the whole
_SHARE = 0.2  # of all that was ever gained
_LEAST = 0.02  # of the metric itself
_FLOOR = 0.005  # of the metric and of what it gained: no noise is smaller
_LEAST_ROUNDS = 8
_IN_A_ROW = 3
FREEZE_ROUNDS = 20
_CHECK_ROUNDS = 5
_RESTLESS = math.log(1.5)


@dataclass(frozen=True)
class Guard:
    """What is watched from round to round.

    A metric is worse where, smoothed, it lies for three rounds behind its best by about four standard deviations of its
    own noise, by a fifth of all that it ever gained, and by a fiftieth of itself. On accuracies of 50 to 1,000 examples
    that improve or stand still it raised no alarm in 600 runs of 60 to 300 rounds, and one in a hundred of 300.

    Attributes:
        mean, best, worst, variance: of the loss, smoothed; what it was at its best and at its worst; its noise.
        seen: rounds since the beginning, or since the last alarm.
        behind: rounds in a row in which it was worse.
        floor: the coarsest level allowed until round `until`, after an alarm.
        off: nothing coarser than bfloat16 any more.
        norm, checked: the trunk's step, smoothed, now and at the last check.
        restless: the step's norm changed by more than half between two checks.
    """

    mean: float = math.nan
    best: float = math.inf
    worst: float = -math.inf
    variance: float = 0.0
    seen: int = 0
    behind: int = 0
    floor: int = 0
    until: int = -1
    off: bool = False
    norm: float = 0.0
    checked: float = 0.0
    restless: bool = False

    def to_json(self) -> dict[str, Any]:
        """The guard as plain values."""
        return {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Guard:
        """What `to_json` gave."""
        unset = {"mean": math.nan, "best": math.inf, "worst": -math.inf}
        values: dict[str, Any] = {key: unset[key] if value is None else value for key, value in table.items()}
        return cls(**values)

    def after(self, number: int, loss: float, norm: float, in_use: int) -> Guard:
        """The guard after a round that ended with this loss (lower is better), and a step of the trunk of this norm.

        `in_use` is the coarsest level that the round had.
        """
        return self._watched(number, loss, in_use)._stepped(norm)

    def _watched(self, number: int, loss: float, in_use: int) -> Guard:
        if not math.isfinite(loss):
            return self._alarmed(number, in_use)
        if not self.seen:
            return replace(self, mean=loss, best=loss, worst=max(self.worst, loss), seen=1, behind=0)
        surprise = loss - self.mean
        mean = self.mean + _GAIN * surprise
        best, worst = min(self.best, mean), max(self.worst, mean)
        gain, square = max(_SLOW, 1.0 / self.seen), surprise**2
        if self.seen >= _LEAST_ROUNDS:  # what is beyond noise is not to be taken for noise
            square = min(square, 2.0 * max(self.variance, (_FLOOR * max(abs(best), worst - best)) ** 2))
        variance = self.variance + gain * (square - self.variance)
        least = max(_SIGMAS * math.sqrt(variance), _SHARE * (worst - best), _LEAST * abs(best))
        worse = self.seen >= _LEAST_ROUNDS and mean - best > least
        behind = self.behind + 1 if worse else 0
        after = replace(
            self, mean=mean, best=best, worst=worst, variance=variance, seen=self.seen + 1, behind=behind
        )
        return after._alarmed(number, in_use) if behind >= _IN_A_ROW else after

    def _alarmed(self, number: int, in_use: int) -> Guard:
        """Finer by a level for a while; all of it to the end where that did not help."""
        if number <= self.until - FREEZE_ROUNDS + _IN_A_ROW:
            return self  # what was changed had no time to help
        again = number <= self.until + FREEZE_ROUNDS and self.until >= 0
        fresh = replace(self, seen=0, behind=0, variance=0.0, best=math.inf, until=number + FREEZE_ROUNDS)
        return replace(fresh, off=True) if again else replace(fresh, floor=max(in_use - 1, 0))

    def _stepped(self, norm: float) -> Guard:
        if not (norm > 0 and math.isfinite(norm)):
            return self
        smooth = norm if not self.norm else self.norm + _GAIN * (norm - self.norm)
        if self.seen % _CHECK_ROUNDS:
            return replace(self, norm=smooth)
        moved = abs(math.log(smooth / self.checked)) if self.checked else 0.0
        return replace(self, norm=smooth, checked=smooth, restless=moved > _RESTLESS)

    def coarsest(self, number: int, usual: int, bf16: int) -> int:
        """The coarsest level that round `number` may use; `usual` is the run's own bound."""
        if self.off:
            return min(bf16, usual)
        bound = min(self.floor, usual) if number <= self.until else usual
        return max(bound - int(self.restless), 0)

    def words(self, number: int) -> str:
        """What the guard does in this round; nothing where it lets things be."""
        if self.off:
            return "; everything, since the metric went on getting worse"
        if number <= self.until:
            return "; finer for a while, since the metric got worse"
        return "; nothing coarser than a level above the coarsest, since steps change" * self.restless

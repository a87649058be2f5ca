"""What no saving may cost: a run that gets worse is sent finer frames, and one that does so again all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

_GAIN = 0.3
_SIGMAS = 3.0
_LEAST_ROUNDS = 5
FREEZE_ROUNDS = 20
_CHECK_ROUNDS = 5
_RESTLESS = math.log(1.5)


@dataclass(frozen=True)
class Guard:
    """What is watched from round to round.

    Attributes:
        mean, best, variance: of the loss, smoothed; its best value; and of the loss around it.
        seen: rounds so far.
        finer: how many levels the coarsest allowed one is finer than usual, until round `until`.
        off: nothing coarser than bfloat16 any more.
        norm, checked: the trunk's step at the last check, smoothed since, for `restless`.
        restless: the step's norm changed by more than half between two checks.
    """

    mean: float = math.nan
    best: float = math.inf
    variance: float = 0.0
    seen: int = 0
    finer: int = 0
    until: int = 0
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
        unset = {"mean": math.nan, "best": math.inf}
        values: dict[str, Any] = {key: unset[key] if value is None else value for key, value in table.items()}
        return cls(**values)

    def after(self, number: int, loss: float, norm: float) -> Guard:
        """The guard after a round that ended with this loss (lower is better), and a step of the trunk of this norm."""
        return self._watched(number, loss)._stepped(norm)

    def _watched(self, number: int, loss: float) -> Guard:
        if not math.isfinite(loss):
            return self._alarmed(number)
        if not self.seen:
            return replace(self, mean=loss, best=loss, seen=1)
        surprise = loss - self.mean
        mean = self.mean + _GAIN * surprise
        variance = (1 - _GAIN) * self.variance + _GAIN * min(surprise**2, max(9 * self.variance, 1e-300))
        if self.seen < _LEAST_ROUNDS:
            variance = self.variance + (surprise**2 - self.variance) / self.seen
        best = min(self.best, mean)
        after = replace(self, mean=mean, best=best, variance=variance, seen=self.seen + 1)
        worse = mean - best > _SIGMAS * math.sqrt(variance) and self.seen >= _LEAST_ROUNDS
        return after._alarmed(number) if worse else after

    def _alarmed(self, number: int) -> Guard:
        """Finer by a level for a while; a second time, all of it to the end."""
        fresh = replace(self, seen=0, variance=0.0, until=number + FREEZE_ROUNDS)
        return replace(fresh, off=True) if self.finer else replace(fresh, finer=1)

    def _stepped(self, norm: float) -> Guard:
        if not (norm > 0 and math.isfinite(norm)):
            return self
        smooth = norm if not self.norm else self.norm + _GAIN * (norm - self.norm)
        if self.seen % _CHECK_ROUNDS:
            return replace(self, norm=smooth)
        moved = abs(math.log(smooth / self.checked)) if self.checked else 0.0
        return replace(self, norm=smooth, checked=smooth, restless=moved > _RESTLESS)

    def coarsest(self, number: int, usual: int, in_use: int, bf16: int) -> int:
        """The coarsest level that round `number` may use; `usual` is the run's own bound, `in_use` what it has."""
        if self.off:
            return min(bf16, usual)
        lift = int(self.restless)
        if self.finer and number <= self.until:
            return max(min(usual, in_use) - 1 - lift, 0)
        return max(usual - lift, 0)

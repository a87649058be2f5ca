"""How gradients travel, chosen by time to a target: seconds of a real step × steps to the same loss.

What is timed is the whole step, so what hides behind the backward pass costs nothing. The steps to the same loss are
those of `settings.LEVELS`. All ranks decide alike, from what all of them measured: the slowest rank's step is
everybody's.

A trial begins with gradients as they are, for they leave nothing behind, then the way of now, or the finest one. A
further way is timed only where it could pay. A step of it takes at least

    computing + exposed × share

where computing is what the quickest step timed took without what it waited for at the end of its backward pass
(exposed), and of that a coarser way than one timed keeps at least its share of the bits, a finer one all.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from phloem.engines.torch.settings import Way

#: DDP rebuilds its buckets after the first step; the second still allocates.
_SETTLING = 2
#: Another way must be faster by this share: so a tie sends everything at first, and later changes nothing.
MARGIN = 0.02
_DENSE, _FINEST = 0, 1


@dataclass(frozen=True)
class Choice:
    """How gradients travel from a step on, and what that was made of.

    Attributes:
        step: the first step after the trial.
        seconds: of a step, by way timed: the median of the slowest rank.
        cost: seconds × steps to the same loss, as a multiple of those without compression; the least is taken, or a
            finer way within `MARGIN` of it, or of now if none is better by that.
        chosen: the way.
    """

    step: int
    seconds: dict[str, float]
    cost: dict[str, float]
    chosen: str

    def __str__(self) -> str:
        """One line, in milliseconds."""
        timed = ", ".join(
            f"{way} {1e3 * seconds:.0f} ms x {self.cost[way] / seconds:.2f}"
            for way, seconds in self.seconds.items()
        )
        return f"gradients travel {self.chosen}: {timed}"


@dataclass(frozen=True)
class _Timed:
    """Of a step in one way, in seconds: all of it, and what it waited for after the last gradient was there."""

    seconds: float
    exposed: float


@dataclass
class Trial:
    """Some steps in one way after another, then the choice; and again every `again` steps, for links and loads change.

    Attributes:
        ways: as they are first, then from fine to coarse.
        each: timed steps of each way in a trial.
        again: steps from one trial to the next.
        now: the number of the way that was chosen last.
        begins: the first step of the next trial, or of the one under way.
    """

    ways: Sequence[Way]
    each: int = 6
    again: int = 1000
    now: int = _DENSE
    begins: int = _SETTLING
    _plan: list[int] = field(init=False)
    _timed: dict[int, _Timed] = field(default_factory=dict)
    _steps: list[_Timed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._plan = [_DENSE, self.now or _FINEST]

    def times(self, step: int) -> bool:
        """Whether step number `step` is one of a trial's."""
        return 0 <= (step - self.begins) // (self.each + 1) < len(self._plan)

    def way(self, step: int) -> int:
        """The number of the way that step number `step` goes."""
        return self._plan[(step - self.begins) // (self.each + 1)] if self.times(step) else self.now

    def measured(self, step: int, seconds: float, exposed: float) -> None:
        """Takes what a step took, and waited at its end; not of a way's first one, which pays for the change."""
        leg, place = divmod(step - self.begins, self.each + 1)
        if leg == len(self._timed) and place:
            self._steps.append(_Timed(seconds, exposed))

    def asks_before(self, step: int) -> bool:
        """Whether a way's last step was the one before `step`: now all ranks tell each other their `medians`."""
        return step == self.begins + (len(self._timed) + 1) * (self.each + 1)

    def medians(self) -> tuple[float, float]:
        """This rank's seconds of a step in the way that was timed last, and what of them it waited."""
        return (
            statistics.median(step.seconds for step in self._steps),
            statistics.median(step.exposed for step in self._steps),
        )

    def heard(self, step: int, medians: Sequence[tuple[float, float]]) -> Choice | None:
        """Takes what every rank has measured; the choice, or None while there is another way to time.

        `step` is the number to write down. The rank that waits least is the slowest one: the others wait for it, too.
        """
        way = self._plan[len(self._timed)]
        self._timed[way] = _Timed(max(row[0] for row in medians), min(row[1] for row in medians))
        self._steps = []
        if len(self._timed) == len(self._plan):
            further = self._could_pay()
            if further is None:
                return self._decide(step)
            self._plan.append(further)
        return None

    def _cost(self, way: int) -> float:
        return self._timed[way].seconds * self.ways[way].inflation

    def _could_pay(self) -> int | None:
        """The finest way of those not timed that might be the best by the margin, if its every bit saved counts."""
        wanted = min(self._cost(way) for way in self._timed) * (1.0 - MARGIN)
        computing = min(max(0.0, timed.seconds - timed.exposed) for timed in self._timed.values())
        for number, way in enumerate(self.ways):
            if number in self._timed:
                continue
            exposed = max(
                timed.exposed * min(1.0, way.size / self.ways[other].size)
                for other, timed in self._timed.items()
                if other != _DENSE
            )
            if (computing + exposed) * way.inflation < wanted:
                return number
        return None

    def _decide(self, step: int) -> Choice:
        ways = sorted(self._timed)
        for way in ways:
            if self._cost(way) < self._cost(self.now) * (1.0 - MARGIN):
                self.now = way
        choice = Choice(
            step,
            {self.ways[way].name: self._timed[way].seconds for way in ways},
            {self.ways[way].name: self._cost(way) for way in ways},
            self.ways[self.now].name,
        )
        self.begins += self.again
        self._plan, self._timed = [_DENSE, self.now or _FINEST], {}
        return choice

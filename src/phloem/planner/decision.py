"""What a round does and why, and what the policies have come to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from phloem.planner.levels import LADDER

_MARGIN = 0.02  # a policy must be better by this share before it takes over


@dataclass(frozen=True)
class Decision:
    """What one round does, and why.

    Attributes:
        policy: the one in use: "start", "all LEVEL", "common", "deadline", "cautious", or the objective's own.
        why: in a few words.
        up: level and effort by site, as places in the ladder.
        down: the same for the frame that brings the result.
        predicted: seconds of the round at its median, and the bounds that hold four fifths.
        scores: seconds per uncompressed round of every policy so far; empty in the first round.
        trains: whether sites train; else they send what they still owe of the rounds before.
    """

    round: int
    policy: str
    why: str
    up: Mapping[str, tuple[int, int]]
    down: tuple[int, int]
    predicted: tuple[float, float, float]
    scores: Mapping[str, float]
    trains: bool = True

    def config(self, site: str | None) -> dict[str, Any]:
        """The codec of a site's update; without a site, of the frame that goes down."""
        level, option = self.down if site is None else self.up[site]
        chosen = LADDER[level].options[option]
        return dict(chosen.down if site is None else chosen.up)


@dataclass(frozen=True)
class Scores:
    """Discounted sums by policy: seconds that its rounds would have taken, and what they would have been worth."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    progress: Mapping[str, float] = field(default_factory=dict)

    def after(self, took: Mapping[str, tuple[float, float]], forgets: float) -> Scores:
        """The sums after a round; a policy that had no say in it is neither better nor worse for that."""
        seconds = {name: forgets * value for name, value in self.seconds.items()}
        progress = {name: forgets * value for name, value in self.progress.items()}
        for name, (spent, worth) in took.items():
            seconds[name] = seconds.get(name, 0.0) + spent
            progress[name] = progress.get(name, 0.0) + worth
        return Scores(seconds, progress)

    def rates(self) -> dict[str, float]:
        """Seconds per uncompressed round, by name: the same order after a restart, and so the same choice on a tie."""
        return {name: self.seconds[name] / max(self.progress[name], 1e-12) for name in sorted(self.seconds)}

    def best(self, names: Collection[str], current: str) -> tuple[str, str] | None:
        """The policy to go on with, of those in `names`, and why; None where none of them has a score."""
        rates = {name: rate for name, rate in self.rates().items() if name in names}
        if not rates:
            return None
        best = min(rates, key=rates.__getitem__)
        if current not in rates:
            return best, "fastest so far"
        if rates[best] >= (1 - _MARGIN) * rates[current]:
            return current, f"no other is faster by {100 * _MARGIN:.0f} %"
        return best, f"faster than '{current}' by {100 * (1 - rates[best] / rates[current]):.0f} %"


def label(choice: tuple[int, int]) -> str:
    """A level and an effort in words: "bf16", "0.1 fast"."""
    return LADDER[choice[0]].keys[choice[1]]

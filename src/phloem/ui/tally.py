"""A run that goes on, in figures: how far it is, what it has sent, and how long it may still take."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from phloem.job.record import RoundRecord
from phloem.recipe import Recipe
from phloem.ui.figures import metric_text, metric_words, rate_text, size_text, target_text, time_text
from phloem.ui.outcome import codecs_text


@dataclass
class Tally:
    """A run so far: what its rounds add up to."""

    label: str
    recipe: Recipe
    metric: str
    parameters: int
    records: list[RoundRecord] = field(default_factory=list)
    here: int = 0
    """How many of the rounds were run by this process."""

    @property
    def sent(self) -> tuple[int, int, int]:
        """Bytes up, down and control."""
        return (
            sum(r.bytes_up for r in self.records),
            sum(r.bytes_down for r in self.records),
            sum(r.control_bytes for r in self.records),
        )

    @property
    def last(self) -> RoundRecord | None:
        """The newest round."""
        return self.records[-1] if self.records else None

    @property
    def done(self) -> int:
        """The rounds of training so far."""
        return sum(record.trained for record in self.records)

    @property
    def stops_at_target(self) -> bool:
        """Whether the run ends at a target, rather than after a number of rounds."""
        return self.recipe.rounds.stop == "target" and self.recipe.rounds.target is not None

    @property
    def share_done(self) -> float:
        """How far the run is, in [0, 1]: by rounds, or by the way of the best metric to the target."""
        by_rounds = self.done / self.recipe.rounds.max
        target = self.recipe.rounds.target
        values = [r.metric for r in self.records if math.isfinite(r.metric)]
        if not self.stops_at_target or target is None or not values:
            return by_rounds
        first = values[0]
        way = (
            max(((value - first) / (target - first) for value in values), default=0.0)
            if target != first
            else 1.0
        )
        return min(1.0, max(way, by_rounds))

    @property
    def seconds_left(self) -> float | None:
        """The rounds left times what a round took here; with a target, an upper bound."""
        mine = self.records[len(self.records) - self.here :]
        if not mine:
            return None
        recent = sorted(r.wall_seconds for r in mine[-9:])
        return (self.recipe.rounds.max - self.done) * recent[len(recent) // 2]

    @property
    def left_text(self) -> str:
        """The time left, in words."""
        left = self.seconds_left
        if left is None:
            return ""
        return f"{'at most ' if self.stops_at_target else ''}{time_text(left)} left"

    def title(self) -> str:
        """Sites, parameters and codecs."""
        recipe = self.recipe
        count = len(recipe.sites.all)
        codecs = codecs_text(recipe)
        return f"{count} site{'s' * (count != 1)}, {self.parameters:,} parameters, {codecs}"

    def score(self) -> str:
        """The metric as it stands."""
        if self.last is None:
            return "the first round is trained"
        return f"{metric_words(self.metric)} {metric_text(self.metric, self.last.metric)}"

    def goal(self) -> str:
        """What ends the run before its rounds do."""
        target = self.recipe.rounds.target
        return (
            f"until {target_text(self.metric, target)}" if self.stops_at_target and target is not None else ""
        )

    def rounds(self) -> str:
        """How many rounds of how many."""
        most = "at most " if self.stops_at_target else ""
        return f"round {self.done} of {most}{self.recipe.rounds.max}"

    def size(self) -> str:
        """Bytes so far, in all."""
        return size_text(sum(self.sent))

    def parts(self, between: str) -> str:
        """Bytes so far, by kind."""
        up, down, control = map(size_text, self.sent)
        return between.join((f"up {up}", f"down {down}", f"control {control}"))

    def rates(self, between: str) -> str:
        """Bits per parameter of the last round's frames."""
        if self.last is None:
            return ""
        up, down = self.last.bits_per_parameter_up, self.last.bits_per_parameter_down
        return between.join((f"{rate_text(up)} up", f"{rate_text(down)} down"))

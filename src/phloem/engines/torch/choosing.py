"""Whether to compress at all: both ways are timed on real steps, and the faster one is taken.

What is timed is the whole step, so what hides behind the backward pass costs nothing. All ranks decide alike, from
what all of them measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

#: DDP rebuilds its buckets after the first step; the second still allocates.
_SETTLING = 2
#: Compression must be faster by this share; on a tie nothing is lost by sending everything.
MARGIN = 0.02


@dataclass
class Trial:
    """Steps by turns in both ways, then the choice; and again every `again` steps, for links and loads change.

    Attributes:
        each: timed steps of each way in a trial.
        again: steps from one trial to the next.
    """

    each: int = 6
    again: int = 1000
    compressed: bool = False
    begins: int = _SETTLING
    _seconds: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})

    def compresses(self, step: int) -> bool:
        """Whether step number `step` is a compressed one."""
        place = step - self.begins
        if 0 <= place < self.length:
            return place >= self.each + 1  # dense ones first: they leave nothing behind
        return self.compressed

    @property
    def length(self) -> int:
        """The steps of a trial: the first of each way is not timed, it pays for the change."""
        return 2 * (self.each + 1)

    def measured(self, step: int, seconds: float) -> None:
        """Takes the duration of a step."""
        place = step - self.begins
        if 0 <= place < self.length and place % (self.each + 1):
            self._seconds[self.compresses(step)].append(seconds)

    def ends_before(self, step: int) -> bool:
        """Whether a trial's last step was the one before `step`: now is the time to decide."""
        return step == self.begins + self.length

    def medians(self) -> tuple[float, float]:
        """This rank's seconds for a dense and for a compressed step."""
        return statistics.median(self._seconds[False]), statistics.median(self._seconds[True])

    def decide(self, medians: Sequence[tuple[float, float]]) -> bool:
        """Chooses, from what every rank has measured: the slowest rank's step is everybody's."""
        dense, compressed = max(row[0] for row in medians), max(row[1] for row in medians)
        self.compressed = compressed < dense * (1.0 - MARGIN)
        self.begins += self.again
        self._seconds = {True: [], False: []}
        return self.compressed

"""What a round at a level is worth: how many of them do what one uncompressed round does.

Nobody can compute that, so it is measured: `rounds.json` has for the package's tasks (digits, code-lm, hospitals,
banks) the rounds to the same target at each level, over the rounds without compression, and how much of an update the
frames left out meanwhile (`benchmarks/adaptation.py table`). Another task begins with the geometric mean of those whose
models are not tiny. In a run what the sites report says whether its updates are easier or harder to compress than the
table's.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from phloem.errors import StateError
from phloem.planner import levels

_GAIN = 0.1
_THRIFT = 0.001
_EASIEST, _HARDEST = 0.5, 2.0
_TELLING = (0.02, 0.995)  # outside these, what frames leave out says nothing


@dataclass(frozen=True)
class Worth:
    """The rounds that each level takes, and what makes this run differ from the table.

    Attributes:
        rounds: by level, finest first; 1 is as many as without compression.
        lost: the share of an update's square that its frames leave out, by level, error feedback included.
        exponent: the run's rounds are the table's to this power.
        seen: how many rounds that is learned from.
    """

    rounds: tuple[float, ...]
    lost: tuple[float, ...]
    exponent: float = 1.0
    seen: int = 0

    @classmethod
    def of(cls, task: str) -> Worth:
        """What is known of a task, by its name; the mean of `strangers` where there is nothing."""
        return cls.mean([task]) if task in tables() else cls.mean(strangers(), least=1.0)

    @classmethod
    def mean(cls, tasks: Sequence[str], least: float = 0.0) -> Worth:
        """The geometric mean of these tasks' rounds, none of them below `least`.

        A task that learns faster from coarse frames (digits, whose division by senders makes their steps larger) is
        no reason to expect that of another.
        """
        rows = [tables()[name] for name in tasks]
        rounds = tuple(_mean([max(row[name][0], least) for row in rows]) for name in levels.names())
        lost = tuple(sum(row[name][1] for row in rows) / len(rows) for name in levels.names())
        return cls(rounds, lost)

    def inflation(self, level: int) -> float:
        """The rounds of this level over those without compression, in this run.

        What a level costs grows with the exponent; what it gains (a merge that takes larger steps) does not.
        """
        rounds = self.rounds[level]
        return float(rounds**self.exponent) if rounds > 1 else rounds

    def progress(self) -> list[float]:
        """What one round of every level is worth, in rounds without compression.

        Coarser levels are thought a little better than they are: where two are alike, fewer bytes are sent.
        """
        return [(1.0 + _THRIFT * level) / self.inflation(level) for level in range(len(self.rounds))]

    def after(self, level: int, lost: float) -> Worth:
        """The same after a round in which the frames of that level left out this share of the updates."""
        expected = self.lost[level]
        low, high = _TELLING
        if not (low <= expected <= high and 0 < lost < 1):
            return self
        found = math.log1p(-min(lost, high)) / math.log1p(-expected)
        found = min(max(found, _EASIEST), _HARDEST)
        exponent = self.exponent + max(_GAIN, 1.0 / (self.seen + 5)) * (found - self.exponent)
        return replace(self, exponent=exponent, seen=self.seen + 1)


@functools.cache
def tables() -> dict[str, dict[str, tuple[float, float]]]:
    """By task and level: rounds over those without compression, and the share left out."""
    found = {}
    for task, rows in _saved()["tasks"].items():
        if set(rows) != set(levels.names()):
            raise StateError(f"the table of task '{task}' has other levels than this version")
        found[task] = {name: (float(row[0]), float(row[1])) for name, row in rows.items()}
    return found


def strangers() -> tuple[str, ...]:
    """The tasks whose mean another task begins with."""
    return tuple(sorted(_saved()["strangers"]))


def known_tasks() -> tuple[str, ...]:
    """The tasks that have a table of their own."""
    return tuple(sorted(tables()))


@functools.cache
def _saved() -> dict[str, Any]:
    text = resources.files("phloem.planner").joinpath("rounds.json").read_text("utf-8")
    saved: dict[str, Any] = json.loads(text)
    return saved


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))

"""Who looks on while a run goes: the progress display, a notebook, a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from phloem.job.record import RoundRecord
from phloem.recipe import Recipe
from phloem.tasks.base import Metric


class Watcher(Protocol):
    """Somebody who looks on: the progress display, a notebook, a test."""

    def started(self, recipe: Recipe, metric: Metric, parameters: int, done: Sequence[RoundRecord]) -> None:
        """The sites have their data; the rounds `done` are behind (in a resumed run)."""
        ...

    def round(self, record: RoundRecord) -> None:
        """A round is over and durable."""
        ...

    def finished(self, summary: dict[str, Any]) -> None:
        """The run is over."""
        ...


class Unwatched:
    """A watcher that looks away."""

    def started(self, recipe: Recipe, metric: Metric, parameters: int, done: Sequence[RoundRecord]) -> None:
        """Nothing."""

    def round(self, record: RoundRecord) -> None:
        """Nothing."""

    def finished(self, summary: dict[str, Any]) -> None:
        """Nothing."""

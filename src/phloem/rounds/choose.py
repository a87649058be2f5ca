"""The one place that chooses a codec: for this site, in this round, from what past transfers took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from phloem.rounds.plan import Choice, Plan

DOWN = "coordinator"  # the name under which the down direction asks


@dataclass(frozen=True, slots=True)
class Timing:
    """One past transfer: how many bytes took how long, and what making them took."""

    round: int
    bytes: int
    transfer_seconds: float
    codec_seconds: float = 0.0


class Choose(Protocol):
    """Gives the choice for one frame; `site` is DOWN for the coordinator's own frame."""

    def __call__(self, site: str, round_number: int, timings: Mapping[str, tuple[Timing, ...]]) -> Choice:
        """The choice, inside the plan's limits."""
        ...


@dataclass(frozen=True)
class FixedChoice:
    """The plan's default, whatever the link did."""

    plan: Plan

    def __call__(self, site: str, round_number: int, timings: Mapping[str, tuple[Timing, ...]]) -> Choice:
        """The plan's choice for this direction."""
        return self.plan.down_in(round_number) if site == DOWN else self.plan.up_in(round_number)

"""The one place that chooses a codec: for this site, in this round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from phloem.errors import StateError
from phloem.rounds.plan import Choice, Plan

DOWN = "coordinator"  # the name under which the down direction asks


class Choose(Protocol):
    """Gives the choice for one frame; `site` is DOWN for the coordinator's own frame."""

    @property
    def reports(self) -> bool:
        """Whether the sites are asked what a round took."""
        ...

    @property
    def owed(self) -> bool:
        """Whether the sites of the open round send what they owe of the rounds before, and train nothing."""
        ...

    def opened(self, round_number: int, asked: Sequence[str], parameters: int) -> None:
        """Round `round_number` begins with these sites; `parameters` are those that frames carry."""
        ...

    def __call__(self, site: str, round_number: int) -> Choice:
        """The choice, inside the plan's limits."""
        ...

    def save(self) -> dict[str, Any]:
        """What the next choice depends on, as plain values."""
        ...

    def load(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what `save` gave."""
        ...


@dataclass(frozen=True)
class FixedChoice:
    """The plan's default, whatever the link did."""

    plan: Plan
    reports = False
    owed = False

    def opened(self, round_number: int, asked: Sequence[str], parameters: int) -> None:
        """Nothing."""

    def __call__(self, site: str, round_number: int) -> Choice:
        """The plan's choice for this direction."""
        return self.plan.down_in(round_number) if site == DOWN else self.plan.up_in(round_number)

    def save(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Nothing."""


@dataclass
class ToldChoice:
    """What somebody else chose: rank 0 for a replica of its coordinator, a run's record for a replay."""

    told: dict[tuple[str, int], Choice] = field(default_factory=dict)
    reports: bool = True
    owed: bool = False

    def opened(self, round_number: int, asked: Sequence[str], parameters: int) -> None:
        """Forgets what was told of older rounds than the one before."""
        for site, number in list(self.told):
            if number < round_number - 1:
                del self.told[site, number]

    def __call__(self, site: str, round_number: int) -> Choice:
        """The choice that was told.

        Raises:
            StateError: none was.
        """
        try:
            return self.told[site, round_number]
        except KeyError:
            raise StateError(f"nobody said what '{site}' sends in round {round_number}") from None

    def save(self) -> dict[str, Any]:
        """Nothing: it is told again."""
        return {}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Nothing."""

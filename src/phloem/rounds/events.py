"""What happens in a run, as typed events: each is emitted before it takes effect.

A listener (the progress display, later the ledger) that raises stops the exchange before anything changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """The coordinator asks these sites to train."""

    round: int
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OrderSent:
    """An order leaves for a site; `frame_bytes` of its `bytes` are frames."""

    round: int
    site: str
    bytes: int
    frame_bytes: int
    frames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UpdateSent:
    """A site sends its update (`frame` is its digest)."""

    round: int
    site: str
    base: str
    frame: str
    bytes: int
    examples: int


@dataclass(frozen=True, slots=True)
class UpdateReceived:
    """The coordinator holds an update that it may merge."""

    round: int
    site: str
    frame: str
    bytes: int
    frame_bytes: int


@dataclass(frozen=True, slots=True)
class UpdateRefused:
    """An update is left out of the merge, and why."""

    round: int
    site: str
    reason: str


@dataclass(frozen=True, slots=True)
class TrunkMoved:
    """The trunk takes a step: `frame` (a digest) was made from the updates of `accepted`, by this codec (JSON)."""

    round: int
    accepted: tuple[str, ...]
    frame: str
    frame_bytes: int
    chain: str
    state: str | None
    codec: str = ""


@dataclass(frozen=True, slots=True)
class StateReached:
    """A site has applied its frames and holds this state."""

    round: int
    site: str
    chain: str
    state: str | None


Event = RoundOpened | OrderSent | UpdateSent | UpdateReceived | UpdateRefused | TrunkMoved | StateReached
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that does nothing."""

"""What goes into a round's merge, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from phloem.rounds.plan import Choice
from phloem.wire.messages import Report


@dataclass(frozen=True, slots=True)
class Received:
    """An update that waits for its round to close; the frame is decoded only when it is folded."""

    site: str
    examples: int
    frame: bytes


@dataclass(frozen=True)
class RoundResult:
    """What one round did, in measured numbers.

    Attributes:
        accepted: the updates that were merged, in sorted site order; none in a round where nobody sent one.
        refused: why the others were not.
        frame: the trunk's step; without updates it carries only what the coordinator still owed.
        attachments: what sites attached to their replies, where they did.
        choice: the codec of `frame`.
        norm: of the step that it carries, error feedback included (Euclid's).
        reports: what the sites said that the round took, where they were asked.
    """

    round: int
    accepted: tuple[Received, ...]
    refused: Mapping[str, str]
    frame: bytes
    chain: bytes
    state: str | None
    nmse_down: float
    attachments: Mapping[str, bytes]
    choice: Choice
    norm: float
    reports: Mapping[str, Report]

"""What a run needs from an engine, whoever carries the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from phloem.store.files import Store


@dataclass(frozen=True)
class Answer:
    """A site's answer to one order: the reply's bytes, and what it took to make them.

    `metrics` is what the site's training reported, where the engine can see it; it does not travel.
    `turnaround_seconds` is how long the coordinator waited from sending the order, where something was in between.
    """

    message: bytes
    train_seconds: float
    codec_seconds: float
    metrics: dict[str, float]
    turnaround_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a site gave no answer; `lost`: it no longer holds what it was sent, and starts from the first state."""

    reason: str
    lost: bool = False


class Engine(Protocol):
    """Carries orders to sites and brings their answers back."""

    @property
    def trusted(self) -> bool:
        """Whether sites run our own code on this machine; elsewhere one may claim whatever it likes."""
        ...

    @property
    def failures(self) -> Mapping[str, Failure]:
        """The sites that gave no answer to their last order, and why."""
        ...

    def deliver(self, orders: dict[str, bytes]) -> dict[str, Answer]:
        """Every site's answer to its order, as far as there is one."""
        ...

    def join_ledger(self, folder: Path) -> None:
        """From now on sites sign what they send, with keys in `folder` if they are on this machine."""
        ...

    def spill_to(self, store: Store) -> None:
        """From now on what sites own besides the trunk lies in `store` while they are not at work."""
        ...

    def save(self, store: Store) -> dict[str, dict[str, Any]]:
        """What every site needs to stand again where it is, as facts and digests in `store`."""
        ...

    def load(self, store: Store, saved: dict[str, dict[str, Any]]) -> None:
        """Puts every site where `save` found it."""
        ...

    def close(self) -> None:
        """Ends what the engine started."""
        ...

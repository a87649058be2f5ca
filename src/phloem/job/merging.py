"""A round's calls to a coordinator, in the one order in which every replica of it makes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from phloem.job.schedule import Schedule
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.result import RoundResult
from phloem.wire.messages import Order


@dataclass(frozen=True)
class Merged:
    """What came of one round: the merge, why updates were refused, late ones too, and how long the merge took."""

    result: RoundResult
    refused: dict[str, str]
    codec_seconds: float


def next_orders(coordinator: Coordinator, schedule: Schedule) -> dict[str, bytes]:
    """The orders of the round that comes next."""
    number = coordinator.round
    reachable = schedule.reachable(number)
    return coordinator.orders(reachable, schedule.trains(number, reachable))


def last_orders(coordinator: Coordinator) -> dict[str, bytes]:
    """The orders that bring the last round's result to every site, and ask nobody to train."""
    return coordinator.orders(set(coordinator.plan.sites), set())


def asked_by(orders: Mapping[str, bytes]) -> set[str]:
    """The sites that these orders ask to train."""
    return {site for site, message in orders.items() if Order.unpack(message).train}


def merge(
    coordinator: Coordinator,
    schedule: Schedule,
    asked: set[str],
    messages: Mapping[str, bytes],
    receive: Callable[[str, bytes], str | None],
) -> Merged:
    """Takes the replies of one round in, sorted by site, and merges them; what is late comes after the merge."""
    late = schedule.late(coordinator.round, asked)
    for site, message in messages.items():
        if site not in late:
            receive(site, message)
    started = time.perf_counter()
    result = coordinator.close()
    codec_seconds = time.perf_counter() - started
    refused = dict(result.refused)
    for site in sorted(late & set(messages)):
        refused[site] = receive(site, messages[site]) or "late"
    return Merged(result, refused, codec_seconds)

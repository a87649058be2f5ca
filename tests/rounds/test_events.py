"""A listener hears of everything before it takes effect, and can stop it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.exchange import Exchange

from phloem.rounds import events
from phloem.rounds.merge import MergeRule, ServerOptimizer
from phloem.tensors import state_digest

RULE = MergeRule(0.5, ServerOptimizer("adam", 0.1))


class StoppedError(Exception):
    """What the listener raises."""


class Listener:
    """Hears everything; raises at the first event of the kind that it objects to."""

    def __init__(self) -> None:
        self.heard: list[events.Event] = []
        self.objects_to: type[Any] | None = None

    def __call__(self, event: events.Event) -> None:
        if self.objects_to is not None and isinstance(event, self.objects_to):
            raise StoppedError
        self.heard.append(event)


def facts_of(exchange: Exchange) -> Any:
    """Everything that a round could change, in comparable form."""
    coordinator = exchange.coordinator
    facts, arrays, state = coordinator.save()
    sites = []
    for site in exchange.sites.values():
        own, owed, at = site.save()
        sites.append((own, {name: array.tobytes() for name, array in owed.items()}, state_digest(at)))
    waiting = (dict(coordinator._updates), dict(coordinator._refused), set(coordinator._asked))
    return (
        {
            key: list(value) if isinstance(value, list) else value
            for key, value in facts.items()
            if key != "positions"
        },
        dict(facts["positions"]),
        {name: array.tobytes() for name, array in arrays.items()},
        state_digest(state),
        waiting,
        sites,
    )


def test_a_round_is_told_in_the_order_in_which_it_happens() -> None:
    listener = Listener()
    exchange = Exchange(("ant", "bee"), emit=listener)
    exchange.round()
    kinds = [type(event).__name__ for event in listener.heard]
    per_site = ["StateReached", "UpdateSent", "UpdateReceived"]
    assert kinds == ["RoundOpened", "OrderSent", "OrderSent", *per_site, *per_site, "TrunkMoved"]


STEPS: dict[str, tuple[type[Any], Callable[[Exchange, dict[str, bytes]], Any]]] = {
    "RoundOpened": (events.RoundOpened, lambda exchange, orders: exchange.orders(train={"ant"})),
    "OrderSent": (events.OrderSent, lambda exchange, orders: exchange.orders(train={"ant"})),
    "StateReached": (
        events.StateReached,
        lambda exchange, orders: exchange.sites["ant"].receive(orders["ant"]),
    ),
    "UpdateSent": (
        events.UpdateSent,
        lambda exchange, orders: exchange.sites["bee"].reply(exchange.update("bee"), 10),
    ),
    "UpdateReceived": (
        events.UpdateReceived,
        lambda exchange, orders: exchange.coordinator.receive("bee", exchange.sites["bee"].reply(None)),
    ),
    "UpdateRefused": (
        events.UpdateRefused,
        lambda exchange, orders: exchange.coordinator.receive("bee", exchange.sites["bee"].reply(None)[:-1]),
    ),
    "TrunkMoved": (events.TrunkMoved, lambda exchange, orders: exchange.coordinator.close()),
}


@pytest.mark.parametrize("kind", STEPS)
def test_a_listener_that_raises_stops_the_exchange_before_anything_changed(kind: str) -> None:
    event, step = STEPS[kind]
    exchanges = []
    for objecting in (False, True):
        listener = Listener()
        exchange = Exchange(("ant", "bee"), emit=listener, rule=RULE)
        exchange.round()
        orders = exchange.orders()
        exchange.sites["bee"].receive(orders["bee"])
        if kind in ("UpdateReceived", "UpdateRefused", "TrunkMoved"):
            message = exchange.sites["bee"].reply(exchange.update("bee"), 10)
            if kind == "TrunkMoved":
                exchange.coordinator.receive("bee", message)
        if objecting:
            before = facts_of(exchange)
            listener.objects_to = event
            with pytest.raises(StoppedError):
                step(exchange, orders)
            assert facts_of(exchange) == before
            listener.objects_to = None
        step(exchange, orders)
        exchanges.append(exchange)
    assert facts_of(exchanges[0]) == facts_of(exchanges[1])


def test_every_kind_of_event_is_tried() -> None:
    assert {event for event, _ in STEPS.values()} == set(events.Event.__args__)

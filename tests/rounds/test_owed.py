"""Rounds without training: sites send what their last frames left out, and the trunk has all of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from tests.exchange import NONE, Exchange

from phloem.errors import FormatError
from phloem.rounds.choose import FixedChoice
from phloem.rounds.plan import Choice
from phloem.tensors import State, state_digest
from phloem.wire.messages import Order, Reply, Status

COARSE: dict[str, Any] = {"codec": "topk", "fraction": 0.1}
WEIGHTS = {"ant": 10, "bee": 30, "cat": 5}


@dataclass(frozen=True)
class Owing(FixedChoice):
    """Coarse frames in the first round; in the second everything that is owed."""

    codecs: tuple[Any, ...] = field(default=(COARSE, NONE))
    number: list[int] = field(default_factory=lambda: [0])
    always: bool = False

    @property
    def owed(self) -> bool:  # type: ignore[override]
        return self.always or self.number[0] == 1

    def opened(self, round_number: int, asked: Any, parameters: int) -> None:
        self.number[0] = round_number

    def __call__(self, site: str, round_number: int) -> Choice:
        return Choice(self.codecs[min(round_number, len(self.codecs) - 1)])


def owing(**more: Any) -> Exchange:
    exchange = Exchange(size=400, up=NONE, down=NONE, **more)
    exchange.coordinator.chooser = Owing(exchange.plan)
    return exchange


def round_of(exchange: Exchange, weights: dict[str, int] = WEIGHTS) -> dict[str, bytes]:
    """A round in which sites stand for so many examples; the replies."""
    orders = exchange.orders()
    replies = {site: exchange.reply(site, order, weights[site]) for site, order in orders.items()}
    for site, message in replies.items():
        assert exchange.coordinator.receive(site, message) is None
    exchange.coordinator.close()
    return replies


def mean_of_updates(exchange: Exchange) -> State:
    """The first state and the mean of what the sites learned from it, as FedAvg would have it."""
    total = sum(WEIGHTS.values())
    learned = {site: exchange.update(site) for site in exchange.sites}
    return {
        name: sum(WEIGHTS[site] * learned[site][name].astype(np.float64) for site in learned) / total
        for name in exchange.state
    }


def test_after_a_coarse_round_and_what_it_owed_the_trunk_has_the_whole_update() -> None:
    exchange = owing()
    whole = mean_of_updates(exchange)
    round_of(exchange)
    assert not np.allclose(exchange.coordinator.state["weight"], whole["weight"], atol=1e-3)
    round_of(exchange)
    for name, array in exchange.coordinator.state.items():
        np.testing.assert_allclose(array, whole[name], atol=1e-6)
    assert all(exchange.agree(site) for site in exchange.sites)
    assert all(not np.any(array) for site in exchange.sites.values() for array in site.owned().values())


def test_nobody_trains_and_updates_stand_for_as_many_examples_as_before() -> None:
    exchange = owing()
    round_of(exchange)
    orders = exchange.orders()
    assert all(Order.unpack(order).owed for order in orders.values())
    for site, order in orders.items():
        assert not exchange.sites[site].receive(order).train
        assert Reply.unpack(exchange.sites[site].reply(None)).examples == WEIGHTS[site]


def test_an_order_that_comes_twice_is_answered_with_the_same_update() -> None:
    exchange = owing()
    round_of(exchange)
    order = exchange.orders()["bee"]
    assert exchange.reply("bee", order) == exchange.reply("bee", order)


def test_a_site_that_never_sent_anything_owes_nothing_and_is_silent() -> None:
    exchange = owing()
    for site, order in exchange.orders(set(exchange.sites), {"ant", "bee"}).items():
        exchange.coordinator.receive(site, exchange.reply(site, order))
    exchange.coordinator.close()
    replies = round_of(exchange)
    assert Reply.unpack(replies["cat"]).status is Status.SILENT
    assert Reply.unpack(replies["ant"]).status is Status.UPDATE


def test_what_is_owed_survives_where_the_site_was_saved() -> None:
    exchange, torn = owing(), owing()
    round_of(exchange)
    round_of(torn)
    for name in torn.sites:
        facts, owed, state = torn.sites[name].save()
        again = owing().sites[name]
        again.load(facts, owed, state)
        torn.sites[name] = again
    assert round_of(exchange) == round_of(torn)
    assert state_digest(exchange.coordinator.state) == state_digest(torn.coordinator.state)


def test_sites_train_on_in_the_round_after() -> None:
    exchange = owing()
    round_of(exchange)
    round_of(exchange)
    before = exchange.coordinator.state
    orders = exchange.orders()
    assert not any(Order.unpack(order).owed for order in orders.values())
    round_of(exchange)
    assert state_digest(before) != state_digest(exchange.coordinator.state)


def test_an_order_that_asks_for_no_update_cannot_ask_for_what_is_owed() -> None:
    exchange = owing()
    round_of(exchange)
    order = Order.unpack(exchange.orders()["ant"])
    with pytest.raises(FormatError, match="asks for what is owed, and for no update"):
        exchange.sites["ant"].receive(replace(order, train=False, owed=True).pack())


def test_where_one_of_them_is_missing_nobody_pays_and_all_of_it_is_owed_on() -> None:
    exchange = owing()
    whole = mean_of_updates(exchange)
    round_of(exchange)
    replies = {site: exchange.reply(site, order) for site, order in exchange.orders().items()}
    for site in ("ant", "cat"):
        exchange.coordinator.receive(site, replies[site])
    result = exchange.coordinator.close()
    assert (result.accepted, set(result.refused)) == ((), {"ant", "cat"})
    exchange.coordinator.chooser = Owing(exchange.plan, always=True)
    round_of(exchange)
    for name, array in exchange.coordinator.state.items():
        np.testing.assert_allclose(array, whole[name], atol=1e-6)

"""Sites that were late, away, or missed an answer: they come back by deltas or by a key-frame."""

from __future__ import annotations

import numpy as np
import pytest
from tests.exchange import INT8, NONE, Exchange, sent_frames

from phloem.codecs.lossless import Lossless
from phloem.errors import StateError
from phloem.rounds import events
from phloem.tensors import state_digest
from phloem.wire import frame as frames
from phloem.wire.messages import Order, Reply, Status

EVERYONE = {"ant", "bee", "cat"}


def away(exchange: Exchange, rounds: int) -> bytes:
    """The order that brings `cat` back after `rounds` rounds without it."""
    for _ in range(rounds):
        exchange.round(EVERYONE - {"cat"})
    return exchange.orders()["cat"]


@pytest.mark.parametrize(
    "down", [NONE, INT8, {"codec": "topk", "fraction": 0.02}], ids=lambda config: config["codec"]
)
@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5, 9, 30])
def test_a_returning_site_gets_the_deltas_or_a_key_frame_whichever_is_fewer_bytes(
    down: object, rounds: int
) -> None:
    exchange = Exchange(size=400, down=down)
    missed = [len(exchange.round(EVERYONE - {"cat"}).frame) for _ in range(rounds)]
    order = exchange.orders()["cat"]
    head = exchange.layout.arrays(exchange.coordinator.state)
    key_frame = len(frames.pack(Lossless(), head, exchange.layout))
    by_key = sent_frames(order) == [True]
    assert by_key or sent_frames(order) == [False] * rounds
    fewer = sum(missed) > key_frame
    assert Order.unpack(order).frame_bytes == (key_frame if by_key else sum(missed))
    assert by_key == (fewer and rounds > 1)
    exchange.reply("cat", order)
    assert state_digest(exchange.sites["cat"].at.state) == state_digest(exchange.coordinator.state)
    assert exchange.sites["cat"].at.chain == exchange.coordinator.chain


def test_both_ways_back_really_happen() -> None:
    ways = {tuple(sent_frames(away(Exchange(size=400), rounds))) for rounds in range(1, 8)}
    assert (False,) in ways
    assert (False, False) in ways
    assert (True,) in ways


@pytest.mark.parametrize("rounds", [1, 2, 3, 9])
def test_a_site_that_left_with_an_update_in_flight_learns_its_fate_on_the_way_back(rounds: int) -> None:
    for accepted in (True, False):
        exchange = Exchange(size=400, up={"codec": "sign"})

        def lose(site: str, message: bytes, accepted: bool = accepted) -> bytes | None:
            return message if accepted or site != "cat" else None

        exchange.round(tamper=lose)
        sent = exchange.sites["cat"].at.residual
        assert sent.owed is not None
        assert sent.sent is not None
        order = away(exchange, rounds - 1)
        exchange.sites["cat"].receive(order)
        owed = exchange.sites["cat"].at.residual.owed
        assert owed is not None
        decoded = frames.unpack(sent.sent, exchange.layout).decode()
        wanted = [o - d for o, d in zip(sent.owed, decoded, strict=True)] if accepted else list(sent.owed)
        assert [np.asarray(a).tobytes() for a in owed] == [np.asarray(a).tobytes() for a in wanted]


def test_a_late_update_is_refused_by_name_and_owed_again() -> None:
    exchange = Exchange(up=NONE)
    replies = {site: exchange.reply(site, order) for site, order in exchange.orders().items()}
    for site in ("ant", "bee"):
        exchange.coordinator.receive(site, replies[site])
    result = exchange.coordinator.close()
    assert [update.site for update in result.accepted] == ["ant", "bee"]
    assert exchange.coordinator.receive("cat", replies["cat"]) == "late by 1 round(s)"
    wanted = exchange.sites["cat"].at.residual.owed
    exchange.sites["cat"].receive(exchange.orders()["cat"])
    assert exchange.sites["cat"].at.residual.owed is wanted
    assert exchange.agree("cat")


def test_a_late_answer_still_tells_where_the_site_stands() -> None:
    exchange = Exchange(size=400)
    replies = {site: exchange.reply(site, order) for site, order in exchange.orders().items()}
    exchange.coordinator.close()
    exchange.coordinator.receive("cat", replies["cat"])
    exchange.round(EVERYONE - {"cat"})
    assert exchange.coordinator.positions["cat"] == 0
    assert len(Order.unpack(exchange.orders()["cat"]).items) == 2


def test_a_site_whose_answer_was_lost_is_sent_frames_that_it_has_and_skips_them() -> None:
    exchange = Exchange(size=400)
    exchange.round()
    exchange.round(tamper=lambda site, message: None if site == "cat" else message)
    assert exchange.coordinator.positions["cat"] == 0
    assert exchange.sites["cat"].at.round == 1
    order = exchange.orders()["cat"]
    assert Order.unpack(order).start == 0
    exchange.reply("cat", order)
    assert exchange.sites["cat"].at.round == 2
    assert state_digest(exchange.sites["cat"].at.state) == state_digest(exchange.coordinator.state)


@pytest.mark.parametrize("rounds", [1, 9])
def test_an_order_that_comes_twice_is_answered_with_the_same_update(rounds: int) -> None:
    exchange = Exchange(size=400)
    order = away(exchange, rounds)
    first = exchange.reply("cat", order, examples=17)
    before = exchange.sites["cat"].save()
    work = exchange.sites["cat"].receive(order)
    assert not work.train
    assert exchange.sites["cat"].reply(None) == first
    assert exchange.sites["cat"].reply(exchange.update("cat"), 99) == first
    after = exchange.sites["cat"].save()
    assert before[0] == after[0]
    assert state_digest(before[1]) == state_digest(after[1])
    assert Reply.unpack(first).status is Status.UPDATE
    assert exchange.coordinator.receive("cat", first) is None
    assert [update.site for update in exchange.coordinator.close().accepted] == ["cat"]


@pytest.mark.parametrize("rounds", [1, 9])
def test_an_order_of_a_past_round_does_not_take_a_site_back(rounds: int) -> None:
    exchange = Exchange(size=400)
    old = away(exchange, rounds)
    exchange.round()
    exchange.sites["cat"].receive(exchange.orders()["cat"])
    before = exchange.sites["cat"].save()[0]
    with pytest.raises(StateError, match="not at the trunk of round"):
        exchange.sites["cat"].receive(old)
    assert exchange.sites["cat"].save()[0] == before


def test_an_order_that_leaves_frames_out_is_refused_and_changes_nothing() -> None:
    exchange = Exchange(size=400)
    exchange.round()
    exchange.round(EVERYONE - {"cat"})
    exchange.coordinator.positions["cat"] = 2
    order = exchange.orders()["cat"]
    with pytest.raises(StateError):
        exchange.sites["cat"].receive(order)
    assert exchange.sites["cat"].at.round == 0


def test_only_as_many_deltas_are_kept_as_are_cheaper_than_a_key_frame() -> None:
    exchange = Exchange(size=400)
    for _ in range(12):
        exchange.round()
        assert len(exchange.coordinator.recent) >= 1
        assert sum(map(len, exchange.coordinator.recent)) <= 4 * exchange.layout.size


def test_every_frame_of_an_order_is_announced_by_its_digest() -> None:
    heard: list[events.Event] = []
    exchange = Exchange(size=400, emit=heard.append)
    away(exchange, 2)
    sent = [event for event in heard if isinstance(event, events.OrderSent) and event.site == "cat"][-1]
    moved = [event.frame for event in heard if isinstance(event, events.TrunkMoved)]
    assert list(sent.frames) == moved

"""What a broken or lying site, line or coordinator can do: be refused by name, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.exchange import NONE, Exchange, reframed

from phloem import canonical
from phloem.codecs.casts import NoCompression
from phloem.codecs.ecsq import Ecsq
from phloem.errors import ConfigError, FormatError, StateError
from phloem.rounds import events
from phloem.rounds.coordinator import DIVERGED
from phloem.rounds.merge import MergeRule, ServerOptimizer
from phloem.tensors import state_digest
from phloem.testing.strategies import tampered
from phloem.wire import frame as frames
from phloem.wire.messages import Item, Order, Reply, Status


def changed(**fields: Any) -> Callable[[Exchange, bytes], bytes]:
    """A reply with other fields."""
    return lambda exchange, message: dataclasses.replace(Reply.unpack(message), **fields).pack()


def with_body(values: float) -> Callable[[Exchange, bytes], bytes]:
    """A reply whose frame is raw float32 of one value, with a checksum that fits."""

    def tamper(exchange: Exchange, message: bytes) -> bytes:
        arrays = exchange.layout.arrays(exchange.state)
        frame = frames.pack(NoCompression(), arrays, exchange.layout)
        body = np.full(exchange.layout.size, values, "<f4").tobytes()
        return changed(frame=reframed(frame, exchange.layout, body))(exchange, message)

    return tamper


def key_frame(exchange: Exchange, message: bytes) -> bytes:
    arrays = exchange.layout.arrays(exchange.state)
    return changed(frame=frames.pack(NoCompression(), arrays, exchange.layout, key_frame=True))(
        exchange, message
    )


def ecsq_frame(exchange: Exchange, message: bytes) -> bytes:
    frame = frames.pack(Ecsq(step=0.1), exchange.layout.arrays(exchange.state), exchange.layout)
    return changed(frame=frame)(exchange, message)


ATTACKS: dict[str, tuple[Callable[[Exchange, bytes], bytes], str]] = {
    "garbage": (lambda exchange, message: b"\xde\xad\xbe\xef" * 9, "damaged reply"),
    "nothing": (lambda exchange, message: b"", "damaged reply"),
    "an order": (lambda exchange, message: exchange.orders()["bee"], "damaged reply"),
    "a truncated envelope": (lambda exchange, message: message[:9], "damaged reply"),
    "a truncated frame": (lambda exchange, message: message[:-1], "damaged frame"),
    "an extended frame": (lambda exchange, message: message + b"\0", "damaged frame"),
    "a flipped bit": (
        lambda exchange, message: message[:-9] + bytes([message[-9] ^ 1]) + message[-8:],
        "damaged",
    ),
    "another site's index": (changed(site=0), "names another site"),
    "an index beyond all sites": (changed(site=2**40), "names another site"),
    "another chain": (changed(chain=bytes(8)), "another trunk"),
    "a round to come": (changed(round=5), "another trunk"),
    "an absurd round": (changed(round=2**63), "another trunk"),
    "no examples": (changed(examples=0), "examples is outside the plan"),
    "more examples than there are": (changed(examples=2**40), "examples is outside the plan"),
    "an oversize frame": (changed(frame=b"\xb1\x00" + bytes(100_000)), "outside the plan"),
    "an empty frame": (changed(frame=b""), "damaged frame"),
    "a key-frame": (key_frame, "found a key-frame"),
    "a codec outside the plan": (ecsq_frame, "codec 'ecsq'"),
    "NaN in raw float32": (with_body(float("nan")), "NaN or infinity"),
    "infinity in raw float32": (with_body(float("inf")), "NaN or infinity"),
    "values beyond 2^100": (with_body(2.0**101), "beyond 2^100"),
    "a refusal of its own": (changed(status=Status.REFUSED, reason="disk on fire"), "itself: disk on fire"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_by_name_and_the_round_goes_on_without_it(attack: str) -> None:
    tamper, said = ATTACKS[attack]
    heard: list[events.Event] = []
    exchange = Exchange(emit=heard.append)
    exchange.round()
    result = exchange.round(
        tamper=lambda site, message: tamper(exchange, message) if site == "bee" else message
    )
    assert [update.site for update in result.accepted] == ["ant", "cat"]
    assert list(result.refused) == ["bee"]
    assert said in result.refused["bee"]
    assert [event.site for event in heard if isinstance(event, events.UpdateRefused)] == ["bee"]
    assert all(np.isfinite(array).all() for array in exchange.coordinator.state.values())

    clean = Exchange()
    clean.round()
    clean.round(tamper=lambda site, message: None if site == "bee" else message)
    assert clean.coordinator.chain == exchange.coordinator.chain
    assert state_digest(clean.coordinator.state) == state_digest(exchange.coordinator.state)
    assert exchange.agree("ant")
    assert exchange.agree("bee")


@given(st.data())
def test_whatever_a_site_sends_the_coordinator_never_raises_and_stays_finite(data: st.DataObject) -> None:
    exchange = Exchange()
    for site, order in exchange.orders().items():
        message = data.draw(tampered(exchange.reply(site, order)) | st.binary(max_size=60))
        assert isinstance(exchange.coordinator.receive(site, message), (str, type(None)))
    exchange.coordinator.close()
    assert all(np.isfinite(array).all() for array in exchange.coordinator.state.values())


@given(st.data())
def test_whatever_an_order_is_a_site_takes_it_whole_or_refuses_it_unchanged(data: st.DataObject) -> None:
    exchange = Exchange()
    exchange.round()
    order = data.draw(tampered(exchange.orders()["ant"]) | st.binary(max_size=60))
    site = exchange.sites["ant"]
    before = (site.save()[0], state_digest(site.at.state))
    try:
        site.receive(order)
    except (FormatError, StateError):
        assert (site.save()[0], state_digest(site.at.state)) == before
        return
    assert site.at.chain == exchange.coordinator.chain


def test_a_name_that_is_no_site_is_refused() -> None:
    exchange = Exchange()
    message = exchange.reply("ant", exchange.orders()["ant"])
    assert exchange.coordinator.receive("dog", message) == "the reply names another site"


def test_a_second_update_in_one_round_changes_nothing_and_the_first_counts() -> None:
    exchange = Exchange()
    replies = {site: exchange.reply(site, order) for site, order in exchange.orders().items()}
    for site, message in replies.items():
        exchange.coordinator.receive(site, message)
    assert exchange.coordinator.receive("bee", replies["bee"]) == "sent a second update in one round"
    assert exchange.coordinator.receive("bee", b"noise") is not None
    result = exchange.coordinator.close()
    assert [update.site for update in result.accepted] == ["ant", "bee", "cat"]
    assert result.refused == {}


def test_a_good_update_after_a_damaged_one_counts() -> None:
    exchange = Exchange()
    for site, order in exchange.orders().items():
        message = exchange.reply(site, order)
        assert exchange.coordinator.receive(site, message[:-1]) is not None
        assert exchange.coordinator.receive(site, message) is None
    result = exchange.coordinator.close()
    assert len(result.accepted) == 3
    assert result.refused == {}


def test_an_update_nobody_asked_for_is_refused() -> None:
    exchange = Exchange()
    orders = exchange.orders(train={"ant"})
    exchange.sites["bee"].receive(orders["bee"])
    message = exchange.sites["bee"].reply(exchange.update("bee"), 10)
    assert exchange.coordinator.receive("bee", message) == "sent an update without being asked to train"
    assert exchange.coordinator.close().accepted == ()
    assert exchange.agree("bee")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_site_refuses_its_own_update_with_nan_and_keeps_its_residual(bad: float) -> None:
    exchange = Exchange(up={"codec": "sign"})
    exchange.round()
    exchange.sites["bee"].receive(exchange.orders()["bee"])
    before = exchange.sites["bee"].at
    message = exchange.sites["bee"].reply({**before.state, "weight": np.full((10, 4), bad, np.float32)}, 10)
    assert exchange.coordinator.receive("bee", message) == (
        "refused by the site itself: tensor 'weight' holds NaN or infinity"
    )
    assert exchange.sites["bee"].at is before


@pytest.mark.parametrize("value", [2.0**100, 3e38])
def test_one_diverged_round_does_not_poison_a_site_for_ever(value: float) -> None:
    exchange = Exchange(up=NONE)
    for site, order in exchange.orders().items():
        exchange.sites[site].receive(order)
        state = exchange.sites[site].at.state
        trained = {**state, "bias": np.full(3, value, np.float32)} if site == "bee" else exchange.update(site)
        exchange.coordinator.receive(site, exchange.sites[site].reply(trained, 10))
    result = exchange.coordinator.close()
    assert result.refused == {"bee": "refused by the site itself: tensor 'bias' holds values beyond 2^100"}
    assert [update.site for update in exchange.round().accepted] == ["ant", "bee", "cat"]


def test_an_update_whose_difference_overflows_is_refused_without_a_warning() -> None:
    exchange = Exchange(("ant",))
    exchange.sites["ant"].at = dataclasses.replace(
        exchange.sites["ant"].at, state={**exchange.state, "bias": np.full(3, -3e38, np.float32)}
    )
    message = exchange.sites["ant"].reply({**exchange.state, "bias": np.full(3, 3e38, np.float32)}, 10)
    assert Reply.unpack(message).status is Status.REFUSED


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bias": np.zeros(4, np.float32)}, "expected shape"),
        ({"bias": np.zeros(3, np.int64)}, "has type int64"),
        ({"more": np.zeros(3, np.float32)}, "not part of the agreed layout"),
    ],
)
def test_a_task_whose_state_changes_shape_is_named_with_its_site(wrong: dict[str, Any], said: str) -> None:
    exchange = Exchange()
    exchange.sites["bee"].receive(exchange.orders()["bee"])
    with pytest.raises(ConfigError, match=f"site 'bee' trained a model of another shape: .*{said}"):
        exchange.sites["bee"].reply({**exchange.state, **wrong}, 10)


def flipped(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    changed_array = array.copy()
    changed_array.view(np.uint32).reshape(-1)[0] ^= 1 << 20
    return changed_array


def test_a_site_that_decodes_another_state_fails_loudly_at_its_next_order() -> None:
    exchange = Exchange()
    exchange.round()
    site = exchange.sites["bee"]
    site.at = dataclasses.replace(
        site.at, state={**site.at.state, "weight": flipped(site.at.state["weight"])}
    )
    with pytest.raises(StateError, match="site 'bee' decoded another state than the coordinator in round 1"):
        site.receive(exchange.orders()["bee"])


def test_a_site_that_reports_another_state_is_told_apart_from_every_other_refusal() -> None:
    exchange = Exchange()
    replies = {site: exchange.reply(site, order) for site, order in exchange.orders().items()}
    lie = dataclasses.replace(Reply.unpack(replies["bee"]), state=bytes(8)).pack()
    reason = exchange.coordinator.receive("bee", lie)
    assert reason is not None
    assert reason.startswith(DIVERGED)


def test_a_server_step_that_is_not_finite_stops_the_run_and_leaves_the_trunk() -> None:
    rule = MergeRule(0.0, ServerOptimizer("sgd", 1.0))
    exchange = Exchange(rule=rule)
    exchange.round()

    class Diverged:
        def step(self, layout: Any, updates: Any) -> Any:
            return [np.full(spec.shape, np.inf, np.float32) for spec in layout.specs]

        def save(self) -> dict[str, Any]:
            return {}

        def load(self, saved: dict[str, Any]) -> None:
            pass

    before = (
        exchange.coordinator.round,
        exchange.coordinator.chain,
        state_digest(exchange.coordinator.state),
    )
    exchange.coordinator.merger = Diverged()
    with pytest.raises(ConfigError, match="the merged step of round 1 is not finite"):
        exchange.round()
    after = (exchange.coordinator.round, exchange.coordinator.chain, state_digest(exchange.coordinator.state))
    assert before == after


HOSTILE_CHOICES = {
    "no JSON": b"int8",
    "a list": b'["int8"]',
    "an unknown codec": b'{"codec":"zip"}',
    "a codec that is a list": b'{"codec":["int8"]}',
    "a codec outside the plan": b'{"bits":1.0,"codec":"ecsq"}',
    "an unknown option": b'{"codec":"int8","colour":1}',
    "an option out of range": b'{"block":0,"codec":"int8"}',
    "an option of the wrong type": b'{"block":"x","codec":"int8"}',
}


@pytest.mark.parametrize("what", HOSTILE_CHOICES)
def test_a_choice_outside_the_plan_is_refused_by_the_site(what: str) -> None:
    exchange = Exchange()
    order = dataclasses.replace(Order.unpack(exchange.orders()["ant"]), choice=HOSTILE_CHOICES[what])
    with pytest.raises(FormatError):
        exchange.sites["ant"].receive(order.pack())


def test_a_bitmap_or_frame_exchanged_on_the_way_down_is_found() -> None:
    exchange = Exchange()
    exchange.round()
    order = Order.unpack(exchange.orders()["ant"])
    item = order.items[0]
    other = frames.pack(NoCompression(), exchange.layout.arrays(exchange.state), exchange.layout)
    key = frames.pack(
        NoCompression(), exchange.layout.arrays(exchange.state), exchange.layout, key_frame=True
    )
    for wrong in (
        Item(b"\x05", item.frame),
        Item(item.accepted, other),
        Item(item.accepted, key),
        Item(b"", b""),
    ):
        with pytest.raises((FormatError, StateError)):
            exchange.sites["ant"].receive(dataclasses.replace(order, items=(wrong,)).pack())
    assert exchange.sites["ant"].at.round == 0


def test_a_key_frame_that_holds_another_state_is_found_by_the_digest() -> None:
    exchange = Exchange()
    exchange.round()
    order = Order.unpack(exchange.orders()["ant"])
    key = frames.pack(
        NoCompression(), exchange.layout.arrays(exchange.state), exchange.layout, key_frame=True
    )
    forged = dataclasses.replace(
        order, items=(Item(order.items[0].accepted, key),), key_chain=exchange.coordinator.chain
    )
    with pytest.raises(StateError, match="decoded another state"):
        exchange.sites["ant"].receive(forged.pack())


def test_frames_are_named_by_their_digest_in_events() -> None:
    heard: list[events.Event] = []
    exchange = Exchange(emit=heard.append)
    result = exchange.round()
    sent = {event.site: event.frame for event in heard if isinstance(event, events.UpdateSent)}
    came = {event.site: event.frame for event in heard if isinstance(event, events.UpdateReceived)}
    assert sent == came == {update.site: canonical.digest(update.frame) for update in result.accepted}

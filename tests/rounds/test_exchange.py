"""Rounds that go well: everyone agrees, whatever the order of delivery and whoever is there."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.exchange import INT8, NONE, Exchange, first_state, plan_of

from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError, FormatError, StateError
from phloem.rounds.choose import FixedChoice
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.merge import MergeRule, ServerOptimizer
from phloem.rounds.plan import Choice, Later, Plan
from phloem.rounds.site import Site
from phloem.seeds import generator
from phloem.tensors import Layout, state_digest
from phloem.wire import frame as frames
from phloem.wire.messages import Order, Reply, Status

EVERYONE = {"ant", "bee", "cat"}


CHAIN = {"codec": "chain", "stages": [{"codec": "hadamard"}, {"codec": "qsgd", "levels": 3}]}


@pytest.mark.parametrize(
    "up",
    [
        NONE,
        INT8,
        {"codec": "bf16"},
        {"codec": "topk", "fraction": 0.1},
        {"codec": "sign"},
        {"codec": "eden"},
        {"codec": "linear", "step": 0.01, "senders": 3},
        CHAIN,
    ],
)
@pytest.mark.parametrize(
    "rule", [MergeRule(), MergeRule(0.5, ServerOptimizer("nesterov", 0.7))], ids=["avg", "p"]
)
def test_every_site_names_the_same_state_after_every_round(up: dict[str, Any], rule: MergeRule) -> None:
    exchange = Exchange(up=up, rule=rule)
    for number in range(4):
        result = exchange.round()
        assert [update.site for update in result.accepted] == sorted(EVERYONE)
        assert exchange.coordinator.round == number + 1
        assert all(exchange.agree(site) for site in EVERYONE)


def test_the_order_in_which_replies_come_changes_nothing() -> None:
    found = set()
    for order_of_delivery in itertools.permutations(sorted(EVERYONE)):
        exchange = Exchange(rule=MergeRule(0.5, ServerOptimizer("adam", 0.1)))
        for _ in range(3):
            replies = {site: exchange.reply(site, order) for site, order in exchange.orders().items()}
            for site in order_of_delivery:
                assert exchange.coordinator.receive(site, replies[site]) is None
            exchange.coordinator.close()
        found.add((state_digest(exchange.coordinator.state), exchange.coordinator.chain))
    assert len(found) == 1


def test_updates_are_added_in_the_order_of_names_even_where_the_order_shows() -> None:
    found = set()
    learned = {
        "ant": 2.0**90,
        "bee": 1.0,
        "cat": -(2.0**90),
    }  # (2^90 + 1) - 2^90 is 0, (2^90 - 2^90) + 1 is 1
    for order_of_delivery in itertools.permutations(sorted(EVERYONE)):
        exchange = Exchange(up=NONE, down=NONE)
        replies = {}
        for site, order in exchange.orders().items():
            exchange.sites[site].receive(order)
            trained = {name: array + np.float32(learned[site]) for name, array in exchange.state.items()}
            replies[site] = exchange.sites[site].reply(trained, 1)
        for site in order_of_delivery:
            exchange.coordinator.receive(site, replies[site])
        exchange.coordinator.close()
        found.add(state_digest(exchange.coordinator.state))
    assert len(found) == 1


def test_the_trunk_is_the_first_state_and_the_sum_of_decoded_frames() -> None:
    exchange = Exchange()
    state = exchange.state
    for _ in range(3):
        result = exchange.round()
        step = exchange.layout.named(frames.unpack(result.frame, exchange.layout).decode())
        state = {name: np.asarray(state[name] + step[name]) for name in state}
    assert state_digest(state) == state_digest(exchange.coordinator.state)


def test_sites_that_were_not_asked_follow_without_training() -> None:
    exchange = Exchange()
    result = exchange.round(train={"bee"})
    assert [update.site for update in result.accepted] == ["bee"]
    assert result.refused == {}
    assert all(exchange.agree(site) for site in EVERYONE)


def test_a_round_without_any_site_moves_the_trunk_by_what_is_owed() -> None:
    exchange = Exchange(up=NONE, down={"codec": "topk", "fraction": 0.3})
    exchange.round()
    owed = exchange.coordinator.residual.owed
    assert owed is not None
    before = [np.abs(array).sum() for array in owed]
    result = exchange.round(reachable=set())
    assert result.accepted == ()
    after = exchange.coordinator.residual.owed
    assert after is not None
    assert sum(np.abs(array).sum() for array in after) < sum(before)
    assert all(exchange.agree(site) for site in EVERYONE)


def test_a_first_round_without_any_site_leaves_the_state_as_it_was() -> None:
    exchange = Exchange()
    exchange.round(reachable=set())
    assert state_digest(exchange.coordinator.state) == state_digest(exchange.state)
    assert all(exchange.agree(site) for site in EVERYONE)


def test_a_site_with_no_examples_is_silent_and_counts_for_nothing() -> None:
    exchange = Exchange()
    orders = exchange.orders()
    for site, order in orders.items():
        message = exchange.reply(site, order, examples=0 if site == "ant" else 10)
        assert (Reply.unpack(message).status is Status.SILENT) == (site == "ant")
        assert exchange.coordinator.receive(site, message) is None
    result = exchange.coordinator.close()
    assert [update.site for update in result.accepted] == ["bee", "cat"]
    assert result.refused == {}


def test_examples_are_the_weights_of_the_mean() -> None:
    exchange = Exchange(("ant", "bee"), up=NONE, down=NONE)
    for site, order in exchange.orders().items():
        exchange.sites[site].receive(order)
        trained = {name: array + (4.0 if site == "ant" else 0.0) for name, array in exchange.state.items()}
        exchange.coordinator.receive(site, exchange.sites[site].reply(trained, 30 if site == "ant" else 90))
    exchange.coordinator.close()
    for name, array in exchange.coordinator.state.items():
        assert np.allclose(array, exchange.state[name] + 1.0, atol=1e-6)


def test_what_a_site_lost_reaches_the_trunk_in_later_rounds() -> None:
    exchange = Exchange(("ant",), up={"codec": "topk", "fraction": 0.1}, down=NONE)
    learned = {name: np.zeros(array.shape) for name, array in exchange.state.items()}
    for _ in range(12):
        for site, order in exchange.orders().items():
            exchange.sites[site].receive(order)
            at = exchange.sites[site].at
            trained = exchange.update(site)
            learned = {
                name: learned[name] + trained[name] - at.state[name].astype(np.float64) for name in learned
            }
            exchange.coordinator.receive(site, exchange.sites[site].reply(trained, 10))
        exchange.coordinator.close()
    assert exchange.agree("ant")
    owed = exchange.layout.named(list(exchange.sites["ant"].at.residual.owed or ()))
    for name, start in exchange.state.items():
        assert np.allclose(start + learned[name], exchange.coordinator.state[name] + owed[name], atol=1e-4)


def test_random_codecs_draw_anew_for_every_frame_and_the_same_in_every_replay() -> None:
    def kept(exchange: Exchange) -> list[tuple[int, ...]]:
        found = []
        for _ in range(3):
            for update in exchange.round().accepted:
                decoded = exchange.plan.admit(update.frame, exchange.layout).decode()
                found.append(tuple(np.flatnonzero(np.concatenate([a.reshape(-1) for a in decoded]))))
        return found

    up = {"codec": "randomk", "fraction": 0.2}
    drawn = kept(Exchange(up=up))
    assert len(set(drawn)) == len(drawn) == 9
    assert kept(Exchange(up=up)) == drawn


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_an_update_is_clipped_to_the_plans_norm_and_never_stretched(limit: float) -> None:
    exchange = Exchange(("ant",), up=NONE, down=NONE, clip_norm=limit)
    exchange.sites["ant"].receive(exchange.orders()["ant"])
    trained = exchange.update("ant")
    exchange.coordinator.receive("ant", exchange.sites["ant"].reply(trained, 10))
    exchange.coordinator.close()
    wanted = np.concatenate([(trained[n] - exchange.state[n]).reshape(-1) for n in sorted(trained)])
    got = np.concatenate(
        [(exchange.coordinator.state[n] - exchange.state[n]).reshape(-1) for n in sorted(trained)]
    )
    assert np.linalg.norm(got) == pytest.approx(min(limit, float(np.linalg.norm(wanted))), rel=1e-4)
    assert np.dot(got, wanted) == pytest.approx(np.linalg.norm(got) * np.linalg.norm(wanted), rel=1e-4)


@pytest.mark.parametrize("up", [INT8, CHAIN], ids=["int8", "chain"])
def test_the_coordinator_and_the_sites_stand_again_where_they_were_saved(up: dict[str, Any]) -> None:
    rule = MergeRule(0.5, ServerOptimizer("nesterov", 0.7))
    whole, torn = Exchange(rule=rule, up=up), Exchange(rule=rule, up=up)
    for number in range(6):
        reachable = EVERYONE - ({"cat"} if number in (1, 2) else set())
        whole.round(reachable)
        torn.round(reachable)
        facts, arrays, state = torn.coordinator.save()
        fresh = Coordinator(torn.plan, torn.state)
        fresh.load(facts, arrays, state, list(torn.coordinator.recent))
        torn.coordinator = fresh
        for name, site in torn.sites.items():
            another = Site(name, torn.plan, torn.state)
            another.load(*site.save())
            torn.sites[name] = another
        assert fresh.chain == whole.coordinator.chain
        assert state_digest(fresh.state) == state_digest(whole.coordinator.state)
    assert all(torn.agree(site) for site in EVERYONE)


class Always(FixedChoice):
    """One choice for everybody."""

    def __init__(self, choice: Choice) -> None:
        object.__setattr__(self, "choice", choice)

    def __call__(self, site: str, round_number: int) -> Choice:
        return self.choice


def test_a_choice_of_the_coordinator_is_followed_inside_the_plan_and_refused_outside() -> None:
    exchange = Exchange(("ant",))
    sign = Choice({"codec": "sign"})
    exchange.coordinator.chooser = Always(sign)
    message = exchange.reply("ant", exchange.orders()["ant"])
    assert Reply.unpack(message).frame[1] & 0x3F == 5
    exchange.coordinator.chooser = Always(Choice({"codec": "ecsq", "bits": 1.0}))
    with pytest.raises(ConfigError, match="codec 'ecsq' is not in the plan"):
        exchange.orders()


def test_the_plans_later_choices_begin_in_their_round_and_cost_no_bytes_in_orders() -> None:
    later = (Later(2, up=NONE, down=INT8),)
    exchange, plain = Exchange(later=later), Exchange()
    for number in range(4):
        orders = exchange.orders(train=set(exchange.sites))
        codecs = set()
        for site, order in orders.items():
            assert Order.unpack(order).choice == b""
            reply = exchange.reply(site, order)
            codecs.add(frames.unpack(Reply.unpack(reply).frame, exchange.layout).codec.name)
            exchange.coordinator.receive(site, reply)
        exchange.coordinator.close()
        assert codecs == ({"int8"} if number < 2 else {"none"})
    assert exchange.plan.digest != plain.plan.digest
    assert all(exchange.agree(site) for site in exchange.sites)


@pytest.mark.parametrize("which", ["site", "coordinator"])
def test_whoever_starts_from_another_model_than_the_plan_is_stopped(which: str) -> None:
    state = first_state()
    plan = plan_of(state, ("ant",))
    other = {**state, "bias": state["bias"] + 1}
    with pytest.raises(StateError, match="starts from another model"):
        Site("ant", plan, other) if which == "site" else Coordinator(plan, other)


@pytest.mark.parametrize("sites", [(), ("bee", "ant"), ("ant", "ant")])
def test_a_plan_names_its_sites_once_and_in_order(sites: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="sorted by name"):
        plan_of(first_state(), sites)


def test_a_plan_allows_only_codecs_that_exist_and_its_own_default_is_among_them() -> None:
    with pytest.raises(ConfigError, match="'zip', which does not exist"):
        Plan("x", 0, ("a",), "00", "00", NONE, NONE, ("none", "zip"), 100)
    with pytest.raises(ConfigError, match="'int8' is not in the plan"):
        Plan("x", 0, ("a",), "00", "00", INT8, NONE, ("none",), 100)


def test_plans_that_differ_in_anything_have_different_digests_and_first_chain_ids() -> None:
    state = first_state()
    plans = [
        plan_of(state, ("ant", "bee")),
        plan_of(state, ("ant", "cat")),
        plan_of(state, ("ant", "bee"), up=NONE),
        plan_of(state, ("ant", "bee"), merge=MergeRule(0.5)),
        plan_of(state, ("ant", "bee"), clip_norm=1.0),
        plan_of({**state, "bias": state["bias"] + 1}, ("ant", "bee")),
    ]
    assert len({plan.digest for plan in plans}) == len({plan.genesis for plan in plans}) == len(plans)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_a_bitmap_says_exactly_who_is_in_it(count: int) -> None:
    names = tuple(f"site-{n:03}" for n in range(count))
    plan = plan_of(first_state(), names)
    chosen = {name for name in names if generator(0, name).random() < 0.5}
    bitmap = plan.bitmap(chosen)
    assert len(bitmap) == -(-count // 8)
    assert {name for name in names if plan.in_bitmap(bitmap, name)} == chosen
    for wrong in (b"", bitmap + b"\0"):
        with pytest.raises(FormatError, match="takes no"):
            plan.in_bitmap(wrong, names[0])


def test_digests_are_compared_only_as_often_as_the_plan_says() -> None:
    exchange = Exchange(digest_every=3)
    for number in range(7):
        orders = exchange.orders()
        assert all((Order.unpack(order).state is not None) == (number % 3 == 0) for order in orders.values())
        for site, order in orders.items():
            message = exchange.reply(site, order)
            assert (Reply.unpack(message).state is not None) == (number % 3 == 0)
            assert exchange.coordinator.receive(site, message) is None
        result = exchange.coordinator.close()
        assert (result.state is not None) == ((number + 1) % 3 == 0)


def test_attachments_travel_both_ways_and_are_counted_as_control() -> None:
    exchange = Exchange()
    plain = exchange.orders()
    orders = exchange.coordinator.orders(EVERYONE, EVERYONE, {"bee": b"receipt"})
    assert len(orders["bee"]) == len(plain["bee"]) + len(b"receipt")
    for site, order in orders.items():
        work = exchange.sites[site].receive(order)
        assert work.attachment == (b"receipt" if site == "bee" else b"")
        reply = exchange.sites[site].reply(exchange.update(site), 10, b"signed by " + site.encode())
        assert Reply.unpack(reply).frame_bytes < len(reply) - len(b"signed by ")
        exchange.coordinator.receive(site, reply)
    result = exchange.coordinator.close()
    assert result.attachments == {site: b"signed by " + site.encode() for site in EVERYONE}
    assert exchange.round().attachments == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda item, layout: replace(item, accepted=bytes(100_000)), "takes no 100000 bytes"),
        (lambda item, layout: replace(item, frame=item.frame + bytes(10_000)), "is outside the plan"),
        (lambda item, layout: replace(item, frame=in_ecsq(layout)), "codec 'ecsq' is not in the plan"),
    ],
    ids=["a long list of sites", "a long frame", "a codec outside the plan"],
)
def test_a_site_takes_no_frame_that_the_plan_does_not_allow(change: Any, said: str) -> None:
    exchange = Exchange()
    exchange.round()
    order = Order.unpack(exchange.orders(train=set())["ant"])
    hostile = replace(order, items=tuple(change(item, exchange.layout) for item in order.items))
    before = exchange.sites["ant"].at
    with pytest.raises(FormatError, match=said):
        exchange.sites["ant"].receive(hostile.pack())
    assert exchange.sites["ant"].at is before


def in_ecsq(layout: Layout) -> bytes:
    """A good frame of a codec that the test's plan does not have."""
    arrays = [np.ones(spec.shape, np.float32) for spec in layout.specs]
    return frames.pack(codec_from({"codec": "ecsq", "bits": 4.0}), arrays, layout)

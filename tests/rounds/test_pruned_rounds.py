"""Rounds under a pruning schedule: both ends derive one mask, and pruned weights take no bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.exchange import INT8, NONE, Exchange, first_state, plan_of, sent_frames

from phloem.codecs.casts import NoCompression
from phloem.codecs.model import Model
from phloem.codecs.registry import codec_from
from phloem.errors import FormatError
from phloem.pruning import Pruning
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.merge import MergeRule, ServerOptimizer
from phloem.rounds.site import Site
from phloem.tensors import state_digest
from phloem.wire import frame as frames
from phloem.wire.messages import Order, Reply

EVERYONE = {"ant", "bee", "cat"}
SCHEDULE = Pruning(0.8, 2, 8, 2, regrow=0.25)
NESTEROV = MergeRule(0.5, ServerOptimizer("nesterov", 0.7))


def pruned_exchange(size: int = 400, **plan: Any) -> Exchange:
    return Exchange(size=size, prune=SCHEDULE, **plan)


def pruned_weights(exchange: Exchange) -> int:
    weight = exchange.coordinator.state["weight"]
    return int((weight.view(np.uint32) == 0x80000000).sum())


@pytest.mark.parametrize("codec", [NONE, INT8, {"codec": "topk", "fraction": 0.1}], ids=lambda c: c["codec"])
@pytest.mark.parametrize("rule", [MergeRule(), NESTEROV], ids=["avg", "p"])
def test_every_site_names_the_same_pruned_state_after_every_round(codec: Any, rule: MergeRule) -> None:
    exchange = pruned_exchange(up=codec, down=codec, rule=rule)
    for number in range(11):
        result = exchange.round()
        assert [update.site for update in result.accepted] == sorted(EVERYONE)
        assert all(exchange.agree(site) for site in EVERYONE)
        wanted = 0 if number < 3 else round(400 * SCHEDULE.sparsity_at(min(8, (number + 1) // 2 * 2)))
        assert pruned_weights(exchange) == wanted


def test_pruned_weights_take_no_bytes_in_either_direction() -> None:
    exchange = pruned_exchange(up=NONE, down=NONE)
    for number in range(10):
        kept = 400 - pruned_weights(exchange)
        sizes = {}
        for site, order in exchange.orders().items():
            message = exchange.reply(site, order)
            sizes[site] = len(Reply.unpack(message).frame)
            exchange.coordinator.receive(site, message)
        result = exchange.coordinator.close()
        padding = 0 if number < 4 else 1
        for size in (*sizes.values(), len(result.frame)):
            assert 0 <= size - (6 + 4 * (kept + 3 + 1)) <= 4 * padding * 4
    assert pruned_weights(exchange) == 320


def test_a_pruned_trunk_stays_zero_where_it_is_pruned() -> None:
    exchange = pruned_exchange(rule=NESTEROV, down={"codec": "topk", "fraction": 0.3})
    for _ in range(9):
        exchange.round()
    gone = exchange.coordinator.state["weight"] == 0
    for _ in range(5):
        exchange.round()
    assert (exchange.coordinator.state["weight"][gone] == 0).all()


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("down", [NONE, {"codec": "topk", "fraction": 0.02}], ids=lambda c: c["codec"])
def test_a_site_that_was_away_while_masks_changed_comes_back_to_the_same_bits(rounds: int, down: Any) -> None:
    exchange = pruned_exchange(down=down)
    for before in range(3):
        exchange.round(
            tamper=lambda site, message, now=before: None if now == 2 and site == "cat" else message
        )
    for _ in range(rounds):
        exchange.round(EVERYONE - {"cat"})
    exchange.sites["cat"].receive(exchange.orders()["cat"])
    assert exchange.agree("cat")
    kept = exchange.sites["cat"].kept
    assert kept.size == exchange.coordinator.kept.size
    owed = exchange.sites["cat"].at.residual.owed
    assert owed is not None  # its last update was lost, and what is left of it fits the mask of now
    assert [array.shape for array in owed] == [spec.shape for spec in kept.layout.specs]
    for _ in range(2):
        assert "cat" in [update.site for update in exchange.round().accepted]
    assert all(exchange.agree(site) for site in EVERYONE)


def test_both_ways_back_really_happen_and_a_key_frame_costs_only_what_is_kept() -> None:
    exchange = pruned_exchange(down=NONE)
    for _ in range(12):
        exchange.round(EVERYONE - {"cat"})
    order = exchange.orders()["cat"]
    assert sent_frames(order) == [True]
    assert Order.unpack(order).frame_bytes < 0.4 * 4 * exchange.layout.size
    exchange = pruned_exchange(down={"codec": "topk", "fraction": 0.005})
    for _ in range(12):
        exchange.round(EVERYONE - {"cat"})
    assert sent_frames(exchange.orders()["cat"]) == [False] * 12


def test_what_a_site_still_owes_survives_where_weights_stay_and_goes_with_those_that_go() -> None:
    exchange = Exchange(("ant",), size=400, up={"codec": "topk", "fraction": 0.01}, prune=Pruning(0.5, 3, 3))
    for _ in range(2):
        exchange.round()
    site = exchange.sites["ant"]
    exchange.round()
    site.receive(exchange.orders(train=set())["ant"])
    owed = site.at.residual.owed
    assert owed is not None
    assert sum(int(np.count_nonzero(array)) for array in owed) > 150
    assert sum(array.size for array in owed) == site.kept.layout.size < 220


def test_coordinator_and_sites_stand_again_where_they_were_saved_in_every_round() -> None:
    whole, torn = (pruned_exchange(rule=NESTEROV) for _ in range(2))
    for number in range(11):
        reachable = EVERYONE - ({"cat"} if number in (3, 4) else set())
        whole.round(reachable)
        torn.round(reachable)
        facts, arrays, state = torn.coordinator.save()
        fresh = Coordinator(torn.plan, torn.state)
        fresh.load(facts, arrays, state, list(torn.coordinator.recent))
        torn.coordinator = fresh
        for name, site in torn.sites.items():
            another = Site(name, torn.plan, torn.state)
            facts, owed, state = site.save()
            another.load(facts, {}, state)
            another.own(owed)
            torn.sites[name] = another
        assert fresh.chain == whole.coordinator.chain
        assert state_digest(fresh.state) == state_digest(whole.coordinator.state)
    assert all(torn.agree(site) for site in EVERYONE)


def test_the_schedule_is_part_of_the_plan() -> None:
    state = first_state()
    plans = [
        plan_of(state, ("ant",)),
        plan_of(state, ("ant",), prune=SCHEDULE),
        plan_of(state, ("ant",), prune=Pruning(0.8, 2, 8, 2)),
        plan_of(state, ("ant",), prune=Pruning(0.8, 2, 8, 2, tensors=["weight"])),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)


def test_a_frame_for_the_whole_model_is_refused_once_weights_are_pruned() -> None:
    exchange = pruned_exchange(up=NONE)
    for _ in range(5):
        exchange.round()
    order = exchange.orders()["ant"]
    good = Reply.unpack(exchange.reply("ant", order))
    whole = [np.ones(spec.shape, np.float32) for spec in exchange.layout.specs]
    frame = frames.pack(NoCompression(), whole, exchange.layout)
    bad = Reply(good.round, good.site, good.status, good.chain, good.state, 10, frame)
    reason = exchange.coordinator.receive("ant", bad.pack())
    assert reason is not None
    assert reason.startswith("damaged frame")


def test_a_site_may_not_send_a_model_where_the_plan_has_no_such_codec_nor_anyone_another_key_frame() -> None:
    exchange = pruned_exchange()
    arrays, layout = exchange.layout.arrays(exchange.state), exchange.layout
    with pytest.raises(FormatError, match="'model' is not in the plan"):
        exchange.plan.admit(frames.pack(Model(), arrays, layout), layout)
    cast = frames.pack(codec_from({"codec": "bf16"}), arrays, layout, key_frame=True)
    with pytest.raises(FormatError, match="'bf16' is not in the plan"):
        exchange.plan.admit(cast, layout, key_frame=True)


def test_without_a_schedule_frames_have_the_models_own_layout() -> None:
    exchange = Exchange()
    exchange.round()
    assert exchange.coordinator.kept.layout is exchange.coordinator.layout
    assert exchange.sites["ant"].kept.layout is exchange.sites["ant"].layout

"""The controller where there is no coordinator: sites send each other their updates, and nothing comes down."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from phloem.planner.control import Controller
from phloem.planner.costs import Seen, SiteCosts, Sizes
from phloem.planner.decision import Decision
from phloem.planner.device import DECODE, ENCODE, reference
from phloem.planner.levels import DOWN, ENVELOPE_BYTES, LADDER, UP, index_of
from phloem.planner.tables import Costs, Tables

WORTH = [1.0, 1.0, 1.0, 0.97, 0.93, 0.87, 0.75, 0.5]
PARAMETERS, SITES, NONE = 1_000_000, 4, index_of("none")
NAMES = [str(site) for site in range(SITES)]


def made(sites: int = SITES) -> Controller:
    controller = Controller((), PARAMETERS, owes=False, peers=sites - 1)
    controller.worth = replace(controller.worth, rounds=tuple(1 / worth for worth in WORTH))
    return controller


def took(level: int, speed: float, train: float) -> Seen:
    """What a round took at every site, at one level, at a line of so many bytes per second."""
    frame = int(LADDER[level].options[0].bytes(UP, PARAMETERS))
    sent = (SITES - 1) * (frame + ENVELOPE_BYTES)
    encode = reference().seconds(ENCODE, LADDER[level].keys[0], PARAMETERS)
    return Seen(sent, 0.02 + sent / speed, 0, 0.0, encode, 0.0, train, -1.0, frame)


def whole(level: int, speed: float, train: float) -> float:
    """The seconds of that round."""
    one = took(level, speed, train)
    decode = SITES * reference().seconds(DECODE, LADDER[level].keys[0], PARAMETERS)
    return one.train_seconds + one.encode_seconds + one.up_seconds + decode


def play(controller: Controller, speed: float, train: float, rounds: range) -> list[Decision]:
    decisions = []
    for number in rounds:
        decision = controller.decide(number, NAMES)
        level = decision.up["0"][0]
        seen = dict.fromkeys(NAMES, took(level, speed, train))
        controller.observe(number, seen, frame_bytes=4 * PARAMETERS, loss=0.0, norm=1.0)
        decisions.append(decision)
    return decisions


@pytest.mark.parametrize("speed", [1e4, 1e5, 1e6, 1e7, 1e9])
@pytest.mark.parametrize("train", [0.5, 20.0])
def test_after_a_few_rounds_the_level_is_about_the_best_there_is(speed: float, train: float) -> None:
    decisions = play(made(), speed, train, range(30))
    rates = [whole(level, speed, train) / np.sqrt(WORTH[level]) for level in range(len(LADDER))]
    for decision in decisions[-10:]:
        assert rates[decision.up["0"][0]] <= 1.1 * min(rates)


def test_all_sites_send_at_one_level_and_nothing_comes_down() -> None:
    controller = made()
    for speed, rounds in ((1e5, range(10)), (1e8, range(10, 20))):
        for decision in play(controller, speed, 1.0, rounds):
            assert len({level for level, _ in decision.up.values()}) == 1
            assert decision.down == (NONE, 0)
            assert decision.trains
    newcomer = controller.decide(20, [*NAMES, "new"])
    assert len({level for level, _ in newcomer.up.values()}) == 1
    assert newcomer.up["0"][0] > controller._levels["0"], "nobody knows the new one's line"


def test_the_codec_is_not_changed_to_a_finer_one_within_five_rounds_of_the_last_change() -> None:
    controller = made()
    worth = [1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]  # all of it is worth its seconds here
    controller.worth = replace(controller.worth, rounds=tuple(1 / each for each in worth))
    fast, slow = range(8), range(8, 10)
    decisions = play(controller, 1e9, 60.0, fast) + play(controller, 1e4, 60.0, slow)
    decisions += play(controller, 1e9, 60.0, range(10, 40))
    levels = [decision.up["0"][0] for decision in decisions]
    codecs = [LADDER[level].family for level in levels]
    changes = [n for n in range(1, len(codecs)) if codecs[n] != codecs[n - 1]]
    finer = [(was, n) for was, n in itertools.pairwise(changes) if levels[n] < levels[n - 1]]
    assert finer, "it gets there again"
    assert all(n - was >= 5 for was, n in finer)


def test_the_first_frames_are_as_small_as_all_copies_together_must_be() -> None:
    assert [made(sites).decide(0, NAMES).up["0"][0] for sites in (2, 4)] == [index_of("0.05")] * 2
    few = [Controller((), 90_000, peers=peers).decide(0, NAMES).up["0"][0] for peers in (1, 2, 8)]
    assert few == [index_of("0.5"), index_of("0.2"), index_of("0.05")]


def test_copies_are_counted_on_the_way_up_only() -> None:
    one, three = Sizes.of(PARAMETERS), Sizes.of(PARAMETERS, 3)
    assert three.bytes(UP, 2, 0) == 3 * one.bytes(UP, 2, 0)
    assert three.bytes(DOWN, 2, 0) == one.bytes(DOWN, 2, 0)


def test_tables_without_a_coordinator_have_no_way_down_and_decode_at_the_slowest_site() -> None:
    costs = Costs.of(reference(), Sizes.of(PARAMETERS))
    sites = [SiteCosts(slower=slower) for slower in (1.0, 5.0)]
    found, usual = (Tables(sites, costs, together=together).at() for together in (True, False))
    assert found.down[:, NONE].tolist() == [0.0, 0.0]
    assert found.sending[NONE] == 0.0
    assert np.isinf(np.delete(found.down, NONE, axis=1)).all()
    level = index_of("bf16")
    np.testing.assert_allclose(found.merging[:, level], 5.0 * usual.merging[:, level])


def test_it_goes_on_from_what_was_saved_as_if_nothing_had_been() -> None:
    whole_run = made()
    expected = play(whole_run, 1e6, 1.0, range(12))
    first = made()
    play(first, 1e6, 1.0, range(6))
    second = made()
    second.load(json.loads(json.dumps(first.save())))
    assert play(second, 1e6, 1.0, range(6, 12)) == expected[6:]

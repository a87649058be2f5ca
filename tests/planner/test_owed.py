"""When a round without training pays, and when the controller decides for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.planner.control import Controller
from phloem.planner.costs import Seen
from phloem.planner.decision import Decision
from phloem.planner.levels import DOWN, LADDER, UP, index_of
from phloem.planner.owed import kept, pays
from phloem.planner.policies import all_at
from phloem.planner.settings import Adapting

LOST = (0.0, 0.0, 0.06, 0.5, 0.7, 0.85, 0.92, 0.96)
SITES = ["ant", "bee", "cat"]


def test_it_pays_where_the_exchange_is_short_beside_training() -> None:
    coarse, fine = all_at(index_of("0.05"), 3), all_at(index_of("2"), 3)
    assert pays(coarse, fine, LOST, exchange=0.05, whole=2.0)
    assert not pays(coarse, fine, LOST, exchange=1.0, whole=2.0)
    assert not pays(fine, coarse, LOST, exchange=0.0, whole=2.0)


@given(st.integers(0, 7), st.floats(0, 10), st.floats(0, 10))
def test_it_never_pays_to_send_again_at_the_same_level(level: int, exchange: float, whole: float) -> None:
    same = all_at(level, 3)
    assert not pays(same, same, LOST, exchange, whole)


def test_what_arrives_is_the_mean_of_both_ways() -> None:
    assert kept(all_at(0, 3), LOST) == 1.0
    assert kept(all_at(7, 3), LOST) == pytest.approx(0.04)


def play(
    controller: Controller, rounds: int, *, rate: float, train: float, asked: Any = lambda n: SITES
) -> list[Decision]:
    """Rounds on a line of so many bytes per second, with a millisecond of latency."""
    decisions, came = [], 45.0
    for number in range(rounds):
        decision = controller.decide(number, asked(number))
        seen = {}
        for name in asked(number):
            level, option = decision.up[name]
            frame = LADDER[level].options[option].bytes(UP, 1_000_000)
            sent = int(frame) + 45
            spent = train if decision.trains else 0.0
            seen[name] = Seen(
                sent, 0.001 + sent / rate, int(came), 0.001 + came / rate, 0.01, 0.01, spent, 0.5, int(frame)
            )
        level, option = decision.down
        came = LADDER[level].options[option].bytes(DOWN, 1_000_000) + 45
        controller.observe(number, seen, frame_bytes=int(came) - 45, loss=1 / (number + 1), norm=1.0)
        decisions.append(decision)
    return decisions


def controller(**more: Any) -> Controller:
    return Controller(SITES, 1_000_000, **more)


def test_on_a_fast_line_the_second_round_sends_what_the_first_left_out() -> None:
    decisions = play(controller(), 6, rate=1e8, train=2.0)
    assert [decision.trains for decision in decisions] == [True, False, True, True, True, True]
    first, second, third = (np.mean([level for level, _ in one.up.values()]) for one in decisions[:3])
    assert first > second >= third
    assert decisions[1].predicted[0] < 1.0 < decisions[2].predicted[0]


def test_the_time_of_training_is_not_taken_from_a_round_without() -> None:
    made = controller()
    play(made, 2, rate=1e8, train=2.0)
    assert all(site.train == pytest.approx(2.0) for site in made.sites.values())


@pytest.mark.parametrize(
    ("rate", "train"), [(1e5, 0.05), (1e5, 0.5), (1e8, 0.001)], ids=["slow", "middling", "short rounds"]
)
def test_where_an_exchange_takes_as_long_as_a_round_nobody_stops_training(rate: float, train: float) -> None:
    assert all(decision.trains for decision in play(controller(), 12, rate=rate, train=train))


@pytest.mark.parametrize(
    "more",
    [{"owes": False}, {"settings": Adapting(objective="bytes")}],
    ids=["a server whose steps are as large", "bytes"],
)
def test_where_it_would_do_harm_nobody_stops_training(more: dict[str, Any]) -> None:
    assert all(decision.trains for decision in play(controller(**more), 12, rate=1e8, train=2.0))


def test_other_sites_than_those_that_owe_are_not_asked_for_it() -> None:
    decisions = play(controller(), 6, rate=1e8, train=2.0, asked=lambda n: SITES[:2] if n % 2 else SITES[1:])
    assert all(decision.trains for decision in decisions)


def test_it_goes_on_from_what_was_saved() -> None:
    whole = play(controller(), 2, rate=1e8, train=2.0)[1]
    made, again = controller(), controller()
    play(made, 1, rate=1e8, train=2.0)
    again.load(made.save())
    assert again.decide(1, SITES) == whole
    assert not whole.trains

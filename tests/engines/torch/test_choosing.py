"""How gradients travel: timed on real steps, decided alike, and never compressed for nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.engines.torch.choosing import MARGIN, Choice, Trial
from phloem.engines.torch.settings import Settings, codecs_of

MEASURED = Settings(*codecs_of(None, None, None, "fast", 4.0), 32, "adam", 0, 0, 0, True).ways
#: Whatever was measured last, these cases are of ways that differ by so much.
WAYS = [replace(way, inflation=steps) for way, steps in zip(MEASURED, (1.0, 1.03, 1.08, 1.43), strict=True)]
NAMES = [way.name for way in WAYS]
BITS = (25.1, 2.17, 1.10, 0.41)  # per parameter and step: benchmarks/README.md, "torch.distributed"
CODING = (0.0, 1.0, 0.9, 0.85)  # in units of what the finest way's takes
Step = tuple[float, float]


def steps_of(line: float, computing: float = 0.12, coding: float = 0.02) -> list[Step]:
    """Seconds of a step and what of them it waits, by way, where a bit per parameter takes `line` seconds."""
    waits = [part * coding + bits * line for part, bits in zip(CODING, BITS, strict=True)]
    return [(computing + wait, wait) for wait in waits]


def driven(trial: Trial, *ranks: list[Step], noise: Iterable[float] = ()) -> tuple[Choice, list[int]]:
    """The next choice, and the ways of the trial's steps; `noise` is a factor for each of them."""
    factors, went = iter(noise), []
    step = trial.begins
    while True:
        if trial.asks_before(step):
            rows = []
            for rank in ranks:
                trial._steps = []  # every rank has measured its own
                way, factor = went[-1], next(factors, 1.0)
                for past in range(step - trial.each, step):
                    trial.measured(past, factor * rank[way][0], factor * rank[way][1])
                rows.append(trial.medians())
            choice = trial.heard(step, rows)
            if choice is not None:
                return choice, went
        went.append(trial.way(step))
        step += 1


@pytest.mark.parametrize(
    ("bits", "codec", "rank", "name"),
    [
        (None, None, 32, "thin 32 at 4 bits"),
        (0.7, None, 0, "ecsq at 0.7 bits"),
        (None, {"codec": "topk", "fraction": 0.1}, 0, "topk"),
        (None, "none", 2, "thin 2 none"),
    ],
)
def test_a_way_that_is_given_has_a_name_and_is_the_only_one(
    bits: float | None, codec: Any, rank: int, name: str
) -> None:
    up, down = codecs_of(bits, None, codec, "fast", 4.0)
    (way,) = Settings(up, down, rank, "adam", 0, 0, 0, False).ways
    assert (way.name, way.inflation) == (name, 1.0)


LOOPBACK, MEDIUM, SLOW, SLOWEST = 0.0, 0.002, 0.05, 1.0


@pytest.mark.parametrize(
    ("line", "wanted", "tried"),
    [(LOOPBACK, 0, [0, 1]), (MEDIUM, 1, [0, 1, 2]), (SLOW, 2, [0, 1, 2]), (SLOWEST, 3, [0, 1, 2, 3])],
)
def test_the_slower_the_line_the_coarser_the_way(line: float, wanted: int, tried: list[int]) -> None:
    trial = Trial(WAYS)
    assert {trial.way(step) for step in range(trial.begins)} == {0}
    choice, went = driven(trial, steps_of(line))
    assert choice.chosen == NAMES[wanted]
    assert went == [way for way in tried for _ in range(trial.each + 1)], "no way that cannot win is timed"
    after = trial.begins - trial.again + len(went)
    assert {trial.way(step) for step in range(after, trial.begins)} == {wanted}


def test_a_choice_says_what_it_was_made_of() -> None:
    choice, _ = driven(Trial(WAYS), steps_of(LOOPBACK))
    assert (choice.step, choice.chosen) == (16, NAMES[0])
    assert choice.seconds == pytest.approx({NAMES[0]: 0.12, NAMES[1]: 0.14})
    assert choice.cost == pytest.approx({NAMES[0]: 0.12, NAMES[1]: 0.14 * WAYS[1].inflation})
    assert str(choice) == (
        "gradients travel as they are: as they are 120 ms x 1.00, thin 32 at 4 bits 140 ms x 1.03"
    )


def test_a_tie_sends_everything() -> None:
    tie = [(1.0 / way.inflation, 0.0) for way in WAYS]
    assert driven(Trial(WAYS), tie)[0].chosen == NAMES[0]
    slightly = [
        (seconds * (1.0 if way == 0 else 1.0 - MARGIN / 2), 0.0) for way, (seconds, _) in enumerate(tie)
    ]
    assert driven(Trial(WAYS), slightly)[0].chosen == NAMES[0]


def test_more_steps_to_the_same_loss_weigh_as_much_as_longer_ones() -> None:
    """The coarsest way's step is the shortest by a fifth, which its steps more than use up."""
    times = [(9.0, 8.0), (2.0, 1.0), (1.5, 0.9), (1.2, 0.6)]
    choice, went = driven(Trial(WAYS), times)
    assert set(went) == {0, 1, 2, 3}
    assert choice.chosen == "thin 16 at 4 bits"
    assert choice.cost[NAMES[3]] > choice.cost[NAMES[2]]
    assert choice.seconds[NAMES[3]] < choice.seconds[NAMES[2]]


def test_the_slowest_rank_decides() -> None:
    """A rank that computes five times as long, on a fast line: the other one's waits are for it."""
    slow = steps_of(LOOPBACK, computing=0.6)
    fast = [(seconds, exposed + 0.48) for seconds, exposed in slow]
    choice, went = driven(Trial(WAYS), fast, slow)
    assert choice.chosen == NAMES[0]
    assert set(went) == {0, 1}
    alone = [(1.0, 0.0), (0.1, 0.0), (0.1, 0.0), (0.1, 0.0)]
    assert driven(Trial(WAYS), alone, [(1.0, 0.0), (1.2, 0.0), (1.2, 0.0), (1.2, 0.0)])[0].chosen == NAMES[0]
    assert driven(Trial(WAYS), alone, [(2.0, 0.0), (1.2, 0.0), (1.2, 0.0), (1.2, 0.0)])[0].chosen == NAMES[1]


def test_the_choice_follows_a_line_that_changes() -> None:
    trial = Trial(WAYS)
    found = [driven(trial, steps_of(line))[0].chosen for line in (LOOPBACK, SLOWEST, MEDIUM, SLOW, LOOPBACK)]
    assert found == [NAMES[0], NAMES[3], NAMES[1], NAMES[2], NAMES[0]]
    assert trial.begins == 2 + 5 * trial.again


@pytest.mark.parametrize("finer", [0, 1, 2])
def test_noise_around_a_tie_changes_nothing(finer: int) -> None:
    """On the line where two ways cost the same, medians are off by up to one per cent."""
    (one, first), (other, then) = (
        (way.inflation, BITS[number]) for number, way in enumerate(WAYS) if number in (finer, finer + 1)
    )
    fixed = [way.inflation * seconds for way, (seconds, _) in zip(WAYS, steps_of(0.0), strict=True)]
    line = (fixed[finer + 1] - fixed[finer]) / (one * first - other * then)
    costs = [way.inflation * seconds for way, (seconds, _) in zip(WAYS, steps_of(line), strict=True)]
    assert costs[finer] == pytest.approx(costs[finer + 1])
    assert costs[finer] == pytest.approx(min(costs))
    rng, trial = random.Random(5), Trial(WAYS)
    found = []
    for _ in range(60):
        noise = [rng.uniform(0.99, 1.01) for _ in WAYS]
        found.append(driven(trial, steps_of(line), noise=noise)[0].chosen)
    assert not [pair for pair in itertools.pairwise(found) if pair[0] != pair[1]]


@given(
    line=st.floats(-6, 1).map(lambda power: 10.0**power),
    computing=st.floats(0.01, 2.0),
    coding=st.floats(0.0, 2.0),
    before=st.integers(0, 3),
)
def test_no_way_left_untimed_would_have_been_better(
    line: float, computing: float, coding: float, before: int
) -> None:
    steps = steps_of(line, computing, coding)
    costs = [seconds * way.inflation for way, (seconds, _) in zip(WAYS, steps, strict=True)]
    choice, _ = driven(Trial(WAYS, now=before), steps)
    assert choice.cost[choice.chosen] <= min(costs) / (1.0 - MARGIN) ** 2 * (1.0 + 1e-9)


def test_only_a_trials_steps_are_timed_ones() -> None:
    trial = Trial(WAYS, again=100)
    assert [step for step in range(90) if trial.times(step)] == list(range(2, 16)), (
        "two ways, seven steps each"
    )
    _, went = driven(trial, steps_of(line=0.1))
    assert len(went) > 14
    assert not any(trial.times(step) for step in range(2, 102))
    assert trial.times(102)

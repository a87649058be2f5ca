from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from phloem.planner.guard import FREEZE_ROUNDS, Guard

Loss = Callable[[int, np.random.Generator], float]


def alarms(loss: Loss, rounds: int, seeds: int = 40) -> tuple[int, int]:
    """In how many runs there was an alarm, and in how many everything was sent in the end."""
    raised = off = 0
    for seed in range(seeds):
        rng, guard, alarm = np.random.default_rng(seed), Guard(), False
        for number in range(rounds):
            guard = guard.after(number, loss(number, rng), 1.0, 6)
            alarm |= guard.until >= 0
        raised, off = raised + alarm, off + guard.off
    return raised, off


def accuracy(examples: int, tau: float, top: float) -> Loss:
    return lambda number, rng: -rng.binomial(examples, top - 0.8 * math.exp(-number / tau)) / examples


@pytest.mark.parametrize(
    "loss",
    [
        accuracy(50, 8, 0.95),
        accuracy(100, 5, 0.9),
        accuracy(1000, 20, 0.95),
        lambda number, rng: -rng.binomial(100, 0.9) / 100,
        lambda number, rng: 1.0 + (number % 7 == 6) * 1e-9,
        lambda number, rng: math.exp(-number / 20) * rng.lognormal(0, 0.1),
        lambda number, rng: -(1.0 if number < 15 else 1.0 - (rng.random() < 0.3) * 0.01),
    ],
    ids=["50", "100", "1000", "flat", "tiny", "lognormal", "saturated"],
)
def test_a_noisy_metric_that_improves_or_stands_still_raises_no_alarm(loss: Loss) -> None:
    assert alarms(loss, 100) == (0, 0)


@pytest.mark.parametrize(
    "loss",
    [
        lambda number, rng: 2 * math.exp(-number / 10) + max(0.05 * (number - 20), 0) + rng.normal(0, 0.02),
        lambda number, rng: -(min(0.95, 0.1 * number) if number < 25 else 0.3),
        lambda number, rng: math.nan if number == 10 else 1 / (number + 1),
    ],
    ids=["diverges", "collapses", "no number"],
)
def test_a_run_that_diverges_raises_one(loss: Loss) -> None:
    assert alarms(loss, 60)[0] == 40


def test_finer_frames_get_their_time_before_everything_is_sent() -> None:
    guard = Guard()
    for number in range(3):
        guard = guard.after(number, math.nan, 1.0, 6)
    assert (guard.floor, guard.until, guard.off) == (5, FREEZE_ROUNDS, False)
    for number in range(3, 8):
        guard = guard.after(number, math.nan, 1.0, 5)
    assert guard.off


def test_an_alarm_bounds_the_level_once_and_only_for_its_time() -> None:
    guard = Guard().after(0, math.nan, 1.0, 6)
    bounds = [guard.coarsest(number, 7, 1) for number in range(FREEZE_ROUNDS + 3)]
    assert bounds == [5] * (FREEZE_ROUNDS + 1) + [7, 7]


def test_a_step_that_grows_by_half_between_two_checks_lifts_the_floor_by_a_level() -> None:
    guard = Guard()
    for number in range(40):
        guard = guard.after(number, 1.0, 1.0 if number < 18 else 8.0, 6)
        if guard.restless:
            assert guard.coarsest(number, 7, 1) == 6
            return
    pytest.fail("it was never restless")

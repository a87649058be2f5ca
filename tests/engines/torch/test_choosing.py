"""Compressed or not: timed on real steps, decided alike, and never for nothing."""

from __future__ import annotations

import pytest

from phloem.engines.torch.choosing import Trial


def driven(dense: float, compressed: float, steps: int = 60) -> tuple[Trial, list[bool]]:
    """A trial that went on for so many steps, and which of them were compressed."""
    trial, modes = Trial(again=40), []
    for step in range(steps):
        if trial.ends_before(step):
            trial.decide([trial.medians()] * 2)
        modes.append(trial.compresses(step))
        trial.measured(step, compressed if modes[-1] else dense)
    return trial, modes


@pytest.mark.parametrize(
    ("dense", "compressed", "wanted"), [(1.0, 0.5, True), (0.5, 1.0, False), (1.0, 0.99, False)]
)
def test_the_faster_way_is_taken_and_a_tie_sends_everything(
    dense: float, compressed: float, wanted: bool
) -> None:
    trial, modes = driven(dense, compressed)
    assert modes[2 : 2 + trial.each] == [False] * trial.each
    first = 2 + trial.length
    assert set(modes[first:42]) == {wanted}


def test_both_ways_are_tried_again_later() -> None:
    _, modes = driven(1.0, 2.0)
    assert not any(modes[16:49])
    assert any(modes[49:56])


def test_the_slowest_rank_decides() -> None:
    trial = Trial()
    for step in range(2 + trial.length):
        trial.measured(step, 1.0)
    assert not trial.decide([(1.0, 0.1), (1.0, 1.2)])
    assert trial.decide([(1.0, 0.1), (2.0, 1.2)])

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.planner import levels
from phloem.planner.rounds import Worth, known_tasks, strangers


def test_every_known_task_has_a_row_for_every_level_and_loses_nothing_uncompressed() -> None:
    assert "digits" in known_tasks()
    for task in known_tasks():
        worth = Worth.of(task)
        assert len(worth.rounds) == len(worth.lost) == len(levels.LADDER)
        assert (worth.rounds[0], worth.lost[0]) == (1.0, 0.0)
        if task in strangers():
            assert list(worth.lost) == sorted(worth.lost), "coarser frames leave out more"


def test_a_tiny_models_rounds_are_no_example_for_others() -> None:
    assert set(known_tasks()) == {"banks", "code-lm", "digits", "hospitals"}
    assert strangers() == ("banks", "code-lm", "digits")


def test_a_stranger_is_expected_to_need_more_rounds_the_coarser_its_frames() -> None:
    worth = Worth.of("somebody.else:Task")
    assert min(worth.rounds) >= 1.0
    assert worth.inflation(len(levels.LADDER) - 1) > worth.inflation(levels.index_of("2"))


def test_updates_that_are_harder_to_compress_than_the_tables_cost_more_rounds() -> None:
    worth = hard = easy = Worth.of("somebody.else:Task")
    level = levels.index_of("0.05")
    for _ in range(30):
        hard = hard.after(level, 1 - (1 - worth.lost[level]) ** 1.6)
        easy = easy.after(level, 1 - (1 - worth.lost[level]) ** 0.6)
    assert hard.exponent == pytest.approx(1.6, rel=0.05)
    assert easy.exponent == pytest.approx(0.6, rel=0.05)
    last = len(levels.LADDER) - 1
    assert hard.inflation(last) > worth.inflation(last) > easy.inflation(last)


@given(st.lists(st.tuples(st.integers(0, 7), st.floats(allow_nan=True, allow_infinity=True)), max_size=50))
def test_whatever_is_reported_worth_stays_finite_and_positive(rows: list[tuple[int, float]]) -> None:
    worth = Worth.of("digits")
    for level, lost in rows:
        worth = worth.after(level, lost)
        assert 0.5 <= worth.exponent <= 2.0
        assert all(0 < one < math.inf for one in worth.progress())

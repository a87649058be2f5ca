from __future__ import annotations

import math

import pytest

from phloem.ui.figures import (
    metric_text,
    rate_text,
    ratio_text,
    short_size_text,
    size_text,
    time_text,
    unbroken,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "1.00 kB"), (9_996, "10.0 kB"), (99_960, "100 kB"),
     (999_499, "999 kB"), (999_600, "1.00 MB"), (5e15, "5000 TB"), (math.nan, "–")],
)  # fmt: skip
def test_a_size_has_three_digits_and_never_a_thousand_of_a_unit(size: float, text: str) -> None:
    assert size_text(size) == text


def test_a_round_size_has_no_zeros() -> None:
    assert [short_size_text(size) for size in (0, 500, 1e6, 20_000, 123_456)] == [
        "0 B", "500 B", "1 MB", "20 kB", "123 kB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.05, "50 ms"), (0.0995, "0.1 s"), (9.96, "10 s"), (59.7, "1 min 0 s"),
     (3599.7, "1 h 0 min"), (math.inf, "–")],
)  # fmt: skip
def test_a_time_carries_over_into_the_next_unit(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_a_ratio_below_one_keeps_two_digits() -> None:
    assert [ratio_text(value) for value in (0.5, 0.949, 1.0, 9.94, 9.96, 1126.4)] == [
        "0.50×", "0.95×", "1.0×", "9.9×", "10×", "1,126×",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_metric_that_is_not_there_is_a_dash(value: float | None) -> None:
    assert metric_text("accuracy", value) == "–"


def test_a_rate_has_three_digits() -> None:
    assert [rate_text(value) for value in (0.0, 0.0203, 1.5, 9.999, 32.0003)] == [
        "0",
        "0.0203",
        "1.5",
        "10.0",
        "32.0",
    ]


def test_a_figure_stays_with_its_unit() -> None:
    assert (
        unbroken("767× fewer bytes to 97 % in 2 min 5 s")
        == "767× fewer bytes to 97\u00a0% in 2\u00a0min 5\u00a0s"
    )

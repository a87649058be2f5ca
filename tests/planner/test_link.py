from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.errors import StateError
from phloem.planner import traces
from phloem.planner.link import Line
from phloem.planner.traces import Trace
from phloem.seeds import generator

EIGHTY = 1.2816


def crossed(trace: Trace, sizes: list[float], seed: int, count: int = 60) -> tuple[Line, list[bool]]:
    """The line after transfers over a trace, and whether each was inside the interval given for it."""
    rng, line, at, inside = generator(seed, "crossing"), Line(), 0.0, []
    for _ in range(count):
        size = float(rng.choice(sizes))
        seconds = 0.02 + trace.seconds(size, at)
        if line.seen:
            inside.append(line.seconds(size, -EIGHTY) <= seconds <= line.seconds(size, EIGHTY))
        line = line.after(size, seconds)
        at += seconds + float(rng.uniform(1, 5))
    return line, inside


@pytest.mark.parametrize("rate", [1e5, 1e6, 1e7, 1e9])
def test_a_steady_line_is_known_after_a_few_transfers_of_two_sizes(rate: float) -> None:
    line, _ = crossed(traces.constant(rate), [rate / 80, rate], seed=1, count=12)
    assert line.bytes_per_second == pytest.approx(rate / 8, rel=0.2)
    assert line.seconds(rate / 8) == pytest.approx(1.02, rel=0.1)


def test_small_transfers_teach_the_fixed_part_and_leave_the_goodput_uncertain() -> None:
    line, _ = crossed(traces.constant(1e8), [500.0], seed=1, count=10)
    assert line.fixed_seconds == pytest.approx(0.02, rel=0.1)
    assert line.deviation(1e8) > 5 * line.deviation(500)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: traces.cellular(seed, "3g"),
        lambda seed: traces.cellular(seed, "4g"),
        lambda seed: traces.drifting(seed, 1.6e6, 16e6),
    ],
    ids=["3g", "4g", "drifting"],
)
def test_four_fifths_of_transfers_over_lines_that_change_fall_into_their_interval(make: object) -> None:
    assert callable(make)
    inside = [hit for seed in range(200, 212) for hit in crossed(make(seed), [1e5, 1e6], seed)[1]]
    assert 0.72 <= sum(inside) / len(inside) <= 0.93


def test_a_line_that_drops_to_a_tenth_is_followed_within_three_transfers() -> None:
    line = crossed(traces.constant(2e7), [1e6], seed=1, count=20)[0]
    slow = traces.constant(2e6)
    for _ in range(3):
        line = line.after(1e6, 0.02 + slow.seconds(1e6, 0.0))
    assert line.seconds(1e6) == pytest.approx(slow.seconds(1e6, 0.0), rel=0.25)


@pytest.mark.parametrize(
    ("size", "seconds"),
    [
        (0, 1.0),
        (-5, 1.0),
        (math.nan, 1.0),
        (math.inf, 1.0),
        (1000, 0.0),
        (1000, -3.0),
        (1000, math.nan),
        (1000, math.inf),
        (1000, 1e9),
    ],
)
def test_a_transfer_that_makes_no_sense_is_counted_and_changes_nothing_else(
    size: float, seconds: float
) -> None:
    before = crossed(traces.constant(1e7), [1e5], seed=1, count=5)[0]
    after = before.after(size, seconds)
    assert after.ignored == before.ignored + 1
    assert (after.goodput, after.fixed, after.variances) == (before.goodput, before.fixed, before.variances)


@given(
    st.lists(
        st.tuples(st.floats(-10, 1e13) | st.just(math.nan), st.floats(-10, 1e8) | st.just(math.nan)),
        max_size=60,
    )
)
def test_whatever_is_measured_predictions_stay_positive_and_finite(rows: list[tuple[float, float]]) -> None:
    line = Line()
    for size, seconds in rows:
        line = line.after(size, seconds)
        for asked in (1.0, 1e6, 1e12):
            assert 0 < line.seconds(asked) < math.inf
            assert line.seconds(asked, -EIGHTY) <= line.seconds(asked) <= line.seconds(asked, EIGHTY)
        var_goodput, var_fixed, covariance = line.variances
        assert var_goodput > 0
        assert var_fixed > 0
        assert covariance**2 <= 1.0001 * var_goodput * var_fixed + 1e-12


def test_a_transfer_that_broke_off_makes_the_line_slower_and_less_certain() -> None:
    before = crossed(traces.constant(1e7), [1e5, 1e6], seed=1, count=8)[0]
    after = before.failed()
    assert after.seconds(1e6) > 1.5 * before.seconds(1e6)
    assert after.deviation(1e6) > before.deviation(1e6)


def test_a_line_grows_uncertain_while_nothing_crosses_it() -> None:
    line = crossed(traces.cellular(7, "3g"), [1e5], seed=1, count=30)[0]
    rested = line
    for _ in range(20):
        rested = rested.rested()
    assert rested.deviation(1e5) > line.deviation(1e5)
    assert rested.seconds(1e5) == line.seconds(1e5)


def test_a_line_is_saved_and_restored_to_the_bit() -> None:
    line = crossed(traces.cellular(7, "4g"), [1e5, 3e5], seed=1)[0]
    assert Line.from_json(json.loads(json.dumps(line.to_json()))) == line
    with pytest.raises(StateError, match="damaged"):
        Line.from_json({"goodput": 1})

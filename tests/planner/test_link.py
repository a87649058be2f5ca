from __future__ import annotations

import json
import math
from dataclasses import replace

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


# -- what the system says of the round trip ----------------------------------------------------------------------

GROWING = [18e3, 36e3, 75e3, 180e3, 750e3]


def missed(rate: float, fixed: float, round_trip: float) -> list[float]:
    """How far predictions of growing transfers are off after the first, in log-seconds."""
    line, found = Line(), []
    for size in GROWING:
        seconds = fixed + 8 * size / rate
        if line.seen:
            found.append(abs(math.log(seconds / line.seconds(size))))
        line = line.heard(round_trip, seconds).after(size, seconds)
    return found


@pytest.mark.parametrize("fixed", [0.15, 0.3, 0.6])
@pytest.mark.parametrize("rate", [1e7, 1e8, 1e9])
@pytest.mark.parametrize("turns", [0.6, 0.8, 1.2])
def test_over_a_long_line_growing_transfers_are_expected_better_with_its_round_trip(
    rate: float, fixed: float, turns: float
) -> None:
    without, heard = missed(rate, fixed, 0.0), missed(rate, fixed, fixed / turns)
    assert sum(heard) < 0.9 * sum(without)


def test_a_round_trip_is_a_lower_bound_of_what_a_transfer_takes_and_no_upper_one() -> None:
    for short in (1e-5, 0.002, 0.06):
        assert Line().heard(short, 0.1) == replace(Line(), round_trip=short)
    assert Line().heard(0.2, 0.25).fixed_seconds > 2 * Line().fixed_seconds
    assert Line().heard(0.2, 0.25).bytes_per_second == Line().bytes_per_second


def test_on_a_line_that_is_known_well_a_round_trip_changes_little() -> None:
    line, _ = crossed(traces.constant(1e8), [500.0, 1e6], seed=1, count=30)
    for lie in (1e-5, 0.04):
        assert line.heard(lie, 0.02).seconds(500) == pytest.approx(line.seconds(500), rel=0.25)


@pytest.mark.parametrize("absurd", [0.0, -0.04, math.nan, math.inf, -math.inf, 1e9, 1e-12, 0.41])
def test_a_round_trip_that_makes_no_sense_is_not_heard(absurd: float) -> None:
    for line in (Line(), crossed(traces.constant(1e7), [1e5], seed=1, count=5)[0]):
        assert line.heard(absurd, took_seconds=0.1) == line


def test_the_same_round_trip_heard_again_is_no_second_observation() -> None:
    once = Line().heard(0.04, 0.1)
    assert once.heard(0.04, 0.1) == once.heard(0.0401, 0.1) == once
    assert once.heard(0.08, 0.1).fixed > once.fixed


def missed_over_time(told: list[float]) -> list[float]:
    """The same of thirty transfers, over a line that takes 0.2 s and is told these round trips in turn."""
    line, off = Line(), []
    for number in range(30):
        size = GROWING[number % len(GROWING)]
        seconds = 0.2 + 8 * size / 1e7
        off.append(abs(math.log(seconds / line.seconds(size))))
        line = line.heard(told[number % len(told)], seconds).after(size, seconds)
    return off


@pytest.mark.parametrize(
    "lies", [[1e-6], [1e-3], [0.01], [0.05], [0.39], [1.9], [1e-5, 0.35], [0.35, 1e-5, math.nan]]
)
def test_transfers_correct_a_round_trip_that_lies(lies: list[float]) -> None:
    lied_to, without = missed_over_time(lies), missed_over_time([0.0])
    assert sum(lied_to) < 1.5 * sum(without)
    assert max(lied_to[20:]) < 0.15


@given(
    st.lists(
        st.tuples(
            st.floats(1.0, 1e9),
            st.floats(1e-5, 1e3),
            st.floats(1e-6, 1e3) | st.floats(allow_nan=True, allow_infinity=True),
        ),
        max_size=40,
    )
)
def test_whatever_is_heard_predictions_stay_positive_and_finite(
    rows: list[tuple[float, float, float]],
) -> None:
    line = Line()
    for size, seconds, round_trip in rows:
        line = line.heard(round_trip, seconds).after(size, seconds)
        for asked in (1.0, 1e6, 1e12):
            assert 0 < line.seconds(asked, -EIGHTY) <= line.seconds(asked, EIGHTY) < math.inf
        var_goodput, var_fixed, covariance = line.variances
        assert min(var_goodput, var_fixed) > 0
        assert covariance**2 <= 1.0001 * var_goodput * var_fixed + 1e-12


def test_a_line_that_was_saved_before_round_trips_were_heard_is_read() -> None:
    line = crossed(traces.constant(1e7), [1e5], seed=1, count=5)[0]
    saved = line.to_json()
    del saved["round_trip"]
    assert Line.from_json(saved) == line


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

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.errors import ConfigError
from phloem.planner import traces
from phloem.planner.traces import Trace, read_trace


def slowly(trace: Trace, size: float, at: float, step: float = 1e-3) -> float:
    """The seconds of a transfer, added up in small steps."""
    left, time = 8 * size, at
    while left > 0:
        left -= step * trace.rates[int(time / trace.each) % len(trace.rates)]
        time += step
    return time - at


@given(st.lists(st.floats(1e6, 1e7), min_size=1, max_size=6), st.floats(0, 20), st.floats(1e3, 1e6))
def test_a_transfer_takes_the_rates_that_it_meets(rates: list[float], at: float, size: float) -> None:
    trace = Trace(tuple(rates))
    assert trace.seconds(size, at) == pytest.approx(slowly(trace, size, at), rel=0.01, abs=5e-3)


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(0, 1e4))
def test_two_transfers_one_after_another_take_what_one_of_both_takes(a: float, b: float, at: float) -> None:
    trace = traces.cellular(3, "3g", 50)
    first = trace.seconds(a, at)
    assert first + trace.seconds(b, at + first) == pytest.approx(trace.seconds(a + b, at), rel=1e-6, abs=1e-6)


def test_lines_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    for name, make in traces.MAKERS.items():
        assert make(5, 1e7) == make(5, 1e7), name
        assert make(5, 1e7) != make(6, 1e7), name


@pytest.mark.parametrize(("generation", "mean"), [("3g", 1.2e6), ("4g", 30e6)])
def test_mobile_lines_have_the_rates_that_were_fitted_and_their_outages(generation: str, mean: float) -> None:
    lines = [traces.cellular(seed, generation) for seed in range(30)]
    assert sum(line.mean for line in lines) / len(lines) == pytest.approx(mean, rel=0.5)
    slow = [rate < 5e4 for line in lines for rate in line.rates]
    assert (0.05 if generation == "3g" else 0.001) < sum(slow) / len(slow) < 0.35


def test_a_trace_is_read_from_a_file_and_nonsense_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "line.json"
    path.write_text(json.dumps({"seconds_each": 2.0, "bits_per_second": [1e6, 2e6]}))
    assert read_trace(path) == Trace((1e6, 2e6), 2.0)
    for text in ("", "[]", '{"bits_per_second": [0], "seconds_each": 1}', '{"bits_per_second": [1]}', "{"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="trace"):
            read_trace(path)
    with pytest.raises(ConfigError, match="no trace of a line"):
        read_trace(tmp_path / "absent.json")

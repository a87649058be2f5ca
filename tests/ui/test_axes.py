from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.ui.axes import axis_for

_VALUES = st.lists(st.floats(-1e12, 1e12, allow_nan=False) | st.just(math.nan), max_size=8)


@given(_VALUES, st.booleans())
def test_every_finite_value_lies_on_its_axis(values: list[float], zero: bool) -> None:
    axis = axis_for(values, str, 10.0, 210.0, zero=zero)
    assert 2 <= len(axis.ticks) <= 12 or axis.log
    for value in (*filter(math.isfinite, values), *axis.ticks):
        assert 10.0 - 1e-3 <= axis.at(value) <= 210.0 + 1e-3


def test_an_axis_over_decades_is_logarithmic() -> None:
    axis = axis_for([1e3, 1e8], str, 0.0, 100.0)
    assert axis.log
    assert axis.ticks == pytest.approx([1e3, 1e4, 1e5, 1e6, 1e7, 1e8])


def test_an_axis_over_a_small_factor_is_not() -> None:
    assert not axis_for([1.0, 5.0], str, 0.0, 100.0).log


@pytest.mark.parametrize("values", [[], [math.nan], [3.0], [0.0, 0.0], [-2.0, -2.0]])
def test_an_axis_of_hardly_anything_still_has_a_width(values: list[float]) -> None:
    axis = axis_for(values, str, 0.0, 100.0)
    assert axis.high > axis.low

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from phloem.tensors import Layout
from phloem.testing.contracts import cases
from phloem.testing.strategies import tampered, updates


@given(updates(largest=100.0))
def test_updates_are_finite_float32_within_their_bound(update: dict[str, Any]) -> None:
    for array in Layout.of(update).arrays(update):
        assert np.isfinite(array).all()
        assert np.abs(array).max(initial=0) <= 100


@given(st.data(), st.binary(max_size=20))
def test_tampered_bytes_are_never_the_bytes_themselves(data: st.DataObject, original: bytes) -> None:
    assert data.draw(tampered(original)) != original


def test_the_contracts_cases_hold_every_kind_of_shape() -> None:
    shapes = [array.shape for case in cases().values() for array in case.values()]
    assert {len(shape) for shape in shapes} >= {0, 1, 2, 3, 4}
    assert any(0 in shape for shape in shapes)
    assert any(not array.flags.c_contiguous for case in cases().values() for array in case.values())

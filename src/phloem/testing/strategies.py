"""Examples for property tests with hypothesis: layouts, updates, frames' neighbours, and JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from phloem.tensors import Layout, TensorSpec

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
"""Tensor names: any text that UTF-8 can write."""

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
"""Small shapes, 0-d and empty ones among them."""

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
"""Values that canonical JSON can say."""


@st.composite
def layouts(draw: st.DrawFn, max_tensors: int = 4) -> Layout:
    """A layout of a few small tensors."""
    found = draw(st.lists(names, min_size=1, max_size=max_tensors, unique=True))
    return Layout(tuple(TensorSpec(name, draw(shapes)) for name in sorted(found)))


@st.composite
def updates(draw: st.DrawFn, largest: float = 1e6, max_tensors: int = 4) -> dict[str, Any]:
    """A dict of finite float32 arrays by name, none of them beyond `largest` in magnitude."""
    layout = draw(layouts(max_tensors))
    bound = float(np.float32(largest))
    values = st.floats(-bound, bound, width=32)
    return {spec.name: draw(npst.arrays(np.float32, spec.shape, elements=values)) for spec in layout.specs}


def tampered(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with something wrong: cut short, longer, or with one byte changed."""
    ways = [data_and(st.binary(min_size=1, max_size=8), data)]
    if data:
        ways.append(st.integers(0, len(data) - 1).map(lambda size: data[:size]))
        changes = st.tuples(st.integers(0, len(data) - 1), st.integers(1, 255))
        ways.append(changes.map(lambda change: _xor(data, *change)))
    return st.one_of(ways)


def data_and(more: st.SearchStrategy[bytes], data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with what `more` draws behind it."""
    return more.map(lambda tail: data + tail)


def _xor(data: bytes, place: int, mask: int) -> bytes:
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]

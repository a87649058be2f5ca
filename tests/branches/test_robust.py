"""The median and the trimmed mean against NumPy's and against plain formulas; what one wrong branch
can do; the sorting of columns.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.branches.one_tensor import drawn, merged

from phloem.branches.distances import GeometricMedian, Krum
from phloem.branches.linear import Mean
from phloem.branches.robust import Median, TrimmedMean, keys, network, ordered, values
from phloem.seeds import generator


@pytest.mark.parametrize("count", [*range(1, 10), 31, 32, 33])
def test_the_median_and_the_trimmed_mean_are_numpys(count: int) -> None:
    base, arrays = drawn("order", count, count=count)
    stack = np.stack(arrays).astype(np.float64)
    labels = tuple(map(str, range(count)))
    assert np.array_equal(
        merged(Median(), base, arrays, labels=labels), np.median(stack, axis=0).astype(np.float32)
    )
    for trim in (0.0, 0.1, 0.25, 0.49):
        cut = int(trim * count)
        if cut or not trim:
            wanted = np.sort(stack, axis=0)[cut : count - cut].mean(axis=0)
            assert np.allclose(merged(TrimmedMean(trim), base, arrays, labels=labels), wanted, rtol=1e-6)


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 5)), min_size=1, max_size=8))
def test_whole_weights_in_a_median_are_so_many_copies(pairs: list[tuple[int, int]]) -> None:
    assume(any(weight for _, weight in pairs))
    copies = [value for value, weight in pairs for _ in range(weight)]
    for unit in (
        1,
        0.125,
        1e20,
    ):  # 0.1 · 3 is not three times 0.1, so that half of the weight would not be half
        weights = [weight * unit for _, weight in pairs]
        assert merged(Median(), 0.0, [value for value, _ in pairs], weights) == np.median(copies)


@given(st.data())
def test_the_trimmed_mean_with_weights_is_the_formula(data: st.DataObject) -> None:
    count = data.draw(st.integers(5, 8))
    found = data.draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count))
    weights = data.draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    inside = sorted(range(count), key=lambda place: (found[place], place))[1 : count - 1]
    wanted = sum(weights[i] * found[i] for i in inside) / sum(weights[i] for i in inside)
    assert merged(TrimmedMean(0.2), 9.0, found, weights) == np.float32(wanted)


@pytest.mark.parametrize("size", [1e2, 1e10, 1e30])
@pytest.mark.parametrize("place", [0, 7])
def test_one_wildly_wrong_branch_of_eight_moves_the_mean_and_not_the_robust_merges(
    size: float, place: int
) -> None:
    base, honest = drawn("wrong", size, place, count=7, shape=(50,))
    wrong = (size * generator(0, "methods", "wrong", "branch").normal(size=50)).astype(np.float32)
    arrays = [*honest[:place], wrong, *honest[place:]]
    low, high = np.min(honest, axis=0), np.max(honest, axis=0)
    spread = max(np.linalg.norm(one - other) for one, other in itertools.combinations(honest, 2))
    middle = np.mean(honest, axis=0)
    assert np.linalg.norm(merged(Mean(), base, arrays).astype(np.float64) - middle) > size / 8
    for method in (TrimmedMean(0.2), Median(), Krum(1), Krum(2, keep=4)):
        found = merged(method, base, arrays)
        assert np.all((low <= found) & (found <= high))
    assert np.linalg.norm(merged(GeometricMedian(), base, arrays) - middle) < spread / 2


@pytest.mark.parametrize("count", range(1, 11))
def test_the_network_sorts_every_row_of_bits_and_so_everything(count: int) -> None:
    """The 0-1 principle (Knuth, 5.3.4, Theorem Z)."""
    table = np.array(list(itertools.product([0, 1], repeat=count)), np.int8).T
    assert np.array_equal(np.stack(ordered(table.copy())), np.sort(table, axis=0))
    assert len(network(count)) <= count * count


@pytest.mark.parametrize("count", [1, 13, 31, 32, 64])
def test_columns_are_sorted_exactly(count: int) -> None:
    table = generator(0, "columns", count).normal(size=(count, 50)).astype(np.float32)
    assert np.array_equal(np.stack(ordered(table.copy())), np.sort(table, axis=0))


def test_keys_sort_as_values_and_places_and_give_the_values_back() -> None:
    column = np.array([3.5, -1e-45, 0.0, 3.4e38, -3.4e38, 1e-45, -2.0, 3.5, 0.0], np.float32).reshape(-1, 1)
    found = np.sort(keys(column), axis=0)[:, 0]
    wanted = sorted(range(9), key=lambda place: (column[place, 0], place))
    assert (found & 0xFFFF).tolist() == wanted
    assert values(found).tolist() == column[wanted, 0].tolist()

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.errors import ConfigError
from phloem.tasks.partition import dirichlet_partition, split_parts


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    sites=st.integers(1, 12),
    alpha=st.floats(0.01, 100),
    seed=st.integers(0, 2**32),
)
def test_a_partition_covers_every_sample_exactly_once(
    labels: list[int], sites: int, alpha: float, seed: int
) -> None:
    names = [f"site-{i}" for i in range(sites)]
    shares = dirichlet_partition(np.array(labels), names, alpha, np.random.default_rng(seed))
    assert list(shares) == names
    assert sorted(np.concatenate(list(shares.values())).tolist()) == list(range(len(labels)))


def test_a_small_alpha_skews_labels_and_a_large_one_does_not() -> None:
    labels = np.repeat(np.arange(10), 100)
    names = [f"site-{i}" for i in range(10)]

    def largest_share(alpha: float) -> float:
        shares = dirichlet_partition(labels, names, alpha, np.random.default_rng(0)).values()
        return float(np.mean([np.bincount(labels[s]).max() / len(s) for s in shares if len(s)]))

    assert largest_share(0.1) > 0.5
    assert largest_share(1000) < 0.15


def test_sizes_are_met_on_average() -> None:
    labels = np.zeros(1000, np.int64)
    rng = np.random.default_rng(0)
    draws = [dirichlet_partition(labels, ["big", "small"], 2.0, rng, [3, 1]) for _ in range(400)]
    assert np.mean([len(draw["big"]) for draw in draws]) == pytest.approx(750, abs=25)


@pytest.mark.parametrize("sizes", [[1.0], [1.0, 0.0], [1.0, -1.0]])
def test_impossible_sizes_are_refused(sizes: list[float]) -> None:
    with pytest.raises(ConfigError, match="2 positive sizes"):
        dirichlet_partition(np.zeros(4), ["a", "b"], 1.0, np.random.default_rng(0), sizes)


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    shares=st.tuples(st.floats(0.01, 0.45), st.floats(0.01, 0.45)),
    seed=st.integers(0, 2**32),
)
def test_three_parts_are_disjoint_exact_and_stratified(
    counts: list[int], shares: tuple[float, float], seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    stop, test = (int(share * len(labels)) for share in shares)
    if not (stop and test):
        return
    parts = split_parts(labels, stop, test, np.random.default_rng(seed))
    assert (len(parts.stop), len(parts.test)) == (stop, test)
    everything = np.concatenate([parts.train, parts.stop, parts.test])
    assert sorted(everything.tolist()) == list(range(len(labels)))
    for label, count in enumerate(counts):
        assert abs(int((labels[parts.stop] == label).sum()) - stop * count / len(labels)) <= 1


@pytest.mark.parametrize(("stop", "test"), [(0, 1), (1, 0), (5, 5), (9, 9)])
def test_parts_that_leave_nothing_are_refused(stop: int, test: int) -> None:
    with pytest.raises(ConfigError, match="10 samples cannot give"):
        split_parts(np.zeros(10), stop, test, np.random.default_rng(0))

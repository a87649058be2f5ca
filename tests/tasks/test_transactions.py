from __future__ import annotations

import numpy as np
import pytest

from phloem.tasks.transactions import FEATURES, PATTERNS, Transactions, generate


@pytest.fixture(scope="module")
def banks() -> list[Transactions]:
    return [generate(bank, 10_000, np.random.default_rng(bank)) for bank in range(6)]


def test_fraud_is_as_rare_as_documented(banks: list[Transactions]) -> None:
    rates = [bank.fraud.mean() for bank in banks]
    assert all(0.004 < rate < 0.022 for rate in rates)
    assert max(rates) > 1.3 * min(rates)


def test_no_bank_knows_every_pattern_well_and_every_pattern_is_known_to_two(
    banks: list[Transactions],
) -> None:
    counts = np.array([np.bincount(b.pattern[b.pattern >= 0], minlength=len(PATTERNS)) for b in banks])
    known = counts > 0.2 * counts.sum(1, keepdims=True)
    assert np.all(known.sum(1) <= 2)
    assert np.all(known.sum(0) >= 2)


def test_features_are_finite_and_of_order_one(banks: list[Transactions]) -> None:
    for bank in banks:
        assert bank.features.shape == (len(bank.fraud), len(FEATURES))
        assert bank.features.dtype == np.float32
        assert np.isfinite(bank.features).all()
        assert np.abs(bank.features).max() < 15
        assert np.all(bank.features.std(0) < 3)


def test_no_single_feature_gives_fraud_away(banks: list[Transactions]) -> None:
    features = np.concatenate([bank.features for bank in banks])
    fraud = np.concatenate([bank.fraud for bank in banks]).astype(bool)
    for column in features.T:
        low, high = column[~fraud].min(), column[~fraud].max()
        assert np.mean((column[fraud] >= low) & (column[fraud] <= high)) > 0.9


def test_payments_in_a_day_count_one_customer_only(banks: list[Transactions]) -> None:
    first = np.flatnonzero(np.diff(banks[0].customer, prepend=-1))
    assert np.all(banks[0].features[first, FEATURES.index("log payments in 24 hours")] == 0)


def test_the_size_is_about_what_was_asked_for(banks: list[Transactions]) -> None:
    assert all(8_000 < len(bank.fraud) < 12_500 for bank in banks)

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from phloem.tasks.metrics import auroc, average_precision

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=2, max_size=60)


@given(rows=ROWS)
def test_both_figures_are_scikit_learns_ties_included(rows: list[tuple[int, int]]) -> None:
    labels = np.array([row[0] for row in rows], np.int64)
    scores = np.array([row[1] for row in rows], np.float32)
    if labels.all() or not labels.any():
        return
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )


def test_without_positives_or_negatives_there_is_no_figure() -> None:
    assert math.isnan(auroc(np.zeros(3, np.int64), np.arange(3)))
    assert math.isnan(auroc(np.ones(3, np.int64), np.arange(3)))
    assert math.isnan(average_precision(np.zeros(3, np.int64), np.arange(3)))

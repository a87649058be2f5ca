"""Two figures for rare positives, computed from scores alone; ties count as ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def auroc(labels: npt.NDArray[np.int64], scores: npt.NDArray[Any]) -> float:
    """The chance that a random positive scores above a random negative; NaN if one of the two is missing.

    >>> auroc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.9]))
    0.875
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(sizes) - (sizes - 1) / 2  # of each distinct score, from 1
    rank_sum = float(mean_rank[group][labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(labels: npt.NDArray[np.int64], scores: npt.NDArray[Any]) -> float:
    """Precision averaged over the recalled positives, from the highest score down; NaN without positives.

    >>> round(average_precision(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.9])), 4)
    0.8333
    """
    positives = int(labels.sum())
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # end of each group of ties
    found = np.cumsum(labels[order])[last]
    gained = np.diff(found, prepend=0)
    return float((found / (last + 1) * gained).sum() / positives)

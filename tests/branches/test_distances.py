"""Krum as the paper says it, and the geometric median against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.branches.one_tensor import drawn, merged

from phloem.branches.distances import GeometricMedian, Krum
from phloem.branches.methods import Held
from phloem.seeds import generator


def test_krum_chooses_what_the_paper_says() -> None:
    for case in range(20):
        bad, keep = case % 3, 1 + case % 4
        base, arrays = drawn("krum", case, count=9)
        points = [array.astype(np.float64).reshape(-1) for array in arrays]
        scores = []
        for i in range(9):
            distances = sorted(float(np.sum((points[i] - points[j]) ** 2)) for j in range(9) if j != i)
            scores.append(sum(distances[: 9 - bad - 2]))
        chosen = sorted(sorted(range(9), key=lambda i: scores[i])[:keep])
        method = Krum(bad, keep)
        resolved = method.resolve(method.survey("w", base, Held(arrays)), [1.0] * 9)
        assert resolved["chosen"] == chosen
        assert np.allclose(resolved["scores"], scores, rtol=1e-9)
        found = method.tensor("w", base, Held(arrays), [1.0] * 9, resolved)
        assert np.allclose(found, np.mean([arrays[i] for i in chosen], axis=0), rtol=1e-6)


def brute_force(points: Any, weights: Any) -> Any:
    """The point of the plane with the least weighted sum of distances: grids around the best, ever finer."""
    centre, width = points.mean(axis=0), 4 * np.abs(points - points.mean(axis=0)).max() + 1e-9
    for _ in range(40):
        steps = np.linspace(-width, width, 21)
        grid = centre + np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        costs = np.linalg.norm(grid[:, None] - points[None], axis=2) @ weights
        centre, width = grid[costs.argmin()], width / 2
    return centre


@pytest.mark.parametrize("case", range(12))
def test_the_geometric_median_has_the_least_sum_of_distances(case: int) -> None:
    draw = generator(0, "geometric", case)
    count = 3 + case % 5
    points = draw.normal(size=(count, 2)).astype(np.float32)
    weights = draw.integers(1, 4, size=count).astype(float) if case % 2 else np.ones(count)
    found = merged(GeometricMedian(), draw.normal(size=2), list(points), weights.tolist())
    wanted = brute_force(points.astype(np.float64), weights)
    costs = [np.linalg.norm(points - point, axis=1) @ weights for point in (found, wanted)]
    assert costs[0] <= costs[1] * (1 + 1e-6)
    assert np.allclose(found, wanted, atol=1e-4)


def test_a_geometric_median_that_is_a_branch_is_that_branch_exactly() -> None:
    middle = np.array([0.1, 0.2], np.float32)
    corners = [middle + np.array(step, np.float32) for step in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    assert np.array_equal(merged(GeometricMedian(), [9.0, 9.0], [*corners, middle]), middle)
    assert np.array_equal(
        merged(GeometricMedian(), [9.0, 9.0], [*corners, middle * 3], [1, 1, 1, 1, 5]), middle * 3
    )


def test_two_equal_branches_have_their_mean_as_geometric_median() -> None:
    assert merged(GeometricMedian(), [0.0, 0.0], [[1.0, 2.0], [3.0, -2.0]]).tolist() == [2.0, 0.0]


def test_surveys_of_tensors_add_up_to_that_of_the_model() -> None:
    base, arrays = drawn("survey", shape=(12,))
    parts = [slice(0, 5), slice(5, 12)]
    total: Any = sum(
        Krum(1).survey("w", base[part], Held([array[part] for array in arrays])) for part in parts
    )
    assert np.allclose(total, Krum(1).survey("w", base, Held(arrays)), rtol=1e-12)

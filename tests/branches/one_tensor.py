"""What tests of merges share: every method, and the merge of one tensor with all its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from phloem import canonical
from phloem.branches.distances import GeometricMedian, Krum
from phloem.branches.linear import Mean, TaskArithmetic
from phloem.branches.methods import Held, Method
from phloem.branches.robust import Median, TrimmedMean
from phloem.branches.sparsify import Dare, Ties
from phloem.seeds import generator
from phloem.tensors import Array

LABELS = tuple("abcdefgh")
EVERY: list[Any] = [
    Mean(),
    TaskArithmetic(0.5),
    Ties(0.4),
    Dare(0.5),
    Dare(0.5, signs=True, rescale="density", normalize=True),
    TrimmedMean(0.2),
    Median(),
    GeometricMedian(),
    Krum(1, keep=2),
]


def named(method: Any) -> str:
    """The name of a method's case."""
    return method.name + "-signs" * getattr(method, "signs", False)


every = pytest.mark.parametrize("method", EVERY, ids=named)


def merged(
    method: Method,
    base: Any,
    arrays: Sequence[Any],
    weights: Sequence[float] = (),
    length: int = 0,
    **more: Any,
) -> Array:
    """The merge of one tensor, with all its steps."""
    weights = list(weights) or [1.0] * len(arrays)
    labels = more.get("labels", LABELS[: len(arrays)])
    held = Held([np.asarray(array, np.float32) for array in arrays], labels, length)
    base = np.asarray(base, np.float32)
    survey = method.survey("w", base, held) if method.needs_survey else None
    resolved = canonical.loads(canonical.dumps(method.resolve(survey, weights)))
    return method.tensor("w", base, held, weights, resolved, more.get("key", 0))


def drawn(*labels: str | int, count: int = 7, shape: tuple[int, ...] = (6, 5)) -> tuple[Array, list[Array]]:
    """Base, and branches that are 0.1 away from it."""
    draw = generator(0, "methods", *labels)
    base = draw.normal(size=shape).astype(np.float32)
    return base, [(base + 0.1 * draw.normal(size=shape)).astype(np.float32) for _ in range(count)]

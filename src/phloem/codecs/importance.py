"""Weights of tensors in the squared error, and the steps that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from phloem.kernels import backend
from phloem.kernels.steps import IMPORTANCE_REACH
from phloem.tensors import Array, Layout


def weights_of(importance: Mapping[str, float], layout: Layout) -> list[float] | None:
    """The weight of every tensor, or None where there are no importances."""
    if not importance:
        return None
    return [
        math.prod(weight for pattern, weight in sorted(importance.items()) if fnmatchcase(spec.name, pattern))
        for spec in layout.specs
    ]


def quarters_of(weights: Sequence[float] | None, layout: Layout) -> list[int]:
    """By how many quarters of an octave every tensor's step is finer: 2 log2 of its weight, to the nearest."""
    result = []
    for weight, spec in zip(weights or (), layout.specs, strict=bool(weights)):
        share, exponent = math.frexp(weight)  # no logarithm: the same on every machine
        quarters = 2 * exponent - (2 if share < 2.0**-0.75 else 1 if share < 2.0**-0.25 else 0)
        result.append(max(-IMPORTANCE_REACH, min(quarters, IMPORTANCE_REACH)) if spec.size else 0)
    return result if any(result) else []


def weighted_energy(
    arrays: Sequence[Array], others: Sequence[Array] | None, weights: Sequence[float] | None
) -> float:
    """The sum of squares of the arrays, or of differences; weighted by tensor where there are weights."""
    kernels = backend()
    if weights is None:
        return kernels.ecsq_energy(arrays, others)
    total = 0.0
    for index, weight in enumerate(weights):
        other = None if others is None else others[index : index + 1]
        total += weight * kernels.ecsq_energy(arrays[index : index + 1], other)
    return total

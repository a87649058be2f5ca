"""Merges that look at whole models as points: the geometric median and Krum.

Both need the distances between the branches over all tensors, which follow from one small matrix: the Gram matrix of
their changes against base, summed over the tensors. Its last bits depend on the machine, so what is decided from it
(coefficients, the chosen branches) is recorded, and the merge itself is an exact weighted mean again.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from phloem.branches.arithmetic import (
    Branches,
    Doubles,
    Elementwise,
    Inputs,
    Resolved,
    check_weights,
    shares,
    spans,
    stepped,
    taking_part,
    weighted_sum,
)
from phloem.codecs.config import check_number, check_whole
from phloem.errors import ConfigError
from phloem.tensors import Array

_STEPS = 10_000
_SAME = 1e-14  # of the squared norms: a squared distance below it is rounding
_STILL = 1e-10  # of the least distance between two branches: a shorter step is the last one
_HERE = 1e-20  # of the least squared distance between two branches: nearer, the point is the branch
_MOST_BRANCHES = 4096


def gram(name: str, base: Array, branches: Branches) -> Doubles:
    """The matrix of ⟨xᵢ − base, xⱼ − base⟩ over one tensor, (branches, branches) float64; a sum in no fixed order.

    Raises:
        ConfigError: a shape or type that is not base's, a NaN or an infinity.
    """
    inputs = Inputs.of(name, base, branches)
    total = np.zeros((len(branches.labels), len(branches.labels)))
    for where, part in inputs.stretches():
        deltas = part.astype(np.float64) - inputs.base[where]
        total += deltas @ deltas.T
    return (total + total.T) / 2


def squared_distances(products: Doubles) -> Doubles:
    """‖xᵢ − xⱼ‖² from the Gram matrix, never below 0."""
    norms: Doubles = np.diag(products)
    return np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0.0)


class _Surveyed(Elementwise):
    """A method whose merge is a mean with coefficients that were resolved from the Gram matrix."""

    needs_survey = True
    scale: float

    def survey(self, name: str, base: Array, branches: Branches) -> Doubles:
        """The tensor's Gram matrix (see `gram`); those of all tensors are added up."""
        return gram(name, base, branches)

    def _gram(self, survey: Doubles | None, weights: Sequence[float]) -> tuple[list[int], Doubles]:
        """The branches that take part, and their Gram matrix."""
        self.check(weights)
        count, places = len(weights), taking_part(weights)
        if survey is None or survey.shape != (count, count) or not np.isfinite(survey).all():
            raise ConfigError(f"merge method '{self.name}' expected the sum of surveys, ({count}, {count})")
        return places, survey[np.ix_(places, places)]

    def _stretches(
        self, inputs: Inputs, weights: Sequence[float], resolved: Resolved, key: int
    ) -> Iterator[tuple[slice, Doubles]]:
        total = weighted_sum(inputs, self._coefficients(weights, resolved), deltas=False)
        for where in spans(total.size):
            yield where, stepped(inputs.base[where], total[where], self.scale)

    @abc.abstractmethod
    def _coefficients(self, weights: Sequence[float], resolved: Resolved) -> list[float]:
        """One per branch, with the sum 1."""


@dataclass(frozen=True)
class GeometricMedian(_Surveyed):
    """The point with the least weighted sum of distances to the branches, whole models being the points.

    Wrong branches with less than half of the weight move it no further than a multiple of the spread of the others
    that depends only on their share. Copies of one model merge to that model exactly.

    Source: Pillutla et al., Robust aggregation for federated learning, 2022, section 3; found by Weiszfeld's steps on
    the coefficients of the branches, with the steps of Vardi and Zhang (The multivariate L1-median, 2000, equations 2.6
    and 2.7) where a point is one of the branches.

    Attributes:
        scale: the merge is base + scale · (median − base).
    """

    scale: float = 1.0
    name: ClassVar[str] = "geometric-median"

    def __post_init__(self) -> None:
        check_number("merge method 'geometric-median'", "scale", self.scale, -1e3, 1e3)

    def resolve(self, survey: Doubles | None, weights: Sequence[float]) -> Resolved:
        """{"coefficients": [...]}, one per branch, from 0 up, with the sum 1."""
        places, products = self._gram(survey, weights)
        found = [0.0] * len(weights)
        for place, value in zip(
            places, weiszfeld(products, shares([weights[i] for i in places])), strict=True
        ):
            found[place] = float(value)
        return {"coefficients": found}

    def _coefficients(self, weights: Sequence[float], resolved: Resolved) -> list[float]:
        found = resolved.get("coefficients")
        if not isinstance(found, list) or len(found) != len(weights):
            raise ConfigError(
                f"merge method 'geometric-median' expected {len(weights)} resolved coefficients, found {found!r:.60}"
            )
        check_weights(found)
        if abs(math.fsum(found) - 1) > 1e-9:
            raise ConfigError(f"resolved coefficients must add up to 1, found {math.fsum(found)!r}")
        return found


def weiszfeld(products: Doubles, weights: Sequence[float]) -> Doubles:
    """The coefficients of the geometric median of points with this Gram matrix and these shares of the weight."""
    w: Doubles = np.array(weights, np.float64)
    norms: Doubles = np.diag(products)
    between = squared_distances(products)
    same = between <= _SAME * (norms[:, None] + norms[None, :])  # (branches, branches)
    for k in range(len(w)):  # is it a branch? There, Weiszfeld's steps would crawl.
        pull = np.where(same[k], 0.0, w) / np.sqrt(np.where(same[k], 1.0, between[k]))
        if _length(pull - pull.sum() * np.eye(len(w))[k], products) < w[same[k]].sum() * (1 - 1e-9):
            only: Doubles = np.where(same[k], w, 0.0) / w[same[k]].sum()
            return only
    least = float(between[~same].min())
    c = w
    for _ in range(_STEPS):
        before, along = c, products @ c
        squares = c @ along - 2 * along + norms  # of the distances from Σ cᵢxᵢ to the branches
        here = squares <= _HERE * least
        pull = np.where(here, 0.0, w) / np.sqrt(np.where(here, 1.0, squares))
        c = pull / pull.sum()
        if here.any():  # at a branch that is not the median: away from it
            stay = min(1.0, w[here].sum() / _length(pull - pull.sum() * before, products))
            c = (1 - stay) * c + stay * before
        if _length(c - before, products) <= _STILL * math.sqrt(least):
            break
    return c


def _length(coefficients: Doubles, products: Doubles) -> float:
    """‖Σ cᵢxᵢ‖ from the Gram matrix."""
    return math.sqrt(max(0.0, float(coefficients @ products @ coefficients)))


@dataclass(frozen=True)
class Krum(_Surveyed):
    """The weighted mean of the `keep` branches that lie closest to their neighbours.

    A branch's score is the sum of its squared distances, over whole models, to the N − bad − 2 branches nearest to
    it; the lowest scores are kept, of equal ones the earlier branch. Weights have no say in the choice. Copies of one
    model merge to that model exactly.

    Source: Blanchard et al., Machine learning with adversaries, 2017, section 4; `keep` above 1 is its Multi-Krum.

    Attributes:
        bad: f, how many branches may be wrong; needs N ≥ 2f + 3.
        keep: m, how many branches are averaged, at most N − f.
        scale: the merge is base + scale · (mean of the kept − base).
    """

    bad: int
    keep: int = 1
    scale: float = 1.0
    name: ClassVar[str] = "krum"

    def __post_init__(self) -> None:
        check_whole("merge method 'krum'", "bad", self.bad, 0, _MOST_BRANCHES)
        check_whole("merge method 'krum'", "keep", self.keep, 1, _MOST_BRANCHES)
        check_number("merge method 'krum'", "scale", self.scale, -1e3, 1e3)

    def check(self, weights: Sequence[float]) -> None:
        """Refuses too few branches for `bad` and `keep`, besides what no merge can use."""
        check_weights(weights)
        count = len(taking_part(weights))
        if count < 2 * self.bad + 3:
            raise ConfigError(
                f"merge method 'krum' with bad = {self.bad} needs at least {2 * self.bad + 3} branches, found {count}"
            )
        if self.keep > count - self.bad:
            raise ConfigError(
                f"merge method 'krum' can keep at most {count - self.bad} of {count} branches with bad = {self.bad}, "
                f"found {self.keep}"
            )

    def resolve(self, survey: Doubles | None, weights: Sequence[float]) -> Resolved:
        """{"chosen": [places in order], "scores": [one per branch, null for those of weight 0]}."""
        places, products = self._gram(survey, weights)
        distances = squared_distances(products)
        near = len(places) - self.bad - 2
        scores: list[float | None] = [None] * len(weights)
        for i, place in enumerate(places):
            scores[place] = float(np.sort(np.delete(distances[i], i))[:near].sum())
        best = sorted(places, key=lambda place: (scores[place], place))[: self.keep]
        return {"chosen": sorted(best), "scores": scores}

    def _coefficients(self, weights: Sequence[float], resolved: Resolved) -> list[float]:
        chosen = resolved.get("chosen")
        if (
            not isinstance(chosen, list)
            or any(type(place) is not int for place in chosen)
            or len(chosen) != self.keep
            or chosen != sorted(set(chosen) & set(taking_part(weights)))
        ):
            raise ConfigError(
                f"merge method 'krum' expected {self.keep} chosen branches, found {chosen!r:.60}"
            )
        return shares([weight if place in chosen else 0.0 for place, weight in enumerate(weights)])

"""Merges that are one weighted sum: the mean of models, and task arithmetic on what the branches changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from phloem.branches.arithmetic import Doubles, Elementwise, Inputs, Resolved, shares, spans, weighted_sum
from phloem.codecs.config import check_number


@dataclass(frozen=True)
class Mean(Elementwise):
    """Σ wᵢxᵢ ÷ Σ wᵢ: the weighted mean of the branches; base's values play no part.

    The same as FedAvg (McMahan et al., Communication-efficient learning, 2017, Algorithm 1) and, with equal weights,
    a uniform model soup (Wortsman et al. 2022); mergekit's `linear` with its default `normalize: true`. Copies of one
    model merge to that model exactly.
    """

    name: ClassVar[str] = "mean"

    def _stretches(
        self, inputs: Inputs, weights: Sequence[float], resolved: Resolved, key: int
    ) -> Iterator[tuple[slice, Doubles]]:
        total = weighted_sum(inputs, shares(weights), deltas=False)
        for where in spans(total.size):
            yield where, total[where]


@dataclass(frozen=True)
class TaskArithmetic(Elementwise):
    """base + scale · Σ wᵢ(xᵢ − base): what the branches changed, added to base.

    Source: Ilharco et al., Editing models with task arithmetic, 2023, section 2; mergekit's `task_arithmetic`.
    Copies of one model, normalized and with scale 1, merge to that model within 2⁻⁵⁰ of the larger of |base| and
    |model| before the rounding to float32: nearly always exactly, and not where the model has 0 and base has not.

    Attributes:
        scale: mergekit's `lambda`, 1 by default as there. Below 0, what the branches learnt is taken away from base.
        normalize: divides the sum by Σ wᵢ. Off by default, as in mergekit: weights are then factors, and numbers of
            samples make no sense as weights.
    """

    scale: float = 1.0
    normalize: bool = False
    name: ClassVar[str] = "task-arithmetic"

    def __post_init__(self) -> None:
        check_number("merge method 'task-arithmetic'", "scale", self.scale, -1e3, 1e3)

    def _stretches(
        self, inputs: Inputs, weights: Sequence[float], resolved: Resolved, key: int
    ) -> Iterator[tuple[slice, Doubles]]:
        factors = shares(weights) if self.normalize else weights
        total = weighted_sum(inputs, factors, deltas=True)
        for where in spans(total.size):
            yield where, inputs.base[where] + self.scale * total[where]

"""Pruning by a schedule: which weights of the trunk are zero for good. Both ends derive it; nothing is sent.

Specification. A trunk of number R has R merges behind it.

- *Prunable* are the tensors of two or more dimensions whose name matches one of the schedule's patterns.
- The mask changes when the trunk reaches R = begin, begin + every, … below end, and when it reaches end. The
  share of zeros is then s = sparsity · (1 − (1 − (R − begin) ÷ (end − begin))³), or `sparsity` where begin = end
  (Zhu and Gupta, To prune, or not to prune, 2017, §3, from zero), in float64 in the order written, a cube as
  two multiplications; of n weights n − ⌊s·n + ½⌋ stay.
- Those of the largest magnitude stay, of equal ones those with the lower index: counted over all prunable tensors
  in the layout's order (scope "global") or in each (scope "tensor").
- With `regrow` = g, ⌊g · (1 − (R − begin) ÷ (end − begin)) · kept + ½⌋ of the places that stay go to other weights
  than the largest: to those with the largest draw of PCG64's raw 64-bit stream with its lowest bit set, one draw per
  weight in the order above, seeded by `seed_for(plan seed, "prune", R)` (a set drawn anew: Mocanu et al., Scalable
  training of artificial neural networks with adaptive sparse connectivity, 2018). Those that were pruned before
  start from zero.
- A pruned weight is −0.0 in the trunk; a kept zero is +0.0. So the mask is part of the state: its digest covers the
  mask, a key-frame carries it, a resumed run reads it there. (−0.0 is the neutral element of IEEE addition, and no
  sum of other numbers gives it, so merging never makes or unmakes a mark.)
- A frame carries only kept weights, in the layout `Kept.layout`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from phloem.codecs.config import check_number
from phloem.errors import ConfigError
from phloem.masks import ABSENT, Kept, Mask, everything, largest
from phloem.seeds import seed_for
from phloem.tensors import Layout, State, TensorSpec

SCOPES = ("global", "tensor")
METHODS = ("magnitude",)
_ABSENT_BITS = np.uint32(0x80000000)
_MOST_PATTERNS = 256


@dataclass(frozen=True)
class Pruning:
    """When and how the trunk is pruned: `[prune]` of a recipe, part of the plan.

    Attributes:
        sparsity: the share of the prunable weights that is zero in the end.
        begin, end, every: rounds; see the specification above.
        method: "magnitude".
        scope: "global" compares weights of all tensors, "tensor" gives each tensor the same sparsity.
        regrow: the share of kept places that is given to other weights at first; it falls to 0 at `end`.
        tensors: patterns of names ("*" and "?"); tensors of fewer than two dimensions are never pruned.
    """

    sparsity: float
    begin: int
    end: int
    every: int = 1
    method: str = "magnitude"
    scope: str = "global"
    regrow: float = 0.0
    tensors: list[str] = field(default_factory=lambda: ["*"])

    def __post_init__(self) -> None:
        check_number("[prune]", "sparsity", self.sparsity, 0.0, 0.9999)
        check_number("[prune]", "regrow", self.regrow, 0.0, 0.9)
        for key, low in (("begin", 1), ("end", 1), ("every", 1)):
            value = getattr(self, key)
            if type(value) is not int:
                raise ConfigError(f"[prune]: '{key}' must be a whole number, found {value!r:.40}")
            check_number("[prune]", key, value, low, 1_000_000)
        if self.end < self.begin:
            raise ConfigError(f"[prune]: 'end' must not lie before 'begin', {self.begin}; found {self.end}")
        for key, known in (("method", METHODS), ("scope", SCOPES)):
            if getattr(self, key) not in known:
                raise ConfigError(
                    f"[prune]: '{key}' is one of {', '.join(known)}, found {getattr(self, key)!r:.40}"
                )
        if not self.tensors or len(self.tensors) > _MOST_PATTERNS:
            raise ConfigError(f"[prune]: 'tensors' must be a list of 1 to {_MOST_PATTERNS} patterns")

    def changes_at(self, number: int) -> bool:
        """Whether the mask changes when the trunk reaches `number` merges."""
        inside = self.begin <= number <= self.end
        return inside and ((number - self.begin) % self.every == 0 or number == self.end)

    def sparsity_at(self, number: int) -> float:
        """The share of zeros that the mask made at `number` has."""
        left = self._left(number)
        return self.sparsity * (1.0 - left * left * left)

    def regrowth_at(self, number: int) -> float:
        """The share of kept places that the mask made at `number` gives to other weights."""
        return self.regrow * self._left(number)

    def _left(self, number: int) -> float:
        if number >= self.end:
            return 0.0
        return 1.0 - (number - self.begin) / (self.end - self.begin)

    def prunes(self, spec: TensorSpec) -> bool:
        """Whether the tensor may lose weights."""
        return len(spec.shape) >= 2 and any(fnmatchcase(spec.name, pattern) for pattern in self.tensors)


def marked(schedule: Pruning | None, state: State, layout: Layout, number: int) -> Kept:
    """What is kept in a trunk of `number` merges, as its marks say."""
    if schedule is None or number < schedule.begin:
        return everything(layout)
    masks: list[Mask | None] = []
    for spec in layout.specs:
        mask = state[spec.name].reshape(-1).view(np.uint32) != _ABSENT_BITS if schedule.prunes(spec) else None
        masks.append(None if mask is None or mask.all() else mask)
    return Kept(layout, tuple(masks))


def pruned(
    schedule: Pruning | None, state: State, layout: Layout, number: int, seed: int, now: Kept
) -> tuple[State, Kept]:
    """The trunk that has reached `number` merges, with the mask that it has from then on; `now` is its present one."""
    if schedule is None or not schedule.changes_at(number):
        return state, now
    specs = [spec for spec in layout.specs if schedule.prunes(spec)]
    magnitudes = [state[spec.name].reshape(-1).view(np.uint32) & np.uint32(0x7FFFFFFF) for spec in specs]
    draws = np.random.PCG64(seed_for(seed, "prune", number))
    share, regrown = schedule.sparsity_at(number), schedule.regrowth_at(number)
    if schedule.scope == "tensor":
        chosen = [_chosen(keys, share, regrown, draws) for keys in magnitudes]
    else:
        joined = np.concatenate(magnitudes) if magnitudes else np.zeros(0, np.uint32)
        ends = np.cumsum([spec.size for spec in specs])[:-1]
        chosen = np.split(_chosen(joined, share, regrown, draws), ends)
    after = dict(state)
    for spec, mask in zip(specs, chosen, strict=True):
        array = state[spec.name].reshape(-1)
        after[spec.name] = np.where(mask, array + np.float32(0.0), ABSENT).reshape(spec.shape)
    return after, marked(schedule, after, layout, number)


def _chosen(keys: npt.NDArray[np.uint32], share: float, regrown: float, draws: np.random.PCG64) -> Mask:
    """Which of the weights with these magnitudes stay."""
    count = keys.size - int(np.floor(share * keys.size + 0.5))
    others = min(int(np.floor(regrown * count + 0.5)), keys.size - count)
    stay = largest(keys, count - others)
    if others:
        scores = draws.random_raw(keys.size) | np.uint64(1)
        scores[stay] = 0
        stay |= largest(scores, others)
    return stay

"""Merges that thin out what each branch changed before adding it up: TIES by magnitude, DARE at random.

Both are compared with mergekit (tests/branches/mergekit), whose options and defaults they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from phloem.branches.arithmetic import Doubles, Elementwise, Inputs, Resolved, halved, shares, spans
from phloem.codecs.config import check_choice, check_number
from phloem.seeds import seed_for
from phloem.tensors import Array

Mask = npt.NDArray[np.bool_]
RESCALES = ("l1", "density", "none")
_LEAST_DENSITY = 2.0**-24
_NORM_BLOCK = 1 << 16  # part of what "l1" means: another length would change last bits of recorded merges
_WORDS = 8  # 32-bit words that Philox-4x64 gives per counter


# ---- TIES -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ties(Elementwise):
    """Trim, elect a sign, merge what agrees: base + scale · Σ wᵢtᵢ[sgn tᵢ = s] ÷ Σ wᵢ[sgn tᵢ = s].

    tᵢ is xᵢ − base where that is among the ⌊density · size⌋ (at least one) largest of the tensor by magnitude, else
    0; s is the sign of Σ wᵢtᵢ, + for a sum of 0. Where nobody agrees, base stays. Magnitudes are compared as float32;
    of equal ones the earlier elements are kept.

    Source: Yadav et al., TIES-Merging, 2023, Algorithm 1; mergekit's `ties`.

    Attributes:
        density: the share that each branch keeps of each tensor; 1 by default as in mergekit (the paper takes 0.2).
        scale: mergekit's `lambda`, 1 by default as there.
        normalize: the division; on by default, as in mergekit. Without, agreeing changes are summed.
    """

    density: float = 1.0
    scale: float = 1.0
    normalize: bool = True
    name: ClassVar[str] = "ties"

    def __post_init__(self) -> None:
        check_number("merge method 'ties'", "density", self.density, _LEAST_DENSITY, 1.0)
        check_number("merge method 'ties'", "scale", self.scale, -1e3, 1e3)

    def _stretches(
        self, inputs: Inputs, weights: Sequence[float], resolved: Resolved, key: int
    ) -> Iterator[tuple[slice, Doubles]]:
        cuts: list[Cut | None] = [None] * len(weights)
        if self.density < 1.0 and inputs.base.size:
            for place, row in inputs.whole():
                cuts[place] = cut(row, inputs.base, max(1, int(self.density * row.size)))
                del row
        for where, part in inputs.stretches():
            base = inputs.base[where]
            deltas = part.astype(np.float64) - base  # (branches, length)
            for place, limit in enumerate(cuts):
                if limit is not None:
                    deltas[place] *= limit.keeps(part[place], base, where.start)
            yield where, base + self.scale * agreed(deltas, weights, weights, self.normalize)


@dataclass(frozen=True)
class Cut:
    """Which elements of a tensor are its largest changes: those above `magnitude`, or as large and before `end`."""

    magnitude: np.float32
    end: int

    def keeps(self, row: Array, base: Array, start: int) -> Mask:
        """Which of a stretch's elements are kept, the first of which has the index `start` in the tensor."""
        sizes = _magnitudes(row, base)
        kept = sizes > self.magnitude
        before = min(max(0, self.end - start), kept.size)
        kept[:before] |= sizes[:before] == self.magnitude
        return kept


def cut(row: Array, base: Array, count: int) -> Cut:
    """The cut that keeps the `count` largest of |row − base|; of equal ones those with the lower index."""
    sizes = _magnitudes(row, base)
    magnitude = np.partition(sizes, sizes.size - count)[sizes.size - count]
    left = count - sum(int(np.count_nonzero(sizes[where] > magnitude)) for where in spans(sizes.size))
    for where in spans(sizes.size):
        equal = np.flatnonzero(sizes[where] == magnitude)
        if equal.size >= left:
            return Cut(magnitude, where.start + int(equal[left - 1]) + 1)
        left -= equal.size
    raise AssertionError("the magnitude at the cut is one of the tensor's")


def _magnitudes(row: Array, base: Array) -> Array:
    with np.errstate(over="ignore"):  # both finite: a difference beyond float32 is the largest there is
        sizes: Array = row - base
    np.abs(sizes, out=sizes)
    return sizes


def agreed(deltas: Doubles, factors: Sequence[float], weights: Sequence[float], normalize: bool) -> Doubles:
    """Σ fᵢδᵢ over the branches whose fᵢδᵢ has the sign of the sum of all, ÷ Σ wᵢ of the same if `normalize`.

    Shapes: `deltas` (branches, length), overwritten; the result (length,).
    """
    for row, factor in zip(deltas, factors, strict=True):
        row *= factor
    total = np.zeros(deltas.shape[1])
    for row in deltas:
        total += row
    sign = np.where(total >= 0, 1.0, -1.0)
    total[:] = 0
    divisor = np.zeros_like(total)
    for row, weight in zip(deltas, weights, strict=True):
        row *= sign
        np.maximum(row, 0.0, out=row)  # what disagrees is 0 now, and what agrees is positive
        total += row
        if normalize:
            divisor += weight * (row > 0)
    total *= sign
    return np.divide(total, divisor, out=total, where=divisor > 0) if normalize else total


# ---- DARE -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dare(Elementwise):
    """Drop and rescale: each change is kept with probability `density`, what is left is scaled up, then merged.

    base + scale · Σ wᵢrᵢmᵢ(xᵢ − base), with random masks m and the factor r that `rescale` names; with `signs`, only
    the terms that have the elected sign are added, as in `Ties`.

    The masks follow from the key, the branch's label and the tensor's name alone (see `mask`): neither the order nor
    the number of branches changes them.

    Source: Yu et al., Language models are super Mario, 2024, section 3.2; mergekit's `dare_linear` and, with
    `signs`, `dare_ties`.

    Attributes:
        density: the probability of keeping a change; 1 by default as in mergekit.
        signs: whether signs are elected.
        rescale: "l1" scales what is left to the L1 norm of the whole, per branch and tensor (the default, as
            mergekit's `rescale: true`; mergekit leaves norms below 1e-7 alone, we only 0); "density" divides by the
            density, as the paper does, which is right on average; "none" does neither.
        scale: mergekit's `lambda`, 1 by default as there.
        normalize: divides by the sum of the weights that were added. Off by default, as in mergekit.
    """

    density: float = 1.0
    signs: bool = False
    rescale: str = "l1"
    scale: float = 1.0
    normalize: bool = False
    name: ClassVar[str] = "dare"

    def __post_init__(self) -> None:
        check_number("merge method 'dare'", "density", self.density, _LEAST_DENSITY, 1.0)
        check_choice("merge method 'dare'", "rescale", self.rescale, RESCALES)
        check_number("merge method 'dare'", "scale", self.scale, -1e3, 1e3)

    def _stretches(
        self, inputs: Inputs, weights: Sequence[float], resolved: Resolved, key: int
    ) -> Iterator[tuple[slice, Doubles]]:
        seeds = [seed_of(key, label, inputs.name) for label in inputs.branches.labels]
        return self._elected(inputs, weights, seeds) if self.signs else self._added(inputs, weights, seeds)

    def _added(
        self, inputs: Inputs, weights: Sequence[float], seeds: Sequence[int]
    ) -> Iterator[tuple[slice, Doubles]]:
        factors = self._factors(shares(weights) if self.normalize else weights)
        total = np.zeros(inputs.base.size)
        for place, row in inputs.whole():
            kept = mask(seeds[place], 0, row.size, self.density)
            factor = factors[place] * (norm_ratio(row, inputs.base, kept) if self._by_norm else 1.0)
            for where in spans(row.size):
                term = row[where].astype(np.float64)
                term -= inputs.base[where]
                term *= kept[where]
                term *= factor
                total[where] += term
            del row, kept
        for where in spans(total.size):
            yield where, inputs.base[where] + self.scale * total[where]

    def _elected(
        self, inputs: Inputs, weights: Sequence[float], seeds: Sequence[int]
    ) -> Iterator[tuple[slice, Doubles]]:
        factors = self._factors(weights)
        if self._by_norm:
            for place, row in inputs.whole():
                factors[place] *= norm_ratio(row, inputs.base, mask(seeds[place], 0, row.size, self.density))
                del row
        for where, part in inputs.stretches():
            base = inputs.base[where]
            deltas = part.astype(np.float64) - base  # (branches, length)
            for place, seed in enumerate(seeds if self.density < 1.0 else ()):
                deltas[place] *= mask(seed, where.start, where.stop, self.density)
            yield where, base + self.scale * agreed(deltas, factors, weights, self.normalize)

    @property
    def _by_norm(self) -> bool:
        return self.rescale == "l1" and self.density < 1.0

    def _factors(self, weights: Sequence[float]) -> list[float]:
        """The weights with the rescaling that is the same for all tensors."""
        return [weight / self.density if self.rescale == "density" else weight for weight in weights]


def norm_ratio(row: Array, base: Array, kept: Mask) -> float:
    """‖row − base‖₁ ÷ the same over what is kept, or 1 where that is 0; the same bits everywhere (see `halved`)."""
    norms = np.zeros((2, -(-row.size // _NORM_BLOCK)))  # of the whole and of what is kept, block by block
    for place, where in enumerate(spans(row.size, _NORM_BLOCK)):
        sizes = np.abs(row[where].astype(np.float64) - base[where])
        norms[1, place] = halved(sizes * kept[where])
        norms[0, place] = halved(sizes)
    whole, left = halved(norms[0]), halved(norms[1])
    return whole / left if left > 0 else 1.0


def seed_of(key: int, label: str, name: str) -> int:
    """The seed of the mask of a branch's tensor: the stream that ("dare", label, name) names under `key`."""
    return seed_for(key, "dare", label, name)


def mask(seed: int, start: int, stop: int, density: float) -> Mask:
    """Which of a tensor's elements `start` to `stop` are kept, each with probability `density`.

    Element e is kept if word e of the stream is below ⌊density · 2³²⌋. The stream is Philox-4x64-10 (Salmon et al.,
    Parallel random numbers: as easy as 1, 2, 3, 2011) with the key (seed, 0), at counters 1, 2, 3 and so on, each
    of whose four outputs is two 32-bit words, the lower first: any part of it can be had without what comes before.

    >>> mask(7, 0, 6, 0.5).tolist()
    [True, False, False, True, True, True]
    >>> mask(7, 2, 5, 0.5).tolist()
    [False, True, True]
    """
    kept = np.ones(stop - start, np.bool_)
    if density == 1.0:
        return kept
    limit = np.uint32(int(density * 2.0**32))
    for where in spans(kept.size):
        first, last = start + where.start, start + where.stop
        counter, end = first // _WORDS, -(-last // _WORDS)
        outputs = np.random.Philox(counter=counter, key=seed).random_raw(4 * (end - counter))
        words = outputs.astype("<u8", copy=False).view("<u4")[first - _WORDS * counter :][: last - first]
        np.less(words, limit, out=kept[where])
    return kept

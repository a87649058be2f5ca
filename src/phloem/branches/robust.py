"""Merges that a few wrong branches cannot move far, coordinate by coordinate: the trimmed mean and the median.

Values are compared exactly; equal ones are told apart by the branch's place. A branch of weight 0 takes no part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from phloem.branches.arithmetic import (
    Doubles,
    Elementwise,
    Inputs,
    Resolved,
    check_weights,
    stepped,
    taking_part,
)
from phloem.codecs.config import check_number
from phloem.errors import ConfigError
from phloem.tensors import Array

Keys = npt.NDArray[np.int64]
_MOST_TRIMMED = 0.49  # below a half by so much that something is left of any number of branches
_PLACE_BITS = 16
_LAST_PLACE = (1 << _PLACE_BITS) - 1
_NETWORK = 32  # rows from which NumPy's sort of columns is no slower than a network (measured with 8 to 64)


@dataclass(frozen=True)
class TrimmedMean(Elementwise):
    """At every coordinate the weighted mean of what is left without the largest and the smallest values.

    ⌊trim · N⌋ of the N values are left out at each side, whatever their weights; up to so many wrong branches move
    the merge no further than the spread of the others. Copies of one model merge to that model exactly.

    Source: Yin et al., Byzantine-robust distributed learning, 2018, Definition 2.

    Attributes:
        trim: the share left out at each side, up to 0.49; refused where it comes to no branch at all.
        scale: the merge is base + scale · (trimmed mean − base).
    """

    trim: float = 0.2
    scale: float = 1.0
    name: ClassVar[str] = "trimmed-mean"

    def __post_init__(self) -> None:
        check_number("merge method 'trimmed-mean'", "trim", self.trim, 0.0, _MOST_TRIMMED)
        check_number("merge method 'trimmed-mean'", "scale", self.scale, -1e3, 1e3)

    def check(self, weights: Sequence[float]) -> None:
        """Refuses weights of which the trimming takes nobody, besides what no merge can use."""
        check_weights(weights)
        count = len(taking_part(weights))
        if self.trim > 0 and not self.trimmed(count):
            raise ConfigError(
                f"merge method 'trimmed-mean': a share of {self.trim:g} of {count} branches is none",
                hint="a larger 'trim', more branches, or 0 for the plain mean",
            )

    def trimmed(self, count: int) -> int:
        """How many of `count` values are left out at each side."""
        return math.floor(self.trim * count + 1e-9)  # 0.29 · 100 is 28.999999999999996

    def _stretches(
        self, inputs: Inputs, weights: Sequence[float], resolved: Resolved, key: int
    ) -> Iterator[tuple[slice, Doubles]]:
        places = taking_part(weights)
        out = self.trimmed(len(places))
        inside = slice(out, len(places) - out)
        numbers = np.array([weights[place] for place in places])
        for where, part in inputs.stretches():
            total = np.zeros(part.shape[1])
            if np.all(numbers == numbers[0]):
                rows = ordered(_without_minus_zero(part, places))[inside]
                for row in rows:
                    total += row
                total /= len(rows)
            else:
                divisor = np.zeros_like(total)
                for row in ordered(keys(_without_minus_zero(part, places)))[inside]:
                    weight = numbers[row & _LAST_PLACE]
                    total += weight * values(row)
                    divisor += weight
                total /= divisor
            yield where, stepped(inputs.base[where], total, self.scale)


@dataclass(frozen=True)
class Median(Elementwise):
    """At every coordinate the median; of an even number of values the mean of the middle two.

    With weights that are not all equal, the weighted median: the value at which half of the weight is below or
    equal, and the mean of it and the next where exactly half is. Wrong branches with less than half of the weight
    move it no further than the spread of the others. Copies of one model merge to that model exactly.

    Source: Yin et al. 2018, Definition 1.

    Attributes:
        scale: the merge is base + scale · (median − base).
    """

    scale: float = 1.0
    name: ClassVar[str] = "median"

    def __post_init__(self) -> None:
        check_number("merge method 'median'", "scale", self.scale, -1e3, 1e3)

    def _stretches(
        self, inputs: Inputs, weights: Sequence[float], resolved: Resolved, key: int
    ) -> Iterator[tuple[slice, Doubles]]:
        places = taking_part(weights)
        numbers = whole_numbers([weights[place] for place in places])
        middle = (len(places) - 1) // 2, len(places) // 2
        for where, part in inputs.stretches():
            if len(set(numbers)) == 1:
                rows = ordered(_without_minus_zero(part, places))
                centre = (rows[middle[0]].astype(np.float64) + rows[middle[1]]) / 2
            else:
                centre = _weighted_median(ordered(keys(_without_minus_zero(part, places))), numbers)
            yield where, stepped(inputs.base[where], centre, self.scale)


def _weighted_median(rows: list[Keys], numbers: Sequence[int]) -> Doubles:
    """The weighted median of each column of sorted keys, whose weights are whole `numbers` by place."""
    table, total = np.array(numbers), sum(numbers)
    above = np.zeros(rows[0].shape, np.int64)  # the weight of the values after this one
    lower = upper = rows[-1]
    for row in reversed(rows):
        lower = np.where(2 * above <= total, row, lower)
        upper = np.where(2 * above < total, row, upper)  # mostly the same as `lower`
        above += table[row & _LAST_PLACE]
    return (values(lower).astype(np.float64) + values(upper)) / 2


def whole_numbers(weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the weights, exactly where their sum can stay below 2^61.

    So "exactly half of the weight" is decided exactly, and in the same way for every order of the branches.

    >>> whole_numbers([0.5, 1.5]) == [2**58, 3 * 2**58]
    True
    """
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact, Fraction(0))  # between 2^(bits−1) and 2^(bits+1)
    bits = total.numerator.bit_length() - total.denominator.bit_length()
    factor = Fraction(2) ** (60 - bits)
    return [int(weight * factor) for weight in exact]


# ---- Sorting columns ------------------------------------------------------------------------------------------


def _without_minus_zero(part: Array, places: Sequence[int]) -> Array:
    """The branches that take part, −0.0 as +0.0: then equal values have equal bits, and any sort gives the same."""
    rows = part if len(places) == len(part) else part[places]
    return rows + np.float32(0.0)


def ordered(part: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The rows of `part` with every column sorted; overwrites `part`.

    Up to 32 rows by a network of minima and maxima, which takes whole rows at a time.

    >>> [row.tolist() for row in ordered(np.array([[3, 1], [2, 5], [9, 4]]))]
    [[2, 1], [3, 4], [9, 5]]
    """
    if len(part) >= _NETWORK:
        part.sort(axis=0)
        return list(part)
    rows, spare = list(part), np.empty_like(part[0])
    for low, high in network(len(rows)):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return rows


@cache
def network(count: int) -> tuple[tuple[int, int], ...]:
    """The comparators (low, high) of Batcher's merge exchange sort (Knuth, TAOCP volume 3, 5.2.2, Algorithm M)."""
    found = []
    top = 1 << max(0, (count - 1).bit_length() - 1)
    p = top if count > 1 else 0
    while p:
        q, r, d = top, 0, p
        while d:
            found += [(i, i + d) for i in range(count - d) if i & p == r]
            d, q, r = q - p, q // 2, p
        p //= 2
    return tuple(found)


def keys(part: Array) -> Keys:
    """Whole numbers that sort as (value, place) do: the float's bits in their order, then the row's number.

    Shapes: (rows, length) float32, without NaN and −0.0, to the same of int64.
    """
    bits = part.view(np.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # below zero, a larger magnitude is a smaller value
    places = np.arange(len(part), dtype=np.int64).reshape(-1, 1)
    return (bits.astype(np.int64) << _PLACE_BITS) | places


def values(row: Keys) -> Array:
    """The float32 values of keys."""
    bits = (row >> _PLACE_BITS).astype(np.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32)

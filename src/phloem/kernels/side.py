"""The side information, in one description for both directions.

Every function takes a coder and what it should write; with a `RangeDecoder` the latter is ignored and the
result is what was read. So the reference cannot disagree with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np

from phloem.errors import FormatError
from phloem.kernels.rangecoder import RangeDecoder, RangeEncoder
from phloem.kernels.scales import HALVES, NONE, OCTAVES, Direction, Scales, Shape, flat
from phloem.kernels.steps import IMPORTANCE_REACH
from phloem.kernels.tables import (
    CLASS_LOWEST,
    LADDER_TOP,
    LEVEL_HIGHEST,
    LEVEL_LOWEST,
    LEVEL_REACH,
    TOKENS,
    tables,
)

Coder = RangeEncoder | RangeDecoder

#: Contexts, in the order of the stream: first number of each group.
_ZERO = 0  # is the tensor zero; by whether the previous one was
_TENSOR = 2  # a tensor's level against the previous one's
_MODE = 12  # two bits, rows and columns apart
_LEVEL = 16  # four sets: rows and columns, octaves and halves
_LEVEL_SET = 3 + 3 + 2 * LEVEL_REACH
_COUNT = _LEVEL + 4 * _LEVEL_SET
_REPEATS = _COUNT + 8
_HIGHEST = _REPEATS + 8
_HAZARD = _HIGHEST + 2 * 8
_IMPORTANCE = _HAZARD + 6 * 10
CONTEXTS = _IMPORTANCE + 10

#: The prediction of the first tensor's level.
_FIRST_LEVEL = -10
#: Predicted ladder steps before any sparse class was seen: P(1) = 0.96, later tokens 0.77.
_SPARSE_PRIOR = (30,) + (24,) * (TOKENS - 2)


def code_importances(coder: Coder, shapes: Sequence[Shape], importances: Sequence[int]) -> list[int]:
    """Every tensor's importance against the previous one's; an empty tensor's is 0 and takes no bits."""
    result: list[int] = []
    importance = 0
    for shape, given in zip(shapes, importances, strict=True):
        if shape.size == 0:
            result.append(0)
            continue
        importance += coder.signed(_IMPORTANCE, 8, given - importance)
        if abs(importance) > IMPORTANCE_REACH:
            raise FormatError("A tensor's importance is out of range.", hint="The frame is damaged.")
        result.append(importance)
    return result


def code_scales(
    coder: Coder, shapes: Sequence[Shape], scales: Sequence[Scales | None]
) -> list[Scales | None]:
    """The levels of all tensors; an empty tensor has none and takes no bits."""
    result: list[Scales | None] = []
    was_zero = 0
    level = _FIRST_LEVEL
    for shape, given in zip(shapes, scales, strict=True):
        if shape.size == 0:
            result.append(None)
            continue
        was_zero = coder.bit(_ZERO + was_zero, int(given is None))
        if was_zero:
            result.append(None)
            continue
        level += coder.signed(_TENSOR, 8, 0 if given is None else given.level - level)
        if not LEVEL_LOWEST <= level <= LEVEL_HIGHEST:
            raise FormatError("A tensor's level is out of range.", hint="The frame is damaged.")
        rows, columns = flat(shape.rows), flat(shape.columns)
        if shape.levelled:
            rows = _code_direction(coder, 0, rows if given is None else given.rows)
            columns = _code_direction(coder, 1, columns if given is None else given.columns)
        result.append(Scales(shape, level, rows, columns))
    return result


def _code_direction(coder: Coder, side: int, given: Direction) -> Direction:
    """The levels of one direction, each by its predecessor's sign, as zero flag, sign and magnitude."""
    if not coder.bit(_MODE + 2 * side, int(given.mode != NONE)):
        return flat(given.levels.size)
    mode = HALVES if coder.bit(_MODE + 2 * side + 1, int(given.mode == HALVES)) else OCTAVES
    unit = 1 if mode == HALVES else 2
    reach = LEVEL_REACH // unit
    first = _LEVEL + (2 * side + mode - OCTAVES) * _LEVEL_SET
    before = 1
    levels = []
    # the decoder is given none: nothing is held for a level before it was read
    for value in repeat(0, given.levels.size) if given.mode == NONE else given.levels.tolist():
        level = 0
        if coder.bit(first + before, int(value != 0)):
            negative = coder.bit(first + 3 + before, int(value < 0))
            level = 1
            further = first + 6 + LEVEL_REACH * negative
            wanted = abs(value) // unit
            while level < reach and coder.bit(further + level, int(wanted > level)):
                level += 1
            if negative:
                level = -level
        levels.append(level * unit)
        before = max(-1, min(level, 1)) + 1
    return Direction(mode, np.array(levels, dtype=np.int64))


def code_counts(coder: Coder, sizes: Sequence[int], level: int, counts: Sequence[int]) -> list[int]:
    """The non-zeros of a sparse class in each part that has it: the first as its level says, then as so far."""
    result: list[int] = []
    for size, given in zip(sizes, counts, strict=True):
        so_far = sum(sizes[: len(result)])
        if so_far:
            expected = size * sum(result) // so_far
        else:
            expected = (size * tables().class_means[level - CLASS_LOWEST]) >> 32
        count = _code_near(coder, _COUNT, expected, given)
        if count > size:
            raise FormatError("A class has more non-zeros than coefficients.", hint="The frame is damaged.")
        result.append(count)
    return result


def code_repeats(coder: Coder, ones: int, most: int, repeats: int) -> int:
    """The number of repeat tokens of a sparse class with `ones` non-zeros; at most `most` can make sense."""
    repeats = _code_near(coder, _REPEATS, ones >> 5, repeats)
    if repeats > most:
        raise FormatError("A class has more gaps than coefficients.", hint="The frame is damaged.")
    return repeats


def _code_near(coder: Coder, context: int, expected: int, value: int) -> int:
    """A number near an expected one: the difference of their bit lengths, then the bits below the first."""
    length = expected.bit_length()
    length += coder.signed(context, 6, value.bit_length() - length)
    if not 0 <= length <= 48:
        raise FormatError("A count is out of range.", hint="The frame is damaged.")
    if length == 0:
        return 0
    top = 1 << (length - 1)
    return top + coder.raw(length - 1, value - top)


class TablePredictor:
    """What the next table of one kind (sparse or dense) will probably be: like the last one of that kind."""

    def __init__(self, dense: bool) -> None:
        self.dense = dense
        self.highest = 2 if dense else 0
        self.level: int | None = None
        self.hazards = list(_SPARSE_PRIOR)

    def advance(self, level: int) -> None:
        """Go to the class of this level: hazards fall by a ladder step per half-octave (geometric: 1.16)."""
        if self.dense:
            if self.level is None:
                self.hazards = [20 - level] * (TOKENS - 1)
            else:
                self.hazards = [hazard - (level - self.level) for hazard in self.hazards]
            self.hazards = [max(0, min(hazard, LADDER_TOP)) for hazard in self.hazards]
            self.level = level

    def code(self, coder: Coder, hazards: Sequence[int]) -> list[int]:
        """One table: the highest token, then a hazard for every token below it."""
        kind = int(self.dense)
        highest = self.highest + coder.signed(_HIGHEST + 8 * kind, 6, len(hazards) - self.highest)
        if not 0 <= highest < TOKENS:
            raise FormatError("A table's highest token is out of range.", hint="The frame is damaged.")
        self.highest = highest
        result = []
        for token in range(highest):
            given = hazards[token] - self.hazards[token] if hazards else 0
            context = _HAZARD + (3 * kind + min(token, 2)) * 10
            hazard = self.hazards[token] + coder.signed(context, 8, given)
            if not 0 <= hazard <= LADDER_TOP:
                raise FormatError("A table entry is out of range.", hint="The frame is damaged.")
            self.hazards[token] = hazard
            result.append(hazard)
        return result

"""The adaptive coder of indices, efforts `balanced` and `best`: the specification, in plain Python.

A stream codes the pieces of one part, row by row, with one arithmetic coder (`arithmetic`) whose probabilities are
learnt on the way. Both ends do the same integer arithmetic; nothing else is sent.

* A chance is a probability of a one in 22 bits and its number of uses; coded within 32 of either end. It begins at
  one half without uses (the flags of `balanced`: at `LogisticTables.priors` by level, with two). It moves by
  2 / (2 n + 3) of the error on its n-th use: the error times 131,072 // (2 n + 3), shifted down by 16, n at most 255.
* A mixer (effort `best`) has a set of chances for each of its contexts. The inputs are their logistic inverses and
  some numbers of its own, the output the logistic function of (sum of inputs * weights + 2**15) >> 16 within
  +-2,815. Then error = ((65,536 bit - output) * rate) >> 4, and every weight moves by
  (input * error + 8,192) >> 14, within +-2**19. Tables: `logistic`.
* A piece: a bit "all zero" (chance 0, or 1 after a piece that is), and else its level, the logarithm of the mean
  position in octaves rounded, as a difference from the previous level (first: -6): a bit "differs" (chance 2), a bit
  "falls" (chance 3), and the size less one in unary (chances 4 ... 11, the last for all further ones). The level is
  within 40 of zero. A one-row piece of more than 4,096 coefficients is folded into rows of 1,024. A piece of no
  coefficients takes nothing.
* A coefficient: the flags "not 0", "more than 1", "more than 2"; if all are set, the magnitude less two as
  Exp-Golomb, its length in unary with a chance by octave and length, its two leading bits with one by length and
  bits before, the rest raw; then the sign. `balanced` has one context: level by half-octaves times a count of near
  non-zeros; for the sign the tilt and the row's trend. `best` mixes six or seven contexts, three or four for the
  sign (`contexts`). All contexts of flags are doubled for the two grids of the dependent quantiser.
* A position on the grid is 2 m for a magnitude m, less one on the odd grid of a dependent quantiser (`trellis`);
  its states begin anew with every piece.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phloem.errors import FormatError
from phloem.kernels.arithmetic import ArithmeticDecoder, ArithmeticEncoder
from phloem.kernels.chances import Chance, Coder, Single, cost_of
from phloem.kernels.contexts import OCTAVES, TENSORS, Mixing, OneContext, Site
from phloem.kernels.grid import NEXT_STATE
from phloem.kernels.logistic import log16
from phloem.kernels.surroundings import Surroundings

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int32]
HeldArray = npt.NDArray[np.int8]
Shapes = Sequence[tuple[int, int]]

#: A one-row piece of more coefficients than this is folded into rows of so many.
FOLD_FROM, FOLD_WIDTH = 4096, 1024
#: The encoder's weight of bits against squared error, in squared steps per sixteenth of a bit.
WEIGHT = np.float32(1.0) / np.float32(120.0)

_LEVEL_MOST, _LENGTH_MOST = 40, 23
_HINT = "The frame is damaged, or meant for another model."


class _Stream:
    """One stream, in either direction."""

    def __init__(self, coder: Coder, mixing: bool, with_held: bool, states: int) -> None:
        self.coder = coder
        self.models: Mixing | OneContext = Mixing(with_held) if mixing else OneContext()
        self.next = NEXT_STATE[states]
        self.odd_from = states // 2 if states else 1
        self.dependent = states > 0
        self.highest = 0
        self.side = [Chance() for _ in range(12)]
        self.lengths = [[Chance() for _ in range(_LENGTH_MOST + 1)] for _ in range(OCTAVES)]
        self.leading = [[Chance() for _ in range(4)] for _ in range(_LENGTH_MOST + 1)]
        self.was_zero = 0
        self.level = -6
        self.number = 0

    def piece(
        self,
        shape: tuple[int, int],
        indices: list[int],
        held: Sequence[int] | None,
        scaled: FloatArray | None,
        negative: Sequence[bool],
        highest: int,
    ) -> None:
        """One piece: its indices are read, chosen (where there are values), or filled in."""
        rows, columns = shape
        size = rows * columns
        if size == 0:
            return
        total = 0
        if not self.coder.decodes:
            total = self._total(indices) if scaled is None else _coarse_total(scaled)
        self.was_zero = Single(self.side[self.was_zero]).code(self.coder, int(total == 0))
        self.highest = highest
        number = min(self.number, TENSORS - 1)
        self.number += 1
        if self.was_zero:
            indices[:] = [0] * size
            return
        self._code_level((total << 24) // size)
        width = FOLD_WIDTH if rows == 1 and columns > FOLD_FROM else columns
        around = Surroundings(width, self.level)
        state = 0
        for row, start in enumerate(range(0, size, width)):
            around.begin_row()
            length = min(width, size - start)
            row_log = 0
            for column in range(length):
                at = start + column
                if column % 8 == 0:
                    row_log = around.row_log(column)
                site = Site(around, column, row_log, number, state >= self.odd_from, held[at] if held else 0)
                if scaled is not None:
                    magnitude = self._choose(scaled[at], site)
                    indices[at] = -magnitude if negative[at] else magnitude
                indices[at] = self._coefficient(indices[at], site)
                if indices[at]:
                    row_log = around.row_log(column + 1)
                state = self.next[state][indices[at] & 1]
            around.end_row(row, length)

    def _total(self, indices: Sequence[int]) -> int:
        total = state = 0
        for index in indices:
            total += _position(abs(index), state >= self.odd_from)
            state = self.next[state][index & 1]
        return total

    def _code_level(self, mean: int) -> None:
        difference = ((log16(mean + 1) - 376) >> 4) - self.level
        if not self._bit(self.side[2], int(difference != 0)):
            return
        negative = self._bit(self.side[3], int(difference < 0))
        size = 1
        while self._bit(self.side[3 + min(size, 8)], int(size < abs(difference))):
            size += 1
            if size > 2 * _LEVEL_MOST:
                break
        self.level += -size if negative else size
        if abs(self.level) > _LEVEL_MOST:
            raise FormatError("The level of a tensor is out of range.", hint=_HINT)

    def _bit(self, chance: Chance, bit: int) -> int:
        return Single(chance).code(self.coder, bit)

    def _coefficient(self, index: int, site: Site) -> int:
        magnitude = abs(index)
        for size, flag in enumerate(self.models.flags(site)):
            if not flag.code(self.coder, int(magnitude > size)):
                magnitude = size
                break
        else:
            magnitude = self._large(magnitude, site)
        if magnitude == 0:
            return 0
        negative = self.models.sign(site).code(self.coder, int(index < 0))
        site.around.add(site.column, _position(magnitude, site.odd), bool(negative))
        return -magnitude if negative else magnitude

    def _large(self, magnitude: int, site: Site) -> int:
        given = 1 if self.coder.decodes else magnitude - 2
        wanted = given.bit_length() - 1
        length = 0
        while self._bit(self.lengths[site.octave][length], int(length < wanted)):
            length += 1
            if length > _LENGTH_MOST:
                raise FormatError("A magnitude is out of range.", hint=_HINT)
        value = 1
        for i in range(length - 1, -1, -1):
            bit = given >> i & 1
            if value < 4:
                bit = self._bit(self.leading[length][value], bit)
            else:
                bit = self.coder.raw(1, bit)
            value = value << 1 | bit
        place = _position(value + 2, site.odd) if self.dependent else value + 2
        if place > self.highest:
            raise FormatError("A magnitude is out of range.", hint=_HINT)
        return value + 2

    def _choose(self, scaled: np.float32, site: Site) -> int:
        """Of the nearest magnitude, the one below it and zero: the least squared error plus weighted bits."""
        nearest = int(min(scaled + np.float32(0.5), np.float32(self.highest)))
        if nearest == 0:
            return 0
        flags = self.models.flags(site)
        zero, more = next(flags), next(flags)
        nonzero = cost_of(zero, 1) + 16
        best, least = 0, scaled * scaled + WEIGHT * np.float32(cost_of(zero, 0))
        most = None
        for index in range(max(nearest - 1, 1), nearest + 1):
            cost = nonzero + cost_of(more, int(index > 1))
            if index > 1:
                most = most or next(flags)
                cost += cost_of(most, int(index > 2))
                if index > 2:
                    cost += self._large_cost(index, site)
            away = scaled - np.float32(index)
            total = away * away + WEIGHT * np.float32(cost)
            if total < least:
                best, least = index, total
        return best

    def _large_cost(self, magnitude: int, site: Site) -> int:
        length = (magnitude - 2).bit_length() - 1
        chances = self.lengths[site.octave][: length + 1]
        return 16 * length + sum(cost_of(Single(c), int(i < length)) for i, c in enumerate(chances))


def choose_and_pack(
    arrays: Sequence[FloatArray],
    inverses: Sequence[np.float32],
    held: Sequence[HeldArray],
    shapes: Shapes,
    mixing: bool,
    highest: Sequence[int],
) -> tuple[bytes, list[IndexArray]]:
    """The stream of indices that are chosen on the way, and the indices."""
    coder = ArithmeticEncoder()
    stream = _Stream(coder, mixing, bool(held), 0)
    chosen = []
    for number, (array, inverse, shape) in enumerate(zip(arrays, inverses, shapes, strict=True)):
        with np.errstate(over="ignore", under="ignore"):
            scaled = np.abs(array) * inverse
        indices = [0] * array.size
        with np.errstate(over="ignore"):
            stream.piece(
                shape,
                indices,
                held[number].tolist() if held else None,
                scaled,
                (array < 0).tolist(),
                highest[number],
            )
        chosen.append(np.array(indices, dtype=np.int32))
    return coder.finish(), chosen


def pack(
    indices: Sequence[IndexArray],
    held: Sequence[HeldArray],
    shapes: Shapes,
    mixing: bool,
    states: int,
    highest: Sequence[int],
) -> bytes:
    """The stream of these indices."""
    coder = ArithmeticEncoder()
    stream = _Stream(coder, mixing, bool(held), states)
    for number, (own, shape) in enumerate(zip(indices, shapes, strict=True)):
        stream.piece(shape, own.tolist(), held[number].tolist() if held else None, None, (), highest[number])
    return coder.finish()


def unpack(
    data: bytes, held: Sequence[HeldArray], shapes: Shapes, mixing: bool, states: int, highest: Sequence[int]
) -> list[IndexArray]:
    """The indices of a stream.

    Raises:
        FormatError: the bytes are not a stream for these shapes, to the last bit.
    """
    coder = ArithmeticDecoder(data)
    stream = _Stream(coder, mixing, bool(held), states)
    found = []
    for number, shape in enumerate(shapes):
        indices = [0] * (shape[0] * shape[1])
        stream.piece(shape, indices, held[number].tolist() if held else None, None, (), highest[number])
        found.append(np.array(indices, dtype=np.int32))
    coder.finish()
    return found


def _position(magnitude: int, odd: bool) -> int:
    return 2 * magnitude - (1 if odd and magnitude else 0)


def _coarse_total(scaled: FloatArray) -> int:
    coarse = np.minimum(scaled + np.float32(0.2), np.float32((1 << 24) - 1)).astype(np.int64)
    return 2 * int(coarse.sum())

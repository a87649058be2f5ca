"""The adaptive coder of indices, efforts `balanced` and `best`: the specification, in plain Python.

A stream codes the pieces of one part, row by row, with one arithmetic coder (`arithmetic`) whose probabilities are
learnt on the way. Both ends do the same integer arithmetic; nothing else is sent.

* A chance is a probability of a one in 22 bits and its number of uses; coded within 32 of either end. It begins at
  one half, and moves by 2 / (2 n + 3) of the error on its n-th use, the error times 131,072 // (2 n + 3) shifted
  down by 16, n at most 255.
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
  non-zeros; for the sign the tilt and the row's trend. `best` mixes six or seven (`_Mixing.magnitude_contexts`),
  three or four for the sign. All contexts of flags are doubled for the two grids of the dependent quantiser.
* A position on the grid is 2 m for a magnitude m, less one on the odd grid of a dependent quantiser (`trellis`);
  its states begin anew with every piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from phloem.errors import FormatError
from phloem.kernels.arithmetic import ArithmeticDecoder, ArithmeticEncoder
from phloem.kernels.grid import NEXT_STATE
from phloem.kernels.logistic import (
    SHARE_BITS,
    SHARE_LEAST,
    SHARE_ONE,
    STRETCH_MOST,
    USES_MOST,
    log16,
    logistic_tables,
)
from phloem.kernels.surroundings import Surroundings

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int32]
HeldArray = npt.NDArray[np.int8]
Coder = ArithmeticEncoder | ArithmeticDecoder
Shapes = Sequence[tuple[int, int]]

#: A one-row piece of more coefficients than this is folded into rows of so many.
FOLD_FROM, FOLD_WIDTH = 4096, 1024
#: The encoder's weight of bits against squared error, in squared steps per sixteenth of a bit.
WEIGHT = np.float32(1.0) / np.float32(120.0)

_LEVELS, _NEAR, _SIDES, _AROUND, _OCTAVES, _TENSORS, _HELD = 48, 10, 40, 64, 24, 128, 8
_LEVEL_MOST, _LENGTH_MOST = 40, 23
_HINT = "The frame is damaged, or meant for another model."


class Chance:
    """An adaptive probability of a one."""

    __slots__ = ("share", "uses")

    def __init__(self) -> None:
        self.share = SHARE_ONE >> 1
        self.uses = 0

    @property
    def safe(self) -> int:
        """The probability that is coded with."""
        return min(max(self.share, SHARE_LEAST), SHARE_ONE - SHARE_LEAST)

    def learn(self, bit: int) -> None:
        """Move towards the bit."""
        target = SHARE_ONE if bit else 0
        self.share += ((target - self.share) * (131072 // (2 * self.uses + 3))) >> 16
        if self.uses < USES_MOST:
            self.uses += 1


class _Single:
    """A flag predicted by one chance."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def share(self) -> int:
        """The probability of a one in 22 bits."""
        return self._chance.safe

    def code(self, coder: Coder, bit: int) -> int:
        """Code the flag and learn."""
        bit = coder.bit(self._chance.safe, bit)
        self._chance.learn(bit)
        return bit


class Mixer:
    """Predictions of several contexts, mixed."""

    def __init__(self, sizes: Sequence[int], extras: int, weight: int, rate: int) -> None:
        self._chances: list[dict[int, Chance]] = [{} for _ in sizes]
        self.weights = [weight] * len(sizes) + [0] * extras
        self.rate = rate

    def predict(self, contexts: Sequence[int], extras: Sequence[int]) -> _Mixed:
        """The prediction in these contexts."""
        chances = [
            known.setdefault(context, Chance())
            for known, context in zip(self._chances, contexts, strict=True)
        ]
        return _Mixed(self, chances, [*(_stretch(chance.share) for chance in chances), *extras])


class _Mixed:
    """A flag predicted by a mixer."""

    def __init__(self, mixer: Mixer, chances: list[Chance], inputs: list[int]) -> None:
        self._mixer, self._chances, self._inputs = mixer, chances, inputs
        total = sum(w * i for w, i in zip(mixer.weights, inputs, strict=True))
        mixed = min(max((total + 32768) >> 16, -STRETCH_MOST), STRETCH_MOST)
        self._one = int(logistic_tables().squash[mixed + STRETCH_MOST])

    def share(self) -> int:
        """The probability of a one in 22 bits."""
        return self._one << 6

    def code(self, coder: Coder, bit: int) -> int:
        """Code the flag and learn."""
        bit = coder.bit(self.share(), bit)
        error = ((65536 * bit - self._one) * self._mixer.rate) >> 4
        weights = self._mixer.weights
        for i, value in enumerate(self._inputs):
            weights[i] = min(max(weights[i] + ((value * error + 8192) >> 14), -(1 << 19)), 1 << 19)
        for chance in self._chances:
            chance.learn(bit)
        return bit


Flag = _Single | _Mixed


class _Site:
    """Where a coefficient is: the numbers that contexts are made of."""

    def __init__(
        self, around: Surroundings, column: int, row_log: int, number: int, odd: bool, held: int
    ) -> None:
        self.around, self.column, self.number, self.odd, self.held = around, column, number, odd, held
        self.along = around.mean_log + row_log
        self.across = around.column_logs[column] - around.expected_log
        self.level = self.along + self.across
        self.octave = min(max((self.level + 168) >> 4, 0), _OCTAVES - 1)


class _OneContext:
    """The models of `balanced`."""

    def __init__(self) -> None:
        self._flags = [[Chance() for _ in range(2 * _LEVELS * _NEAR)] for _ in range(3)]
        self._signs = [Chance() for _ in range(256)]

    def flags(self, site: _Site) -> Iterator[Flag]:
        """The flags "not 0", "more than 1", "more than 2", each predicted when it is asked for."""
        context = _half_octave(site.level, _LEVELS) * _NEAR + site.around.near(site.column)
        context += _LEVELS * _NEAR * site.odd
        return (_Single(chances[context]) for chances in self._flags)

    def sign(self, site: _Site) -> Flag:
        """The sign."""
        around = site.around
        return _Single(self._signs[16 * _lean(around.tilt(site.column)) + _lean(around.row_trend)])


class _Mixing:
    """The models of `best`."""

    def __init__(self, with_held: bool) -> None:
        self._with_held = with_held
        flag_sizes = [0] * (7 if with_held else 6)
        self._flags = [Mixer(flag_sizes, 3, 12288, 5) for _ in range(3)]
        self._sign = Mixer([0] * (4 if with_held else 3), 2, 24576, 16)

    def magnitude_contexts(self, site: _Site) -> tuple[list[int], list[int]]:
        """The contexts and further inputs of the flags."""
        around, column, odd = site.around, site.column, site.odd
        local = around.local_log(column)
        half = [
            (_half_octave(site.level, _LEVELS) * _NEAR + around.near(column), _LEVELS * _NEAR),
            (_half_octave(site.along, _SIDES) * 9 + around.left_pair(column), _SIDES * 9),
            (
                _half_octave(around.mean_log + site.across, _SIDES) * 9 + around.upper_pair(column),
                _SIDES * 9,
            ),
            (min(max(((local + 160) * 3 + 8) >> 4, 0), _AROUND - 1), _AROUND),
            (
                min(max(((site.along + 160) * 3 + 16) >> 5, 0), 31) * 16
                + min(max((site.across + 68) >> 3, 0), 15),
                512,
            ),
            (site.number * _OCTAVES + site.octave, _TENSORS * _OCTAVES),
        ]
        if self._with_held:
            half.append((_held_size(site.held) * _OCTAVES + site.octave, _HELD * _OCTAVES))
        contexts = [context + count * odd for context, count in half]
        return contexts, [102, 4 * site.level, 4 * local]

    def flags(self, site: _Site) -> Iterator[Flag]:
        """The flags "not 0", "more than 1", "more than 2", each predicted when it is asked for."""
        contexts, extras = self.magnitude_contexts(site)
        return (mixer.predict(contexts, extras) for mixer in self._flags)

    def sign(self, site: _Site) -> Flag:
        """The sign."""
        around, column = site.around, site.column
        row, up, far = around.rows
        trend = _lean(around.row_trend)
        places = (up[column + 3], far[column + 3], row[column + 2], up[column + 2])
        contexts = [
            16 * trend + _lean(around.trends[column]),
            sum(power * _sign(place) for power, place in zip((27, 9, 3, 1), places, strict=True)),
            16 * site.number + trend,
        ]
        if self._with_held:
            contexts.append(_HELD * (site.held > 0) + _held_size(site.held))
        return self._sign.predict(contexts, [77, min(max(32 * around.tilt(column), -2047), 2047)])


class _Stream:
    """One stream, in either direction."""

    def __init__(self, coder: Coder, mixing: bool, with_held: bool, states: int) -> None:
        self.coder = coder
        self.models = _Mixing(with_held) if mixing else _OneContext()
        self.next = NEXT_STATE[states]
        self.odd_from = states // 2 if states else 1
        self.dependent = states > 0
        self.highest = 0
        self.side = [Chance() for _ in range(12)]
        self.lengths = [[Chance() for _ in range(_LENGTH_MOST + 1)] for _ in range(_OCTAVES)]
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
        self.was_zero = _Single(self.side[self.was_zero]).code(self.coder, int(total == 0))
        self.highest = highest
        number = min(self.number, _TENSORS - 1)
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
                site = _Site(around, column, row_log, number, state >= self.odd_from, held[at] if held else 0)
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
        return _Single(chance).code(self.coder, bit)

    def _coefficient(self, index: int, site: _Site) -> int:
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

    def _large(self, magnitude: int, site: _Site) -> int:
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

    def _choose(self, scaled: np.float32, site: _Site) -> int:
        """Of the nearest magnitude, the one below it and zero: the least squared error plus weighted bits."""
        nearest = int(min(scaled + np.float32(0.5), np.float32(self.highest)))
        if nearest == 0:
            return 0
        flags = self.models.flags(site)
        zero, more = next(flags), next(flags)
        nonzero = _cost(zero, 1) + 16
        best, least = 0, scaled * scaled + WEIGHT * np.float32(_cost(zero, 0))
        most = None
        for index in range(max(nearest - 1, 1), nearest + 1):
            cost = nonzero + _cost(more, int(index > 1))
            if index > 1:
                most = most or next(flags)
                cost += _cost(most, int(index > 2))
                if index > 2:
                    cost += self._large_cost(index, site)
            away = scaled - np.float32(index)
            total = away * away + WEIGHT * np.float32(cost)
            if total < least:
                best, least = index, total
        return best

    def _large_cost(self, magnitude: int, site: _Site) -> int:
        length = (magnitude - 2).bit_length() - 1
        chances = self.lengths[site.octave][: length + 1]
        return 16 * length + sum(_cost(_Single(c), int(i < length)) for i, c in enumerate(chances))


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


def _stretch(share: int) -> int:
    known = logistic_tables()
    tail = SHARE_ONE // 64
    if share < tail:
        return int(known.stretch_tail[share >> 4])
    if share >= SHARE_ONE - tail:
        return -int(known.stretch_tail[(SHARE_ONE - 1 - share) >> 4])
    return int(known.stretch_middle[share >> 10])


def _cost(flag: Flag, bit: int) -> int:
    """Sixteenths of a bit."""
    share = flag.share()
    return 16 * SHARE_BITS - log16(share if bit else SHARE_ONE - share)


def _half_octave(log: int, count: int) -> int:
    return min(max((log + 164) >> 3, 0), count - 1)


def _lean(value: int) -> int:
    """A leaning by the logarithm of its size; 8 stands for none."""
    size = (log16(64 + 4 * abs(value)) - 92) >> 3
    return min(max(8 - size if value < 0 else 8 + size, 0), 15)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0) + 1


def _held_size(held: int) -> int:
    size = abs(held)
    return size if size < 3 else min(7, (size - 1).bit_length() + 1)

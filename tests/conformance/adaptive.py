"""The streams of the efforts `balanced` and `best`: docs/ecsq.md."""

from __future__ import annotations

from collections.abc import Sequence

from tests.conformance.logistic import Chance, Decoder, Mixer, log16, prior
from tests.conformance.reader import Refused, require
from tests.conformance.surroundings import Around, clamp

#: The next state by the parity of the index; a scalar quantiser has one state.
NEXT = ((0, 1), (4, 5), (1, 0), (5, 4), (6, 7), (3, 2), (2, 3), (7, 6))
ODD_FROM = 4
FOLD_FROM, FOLD_WIDTH = 4096, 1024


def half_octave(log: int, count: int) -> int:
    """Half-octaves from -10 octaves up."""
    return clamp((log + 164) >> 3, 0, count - 1)


def lean(value: int) -> int:
    """A leaning by the logarithm of its size; 8 is none."""
    size = (log16(64 + 4 * abs(value)) - 92) >> 3
    return clamp(8 - size if value < 0 else 8 + size, 0, 15)


class Place:
    """A coefficient that is to be decoded."""

    def __init__(self, around: Around, k: int, row_log: int, odd: bool, number: int, held: int) -> None:
        self.around, self.k, self.odd, self.number, self.held = around, k, odd, number, held
        self.along = around.mean_log + row_log
        self.across = around.across(k)
        self.level = self.along + self.across
        self.octave = clamp((self.level + 168) >> 4, 0, 23)


class Balanced:
    """One context per flag."""

    def __init__(self) -> None:
        self.flags = [[Chance(prior(c // 10), 2) for c in [*range(480), *range(480)]] for _ in range(3)]
        self.signs = [Chance() for _ in range(256)]

    def magnitude(self, coder: Decoder, place: Place) -> int:
        """0, 1, 2, or 3 for more."""
        context = 10 * half_octave(place.level, 48) + place.around.near(place.k) + 480 * place.odd
        for size in range(3):
            if not coder.chance(self.flags[size][context]):
                return size
        return 3

    def sign(self, coder: Decoder, place: Place) -> int:
        """1 for minus."""
        around = place.around
        return coder.chance(self.signs[16 * lean(around.tilt(place.k)) + lean(around.row_trend)])


class Best:
    """Several contexts mixed."""

    def __init__(self, with_held: bool) -> None:
        self.with_held = with_held
        self.flags = [Mixer(6 + with_held, 3, 12288, 5) for _ in range(3)]
        self.signs = Mixer(3 + with_held, 2, 24576, 16)

    def magnitude(self, coder: Decoder, place: Place) -> int:
        """0, 1, 2, or 3 for more."""
        around, k = place.around, place.k
        one, two, up, upper = around.sizes(k)
        local = around.local(k)
        contexts = [
            (half_octave(place.level, 48) * 10 + around.near(k), 480),
            (half_octave(place.along, 40) * 9 + 3 * one + two, 360),
            (half_octave(around.mean_log + place.across, 40) * 9 + 3 * up + upper, 360),
            (clamp(((local + 160) * 3 + 8) >> 4, 0, 63), 64),
            (
                clamp(((place.along + 160) * 3 + 16) >> 5, 0, 31) * 16
                + clamp((place.across + 68) >> 3, 0, 15),
                512,
            ),
            (place.number * 24 + place.octave, 3072),
        ]
        if self.with_held:
            contexts.append((held_size(place.held) * 24 + place.octave, 192))
        numbers = [context + count * place.odd for context, count in contexts]
        for size in range(3):
            if not self.flags[size].bit(coder, numbers, (102, 4 * place.level, 4 * local)):
                return size
        return 3

    def sign(self, coder: Decoder, place: Place) -> int:
        """1 for minus."""
        around, k = place.around, place.k
        trend = lean(around.row_trend)
        signs = [
            (one > 0) - (one < 0) + 1
            for one in (around.up[k + 3], around.far[k + 3], around.row[k + 2], around.up[k + 2])
        ]
        contexts = [
            16 * trend + lean(around.trends[k]),
            27 * signs[0] + 9 * signs[1] + 3 * signs[2] + signs[3],
            16 * place.number + trend,
        ]
        if self.with_held:
            contexts.append(8 * (place.held > 0) + held_size(place.held))
        return self.signs.bit(coder, contexts, (77, clamp(32 * around.tilt(k), -2047, 2047)))


def held_size(held: int) -> int:
    """How large a held value is, 0 to 7."""
    return abs(held) if abs(held) < 3 else min(7, (abs(held) - 1).bit_length() + 1)


class Stream:
    """The stream of one part."""

    def __init__(self, data: bytes, best: bool, with_held: bool, dependent: bool) -> None:
        self.coder = Decoder(data)
        self.models = Best(with_held) if best else Balanced()
        self.dependent = dependent
        self.side = [Chance() for _ in range(12)]
        self.lengths = [[Chance() for _ in range(24)] for _ in range(24)]
        self.leading = [[Chance() for _ in range(4)] for _ in range(24)]
        self.was_zero, self.level, self.number = 0, -6, 0

    def piece(self, rows: int, columns: int, held: Sequence[int], highest: int) -> list[int]:
        """Positions of a piece, signed; odd ones are on the odd grid of the dependent quantiser."""
        size = rows * columns
        number = min(self.number, 127)
        self.number += 1
        self.was_zero = self.coder.chance(self.side[self.was_zero])
        if self.was_zero:
            return [0] * size
        self._level()
        width = FOLD_WIDTH if rows == 1 and columns > FOLD_FROM else columns
        around, state = Around(width, self.level), 0
        found: list[int] = []
        for row, start in enumerate(range(0, size, width)):
            around.begin_row()
            length, row_log = min(width, size - start), 0
            for k in range(length):
                if k % 8 == 0:
                    row_log = around.row_log(k)
                odd = state >= ODD_FROM
                place = Place(around, k, row_log, odd, number, held[start + k] if held else 0)
                magnitude = self._magnitude(place, highest)
                position = 2 * magnitude - odd if magnitude else 0
                if magnitude:
                    negative = self.models.sign(self.coder, place)
                    around.add(k, position, negative)
                    row_log = around.row_log(k + 1)
                    position = -position if negative else position
                if self.dependent:
                    state = NEXT[state][magnitude & 1]
                found.append(position)
            around.end_row(row, length)
        return found

    def _level(self) -> None:
        if self.coder.chance(self.side[2]):
            falls = self.coder.chance(self.side[3])
            size = 1
            while size <= 80 and self.coder.chance(self.side[3 + min(size, 8)]):
                size += 1
            self.level += -size if falls else size
        require(abs(self.level) <= 40, "a level is out of range")

    def _magnitude(self, place: Place, highest: int) -> int:
        magnitude = self.models.magnitude(self.coder, place)
        if magnitude < 3:
            return magnitude
        length = 0
        while self.coder.chance(self.lengths[place.octave][length]):
            length += 1
            if length > 23:
                raise Refused("a magnitude is out of range")
        value = 1
        for _ in range(length):
            leading = value < 4
            bit = self.coder.chance(self.leading[length][value]) if leading else self.coder.raw()
            value = 2 * value + bit
        magnitude = value + 2
        require((2 * magnitude - place.odd if self.dependent else magnitude) <= highest, "out of range")
        return magnitude

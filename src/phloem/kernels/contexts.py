"""In which contexts the adaptive coder predicts flags and signs: see `adaptive`.

All are small integers made of `surroundings`; a half-octave (or octave) of a logarithm counts from -10 octaves up.
Contexts of flags are doubled: those of the odd grid follow those of the even one.
"""

from __future__ import annotations

from collections.abc import Iterator

from phloem.kernels.chances import Chance, Flag, Mixer, Single
from phloem.kernels.logistic import log16, logistic_tables
from phloem.kernels.surroundings import Surroundings

OCTAVES, TENSORS = 24, 128
_LEVELS, _NEAR, _SIDES, _AROUND, _HELD = 48, 10, 40, 64, 8
#: How much the priors of `balanced` weigh.
_PRIOR_USES = 2


class Site:
    """Where a coefficient is: the numbers that contexts are made of."""

    def __init__(
        self, around: Surroundings, column: int, row_log: int, number: int, odd: bool, held: int
    ) -> None:
        self.around, self.column, self.number, self.odd, self.held = around, column, number, odd, held
        self.along = around.mean_log + row_log
        self.across = around.column_logs[column] - around.expected_log
        self.level = self.along + self.across
        self.octave = min(max((self.level + 168) >> 4, 0), OCTAVES - 1)


class OneContext:
    """The models of `balanced`."""

    def __init__(self) -> None:
        priors = [int(prior) for prior in logistic_tables().priors for _ in range(_NEAR)]
        self._flags = [[Chance(prior, _PRIOR_USES) for prior in priors + priors] for _ in range(3)]
        self._signs = [Chance() for _ in range(256)]

    def flags(self, site: Site) -> Iterator[Flag]:
        """The flags "not 0", "more than 1", "more than 2", each predicted when it is asked for."""
        context = _half_octave(site.level, _LEVELS) * _NEAR + site.around.near(site.column)
        context += _LEVELS * _NEAR * site.odd
        return (Single(chances[context]) for chances in self._flags)

    def sign(self, site: Site) -> Flag:
        """The sign."""
        around = site.around
        return Single(self._signs[16 * _lean(around.tilt(site.column)) + _lean(around.row_trend)])


class Mixing:
    """The models of `best`."""

    def __init__(self, with_held: bool) -> None:
        self._with_held = with_held
        flag_sizes = [0] * (7 if with_held else 6)
        self._flags = [Mixer(flag_sizes, 3, 12288, 5) for _ in range(3)]
        self._sign = Mixer([0] * (4 if with_held else 3), 2, 24576, 16)

    def magnitude_contexts(self, site: Site) -> tuple[list[int], list[int]]:
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
            (site.number * OCTAVES + site.octave, TENSORS * OCTAVES),
        ]
        if self._with_held:
            half.append((_held_size(site.held) * OCTAVES + site.octave, _HELD * OCTAVES))
        contexts = [context + count * odd for context, count in half]
        return contexts, [102, 4 * site.level, 4 * local]

    def flags(self, site: Site) -> Iterator[Flag]:
        """The flags "not 0", "more than 1", "more than 2", each predicted when it is asked for."""
        contexts, extras = self.magnitude_contexts(site)
        return (mixer.predict(contexts, extras) for mixer in self._flags)

    def sign(self, site: Site) -> Flag:
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

"""What is known around a coefficient of the adaptive efforts: docs/ecsq.md."""

from __future__ import annotations

from tests.conformance.logistic import log16


def clamp(value: int, least: int, most: int) -> int:
    """The value within bounds."""
    return max(least, min(value, most))


class Around:
    """The state of one piece."""

    def __init__(self, width: int, level: int) -> None:
        self.first = max(1 << (16 + level) if level > -17 else 0, 4)
        self.total = self.seen = self.expected = 0
        self.sums, self.trends, self.tilts = [0] * width, [0] * width, [0] * width
        self.width = width
        empty = [0] * (width + 6)  # signed positions, three zeros on either side
        self.row, self.up, self.far = empty, empty, empty

    def begin_row(self) -> None:
        """What a row begins with."""
        self.mean = clamp(((self.total << 16) + 100 * self.first) // (self.seen + 100), 2, 1 << 30)
        self.mean_log = log16(self.mean) - 256
        self.expected_log = log16((self.expected >> 8) + 512)
        self.row_sum = self.row_trend = self.row_tilt = 0
        self.row = [0] * (self.width + 6)

    def row_log(self, columns: int) -> int:
        """How the row compares with the mean, after so many columns."""
        return log16(256 * self.row_sum + 512) - log16((columns * self.mean >> 8) + 512)

    def across(self, k: int) -> int:
        """How the column compares with what was expected."""
        return log16(256 * self.sums[k] + 512) - self.expected_log

    def sizes(self, k: int) -> tuple[int, int, int, int]:
        """Magnitudes, at most two: one and two to the left, one and two above."""
        places = (self.row[k + 2], self.row[k + 1], self.up[k + 3], self.far[k + 3])
        one, two, up, upper = (min((abs(place) + 1) >> 1, 2) for place in places)
        return one, two, up, upper

    def near(self, k: int) -> int:
        """A count of near non-zeros."""
        one, two, up, _ = self.sizes(k)
        others = (self.up[k + 2], self.up[k + 4], self.far[k + 3])
        return min(9, 2 * one + two + 2 * up + sum(place != 0 for place in others))

    def local(self, k: int) -> int:
        """The logarithm of the mean of the neighbours."""
        row, up, far = self.row, self.up, self.far
        w = 8 * abs(row[k + 2]) + 5 * abs(row[k + 1]) + 3 * abs(row[k])
        w += 8 * abs(up[k + 3]) + 4 * abs(up[k + 2]) + 4 * abs(up[k + 4]) + 5 * abs(far[k + 3])
        return log16((w << 13) + 2 * self.mean) - 256

    def tilt(self, k: int) -> int:
        """How the leanings of row and column agree."""
        turned = self.tilts[k] * self.row_tilt
        size = abs(turned) // (abs(self.row_tilt) + 32)
        return -size if turned < 0 else size

    def add(self, k: int, position: int, negative: int) -> None:
        """A non-zero."""
        shown, counted = min(position, 127), min(position, 4095)
        self.row[k + 3] = -shown if negative else shown
        self.row_sum += counted
        self.total += counted
        self.sums[k] += counted
        sign = -16 if negative else 16
        self.row_trend += sign - (self.row_trend >> 3)
        self.trends[k] += sign - (self.trends[k] >> 3)
        self.row_tilt += (-self.tilts[k] if negative else self.tilts[k]) - (self.row_tilt >> 4)

    def end_row(self, number: int, length: int) -> None:
        """What a row leaves behind."""
        for k in range(self.width):
            place = self.row[k + 3]
            if place:
                agrees = (place < 0) == (self.row_tilt < 0)
                self.tilts[k] += (16 if agrees else -16) - (self.tilts[k] >> 3)
        self.expected += self.mean
        self.seen += length
        if number % 256 == 255:
            self.sums = [one - (one >> 2) for one in self.sums]
            self.expected -= self.expected >> 2
        if number % 32 == 31:
            self.total -= self.total >> 2
            self.seen -= self.seen >> 2
        self.up, self.far = self.row, self.up

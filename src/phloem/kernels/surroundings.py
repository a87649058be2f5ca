"""What is known around a coefficient when the adaptive coder comes to it.

Units: a position is the place on the grid of half steps, 2 m for a scalar quantiser's magnitude m (see
`adaptive`); logarithms are sixteenths of an octave, of numbers with 2**8 or 2**16 to the unit; leanings of signs
are sums of plus and minus 16. `>>` rounds towards minus infinity, `//` of a leaning towards zero.

* `mean`: the mean position of the tensor's last rows in 65,536ths, (total * 2**16 + 100 first) / (seen + 100) with
  the level's mean `first`, within 2 ... 2**30; `total` and `seen` lose a quarter after every 32nd row.
* `row_log`: log(256 sum + 512) - log(256 expected + 512), of the row so far, expected = columns so far * mean / 2**16.
  It is taken anew at every eighth column and after every non-zero, not in between.
* `column_logs` less `expected_log`: the same of the column, expected being the sum of the rows' means. Sums lose a
  quarter after every 256th row.
* `trends`: per column, and for the row, the signs of the non-zeros, the older ones faded by 7/8 each.
* `tilts`: per column, the signs of its non-zeros turned by how their rows leaned, faded in the same way; `row_tilt`
  sums the row's signs times their columns' tilts, faded by 15/16. A row's tilt times a column's is the sign that an
  update of rank one would have: measured, it takes a third to a half off the cost of signs.
"""

from __future__ import annotations

from phloem.kernels.logistic import log16

_PRIOR = 512
_SHOWN_MOST, _COUNTED_MOST = 127, 4095


class Surroundings:
    """The state of one tensor."""

    def __init__(self, columns: int, level: int) -> None:
        self._first = 65536 << level if level >= 0 else max(65536 >> -level, 4)
        self._total = self._seen = self._expected = self._row_sum = 0
        self._sums = [0] * columns
        self._found: list[int] = []
        self._columns = columns
        self.mean = self.mean_log = self.expected_log = self.row_trend = self.row_tilt = 0
        self.column_logs = [log16(_PRIOR)] * columns
        self.trends = [0] * columns
        self.tilts = [0] * columns
        # this row and the two before it, signed positions with three zeros on either side: offset 3
        self.rows = [[0] * (columns + 6) for _ in range(3)]

    def begin_row(self) -> None:
        """Start the next row."""
        mean = ((self._total << 16) + self._first * 100) // (self._seen + 100)
        self.mean = max(2, min(mean, 1 << 30))
        self.mean_log = log16(self.mean) - 256
        self.expected_log = log16((self._expected >> 8) + _PRIOR)
        self._row_sum = self.row_trend = self.row_tilt = 0
        self.rows[0] = [0] * (self._columns + 6)
        self._found = []

    def row_log(self, column: int) -> int:
        """How the row compares with the tensor, before this column."""
        expected = column * self.mean
        return log16((self._row_sum << 8) + _PRIOR) - log16((expected >> 8) + _PRIOR)

    def near(self, column: int) -> int:
        """A count of non-zeros close by, at most 9."""
        row, up, far = (line[column : column + 6] for line in self.rows)
        first, second = (abs(row[2]) + 1) >> 1, (abs(row[1]) + 1) >> 1
        above = 2 * min((abs(up[3]) + 1) >> 1, 2) + int(up[2] != 0) + int(up[4] != 0) + int(far[3] != 0)
        return min(above + 2 * min(first, 2) + min(second, 2), 9)

    def left_pair(self, column: int) -> int:
        """The two magnitudes to the left, each at most two, as one number."""
        row = self.rows[0]
        return 3 * min((abs(row[column + 2]) + 1) >> 1, 2) + min((abs(row[column + 1]) + 1) >> 1, 2)

    def upper_pair(self, column: int) -> int:
        """The two magnitudes above, each at most two, as one number."""
        up, far = self.rows[1][column + 3], self.rows[2][column + 3]
        return 3 * min((abs(up) + 1) >> 1, 2) + min((abs(far) + 1) >> 1, 2)

    def local_log(self, column: int) -> int:
        """The logarithm of the weighted mean position of seven neighbours, with the tensor's as prior."""
        row, up, far = (line[column : column + 6] for line in self.rows)
        weight = 8 * abs(row[2]) + 5 * abs(row[1]) + 3 * abs(row[0])
        weight += 8 * abs(up[3]) + 4 * abs(up[2]) + 4 * abs(up[4]) + 5 * abs(far[3])
        return log16((weight << 13) + 2 * self.mean) - 256

    def tilt(self, column: int) -> int:
        """How the row's and the column's leanings agree."""
        product = self.tilts[column] * self.row_tilt
        size = abs(product) // (abs(self.row_tilt) + 32)
        return size if product >= 0 else -size

    def add(self, column: int, position: int, negative: bool) -> None:
        """A non-zero."""
        shown = min(position, _SHOWN_MOST)
        self.rows[0][column + 3] = -shown if negative else shown
        counted = min(position, _COUNTED_MOST)
        self._row_sum += counted
        self._total += counted
        self._sums[column] += counted
        self.column_logs[column] = log16((self._sums[column] << 8) + _PRIOR)
        sign = -16 if negative else 16
        self.row_trend += sign - (self.row_trend >> 3)
        self.trends[column] += sign - (self.trends[column] >> 3)
        tilt = self.tilts[column]
        self.row_tilt += (-tilt if negative else tilt) - (self.row_tilt >> 4)
        self._found.append(column)

    def end_row(self, row: int, length: int) -> None:
        """Learn from a whole row."""
        for column in self._found:
            agrees = (self.rows[0][column + 3] < 0) == (self.row_tilt < 0)
            self.tilts[column] += (16 if agrees else -16) - (self.tilts[column] >> 3)
        self._expected += self.mean
        self._seen += length
        if row % 256 == 255:
            self._sums = [total - (total >> 2) for total in self._sums]
            self.column_logs = [log16((total << 8) + _PRIOR) for total in self._sums]
            self._expected -= self._expected >> 2
        if row % 32 == 31:
            self._total -= self._total >> 2
            self._seen -= self._seen >> 2
        self.rows = [self.rows[2], self.rows[0], self.rows[1]]

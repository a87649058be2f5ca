"""How large the values of a gradient are, by row and column: what an optimizer like Adam divides by.

Adam divides every coordinate by the root of its mean square, so an error counts by its share of that, not by its size.
Frames are therefore made of gradient ÷ scale, where the scale of entry (i, j) is a power of two near the root of
R_i C_j ÷ mean(R): R and C are mean squares of rows and columns of the means that all ranks have decoded, in a moving
average. Source: Shazeer and Stern, Adafactor, 2018, §3, where the same product stands for the second moment.

The squares are summed as whole numbers, so all ranks have the same scales, whatever computes them: tensors are looked
at and scaled where they lie, on the processor or a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from phloem.engines.torch.buffers import values_of
from phloem.engines.torch.owing import matrix_of

#: Steps between two looks at the means: scales change slowly, and a look costs as much as a frame.
EVERY = 5
_FORGETS = 0.3  # of the moving average at every look
_BITS = 20  # of a value in the whole numbers that are squared
_LEAST = (
    2.0**-16
)  # of a row's or column's mean square, beside the tensor's: what hardly moves is not blown up without end
_PART = 1 << 20  # values that are looked at at a time
_BEGINS = 2  # looks at every step until then

Doubles = npt.NDArray[np.float64]


@dataclass
class Balance:
    """The scales of parameters.

    Attributes:
        squares: by parameter, the moving averages of rows and of columns.
        looks: by parameter, how many means there have been.
    """

    squares: dict[str, tuple[Doubles, Doubles]] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    _scales: dict[str, _Scales] = field(default_factory=dict)

    def divide(self, names: Sequence[str], *lists: Sequence[torch.Tensor]) -> None:
        """Divides tensors of these parameters by their scales, in place; before the first look they stay as they are.

        Tensors are float32 and contiguous.
        """
        for name, *tensors in zip(names, *lists, strict=True):
            for tensor in tensors if name in self._scales else ():
                self._scales[name].divide(tensor)

    def multiply(self, names: Sequence[str], *lists: Sequence[torch.Tensor]) -> None:
        """Takes `divide` back, to the bit."""
        for name, *tensors in zip(names, *lists, strict=True):
            for tensor in tensors if name in self._scales else ():
                self._scales[name].multiply(tensor)

    def look(self, names: Sequence[str], means: Sequence[torch.Tensor]) -> None:
        """Takes decoded means into account, at every fifth step."""
        for name, mean in zip(names, means, strict=True):
            seen = self.looks.get(name, 0)
            self.looks[name] = seen + 1
            if seen < _BEGINS or seen % EVERY == 0:
                self._look(name, mean.view(matrix_of(tuple(mean.shape))))

    def _look(self, name: str, matrix: torch.Tensor) -> None:
        largest = float(matrix.abs().max()) if matrix.numel() else 0.0
        if not 0.0 < largest < math.inf:
            return
        unit = math.ldexp(1.0, math.frexp(largest)[1] - _BITS)
        by_row, by_column = [], torch.zeros(matrix.shape[1], dtype=torch.int64, device=matrix.device)
        for part in matrix.split(max(1, _PART // matrix.shape[1])):
            whole = (part.double() / unit).round_().to(torch.int64)
            whole *= whole
            by_row.append(whole.sum(dim=1))
            by_column += whole.sum(dim=0)
        rows = torch.cat(by_row).cpu().numpy() * (unit * unit / matrix.shape[1])
        columns = by_column.cpu().numpy() * (unit * unit / matrix.shape[0])
        if name in self.squares:
            before = self.squares[name]
            rows = (1.0 - _FORGETS) * before[0] + _FORGETS * rows
            columns = (1.0 - _FORGETS) * before[1] + _FORGETS * columns
        self._set(name, rows, columns)

    def _set(self, name: str, rows: Doubles, columns: Doubles) -> None:
        self.squares[name] = rows, columns
        self._scales[name] = _Scales.of(*_powers(rows, columns))

    def scale(self, factor: float) -> None:
        """Gradients are `factor` times as large from now on: the loss scale has changed."""
        for name, (rows, columns) in list(self.squares.items()):
            self._set(name, rows * factor**2, columns * factor**2)

    def saved(self, factor: float) -> dict[str, torch.Tensor]:
        """The moving averages, of gradients `factor` times as large, and the counts of steps."""
        found: dict[str, torch.Tensor] = {}
        for name, parts in self.squares.items():
            for part, values in zip(("rows", "columns"), parts, strict=True):
                found[f"{part}/{name}"] = torch.from_numpy(values * factor**2)
        return found | {f"looks/{name}": torch.tensor(count) for name, count in self.looks.items()}

    def load(self, saved: Mapping[str, Any], factor: float) -> None:
        """Continues from what `saved` gave."""
        self.squares, self.looks, self._scales = {}, {}, {}
        for key, values in saved.items():
            part, _, name = key.partition("/")
            if part == "looks":
                self.looks[name] = int(values)
            elif part == "rows":
                columns = values_of(saved[f"columns/{name}"], np.float64)
                self._set(name, values_of(values, np.float64) * factor**2, columns * factor**2)


@dataclass
class _Scales:
    """A power of two for each row and each column, where they were last used."""

    by: tuple[torch.Tensor, torch.Tensor]  # (m, 1) and (1, n)
    inverse: tuple[torch.Tensor, torch.Tensor]  # exact, for they are powers of two

    @classmethod
    def of(cls, rows: torch.Tensor, columns: torch.Tensor) -> _Scales:
        return cls((rows, columns), (rows.reciprocal(), columns.reciprocal()))

    def divide(self, tensor: torch.Tensor) -> None:
        self._there(tensor.device)
        tensor.view(self.shape).mul_(self.inverse[0]).mul_(self.inverse[1])

    def multiply(self, tensor: torch.Tensor) -> None:
        self._there(tensor.device)
        tensor.view(self.shape).mul_(self.by[0]).mul_(self.by[1])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.by[0]), self.by[1].shape[1]

    def _there(self, device: torch.device) -> None:
        if self.by[0].device != device:
            self.by = self.by[0].to(device), self.by[1].to(device)
            self.inverse = self.inverse[0].to(device), self.inverse[1].to(device)


def _powers(rows: Doubles, columns: Doubles) -> tuple[torch.Tensor, torch.Tensor]:
    mean = float(np.cumsum(rows)[-1]) / len(rows)
    if mean == 0.0:
        return torch.ones(len(rows), 1), torch.ones(1, len(columns))
    high = np.maximum(rows, _LEAST * mean)
    wide = np.maximum(columns, _LEAST * mean) / mean
    parts = [np.ldexp(1.0, np.frexp(part)[1] // 2).astype(np.float32) for part in (high, wide)]
    return torch.from_numpy(parts[0][:, None]), torch.from_numpy(parts[1][None, :])

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

from phloem.engines.torch.buffers import host, on_host, values_of
from phloem.engines.torch.owing import matrix_of
from phloem.kernels import backend
from phloem.tensors import Array

#: Steps between two looks at the means: scales change slowly.
EVERY = 5
_FORGETS = 0.3  # of the moving average at every look
_BITS = 20  # of a value in the whole numbers that are squared
_LEAST = (
    2.0**-16
)  # of a row's or column's mean square, beside the tensor's: what hardly moves is not blown up without end
_PART = 1 << 20  # values that a GPU looks at at a time
_BEGINS = 2  # looks at every step until then

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


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
        largest = _largest(matrix)
        if not 0.0 < largest < math.inf:
            return
        unit = math.ldexp(1.0, math.frexp(largest)[1] - _BITS)
        by_row, by_column = _squares(matrix, unit)
        rows = by_row.astype(np.float64) * (unit * unit / matrix.shape[1])
        columns = by_column.astype(np.float64) * (unit * unit / matrix.shape[0])
        if name in self.squares:
            before = self.squares[name]
            rows = (1.0 - _FORGETS) * before[0] + _FORGETS * rows
            columns = (1.0 - _FORGETS) * before[1] + _FORGETS * columns
        self._set(name, rows, columns)

    def _set(self, name: str, rows: Doubles, columns: Doubles) -> None:
        self.squares[name] = rows, columns
        self._scales[name] = _Scales.of(rows, columns)

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
    """A power of two for each row and each column. Shapes: (m,), (n,)."""

    by: tuple[Array, Array]
    inverse: tuple[Array, Array]  # exact
    _there: dict[torch.device, list[torch.Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Doubles, columns: Doubles) -> _Scales:
        """The scales for these mean squares."""
        powers = _powers(rows, columns)
        return cls(powers, (np.float32(1.0) / powers[0], np.float32(1.0) / powers[1]))

    def divide(self, tensor: torch.Tensor) -> None:
        self._scale(tensor, 2)

    def multiply(self, tensor: torch.Tensor) -> None:
        self._scale(tensor, 0)

    def _scale(self, tensor: torch.Tensor, first: int) -> None:
        every = (*self.by, *self.inverse)
        if on_host(tensor):
            rows, columns = every[first : first + 2]
            matrix = host(tensor).reshape(len(rows), len(columns))  # the tensor's own memory
            backend().scale_rows_and_columns(matrix, rows, columns)
            return
        if tensor.device not in self._there:
            self._there[tensor.device] = [torch.from_numpy(array).to(tensor.device) for array in every]
        by_row, by_column = self._there[tensor.device][first : first + 2]
        tensor.view(len(by_row), len(by_column)).mul_(by_row[:, None]).mul_(by_column)


def _largest(matrix: torch.Tensor) -> float:
    if on_host(matrix):
        largest, broken = backend().ecsq_extent([host(matrix)])
        return math.nan if broken >= 0 else largest
    return float(matrix.abs().max()) if matrix.numel() else 0.0


def _squares(matrix: torch.Tensor, unit: float) -> tuple[Integers, Integers]:
    """As `phloem.kernels.matrices.squares_of_rows_and_columns`, wherever the matrix lies."""
    if on_host(matrix):
        return backend().squares_of_rows_and_columns(host(matrix), unit)
    by_row, by_column = [], torch.zeros(matrix.shape[1], dtype=torch.int64, device=matrix.device)
    for part in matrix.split(max(1, _PART // matrix.shape[1])):
        whole = (part.double() / unit).round_().to(torch.int64)
        whole *= whole
        by_row.append(whole.sum(dim=1))
        by_column += whole.sum(dim=0)
    return torch.cat(by_row).cpu().numpy(), by_column.cpu().numpy()


def _powers(rows: Doubles, columns: Doubles) -> tuple[Array, Array]:
    mean = float(np.cumsum(rows)[-1]) / len(rows)
    if mean == 0.0:
        return np.ones(len(rows), np.float32), np.ones(len(columns), np.float32)
    high = np.maximum(rows, _LEAST * mean)
    wide = np.maximum(columns, _LEAST * mean) / mean
    high, wide = (np.ldexp(1.0, np.frexp(part)[1] // 2) for part in (high, wide))
    return high.astype(np.float32), wide.astype(np.float32)

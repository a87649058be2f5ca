"""The parts of a large update: a pure function of its shapes, so that nothing about it travels.

Walk the tensors in order. A part collects whole tensors as long as it stays within 2**22 elements. A tensor of
more than that is cut into parts of its own: a matrix (first dimension by all others) by rows, as evenly as
possible; a vector, or a tensor whose rows are longer than a part, by elements. Empty tensors belong to no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

from phloem.errors import ConfigError

#: No part has more elements.
PART_LARGEST = 1 << 22


class Piece(NamedTuple):
    """Elements `start` to `stop` of a tensor: whole rows, unless the tensor is one row."""

    part: int
    tensor: int
    start: int
    stop: int


def matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor: the first dimension by all others, or one row.

    >>> matrix((8, 3, 3)), matrix((5,)), matrix((2, 5_000_000))
    ((8, 9), (1, 5), (1, 10000000))
    """
    columns = prod(shape[1:])
    if len(shape) < 2 or columns > PART_LARGEST:
        return 1, prod(shape)
    return shape[0], columns


@lru_cache(maxsize=64)
def count_parts(shapes: tuple[tuple[int, ...], ...]) -> int:
    """How many parts there are, without making them: a layout may claim any size."""
    return _walk(shapes)[-1][2] if shapes else 0


@lru_cache(maxsize=16)
def partition(shapes: tuple[tuple[int, ...], ...]) -> tuple[Piece, ...]:
    """The pieces of all parts, in order.

    >>> partition(((3, 2), (0,), (4,)))
    (Piece(part=0, tensor=0, start=0, stop=6), Piece(part=0, tensor=2, start=0, stop=4))
    """
    return tuple(_pieces(shapes))


def parts_within(shapes: tuple[tuple[int, ...], ...], first: int, count: int) -> range:
    """The parts of `count` tensors from `first` on.

    Raises:
        ConfigError: one of them has other tensors as well.

    >>> parts_within(((3, 2), (0,), (4,), (1 << 22,)), 3, 1)
    range(1, 2)
    """
    among = range(first, first + count)
    inside = {piece.part for piece in partition(shapes) if piece.tensor in among}
    if any(piece.part in inside and piece.tensor not in among for piece in partition(shapes)):
        raise ConfigError("Some of these tensors share a part with others.")
    return range(min(inside), max(inside) + 1) if inside else range(0)


def _pieces(shapes: Sequence[tuple[int, ...]]) -> Iterator[Piece]:
    for tensor, (shape, (first, cuts, _)) in enumerate(zip(shapes, _walk(shapes), strict=True)):
        rows, columns = matrix(shape)
        unit, units = (1, columns) if rows == 1 else (columns, rows)
        for cut in range(cuts):
            start, stop = cut * units // cuts * unit, (cut + 1) * units // cuts * unit
            yield Piece(first + cut, tensor, start, stop)


def _walk(shapes: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """For each tensor: its first part, how many it is cut into, and how many parts there are after it."""
    found = []
    parts = held = 0  # `held`: elements of the last part, if tensors may still join it
    for shape in shapes:
        rows, columns = matrix(shape)
        size = rows * columns
        cuts = 1
        if size == 0:
            cuts, first = 0, parts
        elif size <= PART_LARGEST:
            if held == 0 or held + size > PART_LARGEST:
                parts, held = parts + 1, 0
            held += size
            first = parts - 1
        else:
            unit, units = (1, columns) if rows == 1 else (columns, rows)
            cuts = -(-units // (PART_LARGEST // unit))
            first, parts, held = parts, parts + cuts, 0
        found.append((first, cuts, parts))
    return found

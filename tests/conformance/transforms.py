"""Transforms of docs/bodies.md: their own bytes, the shapes of what is left, and how it is undone."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.conformance.reader import Reader, Shape, float32, require, saturated, size_of, unpack_bits
from tests.conformance.rotation import cut, read_block, rotated_back, words
from tests.conformance.values import total

GROUP = 512


@dataclass(frozen=True)
class Opened:
    """What another codec carries, and what becomes of it."""

    left: list[Shape]
    undo: Callable[[list[float]], list[float]]


def open_positions(reader: Reader, shapes: Sequence[Shape]) -> Opened:
    """Kept values (topk, threshold)."""
    count, kind = reader.number(), reader.number()
    require(count <= total(shapes) and kind < 2, "no such positions")
    if count == 0:
        kept: list[int] = []
    elif kind == 0:
        kept = [reader.unsigned(4) for _ in range(count)]
    else:
        kept = read_rice(reader, count, total(shapes))
    require(all(a < b for a, b in itertools.pairwise(kept)), "positions do not rise")
    require(not kept or kept[-1] < total(shapes), "a position is out of range")
    return scattered(kept, shapes, None)


def read_rice(reader: Reader, count: int, size: int) -> list[int]:
    """Positions as Rice-coded gaps."""
    length = reader.number()
    parameters = reader.take(-(-count // GROUP))
    require(max(parameters) <= 40, "no such Rice parameter")
    each = [parameters[i // GROUP] for i in range(count)]
    low = reader.take((sum(each) + 7) // 8)
    require(length <= (size + count + 7) // 8, "positions leave the layout")
    unary = unpack_bits(reader.take(length), 8 * length, 1)
    ends = [i for i, bit in enumerate(unary) if bit]
    require(len(ends) == count and ends[-1] // 8 + 1 == length, "not so many Rice codes")
    number, used = int.from_bytes(low, "little"), 0
    kept, position, before = [], -1, -1
    for end, width in zip(ends, each, strict=True):
        position += ((end - before - 1) << width) + (number >> used & ((1 << width) - 1)) + 1
        kept.append(position)
        before, used = end, used + width
    require(number >> used == 0, "the padding is not zero")
    return kept


def open_randomk(reader: Reader, shapes: Sequence[Shape]) -> Opened:
    """Values whose positions a seed says."""
    count, size = reader.number(), total(shapes)
    require(count <= size, "too many values")
    seed = reader.unsigned(8)
    require(count == 0 or reader.at < len(reader.data), "ends before the values")
    drawn = sorted((word, position) for position, word in enumerate(words(seed, size)))[:count]
    return scattered(sorted(position for _, position in drawn), shapes, float32(size / max(count, 1)))


def scattered(kept: Sequence[int], shapes: Sequence[Shape], factor: float | None) -> Opened:
    """Zeros but for the kept values, times a factor where there is one."""
    size = total(shapes)
    ends = [bisect_left(kept, total(shapes[: i + 1])) for i in range(len(shapes))]
    left: list[Shape] = [(end - start,) for start, end in zip([0, *ends], ends, strict=False)]

    def undo(values: list[float]) -> list[float]:
        found = [0.0] * size
        for position, value in zip(kept, values, strict=True):
            found[position] = value if factor is None else saturated(value * factor)
        return found

    return Opened(left, undo)


def open_hadamard(reader: Reader, shapes: Sequence[Shape]) -> Opened:
    """A rotated vector."""
    block, rounds, damping = read_block(reader, 1), reader.byte(), reader.byte()
    require(1 <= rounds <= 3 and damping in (0, 64), "no such rotation")
    seed, size = reader.unsigned(8), total(shapes)

    def undo(values: list[float]) -> list[float]:
        return restored(rotated_back(values, cut(size, block), seed, rounds), damping)

    return Opened([(size,)], undo)


def open_lowrank(reader: Reader, shapes: Sequence[Shape]) -> Opened:
    """Thin matrices."""
    rank, damping = reader.number(), reader.byte()
    require(1 <= rank <= 1024 and damping in (0, 64), "no such rank")
    left: list[Shape] = []
    for shape in shapes:
        rows, columns, thin = thinned(shape, rank)
        left += [(rows, rank), (columns, rank)] if thin else [shape]

    def undo(values: list[float]) -> list[float]:
        found, at = [], 0
        for shape in shapes:
            rows, columns, thin = thinned(shape, rank)
            if thin:
                p, at = values[at : at + rows * rank], at + rows * rank
                q, at = values[at : at + columns * rank], at + columns * rank
                found += product(p, q, rank)
            else:
                found, at = found + values[at : at + size_of(shape)], at + size_of(shape)
        return restored(found, damping)

    return Opened(left, undo)


def thinned(shape: Shape, rank: int) -> tuple[int, int, bool]:
    """The matrix that a tensor is, and whether two thin ones stand for it."""
    if len(shape) < 2 or size_of(shape) == 0:
        return 0, 0, False
    rows, columns = shape[0], size_of(shape[1:])
    return rows, columns, rank * (rows + columns) < rows * columns


def product(p: Sequence[float], q: Sequence[float], rank: int) -> list[float]:
    """P times the transpose of Q, one rank after another in float32."""
    found = []
    for i in range(0, len(p), rank):
        for k in range(0, len(q), rank):
            value = 0.0
            for j in range(rank):
                value = float32(value + float32(p[i + j] * q[k + j]))
            found.append(value)
    return found


def restored(values: Sequence[float], damping: int) -> list[float]:
    """Values times 2**damping, saturated; no NaN."""
    require(not any(map(math.isnan, values)), "a value is not a number")
    return [saturated(value * 2.0**damping) for value in values]

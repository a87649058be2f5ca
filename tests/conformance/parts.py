"""Matrix views, parts and steps of docs/ecsq.md: what all efforts share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor

from tests.conformance.rangecoder import RangeDecoder
from tests.conformance.reader import FLOAT32_MOST, Shape, require, size_of

PART = 1 << 22
IMPORTANCE = 196  # the first context of importances


@dataclass(frozen=True)
class Step:
    """significand * 2**(exponent - 11)."""

    significand: int
    exponent: int

    def __post_init__(self) -> None:
        require(2048 <= self.significand < 4096 and -124 <= self.exponent <= 125, "a step is out of range")

    @cached_property
    def value(self) -> float:
        """The step; exact."""
        return self.significand * 2.0 ** (self.exponent - 11)

    @cached_property
    def highest(self) -> int:
        """The largest integer it may be multiplied by."""
        return min((1 << 24) - 1, floor(FLOAT32_MOST / self.value))

    def finer(self, quarters: int) -> Step:
        """The step divided by 2**(quarters / 4)."""
        octaves, rest = divmod(-quarters, 4)
        significand = (self.significand * (65536, 77936, 92682, 110218)[rest] + 32768) >> 16
        if significand < 4096:
            return Step(significand, self.exponent + octaves)
        return Step((significand + 1) >> 1, self.exponent + octaves + 1)


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `stop` of a tensor."""

    tensor: int
    start: int
    stop: int


def read_head(body: bytes) -> tuple[Step, int]:
    """The step and the flags of a body."""
    require(len(body) >= 3, "ends inside the head")
    head = int.from_bytes(body[:3], "big")
    flags = head & 31
    require(not flags & 1 or flags == 1, "unknown flags")
    require(not flags & 16 or flags & 12 != 0, "unknown flags")
    require(flags != 1 or len(body) == 3, "bytes follow an all-zero body")
    return Step(2048 + (head >> 5 & 2047), (head >> 16) - 127), flags


def matrix(shape: Shape) -> tuple[int, int]:
    """Rows and columns."""
    if len(shape) < 2 or size_of(shape[1:]) > PART:
        return 1, size_of(shape)
    return shape[0], size_of(shape[1:])


def parts_of(shapes: Sequence[Shape], most: int) -> list[list[Piece]]:
    """The pieces of every part; more parts than `most` are refused before they are made."""
    parts: list[list[Piece]] = []
    held = 0  # elements of the last part while tensors may join it
    for tensor, shape in enumerate(shapes):
        rows, columns = matrix(shape)
        size = rows * columns
        if size == 0:
            continue
        if size <= PART:
            if held == 0 or held + size > PART:
                parts.append([])
                held = 0
            parts[-1].append(Piece(tensor, 0, size))
            held += size
        else:
            unit, units = (1, columns) if rows == 1 else (columns, rows)
            cuts = -(-units // (PART // unit))
            require(len(parts) + cuts <= most, "fewer bytes than parts")
            ends = [i * units // cuts * unit for i in range(cuts + 1)]
            parts += [[Piece(tensor, start, stop)] for start, stop in itertools.pairwise(ends)]
            held = 0
        require(len(parts) <= most, "fewer bytes than parts")
    return parts


def read_importances(coder: RangeDecoder, shapes: Sequence[Shape]) -> list[int]:
    """The importance of every tensor."""
    found, importance = [], 0
    for shape in shapes:
        if size_of(shape) == 0:
            found.append(0)
            continue
        importance += coder.signed(IMPORTANCE, 8)
        require(abs(importance) <= 128, "an importance is out of range")
        found.append(importance)
    return found

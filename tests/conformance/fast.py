"""Effort `fast` of docs/ecsq.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt

from tests.conformance.parts import Piece, matrix, parts_of, read_head, read_importances
from tests.conformance.rangecoder import RangeDecoder
from tests.conformance.reader import Bits, Reader, Shape, float32, require, size_of
from tests.conformance.tables import gap_table, magnitude_table

# first contexts of each group
ZERO, LEVEL, MODE, DIRECTIONS, COUNT, REPEATS, HIGHEST, HAZARD = 0, 2, 12, 16, 104, 112, 120, 136
SPARSE = -8
LANES, LANES_FROM = 32, 20_000
BASE = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 64, 0)
EXTRA = (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 5, 8, 24)
REPEAT = 15


@dataclass
class Scales:
    """The levels of a tensor that is not all zero."""

    level: int
    rows: list[int]  # empty: all 0
    columns: list[int]

    def classes(self, piece: Piece, width: int) -> list[int]:
        """The class of each coefficient of a piece."""
        if not self.rows and not self.columns:
            return [self.level] * (piece.stop - piece.start)
        return [
            self.level
            + (self.rows[at // width] if self.rows else 0)
            + (self.columns[at % width] if self.columns else 0)
            for at in range(piece.start, piece.stop)
        ]


@dataclass
class ClassOfPart:
    """The coefficients of one class in one part."""

    level: int
    places: list[int]  # among the part's coefficients
    ones: int = 0
    repeats: int = 0
    shift: int = 0
    gap_table: list[int] = field(default_factory=list)
    table: list[int] = field(default_factory=list)  # empty: one token only
    gaps: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def dense(self) -> bool:
        """Whether all its magnitudes are coded, or only those of its non-zeros."""
        return self.level > SPARSE

    @property
    def coded(self) -> int:
        """How many magnitudes are coded."""
        return len(self.places) if self.dense else self.ones


def decode_fast(body: bytes, shapes: Sequence[Shape]) -> list[float]:
    """All values."""
    step, flags = read_head(body)
    require(flags in (0, 1, 2), "not a body of effort fast")
    values = [0.0] * sum(map(size_of, shapes))
    if flags == 1:
        return values
    pieces = parts_of(shapes, len(body))
    coder = RangeDecoder(body, 3)
    importances = read_importances(coder, shapes) if flags == 2 else [0] * len(shapes)
    steps = [step.finer(one) for one in importances]
    highest = min(one.highest for one in steps) if steps else (1 << 24) - 1
    scales = read_scales(coder, shapes)
    require(any(scales), "all tensors of a body that is not all zero are zero")
    parts = [classes_of(own, shapes, scales) for own in pieces]
    read_tables(coder, parts)
    centres = read_centroids(coder, parts)
    bodies = [body] if len(parts) == 1 else split(Reader(body, coder.end), len(parts))
    starts = [sum(map(size_of, shapes[:tensor])) for tensor in range(len(shapes))]
    for data, own, part in zip(bodies, pieces, parts, strict=True):
        end = read_tokens(coder if len(parts) == 1 else None, data, part)
        coded = read_values(Bits(data[end:]), part, centres, highest)
        at = 0
        for piece in own:
            for index in range(piece.start, piece.stop):
                value = coded.get(at, 0) * steps[piece.tensor].value / 64
                values[starts[piece.tensor] + index] = float32(value)
                at += 1
    return values


def read_scales(coder: RangeDecoder, shapes: Sequence[Shape]) -> list[Scales | None]:
    """The scales of every tensor, None where it is zero or empty."""
    found: list[Scales | None] = []
    was_zero, level = 0, -10
    for shape in shapes:
        rows, columns = matrix(shape)
        was_zero = coder.bit(ZERO + was_zero) if rows * columns else was_zero
        if rows * columns == 0 or was_zero:
            found.append(None)
            continue
        level += coder.signed(LEVEL, 8)
        require(-64 <= level <= 48, "a level is out of range")
        if rows > 1 and rows * columns >= 512:
            own = Scales(level, read_direction(coder, 0, rows), read_direction(coder, 1, columns))
        else:
            own = Scales(level, [], [])
        found.append(own)
    return found


def read_direction(coder: RangeDecoder, side: int, count: int) -> list[int]:
    """The levels of all rows (side 0) or columns (side 1)."""
    if not coder.bit(MODE + 2 * side):
        return []
    halves = coder.bit(MODE + 2 * side + 1)
    unit, reach = (1, 8) if halves else (2, 4)
    first = DIRECTIONS + 22 * (2 * side + halves)
    levels: list[int] = []
    before = 1  # the last level's sign, plus one
    for _ in range(count):
        level = 0
        if coder.bit(first + before):
            negative = coder.bit(first + 3 + before)
            level = 1
            while level < reach and coder.bit(first + 6 + 8 * negative + level):
                level += 1
            level = -level if negative else level
        before = (level > 0) - (level < 0) + 1
        levels.append(level * unit)
    return levels


def classes_of(
    pieces: Sequence[Piece], shapes: Sequence[Shape], scales: Sequence[Scales | None]
) -> list[ClassOfPart]:
    """The classes of a part from the lowest, with the places of their coefficients in the part."""
    places: dict[int, list[int]] = {}
    at = 0
    for piece in pieces:
        own = scales[piece.tensor]
        if own is not None:
            for offset, level in enumerate(own.classes(piece, matrix(shapes[piece.tensor])[1])):
                places.setdefault(level, []).append(at + offset)
        at += piece.stop - piece.start
    return [ClassOfPart(level, places[level]) for level in sorted(places)]


def read_tables(coder: RangeDecoder, parts: Sequence[Sequence[ClassOfPart]]) -> None:
    """Counts and tables of all classes, from the lowest."""
    hazards = {False: [30] + [24] * 14, True: [0] * 15}
    top = {False: 0, True: 2}
    dense_before: int | None = None
    for level in sorted({own.level for part in parts for own in part}):
        found = [own for part in parts for own in part if own.level == level]
        dense = level > SPARSE
        known = hazards[dense]
        if not dense and not read_counts(coder, found, level):
            continue
        if dense:
            before = known if dense_before is not None else [20] * 15
            fall = level - (dense_before or 0)
            hazards[True] = known = [max(0, min(one - fall, 40)) for one in before]
            dense_before = level
        top[dense] += coder.signed(HIGHEST + 8 * dense, 6)
        require(0 <= top[dense] < 16, "a highest token is out of range")
        for token in range(top[dense]):
            known[token] += coder.signed(HAZARD + 10 * (3 * dense + min(token, 2)), 8)
            require(0 <= known[token] <= 40, "a hazard is out of range")
        if top[dense]:
            for own in found:
                own.table = magnitude_table(known[: top[dense]])


def read_counts(coder: RangeDecoder, found: Sequence[ClassOfPart], level: int) -> int:
    """The non-zeros of a sparse class in all parts, and what follows from them."""
    sizes = ones = 0
    for own in found:
        size = len(own.places)
        expected = size * ones // sizes if sizes else size * (isqrt(1 << (level + 192)) >> 64) >> 32
        own.ones = coder.near(COUNT, expected)
        require(own.ones <= size, "more non-zeros than coefficients")
        sizes, ones = sizes + size, ones + own.ones
    if ones:
        shift, table = gap_table(sizes - ones, ones)
        for own in found:
            own.shift, own.gap_table = shift, table
            if own.ones:
                own.repeats = coder.near(REPEATS, own.ones >> 5)
                require(own.repeats <= len(own.places) // (REPEAT << shift), "too many repeat tokens")
    return ones


def read_centroids(coder: RangeDecoder, parts: Sequence[Sequence[ClassOfPart]]) -> dict[bool, list[int]]:
    """What magnitudes one and two are in 64ths of a step, in sparse and in dense classes."""
    centres = {False: [64, 128], True: [64, 128]}
    for dense in (False, True):
        coded = [own for part in parts for own in part if own.dense == dense and own.coded]
        if coded:
            centres[dense][0] += coder.raw(6) - 16
            if dense or any(own.table for own in coded):
                centres[dense][1] += coder.raw(6) - 16
    return centres


def split(reader: Reader, parts: int) -> list[bytes]:
    """The bytes of each part."""
    lengths = [reader.number() for _ in range(parts - 1)]
    return [*(reader.take(length) for length in lengths), reader.rest()]


def read_tokens(coder: RangeDecoder | None, data: bytes, part: Sequence[ClassOfPart]) -> int:
    """Where the tokens of a part end; its classes get them."""
    runs: list[tuple[int, list[int], list[int]]] = []
    for own in part:
        if own.ones:
            runs.append((own.ones + own.repeats, own.gap_table, own.gaps))
        if own.table and own.coded:
            runs.append((own.coded, own.table, own.tokens))
        else:
            own.tokens += [0] * own.coded
    end = coder.end if coder else 0
    if sum(count for count, _, _ in runs) >= LANES_FROM:
        end = read_lanes(data, end, runs)
    elif runs:
        coder = coder or RangeDecoder(data, 0)
        for count, table, found in runs:
            found += coder.tokens(count, table)
        end = coder.end
    for own in part:
        if own.ones:
            require(own.gaps.count(REPEAT) == own.repeats and own.gaps[-1] != REPEAT, "gaps do not add up")
    return end


def read_lanes(data: bytes, at: int, runs: Sequence[tuple[int, list[int], list[int]]]) -> int:
    """Where the rANS words end; the runs get their tokens."""
    reader = Reader(data, at)
    states = [reader.unsigned(4) for _ in range(LANES)]
    require(all(1 << 15 <= state < 1 << 31 for state in states), "a state is out of range")
    for count, table, found in runs:
        slots = [token for token, frequency in enumerate(table) for _ in range(frequency)]
        starts = [sum(table[:token]) for token in range(len(table))]
        for i in range(count):
            state = states[i % LANES]
            slot = state & 4095
            token = slots[slot]
            state = table[token] * (state >> 12) + slot - starts[token]
            if state < 1 << 15:
                state = state << 16 | reader.unsigned(2)
            states[i % LANES] = state
            found.append(token)
    require(all(state == 1 << 15 for state in states), "a lane does not end at 2**15")
    return reader.at


def read_values(
    bits: Bits, part: Sequence[ClassOfPart], centres: dict[bool, list[int]], highest: int
) -> dict[int, int]:
    """The non-zero coefficients of a part by place, in 64ths of a step."""
    places = [own.places if own.dense else read_places(bits, own) for own in part]
    magnitudes = []
    for own in part:
        low = max(0, own.level // 2 - 2) if own.dense else 0
        first = 0 if own.dense else 1
        found = [first + (BASE[token] << low) + bits.take(EXTRA[token] + low) for token in own.tokens]
        require(max(found, default=0) <= highest, "a magnitude is out of range")
        magnitudes.append(found)
    values: dict[int, int] = {}
    for own, where, found in zip(part, places, magnitudes, strict=True):
        for place, magnitude in zip(where, found, strict=True):
            if magnitude:
                size = centres[own.dense][magnitude - 1] if magnitude < 3 else 64 * magnitude
                values[place] = -size if bits.take(1) else size
    bits.end()
    return values


def read_places(bits: Bits, own: ClassOfPart) -> list[int]:
    """The places of a sparse class's non-zeros."""
    found, at, blocks = [], -1, 0
    for token in own.gaps:
        if token == REPEAT:
            blocks += REPEAT
            continue
        at += ((blocks + token) << own.shift) + bits.take(own.shift) + 1
        require(at < len(own.places), "gaps lead beyond the class")
        found.append(own.places[at])
        blocks = 0
    return found

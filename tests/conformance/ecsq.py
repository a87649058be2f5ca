"""The body of `ecsq`: which effort it is of, and the frame around the streams of `balanced` and `best`."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

from tests.conformance.adaptive import Stream
from tests.conformance.fast import decode_fast
from tests.conformance.parts import Piece, Step, matrix, parts_of, read_head, read_importances
from tests.conformance.rangecoder import RangeDecoder
from tests.conformance.reader import FLOAT32_MOST, Reader, Refused, Shape, float32, require, size_of

IMPORTANCES, BALANCED, BEST_WITH_HELD, MODEL, DEPENDENT = 2, 4, 12, 12, 16


def decode_ecsq(body: bytes, shapes: Sequence[Shape], held: Sequence[float] = ()) -> list[float]:
    """All values; `held` are those of an update that both ends have."""
    step, flags = read_head(body)
    if not flags & MODEL:
        return decode_fast(body, shapes)
    reader = Reader(body, 3)
    with_held, dependent = flags & MODEL == BEST_WITH_HELD, bool(flags & DEPENDENT)
    if with_held:
        check_held(reader.take(4), shapes, held)
    pieces = parts_of(shapes, len(body))
    require(bool(pieces), "a body that is not all zero has no tensors")
    importances = [0] * len(shapes)
    if flags & IMPORTANCES:
        coder = RangeDecoder(body, reader.at)
        importances = read_importances(coder, shapes)
        reader.at = coder.end
    steps = [step.finer(one) for one in importances]
    centres = read_centres(reader, dependent)
    starts = [sum(map(size_of, shapes[:tensor])) for tensor in range(len(shapes))]
    values = [0.0] * sum(map(size_of, shapes))
    for number, part in enumerate(pieces, 1):
        data = reader.string() if number < len(pieces) else reader.rest()
        stream = Stream(data, flags & MODEL != BALANCED, with_held, dependent)
        for piece in part:
            own, at = steps[piece.tensor], starts[piece.tensor] + piece.start
            size = piece.stop - piece.start
            near = [held_position(one, own, dependent) for one in held[at : at + size]] if with_held else []
            positions = stream.piece(*block(shapes[piece.tensor], piece), near, own.highest)
            values[at : at + size] = [value_of(one, own, centres, dependent) for one in positions]
        stream.coder.end()
    require(any(values), "all values of a body that is not all zero are zero")
    return values


def block(shape: Shape, piece: Piece) -> tuple[int, int]:
    """Rows and columns of a piece."""
    rows, columns = matrix(shape)
    size = piece.stop - piece.start
    return (1, size) if rows == 1 else (size // columns, columns)


def read_centres(reader: Reader, dependent: bool) -> dict[int, int]:
    """What small positions stand for, in 64ths of a step (a scalar quantiser's positions are 2 and 4)."""
    number = int.from_bytes(reader.take(3 if dependent else 2), "big")
    places = (2, 4, 1, 3) if dependent else (2, 4)
    require(number >> (6 * len(places)) == 0, "the bits before the centres are not zero")
    found = {}
    for place in reversed(places):
        found[place] = 64 * (place if dependent else place // 2) + (number & 63) - 16
        number >>= 6
    return found


def value_of(position: int, step: Step, centres: dict[int, int], dependent: bool) -> float:
    """The value of a signed position."""
    size = abs(position)
    if size in centres:
        value = float32(min(centres[size] * step.value / 64, FLOAT32_MOST))
    else:
        value = float32((size if dependent else size // 2) * step.value)
    return -value if position < 0 else value


def check_held(check: bytes, shapes: Sequence[Shape], held: Sequence[float]) -> None:
    """Refuses another update than the sender's."""
    if len(held) != sum(map(size_of, shapes)):
        raise Refused("the body needs an update that both ends hold")
    found = zlib.crc32(struct.pack(f"<{len(held)}f", *held))
    require(found.to_bytes(4, "big") == check, "another update is held")


def held_position(value: float, step: Step, dependent: bool) -> int:
    """A held value in half steps (or grid steps), rounded."""
    inverse = float32((1.0 if dependent else 2.0) / step.value)
    size = float32(float32(abs(value) * inverse) + 0.5)
    rounded = math.floor(size) if size < 127 else 127
    return -rounded if value < 0 else rounded

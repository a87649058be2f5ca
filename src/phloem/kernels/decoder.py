"""The NumPy decoder of the `ecsq` body: see `reference` for the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from phloem import varint
from phloem.errors import ConfigError, FormatError
from phloem.kernels import bits
from phloem.kernels.models import gap_frequencies, gap_shift, hazard_frequencies, token_starts
from phloem.kernels.parts import Piece, count_parts, partition
from phloem.kernels.rangecoder import RangeDecoder, slot_tokens
from phloem.kernels.rans import rans_decode
from phloem.kernels.scales import Scales, Shape, class_counts, class_order
from phloem.kernels.side import (
    CONTEXTS,
    TablePredictor,
    code_counts,
    code_importances,
    code_repeats,
    code_scales,
)
from phloem.kernels.steps import FLAG_ALL_ZERO, FLAG_IMPORTANCE, STEP_BYTES, Step, read_head, steps_of
from phloem.kernels.tables import (
    CENTROID_LOWEST,
    CLASS_LOWEST,
    CLASSES,
    GAP_REPEAT,
    LANES_FROM,
    SPARSE_HIGHEST,
)
from phloem.kernels.tokens import extra_bits, first_values, low_bits

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.uint8]
#: What decoded values do to arrays in place.
Put = Literal["store", "add", "subtract", "accumulate"]

_HINT = "The frame is cut short, altered, or meant for another model."


@dataclass
class _ClassPart:
    """What is known of one class of one part."""

    index: int
    size: int
    ones: int = 0
    repeats: int = 0
    shift: int = 0
    gap_table: tuple[int, ...] = ()
    table: tuple[int, ...] = ()  # empty where a single token is possible
    gaps: Tokens = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))
    tokens: Tokens = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))

    @property
    def dense(self) -> bool:
        return self.index + CLASS_LOWEST > SPARSE_HIGHEST

    @property
    def low(self) -> int:
        return low_bits(self.index + CLASS_LOWEST) if self.dense else 0

    @property
    def coded(self) -> int:
        """How many magnitudes there are."""
        return self.size if self.dense else self.ones


@dataclass
class Frame:
    """What the side information says."""

    scales: list[Scales | None]
    steps: list[Step]
    highest: int
    pieces: list[list[Piece]]  # per part
    parts: list[list[_ClassPart]]
    centres: list[list[int]]  # of magnitudes one and two in 64ths of a step, for sparse and dense classes


def ecsq_decode(body: bytes | memoryview, shapes: Sequence[tuple[int, ...]]) -> list[FloatArray]:
    """The tensors of a body.

    Raises:
        FormatError: the bytes are not a body for these shapes, to the last bit.
    """
    arrays = [np.zeros(shape, dtype=np.float32) for shape in shapes]
    ecsq_decode_into(body, arrays, "store")
    return arrays


def ecsq_decode_into(body: bytes | memoryview, arrays: Sequence[FloatArray], put: Put) -> None:
    """Put the tensors of a body into arrays of zeros, or add them to arrays, or subtract them, in float32.

    Raises:
        FormatError: the bytes are not a body for these shapes, to the last bit; the arrays are as before.
    """
    if put not in get_args(Put):
        raise ConfigError(f"Decoded values cannot be '{put}'.", hint=f"known: {', '.join(get_args(Put))}")
    data = bytes(body)
    shapes = tuple(array.shape for array in arrays)
    decoded = None
    if read_head(data)[1] != FLAG_ALL_ZERO:
        frame, coder = read_frame(data, shapes)
        decoded = _decode_parts(data, frame, coder)
    for tensor, array in enumerate(arrays):
        values = np.zeros(array.shape, np.float32)
        if decoded is not None:
            for piece, part_values in decoded.get(tensor, ()):
                values.reshape(-1)[piece.start : piece.stop] = part_values
        put_all([array], [values], put)


def put_all(arrays: Sequence[FloatArray], values: Sequence[FloatArray], put: Put) -> None:
    """Stores, adds or subtracts values, in place."""
    for array, value in zip(arrays, values, strict=True):
        if put == "store":
            array[...] = value
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                (np.subtract if put == "subtract" else np.add)(array, value, out=array)


def ecsq_subtract_encoded(body: bytes, arrays: Sequence[FloatArray]) -> None:
    """Subtract a body from the very arrays that it was encoded from: what its sender still owes.

    The same as `ecsq_decode_into(body, arrays, "subtract")`, which a kernel may find without decoding.
    """
    ecsq_decode_into(body, arrays, "subtract")


def read_frame(data: bytes, shapes: tuple[tuple[int, ...], ...]) -> tuple[Frame, RangeDecoder]:
    """The side information of a body that is not all zero, and the coder after it."""
    step, flags = read_head(data)
    check_parts(data, shapes)
    views = [Shape.of(shape) for shape in shapes]
    coder = RangeDecoder(CONTEXTS, data, STEP_BYTES)
    importances: list[int] = []
    if flags == FLAG_IMPORTANCE:
        importances = code_importances(coder, views, [0] * len(views))
    try:
        steps, highest = steps_of(step, importances, len(views))
    except ConfigError as error:
        raise FormatError(error.message, hint=_HINT) from None
    scales = code_scales(coder, views, [None] * len(views))
    if not any(scales):
        raise FormatError("Every tensor of a body that is not all zero is zero.", hint=_HINT)
    all_pieces = partition(shapes)
    pieces: list[list[Piece]] = [[] for _ in range(all_pieces[-1].part + 1)]
    for piece in all_pieces:
        pieces[piece.part].append(piece)
    counts = [class_counts(own, scales) for own in pieces]
    parts = [[_ClassPart(index, int(own[index])) for index in np.flatnonzero(own).tolist()] for own in counts]
    _read_classes(coder, parts)
    return Frame(scales, steps, highest, pieces, parts, _read_centroids(coder, parts)), coder


def check_parts(data: bytes, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuses a body that is shorter than the list of its parts' lengths: a layout may claim any size."""
    if count_parts(tuple(shapes)) > len(data):
        raise FormatError("The body ends inside the lengths of its parts.", hint=_HINT)


def _read_classes(coder: RangeDecoder, parts: Sequence[Sequence[_ClassPart]]) -> None:
    """The counts and tables of all classes that occur."""
    predictors = (TablePredictor(dense=False), TablePredictor(dense=True))
    by_index: dict[int, list[_ClassPart]] = {}
    for part in parts:
        for own in part:
            by_index.setdefault(own.index, []).append(own)
    for index in range(CLASSES):
        found = by_index.get(index, [])
        if not found:
            continue
        level = index + CLASS_LOWEST
        if not found[0].dense:
            counts = code_counts(coder, [own.size for own in found], level, [0] * len(found))
            size, ones = sum(own.size for own in found), sum(counts)
            if ones == 0:
                continue
            shift = gap_shift(size - ones, ones)
            table = gap_frequencies(size - ones, ones, shift)
            for own, count in zip(found, counts, strict=True):
                own.ones, own.shift, own.gap_table = count, shift, table
                if count:
                    own.repeats = code_repeats(coder, count, own.size // (GAP_REPEAT << shift), 0)
        predictor = predictors[found[0].dense]
        predictor.advance(level)
        hazards = predictor.code(coder, ())
        if hazards:
            for own in found:
                own.table = hazard_frequencies(hazards)


def _read_centroids(coder: RangeDecoder, parts: Sequence[Sequence[_ClassPart]]) -> list[list[int]]:
    """What magnitudes one and two stand for, in 64ths of a step, for sparse and dense classes."""
    centres = [[64, 128], [64, 128]]
    for kind in (False, True):
        present = [own for part in parts for own in part if own.dense == kind and own.coded]
        if present:
            centres[kind][0] += coder.raw(6) + CENTROID_LOWEST
            if kind or any(own.table for own in present):
                centres[kind][1] += coder.raw(6) + CENTROID_LOWEST
    return centres


def _decode_parts(
    data: bytes, frame: Frame, coder: RangeDecoder
) -> dict[int, list[tuple[Piece, FloatArray]]]:
    """Every tensor's pieces with their values."""
    found: dict[int, list[tuple[Piece, FloatArray]]] = {}
    if len(frame.parts) == 1:
        bodies = [data]
    else:
        bodies = _split(data[coder.position :], len(frame.parts))
    for body, pieces, part in zip(bodies, frame.pieces, frame.parts, strict=True):
        position = _read_tokens(coder if len(frame.parts) == 1 else None, body, part)
        codes = _read_raw(body, position, part, frame)
        order = class_order(pieces, frame.scales)
        flat = np.empty(codes.size, dtype=np.int64)
        flat[order] = codes
        start = 0
        for piece in pieces:
            if frame.scales[piece.tensor] is None:
                continue
            own = flat[start : start + piece.stop - piece.start]
            start += own.size
            values = (own.astype(np.float64) * frame.steps[piece.tensor].value / 64.0).astype(np.float32)
            found.setdefault(piece.tensor, []).append((piece, values))
    return found


def _split(data: bytes, parts: int) -> list[bytes]:
    """The bytes of each part; all but the last have their lengths in front."""
    lengths, at = [], 0
    for _ in range(parts - 1):
        length, at = varint.unpack(data, at)
        lengths.append(length)
    bodies = []
    for length in lengths:
        if length > len(data) - at:
            raise FormatError("The body ends inside a part.", hint=_HINT)
        bodies.append(data[at : at + length])
        at += length
    return [*bodies, data[at:]]


def _read_tokens(coder: RangeDecoder | None, data: bytes, part: Sequence[_ClassPart]) -> int:
    """Give every class of a part its tokens; the position after the last coder."""
    runs: list[tuple[int, tuple[int, ...]]] = []
    for own in part:
        if own.ones:
            runs.append((own.ones + own.repeats, own.gap_table))
        if own.table and own.coded:
            runs.append((own.coded, own.table))
    total = sum(count for count, _ in runs)
    position = coder.position if coder else 0
    if total >= LANES_FROM:
        found, position = rans_decode(data, position, runs)
    else:
        if coder is None and runs:
            coder = RangeDecoder(0, data, 0)
        found = []
        for count, table in runs:
            assert coder is not None
            tokens = coder.symbols(count, slot_tokens(table), table, token_starts(table))
            found.append(np.frombuffer(tokens, dtype=np.uint8))
        position = coder.position if coder else 0
    pieces = iter(found)
    for own in part:
        if own.ones:
            own.gaps = next(pieces)
            if np.count_nonzero(own.gaps == GAP_REPEAT) != own.repeats or own.gaps[-1] == GAP_REPEAT:
                raise FormatError("The gaps of a class do not add up.", hint=_HINT)
        own.tokens = next(pieces) if own.table and own.coded else np.zeros(own.coded, dtype=np.uint8)
    return position


def _read_raw(data: bytes, position: int, part: Sequence[_ClassPart], frame: Frame) -> IntArray:
    """All coefficients of a part in class order, in 64ths of a step."""
    raw = _RawBits(data, position)
    places = [raw.places(own) if own.ones else None for own in part]
    magnitudes = [raw.magnitudes(own) for own in part]
    codes = [np.zeros(0, dtype=np.int64)]
    for own, place, sizes in zip(part, places, magnitudes, strict=True):
        if sizes.size and int(sizes.max()) > frame.highest:
            raise FormatError("A magnitude is out of range.", hint=_HINT)
        coded = 64 * sizes
        for size in (1, 2):
            coded[sizes == size] = frame.centres[own.dense][size - 1]
        ones = np.flatnonzero(sizes)
        coded[ones] = np.where(raw.take(ones.size) != 0, -coded[ones], coded[ones])
        if not own.dense:
            coded, sparse = np.zeros(own.size, dtype=np.int64), coded
            if place is not None:
                coded[place] = sparse
        codes.append(coded)
    raw.finish()
    return np.concatenate(codes)


class _RawBits:
    """The raw bits, read from the front."""

    def __init__(self, data: bytes, position: int) -> None:
        self._bits = bits.unpack(data[position:])
        self._at = 0

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        """The next bits."""
        if self._at + count > self._bits.size:
            raise FormatError("The body ends inside the raw bits.", hint=_HINT)
        self._at += count
        return self._bits[self._at - count : self._at]

    def fields(self, widths: IntArray) -> IntArray:
        """The next values of these widths."""
        return bits.gather(self.take(int(widths.sum())), widths)

    def places(self, own: _ClassPart) -> IntArray:
        """Where in a sparse class its non-zeros are."""
        last = np.flatnonzero(own.gaps != GAP_REPEAT)
        gaps = self.fields(np.full(own.ones, own.shift))
        gaps += own.gaps[last].astype(np.int64) << own.shift
        gaps += (np.diff(last, prepend=-1) - 1) * (GAP_REPEAT << own.shift)
        places = np.cumsum(gaps + 1) - 1
        if int(places[-1]) >= own.size:
            raise FormatError("The gaps of a class lead beyond its end.", hint=_HINT)
        return places

    def magnitudes(self, own: _ClassPart) -> IntArray:
        """The magnitudes of a class."""
        if own.low * own.coded > self._bits.size - self._at:
            raise FormatError("The body ends inside the raw bits.", hint=_HINT)
        extra = self.fields(extra_bits(own.tokens) + own.low) if own.low or own.table else 0
        return (first_values(own.tokens) << own.low) + extra + (0 if own.dense else 1)

    def finish(self) -> None:
        """Nothing but the zeros that fill the last byte may be left."""
        rest = self._bits[self._at :]
        if rest.size >= 8 or rest.any():
            raise FormatError("Bits follow the end of the body.", hint=_HINT)

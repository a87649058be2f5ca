"""The NumPy decoder of the `ecsq` body: see `reference` for the format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phloem.errors import FormatError
from phloem.kernels import bits
from phloem.kernels.models import gap_frequencies, gap_shift, hazard_frequencies, token_starts
from phloem.kernels.rangecoder import RangeDecoder, slot_tokens
from phloem.kernels.rans import rans_decode
from phloem.kernels.scales import Shape, class_counts, class_order
from phloem.kernels.side import CONTEXTS, TablePredictor, code_count, code_repeats, code_scales
from phloem.kernels.steps import STEP_BYTES, Step, read_head
from phloem.kernels.tables import (
    CENTROID_LOWEST,
    CLASS_LOWEST,
    GAP_REPEAT,
    LANES_FROM,
    SPARSE_HIGHEST,
)
from phloem.kernels.tokens import extra_bits, first_values, low_bits

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.uint8]

_HINT = "The frame is cut short, altered, or meant for another model."


@dataclass
class _Class:
    """What the side information says of one class, and then what was read of it."""

    level: int
    size: int
    ones: int = 0
    repeats: int = 0
    shift: int = 0
    hazards: Sequence[int] = ()
    gaps: Tokens | None = None
    tokens: Tokens | None = None
    magnitudes: IntArray | None = None

    @property
    def dense(self) -> bool:
        return self.level > SPARSE_HIGHEST

    @property
    def low(self) -> int:
        return low_bits(self.level) if self.dense else 0

    @property
    def coded(self) -> int:
        """How many magnitudes have a token."""
        return self.size if self.dense else self.ones


def ecsq_decode(body: bytes | memoryview, shapes: Sequence[tuple[int, ...]]) -> list[FloatArray]:
    """The tensors of a body.

    Raises:
        FormatError: the bytes are not a body for these shapes, to the last bit.
    """
    data = bytes(body)
    step, all_zero = read_head(data)
    if all_zero:
        return [np.zeros(shape, dtype=np.float32) for shape in shapes]

    views = [Shape.of(shape) for shape in shapes]
    coder = RangeDecoder(CONTEXTS, data, STEP_BYTES)
    scales = code_scales(coder, views, [None] * len(views))
    if not any(scales):
        raise FormatError("Every tensor of a body that is not all zero is zero.", hint=_HINT)
    classes = list(_read_classes(coder, class_counts(scales)))
    centres = _read_centroids(coder, classes)
    position = _read_tokens(coder, data, classes)
    values = _read_raw(data, position, classes, step, centres)

    flat = np.empty(values.size, dtype=np.float32)
    flat[class_order(scales)[0]] = values
    arrays = [np.zeros(shape, dtype=np.float32) for shape in shapes]
    start = 0
    for array, scale in zip(arrays, scales, strict=True):
        if scale is not None:
            array.reshape(-1)[:] = flat[start : start + array.size]
            start += array.size
    return arrays


def _read_classes(coder: RangeDecoder, counts: IntArray) -> Iterator[_Class]:
    """The counts and tables of all classes that occur."""
    predictors = (TablePredictor(dense=False), TablePredictor(dense=True))
    for index in np.flatnonzero(counts).tolist():
        part = _Class(index + CLASS_LOWEST, int(counts[index]))
        if not part.dense:
            part.ones = code_count(coder, part.size, part.level, 0)
            if part.ones:
                part.shift = gap_shift(part.size - part.ones, part.ones)
                most = part.size // (GAP_REPEAT << part.shift)
                part.repeats = code_repeats(coder, part.ones, most, 0)
        if part.coded:
            predictor = predictors[part.dense]
            predictor.advance(part.level)
            part.hazards = predictor.code(coder, ())
        yield part


def _read_centroids(coder: RangeDecoder, classes: Sequence[_Class]) -> list[list[int]]:
    """What magnitudes one and two stand for, in 64ths of a step, for sparse and dense classes."""
    centres = [[64, 128], [64, 128]]
    for kind in (False, True):
        present = [part for part in classes if part.dense == kind and part.coded]
        if present:
            centres[kind][0] += coder.raw(6) + CENTROID_LOWEST
            if kind or any(part.hazards for part in present):
                centres[kind][1] += coder.raw(6) + CENTROID_LOWEST
    return centres


def _read_tokens(coder: RangeDecoder, data: bytes, classes: Sequence[_Class]) -> int:
    """Give every class its tokens; the position after the last coder."""
    runs: list[tuple[int, tuple[int, ...]]] = []
    for part in classes:
        if part.ones:
            table = gap_frequencies(part.size - part.ones, part.ones, part.shift)
            runs.append((part.ones + part.repeats, table))
        if part.hazards:
            runs.append((part.coded, hazard_frequencies(part.hazards)))
    total = sum(count for count, _ in runs)
    if total < LANES_FROM:
        read = [coder.symbols(count, slot_tokens(f), f, token_starts(f)) for count, f in runs]
        pieces = iter([np.frombuffer(tokens, dtype=np.uint8) for tokens in read])
    position = coder.position
    if total >= LANES_FROM:
        tokens, position = rans_decode(data, position, runs)
        pieces = iter(np.split(tokens, np.cumsum([count for count, _ in runs])[:-1]))
    for part in classes:
        if part.ones:
            part.gaps = next(pieces)
            if np.count_nonzero(part.gaps == GAP_REPEAT) != part.repeats or part.gaps[-1] == GAP_REPEAT:
                raise FormatError("The gaps of a class do not add up.", hint=_HINT)
        part.tokens = next(pieces) if part.hazards else np.zeros(part.coded, dtype=np.uint8)
    return position


def _read_raw(
    data: bytes, position: int, classes: Sequence[_Class], step: Step, centres: list[list[int]]
) -> FloatArray:
    """The values of all coefficients in class order, from tokens and raw bits."""
    raw = _RawBits(data, position)
    places = [raw.places(part) if part.ones else None for part in classes]
    for part in classes:
        raw.magnitudes(part)
    values = []
    for part, place in zip(classes, places, strict=True):
        magnitudes = part.magnitudes
        assert magnitudes is not None
        if magnitudes.size and int(magnitudes.max()) > step.magnitude_highest:
            raise FormatError("A magnitude is out of range.", hint=_HINT)
        sized = magnitudes.astype(np.float32) * np.float32(step.value)
        for size in (1, 2):
            sized[magnitudes == size] = np.float32(centres[part.dense][size - 1] * step.value / 64.0)
        ones = np.flatnonzero(magnitudes)
        sized[ones] = np.where(raw.take(ones.size) != 0, -sized[ones], sized[ones])
        if place is not None:
            sized, sparse = np.zeros(part.size, dtype=np.float32), sized
            sized[place] = sparse
        elif not part.dense:
            sized = np.zeros(part.size, dtype=np.float32)
        values.append(sized)
    raw.finish()
    return np.concatenate(values)


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

    def places(self, part: _Class) -> IntArray:
        """Where in a sparse class its non-zeros are."""
        assert part.gaps is not None
        last = np.flatnonzero(part.gaps != GAP_REPEAT)
        gaps = self.fields(np.full(part.ones, part.shift))
        gaps += part.gaps[last].astype(np.int64) << part.shift
        gaps += (np.diff(last, prepend=-1) - 1) * (GAP_REPEAT << part.shift)
        places = np.cumsum(gaps + 1) - 1
        if int(places[-1]) >= part.size:
            raise FormatError("The gaps of a class lead beyond its end.", hint=_HINT)
        return places

    def magnitudes(self, part: _Class) -> None:
        """Give a class its magnitudes."""
        assert part.tokens is not None
        if part.low * part.coded > self._bits.size - self._at:
            raise FormatError("The body ends inside the raw bits.", hint=_HINT)
        extra = self.fields(extra_bits(part.tokens) + part.low) if part.low or part.hazards else 0
        part.magnitudes = (first_values(part.tokens) << part.low) + extra + (0 if part.dense else 1)

    def finish(self) -> None:
        """Nothing but the zeros that fill the last byte may be left."""
        rest = self._bits[self._at :]
        if rest.size >= 8 or rest.any():
            raise FormatError("Bits follow the end of the body.", hint=_HINT)

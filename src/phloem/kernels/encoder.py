"""The NumPy encoder of the `ecsq` body: see `reference` for the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from phloem import varint
from phloem.kernels import bits
from phloem.kernels.models import choose_hazards, gap_frequencies, gap_shift, hazard_frequencies, token_starts
from phloem.kernels.parts import Piece, partition
from phloem.kernels.rangecoder import RangeEncoder
from phloem.kernels.rans import rans_encode
from phloem.kernels.scales import Scales, Shape, class_counts, class_order, measure
from phloem.kernels.side import (
    CONTEXTS,
    TablePredictor,
    code_counts,
    code_importances,
    code_repeats,
    code_scales,
)
from phloem.kernels.steps import FLAG_ALL_ZERO, FLAG_IMPORTANCE, Step, steps_of
from phloem.kernels.tables import (
    CENTROID_LOWEST,
    CLASS_LOWEST,
    CLASS_PARTS,
    CLASSES,
    GAP_REPEAT,
    LANES_FROM,
    MAGNITUDE_HIGHEST,
    SCALE_OFFSET,
    SPARSE_HIGHEST,
    tables,
)
from phloem.kernels.tokens import extra_bits, first_values, low_bits, tokenise

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BitArray = npt.NDArray[np.uint8]
Run = tuple[npt.NDArray[np.uint8], tuple[int, ...]]


def ecsq_encode(arrays: Sequence[FloatArray], step: Step, importances: Sequence[int] = ()) -> bytes:
    """The body of these tensors at this step, finer by quarters of an octave where importances are given.

    Error bound: |x - decoded| is at most 1.6 of the tensor's steps, for magnitudes that the step was fitted to
    (`Step.fitted`).
    """
    shapes = [Shape.of(array.shape) for array in arrays]
    steps, highest = steps_of(step, importances, len(arrays))
    scaled, scales = [], []
    for array, shape, own in zip(arrays, shapes, steps, strict=True):
        values = scaled_magnitudes(array, own)
        coarse = np.minimum(values + np.float32(SCALE_OFFSET), np.float32(MAGNITUDE_HIGHEST)).astype(np.int32)
        scaled.append(values)
        scales.append(measure(coarse, shape))
    if not any(scales):
        return step.pack(FLAG_ALL_ZERO)

    coder = RangeEncoder(CONTEXTS)
    if importances:
        code_importances(coder, shapes, importances)
    code_scales(coder, shapes, scales)
    pieces = partition(tuple(array.shape for array in arrays))
    parts = []
    for number in range(pieces[-1].part + 1):
        own_pieces = [piece for piece in pieces if piece.part == number]
        parts.append(_Part.of(own_pieces, scales, scaled, arrays, highest))
    _FrameCoder(coder, parts).encode()
    head = step.pack(FLAG_IMPORTANCE if importances else 0)
    if len(parts) == 1:
        lanes = parts[0].encode_tokens(coder)
        return head + coder.finish() + lanes + parts[0].raw_bits()
    bodies = []
    for part in parts:
        own_coder = RangeEncoder(0)
        lanes = part.encode_tokens(own_coder)
        alone = own_coder.finish() if part.runs and not lanes else b""
        bodies.append(alone + lanes + part.raw_bits())
    lengths = b"".join(varint.pack(len(body)) for body in bodies[:-1])
    return head + coder.finish() + lengths + b"".join(bodies)


def scaled_magnitudes(array: FloatArray, step: Step) -> FloatArray:
    """|x| / step, by a float32 multiplication with the rounded inverse. Shape: (size,)."""
    inverse = np.float32(1.0) / np.float32(step.value)
    with np.errstate(over="ignore", under="ignore"):
        scaled: FloatArray = np.abs(array.reshape(-1)) * inverse
    return scaled


def quantise(values: FloatArray, index: int, parts: IntArray, highest: int) -> IntArray:
    """The magnitudes of coefficients of one class, given as |x| / step, `parts` of a class above it."""
    known = tables()
    place = (CLASS_PARTS * index + parts).clip(0, known.thresholds.size - 1)
    rounded = np.minimum(values + known.offsets[place], np.float32(highest)).astype(np.int64)
    magnitudes: IntArray = np.where(values < known.thresholds[place], 0, np.maximum(rounded, 1))
    return magnitudes


@dataclass
class _ClassPart:
    """One class of one part: quantised, then tokens and raw bits."""

    values: FloatArray
    negative: npt.NDArray[np.bool_]
    magnitudes: IntArray

    @property
    def size(self) -> int:
        return self.values.size

    @property
    def ones(self) -> int:
        return int(np.count_nonzero(self.magnitudes))


@dataclass
class _Part:
    """One part, and what it contributes to the body."""

    classes: dict[int, _ClassPart]
    runs: list[Run] = field(default_factory=list)
    gap_bits: list[BitArray] = field(default_factory=list)
    extra_bits: list[BitArray] = field(default_factory=list)
    signs: list[BitArray] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        pieces: Sequence[Piece],
        scales: Sequence[Scales | None],
        scaled: Sequence[FloatArray],
        arrays: Sequence[FloatArray],
        highest: int,
    ) -> _Part:
        """The quantised classes of a part."""
        order = class_order(pieces, scales)
        counts = class_counts(pieces, scales)
        used = [piece for piece in pieces if scales[piece.tensor] is not None]
        if not used:
            return cls({})
        values = np.concatenate([scaled[p.tensor][p.start : p.stop] for p in used])[order]
        signs = [np.signbit(arrays[p.tensor].reshape(-1)[p.start : p.stop]) for p in used]
        negative = np.concatenate(signs)[order]
        excesses = [(own.excess, piece) for piece in used if (own := scales[piece.tensor]) is not None]
        parts = np.concatenate([np.full(p.stop - p.start, excess) for excess, p in excesses])[order]
        ends = np.cumsum(counts)
        classes = {}
        for index in np.flatnonzero(counts).tolist():
            here = slice(ends[index] - counts[index], ends[index])
            magnitudes = quantise(values[here], index, parts[here], highest)
            classes[index] = _ClassPart(values[here], negative[here], magnitudes)
        return cls(classes)

    def encode_tokens(self, coder: RangeEncoder) -> bytes:
        """The bytes of rANS lanes where there are many tokens; few go to the coder."""
        if sum(run.size for run, _ in self.runs) >= LANES_FROM:
            return rans_encode(self.runs)
        for run, frequencies in self.runs:
            coder.symbols(run.tolist(), frequencies, token_starts(frequencies))
        return b""

    def raw_bits(self) -> bytes:
        """The packed raw bits: low bits of gaps, extra bits of magnitudes, signs."""
        pieces = [*self.gap_bits, *self.extra_bits, *self.signs]
        return bits.pack(np.concatenate(pieces)) if pieces else b""


class _FrameCoder:
    """Codes the classes of a frame, over all parts, and gives every part its tokens and bits."""

    def __init__(self, coder: RangeEncoder, parts: Sequence[_Part]) -> None:
        self.coder = coder
        self.parts = parts
        self.predictors = (TablePredictor(dense=False), TablePredictor(dense=True))
        # (sparse or dense, magnitude 1 or 2, sum in 1024ths and count)
        self.centroid_sums = np.zeros((2, 2, 2), dtype=np.int64)
        self.sent = [[False, False], [False, False]]

    def encode(self) -> None:
        """All classes from the lowest, then the centroids."""
        for index in range(CLASSES):
            found = [(part, part.classes[index]) for part in self.parts if index in part.classes]
            if found:
                self._encode_class(index, found)
        self._encode_centroids()

    def _encode_class(self, index: int, found: Sequence[tuple[_Part, _ClassPart]]) -> None:
        level = index + CLASS_LOWEST
        dense = int(level > SPARSE_HIGHEST)
        for part, own in found:
            part.signs.append(own.negative[own.magnitudes != 0].astype(np.uint8))
            for size in (1, 2):
                chosen = (own.values[own.magnitudes == size] * np.float32(1024.0)).astype(np.int64)
                self.centroid_sums[dense, size - 1] += (int(chosen.sum()), chosen.size)
        if dense:
            low = low_bits(level)
            coded = [own.magnitudes for _, own in found]
        else:
            low = 0
            ones = code_counts(
                self.coder, [own.size for _, own in found], level, [own.ones for _, own in found]
            )
            if not any(ones):
                return
            self._encode_gaps(found, sum(own.size for _, own in found), sum(ones))
            coded = [own.magnitudes[own.magnitudes != 0] - 1 for _, own in found]
        tokens = [tokenise(magnitudes >> low) for magnitudes in coded]
        predictor = self.predictors[dense]
        predictor.advance(level)
        hazards = choose_hazards(np.bincount(np.concatenate(tokens), minlength=16), predictor.hazards)
        predictor.code(self.coder, hazards)
        self.sent[dense][0] = True
        self.sent[dense][1] |= bool(dense or hazards)
        for (part, _), magnitudes, own_tokens in zip(found, coded, tokens, strict=True):
            if hazards and own_tokens.size:
                part.runs.append((own_tokens.astype(np.uint8), hazard_frequencies(hazards)))
            rest = magnitudes - (first_values(own_tokens) << low)
            part.extra_bits.append(bits.spread(rest, extra_bits(own_tokens) + low))

    def _encode_gaps(self, found: Sequence[tuple[_Part, _ClassPart]], size: int, ones: int) -> None:
        shift = gap_shift(size - ones, ones)
        table = gap_frequencies(size - ones, ones, shift)
        for part, own in found:
            at = np.flatnonzero(own.magnitudes)
            if at.size == 0:
                continue
            gaps = np.diff(at, prepend=-1) - 1
            repeats, rest = np.divmod(gaps, GAP_REPEAT << shift)
            total = int(repeats.sum())
            code_repeats(self.coder, at.size, own.size // (GAP_REPEAT << shift), total)
            tokens = np.full(at.size + total, GAP_REPEAT, dtype=np.uint8)
            tokens[np.cumsum(repeats + 1) - 1] = rest >> shift
            part.runs.append((tokens, table))
            part.gap_bits.append(bits.spread(rest & ((1 << shift) - 1), np.full(at.size, shift)))

    def _encode_centroids(self) -> None:
        """Six bits each, for magnitudes one and two of either kind, where they can occur."""
        for kind in (0, 1):
            for size in (0, 1):
                if self.sent[kind][size]:
                    total, count = self.centroid_sums[kind, size].tolist()
                    centre = (2 * total + 16 * count) // (32 * count) if count else 0  # in 64ths
                    self.coder.raw(6, max(0, min(centre - 64 * (size + 1) - CENTROID_LOWEST, 63)))

"""The NumPy encoder of the `ecsq` body: see `reference` for the format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phloem.kernels import bits
from phloem.kernels.models import choose_hazards, gap_frequencies, gap_shift, hazard_frequencies, token_starts
from phloem.kernels.rangecoder import RangeEncoder
from phloem.kernels.rans import rans_encode
from phloem.kernels.scales import Scales, Shape, class_order, measure
from phloem.kernels.side import CONTEXTS, TablePredictor, code_count, code_repeats, code_scales
from phloem.kernels.steps import FLAG_ALL_ZERO, Step
from phloem.kernels.tables import (
    CENTROID_LOWEST,
    CLASS_LOWEST,
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
Run = tuple[npt.NDArray[np.uint8], tuple[int, ...]]


def ecsq_encode(arrays: Sequence[FloatArray], step: Step) -> bytes:
    """The body of these tensors at this step.

    Error bound: |x - decoded| is at most 1.6 steps, for magnitudes that the step was fitted to
    (`Step.fitted`).
    """
    shapes = [Shape.of(array.shape) for array in arrays]
    inverse = np.float32(1.0) / np.float32(step.value)
    with np.errstate(over="ignore", under="ignore"):
        scaled = [np.abs(array.reshape(-1)) * inverse for array in arrays]
    scales: list[Scales | None] = []
    for shape, values in zip(shapes, scaled, strict=True):
        coarse = np.minimum(values + np.float32(SCALE_OFFSET), np.float32(MAGNITUDE_HIGHEST)).astype(np.int32)
        scales.append(measure(coarse, shape))
    if not any(scales):
        return step.pack(FLAG_ALL_ZERO)

    order, counts = class_order(scales)
    used = [index for index, scale in enumerate(scales) if scale is not None]
    values = np.concatenate([scaled[index] for index in used])[order]
    negative = np.concatenate([np.signbit(arrays[index].reshape(-1)) for index in used])[order]

    coder = RangeEncoder(CONTEXTS)
    code_scales(coder, shapes, scales)
    frame = _ClassCoder(coder, np.float32(step.magnitude_highest))
    ends = np.cumsum(counts)
    for index in np.flatnonzero(counts).tolist():
        part = slice(ends[index] - counts[index], ends[index])
        frame.encode_class(index, values[part], negative[part])
    frame.encode_centroids()
    tokens = sum(run.size for run, _ in frame.runs)
    lanes = b""
    if tokens < LANES_FROM:
        for run, frequencies in frame.runs:
            coder.symbols(run.tolist(), frequencies, token_starts(frequencies))
    else:
        lanes = rans_encode(
            np.concatenate([np.array(f, dtype=np.int64)[run] for run, f in frame.runs]),
            np.concatenate([np.array(token_starts(f), dtype=np.int64)[run] for run, f in frame.runs]),
        )
    raw = bits.pack(np.concatenate([*frame.gap_bits, *frame.extra_bits, *frame.signs]))
    return step.pack(0) + coder.finish() + lanes + raw


class _ClassCoder:
    """Collects what the classes of a frame contribute to each part of the body."""

    def __init__(self, coder: RangeEncoder, magnitude_highest: np.float32) -> None:
        self.coder = coder
        self.magnitude_highest = magnitude_highest
        self.predictors = (TablePredictor(dense=False), TablePredictor(dense=True))
        self.runs: list[Run] = []
        self.gap_bits: list[npt.NDArray[np.uint8]] = []
        self.extra_bits: list[npt.NDArray[np.uint8]] = []
        self.signs: list[npt.NDArray[np.uint8]] = []
        # (sparse or dense, magnitude 1 or 2, sum in 1024ths and count)
        self.centroid_sums = np.zeros((2, 2, 2), dtype=np.int64)
        self.sent = [[False, False], [False, False]]

    def encode_class(self, index: int, values: FloatArray, negative: npt.NDArray[np.bool_]) -> None:
        """One class: quantise, then counts and table to the coder, tokens and bits to the lists."""
        level = index + CLASS_LOWEST
        dense = int(level > SPARSE_HIGHEST)
        known = tables()
        rounded = np.minimum(values + known.class_offsets[index], self.magnitude_highest).astype(np.int64)
        magnitudes = np.where(values < known.class_thresholds[index], 0, np.maximum(rounded, 1))
        ones = magnitudes != 0
        self.signs.append(negative[ones].astype(np.uint8))
        for size in (1, 2):
            chosen = (values[magnitudes == size] * np.float32(1024.0)).astype(np.int64)
            self.centroid_sums[dense, size - 1] += (int(chosen.sum()), chosen.size)
        low = 0
        if dense:
            low = low_bits(level)
        else:
            at = np.flatnonzero(ones)
            count = code_count(self.coder, values.size, level, at.size)
            if count == 0:
                return
            self._encode_gaps(at, values.size)
            magnitudes = magnitudes[at] - 1
        tokens = tokenise(magnitudes >> low)
        hazards = choose_hazards(np.bincount(tokens, minlength=16), self._predict(level))
        self.predictors[dense].code(self.coder, hazards)
        self.sent[dense][0] = True
        self.sent[dense][1] |= bool(dense or hazards)
        if hazards:
            self.runs.append((tokens.astype(np.uint8), hazard_frequencies(hazards)))
        rest = magnitudes - (first_values(tokens) << low)
        self.extra_bits.append(bits.spread(rest, extra_bits(tokens) + low))

    def _predict(self, level: int) -> list[int]:
        predictor = self.predictors[int(level > SPARSE_HIGHEST)]
        predictor.advance(level)
        return predictor.hazards

    def _encode_gaps(self, at: IntArray, size: int) -> None:
        gaps = np.diff(at, prepend=-1) - 1
        shift = gap_shift(size - at.size, at.size)
        repeats, rest = np.divmod(gaps, GAP_REPEAT << shift)
        total = int(repeats.sum())
        code_repeats(self.coder, at.size, size // (GAP_REPEAT << shift), total)
        tokens = np.full(at.size + total, GAP_REPEAT, dtype=np.uint8)
        tokens[np.cumsum(repeats + 1) - 1] = rest >> shift
        self.runs.append((tokens, gap_frequencies(size - at.size, at.size, shift)))
        self.gap_bits.append(bits.spread(rest & ((1 << shift) - 1), np.full(at.size, shift)))

    def encode_centroids(self) -> None:
        """Six bits each, for magnitudes one and two of either kind, where they can occur."""
        for kind in (0, 1):
            for size in (0, 1):
                if self.sent[kind][size]:
                    total, count = self.centroid_sums[kind, size].tolist()
                    centre = (2 * total + 16 * count) // (32 * count) if count else 0  # in 64ths
                    self.coder.raw(6, max(0, min(centre - 64 * (size + 1) - CENTROID_LOWEST, 63)))

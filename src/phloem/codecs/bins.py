"""`bins`: a few uniform bins per tensor, and what the values in each have as their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig, check_whole
from phloem.codecs.split import exactly, split
from phloem.errors import FormatError
from phloem.kernels import packing
from phloem.tensors import Array, Layout

_SPREADS = 6.0  # standard deviations that all bins of a tensor cover together


@dataclass(frozen=True)
class Bins(FromConfig):
    """The mean of its bin for every value: `bits` bits per parameter and 32 · 2^bits for each tensor.

    A tensor's 2^bits bins are 6σ ÷ 2^bits wide and centred on its mean; outliers fall into the outermost.
    With `topk` in chunks and two bits this is what SparseLoCo sends. Source: Sarfi et al., Communication
    efficient LLM pre-training with SparseLoCo, 2025, §3 and the published optimizer.
    """

    bits: int = 2

    name: ClassVar[str] = "bins"
    code: ClassVar[int] = 22
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("codec 'bins'", "bits", self.bits, 1, 8)

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The bits, the means of all bins of every tensor, the packed bin numbers."""
        count = 1 << self.bits
        means = np.zeros((len(arrays), count), np.float32)
        codes = np.zeros(layout.size, np.uint8)
        start = 0
        for number, array in enumerate(arrays):
            flat = array.reshape(-1).astype(np.float64)
            part = codes[start : start + flat.size]
            start += flat.size
            width = _SPREADS * float(flat.std()) / count if flat.size else 0.0
            if width > 0:
                part[:] = np.clip(np.rint((flat - flat.mean()) / width + count / 2), 0, count - 1)
            held = np.bincount(part, minlength=count)
            means[number] = np.bincount(part, flat, count) / np.maximum(held, 1)
        return bytes([self.bits]) + means.astype("<f4", copy=False).tobytes() + packing.pack(codes, self.bits)

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """The mean that the body gives for each value's bin."""
        bits = body[0] if body else 0
        if not 1 <= bits <= 8:
            raise FormatError(f"bins: expected 1 to 8 bits, found {bits}")
        tensors, count = len(layout.specs), 1 << bits
        start = 1 + 4 * tensors * count
        exactly(body, start + packing.packed_size(layout.size, bits), cls.name)
        means = np.frombuffer(body, "<f4", tensors * count, 1).astype(np.float32)
        if not np.isfinite(means).all():
            raise FormatError("bins: a mean is not finite")
        owner = np.repeat(np.arange(tensors) * count, [spec.size for spec in layout.specs])
        return split(means[owner + packing.unpack(body, start, layout.size, bits)], layout)

"""The NumPy kernels: the specification of the `ecsq` body, version 0.

Body: a step and flags (3 bytes, see `steps`); then, unless the flag "all zero" says that nothing follows, the
range coder's bytes, the rANS bytes where there are many tokens, and the raw bits. No lengths: each part knows
its end, and together they are the body to the last byte.

* The range coder (`rangecoder`) carries, in this order (`side`): the scales of every tensor; per class, from
  the lowest, its counts and its table; the centroids; and the tokens when fewer than 20,000 are coded.
* A coefficient's class is the sum of its tensor's, its row's and its column's level (`scales`), in
  half-octaves of the mean quantised magnitude. Coefficients of a class are ordered by tensor, row, column
  over the whole frame.
* A sparse class sends gaps between non-zeros (token and raw low bits), then the magnitudes less one. A dense
  class sends one token per coefficient (`tokens`). Gap tables follow from the counts, the others are sent as
  hazards (`models`). A table with a single token sends no tokens.
* 20,000 tokens and more go through 32 rANS lanes (`rans`).
* Raw bits (`bits`), each in class order: low bits of gaps, extra bits of magnitudes, signs. Padding is zero.
* A magnitude q is decoded as q steps, one and two as 64ths of a step from the centroids; the significands
  of q and the step fit 24 bits together, so the product is exact in float32.
* An encoder's freedom is in the levels, the magnitudes, the hazards and the centroids. This encoder's choices
  are integer or elementwise float32 arithmetic throughout, and the native one makes the same.
"""

from __future__ import annotations

from phloem.kernels.bytecoder import block_decode, block_encode
from phloem.kernels.decoder import ecsq_decode
from phloem.kernels.encoder import ecsq_encode
from phloem.kernels.planes import (
    differences_ends,
    differences_merge,
    differences_split,
    planes_merge,
    planes_split,
)
from phloem.kernels.statistics import ecsq_energy, ecsq_extent

__all__ = [
    "NAME",
    "block_decode",
    "block_encode",
    "differences_ends",
    "differences_merge",
    "differences_split",
    "ecsq_decode",
    "ecsq_encode",
    "ecsq_energy",
    "ecsq_extent",
    "planes_merge",
    "planes_split",
]

NAME = "reference"

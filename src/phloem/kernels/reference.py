"""The NumPy kernels: the specification of the `ecsq` body, effort `fast`.

Body: a step and flags (3 bytes, see `steps`); unless the flag "all zero" says that nothing follows, the range
coder's bytes and the parts (`parts`). No lengths but those of parts: everything else knows its end, and together
they are the body to the last byte.

* The range coder (`rangecoder`) carries, in this order (`side`): with the flag "importance", every tensor's
  importance; the scales of every tensor; per class, from the lowest, its counts part by part and its table; the
  centroids. A class that no part has takes no bits.
* A tensor of importance j has the step divided by 2**(j/4), to a twelve-bit significand (`Step.finer`).
* A coefficient's class is the sum of its tensor's, its row's and its column's level (`scales`), in half-octaves of
  the mean quantised magnitude. The coefficients of a class in a part are ordered by tensor, row, column.
* A sparse class sends gaps between non-zeros (token and raw low bits), then the magnitudes less one. A dense class
  sends one token per coefficient (`tokens`). Gap tables follow from the counts of all parts together, the others
  are sent as hazards (`models`); all parts share them. A table with a single token sends no tokens.
* One part: its tokens follow in the same range coder when they are fewer than 20,000, else in 32 rANS lanes
  (`rans`) after it; then its raw bits, to the end of the body.
* Several parts: after the range coder the lengths of all parts but the last (`varint`), then the parts. Each has
  its tokens (none: nothing; fewer than 20,000: a range coder of its own; else lanes), then its raw bits.
* Tokens are ordered by class: gaps, then magnitudes. Each table's tokens are a run, which begins at lane 0.
* Raw bits (`bits`): low bits of gaps, extra bits of magnitudes, signs of non-zeros, each in class order. Padding
  of the last byte is zero.
* A magnitude q is decoded as q steps, one and two as 64ths of a step from the centroids: the exact product,
  rounded once to float32.
* An encoder's freedom is in the levels, the magnitudes, the hazards and the centroids. This encoder's choices
  are integer or elementwise float32 arithmetic throughout, and the native one makes the same.
"""

from __future__ import annotations

from phloem.kernels.bytecoder import block_decode, block_encode
from phloem.kernels.decoder import ecsq_decode, ecsq_decode_into, ecsq_subtract_encoded
from phloem.kernels.encoder import ecsq_encode
from phloem.kernels.planes import (
    differences_ends,
    differences_merge,
    differences_split,
    planes_merge,
    planes_split,
)
from phloem.kernels.statistics import ecsq_energy, ecsq_extent, ecsq_extent_of_sum

__all__ = [
    "NAME",
    "block_decode",
    "block_encode",
    "differences_ends",
    "differences_merge",
    "differences_split",
    "ecsq_decode",
    "ecsq_decode_into",
    "ecsq_encode",
    "ecsq_energy",
    "ecsq_extent",
    "ecsq_extent_of_sum",
    "ecsq_subtract_encoded",
    "planes_merge",
    "planes_split",
]

NAME = "reference"

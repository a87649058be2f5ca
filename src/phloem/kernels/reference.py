"""The NumPy kernels: the specification of the `ecsq` body, version 0.

Body: a step and flags (3 bytes, see `steps`); then, unless the flag "all zero" says that nothing follows,
the range coder's bytes, the rANS bytes where there are many tokens, and the raw bits. No lengths: each part
knows its end, and together they are the body to the last byte.

* The range coder carries the scales, per class (ascending) its counts and its table, the centroids, and the
  tokens themselves when fewer than 20,000 are coded.
* Coefficients of a class are ordered by tensor, row, column over the whole frame.
* A sparse class sends gaps between non-zeros (token and raw low bits), then the magnitudes less one. A
  dense class sends one token per coefficient. A table with a single token sends no tokens.
* Raw bits, each in class order: low bits of gaps, extra bits of magnitudes, signs. Padding bits are zero.
"""

from __future__ import annotations

from phloem.kernels.decoder import ecsq_decode
from phloem.kernels.encoder import ecsq_encode
from phloem.kernels.statistics import ecsq_energy, ecsq_extent

__all__ = ["NAME", "ecsq_decode", "ecsq_encode", "ecsq_energy", "ecsq_extent"]

NAME = "reference"

"""The field's codecs under their usual names, in one place to import from.

from phloem.codecs.classical import Int8, TopK, Zstd, chain

codec = chain(TopK(0.01), Int8(), Zstd())
"""

from __future__ import annotations

from phloem.codecs.bins import Bins
from phloem.codecs.blocks import Int4, Int8, Nf4
from phloem.codecs.bytecoder import Zstd
from phloem.codecs.casts import BFloat16, Float16, NoCompression
from phloem.codecs.chain import Chain, chain
from phloem.codecs.eden import Eden
from phloem.codecs.floats8 import Float8
from phloem.codecs.linear import Linear
from phloem.codecs.lowrank import LowRank
from phloem.codecs.qsgd import Qsgd
from phloem.codecs.rotation import Hadamard
from phloem.codecs.selection import RandomK, Threshold, TopK
from phloem.codecs.signs import Sign, Ternary

__all__ = [
    "BFloat16",
    "Bins",
    "Chain",
    "Eden",
    "Float8",
    "Float16",
    "Hadamard",
    "Int4",
    "Int8",
    "Linear",
    "LowRank",
    "Nf4",
    "NoCompression",
    "Qsgd",
    "RandomK",
    "Sign",
    "Ternary",
    "Threshold",
    "TopK",
    "Zstd",
    "chain",
]

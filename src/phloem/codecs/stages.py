"""Every codec that may be a stage of a `chain`, by name and by code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phloem.codecs.base import Codec
from phloem.codecs.bins import Bins
from phloem.codecs.blocks import Int4, Int8, Nf4
from phloem.codecs.bytecoder import Zstd
from phloem.codecs.casts import BFloat16, Float16, NoCompression
from phloem.codecs.ecsq import Ecsq
from phloem.codecs.eden import Eden
from phloem.codecs.floats8 import Float8
from phloem.codecs.linear import Linear
from phloem.codecs.lossless import Lossless
from phloem.codecs.lowrank import LowRank
from phloem.codecs.qsgd import Qsgd
from phloem.codecs.rotation import Hadamard
from phloem.codecs.selection import RandomK, Threshold, TopK
from phloem.codecs.signs import Sign, Ternary
from phloem.errors import ConfigError, nearest

STAGES: tuple[type[Codec], ...] = (
    NoCompression,
    Ecsq,
    BFloat16,
    Int8,
    TopK,
    Sign,
    Lossless,
    Float16,
    Float8,
    Int4,
    Qsgd,
    Ternary,
    RandomK,
    Threshold,
    Eden,
    LowRank,
    Linear,
    Zstd,
    Hadamard,
    Nf4,
    Bins,
)


def configured(config: Mapping[str, Any], known: Mapping[str, type[Codec]]) -> Codec:
    """The codec of `known` that `config` names under "codec", built from the other keys."""
    options = dict(config)
    name = options.pop("codec", None)
    if not isinstance(name, str) or name not in known:
        near = nearest(str(name), known)
        names = ", ".join(sorted(known))
        raise ConfigError(
            f"there is no codec '{name}'", hint=f"did you mean '{near}'?" if near else f"known: {names}"
        )
    return known[name].from_config(options)

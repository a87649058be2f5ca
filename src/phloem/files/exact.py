"""The tensors that travel exactly: between a section's tensors and the body of their bytes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from phloem.codecs.lossless import decode_bytes, encode_bytes
from phloem.errors import ConfigError
from phloem.files.dtypes import CODED, TO_FILE, Raw, floats, rounded
from phloem.tensors import TensorSpec

#: Types that the lossless codec has no name for, and those whose bytes are alike.
_ALIKE = {"complex64": "F32", "float8_e8m0fnu": "U8"}


def encode_exact(tensors: Sequence[Raw], dtype: str, bases: Sequence[Raw] | None) -> bytes:
    """The body of these tensors, all of one type, against as many bytes of their bases."""
    base = None if bases is None else _joined(bases)
    return encode_bytes(_joined(tensors), _name(dtype), base)


def decode_exact(
    body: bytes, specs: Sequence[TensorSpec], sizes: Sequence[int], bases: Sequence[Raw] | None
) -> list[Raw]:
    """The tensors of a body, bit for bit.

    Raises:
        FormatError: it is not one for these tensors, or needs a base that is not this one.
    """
    base = None if bases is None else _joined(bases)
    data = np.frombuffer(decode_bytes(body, _name(specs[0].dtype), sum(sizes), base), np.uint8)
    ends = np.cumsum([0, *sizes]).tolist()
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def as_type(base: Raw, base_type: str, dtype: str, name: str) -> Raw:
    """A base's tensor in the new tensor's type, so that their bytes can be compared.

    Raises:
        ConfigError: the types differ, and one of them is not a float type.
    """
    if base_type == dtype:
        return base
    if base_type not in CODED or dtype not in CODED:
        raise ConfigError(f"tensor '{name}' has type {dtype}, and {base_type} in the base")
    with np.errstate(over="ignore", invalid="ignore"):
        values = floats(base, base_type)
        return rounded(np.where(np.isfinite(values), values, values.dtype.type(0)), dtype)


def _joined(tensors: Sequence[Raw]) -> Raw:
    return tensors[0] if len(tensors) == 1 else np.concatenate(tensors)


def _name(dtype: str) -> str:
    return _ALIKE.get(dtype) or TO_FILE[dtype]

"""The types of tensors in files: their sizes, and the way to float32 and back.

A tensor of `CODED` type may be coded with loss. Its values are taken to float32 (float64 if it or its base is of that
type), the update is the difference there, and what is decoded is added there and rounded to the tensor's own type: to
the nearest, ties to even, beyond the largest finite value to that value; from float64 to bfloat16 by way of float32.
All other types travel exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from phloem.codecs.casts import from_bf16, to_bf16
from phloem.errors import FormatError

#: Bytes as they lie in a file, little-endian.
Raw = npt.NDArray[np.uint8]
#: float32, or float64 for a tensor of that type.
Floats = npt.NDArray[Any]

#: safetensors' name of each type, its name here, and its bytes per element.
_TYPES = (
    ("F32", "float32", 4),
    ("BF16", "bfloat16", 2),
    ("F16", "float16", 2),
    ("F64", "float64", 8),
    ("F8_E4M3", "float8_e4m3fn", 1),
    ("F8_E5M2", "float8_e5m2", 1),
    ("BOOL", "bool", 1),
    ("U8", "uint8", 1),
    ("I8", "int8", 1),
    ("U16", "uint16", 2),
    ("I16", "int16", 2),
    ("U32", "uint32", 4),
    ("I32", "int32", 4),
    ("U64", "uint64", 8),
    ("I64", "int64", 8),
    ("C64", "complex64", 8),
    ("F8_E8M0", "float8_e8m0fnu", 1),
)
FROM_FILE = {theirs: ours for theirs, ours, _ in _TYPES}
TO_FILE = {ours: theirs for theirs, ours, _ in _TYPES}
ITEM_BYTES = {ours: size for _, ours, size in _TYPES}
_PIECE = 1 << 20
#: The types whose values may be coded with loss.
CODED = ("float32", "bfloat16", "float16", "float64")


def floats(raw: Raw, dtype: str) -> Floats:
    """The values of a tensor of `CODED` type; float64 as float64, others exactly as float32. Shape: (size,)."""
    if dtype == "bfloat16":
        return from_bf16(raw.view("<u2"))
    little = raw.view({"float32": "<f4", "float16": "<f2", "float64": "<f8"}[dtype])
    return little.astype(np.float64 if dtype == "float64" else np.float32, copy=False)


def rounded(values: Floats, dtype: str) -> Raw:
    """Finite values in a tensor's own type, to the nearest, never to infinity."""
    if dtype == "float64":
        return values.astype("<f8").view(np.uint8)
    if dtype == "bfloat16":
        return to_bf16(_limited(values, np.float32)).astype("<u2", copy=False).view(np.uint8)
    kind = np.float16 if dtype == "float16" else np.float32
    return _limited(values, kind).astype("<f2" if dtype == "float16" else "<f4", copy=False).view(np.uint8)


def _limited(values: Floats, kind: type[np.floating[Any]]) -> Floats:
    """The values, those beyond the type's largest replaced by it; a float64 is rounded to float32 only once."""
    largest = np.finfo(kind).max
    if values.size and max(float(values.max()), -float(values.min())) > float(largest):
        values = values.clip(-largest, largest)
    return values.astype(kind, copy=False)


def difference(new: Raw, new_type: str, base: Raw | None, base_type: str) -> npt.NDArray[np.float32]:
    """New minus base, or new itself, as float32. Shape: (size,). What float32 cannot hold becomes an infinity."""
    values = floats(new, new_type)
    with np.errstate(over="ignore", invalid="ignore"):
        if base is not None:
            values = values - floats(base, base_type)
        return np.ascontiguousarray(values, dtype=np.float32)


def restored(update: npt.NDArray[np.float32], new_type: str, base: Raw | None, base_type: str) -> Raw:
    """The tensor that base and update give, in its own type; a piece at a time. Shape: (bytes,).

    Raises:
        FormatError: the base holds NaN or infinity, which no encoder takes a difference from.
    """
    values = update.reshape(-1)
    wide = "float64" in (new_type, base_type)
    out = np.empty(values.size * ITEM_BYTES[new_type], dtype=np.uint8)
    for here in pieces(values.size):
        part: Floats = values[here]
        with np.errstate(over="ignore"):
            if base is not None:
                before = floats(bytes_at(base, base_type, here), base_type)
                if not np.isfinite(before).all():
                    raise FormatError("a coded tensor's base holds NaN or infinity")
                part = before + (part.astype(np.float64) if wide else part)
            bytes_at(out, new_type, here)[:] = rounded(part, new_type)
    return out


def pieces(size: int) -> Iterator[slice]:
    """Stretches of a tensor's elements, so that no second copy of a large one is needed."""
    for start in range(0, size, _PIECE):
        yield slice(start, min(start + _PIECE, size))


def bytes_at(raw: Raw, dtype: str, elements: slice) -> Raw:
    """The bytes of these elements."""
    item = ITEM_BYTES[dtype]
    return raw[elements.start * item : elements.stop * item]

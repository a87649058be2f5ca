"""Tensors written in another float type: rounded to the nearest, and what does not fit is counted."""

from __future__ import annotations

import numpy as np

from phloem.errors import ConfigError
from phloem.files.dtypes import CODED, ITEM_BYTES, Floats, Raw, bytes_at, floats, rounded

#: The types that a model may be written in.
WORDS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_PIECE = 1 << 16  # elements at a time
#: The least magnitude that rounding to the nearest would make infinite: half a step beyond the largest.
_BEYOND = {"bfloat16": 2.0**128 - 2.0**119, "float16": 65520.0, "float32": 2.0**128 - 2.0**103}


def type_of(word: str) -> str:
    """The type that "bf16", "fp16" or "fp32" names.

    Raises:
        ConfigError: it is none of them.
    """
    if word not in WORDS:
        raise ConfigError(f"dtype: expected one of {', '.join(WORDS)}, found '{word:.40}'")
    return WORDS[word]


def cast(raw: Raw, dtype: str, to: str) -> tuple[Raw, int]:
    """A tensor of `CODED` type in another one, and how many finite values became the largest finite one.

    Rounding is that of `dtypes.rounded`. NaN and infinities stay what they are.

    >>> raw, beyond = cast(np.array([1.0, 7e4, np.inf], np.float32).view(np.uint8), "float32", "float16")
    >>> raw.view(np.float16).tolist(), beyond
    ([1.0, 65504.0, inf], 1)
    """
    assert dtype in CODED
    size, beyond = raw.size // ITEM_BYTES[dtype], 0
    out = np.empty(size * ITEM_BYTES[to], dtype=np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):  # NumPy warns of NaN of some kinds
        for start in range(0, size, _PIECE):
            here = slice(start, min(start + _PIECE, size))
            values = floats(bytes_at(raw, dtype, here), dtype)
            finite = np.isfinite(values)
            near = (
                values.astype(np.float32, copy=False) if to == "bfloat16" else values
            )  # it is rounded in two steps
            beyond += int(np.count_nonzero(finite & (np.abs(near) >= _BEYOND[to])))
            if finite.all():
                bytes_at(out, to, here)[:] = rounded(values, to)
            else:
                part = rounded(np.where(finite, values, values.dtype.type(0)), to)
                bytes_at(out, to, here)[:] = _with_the_others(part, values, ~finite, to)
    return out, beyond


def _with_the_others(
    part: Raw, values: Floats, where: np.ndarray[tuple[int], np.dtype[np.bool_]], to: str
) -> Raw:
    """The rounded values with NaN and infinities in their places."""
    narrow = values[where].astype(np.float32)
    if to == "bfloat16":
        bits = (narrow.view(np.uint32) >> 16).astype(np.uint16)
        others = (bits | np.where(np.isnan(narrow), np.uint16(0x40), np.uint16(0))).astype("<u2")
    else:
        others = narrow.astype("<f2" if to == "float16" else "<f4")
    out = part.copy()
    out.view(others.dtype)[where] = others
    return out

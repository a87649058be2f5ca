"""The sixteen tokens for magnitudes: eight alone, seven for ranges with extra bits, one escape."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phloem.kernels.tables import TOKEN_BASE, TOKEN_BITS, TOKEN_ESCAPE

IntArray = npt.NDArray[np.int64]

_BASE = np.array(TOKEN_BASE, dtype=np.int64)
_BITS = np.array(TOKEN_BITS, dtype=np.int64)
#: One past the last value of the last range.
_ESCAPE_FROM = TOKEN_BASE[TOKEN_ESCAPE - 1] + (1 << TOKEN_BITS[TOKEN_ESCAPE - 1])
_FIRSTS = np.array([*TOKEN_BASE[1:TOKEN_ESCAPE], _ESCAPE_FROM], dtype=np.int64)


def tokenise(values: IntArray) -> IntArray:
    """The token of each value; the extra bits are `value - first_value(token)`.

    >>> tokenise(np.array([0, 7, 9, 319, 320])).tolist()
    [0, 7, 8, 14, 15]
    """
    return np.searchsorted(_FIRSTS, values, side="right")


def first_values(tokens: npt.NDArray[np.integer]) -> IntArray:
    """The smallest value of each token."""
    values: IntArray = _BASE[tokens]
    return values


def extra_bits(tokens: npt.NDArray[np.integer]) -> IntArray:
    """The number of extra raw bits of each token."""
    widths: IntArray = _BITS[tokens]
    return widths


def low_bits(class_level: int) -> int:
    """How many low bits a dense class sends raw: its tokens then have a mean of four to six."""
    return max(0, class_level // 2 - 2)

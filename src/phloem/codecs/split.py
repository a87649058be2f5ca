"""Between a list of tensors and one vector, and the checks that every decoder shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phloem.errors import FormatError
from phloem.tensors import Array, Layout


def join(arrays: Sequence[Array]) -> Array:
    """All values in one float32 vector."""
    return np.concatenate([array.reshape(-1) for array in arrays]) if arrays else np.zeros(0, np.float32)


def split(vector: Array, layout: Layout) -> list[Array]:
    """The vector's segments in their shapes, as arrays that own their memory."""
    arrays, start = [], 0
    for spec in layout.specs:
        arrays.append(vector[start : start + spec.size].reshape(spec.shape).copy())
        start += spec.size
    return arrays


def exactly(body: bytes, size: int, codec: str) -> None:
    """Refuses a body that is not `size` bytes long."""
    if len(body) != size:
        raise FormatError(f"{codec}: expected {size} bytes for this layout, found {len(body)}")


def require_finite(vector: Array, codec: str) -> Array:
    """`vector`, if it holds neither NaN nor infinity."""
    if not np.isfinite(vector).all():
        raise FormatError(f"{codec}: the frame carries NaN or infinity")
    return vector

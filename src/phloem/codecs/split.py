"""Between a list of tensors and one vector, and the checks that every decoder shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phloem.errors import FormatError
from phloem.tensors import Array, Layout

#: Values beyond 2^96 are divided by 2^64 before they are summed: 2^31 of them still have a finite sum.
DAMPING = 64
_LOUD = 2.0**96
_LARGEST = np.finfo(np.float32).max


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


def exactly(body: bytes | memoryview, size: int, codec: str) -> None:
    """Refuses a body that is not `size` bytes long."""
    if len(body) != size:
        raise FormatError(f"{codec}: expected {size} bytes for this layout, found {len(body)}")


def require_finite(vector: Array, codec: str) -> Array:
    """`vector`, if it holds neither NaN nor infinity."""
    if not np.isfinite(vector).all():
        raise FormatError(f"{codec}: the frame carries NaN or infinity")
    return vector


def saturated(vector: Array) -> Array:
    """`vector` with infinities replaced by the largest finite values, in place."""
    return np.clip(vector, -_LARGEST, _LARGEST, out=vector)


def damped(vector: Array) -> tuple[int, Array]:
    """0 and `vector`, or DAMPING and `vector` · 2^−DAMPING where sums of its values might overflow."""
    if vector.size and float(np.abs(vector).max()) >= _LOUD:
        return DAMPING, vector * np.float32(2.0**-DAMPING)
    return 0, vector


def restored(vector: Array, damping: int) -> Array:
    """`vector` · 2^damping, saturated."""
    with np.errstate(over="ignore"):
        return saturated(np.asarray(vector * np.float32(2.0**damping)))


def read_damping(body: bytes, start: int, codec: str) -> tuple[int, int]:
    """The damping (a byte, 0 or 64) at `start`, and the position after it."""
    if start >= len(body) or body[start] not in (0, DAMPING):
        raise FormatError(f"{codec}: expected a damping of 0 or {DAMPING}")
    return body[start], start + 1


def take(body: bytes, start: int, size: int, codec: str) -> int:
    """The position after `size` bytes from `start`, which are there."""
    if size > len(body) - start:
        raise FormatError(f"{codec}: the frame ends {size - (len(body) - start)} bytes too early")
    return start + size

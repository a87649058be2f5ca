"""What a tensor is without its values, and what a state is whatever file it lay in.

A *layout* is the sorted list of a state's tensors: both ends know it, so names and shapes never travel with a
frame. A *state* is a dict of float32 arrays; its id is a digest of the content, never of a file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from phloem import canonical
from phloem.errors import ConfigError, FormatError

Array = npt.NDArray[np.float32]
State = dict[str, Array]

#: What the digest of a state begins with.
STATE_DIGEST = b"phloem.state.v1\n"

_FLOATS = ("float16", "bfloat16", "float32", "float64")
MAX_DIMENSIONS = 16
_LARGEST_TENSOR = 1 << 48  # elements; NumPy counts bytes in 63 bits


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, shape and type. Codecs see float32 only; other types are those of tensors in files."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """The number of elements (1 for a 0-d tensor)."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The tensors of a state in canonical order: sorted by name, each name once.

    Codecs see an update as the segments of one virtual float32 vector in this order.
    """

    specs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.specs]
        if names != sorted(set(names)):
            raise ConfigError("a layout lists its tensors sorted by name, each name once")

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> Layout:
        """The layout of a dict of arrays or torch tensors.

        >>> import numpy as np
        >>> Layout.of({"w": np.zeros((2, 3)), "b": np.zeros(2)}).names
        ('b', 'w')
        """
        if not isinstance(tensors, Mapping):
            raise ConfigError(
                f"expected tensors by name, found a {type(tensors).__name__}", hint="pass a dict"
            )
        if not tensors:
            raise ConfigError("expected at least one tensor, found an empty dict")
        for name, tensor in tensors.items():
            if not isinstance(name, str):
                raise ConfigError(f"tensors are named by texts, found {name!r:.60}")
            if len(np.shape(tensor)) > MAX_DIMENSIONS:
                raise ConfigError(f"tensor '{name}' has more than {MAX_DIMENSIONS} dimensions")
        return cls(tuple(TensorSpec(name, tuple(np.shape(tensors[name]))) for name in sorted(tensors)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(spec.name for spec in self.specs)

    @cached_property
    def size(self) -> int:
        """The number of parameters: elements of all tensors together."""
        return sum(spec.size for spec in self.specs)

    @cached_property
    def digest(self) -> str:
        """The layout's id in hexadecimal; both ends compare it before the first frame."""
        return canonical.digest(self.to_json())

    def to_json(self) -> bytes:
        """The layout as canonical JSON: a list of [name, shape]."""
        return canonical.dumps([[spec.name, list(spec.shape)] for spec in self.specs])

    @classmethod
    def from_json(cls, data: bytes) -> Layout:
        """The layout that `data` writes down.

        Raises:
            FormatError: not canonical JSON, or not a list of distinct sorted names with plausible shapes.
        """
        rows = canonical.loads(data)
        if not isinstance(rows, list) or not rows:
            raise FormatError("expected a layout: a list of [name, shape]")
        specs = []
        for row in rows:
            if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)):
                raise FormatError("expected a layout row [name, shape]")
            name, shape = row
            sizes_fit = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
            if not sizes_fit or not all(type(n) is int and 0 <= n < _LARGEST_TENSOR for n in shape):
                raise FormatError(
                    f"expected the shape of '{name}' as a short list of sizes, found {shape!r:.60}"
                )
            if math.prod(max(n, 1) for n in shape) >= _LARGEST_TENSOR:
                raise FormatError(f"the shape of '{name}' is more than any memory holds: {shape!r:.60}")
            specs.append(TensorSpec(name, tuple(shape)))
        try:
            return cls(tuple(specs))
        except ConfigError as error:
            raise FormatError(error.message) from error

    def arrays(self, tensors: Mapping[str, Any]) -> list[Array]:
        """`tensors` as contiguous float32 arrays in this layout's order (no copy where none is needed).

        Raises:
            ConfigError: a tensor is missing, unknown, of another shape, or not of a float type.
        """
        extra = sorted(set(tensors) - set(self.names))
        if extra:
            raise ConfigError(f"tensor '{extra[0]}' is not part of the agreed layout")
        arrays = []
        for spec in self.specs:
            if spec.name not in tensors:
                raise ConfigError(f"tensor '{spec.name}' is missing")
            array = as_float32(tensors[spec.name], spec.name)
            if array.shape != spec.shape:
                raise ConfigError(f"tensor '{spec.name}': expected shape {spec.shape}, found {array.shape}")
            arrays.append(array)
        return arrays

    def named(self, arrays: Sequence[Array]) -> State:
        """`arrays` under their names."""
        return dict(zip(self.names, arrays, strict=True))

    def first_non_finite(self, arrays: Sequence[Array]) -> str | None:
        """The name of the first tensor that holds a NaN or an infinity, or None."""
        for spec, array in zip(self.specs, arrays, strict=True):
            if not np.isfinite(array).all():
                return spec.name
        return None


def as_float32(tensor: Any, name: str) -> Array:
    """A NumPy array or torch tensor as a C-contiguous float32 array on the CPU.

    Raises:
        ConfigError: the tensor is not of a floating type, or has no values in plain memory.
    """
    if hasattr(tensor, "detach"):  # a torch tensor, without importing torch
        if str(tensor.layout) != "torch.strided":
            raise ConfigError(f"tensor '{name}' is sparse", hint="pass its to_dense()")
        if tensor.device.type == "meta":
            raise ConfigError(f"tensor '{name}' has a shape only, no values: it is on the device 'meta'")
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            tensor = tensor.float()
        tensor = tensor.numpy()
    array = np.asarray(tensor)
    if array.dtype.name not in _FLOATS:
        raise ConfigError(
            f"tensor '{name}' has type {array.dtype}; updates are floating point",
            hint="keep counters and other integers in the task's memory, they stay at the site",
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes an infinity, and is refused as one
        return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)


def state_digest(state: Mapping[str, Array]) -> str:
    """A state's id: SHA-256 over the layout and every tensor's little-endian bytes, in hexadecimal.

    The same content has the same id in every engine, on every machine, in every file format.
    """
    layout = Layout.of(state)
    total = hashlib.sha256(STATE_DIGEST + layout.to_json())
    for array in layout.arrays(state):
        little: Array = array.astype("<f4", copy=False)
        total.update(little.reshape(-1).data.cast("B"))
    return total.hexdigest()

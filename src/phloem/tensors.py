"""What a tensor is without its values, and what a state is whatever file it lay in.

A *layout* is the sorted list of a state's tensors: both ends know it, so names and shapes never travel with a
frame. A *state* is a dict of float32 arrays. Its *record* lists its tensors with a digest of each, and the digest of
the record is the state's id: of the content, never of a file.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from phloem import canonical
from phloem.errors import ConfigError, FormatError

Array = npt.NDArray[np.float32]
State = dict[str, Array]

#: The types that a tensor may have, by the codes that frames have for them: never to be reordered.
DTYPES = (
    *("float32", "bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2", "bool", "uint8", "int8"),
    *("uint16", "int16", "uint32", "int32", "uint64", "int64", "complex64", "float8_e8m0fnu"),
)
_FLOATS = ("float16", "bfloat16", "float32", "float64")
MAX_DIMENSIONS = 16
_LARGEST_TENSOR = 1 << 48  # elements; NumPy counts bytes in 63 bits
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
            specs.append(TensorSpec(row[0], _shape_of(*row)))
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


def _shape_of(name: str, shape: Any) -> tuple[int, ...]:
    """The shape that JSON gives for a tensor.

    Raises:
        FormatError: it is not a short list of sizes, or more than any memory holds.
    """
    sizes_fit = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
    if not sizes_fit or not all(type(n) is int and 0 <= n < _LARGEST_TENSOR for n in shape):
        raise FormatError(f"expected the shape of '{name:.60}' as a short list of sizes, found {shape!r:.60}")
    if math.prod(max(n, 1) for n in shape) >= _LARGEST_TENSOR:
        raise FormatError(f"the shape of '{name:.60}' is more than any memory holds: {shape!r:.60}")
    return tuple(shape)


def tensor_digest(values: npt.NDArray[Any] | bytes | bytearray | memoryview) -> str:
    """A tensor's digest: SHA-256 over its little-endian bytes in row-major order, in hexadecimal.

    Takes an array of any type, or such bytes. Name, shape and type are no part of it: equal bytes, equal digests. An
    array is copied only where its bytes lie otherwise.

    Raises:
        ConfigError: an array of Python objects, which have no bytes of their own.

    >>> tensor_digest(np.zeros((2, 2), np.float32)) == tensor_digest(bytes(16))
    True
    """
    if isinstance(values, np.ndarray):
        if values.dtype.hasobject:
            raise ConfigError("expected a tensor of numbers, found one of Python objects")
        little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        values = little.reshape(-1).view(np.uint8).data
    return hashlib.sha256(values).hexdigest()


def state_record(rows: Iterable[tuple[TensorSpec, str]]) -> bytes:
    """The record of a state of these tensors, each with its digest: canonical JSON, sorted by name.

    Its SHA-256 is the state's id. The rows may come in any order.

    Raises:
        ConfigError: there are none, a name comes twice, or a row is one that no record may have.

    >>> state_record([(TensorSpec("step", (), "int64"), tensor_digest(np.array(7)))])[:60]
    b'{"kind":"state","tensors":[["step","int64",[],"aae89fc0f03e2'
    """
    ordered = sorted(rows, key=lambda row: row[0].name)
    listed = [[spec.name, spec.dtype, list(spec.shape), digest] for spec, digest in ordered]
    try:
        _rows_of(listed)
    except FormatError as error:
        raise ConfigError(error.message) from error
    return canonical.dumps({"kind": "state", "tensors": listed, "version": 1})


def read_state_record(data: bytes) -> tuple[tuple[TensorSpec, str], ...]:
    """The tensors of a state and the digest of each, sorted by name, from its record.

    Raises:
        FormatError: `data` is not the record of a state in its one form.
    """
    record = canonical.loads(data)
    if not isinstance(record, dict) or set(record) != {"kind", "tensors", "version"}:
        raise FormatError("expected a state's record: kind, tensors and version, and nothing else")
    if record["kind"] != "state" or type(record["version"]) is not int or record["version"] != 1:
        found = f"{record['kind']!r:.60} of version {record['version']!r:.60}"
        raise FormatError(f"expected a state's record of version 1, found {found}")
    return _rows_of(record["tensors"])


def _rows_of(listed: Any) -> tuple[tuple[TensorSpec, str], ...]:
    """The rows that the JSON of a state's record lists.

    Raises:
        FormatError: a row is not of its form, or they are not sorted by name, each name once.
    """
    if not isinstance(listed, list) or not listed:
        raise FormatError("expected the tensors of a state's record as a list of at least one row")
    rows = []
    for row in listed:
        if not (isinstance(row, list) and len(row) == 4 and isinstance(row[0], str)):
            raise FormatError(f"expected a state's row [name, dtype, shape, digest], found {row!r:.60}")
        name, dtype, shape, digest = row
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise FormatError(f"tensor '{name:.60}' has the type {dtype!r:.60}, which is not one of ours")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise FormatError(f"expected the SHA-256 of '{name:.60}' in hexadecimal, found {digest!r:.80}")
        rows.append((TensorSpec(name, _shape_of(name, shape), dtype), digest))
    for (before, _), (after, _) in itertools.pairwise(rows):
        if before.name >= after.name:
            said = f"'{after.name:.60}' follows '{before.name:.60}'"
            raise FormatError(f"a state's record is sorted by name, each name once; {said}")
    return tuple(rows)


def state_digest(state: Mapping[str, Array]) -> str:
    """A state's id: SHA-256 over its record, in hexadecimal.

    The same content has the same id in every engine, on every machine, in every file format.
    """
    return canonical.digest(
        state_record(
            (spec, tensor_digest(as_float32(state[spec.name], spec.name))) for spec in Layout.of(state).specs
        )
    )

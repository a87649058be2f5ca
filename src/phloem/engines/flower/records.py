"""How Phloem's bytes lie in Flower's records: one array per message, however many tensors the model has.

Flower moves every array of a record as an object of its own, so a packed message has one. A payload, the bytes of
that array, is what Phloem counts:

    8 bytes     the run's token
    number n · n bytes     an order or a reply (`phloem.wire.messages`)
    the rest    a zstd frame, with its checksum, of the bytes of all tensors that are not floating point by name,
                little-endian, C order; nothing where there are none
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from phloem import canonical, varint
from phloem.errors import ConfigError, FormatError
from phloem.tensors import Layout, State, TensorSpec, as_float32

KEY = "phloem"  # of our own records, beside those of the app
TOKEN_BYTES = 8
PART_BYTES = 1 << 30
"""Where a payload is cut into several arrays: Flower keeps lengths of an array in places meant for 2 GiB."""

_STYPE = "phloem.payload.1"
_FLOATS = ("float16", "float32", "float64")
_EXACT = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

Exact = dict[str, npt.NDArray[Any]]
"""Tensors by name that must arrive to the bit, in their own type: counters, masks."""


def packed(payload: bytes, part_bytes: int = PART_BYTES) -> ArrayRecord:
    """The record whose arrays are `payload` in parts of at most `part_bytes`."""
    record = ArrayRecord()
    for number, start in enumerate(range(0, max(len(payload), 1), part_bytes)):
        part = payload[start : start + part_bytes]
        record[str(number)] = Array("uint8", (len(part),), _STYPE, part)
    return record


def is_packed(record: ArrayRecord) -> bool:
    """Whether the record is one of ours."""
    return bool(record) and all(array.stype == _STYPE for array in record.values())


def unpacked(record: ArrayRecord) -> bytes:
    """The payload in a packed record.

    Raises:
        FormatError: parts are missing, or of another kind.
    """
    parts = []
    for number in range(len(record)):
        array = record.get(str(number))
        if array is None or array.stype != _STYPE:
            raise FormatError(f"a packed record of {len(record)} parts has no part {number}")
        parts.append(array.data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def payload_size(record: ArrayRecord) -> int:
    """The bytes of the arrays in a record, whoever made them."""
    return sum(len(array.data) for array in record.values())


@dataclass(frozen=True, slots=True)
class Payload:
    """What a packed message carries."""

    token: bytes
    message: bytes
    exact: bytes = b""

    def pack(self) -> bytes:
        """The payload's bytes."""
        return self.token + varint.pack(len(self.message)) + self.message + self.exact

    @classmethod
    def unpack(cls, data: bytes) -> Payload:
        """The payload that `data` holds.

        Raises:
            FormatError: it ends inside a field.
        """
        size, start = varint.unpack(data, TOKEN_BYTES)
        if size > len(data) - start:
            raise FormatError(f"a payload of {len(data)} bytes ends inside its message")
        return cls(data[:TOKEN_BYTES], data[start : start + size], data[start + size :])


@dataclass(frozen=True)
class Manifest:
    """The arrays of an app's record, in its order: (name, type, shape) of each."""

    rows: tuple[tuple[str, str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, record: ArrayRecord) -> Manifest:
        """The manifest of a record with NumPy arrays, at least one of them floating point.

        Raises:
            ConfigError: an array is of a type that Phloem does not carry.
        """
        rows = []
        for name, array in record.items():
            if array.stype != "numpy.ndarray" or array.dtype not in (*_FLOATS, *_EXACT):
                raise ConfigError(f"array '{name}' is {array.dtype} in the form '{array.stype}'")
            rows.append((name, array.dtype, tuple(array.shape)))
        manifest = cls(tuple(rows))
        if not any(dtype in _FLOATS for _, dtype, _ in rows):
            raise ConfigError("no array is floating point")
        return manifest

    @cached_property
    def layout(self) -> Layout:
        """The layout of the floating-point arrays, which codecs see."""
        return Layout(
            tuple(TensorSpec(n, shape) for n, dtype, shape in sorted(self.rows) if dtype in _FLOATS)
        )

    def split(self, record: ArrayRecord) -> tuple[State, Exact]:
        """The floating-point arrays as float32, and the others.

        Raises:
            ConfigError: the record has other arrays than the manifest.
        """
        names = {name for name, _, _ in self.rows}
        if set(record) != names:
            strange = sorted(set(record) ^ names)[0]
            missing = "is missing" if strange in names else "is not part of the model"
            raise ConfigError(f"array '{strange}' {missing}")
        state: State = {}
        exact: Exact = {}
        for name, dtype, shape in self.rows:
            array = record[name].numpy()
            if array.shape != shape:
                raise ConfigError(f"array '{name}': expected shape {shape}, found {array.shape}")
            if dtype in _FLOATS:
                state[name] = as_float32(array, name)
            else:
                exact[name] = _whole(array, name, dtype)
        return state, exact

    def join(self, state: Mapping[str, Any], exact: Exact) -> ArrayRecord:
        """The app's record again, every array in its own type."""
        record = ArrayRecord()
        for name, dtype, _ in self.rows:
            array = in_type(state[name], dtype) if dtype in _FLOATS else exact[name]
            record[name] = Array(np.asarray(array))
        return record

    @cached_property
    def _exact_rows(self) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
        rows = ((n, np.dtype(dtype), shape) for n, dtype, shape in self.rows if dtype in _EXACT)
        return sorted(rows, key=lambda row: row[0])

    def pack_exact(self, exact: Exact) -> bytes:
        """The arrays that are not floating point, as bytes."""
        rows = self._exact_rows
        if not rows:
            return b""
        parts = (exact[name].astype(dtype.newbyteorder("<"), copy=False).tobytes() for name, dtype, _ in rows)
        return bytes(zstandard.ZstdCompressor(write_checksum=True).compress(b"".join(parts)))

    def unpack_exact(self, data: bytes) -> Exact:
        """The arrays that `pack_exact` packed.

        Raises:
            FormatError: damaged, or other arrays than the manifest's.
        """
        rows, size = self._exact_rows, self.exact_bytes
        content = _decompressed(data, size) if rows else data
        if len(content) != size:
            raise FormatError(f"expected {size} bytes of exact tensors, found {len(content)}")
        found: Exact = {}
        start = 0
        for name, dtype, shape in rows:
            count = math.prod(shape)
            values = np.frombuffer(content, dtype.newbyteorder("<"), count, start)
            if dtype == np.bool_ and count and values.view(np.uint8).max() > 1:
                raise FormatError(f"the exact tensor '{name}' holds a truth value that is neither 0 nor 1")
            found[name] = values.astype(dtype).reshape(shape)
            start += count * dtype.itemsize
        return found

    @cached_property
    def exact_bytes(self) -> int:
        """The size of all arrays that are not floating point."""
        return sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in self._exact_rows)

    def to_json(self) -> list[list[Any]]:
        """The rows as JSON values."""
        return [[name, dtype, list(shape)] for name, dtype, shape in self.rows]

    @classmethod
    def from_json(cls, rows: Any) -> Manifest:
        """The manifest that `to_json` wrote.

        Raises:
            FormatError: it is something else.
        """
        try:
            found = tuple((name, dtype, tuple(shape)) for name, dtype, shape in rows)
            known = [dtype in (*_FLOATS, *_EXACT) for _, dtype, _ in found]
            twice = len({name for name, _, _ in found}) != len(found)
        except (TypeError, ValueError) as error:
            raise FormatError(f"expected rows of name, type and shape: {error}") from error
        if twice or not all(known):
            raise FormatError("a manifest names an array twice, or a type that Phloem does not carry")
        for names in (_FLOATS, (*_FLOATS, *_EXACT)):  # at least one of floats, and plausible shapes of all
            listed = [[name, list(shape)] for name, dtype, shape in found if dtype in names]
            Layout.from_json(canonical.dumps(sorted(listed, key=lambda row: str(row[0]))))
        return cls(found)


def in_type(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """`values` in another floating-point type; what lies beyond its range becomes its largest number."""
    if np.dtype(dtype).itemsize < values.dtype.itemsize:
        largest = np.finfo(dtype).max
        values = np.clip(values, -largest, largest)
    return values.astype(dtype, copy=False)


def _whole(array: npt.NDArray[Any], name: str, dtype: str) -> npt.NDArray[Any]:
    """An array of integers or truth values in its own type, whatever a strategy's mean made of it."""
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ConfigError(f"array '{name}' holds NaN or infinity")
        array = np.rint(array.astype(np.float64))
        if dtype != "bool":
            limits = np.iinfo(dtype)
            above = array >= float(limits.max)
            inside = np.where(above, 0, np.maximum(array, float(limits.min))).astype(dtype)
            array = np.where(above, np.array(limits.max, dtype), inside)
    elif array.dtype.kind not in "biu":
        raise ConfigError(f"array '{name}' is {array.dtype}, expected {dtype}")
    return np.array(array, dtype, order="C")


def _decompressed(data: bytes, size: int) -> bytes:
    """The `size` bytes in a zstd frame; nothing is allocated for one that claims another size."""
    try:
        declared = zstandard.get_frame_parameters(data).content_size
        if declared != size:
            raise FormatError(f"expected {size} bytes of exact tensors, found a frame of {declared}")
        found = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"the exact tensors are damaged: {error}") from error
    return bytes(found)


def only_arrays(content: RecordDict) -> tuple[str, ArrayRecord] | None:
    """The key and the one array record of a message; None where it has none or several."""
    found = list(content.array_records.items())
    return (str(found[0][0]), found[0][1]) if len(found) == 1 else None


def replaced(content: RecordDict, key: str, record: ArrayRecord | None) -> RecordDict:
    """A new dict with the same records, but `record` under `key` (None: without it); `content` stays as it is."""
    others = {name: value for name, value in content.items() if name != key}
    return RecordDict(others if record is None else {**others, key: record})


def figures_to_json(content: RecordDict) -> dict[str, Any]:
    """A reply's metric and config records as JSON values, to be sent again after a crash."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if isinstance(value, float):
            return {"float": value.hex()}  # also NaN, which JSON does not have
        return [plain(item) for item in value] if isinstance(value, list) else value

    def table(records: Mapping[str, Any]) -> dict[str, Any]:
        return {key: {name: plain(value) for name, value in r.items()} for key, r in records.items()}

    return {"metrics": table(content.metric_records), "config": table(content.config_records)}


def figures_from_json(figures: Mapping[str, Any]) -> RecordDict:
    """The records that `figures_to_json` wrote."""

    def rich(value: Any) -> Any:
        if isinstance(value, dict):
            return bytes.fromhex(value["bytes"]) if "bytes" in value else float.fromhex(value["float"])
        return [rich(item) for item in value] if isinstance(value, list) else value

    content = RecordDict()
    for key, rows in figures["metrics"].items():
        content[key] = MetricRecord({name: rich(value) for name, value in rows.items()})
    for key, rows in figures["config"].items():
        content[key] = ConfigRecord({name: rich(value) for name, value in rows.items()})
    return content

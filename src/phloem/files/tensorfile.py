"""safetensors files, read and written tensor by tensor.

The library reads and checks the header (and refuses what is truncated or has holes); the values are then read with
plain reads, because it hands out no bytes of types that NumPy lacks, such as bfloat16, and because a file that is
cut short under a memory map kills the process. The library's writer wants all tensors in memory at once, so the
header is written here, in the order that it uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

import numpy as np
from safetensors import SafetensorError, safe_open

from phloem import canonical
from phloem.errors import ConfigError, FormatError, StoreError
from phloem.files.dtypes import FROM_FILE, ITEM_BYTES, TO_FILE, Raw
from phloem.files.sources import Tensors
from phloem.tensors import MAX_DIMENSIONS, TensorSpec, state_record, tensor_digest
from phloem.wire.contents import Contents

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
#: Tells how far a long piece of work is: what is being done, bytes done, bytes in all.
Progress = Callable[[str, int, int], None]

#: The library writes tensors of later types first.
_ORDER = (
    *("bool", "uint8", "int8", "float8_e5m2", "float8_e4m3fn", "float8_e8m0fnu", "int16", "uint16"),
    *("float16", "bfloat16", "int32", "uint32", "float32", "complex64", "float64", "int64", "uint64"),
)
_CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; save_file({{k: v.clone() for k, v in '
    "torch.load('{0}', weights_only=True).items()}}, '{1}')\""
)


def silent(what: str, done: int, total: int) -> None:
    """Shows no progress."""


@dataclass
class TensorFile:
    """An open safetensors file; read its tensors in any order. Use it in a `with` statement.

    Attributes:
        contents: what is in it.
    """

    path: Path
    contents: Contents
    _file: BinaryIO = field(repr=False)
    _offsets: dict[str, int] = field(repr=False)
    _specs: dict[str, TensorSpec] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The file at `path`.

        Raises:
            ConfigError: there is none, it is a pickle, it is empty, or a tensor's type cannot be coded.
            FormatError: it is not a whole safetensors file.
        """
        try:
            file = path.open("rb", buffering=0)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        try:
            specs, metadata = _read_header(path, file.read(8))
            file.seek(0)
            start = 8 + int.from_bytes(file.read(8), "little")
        except BaseException:
            file.close()
            raise
        offsets = {}
        for spec in specs:
            offsets[spec.name] = start
            start += bytes_of(spec)
        contents = Contents(tuple(sorted(specs, key=lambda spec: spec.name)), metadata)
        return cls(path, contents, file, offsets, {spec.name: spec for spec in specs})

    def spec(self, name: str) -> TensorSpec:
        """The tensor of this name, which must be there."""
        return self._specs[name]

    @property
    def size_bytes(self) -> int:
        """The size of all tensors."""
        return sum(bytes_of(spec) for spec in self.contents.specs)

    def read(self, spec: TensorSpec) -> Raw:
        """The bytes of one tensor. Shape: (size,).

        Raises:
            StoreError: the disk fails, or the file has become shorter.
        """
        raw = np.empty(bytes_of(spec), dtype=np.uint8)
        view, at = raw.data, 0
        try:
            self._file.seek(self._offsets[spec.name])
            while at < len(view):
                found = self._file.readinto(view[at:])  # type: ignore[attr-defined]
                if not found:
                    raise StoreError(f"{self.path} has become shorter while it was read")
                at += found
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{self.path} cannot be read: {error.strerror}") from error
        return raw

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Writable(Protocol):
    """What a file is written through."""

    def seek(self, offset: int, /) -> int:
        """Moves to an offset from the beginning."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Writes all of it there."""

    def truncate(self, size: int, /) -> int:
        """Makes the file that long."""


class TensorFileWriter:
    """A safetensors file in the making, its tensors written in any order."""

    def __init__(self, file: Writable, contents: Contents) -> None:
        self._file = file
        header: dict[str, object] = {"__metadata__": dict(contents.metadata)} if contents.metadata else {}
        self._places, at = {}, 0
        for spec in sorted(contents.specs, key=lambda spec: (-_ORDER.index(spec.dtype), spec.name)):
            self._places[spec.name] = at
            end = at + bytes_of(spec)
            header[spec.name] = {
                "dtype": TO_FILE[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [at, end],
            }
            at = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
        self._start = 8 + len(text)
        file.truncate(self._start + at)

    def write(self, spec: TensorSpec, raw: Raw) -> None:
        """Puts the bytes of one tensor in their place."""
        self._file.seek(self._start + self._places[spec.name])
        self._file.write(raw.data)


class StateDigest:
    """The record and the id of a state whose tensors come one by one, in the order of `specs`.

    For float32 tensors the id is `phloem.state_digest`.
    """

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self._specs = specs
        self._digests: list[str] = []

    def add(self, raw: Raw) -> None:
        """Takes the next tensor's bytes."""
        self._digests.append(tensor_digest(raw))

    def record(self) -> bytes:
        """The state's record, once all tensors were added."""
        return state_record(zip(self._specs, self._digests, strict=True))

    def hexadecimal(self) -> str:
        """The state's id: the SHA-256 of its record."""
        return canonical.digest(self.record())


def state_digest_of(file: Tensors, progress: Progress = silent) -> str:
    """The id of the state in a file."""
    digest, done = StateDigest(file.contents.specs), 0
    for spec in file.contents.specs:
        digest.add(file.read(spec))
        done += bytes_of(spec)
        progress(f"reading {file.path.name}", done, file.size_bytes)
    return digest.hexadecimal()


def bytes_of(spec: TensorSpec) -> int:
    """The size of a tensor in a file."""
    return spec.size * ITEM_BYTES[spec.dtype]


def _refuse_pickles(path: Path, first: bytes) -> None:
    """Says so if a file that is no safetensors file begins like a pickle, or like the zip file with one."""
    if first.startswith((_ZIP, _PICKLE)):
        convert = _CONVERT.format(path, path.with_suffix(".safetensors"))
        raise ConfigError(
            f"{path} is a pickle, as torch.save writes, and reading one may run its sender's code",
            hint=f"convert it once: {convert}",
        )


def _read_header(path: Path, first: bytes) -> tuple[list[TensorSpec], dict[str, str]]:
    """The tensors in the order in which they lie in the file, and the file's metadata."""
    specs = []
    try:
        with safe_open(path, "np") as opened:
            for name in opened.offset_keys():
                part = opened.get_slice(name)
                shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
                if dtype not in FROM_FILE:
                    raise ConfigError(f"{path}: tensor '{name}' has type {dtype}, which cannot be encoded")
                if len(shape) > MAX_DIMENSIONS:
                    raise ConfigError(f"{path}: tensor '{name}' has more than {MAX_DIMENSIONS} dimensions")
                specs.append(TensorSpec(name, shape, FROM_FILE[dtype]))
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        _refuse_pickles(path, first)
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise FormatError(f"{path} is not a whole safetensors file: {reason}") from error
    if not specs:
        raise ConfigError(f"{path} holds no tensors")
    return specs, metadata


def same_tensors(new: Tensors, base: Tensors) -> Iterator[tuple[TensorSpec, TensorSpec]]:
    """The tensors of both in pairs.

    Raises:
        ConfigError: a tensor is missing in one of them or has another shape; it is named.
    """
    theirs = {spec.name: spec for spec in base.contents.specs}
    for spec in new.contents.specs:
        other = theirs.pop(spec.name, None)
        if other is None:
            raise ConfigError(f"{base.path} has no tensor '{spec.name}', which {new.path} has")
        if other.shape != spec.shape:
            raise ConfigError(
                f"tensor '{spec.name}' has the shape {list(spec.shape)} in {new.path}, "
                f"{list(other.shape)} in {base.path}"
            )
        yield spec, other
    if theirs:
        raise ConfigError(f"{base.path} has a tensor '{min(theirs)}', which {new.path} lacks")

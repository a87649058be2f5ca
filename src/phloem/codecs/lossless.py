"""`lossless`: every bit comes back; byte planes and entropy coding, and differences from a base that both ends hold.

The body of a tensor's (or several tensors') little-endian bytes, whose number and type both ends know:

    byte 0      flags: 1 the body needs a base; other bits are zero
    if 1        4 bytes: CRC-32 of the base's bytes, little-endian
    ...         per chunk of 2^18 elements (the last may be shorter):
                if 1, one byte: 0 plain, 1 differences from the base
                per class of the base (plain: one for all), per plane from the lowest: a block
    last        bytes that are not a whole element, as they are

`phloem.kernels.planes` says what planes and classes are, `phloem.kernels.bytecoder` what a block is. A body carries
no checksum of its content: that is the work of the frame around it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

from phloem import kernels, varint
from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.config import FromConfig
from phloem.codecs.split import join, require_finite, split
from phloem.errors import ConfigError, FormatError
from phloem.kernels import bytecoder
from phloem.tensors import Array, Layout

#: Contiguous bytes, or an array whose bytes are meant.
Buffer: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[Any]

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.unsignedinteger]

#: Element types by their safetensors names: bytes, and bits of the exponent (0: an integer).
DTYPES: Mapping[str, tuple[int, int]] = {
    "F64": (8, 11), "F32": (4, 8), "F16": (2, 5), "BF16": (2, 8), "F8_E4M3": (1, 4), "F8_E5M2": (1, 5),
    "I64": (8, 0), "I32": (4, 0), "I16": (2, 0), "I8": (1, 0),
    "U64": (8, 0), "U32": (4, 0), "U16": (2, 0), "U8": (1, 0), "BOOL": (1, 0),
}  # fmt: skip

CHUNK = 1 << 18
"""Elements that share their tables: 32 coder states and a table are less than 1 % of a coded plane."""

_NEEDS_BASE = 1
_PLAIN, _DIFFERENCES = 0, 1
_SAMPLE = 1 << 12  # elements of each of four stretches by which a chunk chooses between plain and differences
_PROBE = 1 << 14  # bytes of a block by which zstd shows whether repetitions are worth its time
_LEAST_FOR_ZSTD = 64
_NOT_CONTIGUOUS = "expected contiguous bytes, found a view with gaps"


def encode_bytes(data: Buffer, dtype: str, base: Buffer | None = None) -> bytes:
    """The body of a tensor's little-endian bytes; at most some 0.01 % longer than they are.

    Args:
        data: the bytes, contiguous; any bit patterns.
        dtype: the element type by its safetensors name, such as "BF16".
        base: as many bytes of the same type that the decoder will have; used where that makes the body smaller.

    Raises:
        ConfigError: the type is unknown, or the base has another size.

    >>> weights = np.linspace(1, 2, 1000, dtype="<f4")
    >>> body = encode_bytes(weights + 1e-6, "F32", base=weights)
    >>> bytes(decode_bytes(body, "F32", 4000, base=weights)) == (weights + 1e-6).astype("<f4").tobytes()
    True
    """
    itemsize, exponent_bits = _type(dtype)
    raw = _flat(data)
    words, rest = _words(raw, itemsize)
    if base is not None:
        held = _flat(base)
        if held.size != raw.size:
            raise ConfigError(f"the base has {held.size} bytes, expected {raw.size}")
        others, _ = _words(held, itemsize)
        chosen = [
            _differences_are_smaller(words[at : at + CHUNK], others[at : at + CHUNK], exponent_bits)
            for at in range(0, words.size, CHUNK)
        ]
        if any(chosen):
            parts = [bytes([_NEEDS_BASE]), _check(held)]
            for number, differs in enumerate(chosen):
                here = slice(number * CHUNK, (number + 1) * CHUNK)
                parts.append(bytes([_DIFFERENCES if differs else _PLAIN]))
                parts += _encode_chunk(words[here], others[here] if differs else None, exponent_bits)
            return b"".join([*parts, rest.tobytes()])
    parts = [bytes([0])]
    for at in range(0, words.size, CHUNK):
        parts += _encode_chunk(words[at : at + CHUNK], None, exponent_bits)
    return b"".join([*parts, rest.tobytes()])


def decode_bytes(body: Buffer, dtype: str, size_bytes: int, base: Buffer | None = None) -> memoryview:
    """The `size_bytes` bytes that `body` carries, in memory of their own.

    Raises:
        FormatError: not a body of this type and size to the last byte, or it needs a base that is not `base`.
        ConfigError: the type is unknown.
    """
    itemsize, exponent_bits = _type(dtype)
    data = _flat(body)
    start, held = _read_head(data, size_bytes, base)
    count = size_bytes // itemsize
    chunks = -(-count // CHUNK)
    if data.size - start < chunks * 2 * itemsize + size_bytes % itemsize:  # a block is two bytes at least
        raise FormatError(f"lossless: {data.size} bytes cannot hold {size_bytes} of this type")
    out = np.empty(size_bytes, np.uint8)
    words, rest = _words(out, itemsize)
    others = None if held is None else _words(held, itemsize)[0]
    for at in range(0, count, CHUNK):
        here, near = words[at : at + CHUNK], None
        if others is not None:
            if start >= data.size or data[start] > _DIFFERENCES:
                raise FormatError("lossless: expected a chunk that is plain or of differences")
            near = others[at : at + CHUNK] if data[start] == _DIFFERENCES else None
            start += 1
        start = _decode_chunk(data, start, here, near, exponent_bits)
    if data.size - start != rest.size:
        raise FormatError(
            f"lossless: expected {rest.size} bytes after the last chunk, found {data.size - start}"
        )
    rest[:] = data[start:]
    return out.data


def needs_base(body: Buffer) -> bool:
    """Whether `body` decodes only with the base that it was made against."""
    data = _flat(body)
    return bool(data.size and data[0] & _NEEDS_BASE)


@dataclass(frozen=True)
class Lossless(FromConfig):
    """Every bit of every value, in about 26 bits of a float32 that was trained, and far fewer near a base.

    The base is the update (or state) that both ends hold, where there is one. Sources: byte planes after ZipNN
    (Hershcovitch et al., arXiv:2411.05239); differences of floats in integer order after P. Lindstrom and
    M. Isenburg, Fast and efficient compression of floating-point data, 2006.
    """

    name: ClassVar[str] = "lossless"
    code: ClassVar[int] = 6
    lossless: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = False

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """All values as one run of float32, against what is held where that helps."""
        base = None if hints.held is None else join(hints.held)
        return encode_bytes(join(arrays), "F32", base)

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """The values again, bit for bit."""
        base = None if held is None or not needs_base(body) else join(held)
        vector = np.frombuffer(decode_bytes(body, "F32", 4 * layout.size, base), "<f4")
        return split(require_finite(vector.astype(np.float32, copy=False), cls.name), layout)


def _type(dtype: str) -> tuple[int, int]:
    if dtype not in DTYPES:
        raise ConfigError(f"there is no element type '{dtype}'", hint=f"known: {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _flat(data: Buffer) -> Bytes:
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous:
            raise ConfigError(_NOT_CONTIGUOUS, hint="copy the array with numpy.ascontiguousarray")
        return data.reshape(-1).view(np.uint8)
    view = memoryview(data)
    if not view.c_contiguous:
        raise ConfigError(_NOT_CONTIGUOUS, hint="copy it with bytes()")
    return np.frombuffer(view, np.uint8)


def _words(raw: Bytes, itemsize: int) -> tuple[Words, Bytes]:
    """The whole elements as unsigned integers, and what is left."""
    whole = raw.size // itemsize * itemsize
    return raw[:whole].view(f"<u{itemsize}"), raw[whole:]


def _check(base: Bytes) -> bytes:
    return zlib.crc32(base.data).to_bytes(4, "little")


def _read_head(data: Bytes, size_bytes: int, base: Buffer | None) -> tuple[int, Bytes | None]:
    if data.size < 1 or data[0] > _NEEDS_BASE:
        raise FormatError("lossless: expected a body with known flags")
    if not data[0]:
        return 1, None
    if base is None:
        raise FormatError("lossless: the body needs a base", hint="pass the state that it was made against")
    held = _flat(base)
    if held.size != size_bytes or _check(held) != data[1:5].tobytes():
        raise FormatError(
            "lossless: this is not the base that the body was made against",
            hint="pass the state that it was made against",
        )
    return 5, held


def _encode_chunk(words: Words, base: Words | None, exponent_bits: int) -> Iterator[bytes]:
    backend = kernels.backend()
    if base is None:
        planes, ends = backend.planes_split(words, exponent_bits), [words.size]
    else:
        planes = backend.differences_split(words, base, exponent_bits)
        ends = backend.differences_ends(base, exponent_bits)
    for start, end in zip([0, *ends], ends, strict=False):
        for plane in planes:
            yield _encode_block(plane[start:end])


def _decode_chunk(data: Bytes, start: int, out: Words, base: Words | None, exponent_bits: int) -> int:
    backend = kernels.backend()
    planes = np.empty((out.itemsize, out.size), np.uint8)
    ends = [out.size] if base is None else backend.differences_ends(base, exponent_bits)
    for begin, end in zip([0, *ends], ends, strict=False):
        for plane in planes:
            start = _decode_block(data, start, plane[begin:end])
    if base is None:
        backend.planes_merge(planes, out, exponent_bits)
    else:
        backend.differences_merge(planes, base, out, exponent_bits)
    return start


def _encode_block(plane: Bytes) -> bytes:
    """The kernel's block, or zstd's where a sample says that bytes repeat and the whole then is smaller."""
    block = kernels.backend().block_encode(plane)
    if plane.size < _LEAST_FOR_ZSTD or block[0] == bytecoder.CONSTANT:
        return block
    middle = max(0, plane.size - _PROBE) // 2
    probe = plane[middle : middle + _PROBE]
    probed = len(zstandard.ZstdCompressor(level=1).compress(probe.data))
    if 10 * probed * plane.size > 9 * len(block) * probe.size:
        return block
    packed = zstandard.ZstdCompressor(level=9).compress(plane.data)
    repeated = bytes([bytecoder.ZSTD]) + varint.pack(len(packed)) + packed
    return min(block, repeated, key=len)


def _decode_block(data: Bytes, start: int, out: Bytes) -> int:
    if start >= data.size or data[start] != bytecoder.ZSTD:
        return kernels.backend().block_decode(data, start, out)
    size, start = varint.unpack(data[start + 1 : start + 11].tobytes(), 0)[0], start + 1
    start += len(varint.pack(size))
    if size > data.size - start:
        raise FormatError("lossless: the body ends inside a zstd block")
    packed = data[start : start + size].tobytes()
    try:
        if zstandard.get_frame_parameters(packed).content_size != out.size:
            raise FormatError("lossless: a zstd block is not of the size it must have")
        plain = zstandard.ZstdDecompressor().decompress(
            packed, max_output_size=out.size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise FormatError(f"lossless: a zstd block does not decompress: {error}") from error
    if len(plain) != out.size:
        raise FormatError("lossless: a zstd block is not of the size it must have")
    out[:] = np.frombuffer(plain, np.uint8)
    return start + size


def _differences_are_smaller(words: Words, base: Words, exponent_bits: int) -> bool:
    """Whether the differences of four stretches take fewer bytes than the stretches themselves."""
    backend = kernels.backend()
    plain = different = 0
    last = max(0, words.size - _SAMPLE)
    for at in sorted({last * quarter // 3 for quarter in range(4)}):
        near, here = base[at : at + _SAMPLE], words[at : at + _SAMPLE]
        for plane in backend.planes_split(here, exponent_bits):
            plain += len(backend.block_encode(plane))
        for plane in backend.differences_split(here, near, exponent_bits):
            different += len(backend.block_encode(plane))
    return different < plain

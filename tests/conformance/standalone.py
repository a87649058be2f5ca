"""Stand-alone frames and the files they give: docs/format.md, "Stand-alone frames"."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence

from tests.conformance.bodies import LOSSLESS, decode_body
from tests.conformance.contents import BASE, DTYPES, ERROR, SECTIONS, Head, Tensor, canonical, read_head
from tests.conformance.lossless import Kind, decode_bytes
from tests.conformance.reader import FLOAT32_MOST, VERSION, Reader, float32, require, size_of

CODED = DTYPES[:4]
SECTION = 1 << 22
KINDS = dict(
    zip(
        DTYPES,
        map(
            Kind,
            (4, 2, 2, 8, 1, 1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 1),
            (8, 8, 5, 11, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0),
        ),
        strict=True,
    )
)
BYTES = {dtype: 8 if dtype == "complex64" else kind.size for dtype, kind in KINDS.items()}
#: What a safetensors file calls the dtypes.
FILE_TYPES = (
    "F32", "BF16", "F16", "F64", "F8_E4M3", "F8_E5M2", "BOOL", "U8", "I8",
    "U16", "I16", "U32", "I32", "U64", "I64", "C64", "F8_E8M0",
)  # fmt: skip
LETTERS = {"float32": "f", "float16": "e", "float64": "d"}
LARGEST_FLOAT16 = 65504.0

#: A tensor's description and its bytes.
File = Mapping[str, tuple[Tensor, bytes]]


def decode_file(frame: bytes, base: File | None = None) -> tuple[Head, dict[str, bytes]]:
    """The head, and the bytes of every tensor by name."""
    require(
        len(frame) >= 7 and frame[0] == 0xB0 + VERSION and frame[1] & 0xC0 == 0x80, "no stand-alone frame"
    )
    require(zlib.crc32(frame[:-4]).to_bytes(4, "little") == frame[-4:], "the checksum differs")
    reader = Reader(frame[:-4], 2)
    head = read_head(reader.string())
    require((head.base is not None) == (base is not None), "a base is missing, or not wanted")
    if base is not None:
        require(digest(base) == head.base, "another base")
        own = {tensor.name: tensor.shape for tensor in head.tensors}
        require(own == {name: base[name][0].shape for name in base}, "the base has other tensors")
    total = sum(size_of(tensor.shape) for tensor in head.tensors)
    require(bool(head.flags & BASE) or total <= max(1 << 24, 4000 * len(frame)), "too many parameters")
    code = frame[1] & 63
    groups = sections(head, code)
    body = reader.rest()
    if head.flags & ERROR:
        require(len(body) >= 2 and int.from_bytes(body[-2:], "little") < 0x7F80, "no measured error")
        body = body[:-2]
    bodies = Reader(body)
    found: dict[str, bytes] = {}
    for group in groups:
        size = sum(size_of(tensor.shape) for tensor in group)
        own_body = bodies.string() if head.flags & SECTIONS else bodies.rest()
        require(len(own_body) <= 16 * size + (128 << 10), "a section is too long")
        if group[0].dtype in CODED and code != LOSSLESS:
            found |= coded_section(code, own_body, group, base)
        else:
            found |= exact_section(own_body, group, base)
    bodies.end()
    return head, found


def sections(head: Head, code: int) -> list[list[Tensor]]:
    """Which tensors share a body."""
    coded = () if code == LOSSLESS else CODED
    lists = [[tensor for tensor in head.tensors if tensor.dtype in coded]]
    lists += [[t for t in head.tensors if t.dtype == dtype] for dtype in DTYPES if dtype not in coded]
    groups: list[list[Tensor]] = []
    for one in lists:
        held = SECTION + 1
        for tensor in one:
            size = size_of(tensor.shape)
            if held + size > SECTION:
                groups.append([])
                held = 0
            groups[-1].append(tensor)
            held += size
    if bool(head.flags & SECTIONS) != (len(groups) > 1):
        only_float32 = all(tensor.dtype == "float32" for tensor in head.tensors)
        require(not head.flags & SECTIONS and only_float32, "other sections than the head says")
        return [head.tensors]
    return groups


def coded_section(code: int, body: bytes, group: Sequence[Tensor], base: File | None) -> dict[str, bytes]:
    """The tensors of a section that a codec codes."""
    values = decode_body(code, body, [tensor.shape for tensor in group])
    found, at = {}, 0
    for tensor in group:
        own = values[at : at + size_of(tensor.shape)]
        at += len(own)
        if base is not None:
            other, raw = base[tensor.name]
            wide = "float64" in (tensor.dtype, other.dtype)
            own = [
                before + value if wide else float32(before + value)
                for before, value in zip(floats(raw, other.dtype), own, strict=True)
            ]
        found[tensor.name] = rounded(own, tensor.dtype)
    return found


def exact_section(body: bytes, group: Sequence[Tensor], base: File | None) -> dict[str, bytes]:
    """The tensors of a section that travels exactly."""
    held = None
    if base is not None:
        held = b"".join(as_type(*base[tensor.name], tensor.dtype) for tensor in group)
    sizes = [size_of(tensor.shape) * BYTES[tensor.dtype] for tensor in group]
    data = Reader(decode_bytes(body, KINDS[group[0].dtype], sum(sizes), held))
    return {tensor.name: data.take(size) for tensor, size in zip(group, sizes, strict=True)}


def as_type(tensor: Tensor, raw: bytes, dtype: str) -> bytes:
    """A base's bytes in the dtype of the new tensor."""
    if tensor.dtype == dtype:
        return raw
    require(tensor.dtype in CODED and dtype in CODED, "a base of another dtype")
    return rounded([v if math.isfinite(v) else 0.0 for v in floats(raw, tensor.dtype)], dtype)


def floats(raw: bytes, dtype: str) -> list[float]:
    """The values of these bytes."""
    if dtype == "bfloat16":
        halves = struct.unpack(f"<{len(raw) // 2}H", raw)
        return list(
            struct.unpack(f"<{len(halves)}f", struct.pack(f"<{len(halves)}I", *(h << 16 for h in halves)))
        )
    return list(struct.unpack(f"<{len(raw) // BYTES[dtype]}{LETTERS[dtype]}", raw))


def rounded(values: Sequence[float], dtype: str) -> bytes:
    """Values in a dtype: to the nearest, ties to even, at most the largest."""
    if dtype == "float64":
        return struct.pack(f"<{len(values)}d", *values)
    most = LARGEST_FLOAT16 if dtype == "float16" else FLOAT32_MOST
    limited = [max(-most, min(value, most)) for value in values]
    if dtype == "bfloat16":
        bits = struct.unpack(f"<{len(limited)}I", struct.pack(f"<{len(limited)}f", *limited))
        halves = [(one + 0x7FFF + (one >> 16 & 1)) >> 16 for one in bits]
        return struct.pack(f"<{len(halves)}H", *(min(h & 0x7FFF, 0x7F7F) | h & 0x8000 for h in halves))
    return struct.pack(f"<{len(limited)}{LETTERS[dtype]}", *limited)


def record(file: File) -> bytes:
    """The state record."""
    tensors = sorted((file[name][0] for name in file), key=lambda tensor: tensor.name.encode())
    rows = [[t.name, t.dtype, list(t.shape), hashlib.sha256(file[t.name][1]).hexdigest()] for t in tensors]
    return canonical({"kind": "state", "tensors": rows, "version": 1})


def digest(file: File) -> bytes:
    """The state digest."""
    return hashlib.sha256(record(file)).digest()


def read_safetensors(data: bytes) -> tuple[dict[str, str], dict[str, tuple[Tensor, bytes]]]:
    """The metadata and the tensors of a safetensors file."""
    names = dict(zip(FILE_TYPES, DTYPES, strict=True))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", {})
    return metadata, {
        name: (
            Tensor(name, tuple(own["shape"]), names[own["dtype"]]),
            data[start + own["data_offsets"][0] : start + own["data_offsets"][1]],
        )
        for name, own in header.items()
    }

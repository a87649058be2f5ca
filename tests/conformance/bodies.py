"""The body of every codec by its code, and the bodies that hold others."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from tests.conformance import rotation, transforms, values
from tests.conformance.ecsq import decode_ecsq
from tests.conformance.lossless import BYTE, FLOAT32, decode_bytes
from tests.conformance.reader import Reader, Refused, Shape, require, size_of, unpack_bits
from tests.conformance.zstandard import unzstd

NONE, ECSQ, LOSSLESS, CHAIN, MODEL, ZSTD = 0, 1, 6, 7, 18, 19
#: Quantisers that read their values from a reader, which must then be at its end.
SIMPLE: dict[int, Callable[[Reader, Sequence[Shape]], list[float]]] = {
    NONE: values.decode_none,
    2: values.decode_bf16,
    3: values.decode_int8,
    5: values.decode_sign,
    8: values.decode_fp16,
    9: values.decode_fp8,
    10: values.decode_int4,
    11: values.decode_qsgd,
    12: values.decode_ternary,
    15: rotation.decode_eden,
    17: rotation.decode_linear,
    21: values.decode_nf4,
    22: values.decode_bins,
}
TRANSFORMS: dict[int, Callable[[Reader, Sequence[Shape]], transforms.Opened]] = {
    4: transforms.open_positions,
    13: transforms.open_randomk,
    14: transforms.open_positions,
    16: transforms.open_lowrank,
    20: transforms.open_hadamard,
}


def decode_body(code: int, body: bytes, shapes: Sequence[Shape], held: Sequence[float] = ()) -> list[float]:
    """All values of a body; `held` are those of an update that both ends have."""
    if code in SIMPLE:
        reader = Reader(body)
        found = SIMPLE[code](reader, shapes)
        reader.end()
        return found
    if code in TRANSFORMS:
        return decode_chain([code], body, shapes)
    if code == ECSQ:
        return decode_ecsq(body, shapes, held)
    if code == LOSSLESS:
        base = struct.pack(f"<{len(held)}f", *held) if held else None
        data = decode_bytes(body, FLOAT32, 4 * values.total(shapes), base)
        return Reader(data).floats(values.total(shapes))
    if code == ZSTD:
        return decode_body(NONE, unpacked(body, 4 * values.total(shapes)), shapes)
    if code == CHAIN:
        reader = Reader(body)
        codes = list(reader.take(reader.byte()))
        require(1 <= len(codes) <= 8, "no such chain")
        return decode_chain(codes, reader.rest(), shapes)
    if code == MODEL:
        return decode_model(Reader(body), shapes)
    raise Refused(f"there is no codec {code}")


def unpacked(data: bytes, most: int) -> bytes:
    """What `zstd` carries."""
    reader = Reader(data)
    size = reader.number()
    require(size <= most, "more content than there can be")
    content = unzstd(reader.rest(), size) if size else b""
    reader.end()
    return content


def decode_chain(codes: Sequence[int], payload: bytes, shapes: Sequence[Shape]) -> list[float]:
    """Transforms, a quantiser, byte coders: undone from the last to the first."""
    ranks = [0 if code in TRANSFORMS else 2 if code == ZSTD else 1 for code in codes]
    require(ranks == sorted(ranks) and ranks.count(1) <= 1, "stages out of order")
    require(not {CHAIN, MODEL} & set(codes), "no such stage")
    most = 16 * values.total(shapes) + 4096 * len(shapes) + 65_536
    for _ in range(ranks.count(2)):
        payload = unpacked(payload, most)
    reader, inner = Reader(payload), list(shapes)
    opened = []
    for code in codes[: ranks.count(0)]:
        opened.append(TRANSFORMS[code](reader, inner))
        inner = opened[-1].left
    quantiser = codes[ranks.index(1)] if 1 in ranks else NONE
    found = decode_body(quantiser, reader.rest(), inner)
    for transform in reversed(opened):
        found = transform.undo(found)
    return found


def decode_model(reader: Reader, shapes: Sequence[Shape]) -> list[float]:
    """A mask, vectors, matrices."""
    mask, code_of_matrices, code_of_vectors = reader.byte(), reader.byte(), reader.byte()
    known = {*SIMPLE, *TRANSFORMS, ECSQ, LOSSLESS, ZSTD, CHAIN}
    require({code_of_matrices, code_of_vectors} <= known, "no such codec inside a model")
    matrices = [shape for shape in shapes if len(shape) > 1]
    vectors = [shape for shape in shapes if len(shape) < 2]
    require(mask < 3 and (mask == 0 or bool(matrices)), "no such mask")
    weights = values.total(matrices)
    kept = [1] * weights
    if mask:
        bits = decode_bytes(reader.string(), BYTE, (weights + 7) // 8)
        kept = unpack_bits(bits, weights, 1)
    small = decode_body(code_of_vectors, reader.string(), vectors) if vectors else []
    inner, at = [], 0
    for shape in matrices:
        inner.append(kept_shape(shape, sum(kept[at : at + size_of(shape)])))
        at += size_of(shape)
    coded = decode_body(code_of_matrices, reader.rest(), inner) if matrices else []
    reader.end()
    found: list[float] = []
    at = small_at = coded_at = 0
    for shape in shapes:
        size = size_of(shape)
        if len(shape) < 2:
            found += small[small_at : small_at + size]
            small_at += size
            continue
        own = iter(coded[coded_at : coded_at + size_of(inner[0])])
        coded_at += size_of(inner.pop(0))
        found += [next(own) if one else (-0.0 if mask == 2 else 0.0) for one in kept[at : at + size]]
        at += size
    return found


def kept_shape(shape: Shape, count: int) -> Shape:
    """The matrix that kept weights fill."""
    if count == size_of(shape):
        return shape
    if count == 0:
        return (0,)
    width = -(-count // shape[0])
    return -(-count // width), width

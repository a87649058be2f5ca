"""A pack: many small objects in one file that never changes, named by its index, so that one write adds them all.

    8           "PHLOEMP" and the version, one byte
    ...         the objects' bytes, one after another; records are compressed (Zstandard) where that makes them smaller
    57 each     the index, sorted by digest: digest (32) · kind (1) · offset (8) · stored size (8) · size (8),
                numbers little-endian; 0x80 is added to the kind of an object that is compressed
    8 + 8       how many objects, little-endian · "PHLOEMI" and the version

The pack's name is the SHA-256 of its index, which holds the digest of every object: who trusts the name can check
everything. The index stands at the end, so that a pack in a bucket is known from one read of its tail.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import zstandard

from phloem import canonical
from phloem.branches.blobs import Blob
from phloem.branches.records import LARGEST_RECORD
from phloem.errors import FormatError

COMMIT, STATE, ENCODING, FRAME, FILE = 1, 2, 3, 4, 5
KINDS = {COMMIT: "commit", STATE: "state", ENCODING: "encoding", FRAME: "frame", FILE: "file"}
#: Kinds that are compressed, and how large each may be: what a few bytes claim takes memory before it is refused.
_LARGEST = {COMMIT: 4 << 20, STATE: LARGEST_RECORD, ENCODING: 4096, FILE: LARGEST_RECORD}
_RECORDS = tuple(_LARGEST)
_MAGIC, _END = b"PHLOEMP\x01", b"PHLOEMI\x01"
_ROW = struct.Struct("<32sBQQQ")
_COUNT = struct.Struct("<Q8s")
_COMPRESSED = 0x80
_LARGEST_INDEX = 1 << 30
_LEVEL = 3
_FEW_BITS = 8


@dataclass(frozen=True, slots=True)
class Row:
    """Where an object lies in its pack.

    Attributes:
        digest: in hexadecimal.
        kind: one of `KINDS`.
        offset, stored: the stretch of the pack.
        size: of the object itself.
        compressed: whether the two differ by compression.
    """

    digest: str
    kind: int
    offset: int
    stored: int
    size: int
    compressed: bool


def pack(objects: Iterable[tuple[int, bytes]]) -> tuple[str, bytes]:
    """A pack of these objects (kind, content), and its name; equal ones are kept once.

    >>> from phloem.branches.blobs import Bytes
    >>> name, data = pack([(FILE, b"content")])
    >>> [(row.size, row.kind) for row in index(Bytes(data), name)]
    [(7, 5)]
    """
    body, rows = bytearray(_MAGIC), {}
    for kind, content in objects:
        digest = hashlib.sha256(content).digest()
        if digest in rows:
            continue
        stored, flag = content, 0
        if kind in _RECORDS:
            small = zstandard.ZstdCompressor(_LEVEL, write_checksum=False).compress(content)
            stored, flag = (small, _COMPRESSED) if len(small) < len(content) else (content, 0)
        rows[digest] = _ROW.pack(digest, kind | flag, len(body), len(stored), len(content))
        body += stored
    table = b"".join(rows[digest] for digest in sorted(rows))
    return hashlib.sha256(table).hexdigest(), bytes(body) + table + _COUNT.pack(len(rows), _END)


def index(blob: Blob, name: str) -> list[Row]:
    """What lies where in a pack of this name, sorted by digest.

    Raises:
        FormatError: it is no pack, not a whole one, or not the one of that name.
    """
    what = f"the pack {name[:12]}"
    least = len(_MAGIC) + _COUNT.size
    if blob.size < least or blob.read(0, len(_MAGIC)) != _MAGIC:
        raise FormatError(f"{what} does not begin like one, of this version")
    count, end = _COUNT.unpack(blob.read(blob.size - _COUNT.size, _COUNT.size))
    size = count * _ROW.size
    if end != _END or size > min(blob.size - least, _LARGEST_INDEX):
        raise FormatError(f"{what} does not end like one: it was cut off, or altered")
    start = blob.size - _COUNT.size - size
    table = blob.read(start, size)
    if hashlib.sha256(table).hexdigest() != name:
        raise FormatError(f"{what} has an index of another name")
    rows = []
    for digest, kind, offset, stored, whole in _ROW.iter_unpack(table):
        plain, compressed = kind & ~_COMPRESSED, bool(kind & _COMPRESSED)
        fits = len(_MAGIC) <= offset <= offset + stored <= start
        limit = _LARGEST.get(plain, stored)
        if plain not in KINDS or not fits or whole > limit or (not compressed and whole != stored):
            raise FormatError(f"{what} has an index that points outside it, or claims more than there can be")
        rows.append(Row(digest.hex(), plain, offset, stored, whole, compressed))
    if any(left.digest >= right.digest for left, right in itertools.pairwise(rows)):
        raise FormatError(f"{what} has an index that is not sorted")
    places = sorted((row.offset, row.offset + row.stored) for row in rows)
    if any(end > start for (_, end), (start, _) in itertools.pairwise(places)):
        raise FormatError(f"{what} has an index in which objects overlap")
    return rows


def content_of(stored: bytes, row: Row) -> bytes:
    """An object's content, from the bytes that its pack has.

    Raises:
        FormatError: they do not give what the digest names: bit rot, or a forgery.
    """
    content = stored
    if row.compressed:
        try:
            if (
                zstandard.get_frame_parameters(stored).content_size != row.size
            ):  # memory is taken by that claim
                raise _damaged(row)
            content = zstandard.ZstdDecompressor().decompress(stored, max_output_size=row.size)
        except zstandard.ZstdError as error:
            raise _damaged(row) from error
    if len(content) != row.size or hashlib.sha256(content).hexdigest() != row.digest:
        raise _damaged(row)
    return content


def salvaged(blob: Blob) -> list[tuple[int, bytes]]:
    """The objects (kind, content) that are whole in a pack which is damaged anywhere, its index and its ends included.

    An object counts as whole if its digest is that of its row, or differs from it in a few bits, which are then what is
    damaged.
    """
    data = blob.read(0, blob.size)
    end = len(data) - _COUNT.size
    if end < _ROW.size:
        return []
    count = _COUNT.unpack(data[end:])[0]
    found: list[tuple[int, int, bytes]] = []
    for number in range(1, (end - len(_MAGIC)) // _ROW.size + 1):
        digest, kind, offset, stored, size = _ROW.unpack_from(data, end - number * _ROW.size)
        if not len(_MAGIC) <= offset <= offset + stored <= end:
            if number > count:
                break  # here the index begins, whatever the end says of it
            continue
        for compressed in (True, False):
            content = _opened(data[offset : offset + stored], size, compressed=compressed)
            right = hashlib.sha256(content).digest()
            if (int.from_bytes(right) ^ int.from_bytes(digest)).bit_count() <= _FEW_BITS:
                found.append((offset, _kind_of(kind & ~_COMPRESSED, content), content))
                break
    return [(kind, content) for _, kind, content in sorted(found)]


def _opened(stored: bytes, size: int, *, compressed: bool) -> bytes:
    """An object's content, or what is stored if that is none of this size."""
    try:
        if compressed and zstandard.get_frame_parameters(stored).content_size == min(size, LARGEST_RECORD):
            return zstandard.ZstdDecompressor().decompress(stored)
    except zstandard.ZstdError:
        pass
    return stored


def _kind_of(said: int, content: bytes) -> int:
    """The kind of an object whose row may be damaged: records say it themselves."""
    if content.startswith(b"{"):
        try:
            record = canonical.loads(content)
        except FormatError:
            record = None
        for kind in (COMMIT, STATE, ENCODING):
            if isinstance(record, dict) and record.get("kind") == KINDS[kind]:
                return kind
    return said if said in (FRAME, FILE) else FRAME


def _damaged(row: Row) -> FormatError:
    return FormatError(f"the {KINDS[row.kind]} {row.digest[:12]} is damaged: its content has another digest")

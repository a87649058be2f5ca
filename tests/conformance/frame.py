"""Frames of a known layout: docs/format.md, "Frame"."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence

from tests.conformance.bodies import decode_body
from tests.conformance.reader import VERSION, Shape, require

Layout = Sequence[tuple[str, Shape]]


def decode_frame(frame: bytes, layout: Layout, held: Sequence[float] = ()) -> list[float]:
    """All values of a frame of this layout, tensor after tensor; `held` are those that both ends have."""
    require(len(frame) >= 6, "too short")
    require(frame[0] == 0xB0 + VERSION, "another version")
    require(not frame[1] & 0x80, "a stand-alone frame")
    check = zlib.crc32(frame[:-4], zlib.crc32(digest(layout)))
    require(check.to_bytes(4, "little") == frame[-4:], "the checksum differs")
    return decode_body(frame[1] & 63, frame[2:-4], [shape for _, shape in layout], held)


def digest(layout: Layout) -> bytes:
    """The layout's SHA-256."""
    rows = [[name, list(shape)] for name, shape in layout]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).digest()

"""A frame: one encoded update, or one whole state, in as few bytes as the codec needs plus six.

Format, version 1:

    byte 0      0xB0 + version
    byte 1      codec (low 6 bits) · 0x40 key-frame (a whole state) · 0x80 stand-alone: a head follows
    if 0x80     number n · n bytes of head (names and shapes: `phloem.wire.contents`)
    ...         the codec's body
    last 4      CRC-32 (little-endian) over everything before; without a head, over the layout's digest first

On the wire both ends know the layout, so it is left out; the checksum covers its digest, and a frame for another
layout is refused like an altered one. The checksum finds accidents; who sent what is the ledger's business.

A stand-alone frame of a file may have more than one body and tensors of other types than float32; those are read by
`phloem.files`, which extends this format.
"""

from __future__ import annotations

import io
import itertools
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from phloem import varint
from phloem.codecs.base import NO_HINTS, Codec, Held, Hints
from phloem.codecs.casts import Cast
from phloem.codecs.ecsq import Ecsq
from phloem.codecs.registry import codec_for_code
from phloem.errors import ConfigError, FormatError
from phloem.kernels import backend
from phloem.tensors import Array, Layout
from phloem.wire.contents import Contents, Head

VERSION = 1
MAGIC = 0xB0
STAND_ALONE = 0x80
CODEC_CODE = 0x3F
CHECKSUM_BYTES = 4
KEY_FRAME = 0x40
#: What comes before the body of a frame from the wire.
WIRE_HEAD_BYTES = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame taken apart: decoding the body is the codec's work."""

    codec: type[Codec]
    layout: Layout
    body: bytes | memoryview
    is_key_frame: bool

    def decode(self, held: Held = None) -> list[Array]:
        """The update's (or state's) tensors, in layout order; `held` as in `Codec.decode`.

        Raises:
            FormatError: the body is not one of this layout, or this machine cannot hold what it claims to be.
        """
        try:
            return self.codec.decode(self.body, self.layout, held)  # type: ignore[arg-type]  # a view only of a Cast's
        except MemoryError as error:
            raise FormatError(
                f"the frame claims {self.layout.size} parameters, more than fit in memory"
            ) from error

    def add_to(self, arrays: Sequence[Array], *, in_parts: bool = False) -> None:
        """Adds the tensors to `arrays` in place: one float32 addition per value, as to what `decode` gives.

        With `in_parts` parts of a large frame are added one by one, which needs the memory of one.

        Raises:
            FormatError: as `decode`; the arrays are as before, or with `in_parts` void.
        """
        if issubclass(self.codec, Ecsq):
            self.codec.decode_into(self._bytes, self.layout, arrays, "add", in_parts=in_parts)
            return
        if issubclass(self.codec, Cast):
            with np.errstate(over="ignore", invalid="ignore"):
                self.codec.apply(self.body, self.layout, arrays, np.add)
            return
        with np.errstate(over="ignore", invalid="ignore"):
            for array, value in zip(arrays, self.decode(), strict=True):
                np.add(array, value, out=array)

    def subtract_from_sender(self, arrays: Sequence[Array]) -> None:
        """Subtracts the tensors in place from the very arrays that this frame was made of: what is still owed."""
        if issubclass(self.codec, Ecsq):
            self.codec.subtract_encoded(self._bytes, self.layout, arrays)
            return
        if issubclass(self.codec, Cast):
            with np.errstate(over="ignore"):
                self.codec.apply(self.body, self.layout, arrays, np.subtract)
            return
        with np.errstate(over="ignore"):
            for array, value in zip(arrays, self.decode(), strict=True):
                np.subtract(array, value, out=array)

    @property
    def _bytes(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else bytes(self.body)


def not_finite(layout: Layout, tensor: int) -> ConfigError:
    """The refusal of an update whose tensor number `tensor` is broken."""
    return ConfigError(
        f"tensor '{layout.specs[tensor].name}' holds NaN or infinity, nothing was encoded",
        hint="check the learning rate",
    )


def pack(
    codec: Codec,
    arrays: Sequence[Array],
    layout: Layout,
    *,
    key_frame: bool = False,
    with_layout: bool = False,
    hints: Hints = NO_HINTS,
) -> bytes:
    """The frame that carries `arrays`.

    Raises:
        ConfigError: a tensor holds NaN or infinity; it is named. Or the layout is too large to go along.
    """
    if hints.extent is None:
        extent, broken = backend().ecsq_extent(arrays)
        if broken >= 0:
            raise not_finite(layout, broken)
        hints = replace(hints, extent=extent)
    kind = codec.code | (KEY_FRAME if key_frame else 0)
    if with_layout:
        if key_frame:
            raise ConfigError(
                "a frame that stands alone is not marked as a key-frame", hint="leave one of both"
            )
        head = Head(Contents.of(layout)).pack()
        start = bytes([MAGIC + VERSION, kind | STAND_ALONE]) + varint.pack(len(head)) + head
    else:
        start = bytes([MAGIC + VERSION, kind])
    if isinstance(codec, Ecsq) and codec.bytes is not None:
        codec = codec.within(codec.bytes - len(start) - CHECKSUM_BYTES)
    written, checksum = io.BytesIO(), zlib.crc32(b"" if with_layout else bytes.fromhex(layout.digest))
    if isinstance(codec, Cast):  # as large as the update: its memory is taken once
        parts: Iterable[bytes | memoryview] = itertools.chain([start], codec.runs(arrays))
        written.seek(len(start) + codec.wire.itemsize * layout.size + CHECKSUM_BYTES - 1)
        written.write(b"\0")
        written.seek(0)
    else:
        parts = [start, codec.encode(arrays, layout, hints)]
    for part in parts:
        written.write(part)
        checksum = zlib.crc32(part, checksum)
    written.write(checksum.to_bytes(CHECKSUM_BYTES, "little"))
    return written.getvalue()


def codec_of_wire(head: bytes) -> type[Codec]:
    """The codec of a frame that carries no layout, by its first `WIRE_HEAD_BYTES`; its checksum is not looked at.

    Raises:
        FormatError: it is no such frame.
    """
    if len(head) < WIRE_HEAD_BYTES or head[0] != MAGIC + VERSION or head[1] & STAND_ALONE:
        raise FormatError("expected a frame from the wire, found other bytes")
    return codec_for_code(head[1] & CODEC_CODE)


def unpack(frame: bytes, layout: Layout | None = None, *, max_parameters: int | None = None) -> Frame:
    """The frame's parts, after its checksum.

    Raises:
        FormatError: truncated, altered, of another version, made for another layout, or for more than
            `max_parameters`.
        ConfigError: the frame carries no layout and the caller gave none.
    """
    if len(frame) < 2 + CHECKSUM_BYTES:
        raise FormatError(f"expected a frame, found only {len(frame)} bytes")
    if frame[0] != MAGIC + VERSION:
        raise FormatError(f"expected a frame of version {VERSION}, found the first byte 0x{frame[0]:02x}")
    start, known, digest = 2, layout, ""
    if not frame[1] & STAND_ALONE:
        if layout is None:
            raise ConfigError("the frame carries no layout", hint="pass the layout that both ends agreed on")
        digest = layout.digest
    if _checksum(memoryview(frame)[:-CHECKSUM_BYTES], digest) != frame[-CHECKSUM_BYTES:]:
        raise FormatError(
            "the frame's checksum does not match: truncated, altered, or made for another layout"
        )
    if frame[1] & STAND_ALONE:
        if frame[1] & KEY_FRAME:
            raise FormatError("the frame stands alone and is marked as a key-frame")
        layout, start = _read_layout(frame)
    assert layout is not None
    if known is not None and layout.digest != known.digest:
        raise FormatError("the frame carries another layout than the one agreed")
    if max_parameters is not None and layout.size > max_parameters:
        raise FormatError(
            f"the frame claims {layout.size} parameters, more than {max_parameters}",
            hint="raise max_parameters if you trust its sender",
        )
    codec = codec_for_code(frame[1] & CODEC_CODE)
    body = memoryview(frame)[start:-CHECKSUM_BYTES]
    return Frame(codec, layout, body if issubclass(codec, Cast) else bytes(body), bool(frame[1] & KEY_FRAME))


def codec_name(frame: bytes) -> str:
    """The name of the codec that a frame says it is of; nothing else of it is checked.

    Raises:
        FormatError: there is no such codec, or no frame.
    """
    if len(frame) < 2:
        raise FormatError(f"expected a frame, found only {len(frame)} bytes")
    return codec_for_code(frame[1] & CODEC_CODE).name


def stands_alone(frame: bytes) -> bool:
    """Whether these bytes begin like a frame that says itself which tensors it has."""
    return len(frame) >= 2 and frame[0] & 0xF0 == MAGIC and bool(frame[1] & STAND_ALONE)


def step_of(frame: bytes, layout: Layout) -> float | None:
    """The quantiser step that an `ecsq` frame used, or None for other codecs."""
    if len(frame) > 1 and not issubclass(codec_for_code(frame[1] & CODEC_CODE), Ecsq):
        return None
    parts = unpack(frame, layout)
    return parts.codec.last_step(parts._bytes) if issubclass(parts.codec, Ecsq) else None


def _checksum(frame: bytes | memoryview, digest: str) -> bytes:
    return zlib.crc32(frame, zlib.crc32(bytes.fromhex(digest))).to_bytes(CHECKSUM_BYTES, "little")


def _read_layout(frame: bytes) -> tuple[Layout, int]:
    """The layout in a stand-alone frame, and where its body begins."""
    size, start = varint.unpack(frame, 2)
    if size > len(frame) - start - CHECKSUM_BYTES:
        raise FormatError("the frame ends inside its head")
    head = Head.unpack(frame[start : start + size])
    if (
        head.base
        or head.has_error
        or head.has_sections
        or {s.dtype for s in head.contents.specs} != {"float32"}
    ):
        raise FormatError(
            "the frame is that of a file, which may hold more", hint="decode it without naming a layout"
        )
    return head.contents.layout, start + size

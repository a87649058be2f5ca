"""A frame: one encoded update, or one whole state, in as few bytes as the codec needs plus six.

Format, version 0 (experimental):

    byte 0      0xB0 + version
    byte 1      codec (low 6 bits) · 0x40 key-frame (a whole state) · 0x80 the layout follows
    if 0x80     varint n · n bytes of layout, canonical JSON in one zstd frame with its size declared
    ...         the codec's body
    last 4      CRC-32 (little-endian) over the layout's digest and everything before

On the wire both ends know the layout, so it is left out; the checksum covers its digest, and a frame for another
layout is refused like an altered one. The checksum finds accidents; who sent what is the ledger's business.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from phloem import canonical, varint
from phloem.codecs.base import NO_HINTS, Codec, Held, Hints
from phloem.codecs.ecsq import Ecsq
from phloem.codecs.registry import codec_for_code
from phloem.errors import ConfigError, FormatError
from phloem.tensors import Array, Layout

VERSION = 0
_MAGIC = 0xB0
_KEY_FRAME = 0x40
_WITH_LAYOUT = 0x80
_CHECKSUM_BYTES = 4
# What a frame may bring along, so that a small one is not much work: canonical JSON before compression.
_LARGEST_LAYOUT_BYTES = 4 << 20
_MOST_TENSORS = 65_536


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame taken apart: decoding the body is the codec's work."""

    codec: type[Codec]
    layout: Layout
    body: bytes
    is_key_frame: bool

    def decode(self, held: Held = None) -> list[Array]:
        """The update's (or state's) tensors, in layout order; `held` as in `Codec.decode`.

        Raises:
            FormatError: the body is not one of this layout, or this machine cannot hold what it claims to be.
        """
        try:
            return self.codec.decode(self.body, self.layout, held)
        except MemoryError as error:
            raise FormatError(
                f"the frame claims {self.layout.size} parameters, more than fit in memory"
            ) from error


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
    broken = layout.first_non_finite(arrays)
    if broken is not None:
        raise ConfigError(f"tensor '{broken}' holds NaN or infinity, nothing was encoded")
    head = bytearray([_MAGIC + VERSION, codec.code | (_KEY_FRAME if key_frame else 0)])
    if with_layout:
        head[1] |= _WITH_LAYOUT
        packed = zstandard.ZstdCompressor(level=19).compress(_carried_text(layout))
        head += varint.pack(len(packed)) + packed
    if isinstance(codec, Ecsq) and codec.bytes is not None:
        codec = codec.within(codec.bytes - len(head) - _CHECKSUM_BYTES)
    frame = bytes(head) + codec.encode(arrays, layout, hints)
    return frame + _checksum(frame, layout.digest)


def unpack(frame: bytes, layout: Layout | None = None, *, max_parameters: int | None = None) -> Frame:
    """The frame's parts, after its checksum.

    Raises:
        FormatError: truncated, altered, of another version, made for another layout, or for more than
            `max_parameters`.
        ConfigError: the frame carries no layout and the caller gave none.
    """
    if len(frame) < 2 + _CHECKSUM_BYTES:
        raise FormatError(f"expected a frame, found only {len(frame)} bytes")
    if frame[0] != _MAGIC + VERSION:
        raise FormatError(f"expected a frame of version {VERSION}, found the first byte 0x{frame[0]:02x}")
    start, text = 2, None
    if frame[1] & _WITH_LAYOUT:
        size, start = varint.unpack(frame, start)
        if size > len(frame) - start - _CHECKSUM_BYTES:
            raise FormatError("the frame ends inside its layout")
        text, start = _decompress(frame[start : start + size]), start + size
        digest = canonical.digest(text)
    elif layout is None:
        raise ConfigError("the frame carries no layout", hint="pass the layout that both ends agreed on")
    else:
        digest = layout.digest
    if _checksum(frame[:-_CHECKSUM_BYTES], digest) != frame[-_CHECKSUM_BYTES:]:
        raise FormatError(
            "the frame's checksum does not match: truncated, altered, or made for another layout"
        )
    if layout is None:
        assert text is not None
        layout = _read_layout(text)
    elif layout.digest != digest:
        raise FormatError("the frame carries another layout than the one agreed")
    if max_parameters is not None and layout.size > max_parameters:
        raise FormatError(
            f"the frame claims {layout.size} parameters, more than {max_parameters}",
            hint="raise max_parameters if you trust its sender",
        )
    codec = codec_for_code(frame[1] & 0x3F)
    return Frame(codec, layout, frame[start:-_CHECKSUM_BYTES], bool(frame[1] & _KEY_FRAME))


def step_of(frame: bytes, layout: Layout) -> float | None:
    """The quantiser step that an `ecsq` frame used, or None for other codecs."""
    parts = unpack(frame, layout)
    return parts.codec.last_step(parts.body) if issubclass(parts.codec, Ecsq) else None


def _checksum(frame: bytes, digest: str) -> bytes:
    return zlib.crc32(frame, zlib.crc32(bytes.fromhex(digest))).to_bytes(4, "little")


def _carried_text(layout: Layout) -> bytes:
    text = layout.to_json()
    if len(text) > _LARGEST_LAYOUT_BYTES or len(layout.specs) > _MOST_TENSORS:
        raise ConfigError(
            f"the layout has {len(layout.specs)} tensors in {len(text)} bytes; a frame carries at most "
            f"{_MOST_TENSORS} in {_LARGEST_LAYOUT_BYTES >> 20} MiB",
            hint="encode parts of the update",
        )
    return text


def _read_layout(text: bytes) -> Layout:
    layout = Layout.from_json(text)
    if len(layout.specs) > _MOST_TENSORS:
        raise FormatError(f"the frame carries a layout of more than {_MOST_TENSORS} tensors")
    return layout


def _decompress(packed: bytes) -> bytes:
    try:
        size = zstandard.get_frame_parameters(packed).content_size
        if size > _LARGEST_LAYOUT_BYTES:
            raise FormatError("the frame claims a layout of more than 4 MiB")
        return zstandard.ZstdDecompressor().decompress(
            packed, max_output_size=_LARGEST_LAYOUT_BYTES, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise FormatError(f"the frame's layout does not decompress: {error}") from error

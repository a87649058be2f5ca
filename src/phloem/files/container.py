"""The stand-alone frame of a file: a head, then one body per section, read and written section by section.

    byte 0      0xB0 + version
    byte 1      codec of the sections that are not exact (low 6 bits) · 0x80; `lossless`: all sections are exact
    number n    n bytes of head (`phloem.wire.contents`)
    ...         one section (`phloem.files.sections`): its body
                more, and then the head says so: for each section number n · n bytes of body
    2           if the head says so, Σ(restored − new)² ÷ Σ(new − base)² as the upper half of a float32
    last 4      CRC-32 (little-endian) of everything before

The body of an exact section is that of `phloem.codecs.lossless` for its tensors' bytes one after another, against
the base's bytes of the same tensors (in the new type, if theirs is another). Other bodies are the codec's, for the
float32 differences; `phloem.files.dtypes` says how they are added. A frame of `phloem.encode` is one with a single
section of float32, whatever its size.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from phloem import varint
from phloem.codecs.base import Codec
from phloem.codecs.casts import from_bf16, to_bf16
from phloem.codecs.lossless import Lossless
from phloem.codecs.registry import codec_for_code
from phloem.errors import ConfigError, FormatError
from phloem.files.sections import Section, sections
from phloem.wire.contents import LARGEST_TABLE_BYTES, Contents, Head
from phloem.wire.frame import CHECKSUM_BYTES, CODEC_CODE, KEY_FRAME, MAGIC, STAND_ALONE, VERSION

_ERROR_BYTES = 2
#: No codec needs more than this for a section, so a longer one is refused before it is read.
_MOST_BYTES_PER_PARAMETER, _MOST_BYTES_BESIDE = 16, 1 << 17
_PIECE = 1 << 20


class FrameWriter:
    """A stand-alone frame in the making: give it every section's body, then finish."""

    def __init__(self, file: BinaryIO, code: int, head: Head) -> None:
        self._file, self._head = file, head
        self._left = len(sections(head.contents.specs, lossless=code == Lossless.code))
        self._crc = self.size_bytes = 0
        packed = head.pack()
        self._put(bytes([MAGIC + VERSION, code | STAND_ALONE]) + varint.pack(len(packed)) + packed)

    def section(self, body: bytes) -> None:
        """Puts the next section's body."""
        self._left -= 1
        if self._head.has_sections:
            self._put(varint.pack(len(body)))
        self._put(body)

    def finish(self, error: float | None) -> None:
        """Puts what follows the last section."""
        assert self._left == 0
        assert (error is not None) == self._head.has_error
        if error is not None:
            self._put(to_bf16(np.array([error], np.float32)).astype("<u2").tobytes())
        self._put(struct.pack("<I", self._crc))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self.size_bytes += len(data)


@dataclass(frozen=True)
class FrameReader:
    """A stand-alone frame in an open file whose checksum was right; its sections are read one by one.

    Attributes:
        codec: the codec of sections that are not exact; `Lossless` where all are.
        head: names, shapes, dtypes and base.
        size_bytes: the size of the whole frame.
        error: the measured error, or None where the frame has none.
    """

    codec: type[Codec]
    head: Head
    size_bytes: int
    error: float | None
    _file: BinaryIO
    _start: int

    @classmethod
    def open(cls, file: BinaryIO, size_bytes: int, *, checked: bool = True) -> FrameReader:
        """The frame in a file of this size; with `checked` false its checksum is left to who checks the result.

        Raises:
            FormatError: it is no frame of this version, or truncated or altered. ConfigError: it does not stand alone.
        """
        first = file.read(16)
        if size_bytes < 3 + CHECKSUM_BYTES or first[0] & 0xF0 != MAGIC:
            raise FormatError(f"expected a frame, found {size_bytes} bytes that do not begin like one")
        if first[0] != MAGIC + VERSION:
            raise FormatError(f"expected a frame of version {VERSION}, found the first byte 0x{first[0]:02x}")
        if not first[1] & STAND_ALONE:
            raise ConfigError(
                "the frame carries no layout",
                hint="it is one from the wire; in Python: phloem.decode(frame, layout)",
            )
        if checked:
            _check(file, size_bytes)
        if first[1] & KEY_FRAME:
            raise FormatError("the frame stands alone and is marked as a key-frame")
        size, start = varint.unpack(first, 2)
        end = size_bytes - CHECKSUM_BYTES
        if size > min(end - start, 2 * LARGEST_TABLE_BYTES):
            raise FormatError("the frame ends inside its head")
        codec = codec_for_code(first[1] & CODEC_CODE)
        file.seek(start)
        head = Head.unpack(file.read(size))
        error = None
        if head.has_error:
            if end - start - size < _ERROR_BYTES:
                raise FormatError("the frame ends before its measured error")
            file.seek(end - _ERROR_BYTES)
            error = float(from_bf16(np.frombuffer(file.read(_ERROR_BYTES), dtype="<u2"))[0])
            if not 0.0 <= error < float("inf"):
                raise FormatError("the frame's measured error is not a number")
        return cls(codec, head, size_bytes, error, file, start + size)

    @property
    def lossless(self) -> bool:
        """Whether every section is exact."""
        return self.codec.code == Lossless.code

    @property
    def contents(self) -> Contents:
        """The tensors."""
        return self.head.contents

    def parts(self) -> list[Section]:
        """The frame's sections.

        Raises:
            FormatError: the head says other things of them than the table.
        """
        specs = self.contents.specs
        found = sections(specs, lossless=self.lossless)
        if self.head.has_sections == (len(found) > 1):
            return found
        if self.head.has_sections or any(spec.dtype != "float32" for spec in specs):
            raise FormatError(f"the frame has {len(found)} sections, and its head says something else")
        return [Section(specs, self.lossless)]

    def bodies(self) -> Iterator[tuple[Section, bytes]]:
        """Every section and its body.

        Raises:
            FormatError: a section is longer than it can be, or bytes are missing or left over.
        """
        for section, at, size in self.places():
            self._file.seek(at)
            body = self._file.read(size)
            if len(body) != size:
                raise FormatError("the frame became shorter while it was read")
            yield section, body

    def places(self) -> Iterator[tuple[Section, int, int]]:
        """Every section, and where in the file its body begins and how long it is.

        Raises:
            FormatError: as `bodies`.
        """
        at, end = self._start, self.size_bytes - CHECKSUM_BYTES
        if self.head.has_error:
            end -= _ERROR_BYTES
        for section in self.parts():
            size = end - at
            if self.head.has_sections:
                self._file.seek(at)
                size, taken = varint.unpack(self._file.read(10), 0)
                at += taken
            most = _MOST_BYTES_PER_PARAMETER * section.size + _MOST_BYTES_BESIDE
            if not 0 <= size <= min(most, end - at):
                raise FormatError("a section of the frame ends outside it, or is longer than it can be")
            yield section, at, size
            at += size
        if at != end:
            raise FormatError(f"{end - at} bytes follow the frame's last section")


def _check(file: BinaryIO, size_bytes: int) -> None:
    """Refuses a frame whose checksum is not that of the bytes before it."""
    file.seek(0)
    crc, left = 0, size_bytes - CHECKSUM_BYTES
    while left:
        piece = file.read(min(left, _PIECE))
        if not piece:
            break
        crc = zlib.crc32(piece, crc)
        left -= len(piece)
    if left or file.read(CHECKSUM_BYTES) != struct.pack("<I", crc):
        raise FormatError("the frame's checksum does not match: truncated or altered")

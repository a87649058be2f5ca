"""The stand-alone frame of a file: a head, then one body per section, read and written section by section.

    byte 0      0xB0 + version
    byte 1      codec of the sections that are not exact (low 6 bits) · 0x80; `lossless`: all sections are exact
    number n    n bytes of head (`phloem.wire.contents`)
    one section (`phloem.files.sections`): its body. More, and then the head says so: for each section

        number  the length of its body
        ...     its body
        4       CRC-32 of everything before, but not after the last section

    2           if the head says so, Σ(restored − new)² ÷ Σ(new − base)² as the upper half of a float32
    last 4      CRC-32 (little-endian) of everything before

The body of an exact section is that of `phloem.codecs.lossless` for its tensors' bytes one after another, against
the base's bytes of the same tensors (in the new type, if theirs is another). Other bodies are the codec's, for the
float32 differences. A frame of `phloem.encode` is one with a single section of float32, whatever its size.
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
from phloem.codecs.registry import codec_for_code
from phloem.errors import ConfigError, FormatError
from phloem.files.exact import Lossless
from phloem.files.sections import Section, sections
from phloem.wire.contents import LARGEST_TABLE_BYTES, Head
from phloem.wire.frame import CHECKSUM_BYTES, CODEC_CODE, MAGIC, STAND_ALONE, VERSION

_ERROR_BYTES = 2
#: No codec needs more than this for a section, so a longer one is refused before it is read.
_MOST_BYTES_PER_PARAMETER, _MOST_BYTES_BESIDE = 16, 1 << 17


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
        if self._left:
            self._put(self._checksum())

    def finish(self, error: float | None) -> None:
        """Puts what follows the last section."""
        assert self._left == 0
        assert (error is not None) == self._head.has_error
        if error is not None:
            self._put(to_bf16(np.array([error], np.float32)).astype("<u2").tobytes())
        self._put(self._checksum())

    def _checksum(self) -> bytes:
        return struct.pack("<I", self._crc)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self.size_bytes += len(data)


@dataclass
class FrameReader:
    """A stand-alone frame in an open file, its head read and its sections not yet.

    Attributes:
        codec: the codec of sections that are not exact; `Lossless` where all are.
        head: names, shapes, dtypes and base.
        size_bytes: the size of the whole frame.
        error: the measured error, once the last section was read; None where there is none.
    """

    codec: type[Codec]
    head: Head
    size_bytes: int
    error: float | None
    _file: BinaryIO
    _crc: int
    _start: int

    @classmethod
    def open(cls, file: BinaryIO, size_bytes: int) -> FrameReader:
        """The frame in a file of this size.

        Raises:
            FormatError: it is not a frame, or not of this version. ConfigError: it does not stand alone.
        """
        first = file.read(16)
        if len(first) < 2 + CHECKSUM_BYTES or first[0] & 0xF0 != MAGIC:
            raise FormatError(f"expected a frame, found {size_bytes} bytes that do not begin like one")
        if first[0] != MAGIC + VERSION:
            raise FormatError(f"expected a frame of version {VERSION}, found the first byte 0x{first[0]:02x}")
        if not first[1] & STAND_ALONE:
            raise ConfigError("the frame carries no layout", hint="pass the layout that both ends agreed on")
        size, start = varint.unpack(first, 2)
        if size > min(size_bytes - start - CHECKSUM_BYTES, 2 * LARGEST_TABLE_BYTES):
            raise FormatError("the frame ends inside its head")
        file.seek(start)
        packed = file.read(size)
        crc = zlib.crc32(packed, zlib.crc32(first[:start]))
        codec = codec_for_code(first[1] & CODEC_CODE)
        return cls(codec, Head.unpack(packed), size_bytes, None, file, crc, start + size)

    @property
    def lossless(self) -> bool:
        """Whether every section is exact."""
        return self.codec.code == Lossless.code

    def sections(self) -> Iterator[tuple[Section, bytes]]:
        """Every section and its body, whose checksum was right; after the last, `error` is known.

        Raises:
            FormatError: a checksum or length is wrong, or bytes are missing or left over.
        """
        found = sections(self.head.contents.specs, lossless=self.lossless)
        if (len(found) > 1) != self.head.has_sections and not self._is_one_body(found):
            raise FormatError(f"the frame has {len(found)} sections, and its head does not say so")
        tail = CHECKSUM_BYTES + (_ERROR_BYTES if self.head.has_error else 0)
        if not self.head.has_sections:
            found = [Section(self.head.contents.specs, found[0].exact)]
        self._file.seek(self._start)
        at = self._start
        for number, section in enumerate(found):
            last = number == len(found) - 1
            size = self.size_bytes - at - tail
            if self.head.has_sections:
                size, taken = self._length(size)
                at += taken
            most = _MOST_BYTES_PER_PARAMETER * section.size + _MOST_BYTES_BESIDE
            if not 0 <= size <= min(most, self.size_bytes - at - tail):
                raise FormatError("a section of the frame ends outside it")
            body = self._take(size)
            at += size
            if last:
                if at != self.size_bytes - tail:
                    raise FormatError(f"{self.size_bytes - tail - at} bytes follow the frame's last section")
                self._finish()
            else:
                self._check()
                at += CHECKSUM_BYTES
            yield section, body

    def _is_one_body(self, found: list[Section]) -> bool:
        """Whether this is a large frame of `phloem.encode`: all float32, in one body."""
        plain = all(spec.dtype == "float32" for spec in self.head.contents.specs)
        return plain and not self.head.has_sections and not any(section.exact for section in found)

    def _length(self, most: int) -> tuple[int, int]:
        packed = b""
        while True:
            packed += self._take(1)
            if packed[-1] < 0x80 or len(packed) == 10:
                break
        length, taken = varint.unpack(packed, 0)
        if length > most - taken:
            raise FormatError("a section of the frame ends outside it")
        return length, taken

    def _finish(self) -> None:
        if self.head.has_error:
            half = np.frombuffer(self._take(_ERROR_BYTES), dtype="<u2")
            self.error = float(from_bf16(half)[0])
            if not 0.0 <= self.error < float("inf"):
                raise FormatError("the frame's measured error is not a number")
        self._check()

    def _check(self) -> None:
        crc = self._crc
        if self._take(CHECKSUM_BYTES) != struct.pack("<I", crc):
            raise FormatError("the frame's checksum does not match: truncated or altered")

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise FormatError("the frame is cut short")
        self._crc = zlib.crc32(data, self._crc)
        return data

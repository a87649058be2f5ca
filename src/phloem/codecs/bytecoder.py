"""Byte coders: the last stages of a `chain`, which know nothing of tensors. `zstd` is the only one.

Specification of `zstd`: a varint with the number of bytes, and unless that is zero one Zstandard frame that declares
the same number. On its own, what it holds are the values as float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import zstandard

from phloem import varint
from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.casts import NoCompression
from phloem.codecs.config import FromConfig, check_whole
from phloem.errors import FormatError
from phloem.tensors import Array, Layout


@dataclass(frozen=True)
class Zstd(FromConfig):
    """Bytes compressed by Zstandard; on its own the float32 values, lossless.

    Source: Collet and Kucherawy, RFC 8878, 2021.
    """

    level: int = 3

    name: ClassVar[str] = "zstd"
    code: ClassVar[int] = 19
    lossless: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("codec 'zstd'", "level", self.level, 1, 22)

    def pack(self, data: bytes) -> bytes:
        """`data`, compressed."""
        head = varint.pack(len(data))
        return head + zstandard.ZstdCompressor(level=self.level).compress(data) if data else head

    @classmethod
    def unpack(cls, data: bytes, most: int) -> bytes:
        """What `pack` was given.

        Raises:
            FormatError: not that, or more than `most` bytes.
        """
        size, start = varint.unpack(data, 0)
        if size > most:
            raise FormatError(f"zstd: the frame claims {size} bytes, expected at most {most}")
        packed = data[start:]
        if size == 0:
            if packed:
                raise FormatError("zstd: bytes follow an empty content")
            return b""
        try:
            declared = zstandard.get_frame_parameters(packed).content_size
            if declared != size:
                raise FormatError(f"zstd: expected a content of {size} bytes, found {declared}")
            content: bytes = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FormatError(f"zstd: the content does not decompress: {error}") from error
        if len(content) != size:
            raise FormatError(f"zstd: expected a content of {size} bytes, found {len(content)}")
        return content

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The float32 values, compressed."""
        return self.pack(NoCompression().encode(arrays, layout))

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """The values again, bit for bit."""
        return NoCompression.decode(cls.unpack(body, 4 * layout.size), layout)

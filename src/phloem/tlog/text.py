"""What the formats of this package have in common: base64 and decimals of one spelling each."""

from __future__ import annotations

import base64
import binascii

from phloem.errors import FormatError
from phloem.tlog.merkle import HASH_BYTES, LARGEST_SIZE


def to_base64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str, what: str, size: int | None = None) -> bytes:
    """The bytes that `text` stands for, of `size` where that is known.

    Raises:
        FormatError: it is no base64, or another spelling of it (line breaks, missing padding, stray bits).
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise FormatError(f"{what} is no base64: {text!r:.80}") from error
    if to_base64(data) != text:
        raise FormatError(f"{what} is not written as base64 is: {text!r:.80}")
    if size is not None and len(data) != size:
        raise FormatError(f"{what} has {len(data)} bytes, expected {size}")
    return data


def hash_from_base64(text: str, what: str = "a hash") -> bytes:
    """The hash that `text` stands for."""
    return from_base64(text, what, HASH_BYTES)


def from_decimal(text: str, what: str, largest: int = LARGEST_SIZE) -> int:
    """The number that `text` stands for: ASCII digits without leading zeros, at most `largest`.

    Raises:
        FormatError: it is written otherwise, or larger.
    """
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0"):
        raise FormatError(f"{what} is no decimal number: {text!r:.80}")
    if len(text) > len(str(largest)) or int(text) > largest:
        raise FormatError(f"{what} is larger than {largest}: {text:.80}")
    return int(text)

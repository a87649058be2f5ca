"""The order of certificates in a time stamp.

They are a set, which DER writes in ascending order, and many authorities in the order of the chain. No signature covers
them, so they are put in order before the strict reader sees them; nothing gets longer or shorter by that.

Source: X.690 sections 8.1 and 11.6; RFC 3161 section 2.4.2, RFC 5652 section 5.1.
"""

from __future__ import annotations

from phloem.errors import FormatError

_SEQUENCE, _SET, _INTEGER, _OBJECT, _FIRST = 0x30, 0x31, 0x02, 0x06, 0xA0
_LONG = 0x80
_MOST_LENGTH_BYTES = 4

# What stands before the certificates: in the response the status, in the token its kind, and in the signed data the
# version, the digests and what is signed. Each level is the last thing that the level above has before it.
_PATH = (
    (_SEQUENCE, ()),
    (_SEQUENCE, (_SEQUENCE,)),
    (_FIRST, (_OBJECT,)),
    (_SEQUENCE, ()),
    (_FIRST, (_INTEGER, _SET, _SEQUENCE)),
)


def with_sorted_certificates(response: bytes) -> bytes:
    """The same time stamp response with its certificates in ascending order; as it is where there are none.

    Raises:
        FormatError: it is no DER.
    """
    start, end = 0, len(response)
    for tag, before in _PATH:
        for passed in before:
            found, _, after = _element(response, start, end)
            if found != passed:
                return response
            start = after
        if start == end:
            return response
        found, content, after = _element(response, start, end)
        if found != tag:
            return response
        start, end = content, after
    certificates = []
    place = start
    while place < end:
        _, _, after = _element(response, place, end)
        certificates.append(response[place:after])
        place = after
    return response[:start] + b"".join(sorted(certificates)) + response[end:]


def _element(data: bytes, start: int, end: int) -> tuple[int, int, int]:
    """The tag of the element at `start`, where its content begins, and where it ends."""
    if end - start < 2:
        raise FormatError("the time stamp is cut off")
    tag, length, content = data[start], data[start + 1], start + 2
    if length >= _LONG:
        count = length - _LONG
        if not 0 < count <= _MOST_LENGTH_BYTES:
            raise FormatError("the time stamp has a length that DER does not write")
        length, content = int.from_bytes(data[content : content + count], "big"), content + count
    if content + length > end:
        raise FormatError("the time stamp is cut off")
    return tag, content, content + length

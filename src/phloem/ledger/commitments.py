"""Commitments: an entry names the bytes that were sent without showing anything of them.

    HMAC-SHA256(salt, CONTEXT "/v1" 0x00 · SHA256(content))

A salt is 32 bytes that nobody can guess. Who holds it and the content can show what was meant; without it the
commitment tells nothing, not even whether two contents are the same. To destroy the salt is to erase the link.

An entry is made with 32 fresh random bytes, and each of its commitments with a salt of its own that comes from them
(`salt_for`): who is shown a frame with its salt does not learn how many examples it stands for.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

SALT_BYTES = 32
FRAME, WEIGHT, METRICS = "frame", "weight", "metrics"


def new_salt() -> bytes:
    """32 random bytes."""
    return secrets.token_bytes(SALT_BYTES)


def salt_for(secret: bytes, context: str) -> bytes:
    """The salt of an entry's commitment in this context, from the entry's random bytes."""
    return hmac.digest(secret, context.encode() + b"/salt", "sha256")


def commitment(salt: bytes, context: str, content: bytes) -> str:
    """The commitment to `content` in hexadecimal.

    >>> commitment(bytes(32), FRAME, b"abc")[:16]
    '83b10abd3892fc46'
    """
    return commitment_to(salt, context, sha256(content).digest())


def commitment_to(salt: bytes, context: str, digest: bytes) -> str:
    """The same, of a content whose SHA-256 is known."""
    return hmac.digest(salt, context.encode() + b"/v1\0" + digest, "sha256").hex()

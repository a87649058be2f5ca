"""What every kind of anchor shows, and what a reader must bring to believe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from phloem.errors import FormatError, NotFoundError, ProofError
from phloem.tlog.checkpoint import Checkpoint

VERSION = 1
"""Of the proof files."""

LARGEST_PROOF = 1 << 20
EVM, RFC3161 = "evm", "rfc3161"

_LATEST = 253_402_300_799  # the last second of the year 9999


@dataclass(frozen=True)
class Anchored:
    """A checkpoint with `size` and `root`, of the log whose origin has the digest `origin_hash`, existed by a time.

    Units: seconds since 1970. The anchor's own clock stood between `when_low` and `when_high`; how far that clock is to
    be trusted is the reader's to know. `details` say who vouches, by names that depend on the kind; every one of them
    is proven as the rest is.
    """

    kind: str
    origin_hash: bytes
    size: int
    root: bytes
    when_low: int
    when_high: int
    details: Mapping[str, str | int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not 0 <= self.when_low <= self.when_high <= _LATEST:
            raise FormatError(f"the anchor names a time that no calendar has: {self.when_high}")


@dataclass(frozen=True)
class Trust:
    """What the reader believes; what is None is not known.

    `block_hash` is the hash of the block that an `evm` proof is of, and `contract` the address of the log's contract.
    `tsa_roots` are certificates (PEM) of authorities, and `tsa_policy` is the policy that a token must name.
    """

    block_hash: bytes | None = None
    contract: bytes | None = None
    tsa_roots: bytes | None = None
    tsa_policy: str | None = None


def hash_of_origin(origin: str) -> bytes:
    """The digest by which anchors name a log."""
    return sha256(origin.encode()).digest()


def compare(found: Anchored, note: Checkpoint) -> None:
    """Nothing, if what is anchored is this checkpoint.

    Raises:
        ProofError: it is another log's, an earlier one, or one of the same size with another root.
        NotFoundError: it is a later one, which by itself says nothing of this.
    """
    if found.origin_hash != hash_of_origin(note.origin):
        raise ProofError(f"the anchor is of another log than '{note.origin:.80}'")
    if found.size < note.size:
        raise ProofError(
            f"the anchor is of an earlier checkpoint, of {found.size} entries; this one has {note.size}"
        )
    if found.size > note.size:
        raise NotFoundError(
            f"the anchor is of a later checkpoint, of {found.size} entries; this one has {note.size}",
            hint="it covers this one if the log proves that this one is its beginning",
        )
    if found.root != note.root:
        raise ProofError(
            f"the anchor has another root for {note.size} entries: the log showed two histories",
            hint=f"anchored: {found.root.hex()}, in the checkpoint: {note.root.hex()}",
        )


def hexed(data: bytes) -> str:
    """Bytes as proofs write them.

    >>> hexed(bytes([15, 255]))
    '0x0fff'
    """
    return "0x" + data.hex()


def unhexed(text: str, what: str, size: int | None = None) -> bytes:
    """The bytes that `hexed` wrote, `size` of them where that is known.

    Raises:
        FormatError: it is another spelling, or has another length.
    """
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise FormatError(f"{what} is not hexadecimal: {text!r:.80}") from error
    if hexed(data) != text:
        raise FormatError(f"{what} is not written as 0x and small hexadecimal digits: {text!r:.80}")
    if size is not None and len(data) != size:
        raise FormatError(f"{what} has {len(data)} bytes, expected {size}")
    return data

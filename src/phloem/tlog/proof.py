"""Receipts: an entry's index, its inclusion proof and a checkpoint, to be checked with no log at hand.

Source: c2sp.org/tlog-proof.
"""

from __future__ import annotations

from dataclasses import dataclass

from phloem.errors import FormatError, ProofError
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.merkle import LARGEST_SIZE, check_inclusion
from phloem.tlog.note import LARGEST_NOTE, Note
from phloem.tlog.policy import Policy
from phloem.tlog.text import from_base64, from_decimal, hash_from_base64, to_base64

FIRST_LINE = "c2sp.org/tlog-proof@v1"
_MOST_HASHES = 63


@dataclass(frozen=True, slots=True)
class Receipt:
    """That a log's checkpoint, as `note`, has an entry at `index`; `extra` is nobody's word."""

    index: int
    hashes: tuple[bytes, ...]
    note: bytes
    extra: bytes | None = None

    def pack(self) -> bytes:
        """The receipt as it is written, to a file `*.tlog-proof`."""
        lines = [FIRST_LINE]
        if self.extra is not None:
            lines.append(f"extra {to_base64(self.extra)}")
        lines += [f"index {self.index}", *map(to_base64, self.hashes), ""]
        return "".join(f"{line}\n" for line in lines).encode() + self.note

    @classmethod
    def unpack(cls, data: bytes) -> Receipt:
        """The receipt in `data`; nothing in it is verified.

        Raises:
            FormatError: it is none.
        """
        if len(data) > 2 * LARGEST_NOTE:
            raise FormatError(f"a receipt of {len(data)} bytes is too large")
        head, gap, note = data.partition(b"\n\n")
        try:
            lines = head.decode().split("\n")
        except UnicodeDecodeError as error:
            raise FormatError(f"a receipt is not UTF-8: {error}") from error
        if not gap or lines.pop(0) != FIRST_LINE:
            raise FormatError(f"expected a receipt, which begins with {FIRST_LINE}")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = from_base64(lines.pop(0).removeprefix("extra "), "a receipt's extra data")
        if not lines or not lines[0].startswith("index "):
            raise FormatError("a receipt names no index")
        index = from_decimal(lines.pop(0).removeprefix("index "), "a receipt's index", LARGEST_SIZE - 1)
        if len(lines) > _MOST_HASHES:
            raise FormatError(f"a receipt has {len(lines)} hashes, more than {_MOST_HASHES}")
        Note.unpack(note)
        return cls(index, tuple(hash_from_base64(line) for line in lines), note, extra)

    def check(self, leaf: bytes, policy: Policy) -> Checkpoint:
        """The checkpoint that has `leaf`, the hash of an entry, at this index, as `policy` demands of checkpoints.

        Raises:
            ProofError: it is not signed as the policy demands, or its tree does not have the leaf there.
            FormatError: it is no checkpoint.
        """
        checkpoint = policy.check(self.note)
        if self.index >= checkpoint.size:
            raise ProofError(f"a tree of {checkpoint.size} entries has no entry {self.index}")
        check_inclusion(self.index, checkpoint.size, leaf, self.hashes, checkpoint.root)
        return checkpoint

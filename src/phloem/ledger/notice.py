"""What the ledger attaches to messages: a notice to every order, a word to every reply.

    notice   0x21 · flags · [run · policy · coordinator's key] · [key id (4)] · [record] · [receipt] · [own]
             receipt: note · index · hashes · old size · hashes [· count · (old size · hashes), each]
             own:     index · hashes
    word     0x22 · flags · [claim] · [record] · [size · root]

A notice introduces the log until a site is let in, and says then with which key it is. It has the record of the frame
that the order brings, and, as often as the rule about receipts says, a receipt: that a checkpoint of the log has the
entry about this trunk, grew from the one that the site saw last, and has the site's own newest entry. A word without a
record says which checkpoint that is.
"""

from __future__ import annotations

from dataclasses import dataclass

from phloem import varint
from phloem.errors import FormatError
from phloem.ledger.entry import Seen
from phloem.ledger.record import Claim, Fields, Record, pack_hashes, pack_string

_NOTICE, _WORD = 0x21, 0x22
_INTRODUCES, _KEY, _RECORD, _RECEIPT, _OWN, _MORE = 1, 2, 4, 8, 16, 64
_CLAIM, _SEEN = 1, 8
_KEY_BYTES = 4
_MOST_MORE = 8


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a site has to know of the log: the run, whom to trust, and the coordinator's key."""

    run: str
    policy: bytes
    coordinator: str


@dataclass(frozen=True, slots=True)
class Covered:
    """That the checkpoint `note` has the entry about the trunk at `index`, and grew from the one of `old` entries.

    `more` has proofs from others: where answers got lost, a coordinator does not know which one a site saw last.
    """

    note: bytes
    index: int
    inclusion: tuple[bytes, ...]
    old: int
    consistency: tuple[bytes, ...]
    more: tuple[tuple[int, tuple[bytes, ...]], ...] = ()

    def proof_from(self, size: int) -> tuple[bytes, ...] | None:
        """The proof that it grew from the checkpoint of that size; None if there is none."""
        return {**dict(self.more), self.old: self.consistency}.get(size)


@dataclass(frozen=True, slots=True)
class Own:
    """That the same checkpoint has the site's newest entry at `index`."""

    index: int
    inclusion: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """What the ledger attaches to an order; `key` is the id of the key with which the site is a member."""

    record: Record | None = None
    key: bytes = b""
    introduction: Introduction | None = None
    covered: Covered | None = None
    own: Own | None = None

    def pack(self) -> bytes:
        """The notice's bytes."""
        flags = _INTRODUCES * (self.introduction is not None) | _KEY * bool(self.key)
        flags |= _RECORD * (self.record is not None) | _RECEIPT * (self.covered is not None)
        flags |= _OWN * (self.own is not None) | _MORE * bool(self.covered and self.covered.more)
        parts = [bytes([_NOTICE, flags])]
        if (intro := self.introduction) is not None:
            parts += [
                pack_string(part) for part in (intro.run.encode(), intro.policy, intro.coordinator.encode())
            ]
        parts.append(self.key)
        if self.record is not None:
            parts.append(self.record.pack())
        if (c := self.covered) is not None:
            parts += [pack_string(c.note), varint.pack(c.index), pack_hashes(c.inclusion)]
            parts += [varint.pack(c.old), pack_hashes(c.consistency)]
            if c.more:
                parts.append(varint.pack(len(c.more)))
                parts += [varint.pack(size) + pack_hashes(hashes) for size, hashes in c.more]
        if self.own is not None:
            parts += [varint.pack(self.own.index), pack_hashes(self.own.inclusion)]
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes) -> Notice:
        """The notice in `data`.

        Raises:
            FormatError: it is none.
        """
        fields, flags = _opened(data, _NOTICE, 31 | _MORE, "a notice")
        intro = covered = own = record = None
        if flags & _INTRODUCES:
            intro = Introduction(fields.text(), fields.string(), fields.text())
        key = fields.take(_KEY_BYTES) if flags & _KEY else b""
        if flags & _RECORD:
            record = Record.read(fields)
        if flags & _RECEIPT:
            note, index, inclusion = fields.string(), fields.number(), fields.hashes()
            old, consistency = fields.number(), fields.hashes()
            more = _more(fields) if flags & _MORE else ()
            covered = Covered(note, index, inclusion, old, consistency, more)
        elif flags & _MORE:
            raise FormatError("a notice without a receipt has proofs of one")
        if flags & _OWN:
            own = Own(fields.number(), fields.hashes())
        fields.end()
        return cls(record, key, intro, covered, own)


def _more(fields: Fields) -> tuple[tuple[int, tuple[bytes, ...]], ...]:
    count = fields.number()
    if not 0 < count <= _MOST_MORE:
        raise FormatError(f"a notice has {count} more proofs, expected 1 to {_MOST_MORE}")
    return tuple((fields.number(), fields.hashes()) for _ in range(count))


@dataclass(frozen=True, slots=True)
class Word:
    """What the ledger attaches to a reply: the record of its update, a claim to a key, the checkpoint seen last."""

    record: Record | None = None
    claim: Claim | None = None
    seen: Seen | None = None

    def pack(self) -> bytes:
        """The word's bytes; none where there is nothing to say."""
        flags = _CLAIM * (self.claim is not None) | _RECORD * (self.record is not None)
        flags |= _SEEN * (self.seen is not None)
        if not flags:
            return b""
        parts = [bytes([_WORD, flags])]
        parts += [part.pack() for part in (self.claim, self.record) if part is not None]
        if self.seen is not None:
            parts += [varint.pack(self.seen.size), self.seen.root]
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes) -> Word:
        """The word in `data`; nothing at all is a word too.

        Raises:
            FormatError: it is none.
        """
        if not data:
            return cls()
        fields, flags = _opened(data, _WORD, _CLAIM | _RECORD | _SEEN, "a word")
        if not flags:
            raise FormatError("a word of the ledger says nothing, and would not have been sent")
        claim = Claim.read(fields) if flags & _CLAIM else None
        record = Record.read(fields) if flags & _RECORD else None
        seen = fields.seen() if flags & _SEEN else None
        fields.end()
        return cls(record, claim, seen)


def _opened(data: bytes, kind: int, known: int, what: str) -> tuple[Fields, int]:
    fields = Fields(data, what)
    if fields.take(1)[0] != kind:
        raise FormatError(f"expected {what} of the ledger, found a message of kind 0x{data[0]:02x}")
    flags = fields.take(1)[0]
    if flags & ~known:
        raise FormatError(f"{what} of the ledger has the unknown flags 0x{flags:02x}")
    return fields, flags

"""What travels with a frame: a signed record of at most 200 bytes, from which both ends make the same entry.

Everything else that the entry says, sender and receiver know already: the run, the round, the trunk, the frame's bytes.

    record   seq · time · salt (32) · size · root (32) · signature (64)
    claim    seq · time · size · root (32) · software · key · count · signatures (64 each)

Numbers are LEB128, texts have their length in front. A record is about 140 bytes; a claim, with which a site asks to be
let in, or to change its key, travels until it is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from phloem import varint
from phloem.errors import FormatError, ProofError
from phloem.ledger.commitments import SALT_BYTES
from phloem.ledger.entry import Entry, Seen, Statement, key_name, signed_text
from phloem.ledger.exchange import Sent
from phloem.ledger.kinds import ADD, ROTATE, SITE
from phloem.tlog.keys import Signer, VerifierKey

LARGEST_RECORD = 200
_ROOT_BYTES, _SIGNATURE_BYTES = 32, 64
_LONGEST_TEXT = 400


@dataclass(frozen=True, slots=True)
class Record:
    """What the receiver of a frame cannot know by itself."""

    seq: int
    time: int
    salt: bytes
    prev: Seen
    signature: bytes

    @classmethod
    def of(cls, entry: Entry, salt: bytes) -> Record:
        """The record of an entry with one signature."""
        statement, ((_, signature),) = entry.statement, entry.signatures
        return cls(statement.seq, statement.time, salt, statement.prev, signature)

    def pack(self) -> bytes:
        """The record's bytes."""
        numbers = varint.pack(self.seq) + varint.pack(self.time)
        return numbers + self.salt + varint.pack(self.prev.size) + self.prev.root + self.signature

    @classmethod
    def read(cls, fields: Fields) -> Record:
        """The record that comes next.

        Raises:
            FormatError: there is none.
        """
        seq, time, salt = fields.number(), fields.number(), fields.take(SALT_BYTES)
        return cls(seq, time, salt, fields.seen(), fields.take(_SIGNATURE_BYTES))

    def entry(self, run: str, key: VerifierKey, sent: Sent, to: str) -> Entry:
        """The entry that the owner of `key` signed.

        Raises:
            ProofError: it did not sign this. FormatError: what is said cannot be an entry.
        """
        fields = sent.fields(self.salt, to)
        statement = Statement(sent.kind, run, key.name, self.seq, self.time, self.prev, fields)
        entry = Entry(statement.pack(), ((key_name(key), self.signature),))
        entry.check_signed_by(key)
        return entry


@dataclass(frozen=True, slots=True)
class Claim:
    """A site asks to be let in with this key, or to change to it: signed with the old key, if any, and the new one."""

    seq: int
    time: int
    prev: Seen
    software: str
    key: str
    signatures: tuple[bytes, ...]

    @classmethod
    def made(
        cls, run: str, seq: int, time: int, prev: Seen, software: str, new: Signer, old: Signer | None = None
    ) -> Claim:
        """The claim to the key `new`, in place of `old` if there is one."""
        claim = cls(seq, time, prev, software, str(new.verifier), () if old is None else (b"",))
        text = signed_text(claim._statement(run, new.verifier, rotates=old is not None).pack())
        return cls(
            seq, time, prev, software, claim.key, tuple(s.sign(text) for s in (old, new) if s is not None)
        )

    def _statement(self, run: str, key: VerifierKey, *, rotates: bool) -> Statement:
        return member_statement(
            run, key.name, self.seq, self.time, self.prev, key, ROTATE if rotates else ADD, self.software
        )

    def pack(self) -> bytes:
        """The claim's bytes."""
        head = varint.pack(self.seq) + varint.pack(self.time) + varint.pack(self.prev.size) + self.prev.root
        texts = b"".join(pack_string(text.encode()) for text in (self.software, self.key))
        return head + texts + varint.pack(len(self.signatures)) + b"".join(self.signatures)

    @classmethod
    def read(cls, fields: Fields) -> Claim:
        """The claim that comes next.

        Raises:
            FormatError: there is none.
        """
        seq, time, prev = fields.number(), fields.number(), fields.seen()
        software, key, count = fields.text(), fields.text(), fields.number()
        if count not in (1, 2):
            raise FormatError(f"a claim has one signature or two, found {count}")
        return cls(seq, time, prev, software, key, tuple(fields.take(_SIGNATURE_BYTES) for _ in range(count)))

    def entry(self, run: str, name: str, old: VerifierKey | None) -> Entry:
        """The entry that the member `name` signed, whose key was `old`; what lets it in is still to sign it.

        Raises:
            ProofError: it is not signed by the new key and the old one. FormatError: it cannot be an entry.
        """
        key = VerifierKey.parse(self.key)
        if key.name != name:
            raise ProofError(f"'{name:.80}' claims a key of '{key.name:.80}'")
        if (old is None) != (len(self.signatures) == 1):
            wanted = "its own" if old is None else "the old key's and its own"
            raise ProofError(f"the claim of '{name:.80}' to key {key.id.hex()} needs {wanted} signature")
        payload = self._statement(run, key, rotates=old is not None).pack()
        owners = [key] if old is None else [old, key]
        rows = zip(owners, self.signatures, strict=True)
        entry = Entry(payload, tuple((key_name(owner), signature) for owner, signature in rows))
        for owner in owners:
            entry.check_signed_by(owner)
        return entry


def member_statement(
    run: str, sender: str, seq: int, time: int, prev: Seen, key: VerifierKey, action: str, software: str = ""
) -> Statement:
    """That the owner of `key` is let in with it, changes to it, or is put out, as `sender` says."""
    fields = {
        "action": action,
        "fingerprint": sha256(key.public).hexdigest(),
        "key": str(key),
        "name": key.name,
        "role": SITE,
        **({"software": software} if software else {}),
    }
    return Statement("member", run, sender, seq, time, prev, fields)


class Fields:
    """Takes fields off the front of what travelled and never looks past its end."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.position, self.what = data, 0, what

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > len(self.data) - self.position:
            raise FormatError(f"{self.what} ends after {len(self.data)} bytes, inside a field")
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self) -> int:
        """The next number."""
        value, self.position = varint.unpack(self.data, self.position)
        return value

    def string(self) -> bytes:
        """The next bytes with a length in front."""
        return self.take(self.number())

    def text(self) -> str:
        """The next text."""
        data = self.string()
        try:
            found = data.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.what} holds a text that is not UTF-8") from error
        if len(found) > _LONGEST_TEXT:
            raise FormatError(f"{self.what} holds a text of more than {_LONGEST_TEXT} characters")
        return found

    def hashes(self) -> tuple[bytes, ...]:
        """The next hashes, their number in front."""
        count = self.number()
        return tuple(self.take(_ROOT_BYTES) for _ in range(min(count, 1 + len(self.data))))

    def seen(self) -> Seen:
        """The next checkpoint."""
        return Seen(self.number(), self.take(_ROOT_BYTES))

    def end(self) -> None:
        """Nothing, if there is nothing more."""
        if self.position != len(self.data):
            raise FormatError(f"{self.what} goes on for {len(self.data) - self.position} bytes after its end")


def pack_string(data: bytes) -> bytes:
    """The bytes with their length in front."""
    return varint.pack(len(data)) + data


def pack_hashes(hashes: Sequence[bytes]) -> bytes:
    """The hashes with their number in front."""
    return varint.pack(len(hashes)) + b"".join(hashes)

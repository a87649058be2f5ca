"""Entries: what a log of exchanges says, as statements that somebody signed.

An entry is a DSSE envelope (github.com/secure-systems-lab/dsse, v1) around an in-toto Statement (v1), both in
canonical JSON, of integers and texts only:

    {"payload":BASE64,"payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":…,"sig":BASE64}, …]}

    {"_type":"https://in-toto.io/Statement/v1",
     "predicate":{"from":…, "prev":{"root":…,"size":…}, "run":…, "seq":…, "time":…, what its kind says},
     "predicateType":"urn:phloem:ledger:KIND:1",
     "subject":[{"digest":{…},"name":…}, …]}

`prev` is the newest checkpoint that the sender had verified, `seq` counts its entries in this run from 0, `time` is its
clock's, in seconds since 1970. `phloem.ledger.kinds` has the kinds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from phloem.canonical import shallow
from phloem.errors import FormatError, ProofError
from phloem.ledger.kinds import KINDS, Kind, check_hash, check_number, check_text
from phloem.tlog.keys import Signer, VerifierKey
from phloem.tlog.merkle import EMPTY_ROOT, leaf_hash
from phloem.tlog.text import from_base64, to_base64
from phloem.tlog.tiles import LARGEST_ENTRY

_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE = "urn:phloem:ledger:"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_MOST_SIGNATURES, _SIGNATURE_BYTES = 4, 64


_encoded = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False
).encode


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint that was verified: of `size` entries, with this root."""

    size: int = 0
    root: bytes = EMPTY_ROOT


@dataclass(frozen=True)
class Statement:
    """What one entry says; `fields` are those of its kind."""

    kind: str
    run: str
    sender: str
    seq: int
    time: int
    prev: Seen
    fields: Mapping[str, Any]

    def __getitem__(self, field: str) -> Any:
        return self.fields[field]

    def pack(self) -> bytes:
        """The statement as canonical JSON.

        Raises:
            FormatError: a field is missing, unknown, or of another form than its kind says.
        """
        kind = _kind(self.kind)
        self._check(kind)
        predicate = {name: self.fields[name] for name in kind.fields if name in self.fields}
        predicate |= {"from": self.sender, "run": self.run, "seq": self.seq, "time": self.time}
        predicate["prev"] = {"root": self.prev.root.hex(), "size": self.prev.size}
        subject = [
            {"digest": {algorithm: self.fields[field]}, "name": name}
            for name, algorithm, field in kind.subjects
        ]
        return _dumps(
            {
                "_type": _TYPE,
                "predicate": predicate,
                "predicateType": f"{_PREDICATE}{self.kind}:1",
                "subject": subject,
            }
        )

    @classmethod
    def unpack(cls, data: bytes) -> Statement:
        """The statement in `data`.

        Raises:
            FormatError: it is none, or is not written in the one canonical way.
        """
        table = _loads(data, "a statement")
        try:
            name, version = table["predicateType"].removeprefix(_PREDICATE).split(":")
            kind = _kind(name)
            said = dict(table["predicate"])
            subjects = zip(kind.subjects, table["subject"], strict=True)
            fields = {field: row["digest"][algorithm] for (_, algorithm, field), row in subjects}
            sender, run, seq, time = (said.pop(key) for key in ("from", "run", "seq", "time"))
            prev = said.pop("prev")
            found = cls(name, run, sender, seq, time, Seen(prev["size"], _root(prev["root"])), said | fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"expected a statement of a known kind, found {data!r:.80}") from error
        if version != "1" or found.pack() != data:
            raise FormatError(f"a statement of kind '{name:.40}' is not written in its canonical form")
        return found

    def _check(self, kind: Kind) -> None:
        where = f"a statement of kind '{self.kind}'"
        check_text(self.run, f"{where}: 'run'")
        check_text(self.sender, f"{where}: 'from'")
        check_number(self.seq, f"{where}: 'seq'")
        check_number(self.time, f"{where}: 'time'")
        check_number(self.prev.size, f"{where}: 'size'")
        check_hash(self.prev.root.hex(), f"{where}: 'root'")
        for name in self.fields:
            if name not in kind.fields and name not in kind.in_subject:
                raise FormatError(f"{where} has no field {name!r:.40}")
        for name, check in kind.checks.items():
            if name in self.fields:
                check(self.fields[name], f"{where}: '{name}'")
            elif name not in kind.optional:
                raise FormatError(f"{where} lacks '{name}'")

    def signed(self, *signers: Signer) -> Entry:
        """The entry of this statement, signed.

        Raises:
            FormatError: as `pack`, or the entry is longer than 65,535 bytes.
        """
        payload = self.pack()
        text = signed_text(payload)
        return Entry(payload, tuple((key_name(s.verifier), s.sign(text)) for s in signers))


@dataclass(frozen=True)
class Entry:
    """A statement's bytes, and the signatures over them, of which none has been verified."""

    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @cached_property
    def statement(self) -> Statement:
        """What it says.

        Raises:
            FormatError: the payload is no statement.
        """
        return Statement.unpack(self.payload)

    def pack(self) -> bytes:
        """The entry as the log has it.

        Raises:
            FormatError: it is longer than 65,535 bytes.
        """
        return self._packed

    @cached_property
    def _packed(self) -> bytes:
        rows = [{"keyid": name, "sig": to_base64(signature)} for name, signature in self.signatures]
        data = _dumps({"payload": to_base64(self.payload), "payloadType": _PAYLOAD_TYPE, "signatures": rows})
        if len(data) > LARGEST_ENTRY:
            raise FormatError(f"an entry of {len(data)} bytes is longer than {LARGEST_ENTRY}")
        return data

    @classmethod
    def unpack(cls, data: bytes) -> Entry:
        """The entry in `data`.

        Raises:
            FormatError: it is none, or is not written in the one canonical way.
        """
        table = _loads(data, "an entry")
        try:
            rows = tuple(
                (row["keyid"], from_base64(row["sig"], "a signature")) for row in table["signatures"]
            )
            payload = from_base64(table["payload"], "an entry's payload")
        except (AttributeError, KeyError, TypeError) as error:
            raise FormatError(f"expected an entry, found {data!r:.80}") from error
        for name, signature in rows:
            check_text(name, "the name of a key")
            if len(signature) != _SIGNATURE_BYTES:
                raise FormatError(f"a signature has {len(signature)} bytes, expected {_SIGNATURE_BYTES}")
        found = cls(payload, rows)
        names = [name for name, _ in rows]
        if not 0 < len(rows) <= _MOST_SIGNATURES or len(set(names)) != len(names):
            raise FormatError(f"an entry has 1 to {_MOST_SIGNATURES} signatures, of different keys")
        if found.pack() != data:
            raise FormatError("an entry is not written in its canonical form")
        return found

    @cached_property
    def leaf(self) -> bytes:
        """The hash by which the tree knows it."""
        return leaf_hash(self.pack())

    def check_signed_by(self, key: VerifierKey) -> None:
        """Nothing, if this key signed it.

        Raises:
            ProofError: it did not.
        """
        name = key_name(key)
        for keyid, signature in self.signatures:
            if keyid == name:
                if key.verifies(signed_text(self.payload), signature):
                    return
                raise ProofError(f"the signature of '{name}' is not over this entry")
        raise ProofError(f"the entry is not signed by '{name}'")


@lru_cache(4096)
def key_name(key: VerifierKey) -> str:
    """How an entry names a key: the name of its owner and the key's id."""
    return f"{key.name}+{key.id.hex()}"


def signed_text(payload: bytes) -> bytes:
    """What a signature signs: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def pack_all(entries: Sequence[Entry]) -> list[bytes]:
    """The entries' bytes."""
    return [entry.pack() for entry in entries]


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise FormatError(f"there is no statement of kind '{name!s:.40}'")
    return KINDS[name]


def _root(text: Any) -> bytes:
    check_hash(text, "a root")
    return bytes.fromhex(text)


def _dumps(value: Any) -> bytes:
    """Canonical JSON (RFC 8785) of what has no numbers but integers, and ASCII keys: then code points sort alike."""
    return _encoded(value).encode()


def _loads(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > LARGEST_ENTRY:
        raise FormatError(f"{what} of {len(data)} bytes is longer than {LARGEST_ENTRY}")
    try:
        table = json.loads(shallow(data).decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"expected {what}, found bytes that are not JSON") from error
    if not isinstance(table, dict):
        raise FormatError(f"expected {what}, found {data!r:.80}")
    return table

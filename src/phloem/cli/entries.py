"""What the commands of `phloem ledger` write: entries, checkpoints, receipts, bundles."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from phloem.cli.options import as_called
from phloem.cli.places import log_of, place_of, read_bytes
from phloem.errors import ConfigError, NotFoundError, ProofError, StoreError
from phloem.job.ledger import Payloads
from phloem.ledger.anchors import proof as anchors
from phloem.ledger.anchors.base import Trust
from phloem.ledger.bundle import Bundle, needed
from phloem.ledger.entry import Entry, Statement
from phloem.ledger.journal import Journal
from phloem.ledger.keys import read_key
from phloem.ledger.kinds import check_text
from phloem.ledger.log import Log
from phloem.ledger.members import Members
from phloem.store.files import write_durably
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import VerifierKey
from phloem.tlog.merkle import prove_consistency
from phloem.tlog.note import Note
from phloem.tlog.text import to_base64

_PAGE = 2000


def write_out(content: bytes, out: Path | None) -> None:
    """The content, in a file or on standard output.

    Raises:
        StoreError: it cannot be written.
    """
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        write_durably(out, content)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror}") from error


def all_entries(log: Log) -> Iterator[tuple[int, Entry]]:
    """Every entry with its place."""
    size = log.size
    for start in range(0, size, _PAGE):
        for index, data in enumerate(log.entries(start, min(start + _PAGE, size)), start):
            yield index, Entry.unpack(data)


@contextlib.contextmanager
def journal_of(where: str) -> Iterator[Journal]:
    """The ledger, open for the coordinator's entries about its newest run.

    Raises:
        ConfigError: it has no run, or is an export.
    """
    with place_of(where) as place:
        log, folder = log_of(place, where)
        run = place.run[1] if place.run is not None else newest_run(log, where)
        with contextlib.closing(Journal(folder, run)) as journal:
            journal.seq = _next_seq(log, run, journal.signer.name)
            yield journal


def newest_run(log: Log, where: str) -> str:
    """The run of the newest entry."""
    if log.size == 0:
        raise ConfigError(f"the log at {where} has no run yet", hint="a run with [ledger] begins one")
    return Entry.unpack(log.entries(log.size - 1, log.size)[0]).statement.run


def _next_seq(log: Log, run: str, sender: str) -> int:
    said = (entry.statement for _, entry in all_entries(log))
    return 1 + max((one.seq for one in said if one.run == run and one.sender == sender), default=-1)


def _key_of(log: Log, run: str, name: str) -> VerifierKey | None:
    """A member's key of now; None if there is no such member."""
    members: Members | None = None
    for _, entry in all_entries(log):
        said = entry.statement
        if said.run == run and members is None:
            members = Members(entry)
        elif said.run == run and members is not None:
            members.take(said)
    return None if members is None else members.key_of(name)


def append_complaint(where: str, key: Path, fields: Mapping[str, str], evidence: Path) -> int:
    """The place of a member's complaint, which is in the log now."""
    signer = read_key(key)
    if set(fields) != {"about", "against"}:
        raise ConfigError("a complaint has --set against=NAME and --set about=WORDS")
    with journal_of(where) as journal:
        if _key_of(journal.log, journal.run, signer.name) != signer.verifier:
            raise ConfigError(f"'{signer.name}' is no member of the run '{journal.run}' with this key")
        said = Statement(
            "complaint",
            journal.run,
            signer.name,
            _next_seq(journal.log, journal.run, signer.name),
            int(time.time()),
            journal.seen,
            {**fields, "evidence": sha256(read_bytes(evidence)).hexdigest()},
        )
        with as_called():
            entry = said.signed(signer)
        return journal.append([entry])[0]


def append_anchor(where: str, proof: Path, checkpoint: Path) -> int:
    """The place of the entry about an anchor, which is in the log now."""
    found = Checkpoint.unpack(Note.unpack(read_bytes(checkpoint)).text)
    data = read_bytes(proof)
    with contextlib.suppress(NotFoundError):  # whether what it rests on is believed is the verifier's to say
        anchors.verify_anchor(data, read_bytes(checkpoint), Trust())
    with journal_of(where) as journal:
        if found.origin != journal.log.origin:
            raise ConfigError(f"the checkpoint is of the log '{found.origin}', not of this one")
        fields = {
            "proof": sha256(data).hexdigest(),
            "root": found.root.hex(),
            "size": found.size,
            "system": anchors.unpack(data).kind,
        }
        journal.write([("anchor", fields)])
        return journal.log.size - 1


def sign_checkpoint(where: str) -> tuple[bytes, list[str]]:
    """A checkpoint of now, and which witnesses did not sign it."""
    with place_of(where) as place:
        _, folder = log_of(place, where)
        with contextlib.closing(Journal(folder, "")) as journal:
            note = journal.checkpoint()
            missing = [] if journal.witnesses is None else list(journal.witnesses.missing.items())
            return note, [f"witness '{name}' did not sign: {reason}" for name, reason in missing]


def receipt_of(where: str, index: int) -> bytes:
    """The receipt of an entry, under the newest checkpoint."""
    with place_of(where) as place:
        return log_of(place, where)[0].receipt(index).pack()


def bundle_of(
    where: str, indices: Sequence[int], *, payload: bool, anchor_files: Sequence[Path] = ()
) -> bytes:
    """A bundle with these entries, and those that say whose keys signed them.

    Raises:
        ProofError: an anchor is of no checkpoint that the log signed.
    """
    with place_of(where) as place:
        log, folder = log_of(place, where)
        if any(index >= log.size or index < 0 for index in indices):
            raise NotFoundError(f"the log at {where} has no entry {max(indices)}, it has {log.size}")
        bundle = Bundle(folder.policy.pack())
        for index in needed(all_entries(log), indices):
            bundle.entries[index] = log.entries(index, index + 1)[0]
            bundle.receipts[index] = log.receipt(index).pack()
        if payload:
            if place.run is None:
                raise ConfigError("payloads are a run's", hint="name the run's directory")
            _add_payloads(bundle, indices, Payloads(folder, place.run[0]))
        for path in anchor_files:
            _add_anchor(bundle, log, path)
        return bundle.pack()


def _add_anchor(bundle: Bundle, log: Log, path: Path) -> None:
    """Adds an anchor with the checkpoint that it is of, and the way from there to the receipts'."""
    data = read_bytes(path)
    found, newest = anchors.claimed(data), log.receipt(0).note
    notes = {Checkpoint.unpack(Note.unpack(note).text).size: note for note in log.checkpoints()}
    checkpoint = Checkpoint.unpack(Note.unpack(notes.get(found.size, newest)).text)
    if (checkpoint.size, checkpoint.root) != (found.size, found.root):
        raise ProofError(f"{path} is of a tree of {found.size} entries that this log never signed")
    size = Checkpoint.unpack(Note.unpack(newest).text).size
    bundle.anchors[path.name] = data
    if found.size < size:
        proof = prove_consistency(found.size, size, log.read)
        bundle.checkpoints[found.size] = notes[found.size]
        bundle.consistency[found.size] = "".join(f"{to_base64(one)}\n" for one in proof).encode()


def _add_payloads(bundle: Bundle, indices: Sequence[int], payloads: Payloads) -> None:
    for index in indices:
        said = Entry.unpack(bundle.entries[index]).statement
        if "commit" not in said.fields:
            raise NotFoundError(f"entry {index} is of kind '{said.kind}' and has no payload")
        found = payloads(said["commit"])
        if found.salt is None or found.content is None:
            raise NotFoundError(f"the payload of entry {index} is not here, or has been destroyed")
        bundle.payloads[index], bundle.salts[index] = found.content, found.salt


def erase(where: str, index: int, reason: str) -> None:
    """Destroys the payload and the salt of an entry, once the log has it that they are destroyed.

    Raises:
        ConfigError: it is no run's. NotFoundError: the entry has none.
    """
    with place_of(where) as place:
        if place.run is None or place.folder is None:
            raise ConfigError("payloads are a run's", hint="name the run's directory")
        root, folder = place.run[0], place.folder
    payloads = Payloads(folder, root)
    with journal_of(where) as journal:
        (data,) = journal.log.entries(index, index + 1)
        entry = Entry.unpack(data)
        fields = entry.statement.fields
        commits = [fields[name] for name in ("commit", "weight") if name in fields]
        found = [salt for salt in map(payloads.salts.get, commits) if salt is not None]
        if not found:
            raise NotFoundError(f"the salt of entry {index} is not here, or the entry has none")
        said = {"entry": index, "leaf": entry.leaf.hex(), "reason": reason}
        with as_called():
            check_text(reason, "'reason'")
        if not any(_erases(other, index) for _, other in all_entries(journal.log)):
            journal.write([("erasure", said)])
    for salt in found:  # each salt last, so that a second call finds what an interruption left
        if payloads.salts.uses(salt.content) == 1:
            payloads.store.forget(salt.content)
        payloads.salts.destroy(salt.commitment)


def _erases(entry: Entry, index: int) -> bool:
    said = entry.statement
    return said.kind == "erasure" and said["entry"] == index


def open_payload(where: str, index: int) -> bytes:
    """The payload of an entry, if it is what was committed to.

    Raises:
        NotFoundError: payload or salt is not here. ProofError: it is another one.
    """
    from phloem.ledger.commitments import FRAME, commitment

    with place_of(where) as place:
        if place.run is None or place.folder is None or place.log is None:
            raise ConfigError("payloads are a run's", hint="name the run's directory")
        entry = Entry.unpack(place.log.entries(index, index + 1)[0])
        commit = entry.statement.fields.get("commit")
        if commit is None:
            raise NotFoundError(f"entry {index} is of kind '{entry.statement.kind}' and has no payload")
        found = Payloads(place.folder, place.run[0])(commit)
        if found.salt is None or found.content is None:
            what = "salt" if found.salt is None else "payload"
            raise NotFoundError(f"the {what} of entry {index} is not here, or has been destroyed")
        if commitment(found.salt, FRAME, found.content) != commit:
            raise ProofError(f"the payload of entry {index} is not what was committed to")
        return found.content

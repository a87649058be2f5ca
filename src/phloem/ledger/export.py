"""A log as files that any web server can hand out: tiles, entries, and the newest checkpoint, which is written last.

Source: c2sp.org/tlog-tiles. Every file but the checkpoint is written once and never changed, so that who reads while a
log is exported sees a whole one, older or newer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from phloem.errors import NotFoundError, ProofError, StateError, StoreError
from phloem.ledger.log import Log
from phloem.store.files import write_durably
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.merkle import check_consistency, prove_consistency
from phloem.tlog.note import Note
from phloem.tlog.tiles import CHECKPOINT, WIDTH, pack_bundle, pack_tile, tiles_of


class Files(Protocol):
    """Where a log's files lie: a directory, a bucket."""

    def get(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""
        ...

    def put(self, path: str, content: bytes) -> None:
        """Puts a file in place, whole or not at all; durable when this returns."""
        ...


class Directory:
    """Files in a directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.root / path} cannot be read: {error.strerror}") from error

    def put(self, path: str, content: bytes) -> None:
        """Puts a file in place, whole or not at all; durable when this returns."""
        place = self.root / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_durably(place, content)
        except OSError as error:
            raise StoreError(f"{place} cannot be written: {error.strerror}") from error


def export(log: Log, files: Files) -> Checkpoint:
    """Brings `files` up to the log's newest signed checkpoint, and says which that is.

    Raises:
        NotFoundError: the log has signed none yet.
        StateError: the files are of another log, or of one that this log did not grow from; nothing is written.
    """
    note = log.checkpoint()
    if note is None:
        raise NotFoundError(f"the log at {log.path} has no signed checkpoint yet", hint="sign one first")
    newest = Checkpoint.unpack(Note.unpack(note).text)
    since = _exported(log, newest, files)
    for tile in tiles_of(newest.size, since):
        if tile.level is None:
            first = tile.index * WIDTH
            files.put(tile.path, pack_bundle(log.entries(first, first + tile.width)))
        else:
            files.put(tile.path, pack_tile(tile, log.read))
    if files.get(CHECKPOINT) != note:
        files.put(CHECKPOINT, note)
    return newest


def _exported(log: Log, newest: Checkpoint, files: Files) -> int:
    """How many entries the files have, of those that this log has as well."""
    before = files.get(CHECKPOINT)
    if before is None:
        return 0
    found = Checkpoint.unpack(Note.unpack(before).text)
    if found.origin != log.origin or found.size > newest.size:
        raise StateError(
            f"the files are of the log '{found.origin}' with {found.size} entries, not of this one"
        )
    proof = prove_consistency(found.size, newest.size, log.read) if found.size else []
    try:
        check_consistency(found.size, newest.size, found.root, newest.root, proof)
    except ProofError as error:
        raise StateError(f"the files are of another history of '{log.origin}': {error.message}") from error
    return found.size

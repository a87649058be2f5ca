"""A witness: it cosigns what a log says of itself, and never two things that do not fit each other.

    DIR/key            its private key, for nobody else's eyes
    DIR/witness.db     what it must never forget: the newest checkpoint of every log that it cosigned

Each cosignature is in the database, and on the disk, before anybody sees it. What keeps a witness honest is therefore
this file: **a key goes with one database, for ever**. Who copies a witness to a second machine, or goes back to a
backup of the database (or copies it without its -wal file, which has what is newest), has a witness that may cosign a
fork; who lost the database needs a new key. Several processes on one database are fine.

    meta(key, value)  ·  newest(origin, size, root, note)  ·  misbehaviour(origin, proof, kept, shown, time, digest)
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from phloem.errors import ConfigError, FormatError, NotFoundError, StateError, StoreError
from phloem.ledger.database import connect, transaction
from phloem.ledger.keys import read_key, write_key
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, Signer, VerifierKey
from phloem.tlog.note import Note, Signature
from phloem.tlog.policy import NONE
from phloem.tlog.witness import Reply, Request, add_checkpoint

KEY, DATABASE = "key", "witness.db"
VERSION = 1
MOST_KEPT = 64
"""Notes that are kept against one log: those that prove something, and as many that do not."""

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE newest (origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL);
CREATE TABLE misbehaviour (
    id INTEGER PRIMARY KEY, origin TEXT NOT NULL, proof INTEGER NOT NULL, kept BLOB NOT NULL, shown BLOB NOT NULL,
    time INTEGER NOT NULL, digest BLOB NOT NULL UNIQUE);
"""


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """Two notes that a log signed and that do not fit: what was cosigned, and what the log (or somebody) showed then.

    With `proof` they have one size and two roots, which no honest log signs. Without, only the consistency proof that
    came along was wrong. Anybody can send a signed checkpoint with a wrong proof, so that is a reason to ask the log
    for its entries, and no more.
    """

    origin: str
    proof: bool
    kept: bytes
    shown: bytes
    time: int


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The newest checkpoint of a log that the witness cosigned, with both signatures."""

    origin: str
    size: int
    root: bytes
    note: bytes


class WitnessDatabase:
    """What a witness must never forget, in the file at `path`; as a context manager it is closed."""

    def __init__(self, path: Path) -> None:
        """Opens what `create` made.

        Raises:
            NotFoundError: there is none. StateError: it is of another version. StoreError: it cannot be read as one.
        """
        if not path.is_file():
            raise NotFoundError(
                f"there is no witness database at {path}",
                hint="if it was lost, make a new witness with a new key: this key may have cosigned what it knew",
            )
        self.path = path
        self._lock = threading.Lock()
        with _in_words():
            self._database = connect(path)
        try:
            with _in_words():
                rows = dict(self._database.execute("SELECT key, value FROM meta").fetchall())
            if rows.get("version") != VERSION:
                raise StateError(f"{path} is no witness database of version {VERSION}")
            self.key = VerifierKey.parse(str(rows["key"]))
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, key: VerifierKey) -> WitnessDatabase:
        """A new one, empty, which belongs to this key.

        Raises:
            ConfigError: something is there already.
        """
        if path.exists():
            raise ConfigError(f"{path} exists already")
        with _in_words():
            database = connect(path)
            with transaction(database):
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                rows = [("version", VERSION), ("key", str(key))]
                database.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            database.close()
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._database.close()

    def newest(self, origin: str) -> Cosigned | None:
        """The newest checkpoint of this log that was cosigned; None before the first."""
        with self._lock, _in_words():
            return self._newest(origin)

    def logs(self) -> list[Cosigned]:
        """The newest checkpoint of every log."""
        with self._lock, _in_words():
            rows = self._database.execute("SELECT origin, size, root, note FROM newest ORDER BY origin")
            return [Cosigned(*row) for row in rows]

    def misbehaviour(self) -> list[Misbehaviour]:
        """What is kept against logs, the oldest first."""
        with self._lock, _in_words():
            rows = self._database.execute(
                "SELECT origin, proof, kept, shown, time FROM misbehaviour ORDER BY id"
            )
            return [Misbehaviour(row[0], bool(row[1]), *row[2:]) for row in rows]

    def advance(self, before: tuple[int, bytes] | None, after: Cosigned) -> bool:
        """Puts `after` in the place of `before`, durably; false, and nothing done, where another stands there now."""
        with self._lock, _in_words(), transaction(self._database):
            found = self._newest(after.origin)
            if (None if found is None else (found.size, found.root)) != before:
                return False
            row = (after.origin, after.size, after.root, after.note)
            self._database.execute("INSERT OR REPLACE INTO newest VALUES (?, ?, ?, ?)", row)
        return True

    def accuse(self, found: Misbehaviour) -> None:
        """Keeps it, durably, unless the same is there or `MOST_KEPT` of its kind are."""
        digest = sha256(b"\0".join((Note.unpack(found.kept).text, Note.unpack(found.shown).text))).digest()
        with self._lock, _in_words(), transaction(self._database):
            (count,) = self._database.execute(
                "SELECT count(*) FROM misbehaviour WHERE origin = ? AND proof = ?",
                (found.origin, found.proof),
            ).fetchone()
            if count < MOST_KEPT:
                self._database.execute(
                    "INSERT OR IGNORE INTO misbehaviour (origin, proof, kept, shown, time, digest) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (found.origin, found.proof, found.kept, found.shown, found.time, digest),
                )

    def _newest(self, origin: str) -> Cosigned | None:
        row = self._database.execute(
            "SELECT origin, size, root, note FROM newest WHERE origin = ?", (origin,)
        ).fetchone()
        return None if row is None else Cosigned(*row)


class Witness:
    """Cosigns for the logs whose keys it knows. Threads may share one; as a context manager it is closed."""

    def __init__(
        self,
        database: WitnessDatabase,
        signer: Signer,
        logs: Iterable[VerifierKey],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """A witness with this key and database, for these logs, whose keys have the logs' origins as names.

        Raises:
            ConfigError: the key is none for cosignatures, or one of the logs'. StateError: the database is another's.
        """
        if signer.type != COSIGNATURE:
            raise ConfigError(
                f"the key of '{signer.name}' is none for cosignatures", hint="make a new witness"
            )
        if database.key != signer.verifier:
            raise StateError(f"{database.path} belongs to another key, {database.key}")
        self.database, self.signer, self._clock = database, signer, clock
        found: dict[str, list[VerifierKey]] = {}
        for key in logs:
            if key.public == signer.verifier.public:
                raise ConfigError(f"the log '{key.name}' has the witness's own key")
            found.setdefault(key.name, []).append(key)
        self.logs: Mapping[str, Sequence[VerifierKey]] = found
        self._origins = {origin_digest(origin): origin for origin in found}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database."""
        self.database.close()

    def add_checkpoint(self, body: bytes) -> Reply:
        """The answer to a request of c2sp.org/tlog-witness; a cosignature is on the disk before this returns.

        Raises:
            StoreError: the database cannot be read or written; nothing was cosigned.
        """
        now = int(self._clock())
        records = _Records(self.database, lambda note: self._cosigned(note, now))
        reply = add_checkpoint(body, self.logs, records, self.signer, lambda: now)
        if reply.status in (HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY):
            self._look(Request.unpack(body), reply.status, now)
        return reply

    def checkpoint(self, digest: str) -> bytes | None:
        """The newest cosigned checkpoint of the log whose origin has this `origin_digest`; None if there is none."""
        origin = self._origins.get(digest)
        found = None if origin is None else self.database.newest(origin)
        return None if found is None else found.note

    def _cosigned(self, note: bytes, now: int) -> bytes:
        """The note as others may see it: with the log's signatures and this witness's, and nobody else's."""
        return self._of_the_log(note).signed([self.signer], lambda: now).pack()

    def _of_the_log(self, data: bytes) -> Note:
        note = Note.unpack(data)
        good = note.verified(self.logs[Checkpoint.unpack(note.text).origin])
        return Note(note.text, tuple(Signature(key.name, key.id, one) for key, one in good.items()))

    def _look(self, request: Request, status: HTTPStatus, now: int) -> None:
        """Keeps what was refused, if it speaks against the log. Its signature is good, else the status were another."""
        checkpoint = Checkpoint.unpack(Note.unpack(request.note).text)
        kept = self.database.newest(checkpoint.origin)
        if kept is None:
            return
        proof = kept.size == checkpoint.size and kept.root != checkpoint.root
        if proof or (status == HTTPStatus.UNPROCESSABLE_ENTITY and 0 < kept.size == request.old):
            shown = self._of_the_log(request.note).pack()
            self.database.accuse(Misbehaviour(checkpoint.origin, proof, kept.note, shown, now))


class _Records:
    """The records for one request (`phloem.tlog.witness.Records`): what is kept is the very note that is given out."""

    def __init__(self, database: WitnessDatabase, cosigned: Callable[[bytes], bytes]) -> None:
        self._database, self._cosigned = database, cosigned

    def newest(self, origin: str) -> tuple[int, bytes] | None:
        found = self._database.newest(origin)
        return None if found is None else (found.size, found.root)

    def advance(self, origin: str, before: tuple[int, bytes] | None, after: Checkpoint, note: bytes) -> bool:
        return self._database.advance(before, Cosigned(origin, after.size, after.root, self._cosigned(note)))


def origin_digest(origin: str) -> str:
    """The name under which others find a log's checkpoint at a witness."""
    return sha256(origin.encode()).hexdigest()


# -- in a directory ------------------------------------------------------------------------------------------------


def create_witness(directory: Path, name: str) -> VerifierKey:
    """The public key of a new witness in `directory`.

    Raises:
        ConfigError: a witness is there already, or the name is none for a key. StoreError: the disk refuses.
    """
    try:
        signer = Signer.new(name, COSIGNATURE)
    except FormatError as error:
        raise ConfigError(error.message, hint="such as witness.example.org/w1") from error
    if name == NONE:
        raise ConfigError(f"'{NONE}' is no name for a witness: in a policy it means that nobody must sign")
    for path in (directory / KEY, directory / DATABASE):
        if path.exists():
            raise ConfigError(
                f"{path} exists already", hint="a witness keeps its key and its database for ever"
            )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"no witness could be made in {directory}: {error.strerror}") from error
    WitnessDatabase.create(directory / DATABASE, signer.verifier).close()
    write_key(directory / KEY, signer)
    return signer.verifier


def open_witness(directory: Path, logs: Iterable[VerifierKey]) -> Witness:
    """The witness in `directory`, for the logs with these keys.

    Raises:
        NotFoundError: there is none. FormatError: its key is damaged. StateError: key and database do not belong
            together. ConfigError: a log has the witness's key, or others may read the key. StoreError: the disk
            refuses.
    """
    try:
        signer = read_key(directory / KEY)
    except NotFoundError as error:
        hint = f"phloem witness init {directory} --name NAME"
        raise NotFoundError(f"there is no witness in {directory}: it has no key", hint=hint) from error
    database = WitnessDatabase(directory / DATABASE)
    try:
        return Witness(database, signer, logs)
    except BaseException:
        database.close()
        raise


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"the witness's database could not be read or written: {error}") from error

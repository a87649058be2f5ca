"""A log in one SQLite file: entries, the nodes of their tree, and the checkpoints that were signed.

An entry is durable when `append` returns: the file is in WAL mode with full synchronisation, so that a commit is an
fsync. Threads that append at the same time share one (group commit). One process writes at a time; others read.

    entry(idx, bytes)  ·  node(id, hash)  ·  checkpoint(size, note)  ·  meta(key, value)

A node's id is its place when every node stands after those it is made of (as in Go's sumdb/tlog): nodes are written in
the order of their ids, at the table's end, and what a proof asks for at its lowest levels lies side by side.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from phloem.errors import ConfigError, NotFoundError, StateError, StoreError
from phloem.ledger.database import connect, transaction
from phloem.store.files import sync
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import Signer
from phloem.tlog.merkle import Node, added_hashes, added_nodes, leaf_hash, prove_inclusion, tree_hash
from phloem.tlog.note import Note, signed
from phloem.tlog.proof import Receipt
from phloem.tlog.tiles import LARGEST_ENTRY

VERSION = 2
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE entry (idx INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
CREATE TABLE node (id INTEGER PRIMARY KEY, hash BLOB NOT NULL);
CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, note BLOB NOT NULL);
"""
_MOST_HASHES = 1 << 16  # in memory
_MOST_ASKED = 128  # in one question


class Log:
    """The log in the file at `path`; as a context manager it is closed."""

    def __init__(self, path: Path) -> None:
        """Opens a log that `create` made.

        Raises:
            NotFoundError: there is none. StateError: it is of another version. StoreError: it cannot be read as one.
        """
        if not path.is_file():
            raise NotFoundError(f"there is no log at {path}")
        self.path = path
        with _in_words(path):
            self._database = connect(path)
            self._reader = connect(path)  # sees what is committed, and nothing else
            rows = dict(self._reader.execute("SELECT key, value FROM meta").fetchall())
        if rows.get("version") != VERSION:
            self.close()
            raise StateError(f"{path} is no log of version {VERSION}")
        self.origin = str(rows["origin"])
        self._lock = threading.Lock()
        self._pending: list[tuple[Sequence[bytes], Future[range]]] = []
        self._pending_lock = threading.Lock()
        self._hashes: dict[Node, bytes] = {}  # that were read; nodes never change

    @classmethod
    def create(cls, path: Path, origin: str) -> Log:
        """A new log, empty; after a crash it is there whole or not at all.

        Raises:
            ConfigError: something is there already, or `origin` is no name for a log.
        """
        Checkpoint.unpack(Checkpoint(origin, 0, bytes(32)).pack())
        if path.exists():
            raise ConfigError(f"{path} exists already")
        with _in_words(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.new")
            for suffix in ("", "-wal", "-shm"):  # what a crash left
                beside.with_name(beside.name + suffix).unlink(missing_ok=True)
            database = connect(beside)
            with transaction(database):
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.executemany(
                    "INSERT INTO meta VALUES (?, ?)", [("version", VERSION), ("origin", origin)]
                )
            database.close()  # which puts everything into the one file, and syncs it
            beside.replace(path)
            sync(path.parent)
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; whatever was acknowledged is in it."""
        self._database.close()
        self._reader.close()

    # -- written -------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[bytes]) -> range:
        """The indices of these entries, which are durable in the log, one after the other.

        Raises:
            ConfigError: one is longer than 65,535 bytes; none was added. StoreError: the disk refuses; none was added.
        """
        for entry in entries:
            if len(entry) > LARGEST_ENTRY:
                raise ConfigError(f"an entry of {len(entry)} bytes is longer than {LARGEST_ENTRY}")
        answer: Future[range] = Future()
        with self._pending_lock:
            self._pending.append((entries, answer))
        with self._lock:  # whoever gets here first writes for all that wait
            if not answer.done():
                with self._pending_lock:
                    group, self._pending = self._pending, []
                self._write(group)
        return answer.result()

    def _write(self, group: Sequence[tuple[Sequence[bytes], Future[range]]]) -> None:
        try:
            with _in_words(self.path), transaction(self._database):
                size = self._size()
                new: dict[Node, bytes] = {}  # not in the file yet

                def read(nodes: Sequence[Node]) -> list[bytes]:
                    old = iter(self._read([node for node in nodes if node not in new]))
                    return [new[node] if node in new else next(old) for node in nodes]

                rows, answers = [], []
                for entries, answer in group:
                    answers.append((answer, range(size, size + len(entries))))
                    for entry in entries:
                        leaf = leaf_hash(entry)
                        hashes = added_hashes(size, leaf, read)
                        new.update(zip(added_nodes(size), hashes, strict=True))
                        rows.append((size, entry))
                        size += 1
                self._database.executemany("INSERT INTO entry VALUES (?, ?)", rows)
                nodes = [(_id(node), found) for node, found in new.items()]
                self._database.executemany("INSERT INTO node VALUES (?, ?)", nodes)
        except BaseException as error:
            for _, answer in group:
                answer.set_exception(error)
        else:
            for answer, indices in answers:
                answer.set_result(indices)

    def sign(self, signers: Sequence[Signer], time: Callable[[], int] | None = None) -> bytes:
        """The signed checkpoint of now, which is kept before anybody sees it."""
        with self._lock, _in_words(self.path), transaction(self._database):
            size = self._size()
            newest = self._newest()
            if newest is not None and newest[0] == size:
                return newest[1]
            note = signed(Checkpoint(self.origin, size, tree_hash(size, self.read)).pack(), signers, time)
            self._database.execute("INSERT INTO checkpoint VALUES (?, ?)", (size, note))
        return note

    def keep(self, note: bytes) -> None:
        """Adds the signatures on `note` to the kept checkpoint of the same text; none that is there is lost.

        Raises:
            FormatError: it is no checkpoint, or has too many signatures. StateError: none of this size was signed, or
                the one that was has another text.
        """
        new = Note.unpack(note)
        size = Checkpoint.unpack(new.text).size
        with self._lock, _in_words(self.path), transaction(self._database):
            row = self._database.execute("SELECT note FROM checkpoint WHERE size = ?", (size,)).fetchone()
            if row is None:
                raise StateError(f"the log at {self.path} has signed no checkpoint of {size} entries")
            old = Note.unpack(bytes(row[0]))
            if old.text != new.text:
                raise StateError(f"the log at {self.path} signed another checkpoint of {size} entries")
            known = {(one.name, one.id) for one in old.signatures}
            more = (one for one in new.signatures if (one.name, one.id) not in known)
            packed = Note(old.text, (*old.signatures, *more)).pack()
            Note.unpack(packed)
            self._database.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (packed, size))

    # -- read ----------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """The number of entries."""
        with _in_words(self.path):
            return self._size()

    def entries(self, start: int, end: int) -> list[bytes]:
        """The entries from `start` to before `end`."""
        with _in_words(self.path):
            rows = self._reader.execute(
                "SELECT bytes FROM entry WHERE idx >= ? AND idx < ? ORDER BY idx", (start, end)
            ).fetchall()
        if len(rows) != max(end - start, 0):
            raise NotFoundError(f"the log at {self.path} has no entries {start} to {end - 1}")
        return [self._blob(row[0]) for row in rows]

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """The hashes of these nodes (`phloem.tlog.merkle.ReadHashes`)."""
        return self._read(nodes)

    def checkpoint(self) -> bytes | None:
        """The newest signed checkpoint; None before the first."""
        with _in_words(self.path):
            newest = self._newest()
        return None if newest is None else newest[1]

    def checkpoints(self) -> list[bytes]:
        """All checkpoints that were signed, from the smallest to the largest."""
        with _in_words(self.path):
            rows = self._reader.execute("SELECT note FROM checkpoint ORDER BY size").fetchall()
        return [self._blob(row[0]) for row in rows]

    def receipt(self, index: int) -> Receipt:
        """That the newest signed checkpoint has the entry at `index`.

        Raises:
            NotFoundError: no checkpoint has it yet.
        """
        with _in_words(self.path):
            newest = self._newest()
        if newest is None or index >= newest[0]:
            raise NotFoundError(f"no checkpoint of the log at {self.path} has entry {index} yet")
        return Receipt(index, tuple(prove_inclusion(index, newest[0], self.read)), newest[1])

    def _read(self, nodes: Sequence[Node]) -> list[bytes]:
        known = self._hashes
        missing = [node for node in nodes if node not in known]
        if missing:
            if len(known) > _MOST_HASHES:
                known, missing = {}, list(nodes)
            for start in range(0, len(missing), _MOST_ASKED):
                asked = missing[start : start + _MOST_ASKED]
                known.update(zip(asked, self._found(asked), strict=True))
            self._hashes = known
        return [known[node] for node in nodes]

    def _found(self, nodes: Sequence[Node]) -> Sequence[bytes]:
        """The hashes of a few nodes, from the file."""
        ids = [_id(node) for node in nodes]
        try:  # not `_in_words`, which takes a tenth of a proof's time
            row: Sequence[bytes] = self._reader.execute(_question(len(ids)), ids).fetchone()
        except sqlite3.Error as error:
            raise _refused(self.path, error) from error
        if None in row:
            raise StateError(f"the log at {self.path} lacks nodes of its tree")
        return row

    def _size(self) -> int:
        found = self._reader.execute("SELECT max(idx) FROM entry").fetchone()[0]
        return 0 if found is None else int(found) + 1

    def _newest(self) -> tuple[int, bytes] | None:
        found = self._reader.execute(
            "SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1"
        ).fetchone()
        return None if found is None else (int(found[0]), self._blob(found[1]))

    def _blob(self, value: object) -> bytes:
        """What a column of bytes has, whatever somebody put there."""
        if not isinstance(value, bytes):
            raise StateError(
                f"the log at {self.path} is damaged: expected bytes, found a {type(value).__name__}"
            )
        return value


@functools.lru_cache(maxsize=_MOST_ASKED)
def _question(count: int) -> str:
    """For the hashes of so many nodes: one row, with a column for each, in their order."""
    return f"SELECT {', '.join(['(SELECT hash FROM node WHERE id = ?)'] * count)}"


def _id(node: Node) -> int:
    level, number = node
    last = (
        (number + 1) << level
    ) - 1  # the entry that completes it, before whose leaf there are so many nodes:
    return 2 * last - last.bit_count() + level


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> StoreError:
    return StoreError(f"the log at {path} could not be read or written: {error}")

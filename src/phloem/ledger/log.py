"""A log in one SQLite file: entries, the nodes of their tree, and the checkpoints that were signed.

An entry is durable when `append` returns: the file is in WAL mode with full synchronisation, so that a commit is an
fsync. Threads that append at the same time share one (group commit). One process writes at a time; others read.

    entry(idx, bytes)  ·  node(id, hash)  ·  checkpoint(size, note)  ·  meta(key, value)

A node's id is its level times 2^56 plus its number, so that one look at the table's own order finds it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from phloem.errors import ConfigError, NotFoundError, StateError, StoreError
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import Signer
from phloem.tlog.merkle import Node, added_hashes, added_nodes, leaf_hash, prove_inclusion, tree_hash
from phloem.tlog.note import signed
from phloem.tlog.proof import Receipt
from phloem.tlog.tiles import LARGEST_ENTRY

VERSION = 1
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE entry (idx INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
CREATE TABLE node (id INTEGER PRIMARY KEY, hash BLOB NOT NULL);
CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, note BLOB NOT NULL);
"""
_WAIT_SECONDS = 30.0  # for another process's write
_MOST_HASHES = 1 << 16  # in memory
_MOST_ASKED = 500  # in one question


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
            self._database = _connect(path)
            self._reader = _connect(path)  # sees what is committed, and nothing else
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
        """A new log, empty.

        Raises:
            ConfigError: something is there already, or `origin` is no name for a log.
        """
        Checkpoint.unpack(Checkpoint(origin, 0, bytes(32)).pack())
        if path.exists():
            raise ConfigError(f"{path} exists already")
        with _in_words(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            database = _connect(path)
            with _transaction(database):
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.executemany(
                    "INSERT INTO meta VALUES (?, ?)", [("version", VERSION), ("origin", origin)]
                )
            database.close()
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
            with _in_words(self.path), _transaction(self._database):
                size = self._size()
                new: dict[Node, bytes] = {}
                rows, answers = [], []
                for entries, answer in group:
                    answers.append((answer, range(size, size + len(entries))))
                    for entry in entries:
                        leaf = leaf_hash(entry)
                        hashes = added_hashes(size, leaf, lambda nodes: self._read(nodes, new))
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
        with self._lock, _in_words(self.path), _transaction(self._database):
            size = self._size()
            newest = self._newest()
            if newest is not None and newest[0] == size:
                return newest[1]
            note = signed(Checkpoint(self.origin, size, tree_hash(size, self.read)).pack(), signers, time)
            self._database.execute("INSERT INTO checkpoint VALUES (?, ?)", (size, note))
        return note

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
        return [row[0] for row in rows]

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """The hashes of these nodes (`phloem.tlog.merkle.ReadHashes`)."""
        with _in_words(self.path):
            return self._read(nodes, {})

    def checkpoint(self) -> bytes | None:
        """The newest signed checkpoint; None before the first."""
        with _in_words(self.path):
            newest = self._newest()
        return None if newest is None else newest[1]

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

    def _read(self, nodes: Sequence[Node], new: dict[Node, bytes]) -> list[bytes]:
        """The hashes of these nodes, of which `new` are not in the file yet."""
        known = self._hashes
        missing = [node for node in nodes if node not in known and node not in new]
        if missing:
            if len(known) > _MOST_HASHES:
                known = self._hashes = {}
                missing = [node for node in nodes if node not in new]
            for start in range(0, len(missing), _MOST_ASKED):
                known |= self._found(missing[start : start + _MOST_ASKED])
        return [new[node] if node in new else known[node] for node in nodes]

    def _found(self, nodes: Sequence[Node]) -> dict[Node, bytes]:
        marks = ",".join("?" * len(nodes))
        rows = self._reader.execute(f"SELECT id, hash FROM node WHERE id IN ({marks})", [*map(_id, nodes)])
        by_id = dict(rows.fetchall())
        if len(by_id) != len(set(nodes)):
            raise StateError(f"the log at {self.path} lacks nodes of its tree")
        return {node: by_id[_id(node)] for node in nodes}

    def _size(self) -> int:
        found = self._reader.execute("SELECT max(idx) FROM entry").fetchone()[0]
        return 0 if found is None else int(found) + 1

    def _newest(self) -> tuple[int, bytes] | None:
        found = self._reader.execute(
            "SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1"
        ).fetchone()
        return None if found is None else (int(found[0]), bytes(found[1]))


def _id(node: Node) -> int:
    return (node.level << 56) + node.number


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    return database


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk may have ended it already
            database.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"the log at {path} could not be read or written: {error}") from error

"""What is where in a repository: an SQLite file made from the packs, so that history is read without opening them.

Nothing in it is the only copy of anything: it may be deleted at any time, and is made again. It follows the packs that
are there by their names, which never stand for other content. It is believed only where it was made (it knows the file
system's number of its own file), so that one that came along with somebody's repository says nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phloem.branches import packs
from phloem.branches.blobs import Blob
from phloem.branches.records import Commit, Encoding
from phloem.errors import FormatError, NotFoundError

_VERSION = 2
#: Lists the packs that are there, and gives each.
Followed = tuple[Callable[[], Iterable[str]], Callable[[str], Blob]]
_WAIT_SECONDS = 20.0
#: How often packs may come and go while they are taken in.
_MOST_TRIES = 100
#: What SQLite says where the file is as it should be, and only cannot be used now.
_NOT_NOW = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_IOERR,
}
_SCHEMA = """
CREATE TABLE home (inode INTEGER NOT NULL);
CREATE TABLE packs (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE objects (digest TEXT, pack INTEGER, kind INTEGER, at INTEGER, stored INTEGER, size INTEGER,
    compressed INTEGER, PRIMARY KEY (digest, pack)) WITHOUT ROWID;
CREATE TABLE commits (digest TEXT PRIMARY KEY, parents TEXT, state TEXT, kind TEXT, time TEXT, author TEXT,
    subject TEXT, site TEXT) WITHOUT ROWID;
CREATE TABLE encodings (digest TEXT PRIMARY KEY, state TEXT, base TEXT, frame TEXT, form TEXT, codec TEXT,
    bytes INTEGER)
    WITHOUT ROWID;
CREATE INDEX encodings_by_state ON encodings (state);
CREATE INDEX encodings_by_base ON encodings (base);
CREATE INDEX objects_by_pack ON objects (pack);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A commit as the catalog has it: enough to show a history."""

    digest: str
    parents: tuple[str, ...]
    state: str
    kind: str
    time: str
    author: str
    subject: str
    site: str | None


class Catalog:
    """The catalog of one repository, in a file or (without `path`) in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._database = self._opened()
        self._followed: Followed | None = None

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def follow(
        self, names: Callable[[], Iterable[str]], blob_of: Callable[[str], Blob]
    ) -> dict[str, FormatError]:
        """Takes in the packs that `names` lists and it does not know, and forgets those that are gone.

        Gives the packs that are damaged, and what is wrong with them.

        Raises:
            StoreError: one cannot be read.
        """
        self._followed = names, blob_of
        if set(names()) == set(self.pack_names()):
            return {}
        try:
            return self._follow(names, blob_of)
        except sqlite3.ProgrammingError:
            raise  # it was closed
        except sqlite3.Error as error:
            self._leave(error)
            return self._follow(names, blob_of)

    @property
    def is_sound(self) -> bool:
        """Whether SQLite finds nothing wrong with the file."""
        try:
            return bool(self._database.execute("PRAGMA integrity_check").fetchall() == [("ok",)])
        except sqlite3.Error:
            return False

    def renew(self) -> None:
        """Makes it again from the packs, as if it had been deleted."""
        self._leave(sqlite3.DatabaseError())
        if self._followed is not None:
            self.follow(*self._followed)

    def forget(self, name: str) -> None:
        """Forgets a pack, so that `follow` takes it in again."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            found = self._database.execute("SELECT id FROM packs WHERE name = ?", (name,)).fetchall()
            for (number,) in found:
                self._forget(number)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._leave(error)

    def pack_names(self) -> list[str]:
        """The packs that it knows, oldest first."""
        return [name for (name,) in self._ask("SELECT name FROM packs ORDER BY id", _ONE_TEXT)]

    def places(self, digest: str) -> list[tuple[str, packs.Row]]:
        """Where an object lies: pack and row, as often as it is there."""
        found = self._ask(
            "SELECT name, kind, at, stored, size, compressed FROM objects JOIN packs ON pack = id WHERE digest = ?"
            " ORDER BY id",
            {(str, *_NUMBERS)},
            (digest,),
        )
        return [
            (name, packs.Row(digest, kind, at, stored, size, bool(compressed)))
            for name, kind, at, stored, size, compressed in found
        ]

    def rows_of(self, name: str) -> list[packs.Row]:
        """Everything in one pack."""
        found = self._ask(
            "SELECT digest, kind, at, stored, size, compressed FROM objects JOIN packs ON pack = id WHERE name = ?",
            {(str, *_NUMBERS)},
            (name,),
        )
        return [packs.Row(d, kind, at, stored, size, bool(c)) for d, kind, at, stored, size, c in found]

    def __contains__(self, digest: str) -> bool:
        return bool(self._ask("SELECT 1 FROM objects WHERE digest = ? LIMIT 1", {(int,)}, (digest,)))

    def digests(self, kind: int | None = None) -> dict[str, int]:
        """Every object (of a kind), and its size."""
        where = "" if kind is None else f" WHERE kind = {int(kind)}"
        return dict(self._ask(f"SELECT digest, size FROM objects{where}", {(str, int)}))

    def count(self, kind: int) -> int:
        """How many objects of a kind there are."""
        return int(
            self._database.execute(
                "SELECT COUNT(DISTINCT digest) FROM objects WHERE kind = ?", (kind,)
            ).fetchone()[0]
        )

    def stored_bytes(self) -> int:
        """What all objects take up in their packs."""
        return int(self._database.execute("SELECT COALESCE(SUM(stored), 0) FROM objects").fetchone()[0])

    def starting_with(self, text: str) -> list[str]:
        """The commits whose digests begin like this, up to three."""
        found = self._ask(
            "SELECT digest FROM commits WHERE digest >= ? AND digest < ? LIMIT 3",
            _ONE_TEXT,
            (text, text + "g"),
        )
        return [digest for (digest,) in found]

    def commit(self, digest: str) -> Entry | None:
        """A commit, if it is there."""
        found = self._ask(f"SELECT {_COMMIT} FROM commits WHERE digest = ?", _COMMIT_TYPES, (digest,))
        return _entry(found[0]) if found else None

    def commits(self) -> dict[str, Entry]:
        """All commits."""
        return {row[0]: _entry(row) for row in self._ask(f"SELECT {_COMMIT} FROM commits", _COMMIT_TYPES)}

    def encodings(self, state: str) -> list[Encoding]:
        """The encodings of a state."""
        found = self._ask(
            "SELECT state, base, frame, form, codec, bytes FROM encodings WHERE state = ?",
            _ENCODING_TYPES,
            (state,),
        )
        return [Encoding(*row) for row in found]

    def all_encodings(self) -> list[tuple[str, Encoding]]:
        """Every encoding, with the digest of its record."""
        question = "SELECT digest, state, base, frame, form, codec, bytes FROM encodings"
        found = self._ask(question, {(str, *types) for types in _ENCODING_TYPES})
        return [(digest, Encoding(*row)) for digest, *row in found]

    # -- made from packs -------------------------------------------------------------------------------------

    def _follow(
        self, names: Callable[[], Iterable[str]], blob_of: Callable[[str], Blob]
    ) -> dict[str, FormatError]:
        """The same in one transaction; what is there is listed once nobody else can change the catalog."""
        damaged: dict[str, FormatError] = {}
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for _ in range(_MOST_TRIES):
                there, gone = set(names()), False
                known = dict(self._database.execute("SELECT name, id FROM packs").fetchall())
                for name in known.keys() - there:
                    self._forget(known[name])
                for name in sorted(there - known.keys() - damaged.keys()):
                    try:
                        self._take(name, blob_of(name))
                    except NotFoundError:
                        gone = True  # it was there a moment ago: what it held is in another one by now
                    except FormatError as error:
                        damaged[name] = error
                if not gone:
                    break
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        return damaged

    def _take(self, name: str, blob: Blob) -> None:
        rows = packs.index(blob, name)
        commits, encodings = [], []
        for row in rows:
            if row.kind not in (packs.COMMIT, packs.ENCODING):
                continue
            try:
                content = packs.content_of(blob.read(row.offset, row.stored), row)
                if row.kind == packs.COMMIT:
                    commits.append((row.digest, Commit.unpack(content)))
                else:
                    encodings.append((row.digest, Encoding.unpack(content)))
            except FormatError:
                continue  # `fsck` names it; what needs it says that it is damaged
        number = self._database.execute("INSERT INTO packs (name) VALUES (?)", (name,)).lastrowid
        self._database.executemany(
            "INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(r.digest, number, r.kind, r.offset, r.stored, r.size, int(r.compressed)) for r in rows],
        )
        for digest, commit in commits:
            self._take_commit(digest, commit)
        for digest, encoding in encodings:
            self._take_encoding(digest, encoding)

    def _take_commit(self, digest: str, one: Commit) -> None:
        row = (
            digest,
            " ".join(one.parents),
            one.state,
            one.kind,
            one.time,
            one.author,
            one.subject,
            one.site,
        )
        self._database.execute("INSERT OR IGNORE INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _take_encoding(self, digest: str, one: Encoding) -> None:
        row = (digest, one.state, one.base, one.frame, one.form, one.codec, one.frame_bytes)
        self._database.execute("INSERT OR IGNORE INTO encodings VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _forget(self, number: int) -> None:
        mine = "(SELECT digest FROM objects WHERE pack = ?1)"
        for table in ("commits", "encodings"):
            elsewhere = f"(SELECT 1 FROM objects WHERE digest = {table}.digest AND pack != ?1)"
            self._database.execute(
                f"DELETE FROM {table} WHERE digest IN {mine} AND NOT EXISTS {elsewhere}", (number,)
            )
        self._database.execute("DELETE FROM objects WHERE pack = ?", (number,))
        self._database.execute("DELETE FROM packs WHERE id = ?", (number,))

    # -- the file --------------------------------------------------------------------------------------------

    def _ask(self, question: str, types: set[tuple[type, ...]], values: tuple[str, ...] = ()) -> list[Any]:
        """The rows that answer, each of one of these sets of types; a damaged database is made again."""
        for attempt in range(3):
            try:
                rows = self._database.execute(question, values).fetchall()
                if all(tuple(map(type, row)) in types for row in rows):
                    return rows
                raise sqlite3.DatabaseError("a value has another type than it can have")
            except sqlite3.ProgrammingError:
                raise  # it was closed
            except sqlite3.Error as error:
                if self._followed is None or attempt == 2:
                    raise
                self._leave(error)
                self._follow(*self._followed)
        raise AssertionError

    def _leave(self, error: sqlite3.Error) -> None:
        """Goes on with another database: a new file where this one is damaged, otherwise one in memory."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        if self._path is None or _not_now(error):
            self._database = self._made(":memory:")
        else:
            self._remove()
            self._database = self._opened()

    def _opened(self) -> sqlite3.Connection:
        """The database, made anew where there is none, or none of this version, or a damaged one."""
        if self._path is None:
            return self._made(":memory:")
        for _ in range(2):
            try:
                found = self._connected(str(self._path))
                version = found.execute("PRAGMA user_version").fetchone()[0]
                if version == _VERSION and self._is_home(found):
                    found.execute("SELECT COUNT(*) FROM packs").fetchone()
                    return found
                if version == 0 and not found.execute("SELECT 1 FROM sqlite_master").fetchone():
                    found.close()
                    return self._made(str(self._path))
                found.close()
            except sqlite3.Error as error:
                if _not_now(error):
                    break
            self._remove()
        return self._made(":memory:")  # a directory that cannot be written: the packs are read each time

    def _remove(self) -> None:
        assert self._path is not None
        for ending in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(OSError):
                self._path.with_name(self._path.name + ending).unlink()

    def _is_home(self, found: sqlite3.Connection) -> bool:
        assert self._path is not None
        return found.execute("SELECT inode FROM home").fetchall() == [(_inode(self._path),)]

    def _made(self, path: str) -> sqlite3.Connection:
        try:
            found = self._connected(path)
            found.execute("BEGIN IMMEDIATE")
            if not found.execute("PRAGMA user_version").fetchone()[0]:  # nobody was faster
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    found.execute(statement)
                found.execute("INSERT INTO home VALUES (?)", (_inode(self._path) if self._path else 0,))
                found.execute(f"PRAGMA user_version = {_VERSION}")
            found.execute("COMMIT")
        except sqlite3.Error:
            if path == ":memory:":
                raise
            return self._made(":memory:")
        return found

    @staticmethod
    def _connected(path: str) -> sqlite3.Connection:
        found = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        found.execute("PRAGMA journal_mode = WAL")
        found.execute("PRAGMA synchronous = OFF")  # a crash costs the catalog, which is made again
        return found


def _not_now(error: sqlite3.Error) -> bool:
    """Whether the file is as it should be: others use it, it may not be written, the disk is full."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_NOW


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino % (1 << 63)
    except OSError:
        return -1


_ONE_TEXT: set[tuple[type, ...]] = {(str,)}
_NUMBERS = (int,) * 5
_COMMIT = "digest, parents, state, kind, time, author, subject, site"
_COMMIT_TYPES: set[tuple[type, ...]] = {(*(str,) * 7, site) for site in (str, type(None))}
_ENCODING_TYPES: set[tuple[type, ...]] = {(str, base, str, str, str, int) for base in (str, type(None))}


def _entry(row: tuple[str, str, str, str, str, str, str, str | None]) -> Entry:
    digest, parents, state, kind, time, author, subject, site = row
    return Entry(digest, tuple(parents.split()), state, kind, time, author, subject, site)

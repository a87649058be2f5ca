"""The salts of a log's commitments, in a SQLite file beside it, by commitment: never part of the log.

    salt(commitment, salt, content)

`content` is the SHA-256 of what was committed to, under which the run's store may have it. To destroy a salt overwrites
it in the file (secure_delete) and empties the write-ahead log.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from phloem.errors import StoreError
from phloem.ledger.database import connect, is_writable


@dataclass(frozen=True, slots=True)
class Salt:
    """What opens one commitment."""

    commitment: str
    salt: bytes
    content: str


class Salts:
    """The salts in the file at `path`, which is made if there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._in_words():
            if not is_writable(path):
                self._database = connect(path)
                return
            path.touch(0o600)
            self._database = connect(path)
            self._database.execute("PRAGMA secure_delete = ON")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS salt"
                " (commitment TEXT PRIMARY KEY, salt BLOB NOT NULL, content TEXT NOT NULL) WITHOUT ROWID"
            )

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def put(self, salts: Sequence[Salt]) -> None:
        """Keeps salts; durable when this returns."""
        rows = [(one.commitment, one.salt, one.content) for one in salts]
        with self._in_words(), self._database:  # which commits, or takes back
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR REPLACE INTO salt VALUES (?, ?, ?)", rows)

    def get(self, commitment: str) -> Salt | None:
        """What opens a commitment; None where it is not here, or no more."""
        with self._in_words():
            found = self._database.execute(
                "SELECT commitment, salt, content FROM salt WHERE commitment = ?", (commitment,)
            ).fetchone()
        return None if found is None else Salt(found[0], bytes(found[1]), found[2])

    def uses(self, content: str) -> int:
        """How many commitments here are to that content."""
        with self._in_words():
            found = self._database.execute("SELECT count(*) FROM salt WHERE content = ?", (content,))
            return int(found.fetchone()[0])

    def destroy(self, commitment: str) -> None:
        """Forgets a salt for ever: when this returns, it is nowhere in the files.

        Raises:
            StoreError: somebody reads them, so that old pages have to stay.
        """
        with self._in_words():
            self._empty_log()  # before, so that a refusal leaves the salt where a second call finds it
            self._database.execute("DELETE FROM salt WHERE commitment = ?", (commitment,))
            self._empty_log()

    def _empty_log(self) -> None:
        busy, _, _ = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(
                f"somebody else has the salts at {self.path} open, so that none can be destroyed",
                hint="wait for it, or end it",
            )

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the salts at {self.path} could not be read or written: {error}") from error

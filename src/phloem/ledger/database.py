"""SQLite files whose commits are on the disk when they return: in WAL mode, with full synchronisation.

A file that cannot be written to, such as an auditor's copy on a read-only medium, is read as it is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from phloem.errors import StoreError

_WAIT_SECONDS = 30.0  # for another process's write


def connect(path: Path) -> sqlite3.Connection:
    """The database in the file at `path`, which is made if there is none.

    Raises:
        StoreError: it is a read-only copy that was made while somebody wrote. sqlite3.Error: it cannot be opened.
    """
    if not is_writable(path):
        return _read_only(path)
    database = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
    except BaseException:
        database.close()
        raise
    return database


def is_writable(path: Path) -> bool:
    """Whether SQLite can write the file and those that it needs beside it."""
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))


def _read_only(path: Path) -> sqlite3.Connection:
    waiting = path.with_name(f"{path.name}-wal")
    if waiting.exists() and waiting.stat().st_size:
        raise StoreError(
            f"{path} was copied while somebody wrote to it", hint="copy it again, or to where you can write"
        )
    address = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of what is done in here, or nothing of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk may have ended it already
            database.execute("ROLLBACK")
        raise

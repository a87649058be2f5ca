"""A ledger's folder.

log.db        the log
policy.txt    whom its readers trust: the log's key, witnesses, how many of them
keys/         the private keys of the log and of the coordinator: never hand them out
lock          held by the process that writes here
salts.db      what opens the commitments: hand out the salts that you mean to
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from phloem.errors import ConfigError, NotFoundError, StateError, StoreError
from phloem.ledger.keys import key_at, read_key
from phloem.ledger.kinds import COORDINATOR
from phloem.ledger.log import Log
from phloem.ledger.settings import LedgerSettings
from phloem.store.files import write_durably
from phloem.tlog.keys import Signer
from phloem.tlog.policy import Policy

LOG, POLICY, KEYS, SALTS = "log.db", "policy.txt", "keys", "salts.db"


@dataclass(frozen=True)
class LedgerFolder:
    """A ledger's folder at `root`."""

    root: Path

    @classmethod
    def create(cls, root: Path, origin: str, settings: LedgerSettings | None = None) -> LedgerFolder:
        """A new one: an empty log called `origin`, its key and the coordinator's, and its policy.

        Raises:
            ConfigError: there is one already. FormatError: `origin` is no name for a log.
        """
        if (root / LOG).exists():
            raise ConfigError(f"there is a log in {root} already")
        found = cls(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / KEYS).mkdir(mode=0o700, exist_ok=True)
            os.chmod(root / KEYS, 0o700)
        except OSError as error:
            raise StoreError(f"{root} cannot be made: {error.strerror}") from error
        log_key = key_at(root / KEYS / "log.key", origin)
        key_at(root / KEYS / "coordinator.key", COORDINATOR)
        policy = (settings or LedgerSettings()).policy(log_key.verifier)
        write_durably(root / POLICY, policy.pack())
        Log.create(root / LOG, origin).close()  # last: a folder with a log is whole
        return found

    @property
    def exists(self) -> bool:
        """Whether there is a ledger."""
        return (self.root / LOG).exists()

    def log(self) -> Log:
        """The log, open."""
        return Log(self.root / LOG)

    def claimed(self) -> IO[bytes]:
        """A file that is open as long as this process is the one that writes here; closing it lets others.

        Raises:
            StateError: another process is.
        """
        try:
            lock = (self.root / "lock").open("ab")
        except OSError as error:
            raise StoreError(f"{self.root / 'lock'} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise StateError(
                f"another process is writing to the ledger in {self.root}", hint="wait for it, or end it"
            ) from error
        return lock

    @property
    def policy(self) -> Policy:
        """Whom its readers trust."""
        return read_policy(self.root / POLICY)

    @property
    def log_key(self) -> Signer:
        """The log's key."""
        return read_key(self.root / KEYS / "log.key")

    @property
    def coordinator_key(self) -> Signer:
        """The coordinator's key."""
        return read_key(self.root / KEYS / "coordinator.key")


def read_policy(path: Path) -> Policy:
    """The policy in a file.

    Raises:
        NotFoundError: there is none. FormatError: it is none.
    """
    with contextlib.suppress(FileNotFoundError):
        try:
            return Policy.parse(path.read_bytes())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    raise NotFoundError(f"there is no policy at {path}")

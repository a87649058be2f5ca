"""Where a ledger is, as a command is told: a run, a ledger's folder, or what it was exported to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phloem.errors import ConfigError, FormatError, NotFoundError, StoreError
from phloem.job.ledger import LEDGER, ledger_of
from phloem.ledger.audit import Source
from phloem.ledger.folder import LOG, LedgerFolder, read_policy
from phloem.ledger.log import Log
from phloem.tlog.keys import VerifierKey
from phloem.tlog.policy import Policy
from phloem.tlog.proof import FIRST_LINE, Receipt


@dataclass(frozen=True)
class Place:
    """An opened ledger.

    Attributes:
        source: its entries.
        notes: the checkpoints that it has.
        log, folder: where it is a log and not what was exported.
        run: where it is a run's: its directory, and its name in the log.
    """

    source: Source
    notes: list[bytes]
    log: Log | None = None
    folder: LedgerFolder | None = None
    run: tuple[Path, str] | None = None

    @property
    def own_policy(self) -> Policy | None:
        """What the ledger's own people say whom to trust."""
        return None if self.folder is None else self.folder.policy


@contextlib.contextmanager
def place_of(where: str) -> Iterator[Place]:
    """The ledger at `where`.

    Raises:
        ConfigError: there is none.
    """
    path = Path(where)
    if (path / LEDGER / "run.json").exists():
        folder, run = ledger_of(path)
        with folder.log() as log:
            yield Place(log, log.checkpoints(), log, folder, (path, run))
    elif (path / LOG).exists():
        folder = LedgerFolder(path)
        with folder.log() as log:
            yield Place(log, log.checkpoints(), log, folder)
    else:
        from phloem.ledger.export import files_at
        from phloem.ledger.exported import Exported

        try:
            found = Exported(files_at(where))
        except NotFoundError as error:
            raise ConfigError(
                f"there is no ledger at {where}",
                hint="name a run, a ledger's folder, or a directory or URL that it was exported to",
            ) from error
        yield Place(found, [found.note])


def log_of(place: Place, where: str) -> tuple[Log, LedgerFolder]:
    """The log, if it is one that can be written to.

    Raises:
        ConfigError: it is what a log was exported to.
    """
    if place.log is None or place.folder is None:
        raise ConfigError(f"{where} is an export of a log, not the log", hint="name the run or the folder")
    return place.log, place.folder


def policy_from(path: Path | None, place: Place | None = None) -> tuple[Policy, bool]:
    """The policy to judge by, and whether it is the judge's own.

    Raises:
        ConfigError: there is none.
    """
    if path is not None:
        return read_policy(path), True
    found = None if place is None else place.own_policy
    if found is None:
        raise ConfigError("whom is to be trusted?", hint="name your policy with --policy FILE")
    return found, False


def members_from(rows: list[str] | None) -> dict[str, str]:
    """The keys in texts like NAME=KEY.

    Raises:
        ConfigError: one is of another form.
    """
    found = {}
    for row in rows or []:
        name, equals, key = row.partition("=")
        if not equals:
            raise ConfigError(f"expected --member NAME=KEY, found '{row:.80}'")
        try:
            owner = VerifierKey.parse(key).name
        except FormatError as error:
            raise ConfigError(
                f"--member {name:.80}: {error.message}", hint="`phloem key new` prints it"
            ) from error
        if owner != name:
            raise ConfigError(f"--member {name:.80}: the key is the one of '{owner:.80}'")
        found[name] = key
    return found


def note_in(data: bytes) -> bytes:
    """The checkpoint in a file, which may be a receipt."""
    return Receipt.unpack(data).note if data.startswith(FIRST_LINE.encode()) else data


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        NotFoundError: there is none. StoreError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error

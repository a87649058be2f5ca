"""The coordinator's hand in a log: it numbers, signs and appends its own entries, and has checkpoints cosigned.

Entries that take effect later, such as updates, which count when they are merged, may wait for those that follow, and
go to the disk with them: a round with a hundred updates costs two syncs instead of two hundred.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phloem.errors import PhloemError
from phloem.ledger.entry import Entry, Seen, Statement, pack_all
from phloem.ledger.folder import SALTS, LedgerFolder
from phloem.ledger.quorum import Witnesses
from phloem.ledger.salts import Salt, Salts
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.note import Note


class Journal:
    """A ledger's folder, open for writing entries of `run`; nobody else writes there meanwhile."""

    def __init__(self, folder: LedgerFolder, run: str, clock: Callable[[], float] = time.time) -> None:
        """Opens it.

        Raises:
            StateError: another process is writing there. NotFoundError: there is no log.
        """
        self.run, self.clock = run, clock
        self.signer, self.log_signer, self.policy = folder.coordinator_key, folder.log_key, folder.policy
        with contextlib.ExitStack() as undo:
            self._claim = undo.enter_context(folder.claimed())
            self.log = undo.enter_context(folder.log())
            self.salts = Salts(folder.root / SALTS)
            undo.pop_all()
        self.witnesses = Witnesses(self.policy) if self.policy.urls else None
        self.seen = self._newest()
        self.seq = 0
        self.written = 0  # bytes of this run's entries
        self.size = self.log.size  # with those that wait
        self._rows: list[bytes] = []  # entries that wait
        self._salts: list[Salt] = []

    def close(self) -> None:
        """Closes the files; what still waits is as if it had not come."""
        self.log.close()
        self.salts.close()
        self._claim.close()

    def keep(self, salts: Sequence[Salt]) -> None:
        """Keeps salts: they are on the disk before the entries that follow are."""
        self._salts += salts

    def write(
        self,
        said: Sequence[tuple[str, Mapping[str, Any]]],
        before: Sequence[Entry] = (),
        *,
        later: bool = False,
    ) -> list[Entry]:
        """The coordinator's own entries of these kinds, after those of others.

        They are in the log now, with all that waited; or, if it is enough, `later`.
        """
        first = self.seq
        try:
            own = [self._statement(kind, fields).signed(self.signer) for kind, fields in said]
            self.append([*before, *own], later=later)
        except PhloemError:
            self.seq = first
            raise
        return own

    def append(self, entries: Sequence[Entry], *, later: bool = False) -> range:
        """The places of these entries, which are in the log now, with all that waited; or, if it is enough, `later`."""
        rows = pack_all(entries)
        self._rows += rows
        if not later:
            try:
                self.flush()
            except PhloemError:
                del self._rows[len(self._rows) - len(rows) :]
                raise
        self.size += len(rows)
        return range(self.size - len(rows), self.size)

    def flush(self) -> None:
        """Brings what waits to the disk.

        Raises:
            StoreError: the disk refuses; it waits still.
        """
        if self._salts:
            self.salts.put(self._salts)
            self._salts = []
        if self._rows:
            self.log.append(self._rows)
            self.written += sum(map(len, self._rows))
            self._rows = []

    def _statement(self, kind: str, fields: Mapping[str, Any]) -> Statement:
        said = Statement(kind, self.run, self.signer.name, self.seq, int(self.clock()), self.seen, fields)
        self.seq += 1
        return said

    def checkpoint(self) -> bytes:
        """A signed checkpoint of now, with the cosignatures of the witnesses that answered."""
        self.flush()
        note = self.log.sign([self.log_signer])
        if self.witnesses is not None:
            note = self.witnesses.cosign(self.log, note)
        self.seen = self._newest()
        return note

    def _newest(self) -> Seen:
        note = self.log.checkpoint()
        if note is None:
            return Seen()
        found = Checkpoint.unpack(Note.unpack(note).text)
        return Seen(found.size, found.root)

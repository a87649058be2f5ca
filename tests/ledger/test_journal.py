"""The coordinator's hand in the log: numbered, signed, all or nothing, and one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.ledger.exchanges import Clock, checkpoint_in
from tests.ledger.samples import ANT, FIELDS, ORIGIN, RUN, let_in
from tests.ledger.witnesses import WITNESS, Served, new_witness

from phloem.errors import FormatError, NotFoundError, StateError, StoreError
from phloem.ledger.entry import Entry, Seen
from phloem.ledger.folder import LedgerFolder
from phloem.ledger.journal import Journal
from phloem.ledger.settings import LedgerSettings
from phloem.tlog.note import Note

EVAL = ("eval", FIELDS["eval"])


@pytest.fixture
def folder(tmp_path: Path) -> LedgerFolder:
    return LedgerFolder.create(tmp_path / "ledger", ORIGIN)


@pytest.fixture
def journal(folder: LedgerFolder) -> Iterator[Journal]:
    with closing(Journal(folder, RUN, Clock())) as found:
        yield found


def test_own_entries_are_numbered_signed_and_in_the_log_after_those_of_others(journal: Journal) -> None:
    (first,) = journal.write([EVAL])
    second, third = journal.write([EVAL, EVAL], before=[let_in(ANT)])
    found = [Entry.unpack(data) for data in journal.log.entries(0, journal.log.size)]
    assert found == [first, let_in(ANT), second, third]
    for number, entry in enumerate((first, second, third)):
        entry.check_signed_by(journal.signer.verifier)
        said = entry.statement
        assert (said.sender, said.run, said.seq, said.prev) == ("coordinator", RUN, number, Seen())
    assert [one.statement.time for one in (first, second, third)] == sorted(
        {one.statement.time for one in (first, second, third)}
    )
    assert journal.written == sum(len(one.pack()) for one in found)


def test_what_cannot_be_an_entry_leaves_no_gap_and_nothing_behind(journal: Journal) -> None:
    journal.write([EVAL])
    with pytest.raises(FormatError):
        journal.write([EVAL, ("eval", {})])
    assert journal.log.size == 1
    with pytest.raises(FormatError, match="longer than 65535"):
        journal.write(
            [EVAL, ("round-open", {**FIELDS["round-open"], "asked": [f"{n:0400}" for n in range(150)]})]
        )
    assert journal.log.size == 1
    (entry,) = journal.write([EVAL])
    assert entry.statement.seq == 1


def test_what_the_disk_refuses_leaves_no_gap(journal: Journal) -> None:
    journal.write([EVAL])
    journal.log._database.execute(
        "CREATE TRIGGER no BEFORE INSERT ON entry BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    )
    with pytest.raises(StoreError, match="the disk is full"):
        journal.write([EVAL, EVAL])
    journal.log._database.execute("DROP TRIGGER no")
    (entry,) = journal.write([EVAL])
    assert (entry.statement.seq, journal.log.size) == (1, 2)


def test_entries_name_the_newest_checkpoint_when_they_were_made(
    folder: LedgerFolder, journal: Journal
) -> None:
    journal.write([EVAL])
    note = journal.checkpoint()
    assert folder.policy.check(note).size == 1
    (entry,) = journal.write([EVAL])
    found = checkpoint_in(note)
    assert entry.statement.prev == Seen(1, found.root) == journal.seen
    assert journal.log.checkpoint() == note
    journal.close()
    with closing(Journal(folder, RUN)) as again:
        assert again.seen == Seen(1, found.root)


def test_a_second_writer_is_refused_and_takes_nothing(folder: LedgerFolder, journal: Journal) -> None:
    with pytest.raises(StateError, match="another process is writing"):
        Journal(folder, RUN)
    journal.write([EVAL])
    journal.close()
    Journal(folder, RUN).close()


def test_a_folder_without_a_log_cannot_be_written(tmp_path: Path, folder: LedgerFolder) -> None:
    with pytest.raises(NotFoundError):
        Journal(LedgerFolder(tmp_path / "none"), RUN)
    (folder.root / "log.db").unlink()
    for _ in range(2):  # and the lock is not kept by the one that failed
        with pytest.raises(NotFoundError, match="there is no log"):
            Journal(folder, RUN)


def test_a_dead_witness_costs_its_cosignature_and_nothing_else(tmp_path: Path) -> None:
    settings = LedgerSettings(witnesses=[f"w {WITNESS.verifier} http://127.0.0.1:1"])
    folder = LedgerFolder.create(tmp_path / "ledger", ORIGIN, settings)
    with closing(Journal(folder, RUN)) as journal:
        assert journal.witnesses is not None
        journal.write([EVAL])
        note = journal.checkpoint()
        assert len(Note.unpack(note).signatures) == 1
        assert "no connection" in journal.witnesses.missing["w"]


@pytest.mark.slow
def test_a_witness_cosigns_every_checkpoint(tmp_path: Path) -> None:
    new_witness(tmp_path / "w", "w.example").close()
    folder = LedgerFolder.create(tmp_path / "plain", "example.org/log")
    with Served(tmp_path / "w", folder.log_key.verifier) as served:
        from phloem.ledger.keys import read_key

        key = read_key(tmp_path / "w" / "key").verifier
        policy = LedgerSettings(witnesses=[f"w {key} {served.url}"]).policy(folder.log_key.verifier)
        (folder.root / "policy.txt").write_bytes(policy.pack())
        with closing(Journal(folder, RUN)) as journal:
            for size in (1, 2, 3):
                journal.write([EVAL])
                assert folder.policy.check(journal.checkpoint()).size == size

"""The log in a file: durable, in order, provable, one transaction for all who wait."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.tlog.trees import mth

from phloem.errors import ConfigError, FormatError, NotFoundError, StateError, StoreError
from phloem.ledger.log import Log
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import NOTE, Signer
from phloem.tlog.merkle import Node, leaf_hash, tree_hash
from phloem.tlog.note import Note
from phloem.tlog.policy import Policy

SIGNER = Signer.from_seed("example.org/log", NOTE, bytes(32))
POLICY = Policy((SIGNER.verifier,))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.create(tmp_path / "log.db", "example.org/log")


def test_entries_come_back_in_order_under_the_root_of_the_definition(log: Log) -> None:
    entries = [b"%d" % n for n in range(300)]
    assert log.append(entries[:1]) == range(1)
    assert log.append(entries[1:200]) == range(1, 200)
    assert log.append([]) == range(200, 200)
    assert log.append(entries[200:]) == range(200, 300)
    assert log.size == 300
    assert log.entries(0, 300) == entries
    for size in (0, 1, 7, 200, 300):
        assert tree_hash(size, log.read) == mth(entries[:size])


def test_nodes_are_written_in_the_order_of_their_ids_without_gaps(log: Log) -> None:
    for size in (1, 2, 7, 40, 64, 65):
        log.append([b"%d" % n for n in range(log.size, size)])
        rows = sqlite3.connect(log.path).execute("SELECT id FROM node").fetchall()
        assert [row[0] for row in rows] == list(range(2 * size - size.bit_count()))


def test_more_hashes_than_are_kept_or_asked_for_at_once_come_back(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [b"%d" % n for n in range(500)]
    log.append(entries)
    nodes = [Node(0, number) for number in range(500)]
    expected = [leaf_hash(entry) for entry in entries]
    monkeypatch.setattr("phloem.ledger.log._MOST_HASHES", 20)
    for start in range(480):
        assert log.read(nodes[start : start + 20]) == expected[start : start + 20]
        assert len(log._hashes) <= 40
    assert log.read(nodes) == expected
    assert log.read([Node(3, 1), Node(3, 1)]) == [mth(entries[8:16])] * 2


def test_a_node_that_is_lacking_is_no_hash(log: Log) -> None:
    log.append([b"one", b"two"])
    for nodes in ([Node(0, 2)], [Node(0, 0), Node(2, 0)]):
        with pytest.raises(StateError, match="lacks nodes"):
            log.read(nodes)
    log.close()
    with pytest.raises(StoreError, match="could not be read"):
        log.read([Node(1, 0)])


def test_a_closed_log_is_opened_as_it_was(tmp_path: Path) -> None:
    with Log.create(tmp_path / "log.db", "example.org/log") as log:
        log.append([b"one", b"two"])
        note = log.sign([SIGNER])
    with Log(tmp_path / "log.db") as again:
        assert (again.origin, again.size, again.checkpoint()) == ("example.org/log", 2, note)
        assert again.append([b"three"]) == range(2, 3)


def test_every_entry_under_a_checkpoint_has_a_receipt(log: Log) -> None:
    with pytest.raises(NotFoundError, match="no checkpoint"):
        log.receipt(0)
    log.append([b"%d" % n for n in range(21)])
    log.sign([SIGNER])
    log.append([b"later"])
    for index in range(21):
        assert log.receipt(index).check(leaf_hash(b"%d" % index), POLICY).size == 21
    with pytest.raises(NotFoundError, match="no checkpoint"):
        log.receipt(21)


def test_a_size_is_signed_once(log: Log) -> None:
    empty = log.sign([SIGNER])
    assert Checkpoint.unpack(Note.unpack(empty).text).size == 0
    log.append([b"one"])
    first = log.sign([SIGNER])
    assert log.sign([Signer.new("another")]) == first  # what was signed stays what it was


def test_threads_that_append_at_once_get_places_of_their_own(log: Log) -> None:
    found: dict[bytes, int] = {}
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    log._database.set_trace_callback(count)

    def write(who: int) -> None:
        for number in range(40):
            entry = b"%d of %d" % (number, who)
            (index,) = log.append([entry])
            found[entry] = index

    threads = [threading.Thread(target=write, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found.values()) == list(range(320))
    entries = log.entries(0, 320)
    assert all(entries[index] == entry for entry, index in found.items())
    assert tree_hash(320, log.read) == mth(entries)
    assert commits < 320  # they share


def test_an_entry_that_is_too_long_is_refused_alone(log: Log) -> None:
    with pytest.raises(ConfigError, match="65536 bytes"):
        log.append([b"fine", b"x" * 65_536])
    assert log.size == 0
    assert log.append([b"x" * 65_535]) == range(1)


def test_a_failed_write_adds_nothing_and_is_told_to_who_waited(log: Log) -> None:
    log.append([b"one"])
    other = sqlite3.connect(log.path)
    other.execute(
        "CREATE TRIGGER no BEFORE INSERT ON node BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    )
    other.commit()
    with pytest.raises(StoreError, match="the disk is full"):
        log.append([b"two"])
    assert log.size == 1
    other.execute("DROP TRIGGER no")
    other.commit()
    assert log.append([b"two"]) == range(1, 2)


def test_what_is_no_log_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Log(tmp_path / "none")
    (tmp_path / "text").write_text("text" * 1000)
    with pytest.raises(StoreError):
        Log(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE meta (key, value)")
    other.commit()
    with pytest.raises(StateError, match="version 2"):
        Log(tmp_path / "other.db")
    Log.create(tmp_path / "log.db", "o")
    with pytest.raises(ConfigError, match="exists already"):
        Log.create(tmp_path / "log.db", "o")
    for origin in ("", "two\nlines"):
        with pytest.raises(FormatError):
            Log.create(tmp_path / "new.db", origin)


WRITER = """
import sys
sys.path[:] = {path!r}
from pathlib import Path
from phloem.ledger.log import Log
log = Log(Path(sys.argv[1]))
number = log.size
while True:
    for index in log.append([b"entry %d" % (number + i) for i in range(1 + number % 5)]):
        print(index, flush=True)
        number += 1
"""


@pytest.mark.slow
def test_no_acknowledged_entry_is_lost_and_none_half_written_when_the_writer_is_killed(
    tmp_path: Path,
) -> None:
    draw = random.Random(3)
    path = tmp_path / "log.db"
    Log.create(path, "example.org/log").close()
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER.format(path=sys.path), str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(draw.randrange(1, 60))]
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.read().splitlines(keepends=True)
        acknowledged = max(int(line) for line in lines if line.endswith("\n"))
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
        with Log(path) as log:
            assert log.size > acknowledged
            entries = log.entries(0, log.size)
            assert entries == [b"entry %d" % n for n in range(log.size)]
            assert tree_hash(log.size, log.read) == mth(entries)


@pytest.mark.slow
@pytest.mark.service("strace")
def test_an_entry_is_synced_before_it_is_acknowledged(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "import os\nfrom pathlib import Path\nfrom phloem.ledger.log import Log\n"
        "log = Log(Path(sys.argv[1]))\n"
        "for n in range(5):\n log.append([b'marked entry %d' % n]); os.write(1, b'acknowledged %d' % n)\n"
    )
    path = tmp_path / "log.db"
    Log.create(path, "example.org/log").close()
    trace = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-y",
        "-s",
        "9000",
        "-e",
        "trace=write,pwrite64,fsync,fdatasync",
        "-o",
        str(trace),
    ]
    subprocess.run([*command, sys.executable, "-c", code, str(path)], check=True, capture_output=True)
    lines = trace.read_text(errors="replace").splitlines()
    for number in range(5):
        written = next(
            i for i, line in enumerate(lines) if f"marked entry {number}" in line and "-wal>" in line
        )
        told = next(i for i, line in enumerate(lines) if f"acknowledged {number}" in line)
        synced = [i for i, line in enumerate(lines) if "sync(" in line and "-wal>" in line]
        assert any(written < i < told for i in synced), number


def test_the_log_can_be_read_while_it_is_written(log: Log) -> None:
    log.append([b"one"])
    with Log(log.path) as reader:
        log._database.execute("BEGIN IMMEDIATE")
        assert reader.entries(0, 1) == [b"one"]
        log._database.execute("ROLLBACK")
        log.append([b"two"])
        assert reader.size == 2
    assert os.path.exists(log.path)


def test_a_log_that_cannot_be_written_to_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Log.create(tmp_path / "log.db", "example.org/log") as log:
        log.append([b"one", b"two"])
        root = tree_hash(2, log.read)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with Log(tmp_path / "log.db") as log:
        assert log.entries(0, 2) == [b"one", b"two"]
        assert tree_hash(2, log.read) == root
        with pytest.raises(StoreError, match="readonly"):
            log.append([b"three"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "log.db-wal").write_bytes(b"what was not in the one file yet")
    with pytest.raises(StoreError, match="copied while somebody wrote"):
        Log(tmp_path / "log.db")

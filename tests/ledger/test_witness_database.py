"""A witness's own decisions and its database: nothing is cosigned that does not fit, nothing is forgotten."""

from __future__ import annotations

import itertools
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from tests.ledger.witnesses import (
    FORK,
    LOG,
    ORIGIN,
    TREE,
    WITNESS,
    Served,
    new_witness,
    note_of,
    post,
    request,
)
from tests.tiny import ROOT
from tests.tlog.trees import Tree

from phloem.errors import ConfigError, FormatError, NotFoundError, StateError, StoreError
from phloem.ledger.evidence import Evidence
from phloem.ledger.witness import (
    MOST_KEPT,
    Witness,
    WitnessDatabase,
    create_witness,
    open_witness,
    origin_digest,
)
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer, cosigned_time
from phloem.tlog.merkle import check_consistency, prove_consistency, tree_hash
from phloem.tlog.note import MOST_SIGNATURES, Note, signed
from phloem.tlog.witness import Request


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return new_witness(tmp_path / "w")


def size_at(witness: Witness) -> int:
    found = witness.database.newest(ORIGIN)
    return 0 if found is None else found.size


# -- what is cosigned ----------------------------------------------------------------------------------------------


def test_what_is_kept_is_what_was_given_out_with_the_logs_signature_and_no_strangers(
    witness: Witness,
) -> None:
    strangers = [Signer.new(f"stranger{n}") for n in range(MOST_SIGNATURES - 1)]
    note = signed(Note.unpack(note_of(7)).text, [LOG, *strangers])
    reply = witness.add_checkpoint(Request(0, (), note).pack())
    assert reply.status == 200
    kept = witness.checkpoint(origin_digest(ORIGIN))
    assert kept is not None
    assert kept.endswith(reply.body)
    assert len(Note.unpack(kept).signatures) == 2
    assert set(Note.unpack(kept).verified([LOG.verifier, witness.signer.verifier])) == {
        LOG.verifier,
        witness.signer.verifier,
    }
    assert witness.checkpoint(origin_digest("example.org/other")) is None


def test_the_time_of_a_cosignature_is_the_clocks(tmp_path: Path) -> None:
    with WitnessDatabase.create(tmp_path / "db", WITNESS.verifier) as database:
        witness = Witness(database, WITNESS, [LOG.verifier], lambda: 1_700_000_000.9)
        body = note_of(3) + witness.add_checkpoint(request(0, 3)).body
    good = Note.unpack(body).verified([WITNESS.verifier])
    assert cosigned_time(good[WITNESS.verifier]) == 1_700_000_000


def test_a_witness_goes_on_where_it_was_closed(tmp_path: Path) -> None:
    with new_witness(tmp_path / "w") as witness:
        assert witness.add_checkpoint(request(0, 7)).status == 200
    with open_witness(tmp_path / "w", [LOG.verifier]) as again:
        assert again.add_checkpoint(request(0, 9)).status == 409
        assert again.add_checkpoint(request(7, 9)).status == 200
        assert [(one.origin, one.size, one.root) for one in again.database.logs()] == [
            (ORIGIN, 9, tree_hash(9, TREE.read))
        ]


def test_of_requests_at_once_one_is_cosigned_and_the_record_never_goes_back(witness: Witness) -> None:
    assert witness.add_checkpoint(request(0, 1)).status == 200
    for _ in range(15):
        start = size_at(witness)
        bodies = [request(start, start + more) for more in (1, 2, 3, 4)]
        barrier = threading.Barrier(len(bodies))
        found: list[tuple[int, int]] = []

        def ask(body: bytes, barrier: threading.Barrier, found: list[tuple[int, int]]) -> None:
            barrier.wait()
            size = Checkpoint.unpack(Note.unpack(Request.unpack(body).note).text).size
            found.append((witness.add_checkpoint(body).status, size))

        threads = [threading.Thread(target=ask, args=(body, barrier, found)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cosigned = [size for status, size in found if status == 200]
        assert sorted(status for status, _ in found) == [200, 409, 409, 409]
        assert cosigned == [size_at(witness)]
    assert witness.database.misbehaviour() == []


def test_a_request_that_was_checked_before_another_was_kept_is_not_cosigned(
    witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race of the specification, step by step: request A is checked, B is kept, A must not roll B back."""
    assert witness.add_checkpoint(request(0, 5)).status == 200
    advance = WitnessDatabase.advance
    inside = threading.Event()

    def late(self: WitnessDatabase, *words: object) -> bool:
        if not inside.is_set():
            inside.set()
            assert witness.add_checkpoint(request(5, 30)).status == 200
        return advance(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(WitnessDatabase, "advance", late)
    reply = witness.add_checkpoint(request(5, 10))
    assert (reply.status, reply.body) == (409, b"30\n")
    assert size_at(witness) == 30


def test_two_processes_on_one_database_are_one_witness(tmp_path: Path) -> None:
    create_witness(tmp_path / "w", "witness.example/w")
    with Served(tmp_path / "w") as one, Served(tmp_path / "w") as other:
        assert post(one.port, request(0, 2))[0] == 200
        for old in range(2, 22, 2):
            barrier = threading.Barrier(2)
            found: list[int] = []

            def ask(port: int, body: bytes, barrier: threading.Barrier, found: list[int]) -> None:
                barrier.wait()
                found.append(post(port, body)[0])

            work = [(one.port, request(old, old + 1)), (other.port, request(old, old + 2))]
            threads = [threading.Thread(target=ask, args=(*words, barrier, found)) for words in work]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(found) == [200, 409]
            post(one.port, request(old + 1, old + 2))
            assert post(other.port, request(old, old + 2)) == (409, b"%d\n" % (old + 2))


def test_a_cosignature_that_cannot_be_kept_is_not_given(witness: Witness) -> None:
    assert witness.add_checkpoint(request(0, 5)).status == 200
    with closing(sqlite3.connect(witness.database.path)) as other:
        other.execute(
            "CREATE TRIGGER no BEFORE INSERT ON newest BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
        other.commit()
        with pytest.raises(StoreError, match="the disk is full"):
            witness.add_checkpoint(request(5, 9))
        assert size_at(witness) == 5
        other.execute("DROP TRIGGER no")
        other.commit()
    assert witness.add_checkpoint(request(5, 9)).status == 200


# -- what is kept against a log ------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [0, 3, 20])
def test_another_tree_of_the_same_size_is_kept_as_proof_whatever_the_request_says(
    witness: Witness, old: int
) -> None:
    assert witness.add_checkpoint(request(0, 20)).status == 200
    expected = 422 if old == 20 else 409
    assert witness.add_checkpoint(request(old, 20, FORK)).status == expected
    assert witness.add_checkpoint(request(old, 20, FORK)).status == expected
    (kept,) = witness.database.misbehaviour()
    assert (kept.origin, kept.proof) == (ORIGIN, True)
    assert Note.unpack(kept.shown).text == Note.unpack(note_of(20, FORK)).text
    assert "two histories" in Evidence(kept.kept, kept.shown).check([LOG.verifier])


def test_a_fork_of_another_size_is_kept_but_proves_nothing_alone(witness: Witness) -> None:
    assert witness.add_checkpoint(request(0, 20)).status == 200
    assert witness.add_checkpoint(request(20, 40, FORK)).status == 422
    (kept,) = witness.database.misbehaviour()
    assert not kept.proof
    assert Checkpoint.unpack(Note.unpack(kept.shown).text).size == 40


@pytest.mark.parametrize(
    "body",
    [
        b"",
        request(0, 30),
        request(3, 30),
        request(19, 20),
        Request(0, (), note_of(20, FORK, Signer.new(ORIGIN))).pack(),
        Request(0, (), note_of(20, FORK).replace(b"\n20\n", b"\n21\n")).pack(),
        Request(20, (), signed(Checkpoint("example.org/other", 20, bytes(32)).pack(), [LOG])).pack(),
    ],
)
def test_a_mistake_and_a_forgery_are_not_kept_against_the_log(witness: Witness, body: bytes) -> None:
    assert witness.add_checkpoint(request(0, 20)).status == 200
    assert witness.add_checkpoint(body).status != 200
    assert witness.database.misbehaviour() == []


def test_a_proof_where_none_is_needed_is_not_kept(witness: Witness) -> None:
    assert witness.add_checkpoint(Request(0, (bytes(32),), note_of(3)).pack()).status == 422
    assert witness.database.misbehaviour() == []


def test_wrong_proofs_do_not_fill_the_disk_nor_take_the_room_of_proofs(witness: Witness) -> None:
    assert witness.add_checkpoint(request(0, 20)).status == 200
    for size in range(21, 21 + MOST_KEPT + 10):
        assert witness.add_checkpoint(Request(20, (bytes(32),), note_of(size)).pack()).status == 422
    assert witness.add_checkpoint(request(20, 20, FORK)).status == 422
    kept = witness.database.misbehaviour()
    assert len(kept) == MOST_KEPT + 1
    assert [one.proof for one in kept].index(True) == MOST_KEPT


# -- what is no witness --------------------------------------------------------------------------------------------


def test_a_new_witness_has_a_key_for_its_owner_alone_and_is_made_once(tmp_path: Path) -> None:
    key = create_witness(tmp_path / "w", "witness.example/w")
    assert (key.name, key.type) == ("witness.example/w", COSIGNATURE)
    assert (tmp_path / "w" / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o700
    for present in ("key", "witness.db"):
        with pytest.raises(ConfigError, match="exists already"):
            create_witness(tmp_path / "w", "witness.example/w")
        (tmp_path / "w" / present).unlink()
    for name in ("", "two words", "a+b", "none"):
        with pytest.raises(ConfigError, match="name"):
            create_witness(tmp_path / "w", name)


def test_a_key_without_its_database_does_not_sign(tmp_path: Path) -> None:
    new_witness(tmp_path / "w").close()
    (tmp_path / "w" / "witness.db").unlink()
    with pytest.raises(NotFoundError, match="no witness database") as found:
        open_witness(tmp_path / "w", [LOG.verifier])
    assert "new key" in str(found.value.hint)
    with pytest.raises(NotFoundError, match="there is no witness in"):
        open_witness(tmp_path / "nothing", [LOG.verifier])


def test_a_key_with_another_keys_database_does_not_sign(tmp_path: Path) -> None:
    for name in ("a", "b"):
        new_witness(tmp_path / name, f"witness.example/{name}").close()
    (tmp_path / "a" / "key").write_bytes((tmp_path / "b" / "key").read_bytes())
    with pytest.raises(StateError, match="belongs to another key"):
        open_witness(tmp_path / "a", [LOG.verifier])


def test_what_is_no_database_and_what_is_no_key_is_refused(tmp_path: Path) -> None:
    new_witness(tmp_path / "w").close()
    database, key = tmp_path / "w" / "witness.db", tmp_path / "w" / "key"
    secret = key.read_text().strip()
    with closing(sqlite3.connect(database)) as other:
        other.execute("UPDATE meta SET value = 2 WHERE key = 'version'")
        other.commit()
    with pytest.raises(StateError, match="version 1"):
        open_witness(tmp_path / "w", [LOG.verifier])
    database.write_bytes(b"text" * 1000)
    with pytest.raises(StoreError):
        open_witness(tmp_path / "w", [LOG.verifier])
    key.write_text(secret[:-6])
    with pytest.raises(FormatError) as found:
        open_witness(tmp_path / "w", [LOG.verifier])
    assert secret[-20:-6] not in str(found.value)


def test_a_witness_is_no_log_and_has_a_key_for_cosignatures(tmp_path: Path) -> None:
    log = Signer.from_seed(ORIGIN, NOTE, bytes([1]) * 32)  # the witness's seed
    with WitnessDatabase.create(tmp_path / "db", WITNESS.verifier) as database:
        with pytest.raises(ConfigError, match="own key"):
            Witness(database, WITNESS, [log.verifier])
        with pytest.raises(ConfigError, match="none for cosignatures"):
            Witness(database, LOG, [])


# -- killed --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_witness_killed_under_load_never_signs_less_or_other_than_what_it_gave_out(tmp_path: Path) -> None:
    draw = random.Random(5)
    key = create_witness(tmp_path / "w", "witness.example/w")
    given = [(0, tree_hash(0, TREE.read))]
    for _ in range(8):
        with Served(tmp_path / "w") as served:
            status, body = post(served.port, request(0, 1))
            at = int(body) if status == 409 else 1
            assert at >= given[-1][0]
            if status == 200:
                given.append((1, tree_hash(1, TREE.read)))
            # It knows what it gave out: a fork, the same size or a larger one, gets nothing.
            fork = Tree([b"fork"] * (at + 3))
            assert post(served.port, request(at, at, fork))[0] == 422
            assert post(served.port, request(at, at + 3, fork))[0] == 422
            count = draw.randrange(1, 12)
            reached = threading.Event()
            lock = threading.Lock()

            def load(
                served: Served, at: int, count: int, reached: threading.Event, lock: threading.Lock
            ) -> None:
                own = 0
                while True:
                    size = at + 1
                    try:
                        status, body = post(served.port, request(at, size))
                    except OSError:
                        return
                    if status == 409:
                        at = int(body)
                        continue
                    assert status == 200
                    good = Note.unpack(note_of(size) + body).verified([key])
                    assert key in good
                    with lock:
                        given.append((size, tree_hash(size, TREE.read)))
                    at, own = size, own + 1
                    if own == count:
                        reached.set()

            threads = [
                threading.Thread(target=load, args=(served, at, count, reached, lock)) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            assert reached.wait(60)
            served.end(signal.SIGKILL)
            for thread in threads:
                thread.join()
        given.sort()
    assert len({size for size, _ in given}) == len(given)  # no size twice: each was from the one before
    for (old, old_root), (size, root) in itertools.pairwise(given[1:]):
        check_consistency(old, size, old_root, root, prove_consistency(old, size, TREE.read))
    with open_witness(tmp_path / "w", [LOG.verifier]) as witness:
        assert size_at(witness) >= given[-1][0]


@pytest.mark.slow
@pytest.mark.service("strace")
def test_a_cosignature_is_synced_before_it_is_given_out(tmp_path: Path) -> None:
    create_witness(tmp_path / "w", "witness.example/w")
    code = (
        f"import sys; sys.path[:] = {[*sys.path, str(ROOT)]!r}\nimport os\nfrom pathlib import Path\n"
        "from tests.ledger.witnesses import *\n"
        "witness = open_witness(Path(sys.argv[1]), [LOG.verifier])\n"
        "for n in range(5):\n"
        "    os.write(1, b'asked %d' % n)\n"
        "    assert witness.add_checkpoint(request(n, n + 1)).status == 200\n"
        "    os.write(1, b'given %d' % n)\n"
    )
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", str(trace)]
    subprocess.run(
        [*command, sys.executable, "-c", code, str(tmp_path / "w")], check=True, capture_output=True
    )
    lines = trace.read_text(errors="replace").splitlines()
    for number in range(5):
        asked = next(i for i, line in enumerate(lines) if f"asked {number}" in line)
        given = next(i for i, line in enumerate(lines) if f"given {number}" in line)
        between = [line for line in lines[asked:given] if "-wal>" in line]
        assert re.search("pwrite64|write", between[0])
        assert "sync(" in between[-1]

"""The witness protocol's decisions, status by status, and that a witness never goes back."""

from __future__ import annotations

import pytest
from tests.tlog.trees import Tree

from phloem.errors import FormatError
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer, cosigned_time
from phloem.tlog.merkle import prove_consistency, tree_hash
from phloem.tlog.note import Note, signed
from phloem.tlog.witness import SIZE_TYPE, Reply, Request, add_checkpoint

LOG = Signer.from_seed("example.org/log", NOTE, bytes(32))
WITNESS = Signer.from_seed("witness.example/w", COSIGNATURE, bytes([1]) * 32)
TREE = Tree([b"%d" % n for n in range(40)])
FORK = Tree([b"%d" % n for n in range(10)] + [b"other %d" % n for n in range(30)])
LOGS = {"example.org/log": [LOG.verifier]}


class Memory:
    """Records in memory; `meanwhile` happens between reading and advancing."""

    def __init__(self) -> None:
        self.table: dict[str, tuple[int, bytes]] = {}
        self.meanwhile: list[object] = []

    def newest(self, origin: str) -> tuple[int, bytes] | None:
        return self.table.get(origin)

    def advance(self, origin: str, before: object, after: Checkpoint, note: bytes) -> bool:
        while self.meanwhile:
            self.meanwhile.pop()()  # type: ignore[operator]
        if self.table.get(origin) != before:
            return False
        self.table[origin] = after.size, after.root
        return True


def note_of(size: int, tree: Tree = TREE, signer: Signer = LOG) -> bytes:
    return signed(Checkpoint("example.org/log", size, tree_hash(size, tree.read)).pack(), [signer])


def request(old: int, size: int, tree: Tree = TREE) -> bytes:
    proof = prove_consistency(old, size, tree.read) if 0 < old <= size else []
    return Request(old, tuple(proof), note_of(size, tree)).pack()


def ask(records: Memory, body: bytes) -> Reply:
    return add_checkpoint(body, LOGS, records, WITNESS, lambda: 1_700_000_000)


def at(size: int) -> Memory:
    records = Memory()
    assert ask(records, request(0, size)).status == 200
    return records


def test_a_log_that_grows_is_cosigned_every_time() -> None:
    records = Memory()
    for old, size in ((0, 3), (3, 3), (3, 7), (7, 8), (8, 40)):
        reply = ask(records, request(old, size))
        assert reply.status == 200, reply
        note = Note.unpack(note_of(size) + reply.body)
        good = note.verified([WITNESS.verifier])
        assert cosigned_time(good[WITNESS.verifier]) == 1_700_000_000
        assert records.table["example.org/log"][0] == size


def test_an_empty_tree_can_be_cosigned_and_grow() -> None:
    records = at(0)
    assert ask(records, request(0, 5)).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (request(10, 7), 400),
        (b"", 400),
        (b"old 7\n", 400),
        (b"old 07\n\n" + note_of(8), 400),
        (b"new 7\n\n" + note_of(8), 400),
        (b"old 7\nAAAA\n\n" + note_of(8), 400),
        (b"old 7\r\n\r\n" + note_of(8), 400),
        (b"old 7\n\n" + note_of(8)[:-1], 400),
        (b"old 7\n" + b"A" * 43 + b"=\n" * 64 + b"\n" + note_of(8), 400),
        (Request(7, (), signed(b"no checkpoint\n", [LOG])).pack(), 400),
        (Request(7, (), note_of(8, signer=Signer.new("example.org/log"))).pack(), 403),
        (Request(7, (), note_of(8).replace(b"\n8\n", b"\n9\n")).pack(), 403),
        (Request(7, (), signed(Checkpoint("example.org/other", 1, bytes(32)).pack(), [LOG])).pack(), 404),
        (request(6, 8), 409),
        (request(0, 8), 409),
        (request(8, 9), 409),
        (request(7, 7, FORK.__class__([b"x"] * 7)), 422),
        (Request(7, (), note_of(8)).pack(), 422),
        (Request(7, (bytes(32),) * 3, note_of(8)).pack(), 422),
        (Request(7, tuple(prove_consistency(6, 8, TREE.read)), note_of(8)).pack(), 422),
        (Request(7, (bytes(32),), note_of(7)).pack(), 422),
    ],
)
def test_every_other_request_has_its_status_and_changes_nothing(body: bytes, status: int) -> None:
    records = at(7)
    before = dict(records.table)
    reply = ask(records, body)
    assert reply.status == status, reply.body
    assert records.table == before
    if status == 409:
        assert (reply.type, reply.body) == (SIZE_TYPE, b"7\n")


def test_a_fork_is_not_cosigned() -> None:
    records = at(20)
    assert ask(records, request(20, 40, FORK)).status == 422
    assert ask(records, request(20, 40)).status == 200


def test_a_first_checkpoint_takes_no_proof() -> None:
    assert ask(Memory(), Request(0, (bytes(32),), note_of(3)).pack()).status == 422


def test_two_requests_at_once_do_not_roll_the_record_back() -> None:
    records = at(5)
    records.meanwhile = [lambda: ask(records, request(5, 30))]
    reply = ask(records, request(5, 10))
    assert (reply.status, reply.body) == (409, b"30\n")
    assert records.table["example.org/log"][0] == 30


def test_a_request_comes_back_and_junk_is_refused() -> None:
    body = request(7, 40)
    assert Request.unpack(body).pack() == body
    for junk in (b"\xff" + body, b"old 1\n\n" + b"x" * (1 << 20)):
        with pytest.raises(FormatError):
            Request.unpack(junk)

"""Single bytes that were changed, and well-signed nonsense: whatever it is, it is found, and no audit breaks down."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.ledger.attacks import MADE, Entries, History, Small, names, spare_the_disk, words

from phloem.errors import PhloemError, StateError
from phloem.ledger.audit import Auditor
from phloem.ledger.bundle import Bundle, verify_bundle
from phloem.ledger.entry import Seen
from phloem.ledger.export import export, files_at
from phloem.ledger.exported import Exported
from phloem.ledger.findings import Verdict
from phloem.ledger.kinds import KINDS
from phloem.ledger.log import Log
from phloem.seeds import generator
from phloem.tlog.merkle import leaf_hash
from phloem.tlog.policy import Policy
from phloem.tlog.proof import Receipt


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """Two rounds of two sites, after which the model is given out."""
    found = Small(tmp_path_factory.mktemp("small"), sites=("ant", "bee"))
    found.round()
    found.round()
    found.end()
    yield found
    found.close()


@pytest.fixture(scope="module")
def untouched(small: Small) -> History:
    return small.history()


@pytest.fixture(autouse=True)
def memory_instead_of_disk(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    spare_the_disk(monkeypatch)
    assert small in MADE


def flips(data: bytes, step: int = 1) -> Iterator[tuple[int, bytes]]:
    """The data with one bit of one byte changed, another bit from byte to byte."""
    for place in range(0, len(data), step):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        yield place, bytes(changed)


def test_every_byte_of_every_entry_counts(small: Small, untouched: History) -> None:
    """Whatever becomes of it, the audit ends, and says that this is not what was signed."""
    rows, note = small.entries(), small.log.checkpoint()
    assert note is not None
    for index, row in enumerate(rows):
        for place, changed in flips(row, 101):
            audit = Auditor(untouched.policy).run(
                Entries([*rows[:index], changed, *rows[index + 1 :]]), [note]
            )
            assert "rewritten-history" in names(audit), (index, place)
            assert audit.verdict is Verdict.INVALID


def test_every_byte_of_an_entry_counts_without_a_checkpoint_too(untouched: History) -> None:
    """Its own signature tells, and what others signed after it. (The last entries are only under their signatures.)"""
    rows = untouched.seal()
    place = untouched.place(untouched.one("update", "ant", round=1))
    for _, changed in flips(rows[place], 5):
        fake = [*rows[:place], changed, *rows[place + 1 :]]
        audit = Auditor(untouched.policy).run(Entries(fake), [untouched.note(fake)])
        assert names(audit) & {"damaged-entry", "forged-sender"}, words(audit)
        assert audit.verdict is Verdict.INVALID


@pytest.mark.parametrize("change", ["cut", "longer", "empty"])
def test_entries_that_are_cut_off_or_go_on_are_found(change: str, untouched: History) -> None:
    rows = untouched.seal()
    made: Callable[[bytes], bytes] = {
        "cut": lambda row: row[:-1],
        "longer": lambda row: row + b" ",
        "empty": lambda row: b"",
    }[change]
    for index, row in enumerate(rows):
        fake = [*rows[:index], made(row), *rows[index + 1 :]]
        assert "damaged-entry" in names(Auditor(untouched.policy).run(Entries(fake), [untouched.note(fake)]))


HOSTILE = [
    b"[]",
    b"{}",
    b"null",
    b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":[],"sig":""}]}',
    b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":{},"sig":""}]}',
    b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":5,"sig":""}]}',
    b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":"\\ud800","sig":""}]}',
    b'{"payload":5,"payloadType":5,"signatures":5}',
    b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[]}',
    b"[" * 60_000,
    b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
    b"1" * 5000,
    b'{"payload":NaN}',
    b"\xff\xfe",
]


@pytest.mark.parametrize("row", HOSTILE, ids=range(len(HOSTILE)))
def test_bytes_that_are_no_entry_are_found_and_break_nothing(row: bytes, untouched: History) -> None:
    rows = [*untouched.seal(), row]
    audit = Auditor(untouched.policy).run(Entries(rows), [untouched.note(rows)])
    assert (names(audit), audit.findings.rows[-1].entry) == ({"damaged-entry"}, len(rows) - 1)


def nonsense(draw: Any, value: Any) -> Any:
    """Another value of the same form."""
    choices: list[Any]
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        choices = [0, 1, value + 1, max(value - 1, 0), 7, 40, (1 << 53) - 1]
    elif isinstance(value, str) and len(value) == 64:
        choices = ["0" * 64, "f" * 64]
    elif isinstance(value, str):
        choices = [
            "x",
            "ant",
            "coordinator",
            "taken",
            "add",
            "rotate",
            "revoke",
            "held",
            "delta",
            "strict",
            "é" * 400,
        ]
    elif isinstance(value, dict):
        choices = [{"chain": "0" * 64}, {"chain": "0" * 64, "state": "0" * 64}]
    elif value and isinstance(value[0], dict):
        choices = [[], [{"site": "ant", "reason": "x", "entry": 3}], [{"site": "dog", "reason": "x"}] * 3]
    elif value and isinstance(value[0], int):
        choices = [[], [0], [0, 1, 2, 3, 4, 5], [(1 << 53) - 1], list(range(40))]
    else:
        choices = [[], ["coordinator"], ["ant", "dog"], ["dog"]]
    return choices[int(draw.integers(len(choices)))]


@pytest.mark.slow
def test_well_signed_nonsense_breaks_no_audit(untouched: History, small: Small) -> None:
    """Every field of every entry says something else, rightly signed: the audit ends, and is valid or not."""
    draw = generator(5, "nonsense")
    keys = {"coordinator": untouched.keys["coordinator"], **{n: small.key_of(n) for n in ("ant", "bee")}}
    seen: set[str] = set()
    for number in range(500):
        history = untouched.copy()
        history.keys = keys if number % 2 else history.keys
        for _ in range(int(draw.integers(1, 4))):
            line = history.lines[int(draw.integers(len(history.lines)))]
            common = ["seq", "time", "prev", "run", "sender"]
            field = [*line.said.fields, *common][int(draw.integers(len(line.said.fields) + len(common)))]
            if field == "prev":
                value: Any = Seen(int(draw.integers(50)), bytes(32))
            elif field in common:
                old = {"seq": line.said.seq, "time": line.said.time, "run": "", "sender": ""}[field]
                value = nonsense(draw, old)
            else:
                value = nonsense(draw, line.said[field])
            signer = keys.get(line.said.sender, keys["coordinator"])
            by = (signer, keys["coordinator"]) if line.kind == "member" else (signer,)
            history.change(line, by=by, **{field: value})
        if number % 3 == 0:
            here = int(draw.integers(len(history.lines)))
            history.move(history.lines[here], int(draw.integers(len(history.lines))))
        try:
            rows = history.seal()
        except PhloemError:
            continue  # no entry can say this
        audit = Auditor(history.policy, open_=small.open).run(Entries(rows), [history.note(rows)])
        audit.to_json()
        seen |= names(audit)
    assert len(seen) > 12, seen


def test_every_kind_of_entry_is_in_the_run_that_is_played_with(untouched: History) -> None:
    assert {line.kind for line in untouched.lines} == KINDS.keys() - {"complaint", "erasure", "anchor"}


# -- receipts and bundles ------------------------------------------------------------------------------------------


def holds(receipt: bytes, leaf: bytes, policy: Policy) -> bool:
    try:
        Receipt.unpack(receipt).check(leaf, policy)
    except PhloemError:
        return False
    return True


def test_every_byte_of_every_receipt_counts(small: Small, untouched: History) -> None:
    policy = untouched.policy
    for index in range(0, small.log.size, 5):
        receipt = small.log.receipt(index)
        leaf = leaf_hash(small.log.entries(index, index + 1)[0])
        assert holds(receipt.pack(), leaf, policy)
        for place, changed in flips(receipt.pack()):
            assert not holds(changed, leaf, policy), f"byte {place} of the receipt of entry {index}"


def test_every_byte_of_a_bundle_counts(small: Small, untouched: History) -> None:
    """But of what is no proof: the policy of the log's own people, which is not the verifier's, and the words."""
    place = untouched.place(untouched.one("update", "bee", round=1))
    bundle = untouched.bundle([place], small.open)
    data = bundle.pack()
    shown, findings = verify_bundle(Bundle.unpack(data), untouched.policy, {})
    honest = [(one.index, one.entry.pack(), one.opened) for one in shown]
    assert findings.verdict is Verdict.VALID
    for where, changed in flips(data):
        try:
            found = Bundle.unpack(changed)
        except PhloemError:
            continue
        shown, findings = verify_bundle(found, untouched.policy, {})
        if findings.verdict is Verdict.VALID:
            assert [(one.index, one.entry.pack(), one.opened) for one in shown] == honest, where
            assert replace(found, policy=b"") == replace(bundle, policy=b""), where


def test_a_bundle_of_two_forks_is_refused(small: Small, untouched: History) -> None:
    fork = untouched.copy()
    fork.change(fork.one("model-release"), digest="1" * 64)
    one, other = untouched.bundle([5]), fork.bundle([len(fork.lines) - 1])
    one.entries |= {k: v for k, v in other.entries.items() if k not in one.entries}
    one.receipts |= {k: v for k, v in other.receipts.items() if k not in one.receipts}
    _, findings = verify_bundle(one, untouched.policy, {})
    assert "forked-history" in findings.counts
    assert findings.verdict is Verdict.INVALID


# -- files ---------------------------------------------------------------------------------------------------------


def test_every_byte_of_an_exported_log_counts(small: Small, untouched: History, tmp_path: Path) -> None:
    small.book.journal.checkpoint()
    export(small.log, files_at(str(tmp_path / "public")))
    honest = small.entries()
    for path in sorted((tmp_path / "public").rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        for place, changed in flips(data, 1 if len(data) < 3000 else 37):
            path.write_bytes(changed)
            try:
                found = Exported(files_at(str(tmp_path / "public")))
                audit = Auditor(untouched.policy).run(found, [found.note])
                if audit.verdict is Verdict.VALID:
                    assert found.entries(0, found.size) == honest, (path, place)
            except PhloemError:
                pass
        path.write_bytes(data)


def damaged(small: Small, tmp_path: Path, statement: str, *values: object) -> Log:
    """A copy of the log's file after somebody has written in it."""
    small.book.journal.checkpoint()
    path = tmp_path / "log.db"
    with sqlite3.connect(small.log.path) as database, sqlite3.connect(path) as copy:
        database.backup(copy)
        copy.execute(statement, values)
    database.close()
    copy.close()
    return Log(path)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE entry SET bytes = x'00' WHERE idx = 7", {"damaged-entry", "rewritten-history"}),
        ("DELETE FROM entry WHERE idx = (SELECT max(idx) FROM entry)", {"truncated-history"}),
        ("UPDATE checkpoint SET note = x'00'", {"unsigned-checkpoint"}),
        ("DELETE FROM checkpoint", {"no-quorum"}),
        ("UPDATE node SET hash = zeroblob(32)", set()),  # an audit makes its own tree
    ],
)
def test_what_somebody_writes_into_the_file_is_found(
    statement: str, found: set[str], small: Small, untouched: History, tmp_path: Path
) -> None:
    with damaged(small, tmp_path, statement) as log:
        audit = Auditor(untouched.policy).run(log, log.checkpoints())
        assert found <= names(audit)
        assert (audit.verdict is Verdict.VALID) == (not found)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET bytes = 'text' WHERE idx = 7",
        "UPDATE entry SET bytes = 5 WHERE idx = 7",
        "UPDATE checkpoint SET note = 'text'",
        "DELETE FROM entry WHERE idx = 7",
        "INSERT INTO entry VALUES (9223372036854775000, x'00')",
    ],
)
def test_a_file_that_is_no_log_any_more_says_so(
    statement: str, small: Small, untouched: History, tmp_path: Path
) -> None:
    with damaged(small, tmp_path, statement) as log, pytest.raises((PhloemError, StateError)):
        Auditor(untouched.policy).run(log, log.checkpoints())

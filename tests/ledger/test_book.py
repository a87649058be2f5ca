"""The coordinator's part: in the log before it takes effect, the same after a crash, and safe from its sites."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.ledger.exchanges import RAW, RULE, Exchange, base, checkpoint_in, close_all, frame_of
from tests.ledger.samples import ANT_NEXT, BEE, CODEC, RUN, SOFTWARE, digest
from tests.tiny import ROOT

from phloem import varint
from phloem.errors import FormatError, PhloemError, ProofError, StateError
from phloem.ledger.book import Book
from phloem.ledger.commitments import FRAME, METRICS, WEIGHT, commitment
from phloem.ledger.entry import Seen, Statement
from phloem.ledger.exchange import Carried, Merged
from phloem.ledger.kinds import KINDS
from phloem.ledger.log import Log
from phloem.ledger.notice import Notice, Word
from phloem.ledger.record import Claim, Record, pack_string
from phloem.ledger.salts import Salts
from phloem.ledger.settings import LedgerSettings
from phloem.tlog.keys import NOTE, Signer


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture
def run(tmp_path: Path) -> Exchange:
    return Exchange(tmp_path)


# -- one run -------------------------------------------------------------------------------------------------------


def test_a_run_is_written_down_in_the_order_in_which_it_takes_effect(run: Exchange) -> None:
    for number in range(2):
        run.round(number)
    run.finish(2)
    taken = ["update", "received"]
    assert run.kinds() == [
        "genesis",
        *("round-open", "broadcast", "member", *taken, "member", *taken, "aggregate", "eval"),
        *("round-open", "broadcast", *taken, *taken, "aggregate", "eval"),
        *("round-open", "broadcast", "model-release"),
    ]
    assert run.audit().findings.rows == []
    assert set(run.kinds()) <= set(KINDS)


def test_the_first_entry_says_under_which_rules(run: Exchange) -> None:
    said = run.statements[0]
    assert said.fields == {
        "key": str(run.folder.coordinator_key.verifier),
        "name": "coordinator",
        "origin": "example.org/clinic",
        "plan": digest("plan"),
        "policy": sha256(run.folder.policy.pack()).hexdigest(),
        "receipts": "strict",
        "retention": "6 years",
        "software": SOFTWARE,
    }


def test_every_commitment_of_a_run_is_opened_by_its_salt(run: Exchange) -> None:
    run.round(0)
    run.round(1)
    run.book.journal.flush()
    contents = {
        FRAME: {b"", b"step 1", *(frame_of(name, n) for name in run.names for n in range(2))},
        WEIGHT: {b"100"},
        METRICS: {b'{"accuracy":0.5,"round":%d}' % n for n in range(2)},
    }
    places = {said.kind: [] for said in run.statements}
    for index, said in enumerate(run.statements):
        places[said.kind].append(index)
    inputs = [said["inputs"] for said in run.statements if said.kind == "aggregate"]
    contents[WEIGHT] |= {b'{"%d":100,"%d":100}' % tuple(row) for row in inputs}
    opened = 0
    for said in run.statements:
        for context, field in (
            (FRAME, "commit"),
            (WEIGHT, "weight"),
            (WEIGHT, "weights"),
            (METRICS, "metrics"),
        ):
            if field in said.fields:
                salt = run.book.salts.get(said[field])
                assert salt is not None
                hits = [c for c in contents[context] if commitment(salt.salt, context, c) == said[field]]
                assert len(hits) == 1
                assert salt.content == sha256(hits[0]).hexdigest()
                opened += 1
    assert opened == 2 + 2 * 4 + 2 + 2


def test_no_two_commitments_have_the_same_salt(run: Exchange) -> None:
    """Else who is shown a frame with its salt could guess how many examples it stands for."""
    run.round(0)
    run.round(1)
    names = ("commit", "weight", "weights", "metrics")
    commits = [said[name] for said in run.statements for name in names if name in said.fields]
    salts = [run.book.salts.get(commit) for commit in commits]
    assert len({salt.salt for salt in salts if salt is not None}) == len(commits)
    for said in run.statements:
        frame = run.book.salts.get(said["commit"]) if said.kind == "update" else None
        guesses = [] if frame is None else [commitment(frame.salt, WEIGHT, b"%d" % n) for n in range(200)]
        assert said.fields.get("weight") not in guesses


def test_who_is_left_out_is_named_with_the_reason(run: Exchange) -> None:
    run.round(0)
    notices = run.opened(1)
    attachment, _ = run.answer("ant", 1, notices["ant"])
    run.book.heard("ant", attachment)
    reason = run.book.received("ant", 1, attachment, frame_of("ant", 1), 100, "damaged frame: x\ny\x1b[2J")
    assert reason is not None
    run.close(1, [])
    aggregate = next(s for s in reversed(run.statements) if s.kind == "aggregate")
    received = next(s for s in reversed(run.statements) if s.kind == "received")
    assert received["outcome"] == "damaged frame: x?y?[2J"
    assert aggregate["excluded"] == [
        {"entry": received["entry"], "reason": "damaged frame: x?y?[2J", "site": "ant"},
        {"reason": "no update", "site": "bee"},
    ]
    assert run.round(2) == ["ant", "bee"]
    assert run.wrong() == []


@pytest.mark.parametrize("reason", ["", "\n", "x" * 10_000, "\ud800\u202e", "\x00"])
def test_any_reason_can_be_written_down(run: Exchange, reason: str) -> None:
    run.round(0)
    run.opened(1)
    run.close(1, [], {"ant": reason, "bee": reason})
    assert run.round(2) == ["ant", "bee"]
    assert run.wrong() == []


def test_nobody_reachable_is_a_round_too(run: Exchange) -> None:
    run.round(0)
    assert run.opened(1, []) == {}
    run.close(1, [])
    assert run.round(2) == ["ant", "bee"]
    assert run.wrong() == []


def test_two_forms_of_one_trunk_are_two_broadcasts(run: Exchange) -> None:
    run.round(0)
    carried = {"ant": run.carried(1), "bee": Carried("key-frame", b"all of it", "bf16")}
    notices = run.book.opened(1, base(1), dict.fromkeys(run.names, CODEC), carried)
    forms = [said["form"] for said in run.statements if said.kind == "broadcast"]
    assert forms == ["held", "delta", "key-frame"]
    sent = replace(run.broadcast(1), frame=b"all of it", codec="bf16", form="key-frame")
    assert run.parties["bee"].admit(notices["bee"], sent, merged=True)
    assert run.parties["ant"].admit(notices["ant"], run.broadcast(1), merged=True)


def test_the_model_that_is_given_out_is_under_the_last_checkpoint(run: Exchange) -> None:
    run.round(0)
    run.opened(1, closing=True)
    note = run.book.released(1, base(1), "model.safetensors", digest("model"))
    assert checkpoint_in(note).size == run.book.log.size
    assert run.statements[-1]["digest"] == digest("model")
    assert run.wrong() == []


# -- crashes -------------------------------------------------------------------------------------------------------


class Crash(Exception):
    """A power cut."""


class CrashAt:
    """Lets the coordinator crash before or after the n-th time that it touches its files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left, self.after = divmod(number, 2)
        self.armed = True
        for owner, name in ((Log, "append"), (Log, "sign"), (Salts, "put")):
            monkeypatch.setattr(owner, name, self.touching(getattr(owner, name)))

    def touching(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def touched(*words: Any, **more: Any) -> Any:
            self.left -= self.armed
            if self.armed and self.left < 0 and not self.after:
                raise Crash
            found = method(*words, **more)
            if self.armed and self.left < 0:
                raise Crash
            return found

        return touched


# Before and after: opened, sealed, two updates, a merge. A measurement waits.
STEPS = 2 * (2 + 1 + 2 * 2 + 2)


@pytest.mark.parametrize("number", range(STEPS))
def test_after_a_crash_at_any_point_of_a_round_it_goes_on(
    run: Exchange, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run.round(0)
    run.round(1)
    crash = CrashAt(monkeypatch, number)
    with pytest.raises(Crash):
        run.round(2)
    crash.armed = False
    run.merged.pop(2, None)  # the trunk did not move
    before = len([said for said in run.statements if said.kind == "update" and said["round"] == 2])
    run.restart()
    assert run.round(2) == ["ant", "bee"]
    updates = [said for said in run.statements if said.kind == "update" and said["round"] == 2]
    assert len(updates) == 2
    assert before <= 2
    assert len([said for said in run.statements if said.kind == "received" and said["round"] == 2]) == 2
    for number_ in (3, 4):
        assert run.round(number_) == ["ant", "bee"]
    run.finish(5)
    assert run.wrong() == []
    merges = [said["inputs"] for said in run.statements if said.kind == "aggregate"]
    assert len({tuple(row) for row in merges}) == 5  # a merge that was made twice has the same inputs


def test_the_crashes_of_a_round_are_all_of_them(run: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    run.round(0)
    run.round(1)
    CrashAt(monkeypatch, STEPS)
    run.round(2)


@pytest.mark.parametrize("number", range(10))
def test_after_a_crash_in_the_first_round_it_goes_on(
    run: Exchange, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    crash = CrashAt(monkeypatch, number)
    with pytest.raises(Crash):
        run.round(0)
    crash.armed = False
    run.restart()
    for again in range(3):
        assert run.round(again) == ["ant", "bee"]
    assert run.wrong() == []


def test_what_an_update_said_before_the_crash_counts_after_it(run: Exchange) -> None:
    """The site sends the very same record; the coordinator knows it, and says the same again."""
    run.round(0)
    notices = run.opened(1)
    attachment, _ = run.answer("ant", 1, notices["ant"])
    assert run.take("ant", 1, attachment) is None
    run.restart()
    notices = run.opened(1)
    again, _ = run.answer("ant", 1, notices["ant"])
    assert Word.unpack(again).record == Word.unpack(attachment).record
    size = run.book.log.size
    assert run.take("ant", 1, again) is None
    assert run.take("ant", 1, again) is None
    assert run.book.log.size == size
    run.close(1, ["ant"])
    assert run.wrong() == []


def test_what_was_refused_before_the_crash_is_refused_after_it(run: Exchange) -> None:
    run.round(0)
    attachment, _ = run.answer("ant", 1, run.opened(1)["ant"])
    assert run.book.received("ant", 1, attachment, frame_of("ant", 1), 100, "not this one") == "not this one"
    run.restart()
    again, _ = run.answer("ant", 1, run.opened(1)["ant"])
    assert run.take("ant", 1, again) == "not this one"
    run.close(1, [])
    assert run.round(2) == ["ant", "bee"]
    assert run.wrong() == []


def test_a_merge_that_comes_out_different_after_a_crash_is_not_written_down(run: Exchange) -> None:
    run.round(0)
    run.round(1)
    run.restart()
    for site, notice in run.opened(1).items():
        run.take(site, 1, run.answer(site, 1, notice)[0])
    with pytest.raises(
        StateError, match="round 1 was merged before the interruption, and now comes out different"
    ):
        run.book.merged(1, RULE, [Merged("ant", 100)], {}, base(7))
    assert run.wrong() == []


COORDINATOR_PROCESS = """
import os, signal, sys
sys.path[:] = {path!r}
from pathlib import Path
from tests.ledger.exchanges import Exchange
from phloem.ledger import log, salts
left = int(sys.argv[2])
def touch(statement):
    global left
    if statement.startswith(("SELECT", "PRAGMA")):
        return
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
connect = log.connect
def traced(path):
    found = connect(path)
    found.set_trace_callback(touch)
    return found
log.connect = traced
root = Path(sys.argv[1])
trunk = root / "trunk"
run = Exchange(root)
run.book.salts._database.set_trace_callback(touch)
start = int(trunk.read_text()) if trunk.exists() else 0
for number in range(start, 3):
    if number:
        run.merged[number - 1] = ["ant", "bee"]
    assert run.round(number) == ["ant", "bee"], number
    (root / "trunk.new").write_text(str(number + 1))
    (root / "trunk.new").replace(trunk)
run.finish(3)
print("finished")
"""


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_its_end_with_a_log_that_holds(tmp_path: Path) -> None:
    """kill -9 before a statement of SQL, at other places each time; every process goes on where the last one died."""
    for step in (5, 23):
        root = tmp_path / str(step)
        root.mkdir()
        deaths = 0
        for start in range(60):
            command = [
                sys.executable, "-c", COORDINATOR_PROCESS.format(path=[str(ROOT), *sys.path]), str(root),
                str(step + 3 * start),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            if done.stdout == "finished\n":
                break
            assert done.returncode == -9, done.stderr
            deaths += 1
        assert done.stdout == "finished\n"
        assert deaths >= 3
        run = Exchange(root)
        assert run.wrong() == []
        merged = {said["round"]: said["inputs"] for said in run.statements if said.kind == "aggregate"}
        assert sorted(merged) == [0, 1, 2]
        assert all(len(row) == 2 for row in merged.values())
        close_all()


# -- who writes ----------------------------------------------------------------------------------------------------


def opened_again(one: Exchange, **changes: Any) -> Book:
    words = {"run": one.run, "plan": digest("plan"), **changes}
    return Book(one.folder, one.settings, words["run"], words["plan"], RAW, SOFTWARE)


def test_a_second_coordinator_is_refused_as_long_as_the_first_is_there(run: Exchange) -> None:
    run.round(0)
    size = run.book.log.size
    for changes in ({}, {"run": "another"}):
        with pytest.raises(StateError, match="another process is writing"):
            opened_again(run, **changes)
    assert run.book.log.size == size
    run.book.close()
    opened_again(run).close()


def test_a_run_under_another_plan_is_refused_and_nothing_stays_locked(run: Exchange) -> None:
    run.round(0)
    size = run.book.log.size
    run.book.close()
    with pytest.raises(StateError, match=f"has the run '{RUN}' under another plan"):
        opened_again(run, plan=digest("another plan"))
    found = opened_again(run)
    assert found.log.size == size
    found.close()


def test_a_second_run_in_the_same_log_begins_anew_and_leaves_the_first(run: Exchange) -> None:
    run.round(0)
    run.book.close()
    second = Exchange(run.root, run="second-run", merged={})
    assert second.round(0) == ["ant", "bee"]
    assert second.round(1) == ["ant", "bee"]
    with second.folder.log() as log:
        assert {said.run for said in second.statements} == {RUN, "second-run"}
        assert log.size == len(second.statements)
    numbers = [(said.run, said.sender, said.seq) for said in second.statements]
    assert len(set(numbers)) == len(numbers)


# -- [ledger.members] ----------------------------------------------------------------------------------------------


def pinned(tmp_path: Path, **keys: Signer) -> Exchange:
    return Exchange(tmp_path, settings=LedgerSettings(members={n: str(k.verifier) for n, k in keys.items()}))


def test_who_comes_with_another_key_than_the_recipe_says_is_not_let_in(tmp_path: Path) -> None:
    run = pinned(tmp_path, ant=Signer.from_seed("ant", NOTE, bytes([99]) * 32))
    notices = run.opened(0)
    attachment, _ = run.answer("ant", 0, notices["ant"])
    with pytest.raises(ProofError, match=r"'ant' comes with another key than \[ledger.members\] says"):
        run.book.heard("ant", attachment)
    assert run.book.received("ant", 0, attachment, frame_of("ant", 0), 100, None) == (
        "the sender is no member of the run"
    )
    run.take("bee", 0, run.answer("bee", 0, notices["bee"])[0])
    run.close(0, ["bee"])
    assert run.book.standing.members.names == ["bee", "coordinator"]
    assert run.wrong() == []


def test_who_comes_with_that_key_is_let_in_and_may_change_it(tmp_path: Path) -> None:
    from phloem.ledger.party import change_key

    first = Exchange(tmp_path / "first")  # makes the sites' keys
    keys = {name: party.signer for name, party in first.parties.items()}
    first.book.close()
    run = pinned(tmp_path / "run", **keys)
    for name, key in keys.items():
        (run.root / "sites" / name / f"{name}.key").write_text(f"{key.export()}\n")
        run.restart_site(name)
    assert run.round(0) == ["ant", "bee"]
    new = change_key(run.root / "sites" / "ant", "ant")
    assert run.round(1) == ["ant", "bee"]
    run.restart()
    assert run.round(2) == ["ant", "bee"]
    assert run.book.standing.members.key_of("ant") == new.verifier
    assert run.wrong() == []


# -- what sites may try --------------------------------------------------------------------------------------------


def claim_with(key: bytes, software: bytes = b"", count: int = 1) -> bytes:
    """A word with a claim in which anything stands."""
    head = varint.pack(0) + varint.pack(0) + varint.pack(0) + Seen().root
    return (
        b"\x22\x01" + head + pack_string(software) + pack_string(key) + varint.pack(count) + bytes(64 * count)
    )


HOSTILE = {
    "nothing": b"",
    "noise": b"\xff" * 40,
    "a notice": b"\x21\x00",
    "no key": claim_with(b""),
    "a key that speaks": claim_with(b"\x1b[2J\nvalid+00000000+AAAA"),
    "a key of letters that are none": claim_with("\u202e+deadbeef+AAAA".encode()),
    "software that speaks": claim_with(str(BEE.verifier).encode(), b"\x1b[2J"),
    "somebody's key": claim_with(str(BEE.verifier).encode()),
    "the coordinator's name": claim_with(
        str(Signer.from_seed("coordinator", NOTE, bytes(32)).verifier).encode()
    ),
    "two signatures": claim_with(str(ANT_NEXT.verifier).encode(), count=2),
    "an unsigned key": claim_with(str(ANT_NEXT.verifier).encode()),
    "another history": Word(None, None, Seen(3, bytes(32))).pack(),
    "a longer history": Word(None, None, Seen(10**9, bytes(32))).pack(),
    "no history at all": Word(None, None, Seen(0, bytes(32))).pack(),
    "a record of zeros": Word(Record(0, 0, bytes(32), Seen(), bytes(64))).pack(),
    "a record of the largest numbers": Word(
        Record(2**64 - 1, 2**64 - 1, bytes(32), Seen(2**64 - 1), bytes(64))
    ).pack(),
}


def refusal(run: Exchange, site: str, number: int, attachment: bytes) -> str:
    """Why a reply is not taken, as the coordinator writes it down."""
    reason = None
    try:
        run.book.heard(site, attachment)
    except (FormatError, ProofError) as error:
        reason = error.message
    found = run.book.received(site, number, attachment, frame_of(site, number), 100, reason)
    assert found is not None
    return found


@pytest.mark.parametrize("member", [False, True], ids=["a stranger", "a member"])
@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_no_word_of_a_site_stops_a_run_or_spoils_its_log(run: Exchange, what: str, member: bool) -> None:
    number = 1 if member else 0
    if member:
        run.round(0)
    notices = run.opened(number)
    size = run.book.log.size
    reason = refusal(run, "ant", number, HOSTILE[what])
    assert run.book.log.size == size
    run.take("bee", number, run.answer("bee", number, notices["bee"])[0])
    run.close(number, ["bee"], {"ant": reason})
    run.round(number + 1)  # who says that it has forgotten the log has to look at it again first
    assert run.round(number + 2) == ["ant", "bee"]
    assert run.wrong() == []
    aggregate = next(s for s in run.statements if s.kind == "aggregate" and s["round"] == number)
    assert aggregate["excluded"][0]["site"] == "ant"
    assert aggregate["excluded"][0]["reason"].isprintable()


def forged(
    run: Exchange, seq: int, seen: Seen | None = None, time: int | None = None, number: int = 1
) -> bytes:
    """A word with an update that the site really signs, with another number, checkpoint or time than it should."""
    party = run.parties["ant"]
    sent = run.update("ant", number)
    fields = sent.fields(bytes(32), "coordinator")
    now = int(run.clock()) if time is None else time
    said = Statement("update", RUN, "ant", seq, now, party.state.seen if seen is None else seen, fields)
    return Word(Record.of(said.signed(party.signer), bytes(32))).pack()


def test_what_a_member_signs_wrongly_is_refused_by_name_and_spoils_nothing(run: Exchange) -> None:
    run.round(0)
    notices = run.opened(1)
    run.parties["ant"].admit(notices["ant"], run.broadcast(1), merged=True)
    good = run.parties["ant"].state
    wrong = {
        "after its number 1": forged(run, 1),
        "after its number": forged(run, 0),
        "must stand before this": forged(run, 3),
        "another tree of 1": forged(run, 2, Seen(1, bytes(32))),
        "another tree of 1000000": forged(run, 2, Seen(1_000_000, good.seen.root)),
        "without the receipt": forged(run, 2, Seen()),
        "s before its last": forged(run, 2, time=1),
        "ahead of the coordinator's": forged(run, 2, time=int(run.clock()) + 4000),
    }
    size = run.book.log.size
    for words, attachment in wrong.items():
        reason = refusal(run, "ant", 1, attachment)
        assert words in reason or "another history" in reason or "older tree" in reason, (words, reason)
        assert run.book.log.size == size
    assert run.take("ant", 1, run.parties["ant"].update(run.update("ant", 1))) is None
    run.take("bee", 1, run.answer("bee", 1, notices["bee"])[0])
    run.close(1, ["ant", "bee"])
    assert run.round(2) == ["ant", "bee"]
    assert run.wrong() == []


def test_an_update_counts_for_its_site_round_frame_and_examples_only(run: Exchange) -> None:
    run.round(0)
    old, _ = run.answer("ant", 1, run.opened(1)["ant"])
    take = run.book.received
    assert take("bee", 1, old, frame_of("ant", 1), 100, None) is not None
    assert take("ant", 1, old, b"another frame", 100, None) is not None
    assert take("ant", 1, old, frame_of("ant", 1), 101, None) is not None
    assert take("ant", 0, old, frame_of("ant", 1), 100, None) is not None
    assert (
        take("ant", 7, old, frame_of("ant", 1), 100, None)
        == "the update answers no order that the ledger knows"
    )
    assert take("cat", 1, old, frame_of("ant", 1), 100, None) == "the sender is no member of the run"
    assert run.book.log.size == len(run.statements)
    assert take("ant", 1, old, frame_of("ant", 1), 100, None) is None
    run.close(1, ["ant"])
    run.opened(2)
    assert refusal(run, "ant", 2, old)  # an old record in a new round
    run.close(2, [])
    assert run.wrong() == []


def test_who_is_not_asked_is_not_taken(run: Exchange) -> None:
    run.round(0)
    notices = run.opened(1, ["ant"])
    run.take("ant", 1, run.answer("ant", 1, notices["ant"])[0])
    bee = run.parties["bee"]
    words = bee.update(run.update("bee", 1))
    assert run.book.received("bee", 1, words, frame_of("bee", 1), 100, None) == (
        "the update answers no order that the ledger knows"
    )
    run.close(1, ["ant"])
    assert run.wrong() == []


def test_nobody_changes_the_key_of_another(run: Exchange) -> None:
    run.round(0)
    party = run.parties["bee"]
    mine = Signer.from_seed("ant", NOTE, bytes([7]) * 32)
    claim = Claim.made(RUN, 2, int(run.clock()), party.state.seen, SOFTWARE, mine, party.signer)
    with pytest.raises(ProofError):
        run.book.heard("ant", Word(None, claim).pack())
    with pytest.raises(ProofError):
        run.book.heard("bee", Word(None, claim).pack())
    assert run.book.standing.members.key_of("ant") == run.parties["ant"].signer.verifier


def test_a_late_update_is_written_down_as_late(run: Exchange) -> None:
    run.round(0)
    late, _ = run.answer("ant", 1, run.opened(1)["ant"])
    run.close(1, [])
    notices = run.opened(2)
    assert (
        run.book.received("ant", 1, late, frame_of("ant", 1), 100, "late by 1 round(s)")
        == "late by 1 round(s)"
    )
    run.take("bee", 2, run.answer("bee", 2, notices["bee"])[0])
    run.close(2, ["bee"])
    assert run.round(3) == ["ant", "bee"]
    assert run.wrong() == []


# -- witnesses that are away ---------------------------------------------------------------------------------------


def with_dead_witness(tmp_path: Path, receipts: str) -> Exchange:
    from tests.ledger.witnesses import WITNESS

    line = f"w {WITNESS.verifier} http://127.0.0.1:1"
    return Exchange(tmp_path, settings=LedgerSettings(receipts=receipts, witnesses=[line]))


def test_without_witnesses_a_strict_run_stops_with_a_hint(tmp_path: Path) -> None:
    run = with_dead_witness(tmp_path, "strict")
    with pytest.raises(StateError, match="lacks the quorum") as said:
        run.opened(0)
    assert said.value.hint is not None
    assert "bring the witnesses back" in said.value.hint


def test_without_witnesses_a_run_under_audit_only_goes_on_and_says_so(tmp_path: Path) -> None:
    run = with_dead_witness(tmp_path, "audit-only")
    assert run.round(0) == ["ant", "bee"]
    assert run.round(1) == ["ant", "bee"]
    run.finish(2)
    assert [words for words in run.said if "lacks the quorum" in words and "audit-only" in words]
    assert run.audit().verdict == "cannot decide"


def test_notices_carry_a_receipt_as_often_as_the_rule_says(tmp_path: Path) -> None:
    for receipts, expected in (
        ("strict", [True] * 6),
        ("lagged 4", [True, False, True, False, True, False]),
        ("audit-only", [False] * 6),
    ):
        run = Exchange(tmp_path / receipts.replace(" ", ""), settings=LedgerSettings(receipts=receipts))
        found = []
        for number in range(6):
            notices = run.opened(number)
            found.append(Notice.unpack(notices["ant"]).covered is not None)
            for site in run.names:
                assert run.take(site, number, run.answer(site, number, notices[site])[0]) is None
            run.close(number, run.names)
        assert found == expected
        assert [words for words in run.wrong() if not words.startswith("no-quorum")] == []
        close_all()


def test_errors_are_phloem_s(run: Exchange) -> None:
    run.round(0)
    with pytest.raises(PhloemError):
        run.book.heard("ant", b"\x22\xff")

"""Honest histories, however rough: an audit says valid, and notes what is worth knowing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.ledger.attacks import (
    MADE,
    ORIGIN,
    SITES,
    Clock,
    Entries,
    Small,
    names,
    notes_in,
    spare_the_disk,
    words,
)

from phloem.errors import ConfigError, StateError
from phloem.ledger.audit import Audit, Auditor, Opening
from phloem.ledger.entry import Entry
from phloem.ledger.findings import Verdict
from phloem.ledger.folder import LedgerFolder
from phloem.ledger.party import change_key

RULES = ["strict", "lagged 1", "lagged 4", "audit-only"]
DAY = 86400


@pytest.fixture(autouse=True)
def memory_instead_of_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test waits for the disk, and what it opened is closed after it."""
    spare_the_disk(monkeypatch)
    yield
    for small in MADE:
        small.close()
    MADE.clear()


def valid(audit: Audit) -> None:
    assert (audit.verdict, names(audit)) == (Verdict.VALID, set()), words(audit)


def quiet(small: Small) -> None:
    """Valid, and nothing to note."""
    audit = small.audit(open_=small.open)
    assert (audit.verdict, words(audit)) == (Verdict.VALID, [])


# -- without trouble -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("witnesses", [0, 3])
@pytest.mark.parametrize("receipts", RULES)
def test_a_run_without_trouble_is_valid_without_a_note(receipts: str, witnesses: int, tmp_path: Path) -> None:
    small = Small(tmp_path, receipts, witnesses=witnesses)
    for _ in range(5):
        assert small.round().refused == {}
    small.end()
    quiet(small)
    audit = small.audit(open_=small.open)
    assert (audit.origin, audit.size, audit.vouched) == (ORIGIN, small.log.size, small.log.size)
    assert audit.witnesses == [f"w{n}" for n in range(witnesses)]
    run = audit.runs[small.run]
    assert (run.rounds, run.sites) == (5, dict.fromkeys(SITES, 5))
    assert run.members.names == [*SITES, "coordinator"]
    assert json.loads(json.dumps(audit.to_json()))["verdict"] == "valid"


def test_an_empty_log_is_valid(tmp_path: Path) -> None:
    folder = LedgerFolder.create(tmp_path / "ledger", ORIGIN)
    with folder.log() as log:
        assert words(Auditor(folder.policy).run(log, [])) == []
        note = log.sign([folder.log_key])
        audit = Auditor(folder.policy).run(log, [note])
        assert (audit.verdict, audit.origin, audit.size) == (Verdict.VALID, ORIGIN, 0)


def test_a_run_that_was_only_begun_is_valid(tmp_path: Path) -> None:
    small = Small(tmp_path)
    quiet(small)
    small.orders()
    audit = small.audit()
    valid(audit)
    assert notes_in(audit) == ["round 0 was not finished"]


def test_a_log_without_a_checkpoint_leaves_the_audit_undecided(tmp_path: Path) -> None:
    small = Small(tmp_path)
    audit = Auditor(small.folder.policy).run(small.log, [])
    assert (audit.verdict, names(audit)) == (Verdict.UNDECIDED, {"no-quorum"})


def test_a_round_in_which_nobody_is_there_is_valid(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.round(set())
    small.round()
    small.round(tamper=lambda site, message: None)
    small.round()
    small.end()
    valid(small.audit())


def test_the_audit_says_how_far_it_is_and_tells_of_every_entry(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.round()
    steps: list[tuple[int, int]] = []
    told: list[tuple[int, Entry]] = []
    Auditor(
        small.folder.policy,
        progress=lambda done, of: steps.append((done, of)),
        each=lambda index, entry: told.append((index, entry)),
    ).run(small.log, [])
    assert steps[-1] == (small.log.size, small.log.size)
    assert [entry.pack() for _, entry in told] == small.entries()
    assert [index for index, _ in told] == list(range(small.log.size))


def test_an_audit_by_another_policy_than_the_run_was_begun_with_notes_that(tmp_path: Path) -> None:
    small = Small(tmp_path, witnesses=2)
    small.round()
    small.book.journal.checkpoint()
    own = small.folder.policy
    other = type(own)(own.logs)
    audit = Auditor(other).run(small.log, small.log.checkpoints())
    valid(audit)
    assert notes_in(audit) == [f"the run '{small.run}' was begun under another policy than this audit's"]


# -- sites come and go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("receipts", RULES)
def test_late_and_absent_sites_are_left_out_with_a_reason(receipts: str, tmp_path: Path) -> None:
    small = Small(tmp_path, receipts)
    small.round({"ant", "bee"})
    small.round(late=frozenset({"bee"}))
    small.round({"bee", "cat"}, late=frozenset({"cat"}))
    small.round(train={"ant"})
    for _ in range(3):
        assert small.round().refused == {}
    small.end()
    quiet(small)
    outcomes = [
        said["outcome"]
        for said in (Entry.unpack(row).statement for row in small.entries())
        if said.kind == "received"
    ]
    assert outcomes.count("late by 1 round(s)") == 2


@pytest.mark.parametrize("receipts", RULES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_lost_reply_is_explained_and_noted(receipts: str, number: int, tmp_path: Path) -> None:
    small = Small(tmp_path, receipts)
    for at in range(4):
        lost = {"cat"} if at == number else set()
        small.round(tamper=lambda site, message, lost=lost: None if site in lost else message)  # type: ignore[misc]
    assert [len(result.accepted) for result in small.results] == [2 if at == number else 3 for at in range(4)]
    audit = small.audit()
    valid(audit)
    gone = f"number {number + 1} of 'cat' never came to the log; the coordinator says: no update (round {number})"
    assert notes_in(audit) == [gone]


def test_a_site_that_never_has_anything_to_send_is_valid(tmp_path: Path) -> None:
    small = Small(tmp_path)
    for _ in range(3):
        for site, order in small.orders().items():
            small.sites[site].receive(order)
            trained = None if site == "cat" else small.exchange.update(site)
            small.coordinator.receive(site, small.sites[site].reply(trained, 5))
        small.coordinator.close()
    small.end()
    quiet_audit = small.audit()
    valid(quiet_audit)
    assert quiet_audit.runs[small.run].sites == {"ant": 3, "bee": 3}


def test_a_site_that_starts_again_goes_on_with_its_numbers(tmp_path: Path) -> None:
    small = Small(tmp_path)
    for _ in range(4):
        small.round()
        small.restart("cat")
    assert small.results[-1].refused == {}
    quiet(small)


def test_a_site_whose_order_comes_twice_sends_one_update(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.round()
    opening = small.orders()
    replies = {site: small.exchange.reply(site, order) for site, order in opening.items()}
    again = {site: small.exchange.reply(site, order) for site, order in opening.items()}
    for site in opening:
        assert small.coordinator.receive(site, replies[site]) is None
        assert "second update" in str(small.coordinator.receive(site, again[site]))
    small.coordinator.close()
    small.end()
    valid(small.audit())


@pytest.mark.parametrize("receipts", ["strict", "lagged 4"])
def test_a_key_may_change_in_any_round(receipts: str, tmp_path: Path) -> None:
    small = Small(tmp_path, receipts)
    keys = []
    for number in range(6):
        if number in (1, 2, 4):
            change_key(tmp_path / "sites" / "cat", "cat")
        assert small.round().refused == {}
        keys.append(str(small.key_of("cat").verifier))
    assert len(set(keys)) == 4
    quiet(small)
    for key in set(keys):
        valid(small.audit(members={"cat": key}))


def test_a_key_may_change_while_replies_get_lost(tmp_path: Path) -> None:
    small = Small(tmp_path)
    for number in range(6):
        if number == 1:
            change_key(tmp_path / "sites" / "cat", "cat")
        small.round(
            tamper=lambda site, message, n=number: None if site == "cat" and n in (0, 1, 2) else message
        )  # type: ignore[misc]
    assert [len(result.accepted) for result in small.results] == [2, 2, 2, 3, 3, 3]
    valid(small.audit())


# -- interruptions -------------------------------------------------------------------------------------------------


def interrupted(small: Small, how: str) -> Callable[[], None]:
    """Everything up to the place at which the coordinator's process dies; what resumes it."""
    resume = small.saved()
    if how == "between rounds":
        return resume
    orders = small.orders()
    if how == "orders are out":
        return resume
    replies = {site: small.exchange.reply(site, order) for site, order in orders.items()}
    if how == "replies are lost":
        return resume
    for site in ("ant", "bee") if how == "some have come" else orders:
        small.coordinator.receive(site, replies[site])
    if how == "none is written":
        return resume
    small.book.journal.flush()
    if how in ("some have come", "all have come"):
        return resume
    result = small.coordinator.close()
    if how == "it is merged":
        return resume
    small.book.measured(result.round, "stop", {"accuracy": 0.5})
    small.orders()
    return resume


PLACES = [
    "between rounds",
    "orders are out",
    "replies are lost",
    "some have come",
    "none is written",
    "all have come",
    "it is merged",
    "the next orders are out",
]


@pytest.mark.slow
@pytest.mark.parametrize(("receipts", "witnesses"), [("strict", 2), ("lagged 4", 0), ("audit-only", 0)])
@pytest.mark.parametrize("how", PLACES)
def test_a_run_that_died_anywhere_and_was_resumed_a_day_later_is_valid_and_lost_nothing(
    how: str, receipts: str, witnesses: int, tmp_path: Path
) -> None:
    small = Small(tmp_path, receipts, witnesses=witnesses)
    small.round()
    for _ in range(2):
        resume = interrupted(small, how)
        small.clock.now += DAY
        resume()
        assert small.round().refused == {}
        assert len(small.results[-1].accepted) == 3
    small.round()
    small.end()
    audit = small.audit()
    valid(audit)
    assert set(notes_in(audit)) <= {f"round {n} was opened again after an interruption" for n in range(4)}


@pytest.mark.parametrize("how", PLACES)
def test_a_run_may_die_before_its_first_round_is_over(how: str, tmp_path: Path) -> None:
    small = Small(tmp_path)
    for _ in range(3):
        interrupted(small, how)()
    assert len(small.round().accepted) == 3
    small.end()
    valid(small.audit())


def test_rounds_may_be_repeated_from_an_older_snapshot(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.round()
    resume = small.saved()
    before = [small.round().chain for _ in range(3)]
    small.orders()
    resume()
    assert [small.round().chain for _ in range(3)] == before
    small.round()
    small.end()
    audit = small.audit()
    valid(audit)
    assert audit.runs[small.run].sites == dict.fromkeys(SITES, 5)  # merged twice, counted once
    assert notes_in(audit) == ["round 1 was opened again after an interruption"]
    assert audit.runs[small.run].again == [1]


def test_what_was_taken_before_an_interruption_and_does_not_come_again_is_left_out_with_a_reason(
    tmp_path: Path,
) -> None:
    small = Small(tmp_path)
    small.round()
    interrupted(small, "all have come")()
    small.round({"ant", "bee"})
    small.round()
    valid(small.audit())
    merge = [
        said
        for said in (Entry.unpack(row).statement for row in small.entries())
        if said.kind == "aggregate" and said["round"] == 1
    ][-1]
    (row,) = merge["excluded"]
    assert (row["site"], row["reason"]) == ("cat", "not sent again after an interruption")
    assert Entry.unpack(small.entries()[row["entry"]]).statement.sender == "cat"


def test_a_round_that_was_merged_is_merged_again_from_the_same_updates(tmp_path: Path) -> None:
    """Cat came too late for the first merge; after the interruption it is early, and may not change the trunk."""
    small = Small(tmp_path)
    small.round()
    resume = small.saved()
    chain = small.round(late=frozenset({"cat"})).chain
    resume()
    result = small.round()
    assert result.chain == chain
    assert result.refused == {"cat": "late by 1 round(s)"}
    small.round()
    valid(small.audit())


def test_a_round_that_cannot_be_merged_as_before_ends_the_run_before_the_log_says_two_things(
    tmp_path: Path,
) -> None:
    small = Small(tmp_path)
    small.round()
    resume = small.saved()
    chain = small.round().chain
    resume()
    again = small.saved()
    with pytest.raises(StateError, match="round 1 was merged before the interruption") as caught:
        small.round({"ant", "bee"})
    assert "bring back what was merged then, of ant, bee, cat" in str(caught.value)
    valid(small.audit())
    again()
    assert small.round().chain == chain
    valid(small.audit())


def drawn(seed: int, root: Path) -> Small:
    """A run in which whatever happens."""
    draw = random.Random(seed)
    small = Small(root, draw.choice(RULES), witnesses=draw.choice([0, 0, 2]))
    resume: Callable[[], None] | None = None
    for _ in range(10):
        by_round = random.Random(
            f"{seed} {small.coordinator.round}"
        )  # as a schedule is: the same when repeated
        reach = {site for site in SITES if by_round.random() < 0.8}
        lost = {site for site in SITES if by_round.random() < 0.2}
        late = frozenset(site for site in SITES if by_round.random() < 0.2)
        if draw.random() < 0.15 and small.book.standing.members.key_of("ant") is not None:
            try:
                change_key(root / "sites" / "ant", "ant")
            except ConfigError:
                assert (root / "sites" / "ant" / "ant.next.key").exists()
        if draw.random() < 0.2:
            small.restart(draw.choice(SITES))
        if resume is not None and draw.random() < 0.25:
            for site, order in small.orders(reach).items():
                if site not in lost | late:
                    small.coordinator.receive(site, small.exchange.reply(site, order))
            if draw.random() < 0.5:
                small.coordinator.close()
            small.clock.now += draw.choice([0, 10, DAY])
            resume()
            continue
        if draw.random() < 0.5:
            resume = small.saved()
        small.round(
            reach, tamper=lambda site, message, lost=lost: None if site in lost else message, late=late
        )  # type: ignore[misc]
    small.end()
    return small


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_to_honest_parties_the_audit_is_valid(seed: int, tmp_path: Path) -> None:
    valid(drawn(seed, tmp_path).audit())


# -- several runs, erasure -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("receipts", RULES)
def test_several_runs_in_one_log_are_valid_one_by_one(receipts: str, tmp_path: Path) -> None:
    before: Small | None = None
    for number in range(3):
        small = Small(tmp_path, receipts, joins=before, run=f"run-{number}")
        for _ in range(3):
            assert small.round().refused == {}  # the second run knows what its sites saw in the first
        small.end()
        small.close()
        before = small
    assert before is not None
    before.open_book()
    audit = before.audit()
    assert words(audit) == []
    assert [run.rounds for run in audit.runs.values()] == [3, 3, 3]
    assert {tuple(run.sites.items()) for run in audit.runs.values()} == {
        tuple(dict.fromkeys(SITES, 3).items())
    }


def test_a_run_that_was_interrupted_may_be_resumed_after_another_one(tmp_path: Path) -> None:
    one = Small(tmp_path)
    one.round()
    resume = one.saved()
    one.orders()
    one.close()
    two = Small(tmp_path, joins=one, run="run-2", sites=("dog", "eel"))
    two.round()
    two.end()
    two.close()
    resume()
    assert one.round().refused == {}
    one.end()
    valid(one.audit())


def test_a_payload_that_was_erased_is_gone_with_a_note_and_the_log_stays_valid(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.round()
    small.round()
    index = next(
        index
        for index, row in enumerate(small.entries())
        if (said := Entry.unpack(row).statement).kind == "update" and said["round"] == 1
    )
    entry = Entry.unpack(small.entries()[index])
    small.book._write(
        [("erasure", {"entry": index, "leaf": entry.leaf.hex(), "reason": "asked by a patient"})]
    )
    audit = small.audit(open_=small.open)
    assert names(audit) == {"missing-payload"}  # it is said to be erased, and is not
    small.book.salts.destroy(entry.statement["commit"])
    audit = small.audit(open_=small.open)
    valid(audit)
    assert notes_in(audit) == [f"the payload of entry {index} was destroyed: asked by a patient"]
    assert audit.opened == audit.committed - 1
    assert small.open(entry.statement["commit"]) == Opening(None, None)


def test_a_history_that_goes_on_is_valid_under_every_checkpoint_that_was_ever_kept(tmp_path: Path) -> None:
    small = Small(tmp_path, witnesses=2)
    kept: list[bytes] = []
    for _ in range(4):
        small.round()
        note = small.log.checkpoint()
        assert note is not None
        kept.append(note)
    small.end()
    audit = Auditor(small.folder.policy).run(Entries(small.entries()), [*kept, *small.log.checkpoints()])
    valid(audit)
    assert audit.checkpoints == len(kept) + len(small.log.checkpoints())


def test_clocks_that_differ_by_minutes_are_fine(tmp_path: Path) -> None:
    """A witness may be ten minutes off, and a site five from the coordinator."""
    small = Small(tmp_path, witnesses=2)
    small.cosigners.clock = lambda: small.clock() + 590
    shifts: dict[str, int] = {"ant": 290, "bee": -290}
    for site, shift in shifts.items():
        small.party(site).clock = lambda shift=shift: small.clock() + shift  # type: ignore[misc]
    for _ in range(3):
        assert small.round().refused == {}
    quiet(small)
    small.cosigners.clock = lambda: small.clock() - 590
    for _ in range(3):
        assert small.round().refused == {}
    quiet(small)


def test_a_small_run_is_what_its_clock_says(tmp_path: Path) -> None:
    clock = Clock(1000)
    small = Small(tmp_path, clock=clock)
    small.round()
    times: list[Any] = [Entry.unpack(row).statement.time for row in small.entries()]
    assert times == sorted(times)
    assert times[0] == 1001

"""Every lie that the ledger is there to find, told with the keys that its liar would have, and the finding it ends in.

First what an audit says of a log that was tampered with, one test for every row of the threat table; then what a
bundle shows. What sites and the coordinator refuse is in `test_attacks_live.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.ledger.attacks import (
    MADE,
    ORIGIN,
    RUN,
    START,
    Clock,
    Entries,
    History,
    Line,
    Small,
    names,
    notes_in,
    spare_the_disk,
    words,
)

from phloem.errors import PhloemError
from phloem.ledger.audit import Audit, Auditor, Opening
from phloem.ledger.bundle import Bundle, verify_bundle
from phloem.ledger.commitments import FRAME, commitment, new_salt
from phloem.ledger.entry import Entry, Seen
from phloem.ledger.evidence import Evidence, find_evidence
from phloem.ledger.exchange import Sent
from phloem.ledger.findings import Verdict
from phloem.ledger.kinds import COORDINATOR, SITE, TAKEN
from phloem.ledger.party import change_key
from phloem.ledger.record import member_statement
from phloem.tlog.keys import NOTE, Signer, VerifierKey
from phloem.wire.messages import Reply

YEAR = 365 * 86400
IDENTITY = bytes([1]) + bytes(31)  # the point for which anybody can sign


@pytest.fixture(autouse=True)
def memory_instead_of_disk(honest: Small, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test waits for the disk, and what it opened is closed after it."""
    spare_the_disk(monkeypatch)
    before = len(MADE)
    yield
    for small in MADE[before:]:
        small.close()
    del MADE[before:]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """Four rounds, after which the model is given out; nobody changes anything in it."""
    small = Small(tmp_path_factory.mktemp("honest"))
    for _ in range(4):
        small.round()
    small.end()
    yield small
    small.close()


@pytest.fixture(scope="module")
def untouched(honest: Small) -> History:
    return honest.history()


@pytest.fixture
def history(untouched: History) -> History:
    """The honest log in the hands of whoever has the coordinator's key and the log's."""
    return untouched.copy()


def invalid(audit: Audit, *found: str) -> None:
    """Nothing but `found` was found, and it makes the whole invalid."""
    assert names(audit) == set(found), words(audit)
    assert audit.verdict is Verdict.INVALID


def valid(audit: Audit) -> None:
    assert (audit.verdict, names(audit)) == (Verdict.VALID, set()), words(audit)


def last(history: History, site: str) -> tuple[Line, Line]:
    """A site's update of the last round, which no site has signed anything after, and the answer to it."""
    update = history.one("update", site, round=3)
    return update, history.answer_to(update)


def test_an_attacker_who_changes_nothing_gets_the_honest_log_to_the_byte(
    history: History, honest: Small
) -> None:
    assert history.seal() == honest.entries()
    audit = history.audit(history.notes)
    assert (audit.verdict, words(audit)) == (Verdict.VALID, [])


# -- history -------------------------------------------------------------------------------------------------------


def test_a_rewritten_history_is_found_with_a_checkpoint_that_somebody_kept(history: History) -> None:
    history.change(history.one("eval", round=3), metrics="0" * 64)
    invalid(history.audit([history.notes[-1]]), "rewritten-history")


def test_a_rewritten_history_is_found_without_one_where_sites_signed_after_it(history: History) -> None:
    history.change(history.one("eval", round=1), metrics="0" * 64)
    audit = history.audit()
    invalid(audit, "forked-history")
    assert {row.words.split("'")[1] for row in audit.findings.rows} == {"ant", "bee", "cat"}


def test_what_was_rewritten_after_the_last_word_of_a_site_only_a_kept_checkpoint_tells(
    history: History,
) -> None:
    history.change(history.one("eval", round=3), metrics="0" * 64)
    valid(history.audit())
    for note in history.notes[:-2]:  # of before
        valid(history.audit([note]))


def test_reordered_entries_are_found(history: History) -> None:
    first, second = last(history, "ant"), last(history, "bee")
    place = history.place(first[0])
    history.drop(*first, *second)
    history.lines[place:place] = [*second, *first]
    invalid(history.audit([history.notes[-1]]), "rewritten-history")
    # Without a checkpoint nobody can say which of two sites came first in a round: neither has signed that.
    valid(history.audit())


def test_a_members_entries_in_another_order_are_found_by_their_numbers(history: History) -> None:
    first, second = history.one("update", "ant", round=2), history.one("update", "ant", round=3)
    here, there = history.place(first), history.place(second)
    history.lines[here], history.lines[there] = second, first
    found = names(history.audit())
    assert {"replayed-update", "wrong-base", "missing-entry", "forked-history"} <= found
    history.keys.clear()  # whoever has the log's key alone cannot even number the coordinator's entries anew
    one, other = history.find("eval")[-2:]
    here, there = history.place(one), history.place(other)
    history.lines[here], history.lines[there] = other, one
    assert {"out-of-order", "missing-entry"} <= names(history.audit())


def test_an_entry_deleted_in_the_middle_is_found_by_its_number(history: History) -> None:
    history.keys.clear()
    history.drop(history.one("eval", round=3))
    found = history.audit()
    invalid(found, "missing-entry", "forked-history")  # the coordinator itself signed a later checkpoint
    invalid(
        history.audit([history.notes[-1]]),
        "missing-entry",
        "forked-history",
        "truncated-history",
    )


def test_an_entry_deleted_by_the_coordinator_itself_is_found_by_those_who_signed_after_it(
    history: History,
) -> None:
    history.drop(history.one("eval", round=1))
    invalid(history.audit(), "forked-history")


def test_a_site_that_was_deleted_from_the_whole_log_is_found_by_the_others(history: History) -> None:
    """Even its entry as a member: the others signed checkpoints of a log that had it."""
    for number in range(4):
        history.drop_all("cat", number)
        opened, merge = history.one("round-open", round=number), history.one("aggregate", round=number)
        history.change(opened, asked=["ant", "bee"])
        merge.said = replace(merge.said, fields={**merge.said.fields, "excluded": []})
    history.drop(history.one("member", "cat"))
    invalid(history.audit(), "forked-history")


def test_a_truncated_history_is_found_with_a_checkpoint_that_somebody_kept(history: History) -> None:
    del history.lines[-4:]
    invalid(history.audit([history.notes[-1]]), "truncated-history")
    valid(history.audit())  # nobody else has seen more


def test_a_back_dated_entry_is_found_by_what_its_sender_said_before(history: History) -> None:
    history.change(history.one("model-release"), time=START - YEAR)
    invalid(history.audit(), "back-dated")


def test_a_coordinator_who_back_dates_all_that_it_says_is_found_by_the_clocks_of_the_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small(tmp_path, behind=YEAR)
    refused = small.round().refused
    assert all("s ahead of the coordinator's" in words for words in refused.values())
    assert len(refused) == 3
    valid(small.audit())  # an honest coordinator with a wrong clock lets nobody in, and its log is whole
    monkeypatch.setattr(small.book, "_check_next", lambda site, entry: None)
    small.round()
    audit = small.audit()
    invalid(audit, "back-dated")
    assert "is said to be received" in "".join(words(audit))


def test_with_witnesses_nobody_can_claim_another_time_than_theirs(tmp_path: Path) -> None:
    """Not even if the coordinator and all sites agree on it."""
    for shift in (-YEAR, YEAR):
        small = Small(tmp_path / str(shift), witnesses=2, clock=Clock(START + shift))
        small.cosigners.clock = lambda: START
        for _ in range(2):
            small.round()
        invalid(small.audit(), "back-dated")
        small.close()


def test_without_witnesses_a_group_that_agrees_on_a_wrong_time_is_believed(tmp_path: Path) -> None:
    small = Small(tmp_path, clock=Clock(START - YEAR))
    small.round()
    valid(small.audit())


# -- two histories -------------------------------------------------------------------------------------------------


def forked(root: Path) -> tuple[Small, Small]:
    """A coordinator that shows one log to ant and another one to bee and cat, from the second round on."""
    one = Small(root / "one")
    one.round()
    other = one.fork(root / "other")
    for _ in range(2):
        one.round({"ant"})
        other.round({"bee", "cat"})
    return one, other


def test_each_half_of_a_forked_history_is_valid_alone_and_each_checkpoint_denies_the_other(
    tmp_path: Path,
) -> None:
    one, other = forked(tmp_path)
    notes = []
    for small in (one, other):
        valid(small.audit())
        notes.append(small.log.checkpoint())
    for small, note in ((one, notes[1]), (other, notes[0])):
        policy, log = small.folder.policy, small.log
        invalid(
            Auditor(policy).run(log, [note, *log.checkpoints()]),
            "rewritten-history" if small is other else "truncated-history",
        )


def test_two_halves_that_are_put_together_are_denied_by_what_the_sites_signed(tmp_path: Path) -> None:
    one, other = forked(tmp_path)
    history, more = one.history(), other.history()
    start = history.place(history.find("round-open")[-1])
    update = more.one("update", "bee", round=2)
    history.lines[start + 2 : start + 2] = [replace(update, raw=update.entry.pack(), seen=None)]
    found = history.audit()
    assert "forked-history" in names(found)
    assert any("'bee' was shown another tree" in row for row in words(found))


def test_a_site_that_comes_back_to_the_other_history_refuses_it(tmp_path: Path) -> None:
    one, other = forked(tmp_path)
    order = one.orders({"bee"})["bee"]
    with pytest.raises(PhloemError) as refused:
        one.sites["bee"].receive(order)
    assert "follow different histories" in str(refused.value) or "forked" in str(refused.value)
    assert other.party("bee").state.size > 0


def test_a_forked_history_leaves_evidence_that_convinces_anybody(tmp_path: Path) -> None:
    one, other = forked(tmp_path)
    notes = [small.book.journal.checkpoint() for small in (one, other)]
    found = find_evidence(one.log.read, notes[0], other.log.read, notes[1])
    assert found is not None
    again = Evidence.unpack(found.pack())
    assert "it showed two histories" in again.check(one.folder.policy.logs)
    grown = one.log.checkpoints()
    assert find_evidence(one.log.read, grown[0], one.log.read, grown[-1]) is None


# -- two models ----------------------------------------------------------------------------------------------------


def test_two_trunks_that_are_broadcast_in_one_round_are_found(history: History) -> None:
    shown = history.one("broadcast", round=3)
    other = {**shown.said["base"], "chain": "0" * 64}
    said = history.say("broadcast", "coordinator", {**shown.said.fields, "base": other}, shown)
    history.insert(history.place(shown) + 1, said, like=shown)
    invalid(history.audit(), "two-models")


def test_two_frames_that_are_to_bring_one_trunk_are_found(history: History) -> None:
    shown = history.one("broadcast", round=3)
    fields = {**shown.said.fields, "commit": commitment(new_salt(), FRAME, b"another frame")}
    history.insert(
        history.place(shown) + 1, history.say("broadcast", "coordinator", fields, shown), like=shown
    )
    invalid(history.audit(), "two-models")


def test_a_round_that_starts_from_another_trunk_than_was_merged_is_found(history: History) -> None:
    closing = history.find("round-open")[-1]
    base = {"chain": "0" * 64}
    history.change(closing, base=base)
    history.change(history.find("broadcast")[-1], base=base)
    invalid(history.audit(), "two-models")


def test_an_update_from_a_trunk_that_was_not_broadcast_is_found(history: History, honest: Small) -> None:
    """The site signed which trunk it was given."""
    update, _ = last(history, "cat")
    history.change(update, base={"chain": "0" * 64}, by=(honest.key_of("cat"),))
    history.answer_to(update)
    invalid(history.audit(), "wrong-base", "wrong-aggregate")


def test_a_round_that_was_broadcast_to_nobody_can_have_no_updates(history: History) -> None:
    shown = history.one("broadcast", round=3)
    history.drop(shown)
    assert {"wrong-base"} <= names(history.audit())


# -- dropped updates -----------------------------------------------------------------------------------------------


def merge_of(history: History) -> Line:
    return history.one("aggregate", round=3)


def leave_out(history: History, update: Line, **row: Any) -> None:
    """The last merge is without this update, with such a row of reasons; with none if there is no reason."""
    merge, place = merge_of(history), history.place(update)
    rows = [*merge.said["excluded"], {"site": update.said.sender, **row}] if row else merge.said["excluded"]
    inputs = [other for other in merge.said["inputs"] if other != place]
    history.change(merge, inputs=inputs, excluded=rows)


def test_an_update_that_was_taken_and_left_out_is_found(history: History) -> None:
    update, _ = last(history, "cat")
    leave_out(history, update, reason="no update")
    audit = history.audit()
    invalid(audit, "dropped-update")
    assert "was taken and left out" in words(audit)[0]


def test_a_site_that_was_asked_and_is_not_spoken_of_is_found(history: History) -> None:
    update, _ = last(history, "cat")
    leave_out(history, update)
    audit = history.audit()
    invalid(audit, "dropped-update")
    assert any("neither merged nor left out" in row for row in words(audit))


def test_an_update_that_is_left_out_in_the_name_of_another_is_found(history: History) -> None:
    update, _ = last(history, "cat")
    leave_out(history, update, reason="damaged")
    merge = merge_of(history)
    rows = [{"site": "ant", "reason": "damaged", "entry": history.place(update)}]
    history.change(merge, excluded=[*rows, {"site": "cat", "reason": "no update"}])
    audit = history.audit()
    invalid(audit, "dropped-update", "wrong-aggregate")
    assert "'ant' is merged and left out" in "".join(words(audit))


def test_an_update_that_was_left_out_with_a_reason_is_seen_and_is_no_lie_that_a_log_can_show(
    history: History,
) -> None:
    """The reason is the coordinator's word; the site, which has the frame and its salt, can show that it is false."""
    update, answer = last(history, "cat")
    leave_out(history, update, reason="damaged frame", entry=history.place(update))
    valid(history.audit())
    history.change(answer, outcome="damaged frame")
    valid(history.audit())


def test_an_update_that_was_never_answered_is_found(history: History) -> None:
    update, answer = last(history, "cat")
    leave_out(history, update, reason="damaged", entry=history.place(update))
    history.drop(answer)
    audit = history.audit()
    invalid(audit, "dropped-update")
    assert "never answered" in words(audit)[0]


def test_an_update_that_came_after_its_merge_cannot_be_taken(history: History) -> None:
    update, answer = last(history, "cat")
    leave_out(history, update, reason="no update")
    place = history.place(merge_of(history))
    history.drop(update, answer)
    history.lines[place - 1 : place - 1] = [update, answer]
    invalid(history.audit(), "dropped-update")


def test_an_update_that_was_never_logged_leaves_a_gap_in_the_numbers_of_its_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator asks cat, says that it did not, and puts its answer away."""
    small = Small(tmp_path)
    small.round()
    opened = small.book.opened

    def without_cat(number: int, base: Any, codecs: dict[str, str], carried: Any) -> dict[str, bytes]:
        return opened(number, base, {site: codec for site, codec in codecs.items() if site != "cat"}, carried)

    monkeypatch.setattr(small.book, "opened", without_cat)
    small.round(tamper=lambda site, message: None if site == "cat" else message)
    monkeypatch.setattr(small.book, "opened", opened)
    with monkeypatch.context() as patch:
        patch.setattr(small.book, "_check_next", lambda site, entry: None)
        small.round()
    audit = small.audit()
    invalid(audit, "missing-entry")
    assert "number 2 of 'cat' must stand before this" in words(audit)[0]


def test_an_honest_coordinator_does_not_take_an_update_with_a_gap_before_it_that_nobody_explains(
    tmp_path: Path,
) -> None:
    """A site that skips a number cannot make it look as if the coordinator had dropped an update."""
    small = Small(tmp_path)
    small.round()
    party = small.party("cat")
    party._write(replace(party.state, seq=party.state.seq + 7))
    assert "numbers 2 to 8 of 'cat' must stand before this" in small.round().refused["cat"]
    valid(small.audit())
    assert small.round().refused == {}  # from now on the log has an explanation
    audit = small.audit()
    valid(audit)
    assert "numbers 2 to 9 of 'cat' never came to the log" in notes_in(audit)[0]


def test_a_false_excuse_for_an_update_that_was_not_logged_is_noted_and_cannot_be_shown(
    tmp_path: Path,
) -> None:
    """What can be shown: that cat signed an update of this round, which stands nowhere. What cannot: who lost it.

    With `asked` and 'no update' the coordinator says the same as if the message had been lost on its way, and nothing
    that both of them signed says more. The audit notes the gap, the site keeps its record, and may complain.
    """
    small = Small(tmp_path)
    small.round()
    small.round(tamper=lambda site, message: None if site == "cat" else message)
    small.round()
    audit = small.audit()
    valid(audit)
    assert notes_in(audit) == [
        "number 2 of 'cat' never came to the log; the coordinator says: no update (round 1)"
    ]


def test_an_interruption_is_no_excuse_to_drop_what_had_been_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator opens a round again until it likes who is in it."""
    small = Small(tmp_path)
    small.round()
    resume = small.saved()
    for site, order in small.orders().items():
        small.coordinator.receive(site, small.exchange.reply(site, order))
    small.book.journal.flush()
    resume()
    monkeypatch.setattr(small.book.standing, "taken", lambda number: {})
    small.round({"ant", "bee"})
    audit = small.audit()
    invalid(audit, "dropped-update")
    assert "the update of 'cat' was taken and left out" in words(audit)[0]


# -- replayed updates ----------------------------------------------------------------------------------------------


def test_an_update_that_stands_in_the_log_twice_is_found(history: History) -> None:
    update, answer = last(history, "cat")
    history.again(update, history.place(merge_of(history)))
    history.insert(
        history.place(merge_of(history)),
        history.say(
            "received",
            "coordinator",
            {**answer.said.fields, "entry": history.place(merge_of(history)) - 1, "outcome": "late"},
            answer,
        ),
        like=answer,
    )
    invalid(history.audit(), "replayed-update")


def test_an_update_that_is_merged_in_a_later_round_again_is_found(history: History) -> None:
    old = history.one("update", "cat", round=2)
    merge = merge_of(history)
    history.change(merge, inputs=sorted([*merge.said["inputs"], history.place(old)]))
    invalid(history.audit(), "replayed-update")


def test_an_update_of_another_run_under_the_same_plan_is_found(tmp_path: Path) -> None:
    one = Small(tmp_path)
    one.round()
    one.end()
    one.close()
    two = Small(tmp_path, joins=one, run="run-2")
    two.round()
    history = two.history()
    old = next(line for line in history.find("update", "cat") if line.said.run == RUN)
    new = next(line for line in history.find("update", "cat") if line.said.run == "run-2")
    merge = history.find("aggregate")[-1]
    inputs = sorted({*merge.said["inputs"], history.place(old)} - {history.place(new)})
    history.change(merge, inputs=inputs)
    invalid(history.audit(), "wrong-aggregate", "dropped-update")
    # Under the other run's name it is signed by nobody.
    copied = history.insert(
        history.place(merge), replace(old.said, run="run-2", seq=9), one.key_of("bee"), like=old
    )
    copied.fixed |= {"prev"}
    assert "forged-sender" in names(history.audit())
    two.close()


# -- payloads ------------------------------------------------------------------------------------------------------


def opened_as(small: Small, site: str, content: bytes | None) -> Any:
    """What opens the log's commitments, but for one update, which opens to something else."""
    commit = next(
        said["commit"]
        for said in (Entry.unpack(row).statement for row in small.entries())
        if said.kind == "update" and said.sender == site and said["round"] == 3
    )

    def open_(wanted: str) -> Opening:
        found = small.open(wanted)
        return Opening(found.salt, content) if wanted == commit else found

    return open_


def test_all_payloads_are_opened_where_they_are_there(history: History, honest: Small) -> None:
    audit = history.audit(open_=honest.open)
    valid(audit)
    assert audit.opened == 4 * 3 + 4  # updates, and the frames that brought the trunk of round 1 and later


def test_a_payload_that_was_swapped_in_the_store_is_found(history: History, honest: Small) -> None:
    other = honest.results[3].frame
    audit = history.audit(open_=opened_as(honest, "cat", other))
    invalid(audit, "swapped-payload")
    assert audit.findings.rows[0].entry == history.place(last(history, "cat")[0])


def test_a_payload_of_which_a_bit_was_changed_is_found(history: History, honest: Small) -> None:
    frame = bytearray(honest.results[3].accepted[2].frame)
    frame[-1] ^= 1
    invalid(history.audit(open_=opened_as(honest, "cat", bytes(frame))), "swapped-payload")


def test_a_payload_that_is_gone_without_an_erasure_leaves_the_audit_undecided(
    history: History, honest: Small
) -> None:
    audit = history.audit(open_=opened_as(honest, "cat", None))
    assert (audit.verdict, names(audit)) == (Verdict.UNDECIDED, {"missing-payload"})


def test_an_erasure_of_another_entry_than_it_names_is_found(history: History) -> None:
    update, _ = last(history, "cat")
    fields = {"entry": history.place(update), "leaf": "0" * 64, "reason": "asked"}
    end = len(history.lines)
    history.insert(end, history.say("erasure", "coordinator", fields, history.lines[-1]))
    invalid(history.audit(), "unlawful")


def test_an_erasure_in_another_run_does_not_excuse_a_payload_that_is_gone(tmp_path: Path) -> None:
    one = Small(tmp_path)
    one.round()
    one.end()
    one.close()
    two = Small(tmp_path, joins=one, run="run-2")
    two.contents = one.contents
    index, entry = next(
        (index, found)
        for index, found in ((i, Entry.unpack(row)) for i, row in enumerate(two.entries()))
        if found.statement.kind == "update"
    )
    two.book._write([("erasure", {"entry": index, "leaf": entry.leaf.hex(), "reason": "asked"})])
    commit = entry.statement["commit"]
    audit = two.audit(open_=lambda wanted: Opening(None, None) if wanted == commit else two.open(wanted))
    assert names(audit) == {"missing-payload"}
    two.close()


def test_a_copied_update_is_seen_by_who_can_open_both(tmp_path: Path) -> None:
    """Commitments tell nothing of it; whose entry stands first was first."""
    small = Small(tmp_path)
    small.round()
    seen: dict[str, bytes] = {}

    def copying(site: str, message: bytes) -> bytes:
        reply = Reply.unpack(message)
        if site == "ant":
            seen["ant"] = reply.frame
        if site != "bee":
            return message
        at = small.sites["bee"].at
        entry, party = small.book.rounds[1], small.party("bee")
        party._write(replace(party.state, seq=party.state.seq - 1, record=""))  # it never signed its own
        sent = Sent(1, entry.base, seen["ant"], entry.codecs["bee"], small.book.raw_bytes, "", 10)
        assert at.round == 1
        return replace(reply, frame=seen["ant"], attachment=party.update(sent)).pack()

    assert small.round(tamper=copying).refused == {}
    valid(small.audit())
    audit = small.audit(open_=small.open)
    valid(audit)
    (note,) = notes_in(audit)
    assert note.startswith("'bee' sent the same frame as 'ant' in entry ")


# -- senders -------------------------------------------------------------------------------------------------------


def forged(history: History, *by: Signer, sender: str = "cat") -> Audit:
    """The audit of a log with one more update, in the name of `sender`."""
    update, _ = last(history, "cat")
    said = replace(update.said, sender=sender, seq=update.said.seq + 1)
    history.insert(history.place(merge_of(history)), said, *by, like=update)
    return history.audit()


def test_an_update_signed_by_a_key_that_nobody_knows_is_found(history: History) -> None:
    invalid(forged(history, Signer.new("cat")), "forged-sender")


def test_an_update_signed_by_another_member_is_found(history: History, honest: Small) -> None:
    invalid(forged(history, honest.key_of("bee")), "forged-sender")


def test_an_update_signed_by_the_coordinator_in_the_name_of_a_site_is_found(history: History) -> None:
    invalid(forged(history, history.keys["coordinator"]), "forged-sender")


def test_an_update_of_somebody_who_is_no_member_is_found(history: History) -> None:
    invalid(forged(history, Signer.new("dog"), sender="dog"), "forged-sender")


def test_an_update_whose_signature_is_of_another_entry_is_found(history: History) -> None:
    update, _ = last(history, "cat")
    before = history.one("update", "cat", round=2)
    line = history.insert(history.place(merge_of(history)), update.said, like=update)
    line.raw = Entry(update.entry.payload, before.entry.signatures).pack()
    invalid(history.audit(), "forged-sender")


def test_a_coordinator_that_merges_an_update_of_its_own_is_found(history: History) -> None:
    update, answer = last(history, "cat")
    fields = update.said.fields
    place = history.place(update)
    opened = history.one("round-open", round=3)
    history.change(opened, asked=["ant", "bee", "cat", "coordinator"])
    own = history.insert(place, history.say("update", "coordinator", fields, update), like=update)
    line = history.insert(place + 1, history.say("received", "coordinator", answer.said.fields, answer))
    line.fixed, line.refers = frozenset(), {answer.said["entry"]: own}
    merge = merge_of(history)
    merge.refers[99_999] = own
    merge.said = replace(merge.said, fields={**merge.said.fields, "inputs": [*merge.said["inputs"], 99_999]})
    audit = history.audit()
    assert {"unlawful", "forked-history"} == names(audit), words(audit)
    assert any("the coordinator sends itself an update" in row for row in words(audit))


@pytest.mark.parametrize("kind", ["round-open", "broadcast", "received", "aggregate", "eval", "anchor"])
def test_a_site_that_does_what_only_the_coordinator_may_is_found(
    kind: str, history: History, honest: Small
) -> None:
    like = last(history, "cat")[0]
    if kind == "anchor":
        fields: Any = {"root": "0" * 64, "size": 1, "system": "paper", "proof": "0" * 64}
    else:
        fields = history.find(kind)[-1].said.fields
    said = replace(history.say(kind, "cat", fields, like), seq=like.said.seq + 1)
    history.insert(len(history.lines), said, honest.key_of("cat"), like=like)
    invalid(history.audit(), "unlawful")


def joined(
    history: History, name: str, *by: Signer, key: VerifierKey | None = None, role: str = SITE
) -> Audit:
    """The audit of a log with one member more."""
    new = by[0].verifier if key is None else key
    said = member_statement(RUN, name, 0, START + 999, Seen(), new, "add")
    said = replace(said, fields={**said.fields, "role": role})
    history.insert(len(history.lines), said, *by).fixed |= {"prev"}
    return history.audit()


def test_a_member_that_the_coordinator_let_in_is_a_member(history: History) -> None:
    valid(joined(history, "dog", Signer.new("dog"), history.keys["coordinator"]))


def test_a_member_that_nobody_let_in_is_found(history: History) -> None:
    invalid(joined(history, "dog", Signer.new("dog")), "forged-sender")


def test_a_member_let_in_by_another_member_is_found(history: History, honest: Small) -> None:
    invalid(joined(history, "dog", Signer.new("dog"), honest.key_of("ant")), "forged-sender")


def test_a_member_whose_own_key_did_not_sign_is_found(history: History) -> None:
    signers = (history.keys["coordinator"],)
    invalid(joined(history, "dog", *signers, key=Signer.new("dog").verifier), "forged-sender")


def test_a_coordinator_that_lets_itself_in_as_a_site_is_found(history: History) -> None:
    own = history.keys["coordinator"]
    again = Signer("dog", NOTE, own._key)
    invalid(joined(history, "dog", again, own), "forged-sender")
    history.drop(history.lines[-1])
    invalid(joined(history, "dog", Signer.new("dog"), own, role=COORDINATOR), "forged-sender")


def test_a_member_that_is_let_in_while_it_is_one_is_found(history: History) -> None:
    audit = joined(history, "cat", Signer.new("cat"), history.keys["coordinator"])
    assert "forged-sender" in names(audit)
    assert "is a member already" in "".join(words(audit))


def test_a_member_that_comes_back_with_the_key_that_was_put_out_is_found(
    history: History, honest: Small
) -> None:
    key = honest.key_of("cat")
    put_out(history, "cat", key, history.keys["coordinator"])
    audit = joined(history, "cat", key, history.keys["coordinator"])
    assert "forged-sender" in names(audit)
    assert "with a key that was put out" in "".join(words(audit))


def test_a_run_that_is_begun_in_the_name_of_somebody_else_is_found(history: History) -> None:
    said = replace(history.one("genesis").said, run="run-2")
    said = replace(said, fields={**said.fields, "name": "ant"})
    history.insert(len(history.lines), said, history.keys["coordinator"]).fixed |= {"prev"}
    audit = history.audit()
    invalid(audit, "forged-sender")
    assert "in the name of 'ant'" in "".join(words(audit))


def test_two_sites_with_one_key_are_noted(history: History, honest: Small) -> None:
    again = Signer("dog", NOTE, honest.key_of("ant")._key)
    audit = joined(history, "dog", again, history.keys["coordinator"])
    valid(audit)
    assert notes_in(audit) == ["'dog' and 'ant' have the same key: what one signs, the other can"]


def test_a_member_with_a_key_for_which_anybody_can_sign_is_refused(history: History) -> None:
    """Else it could send, and say later that somebody else did."""
    weak = VerifierKey("dog", NOTE, IDENTITY)
    assert weak.verifies(b"whatever", IDENTITY + bytes(32))
    said = member_statement(RUN, "dog", 0, START + 999, Seen(), weak, "add")
    entry = said.signed(history.keys["coordinator"])
    forged_entry = Entry(entry.payload, (("dog+" + weak.id.hex(), IDENTITY + bytes(32)), *entry.signatures))
    line = history.insert(len(history.lines), said)
    line.raw = forged_entry.pack()
    audit = history.audit()
    invalid(audit, "forged-sender")
    assert "one for which anybody can sign" in words(audit)[0]


def test_a_member_with_another_key_than_the_auditor_knows_is_found(history: History, honest: Small) -> None:
    known = {name: str(honest.key_of(name).verifier) for name in ("ant", "bee", "cat")}
    known["coordinator"] = str(history.keys["coordinator"].verifier)
    audit = history.audit(members=known)
    assert (audit.verdict, words(audit)) == (Verdict.VALID, [])
    audit = history.audit(members={"cat": known["cat"]})
    valid(audit)
    assert notes_in(audit) == ["keys of members that the auditor does not know: ant, bee, coordinator"]
    for name in known:
        audit = history.audit(members={**known, name: str(Signer.new(name).verifier)})
        invalid(audit, "forged-sender")
        (row,) = audit.findings.rows
        assert row.entry == (0 if name == "coordinator" else history.place(history.one("member", name)))


# -- keys that were changed or lost --------------------------------------------------------------------------------


@pytest.fixture
def rotated(tmp_path: Path) -> Iterator[tuple[Small, Signer]]:
    """Cat changed its key in the third of four rounds; and its old one."""
    small = Small(tmp_path)
    for number in range(4):
        if number == 2:
            old = small.key_of("cat")
            change_key(tmp_path / "sites" / "cat", "cat")
        small.round()
    yield small, old
    small.close()


def test_a_key_that_was_stolen_after_it_was_changed_is_of_no_use(rotated: tuple[Small, Signer]) -> None:
    small, old = rotated
    valid(small.audit())
    audit = forged(small.history(), old)
    invalid(audit, "retired-key")
    assert "after it was changed" in words(audit)[0]


def test_a_key_that_was_changed_is_never_a_members_again(rotated: tuple[Small, Signer]) -> None:
    small, old = rotated
    history = small.history()
    back = member_statement(RUN, "cat", 9, START + 999, Seen(), old.verifier, "rotate")
    history.insert(len(history.lines), back, small.key_of("cat"), old).fixed |= {"prev"}
    invalid(history.audit(), "forged-sender")


def test_who_knows_the_old_key_or_the_new_one_knows_the_member(rotated: tuple[Small, Signer]) -> None:
    small, old = rotated
    for key in (old, small.key_of("cat")):
        valid(small.audit(members={"cat": str(key.verifier)}))
    assert names(small.audit(members={"cat": str(Signer.new("cat").verifier)})) == {"forged-sender"}


def put_out(history: History, name: str, key: Signer, *by: Signer) -> Line:
    said = member_statement(RUN, by[0].name, 0, START + 500, Seen(), key.verifier, "revoke")
    return history.insert(len(history.lines), said, *(() if by[0].name in history.keys else by))


def test_a_key_that_was_put_out_is_of_no_use(history: History, honest: Small) -> None:
    put_out(history, "cat", honest.key_of("cat"), history.keys["coordinator"])
    valid(history.audit())
    update, _ = last(history, "cat")
    history.insert(len(history.lines), replace(update.said, seq=9), honest.key_of("cat"), like=update)
    audit = history.audit()
    invalid(audit, "forged-sender")
    assert "'cat' is no member" in "".join(words(audit))
    assert notes_in(audit) == ["'cat' was put out by 'coordinator'"]


def test_a_coordinator_that_puts_a_site_out_and_lets_itself_in_under_its_name_is_noted(
    history: History, honest: Small
) -> None:
    """Only who knows the site's key can say that this is not the site."""
    put_out(history, "cat", honest.key_of("cat"), history.keys["coordinator"])
    fake = Signer.new("cat")
    said = member_statement(RUN, "cat", 9, START + 999, Seen(), fake.verifier, "add")
    line = history.insert(len(history.lines), said, fake, history.keys["coordinator"])
    history.change(line, seq=last(history, "cat")[0].said.seq + 1)
    line.seen = last(history, "cat")[0].seen
    audit = history.audit()
    valid(audit)
    assert "'cat' was let in again with another key" in notes_in(audit)[1]
    known = {"cat": str(honest.key_of("cat").verifier)}
    invalid(history.audit(members=known), "forged-sender")
    place = history.place(line)
    _, findings = verify_bundle(history.bundle([place]), history.policy, {})
    assert any("was let in again" in row.words for row in findings.rows)


def test_a_coordinator_that_was_put_out_lets_nobody_in(history: History) -> None:
    own = history.keys["coordinator"]
    put_out(history, "coordinator", own, own)
    valid(history.audit())
    audit = joined(history, "dog", Signer.new("dog"), own)
    invalid(audit, "forged-sender")
    assert "after the coordinator was put out" in "".join(words(audit))


def test_a_member_put_out_by_another_member_is_found(history: History, honest: Small) -> None:
    like = last(history, "ant")[0]
    said = member_statement(RUN, "ant", 9, START + 500, Seen(), honest.key_of("cat").verifier, "revoke")
    said = replace(said, seq=like.said.seq + 1)
    history.insert(len(history.lines), said, honest.key_of("ant"), like=like)
    invalid(history.audit(), "forged-sender")


# -- merges and models ---------------------------------------------------------------------------------------------


def test_a_merge_with_an_update_that_was_refused_is_found(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.round(late=frozenset({"cat"}))
    small.round()
    history = small.history()
    late = history.one("update", "cat", round=0)
    for merge in history.find("aggregate"):
        fake = history.copy()
        other = fake.find("aggregate")[history.find("aggregate").index(merge)]
        fake.change(other, inputs=sorted([*other.said["inputs"], history.place(late)]))
        assert "wrong-aggregate" in names(fake.audit())
    small.close()


def test_a_merge_of_what_is_no_update_is_found(history: History) -> None:
    merge = merge_of(history)
    history.change(merge, inputs=sorted([*merge.said["inputs"], 0]))
    invalid(history.audit(), "wrong-aggregate")


def test_a_merge_by_another_rule_than_before_is_found(history: History) -> None:
    history.change(merge_of(history), rule="0" * 64)
    invalid(history.audit(), "wrong-aggregate")


def test_a_round_that_is_merged_twice_is_found(history: History) -> None:
    merge = merge_of(history)
    place = history.place(merge) + 1
    fields = {**merge.said.fields, "output": {"chain": "0" * 64}}
    line = history.insert(place, history.say("aggregate", "coordinator", fields, merge), like=merge)
    line.fixed, line.refers = frozenset(), dict(merge.refers)
    invalid(history.audit(), "two-models")


def test_a_round_that_is_merged_again_from_other_sites_is_found(history: History) -> None:
    """With the same result: one of the two merges is not what it says."""
    merge = merge_of(history)
    place = history.place(merge)
    opened, shown = history.one("round-open", round=3), history.one("broadcast", round=3)
    for line in (opened, shown, merge):
        again = history.insert(place + 1, line.said, like=merge)
        again.fixed, again.refers = frozenset(), dict(line.refers)
        place += 1
    audit = history.audit()
    valid(audit)
    again = history.find("aggregate", round=3)[-1]
    inputs = again.said["inputs"][:2]
    history.change(again, inputs=inputs, excluded=[{"site": "cat", "reason": "no update"}])
    invalid(history.audit(), "two-models")


def test_a_round_under_another_plan_is_found(history: History) -> None:
    history.change(history.find("round-open")[-1], plan="0" * 64)
    invalid(history.audit(), "unlawful")


def test_an_update_that_is_answered_twice_is_found(history: History) -> None:
    _, answer = last(history, "cat")
    place = history.place(answer) + 1
    for outcome in (TAKEN, "damaged frame"):
        fake = history.copy()
        like = fake.lines[place - 1]
        fields = {**answer.said.fields, "outcome": outcome}
        line = fake.insert(place, fake.say("received", "coordinator", fields, like), like=like)
        line.fixed, line.refers = frozenset(), dict(like.refers)
        invalid(fake.audit(), "replayed-update")


def test_an_answer_to_what_is_no_update_is_found(history: History) -> None:
    _, answer = last(history, "cat")
    history.change(answer, leaf="0" * 64)
    invalid(history.audit(), "dropped-update", "wrong-aggregate")


def test_a_model_given_out_that_is_another_trunk_is_found(history: History) -> None:
    release = history.one("model-release")
    history.change(release, base={"chain": "0" * 64})
    invalid(history.audit(), "wrong-release")
    history.change(release, base=history.one("aggregate", round=2).said["output"], round=4)
    invalid(history.audit(), "wrong-release")
    history.change(release, round=3)
    valid(history.audit())  # that is the model of that round
    history.change(release, round=9)
    invalid(history.audit(), "wrong-release")


def told(audit: Audit, words_: str) -> None:
    """Among what was found is this, and the whole is invalid."""
    assert words_ in "\n".join(words(audit)), words(audit)
    assert audit.verdict is Verdict.INVALID


def test_a_round_that_is_opened_before_the_one_before_it_is_found(history: History) -> None:
    for line in (history.find("round-open")[-1], history.find("broadcast")[-1]):
        history.change(line, round=6)
    told(history.audit(), "round 6 is opened before the one before it")


def test_the_first_round_opened_again_from_another_trunk_is_found(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.orders()
    small.orders()
    history = small.history()
    valid(history.audit())
    for line in (history.find("round-open")[-1], history.find("broadcast")[-1]):
        history.change(line, base={"chain": "0" * 64})
    told(history.audit(), "round 0 is opened again from another trunk")


def test_an_update_to_somebody_else_is_found(history: History, honest: Small) -> None:
    history.change(last(history, "cat")[0], to="bee", by=(honest.key_of("cat"),))
    told(history.audit(), "an update outside any round")


def test_an_answer_that_names_another_entry_or_round_is_found(history: History) -> None:
    _, answer = last(history, "cat")
    for changes in ({"entry": 0}, {"entry": 9999}, {"round": 2}, {"leaf": "0" * 64}):
        fake = history.copy()
        line = fake.lines[history.place(answer)]
        fake.change(line, **changes)
        told(fake.audit(), "is no such update")


def test_a_merge_of_a_round_that_is_not_open_is_found(history: History) -> None:
    history.change(merge_of(history), round=2)
    told(history.audit(), "a merge of round 2, which is not open")


def test_a_round_that_is_merged_twice_with_one_result_is_found(history: History) -> None:
    merge = merge_of(history)
    line = history.insert(history.place(merge) + 1, merge.said, like=merge)
    line.fixed, line.refers = frozenset(), dict(merge.refers)
    audit = history.audit()
    invalid(audit, "two-models")
    told(audit, "round 3 is merged twice")


def test_a_merge_of_a_site_that_was_not_asked_is_found(history: History) -> None:
    history.change(history.one("round-open", round=3), asked=["ant", "bee"])
    told(history.audit(), "'cat' is merged twice, or was not asked")


def test_a_site_that_is_merged_twice_in_one_round_is_found(history: History, honest: Small) -> None:
    update, answer = last(history, "cat")
    place = history.place(merge_of(history))
    said = replace(update.said, seq=update.said.seq + 1)
    second = history.insert(place, said, honest.key_of("cat"), like=update)
    line = history.insert(place + 1, answer.said, like=answer)
    line.fixed, line.refers = frozenset(), {answer.said["entry"]: second}
    merge = merge_of(history)
    merge.refers[99_999] = second
    merge.said = replace(merge.said, fields={**merge.said.fields, "inputs": [*merge.said["inputs"], 99_999]})
    audit = history.audit()
    invalid(audit, "wrong-aggregate")
    told(audit, "'cat' is merged twice, or was not asked")


def test_a_site_that_is_left_out_with_what_is_not_its_own_update_is_found(history: History) -> None:
    update, _ = last(history, "cat")
    leave_out(history, update, reason="damaged", entry=history.place(last(history, "ant")[0]))
    told(history.audit(), "which is no update of its own in this round")


# -- anchors, complaints, other runs -------------------------------------------------------------------------------


def anchored(history: History, size: int, root: bytes) -> None:
    fields = {"root": root.hex(), "size": size, "system": "paper", "proof": "0" * 64}
    history.insert(len(history.lines), history.say("anchor", "coordinator", fields, history.lines[-1]))


def test_an_anchor_of_this_history_is_fine_and_an_older_one_after_it_is_not(history: History) -> None:
    rows = history.seal()
    audit = Auditor(history.policy)
    audit.run(Entries(rows), [history.note(rows)])
    anchored(history, 20, audit.tree.root_at(20) or b"")
    valid(history.audit())
    anchored(history, 10, audit.tree.root_at(10) or b"")
    invalid(history.audit(), "rolled-back-anchor")


@pytest.mark.parametrize("size", [0, 20, 5000])
def test_an_anchor_of_another_history_is_found(size: int, history: History) -> None:
    anchored(history, size, bytes(32))
    invalid(history.audit(), "rolled-back-anchor")


def test_a_complaint_leaves_the_audit_undecided_and_stands_there_for_ever(
    history: History, honest: Small
) -> None:
    like = last(history, "cat")[0]
    fields = {"about": "our update is not there", "against": "coordinator", "evidence": "0" * 64}
    said = replace(history.say("complaint", "cat", fields, like), seq=like.said.seq + 1)
    line = history.insert(len(history.lines), said, honest.key_of("cat"), like=like)
    audit = history.audit()
    assert (audit.verdict, names(audit)) == (Verdict.UNDECIDED, {"complaint"})
    assert "'cat' complains about 'coordinator': our update is not there" in words(audit)[0]
    note = history.note()
    history.drop(line)
    invalid(history.audit([note]), "truncated-history")


def test_an_entry_of_a_run_that_was_never_begun_here_is_found_once(history: History) -> None:
    update, _ = last(history, "cat")
    for seq in range(3):
        history.insert(len(history.lines), replace(update.said, run="run-9", seq=seq), Signer.new("cat"))
    audit = history.audit()
    invalid(audit, "forged-sender")
    assert audit.findings.counts["forged-sender"] == 1


def test_a_run_that_is_begun_twice_is_found(history: History) -> None:
    first = history.one("genesis")
    history.insert(len(history.lines), history.say("genesis", "coordinator", first.said.fields, first))
    invalid(history.audit(), "two-models")


def test_a_run_that_somebody_begins_in_the_name_of_another_is_found(history: History) -> None:
    said = replace(history.one("genesis").said, run="run-2")
    history.insert(len(history.lines), said, Signer.new("coordinator")).fixed |= {"prev"}
    invalid(history.audit(), "forged-sender")


def test_a_run_under_a_rule_that_there_is_not_is_found(history: History) -> None:
    history.change(history.one("genesis"), receipts="sometimes")
    assert "unlawful" in names(history.audit())


def test_a_run_that_was_copied_to_another_log_is_found(history: History) -> None:
    """Its beginning is the same tree, so that all that sites signed still fits."""
    history.log_key = Signer.new("example.org/other")
    policy = replace(history.policy, logs=(history.log_key.verifier,))
    rows = history.seal()[:30]
    audit = Auditor(policy).run(Entries(rows), [history.note(rows)])
    invalid(audit, "forked-history")
    assert f"was begun in the log '{ORIGIN}'" in "".join(words(audit))


def test_checkpoints_that_the_policy_does_not_believe_are_found(history: History) -> None:
    rows = history.seal()
    own = history.note(rows)
    history.log_key = Signer.new(ORIGIN)  # of the same name
    stranger = history.note(rows)
    invalid(history.audit(notes=[own, stranger]), "unsigned-checkpoint")
    audit = history.audit(notes=[])
    assert (audit.verdict, names(audit)) == (Verdict.UNDECIDED, {"no-quorum"})
    for junk in (b"", b"no note", own.replace(b"\n\n", b"\n"), own[:-4] + b"AAA\n"):
        assert names(history.audit(notes=[own, junk])) == {"unsigned-checkpoint"}


def test_too_few_witnesses_leave_the_audit_undecided(tmp_path: Path) -> None:
    small = Small(tmp_path, witnesses=3)
    small.round()
    valid(small.audit())
    small.cosigners.away = {"witness.example/0", "witness.example/1"}
    small.book._write([("eval", {"metrics": "0" * 64, "part": "stop", "round": 0})])
    audit = small.audit()
    valid(audit)
    assert "newer than the newest checkpoint under the policy" in notes_in(audit)[0]
    only = [note for note in small.log.checkpoints() if note.count("— witness".encode()) == 1]
    audit = Auditor(small.folder.policy).run(small.log, only)
    assert (audit.verdict, names(audit)) == (Verdict.UNDECIDED, {"no-quorum"})
    small.close()


def test_an_update_that_was_made_without_the_receipt_that_the_rule_asks_for_is_found(
    history: History, honest: Small
) -> None:
    """The checkpoint that a site signs is the newest that it has seen: a run cannot call itself strict and not be."""
    update, _ = last(history, "cat")
    older = history.one("update", "cat", round=2)
    update.seen = older.seen
    history.change(update, by=(honest.key_of("cat"),))
    audit = history.audit()
    invalid(audit, "unlawful")
    assert "without the receipt that the rule 'strict' asks for" in words(audit)[0]


def test_a_site_that_was_shown_an_older_tree_than_before_is_found(history: History, honest: Small) -> None:
    history.change(history.one("genesis"), receipts="audit-only")
    for number in range(4):
        for site in ("ant", "bee", "cat"):
            history.change(history.one("update", site, round=number), by=(honest.key_of(site),))
    for site in ("ant", "bee", "cat"):
        line = history.one("member", site)
        history.change(line, by=(honest.key_of(site), history.keys["coordinator"]))
    valid(history.audit())
    history.one("update", "cat", round=3).seen = history.one("update", "cat", round=1).seen
    audit = history.audit()
    invalid(audit, "forked-history")
    assert "shown an older tree" in words(audit)[0]


# -- denied --------------------------------------------------------------------------------------------------------


def shown_by(bundle: Bundle, history: History, pinned: dict[str, str] | None = None) -> tuple[Any, Any]:
    return verify_bundle(Bundle.unpack(bundle.pack()), history.policy, pinned or {})


def test_a_member_that_denies_a_sending_is_named_by_its_own_signature(
    history: History, honest: Small
) -> None:
    place = history.place(last(history, "cat")[0])
    pinned = {"cat": str(honest.key_of("cat").verifier)}
    shown, findings = shown_by(history.bundle([place], honest.open), history, pinned)
    assert findings.verdict is Verdict.VALID
    (found,) = [one for one in shown if one.index == place]
    assert (found.entry.statement.sender, found.opened) == ("cat", True)
    kinds = [one.entry.statement.kind for one in shown]
    assert kinds == ["genesis", "member", "member", "member", "update"]


def test_what_was_sent_before_a_key_was_changed_cannot_be_denied_after_it(
    rotated: tuple[Small, Signer], honest: Small
) -> None:
    small, old = rotated
    history = small.history()
    for number, key in ((1, old), (3, small.key_of("cat"))):
        place = history.place(history.one("update", "cat", round=number))
        for known in (old, small.key_of("cat")) if number == 3 else (old,):
            shown, findings = shown_by(history.bundle([place]), history, {"cat": str(known.verifier)})
            assert findings.verdict is Verdict.VALID, findings.rows
            shown[-1].entry.check_signed_by(key.verifier)


def test_a_bundle_in_which_somebody_else_signed_is_refused(history: History, honest: Small) -> None:
    update, _ = last(history, "cat")
    history.change(update, by=(honest.key_of("bee"),))
    place = history.place(update)
    shown, findings = shown_by(history.bundle([place]), history)
    assert findings.verdict is Verdict.INVALID
    assert {row.name for row in findings.rows} == {"forged-sender", "note"}
    assert place not in [one.index for one in shown]


def test_a_bundle_with_another_payload_or_salt_is_refused(history: History, honest: Small) -> None:
    place = history.place(last(history, "cat")[0])
    for change in ({"payloads": b"another"}, {"salts": bytes(32)}, {"salts": b"short"}):
        bundle = history.bundle([place], honest.open)
        for part, content in change.items():
            getattr(bundle, part)[place] = content
        _, findings = shown_by(bundle, history)
        assert "swapped-payload" in {row.name for row in findings.rows}
        assert findings.verdict is Verdict.INVALID


def test_a_bundle_of_a_log_that_the_verifier_does_not_know_is_refused(history: History) -> None:
    bundle = history.bundle([5])
    other = replace(history.policy, logs=(Signer.new(ORIGIN).verifier,))
    shown, findings = verify_bundle(bundle, other, {})
    assert (shown, findings.verdict) == ([], Verdict.INVALID)


def test_a_bundle_without_the_beginning_of_its_run_is_refused(history: History) -> None:
    place = history.place(last(history, "cat")[0])
    for gone in (0, history.place(history.one("member", "cat"))):
        bundle = history.bundle([place])
        del bundle.entries[gone], bundle.receipts[gone]
        assert verify_bundle(bundle, history.policy, {})[1].verdict is Verdict.INVALID


def test_a_receipt_of_one_entry_is_none_of_another(history: History) -> None:
    bundle = history.bundle([5, 6])
    bundle.receipts[5], bundle.receipts[6] = bundle.receipts[6], bundle.receipts[5]
    assert verify_bundle(bundle, history.policy, {})[1].verdict is Verdict.INVALID

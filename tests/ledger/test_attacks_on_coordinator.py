"""What a hostile site, or somebody on the wire, does to a coordinator's log: nothing that an audit would find.

Whatever comes is refused by name or taken, the round goes on without it, and the log is valid after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.ledger.attacks import MADE, START, Small, notes_in, spare_the_disk, words

from phloem.ledger.entry import Entry, Seen, Statement
from phloem.ledger.exchange import Sent
from phloem.ledger.findings import Verdict
from phloem.ledger.notice import Word
from phloem.ledger.party import change_key
from phloem.ledger.record import Claim, Record
from phloem.rounds.result import RoundResult
from phloem.tlog.keys import NOTE, Signer
from phloem.wire.messages import Reply, Status

DAY = 86400


@pytest.fixture(autouse=True)
def memory_instead_of_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test waits for the disk, and what it opened is closed after it."""
    spare_the_disk(monkeypatch)
    yield
    for small in MADE:
        small.close()
    MADE.clear()


@pytest.fixture
def small(tmp_path: Path) -> Small:
    found = Small(tmp_path)
    found.round()
    return found


def hostile(small: Small, change: Callable[[Reply], Reply | bytes | None], site: str = "cat") -> RoundResult:
    """A round in which one site's reply is another one."""

    def tamper(name: str, message: bytes) -> bytes | None:
        if name != site:
            return message
        found = change(Reply.unpack(message))
        return found.pack() if isinstance(found, Reply) else found

    return small.round(tamper=tamper)


def refused(small: Small, result: RoundResult, reason: str, site: str = "cat") -> None:
    """By name; the others were merged, and the log is valid now and after another round."""
    assert reason in result.refused[site], result.refused
    assert [update.site for update in result.accepted] == [name for name in small.sites if name != site]
    whole(small)
    small.round()
    whole(small)


def whole(small: Small) -> None:
    """An audit has nothing against the log."""
    audit = small.audit(open_=small.open)
    assert audit.verdict is Verdict.VALID, words(audit)


def word_of(reply: Reply) -> Word:
    return Word.unpack(reply.attachment)


def signed_anew(
    small: Small, reply: Reply, site: str = "cat", by: Signer | None = None, **changes: Any
) -> Reply:
    """The reply with another record: other numbers, times or checkpoints, signed by the site or by somebody else."""
    old = word_of(reply).record
    assert old is not None
    opened = small.book.rounds[reply.round]
    examples = changes.pop("examples", reply.examples)
    frame = changes.pop("frame", reply.frame)
    base = changes.pop("base", opened.base)
    number = changes.pop("round", reply.round)
    run = changes.pop("run", small.run)
    sent = Sent(number, base, frame, opened.codecs[site], small.book.raw_bytes, "", examples)
    record = replace(old, **changes)
    said = Statement(
        "update", run, site, record.seq, record.time, record.prev, sent.fields(record.salt, "coordinator")
    )
    entry = said.signed(by or small.key_of(site))
    return replace(
        reply,
        frame=frame,
        examples=examples,
        attachment=Word(Record.of(entry, record.salt), word_of(reply).claim).pack(),
    )


# -- updates -------------------------------------------------------------------------------------------------------


def test_an_update_that_is_not_signed_is_refused(small: Small) -> None:
    refused(small, hostile(small, lambda reply: replace(reply, attachment=b"")), "not signed for the ledger")


def test_an_update_signed_by_another_member_is_refused(small: Small) -> None:
    by = small.key_of("bee")
    refused(small, hostile(small, lambda reply: signed_anew(small, reply, by=by)), "is not over this entry")


def test_an_update_signed_by_a_stranger_is_refused(small: Small) -> None:
    by = Signer.new("cat")
    refused(small, hostile(small, lambda reply: signed_anew(small, reply, by=by)), "is not over this entry")


def test_the_record_of_another_site_is_refused(small: Small) -> None:
    seen: dict[str, bytes] = {}

    def tamper(name: str, message: bytes) -> bytes:
        reply = Reply.unpack(message)
        seen[name] = reply.attachment
        return replace(reply, attachment=seen["ant"]).pack() if name == "cat" else message

    refused(small, small.round(tamper=tamper), "is not over this entry")


def test_a_frame_that_was_swapped_on_the_wire_is_refused(small: Small) -> None:
    before = small.results[0].accepted[2].frame
    refused(small, hostile(small, lambda reply: replace(reply, frame=before)), "is not over this entry")


def test_a_weight_that_was_changed_on_the_wire_is_refused(small: Small) -> None:
    refused(small, hostile(small, lambda reply: replace(reply, examples=999)), "is not over this entry")


def test_an_update_of_the_round_before_is_refused_in_this_one(small: Small) -> None:
    old: dict[str, Reply] = {}

    def tamper(name: str, message: bytes) -> bytes:
        old[name] = Reply.unpack(message)
        return message

    small.round(tamper=tamper)
    late = hostile(small, lambda reply: old["cat"])
    refused(small, late, "late by 1 round(s)")
    now = hostile(
        small, lambda reply: replace(old["cat"], round=reply.round, chain=reply.chain, state=reply.state)
    )
    refused(small, now, "is not over this entry")


def test_an_update_that_comes_twice_counts_once(small: Small) -> None:
    for site, order in small.orders().items():
        message = small.exchange.reply(site, order)
        assert small.coordinator.receive(site, message) is None
        assert small.coordinator.receive(site, message) == "sent a second update in one round"
        small.keep(Reply.unpack(message).frame)
    small.keep(small.coordinator.close().frame)
    whole(small)
    assert small.log.size == 14 + 2 + 6 + 1  # the first round and its measurement; the second one


def test_two_different_updates_in_one_round_are_both_in_the_log_and_the_first_counts(small: Small) -> None:
    """A site cannot make it look as if the coordinator had merged something that it refused."""
    opening = small.orders()
    for site, order in opening.items():
        message = small.exchange.reply(site, order)
        small.coordinator.receive(site, message)
        if site == "cat":
            first = Reply.unpack(message)
            record = word_of(first).record
            assert record is not None
            other = signed_anew(
                small, first, frame=small.results[0].accepted[0].frame, seq=record.seq + 1, salt=bytes(32)
            )
            small.keep(other.frame)
            assert small.coordinator.receive(site, other.pack()) == "sent a second update in one round"
    result = small.coordinator.close()
    small.keep(result.frame)
    for update in result.accepted:
        small.keep(update.frame)
    assert [update.site for update in result.accepted] == ["ant", "bee", "cat"]
    whole(small)
    party, newest = (
        small.party("cat"),
        Entry.unpack(small.entries()[small.book.standing.of("cat").update or 0]),
    )
    party._write(replace(party.state, seq=party.state.seq + 1, leaf=newest.leaf.hex()))
    assert small.round().refused == {}
    whole(small)


def test_an_update_that_was_refused_may_be_sent_anew_in_the_same_round(small: Small) -> None:
    opening = small.orders()
    for site, order in opening.items():
        message = small.exchange.reply(site, order)
        if site == "cat":
            good = Reply.unpack(message)
            record = word_of(good).record
            assert record is not None
            bad = signed_anew(small, good, frame=b"no frame")
            assert "damaged frame" in str(small.coordinator.receive(site, bad.pack()))
            message = signed_anew(small, good, seq=record.seq + 1).pack()
        small.keep(Reply.unpack(message).frame)
        assert small.coordinator.receive(site, message) is None
    result = small.coordinator.close()
    assert [update.site for update in result.accepted] == ["ant", "bee", "cat"]
    small.keep(result.frame)
    whole(small)


def test_an_update_from_another_trunk_is_refused(small: Small) -> None:
    def other(reply: Reply) -> Reply:
        base = replace(small.book.rounds[reply.round].base, chain="0" * 64)
        return signed_anew(small, reply, base=base)

    refused(small, hostile(small, other), "is not over this entry")


def test_an_update_of_another_run_is_refused(small: Small) -> None:
    result = hostile(small, lambda reply: signed_anew(small, reply, run="run-9"))
    refused(small, result, "is not over this entry")


def test_an_update_of_another_round_is_refused(small: Small) -> None:
    result = hostile(small, lambda reply: signed_anew(small, reply, round=0))
    refused(small, result, "is not over this entry")


def test_an_update_that_nobody_asked_for_is_refused(small: Small) -> None:
    opening = small.orders(None, {"ant", "bee"})
    frame = small.results[0].accepted[2].frame
    for site, order in opening.items():
        message = small.exchange.reply(site, order)
        if site == "cat":
            reply = Reply.unpack(message)
            message = replace(reply, status=Status.UPDATE, frame=frame, examples=3).pack()
            assert "without being asked" in str(small.coordinator.receive(site, message))
        else:
            assert small.coordinator.receive(site, message) is None
            small.keep(Reply.unpack(message).frame)
    small.keep(small.coordinator.close().frame)
    whole(small)


# -- numbers, times, checkpoints -----------------------------------------------------------------------------------


def test_a_number_that_was_used_is_refused(small: Small) -> None:
    result = hostile(small, lambda reply: signed_anew(small, reply, seq=1))
    refused(small, result, "number 1 of 'cat' comes after its number 1")


def test_numbers_that_are_skipped_are_refused_until_the_log_explains_them(small: Small) -> None:
    result = hostile(small, lambda reply: signed_anew(small, reply, seq=50))
    refused(small, result, "numbers 2 to 49 of 'cat' must stand before this")


def test_a_site_whose_clock_is_ahead_is_refused(small: Small) -> None:
    result = hostile(small, lambda reply: signed_anew(small, reply, time=small.clock.now + DAY))
    refused(small, result, "s ahead of the coordinator's")


def test_a_site_whose_clock_is_behind_is_refused(small: Small) -> None:
    result = hostile(small, lambda reply: signed_anew(small, reply, time=START - DAY))
    refused(small, result, "claims a time")


def test_a_site_whose_clock_was_always_behind_is_refused(tmp_path: Path) -> None:
    """Not for what it said before: for what it has seen."""
    small = Small(tmp_path)
    small.party("cat").clock = lambda: START - DAY
    result = small.round()
    assert "before the round that it has seen opened" in result.refused["cat"]
    assert [update.site for update in result.accepted] == ["ant", "bee"]
    whole(small)


def test_a_site_that_has_seen_another_history_is_refused(small: Small) -> None:
    result = hostile(small, lambda reply: signed_anew(small, reply, prev=Seen(5, bytes(32))))
    refused(small, result, "has seen another history")
    result = hostile(small, lambda reply: signed_anew(small, reply, prev=Seen(5000, bytes(32))))
    refused(small, result, "has seen another history")


def test_a_site_that_signs_an_older_checkpoint_than_before_is_refused(small: Small) -> None:
    small.round()
    result = hostile(small, lambda reply: signed_anew(small, reply, prev=Seen()))
    refused(small, result, "shown an older tree than before")


def test_a_site_that_trained_without_its_receipt_is_refused(small: Small) -> None:
    """Its own software may not ask for one; the run says that it does."""

    def old(reply: Reply) -> Reply:
        found = small.book.standing.of("cat").update
        assert found is not None
        before = Entry.unpack(small.entries()[found]).statement.prev  # not older than in its last update
        return signed_anew(small, reply, prev=before)

    refused(small, hostile(small, old), "without the receipt that the rule 'strict' asks for")


def test_words_that_cannot_be_printed_do_not_stop_the_run(small: Small) -> None:
    small.round()
    assert small.book.standing is not None
    reason = "line\nbreak \x00 \u2028" + 500 * "x"
    opening = small.orders()
    for site, order in opening.items():
        reply = Reply.unpack(small.exchange.reply(site, order))
        small.book.heard(site, reply.attachment)
        given = reason if site == "cat" else None
        small.book.received(site, reply.round, reply.attachment, reply.frame, reply.examples, given)
        small.keep(reply.frame)
    whole(small)
    said = Entry.unpack(small.entries()[-1]).statement
    assert said["outcome"].startswith("line?break ? ?xxx")
    assert len(said["outcome"]) == 400


# -- claims --------------------------------------------------------------------------------------------------------


def claimed(small: Small, reply: Reply, claim: Claim) -> Reply:
    return replace(reply, attachment=replace(word_of(reply), claim=claim).pack())


def claim_of(reply: Reply) -> Claim:
    claim = word_of(reply).claim
    assert claim is not None
    return claim


def test_a_claim_that_the_wire_changed_lets_nobody_in(tmp_path: Path) -> None:
    small = Small(tmp_path)
    stranger = Signer.new("cat")

    def swapped(reply: Reply) -> Reply:
        return claimed(small, reply, replace(claim_of(reply), key=str(stranger.verifier)))

    refused(small, hostile(small, swapped), "is not over this entry")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda old: replace(old, signatures=(bytes(64),)), "is not over this entry"),
        (lambda old: replace(old, signatures=(old.signatures[0],) * 2), "needs its own signature"),
        (lambda old: replace(old, key="no key"), "expected a verifier key"),
        (lambda old: replace(old, key=str(Signer.new("bee").verifier)), "claims a key of 'bee'"),
        (lambda old: replace(old, software="\x00"), "printable"),
        (lambda old: replace(old, time=1 << 60), "whole number"),
        (lambda old: replace(old, seq=1 << 60), "the sender is no member"),  # it comes after the update
    ],
    ids=["unsigned", "signed twice", "no key", "of another", "unprintable", "too large", "too late"],
)
def test_a_claim_that_is_none_is_refused(make: Any, reason: str, tmp_path: Path) -> None:
    small = Small(tmp_path)
    refused(small, hostile(small, lambda reply: claimed(small, reply, make(claim_of(reply)))), reason)


def test_a_claim_to_a_weak_key_is_refused(tmp_path: Path) -> None:
    from phloem.tlog.keys import VerifierKey

    small = Small(tmp_path)
    identity = bytes([1]) + bytes(31)
    weak = VerifierKey("cat", NOTE, identity)

    def swapped(reply: Reply) -> Reply:
        return claimed(
            small,
            reply,
            replace(claim_of(reply), key=str(weak), signatures=(identity + bytes(32),)),
        )

    refused(small, hostile(small, swapped), "one for which anybody can sign")


def test_a_claim_to_the_coordinators_key_is_refused(tmp_path: Path) -> None:
    small = Small(tmp_path)
    own = Signer("cat", NOTE, small.folder.coordinator_key._key)

    def swapped(reply: Reply) -> Reply:
        old = claim_of(reply)
        made = Claim.made(small.run, old.seq, old.time, old.prev, old.software, own)
        return claimed(small, reply, made)

    refused(small, hostile(small, swapped), "one that 'coordinator' has or had")


def test_a_site_with_another_key_than_the_recipe_says_is_not_let_in(tmp_path: Path) -> None:
    known = Signer.new("cat")
    small = Small(tmp_path, members={"cat": str(known.verifier)})
    result = small.round()
    assert "another key than [ledger.members] says" in result.refused["cat"]
    assert [update.site for update in result.accepted] == ["ant", "bee"]
    whole(small)


def test_a_change_of_key_that_the_old_key_did_not_sign_is_refused(small: Small) -> None:
    new = Signer.new("cat")

    def stolen(reply: Reply) -> Reply:
        old = word_of(reply).record
        assert old is not None
        thief = Claim.made(
            small.run, old.seq, old.time, old.prev, "x", new, Signer("cat", NOTE, Signer.new("cat")._key)
        )
        return claimed(small, signed_anew(small, reply, seq=old.seq + 1), thief)

    result = hostile(small, stolen)
    refused(small, result, "is not over this entry")
    assert small.book.standing.members.key_of("cat") == small.key_of("cat").verifier


def test_a_change_of_key_is_one_entry_and_the_new_key_counts_from_there(small: Small, tmp_path: Path) -> None:
    old = small.key_of("cat")
    new = change_key(tmp_path / "sites" / "cat", "cat")
    for _ in range(3):
        assert small.round().refused == {}
    assert small.book.standing.members.keys_of("cat") == [str(old.verifier), str(new.verifier)]
    whole(small)
    result = hostile(small, lambda reply: signed_anew(small, reply, by=old))
    refused(small, result, "is not over this entry")


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", [0x01, 0x40])
@pytest.mark.parametrize("first", [True, False], ids=["with a claim", "without"])
def test_a_word_of_which_any_byte_was_changed_is_refused_and_the_log_stays_valid(
    first: bool, bit: int, tmp_path: Path
) -> None:
    """Or means the same: what stands beside the record may be lost, and is said again."""
    small = Small(tmp_path)
    if not first:
        small.round()
    orders = small.orders()
    messages = {site: small.exchange.reply(site, order) for site, order in orders.items()}
    reply = Reply.unpack(messages["cat"])
    before = small.log.size
    for place in range(len(reply.attachment)):
        changed = bytearray(reply.attachment)
        changed[place] ^= bit
        message = replace(reply, attachment=bytes(changed)).pack()
        reason = small.coordinator.receive("cat", message)
        assert reason is not None, f"byte {place} of the word does not matter"
        rows = small.log.entries(before, small.log.size)
        kinds = [Entry.unpack(row).statement.kind for row in rows]
        assert kinds in ([], ["member"])  # the claim before a record that is damaged is whole
    for site, message in messages.items():
        assert small.coordinator.receive(site, message) is None
        small.keep(Reply.unpack(message).frame)
    small.keep(small.coordinator.close().frame)
    whole(small)
    assert small.round().refused == {}
    whole(small)


def test_a_word_cut_off_or_with_more_at_its_end_is_refused(small: Small) -> None:
    orders = small.orders()
    reply = Reply.unpack(small.exchange.reply("cat", orders["cat"]))
    for size in range(len(reply.attachment)):
        message = replace(reply, attachment=reply.attachment[:size]).pack()
        assert small.coordinator.receive("cat", message) is not None
    message = replace(reply, attachment=reply.attachment + b"\0").pack()
    assert "after its end" in str(small.coordinator.receive("cat", message))
    assert small.coordinator.receive("cat", reply.pack()) is None
    small.keep(reply.frame)
    small.keep(small.coordinator.close().frame)
    whole(small)


def test_after_all_that_the_run_goes_on(small: Small) -> None:
    """A site that was refused in one round is taken in the next: no refusal locks it out."""
    changes: list[Callable[[Reply], Reply | bytes | None]] = [
        lambda reply: replace(reply, attachment=b""),
        lambda reply: None,
        lambda reply: b"no reply",
        lambda reply: signed_anew(small, reply, by=Signer.new("cat")),
        lambda reply: signed_anew(small, reply, time=small.clock.now + DAY),
        lambda reply: replace(reply, frame=b"damaged"),
        lambda reply: signed_anew(small, reply, frame=b"damaged"),
    ]
    for change in changes:
        hostile(small, change)
        assert small.round().refused == {}
    whole(small)
    assert all("the coordinator says: " in note for note in notes_in(small.audit()))

"""Whose signature counts, at every moment of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ledger.samples import (
    ANT,
    ANT_NEXT,
    BEE,
    COORDINATOR,
    RUN,
    SOFTWARE,
    TIME,
    countersigned,
    entry,
    fingerprint,
    let_in,
    statement,
)

from phloem.errors import PhloemError, ProofError
from phloem.ledger.entry import Entry, Seen
from phloem.ledger.members import Members
from phloem.ledger.record import Claim, member_statement
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer, VerifierKey


def genesis(signer: Signer = COORDINATOR, **changes: Any) -> Entry:
    return statement("genesis", seq=0, prev=Seen(), **changes).signed(signer)


def begun(*entries: Entry) -> Members:
    """The members of a run after these entries."""
    found = Members(genesis())
    for one in entries:
        found.take(found.check(one))
    return found


def rotated(old: Signer, new: Signer, seq: int = 1) -> Entry:
    claim = Claim.made(RUN, seq, TIME, Seen(), SOFTWARE, new, old)
    return claim.entry(RUN, new.name, old.verifier)


def put_out(key: VerifierKey, by: Signer = COORDINATOR) -> Entry:
    return member_statement(RUN, by.name, 5, TIME, Seen(), key, "revoke").signed(by)


def update(signer: Signer) -> Entry:
    return replace(statement("update"), sender=signer.name).signed(signer)


def test_the_first_entry_names_the_coordinator_who_signed_it() -> None:
    found = Members(genesis())
    assert found.coordinator == "coordinator"
    assert found.names == ["coordinator"]
    assert found.key_of("coordinator") == COORDINATOR.verifier
    assert found.key_of("ant") is None
    found.check(entry("round-open"))


@pytest.mark.parametrize(
    ("changes", "signer", "words"),
    [
        ({}, BEE, "not signed by 'coordinator"),
        ({"key": str(BEE.verifier)}, COORDINATOR, "another's, or of another type"),
        ({"key": "nonsense"}, COORDINATOR, "no key that can be read"),
        ({"name": "bee"}, COORDINATOR, "begun by 'coordinator' in the name of 'bee'"),
        (
            {"key": str(Signer.from_seed("coordinator", COSIGNATURE, bytes(32)).verifier)},
            COORDINATOR,
            "of another type",
        ),
    ],
)
def test_a_run_that_is_begun_by_nobody_known_is_refused(
    changes: dict[str, str], signer: Signer, words: str
) -> None:
    with pytest.raises(ProofError, match=words):
        Members(genesis(signer, **changes))


def test_a_site_counts_from_the_entry_that_lets_it_in() -> None:
    found = begun()
    with pytest.raises(ProofError, match="'ant' is no member"):
        found.check(update(ANT))
    found.take(found.check(let_in(ANT)))
    assert found.names == ["ant", "coordinator"]
    assert found.check(update(ANT)).sender == "ant"
    with pytest.raises(ProofError, match="'bee' is no member"):
        found.check(update(BEE))


def test_whoever_is_let_in_and_the_coordinator_both_sign() -> None:
    alone = Claim.made(RUN, 0, TIME, Seen(), SOFTWARE, ANT).entry(RUN, "ant", None)
    with pytest.raises(ProofError, match=r"not signed by 'coordinator"):
        begun().check(alone)
    with pytest.raises(ProofError, match=r"not signed by 'coordinator"):
        begun().check(countersigned(alone, BEE))
    said = member_statement(RUN, "ant", 0, TIME, Seen(), ANT.verifier, "add")
    with pytest.raises(ProofError, match=r"not signed by 'ant"):
        begun().check(said.signed(COORDINATOR))
    begun().check(said.signed(COORDINATOR, ANT))  # in whatever order


def test_nobody_lets_in_another_or_twice_or_with_another_s_key() -> None:
    foreign = member_statement(RUN, "bee", 0, TIME, Seen(), ANT.verifier, "add")
    with pytest.raises(ProofError, match="'ant' cannot be let in by 'bee'"):
        begun(let_in(BEE)).check(foreign.signed(BEE, ANT, COORDINATOR))
    with pytest.raises(ProofError, match="is a member already"):
        begun(let_in(ANT)).check(let_in(ANT, seq=1))
    with pytest.raises(ProofError, match="is a member already"):
        begun(let_in(ANT)).check(let_in(ANT_NEXT, seq=1))
    said = statement("member", key=str(BEE.verifier))
    with pytest.raises(ProofError, match="another's, or of another type"):
        begun().check(countersigned(said.signed(ANT)))
    said = statement("member", fingerprint=fingerprint(BEE))
    with pytest.raises(ProofError, match="another fingerprint"):
        begun().check(countersigned(said.signed(ANT)))


def test_a_site_cannot_take_the_coordinator_s_name() -> None:
    impostor = Signer.from_seed("coordinator", NOTE, bytes([9]) * 32)
    with pytest.raises(ProofError, match="is a member already"):
        begun().check(let_in(impostor))
    with pytest.raises(ProofError, match="not signed by 'coordinator"):
        begun().check(statement("round-open").signed(impostor))


def test_a_changed_key_counts_from_its_entry_and_the_old_one_no_more() -> None:
    found = begun(let_in(ANT))
    found.check(update(ANT))
    found.take(found.check(rotated(ANT, ANT_NEXT)))
    assert found.key_of("ant") == ANT_NEXT.verifier
    found.check(update(ANT_NEXT))
    with pytest.raises(ProofError, match=r"signed with the key [0-9a-f]{8} after it was changed"):
        found.check(update(ANT))
    assert found.former == {ANT.verifier: "was changed"}


def test_a_key_is_changed_by_its_owner_with_both_keys_only() -> None:
    found = begun(let_in(ANT), let_in(BEE))
    payload = rotated(ANT, ANT_NEXT).payload
    one, both = Entry(payload, rotated(ANT, ANT_NEXT).signatures[:1]), rotated(ANT, ANT_NEXT)
    with pytest.raises(ProofError, match="not signed by 'ant"):
        found.check(one)  # with the old one only
    with pytest.raises(ProofError, match="not signed by 'ant"):
        found.check(Entry(payload, both.signatures[1:]))  # with the new one only
    for by in (BEE, COORDINATOR):
        said = member_statement(RUN, by.name, 1, TIME, Seen(), ANT_NEXT.verifier, "rotate")
        with pytest.raises(ProofError, match=f"cannot be changed by '{by.name}'"):
            found.check(said.signed(by, ANT_NEXT))
    found.take(found.check(both))
    back = rotated(ANT_NEXT, ANT, seq=2)
    with pytest.raises(ProofError, match="or to an old one"):
        found.check(back)


def test_who_is_no_member_has_no_key_to_change() -> None:
    with pytest.raises(ProofError, match="'ant' is no member"):
        begun().check(rotated(ANT, ANT_NEXT))


@pytest.mark.parametrize("by", [COORDINATOR, ANT], ids=["coordinator", "itself"])
def test_who_is_put_out_counts_no_more_and_comes_back_with_another_key_only(by: Signer) -> None:
    found = begun(let_in(ANT), put_out(ANT.verifier, by)) if by is COORDINATOR else begun(let_in(ANT))
    if by is ANT:
        found.take(found.check(put_out(ANT.verifier, by)))
    assert found.names == ["coordinator"]
    with pytest.raises(ProofError, match="'ant' is no member"):
        found.check(update(ANT))
    with pytest.raises(ProofError, match="let in again with a key that was put out"):
        found.check(let_in(ANT, seq=9))
    found.take(found.check(let_in(ANT_NEXT, seq=9)))
    found.check(update(ANT_NEXT))
    with pytest.raises(ProofError, match="after it was put out"):
        found.check(update(ANT))


def test_nobody_else_puts_a_member_out_and_only_with_its_key() -> None:
    found = begun(let_in(ANT), let_in(BEE))
    with pytest.raises(ProofError, match="'bee' may not put 'ant' out"):
        found.check(put_out(ANT.verifier, BEE))
    with pytest.raises(ProofError, match="not the key of 'ant'"):
        found.check(put_out(ANT_NEXT.verifier))
    with pytest.raises(ProofError, match="'cat' is no member"):
        found.check(put_out(Signer.from_seed("cat", NOTE, bytes(32)).verifier))


def test_what_is_no_member_s_entry_changes_no_members() -> None:
    found = begun(let_in(ANT))
    before = found.names
    for kind in ("round-open", "broadcast", "aggregate", "eval"):
        found.take(found.check(entry(kind)))
    assert found.names == before


KEYS = [Signer.from_seed(name, NOTE, bytes([n]) * 32) for name in ("ant", "bee") for n in range(20, 23)]


@given(st.data())
def test_a_key_counts_exactly_between_its_coming_and_its_going(data: st.DataObject) -> None:
    """Any history of entries, against a table of who has which key."""
    found = begun()
    now: dict[str, Signer] = {}
    gone: set[Signer] = set()
    for seq in range(12):
        key = data.draw(st.sampled_from(KEYS))
        what = data.draw(st.sampled_from(["add", "rotate", "revoke"]))
        old = now.get(key.name)
        if what == "add":
            made, fair = let_in(key, seq), old is None and key not in gone
        elif what == "rotate":
            owner = old or data.draw(st.sampled_from([k for k in KEYS if k.name == key.name]))
            if owner is key:
                continue
            made, fair = rotated(owner, key, seq), old is not None and key not in gone
        else:
            made, fair = put_out(key.verifier), old is key
        if not fair:
            with pytest.raises(PhloemError):
                found.check(made)
            continue
        found.take(found.check(made))
        if old is not None:
            gone.add(old)
        now.pop(key.name, None)
        if what != "revoke":
            now[key.name] = key
        assert found.names == sorted(["coordinator", *now])
        for one in KEYS:
            if now.get(one.name) is one:
                found.check(update(one))
            else:
                with pytest.raises(ProofError):
                    found.check(update(one))

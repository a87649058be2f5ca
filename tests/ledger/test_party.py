"""A site's part: it remembers what it must not forget, whatever happens to its process and whoever coordinates."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from tests.ledger.exchanges import Exchange, base, checkpoint_in, close_all, frame_of
from tests.ledger.samples import BEE, ORIGIN, RUN, check_words, digest
from tests.ledger.test_settings import LINES
from tests.tiny import ROOT

from phloem.errors import (
    ConfigError,
    FormatError,
    NotFoundError,
    PhloemError,
    ProofError,
    StateError,
)
from phloem.ledger.commitments import FRAME, commitment, salt_for
from phloem.ledger.exchange import Base
from phloem.ledger.keys import read_key
from phloem.ledger.notice import Notice, Word
from phloem.ledger.party import Party, change_key
from phloem.ledger.record import Fields, Record
from phloem.ledger.settings import LedgerSettings
from phloem.tlog.keys import NOTE, Signer
from phloem.tlog.policy import Policy
from phloem.tlog.proof import Receipt


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture
def run(tmp_path: Path) -> Exchange:
    return Exchange(tmp_path)


def folder_of(run: Exchange, name: str = "ant") -> Path:
    return run.root / "sites" / name


def state_in(run: Exchange, name: str = "ant") -> dict[str, Any]:
    found = json.loads((folder_of(run, name) / f"{name}.json").read_bytes())
    assert isinstance(found, dict)
    return found


def admitted(run: Exchange, number: int, notice: bytes, name: str = "ant", *, begins: bool = True) -> bool:
    merged = name in run.merged.get(number - 1, [])
    return run.parties[name].admit(notice, run.broadcast(number), merged=merged, begins=begins)


# -- what it keeps -------------------------------------------------------------------------------------------------


def test_a_site_is_let_in_trains_and_keeps_what_a_dispute_needs(run: Exchange) -> None:
    for number in range(3):
        assert run.round(number) == ["ant", "bee"]
    run.finish(3)
    assert run.wrong() == []
    files = {one.name: stat.S_IMODE(one.stat().st_mode) for one in folder_of(run).iterdir()}
    assert set(files) == {"ant.key", "ant.json", "ant.checkpoint", "ant.tlog-proof"}
    assert files["ant.key"] == files["ant.json"] == 0o600
    assert stat.S_IMODE(folder_of(run).stat().st_mode) == 0o700
    kept = run.folder.policy.check((folder_of(run) / "ant.checkpoint").read_bytes())
    receipt = Receipt.unpack((folder_of(run) / "ant.tlog-proof").read_bytes())
    own = run.entries[receipt.index]
    assert (own.statement.sender, own.statement["round"]) == ("ant", 2)
    assert receipt.check(own.leaf, run.folder.policy) == kept


def test_nothing_of_the_key_is_in_what_it_keeps_or_says(run: Exchange) -> None:
    run.round(0)
    secret = (folder_of(run) / "ant.key").read_text().strip().split("+", 4)[4]
    party = run.parties["ant"]
    said = (folder_of(run) / "ant.json").read_text() + repr(party) + repr(party.state) + repr(party.signer)
    assert not [place for place in range(len(secret) - 7) if secret[place : place + 8] in said]


def test_before_it_has_met_a_coordinator_a_site_has_nothing_to_say(run: Exchange) -> None:
    assert run.parties["ant"].word() == b""
    with pytest.raises(ProofError, match="has no word of the ledger"):
        admitted(run, 0, b"")
    assert not (folder_of(run) / "ant.json").exists()


def test_a_site_says_which_checkpoint_it_saw_where_it_sends_no_update(run: Exchange) -> None:
    notices = run.opened(0)
    assert admitted(run, 0, notices["ant"])
    word = Word.unpack(run.parties["ant"].word())
    assert word.record is None
    assert word.claim is not None
    assert word.seen == run.book.journal.seen
    assert run.parties["ant"].state.seen == word.seen


# -- numbers -------------------------------------------------------------------------------------------------------


def test_the_same_update_sent_again_has_the_same_record(run: Exchange) -> None:
    run.round(0)
    notice = run.opened(1)["ant"]
    assert admitted(run, 1, notice)
    first = run.parties["ant"].update(run.update("ant", 1))
    assert run.parties["ant"].update(run.update("ant", 1)) == first
    run.restart_site("ant")
    assert admitted(run, 1, notice)
    assert run.parties["ant"].update(run.update("ant", 1)) == first
    other = replace(run.update("ant", 1), frame=b"another frame")
    second = Word.unpack(run.parties["ant"].update(other)).record
    record = Word.unpack(first).record
    assert record is not None
    assert second is not None
    assert second.seq == record.seq + 1
    assert second.salt != record.salt


def test_the_same_frame_from_another_trunk_has_a_record_of_its_own(run: Exchange) -> None:
    run.round(0)
    assert admitted(run, 1, run.opened(1)["ant"])
    first = Word.unpack(run.parties["ant"].update(run.update("ant", 1))).record
    other = replace(run.update("ant", 1), base=base(2), round=2)
    second = Word.unpack(run.parties["ant"].update(other)).record
    assert first is not None
    assert second is not None
    assert second.seq == first.seq + 1
    second.entry(RUN, run.parties["ant"].signer.verifier, other, "coordinator")


SENDER = """
import os, signal, sys
sys.path[:] = {path!r}
from pathlib import Path
from phloem.ledger.notice import Word
from phloem.ledger.party import Party
from tests.ledger.exchanges import base
from tests.ledger.samples import CODEC
from phloem.ledger.exchange import Sent
folder, frame, left = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
def touch(event, details):
    global left
    if event in ("os.rename", "os.link", "os.remove", "os.mkdir") or (
        event == "open" and isinstance(details[2], int) and details[2] & os.O_ACCMODE
    ):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(touch)
party = Party(folder, "ant", "strict", "software")
order = Sent(1, base(1), b"step 1", "int8", 4000, "delta")
assert party.admit((folder / "notice").read_bytes(), order, merged=True)
sent = Sent(1, base(1), frame, CODEC, 4000, "", 100)
word = party.update(sent)
os.write(1, word.hex().encode())  # sent
os.kill(os.getpid(), signal.SIGKILL)
"""


def sent_by(folder: Path, frame: str, touches: int) -> bytes:
    """What a site sent before it was killed: nothing, if that was before it could."""
    command = [
        sys.executable,
        "-c",
        SENDER.format(path=[str(ROOT), *sys.path]),
        str(folder),
        frame,
        str(touches),
    ]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == -9, done.stderr.decode()
    return bytes.fromhex(done.stdout.decode())


@pytest.mark.slow
def test_killed_at_any_point_a_site_never_uses_a_number_for_two_updates(
    run: Exchange, tmp_path: Path
) -> None:
    """kill -9 at every touch of the disk between signing and sending, with a change of key under way as well."""
    run.round(0)
    notice = run.opened(1)["ant"]
    assert admitted(run, 1, notice)
    run.parties["ant"].word()
    (folder_of(run) / "notice").write_bytes(notice)
    for changes in (False, True):
        for touches in range(40):
            folder = tmp_path / f"{changes}-{touches}"
            shutil.copytree(folder_of(run), folder)
            if changes:
                change_key(folder, "ant")
            words = [sent_by(folder, frame, n) for frame, n in (("one", touches), ("two", 99), ("two", 99))]
            found = [Word.unpack(word) for word in words if word]
            records = [word.record for word in found if word.record is not None]
            assert len(records) == len(found) >= 2
            assert records[-1] == records[-2]  # the same update once more: the same record
            if words[0]:
                assert records[0].seq < records[1].seq
            if changes:
                claim = found[-1].claim
                assert claim is not None
                assert {word.claim for word in found} == {claim}
                assert claim.seq not in [record.seq for record in records]
                signer = read_key(folder / "ant.key").verifier
                assert claim.key == str(signer)  # and signs with the key that it has asked for
                records[-1].entry(RUN, signer, replace(run.update("ant", 1), frame=b"two"), "coordinator")
                assert not (folder / "ant.next.key").exists()
            if words[0]:
                break
        else:
            raise AssertionError("it never came to send")
        assert touches >= (5 if changes else 2)


# -- whom it trusts ------------------------------------------------------------------------------------------------


def another(first: Exchange, tmp_path: Path, **more: Any) -> Exchange:
    """A coordinator with keys of its own that talks to the same sites."""
    found = Exchange(tmp_path / "other", **more)
    found.parties = first.parties
    return found


def unchanged(run: Exchange, name: str = "ant") -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder_of(run, name).iterdir()}


def test_another_coordinator_s_key_is_refused_in_a_run(run: Exchange, tmp_path: Path) -> None:
    run.round(0)
    run.opened(1)
    before, state = unchanged(run), run.parties["ant"].state
    other = another(run, tmp_path)
    for begins in (True, False):
        with pytest.raises(ProofError, match="another key or policy than it had"):
            admitted(other, 1, other.opened(1)["ant"], begins=begins)
    assert (unchanged(run), run.parties["ant"].state) == (before, state)


def test_a_notice_that_somebody_else_signed_is_refused(run: Exchange, tmp_path: Path) -> None:
    run.round(0)
    run.round(1)
    found, mine = another(run, tmp_path), Notice.unpack(run.opened(2)["ant"])
    for number in range(2):
        found.opened(number)
    theirs = Notice.unpack(found.opened(2)["ant"])
    for notice in (replace(mine, record=theirs.record), replace(theirs, introduction=None)):
        with pytest.raises(ProofError, match="not over this entry"):
            admitted(run, 2, notice.pack())
    with pytest.raises(ProofError, match="is not signed by a log of the policy"):
        admitted(run, 2, replace(mine, covered=theirs.covered).pack())
    with pytest.raises(ProofError, match="not signed for the ledger"):
        admitted(run, 2, replace(mine, record=None).pack())


def test_a_run_does_not_become_another_in_the_middle(run: Exchange, tmp_path: Path) -> None:
    run.round(0)
    other = another(run, tmp_path, run="another-run")
    with pytest.raises(ProofError, match=f"calls the run '{RUN}' another one in the middle"):
        admitted(other, 0, other.opened(0)["ant"], begins=False)
    assert admitted(other, 0, other.opened(0)["ant"])  # it holds nothing: it may be the next run
    assert run.parties["ant"].state.run == "another-run"


def test_a_site_that_is_called_back_to_a_run_counts_on_in_it(run: Exchange, tmp_path: Path) -> None:
    """Else a coordinator could have two updates of one number signed, and show them as the site's fault."""
    for number in range(2):
        run.round(number)
    before = run.parties["ant"].state
    other = another(run, tmp_path, run="another-run")
    assert other.round(0) == ["ant", "bee"]
    assert run.parties["ant"].state.run == "another-run"
    assert run.parties["ant"].state.seq == 2
    introduction = Notice.unpack(introduction_of(run, 2)).introduction
    for _ in range(2):
        back = replace(Notice.unpack(run.opened(2)["ant"]), introduction=introduction)
        run.restart_site("ant")
        admitted(run, 2, back.pack())
        state = run.parties["ant"].state
        assert (state.run, state.policy) == (RUN, before.policy)
        assert state.seq == before.seq
        assert (state.size, state.record, state.leaf) >= (before.size, before.record, before.leaf)
        run.parties["ant"].word()
    assert introduction is not None
    changed = replace(back, introduction=replace(introduction, coordinator=str(BEE.verifier))).pack()
    with pytest.raises(ProofError, match="another key or policy than it had"):
        admitted(run, 2, changed)


def introduction_of(run: Exchange, number: int) -> bytes:
    """A notice for somebody who is no member yet."""
    return run.book.opened(number, base(number), {"cat": "int8"}, {"cat": run.carried(number)})["cat"]


@pytest.mark.parametrize("text", ["", "nonsense\n", "quorum none\n\x00"])
def test_a_policy_of_one_s_own_that_is_none_is_told_at_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.txt").write_text(text)
    with pytest.raises(FormatError, match="policy"):
        Party(tmp_path / "sites", "ant", "strict", "software", tmp_path / "policy.txt")
    with pytest.raises(NotFoundError, match="there is no policy at"):
        Party(tmp_path / "sites", "ant", "strict", "software", tmp_path / "none.txt")


def test_a_policy_of_one_s_own_counts_whatever_the_coordinator_says(tmp_path: Path) -> None:
    run = Exchange(tmp_path / "run")
    mine = tmp_path / "policy.txt"
    mine.write_bytes(LedgerSettings(witnesses=LINES[:2]).policy(run.folder.log_key.verifier).pack())
    strict = Party(tmp_path / "strict", "ant", "strict", "software", mine)
    notice = run.opened(0)["ant"]
    with pytest.raises(ProofError, match="lacks the quorum 'quorum'"):
        strict.admit(notice, run.broadcast(0), merged=False)
    mine.write_bytes(run.folder.policy.pack())
    assert Party(tmp_path / "same", "ant", "strict", "software", mine).admit(
        notice, run.broadcast(0), merged=False
    )
    mine.write_bytes(Policy((Signer.from_seed(ORIGIN, NOTE, bytes(32)).verifier,)).pack())
    other = Party(tmp_path / "other", "ant", "strict", "software", mine)
    with pytest.raises(ProofError, match="is not signed by a log of the policy"):
        other.admit(notice, run.broadcast(0), merged=False)
    assert not (tmp_path / "other" / "ant.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": b""}, "quorum"),
        ({"policy": b"quorum none\n"}, "not fit for a log"),
        ({"policy": b"log nonsense\nquorum none\n"}, "expected a verifier key"),
        ({"policy": b"# \xff\nquorum none\n"}, "UTF-8|not fit"),
        ({"coordinator": ""}, "expected a verifier key"),
        ({"coordinator": str(BEE.verifier)}, "not signed by|not over this"),
        ({"coordinator": LINES[0].split()[1]}, "not fit for a log"),
        ({"run": "another"}, "not over this entry"),
        ({"run": "\x1b[2J"}, "'run' must be a text"),
    ],
)
def test_an_introduction_that_cannot_be_is_refused(
    run: Exchange, changes: dict[str, Any], words: str
) -> None:
    notice = Notice.unpack(run.opened(0)["ant"])
    assert notice.introduction is not None
    hostile = replace(notice, introduction=replace(notice.introduction, **changes))
    with pytest.raises((ProofError, FormatError), match=words):
        admitted(run, 0, hostile.pack())
    assert not (folder_of(run) / "ant.json").exists()
    assert run.parties["ant"].state.run == ""


def test_a_policy_with_odd_bytes_is_refused_in_words(run: Exchange) -> None:
    notice = Notice.unpack(run.opened(0)["ant"])
    assert notice.introduction is not None
    odd = b"# \xff\n" + notice.introduction.policy
    hostile = replace(notice, introduction=replace(notice.introduction, policy=odd))
    with pytest.raises(ProofError, match="not UTF-8"):
        admitted(run, 0, hostile.pack())


# -- histories -----------------------------------------------------------------------------------------------------


def check_refusal(error: ProofError) -> None:
    """Fails, if a site refuses a history for another reason than that it is one."""
    check_words(error)
    assert "forked" in error.message or "receipt" in error.message


def forked(run: Exchange, tmp_path: Path) -> Exchange:
    """The same coordinator with the same keys, which tells another story to others after the first round."""
    run.book.close()
    shutil.copytree(run.folder.root, tmp_path / "fork" / "ledger")
    run.book = run.open_book()
    found = Exchange(tmp_path / "fork")
    found.merged = dict(run.merged)
    found.parties = run.parties
    return found


def test_a_log_that_forked_is_refused_and_what_was_seen_is_kept(run: Exchange, tmp_path: Path) -> None:
    run.round(0)
    fork = forked(run, tmp_path)
    run.round(1)
    fork.parties = {**run.parties, "bee": fork.open_party("bee")}
    notices = {"before": run.opened(2)["ant"]}
    assert admitted(run, 2, notices["before"])
    run.parties["ant"].update(run.update("ant", 2))
    before, state = unchanged(run), run.parties["ant"].state
    for number in range(1, 5):
        fork.opened(number)
        theirs = Notice.unpack(fork.opened(number)["ant"])
        assert theirs.covered is not None
        size = checkpoint_in(theirs.covered.note).size
        for old in (state.size, 0, theirs.covered.old):
            for proof in ((), theirs.covered.consistency):
                told = replace(theirs, covered=replace(theirs.covered, old=old, consistency=proof))
                try:
                    trusts = run.parties["ant"].admit(told.pack(), fork.broadcast(number), merged=False)
                except ProofError as error:
                    check_refusal(error)
                else:
                    assert not trusts or number <= state.covered
                assert run.parties["ant"].state.seen == state.seen
        assert size
    assert unchanged(run)["ant.checkpoint"] == before["ant.checkpoint"]


def test_an_older_checkpoint_is_no_receipt(run: Exchange) -> None:
    run.round(0)
    old = Notice.unpack(run.opened(1)["ant"])
    assert admitted(run, 1, old.pack())
    run.take("ant", 1, run.parties["ant"].update(run.update("ant", 1)))
    run.close(1, ["ant"])
    assert admitted(run, 2, run.opened(2)["ant"])
    run.take("ant", 2, run.parties["ant"].update(run.update("ant", 2)))
    run.close(2, ["ant"])
    seen, new = run.parties["ant"].state.seen, Notice.unpack(run.opened(3)["ant"])
    assert old.covered is not None
    for covered in (old.covered, replace(old.covered, old=seen.size), replace(old.covered, old=0)):
        try:
            assert not admitted(run, 3, replace(new, covered=covered).pack())
        except ProofError as error:
            check_refusal(error)
        assert run.parties["ant"].state.seen == seen
    assert admitted(run, 3, new.pack())


def test_a_log_that_has_lost_a_merged_update_is_refused(run: Exchange) -> None:
    run.round(0)
    notice = Notice.unpack(run.opened(1)["ant"])
    assert notice.own is not None
    assert notice.covered is not None
    wrong = (
        replace(notice, own=None),
        replace(notice, own=replace(notice.own, index=notice.own.index - 1)),
        replace(notice, own=replace(notice.own, index=10**9)),
        replace(notice, own=replace(notice.own, inclusion=notice.own.inclusion[:-1])),
    )
    for one in wrong:
        with pytest.raises(ProofError, match="last update"):
            admitted(run, 1, one.pack())
        assert run.parties["ant"].admit(one.pack(), run.broadcast(1), merged=False)  # nobody says it was
        run.restart_site("ant")
    assert admitted(run, 1, notice.pack())


def test_a_receipt_is_for_the_trunk_of_this_order(run: Exchange) -> None:
    run.round(0)
    notice = run.opened(1)["ant"]
    for changes in (
        {"frame": b"another step"}, {"codec": "none"}, {"base": base(7)}, {"round": 2}, {"form": "key-frame"},
        {"raw_bytes": 1}, {"base": Base(digest("chain 1"))},
    ):  # fmt: skip
        other = replace(run.broadcast(1), **changes)
        with pytest.raises(ProofError, match="not over this entry"):
            run.parties["ant"].admit(notice, other, merged=True)
    found = Notice.unpack(notice)
    assert found.covered is not None
    for covered in (
        replace(found.covered, index=found.covered.index - 1),
        replace(found.covered, index=2**63),
        replace(found.covered, inclusion=found.covered.inclusion[:-1]),
        replace(found.covered, inclusion=(*found.covered.inclusion, bytes(32))),
    ):
        with pytest.raises(ProofError, match="does not show the trunk of this round"):
            admitted(run, 1, replace(found, covered=covered).pack())


@pytest.mark.slow
def test_every_bit_of_a_notice_is_refused_or_changes_nothing_that_counts(run: Exchange) -> None:
    run.round(0)
    notice = run.opened(1)["ant"]
    state = run.parties["ant"].state
    good = run.book.journal.seen
    for place in range(8 * len(notice)):
        changed = bytearray(notice)
        changed[place // 8] ^= 1 << place % 8
        try:
            admitted(run, 1, bytes(changed))
        except (FormatError, ProofError) as error:
            check_words(error)
            assert run.parties["ant"].state == state
        else:
            assert run.parties["ant"].state.seen in (state.seen, good)
            heard = {"size", "root", "covered", "earlier", "admitted", "claim"}
            for one in fields(state):
                now = getattr(run.parties["ant"].state, one.name)
                assert one.name in heard or now == getattr(state, one.name)
        run.parties["ant"].state = state
    assert admitted(run, 1, notice)


# -- rules about receipts ------------------------------------------------------------------------------------------


def bare(notice: bytes) -> bytes:
    """The same notice without a receipt."""
    return replace(Notice.unpack(notice), covered=None, own=None).pack()


@pytest.mark.parametrize(
    ("receipts", "lasts"), [("strict", 0), ("lagged 1", 1), ("lagged 3", 3), ("audit-only", 99)]
)
def test_a_receipt_lasts_as_long_as_the_rule_says(tmp_path: Path, receipts: str, lasts: int) -> None:
    run = Exchange(tmp_path, settings=LedgerSettings(receipts=receipts))
    run.round(0)
    covered = run.parties["ant"].state.covered
    for number in range(1, 6):
        run.opened(number)
        notice = run.opened(number)["ant"]
        trusts = run.parties["ant"].admit(bare(notice), run.broadcast(number), merged=False)
        assert trusts == (receipts == "audit-only" or number - covered <= lasts)


def test_without_a_receipt_it_waits_and_trains_when_there_is_one(run: Exchange) -> None:
    run.round(0)
    notice = run.opened(1)["ant"]
    assert not admitted(run, 1, bare(notice))
    assert admitted(run, 1, notice)


def test_a_receipt_for_a_later_round_is_none_for_one_that_is_opened_again(run: Exchange) -> None:
    for number in range(3):
        run.round(number)
    again = bare(run.opened(1)["ant"])
    assert not run.parties["ant"].admit(again, run.broadcast(1), merged=False)


# -- changes of key ------------------------------------------------------------------------------------------------


def test_a_site_that_has_no_key_yet_has_none_to_change(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no key"):
        change_key(tmp_path, "ant")


def test_a_change_waits_for_its_turn_and_is_never_overwritten(run: Exchange) -> None:
    run.round(0)
    new = change_key(folder_of(run), "ant")
    assert read_key(folder_of(run) / "ant.next.key").verifier == new.verifier
    with pytest.raises(ConfigError, match="exists already"):
        change_key(folder_of(run), "ant")


def test_a_key_is_changed_with_the_next_reply(run: Exchange) -> None:
    run.round(0)
    old, new = run.parties["ant"].signer, change_key(folder_of(run), "ant")
    assert run.round(1) == ["ant", "bee"]
    assert run.parties["ant"].signer.verifier == new.verifier == read_key(folder_of(run) / "ant.key").verifier
    assert not (folder_of(run) / "ant.next.key").exists()
    assert run.book.standing.members.key_of("ant") == new.verifier
    assert run.round(2) == ["ant", "bee"]
    assert run.parties["ant"].state.claim == ""
    again = change_key(folder_of(run), "ant")
    assert run.round(3) == ["ant", "bee"]
    assert run.book.standing.members.key_of("ant") == again.verifier
    assert run.wrong() == []
    kinds = [said["action"] for said in run.statements if said.kind == "member" and said.sender == "ant"]
    assert kinds == ["add", "rotate", "rotate"]
    assert old.verifier not in (new.verifier, again.verifier)


def test_a_key_is_changed_although_the_reply_that_asks_for_it_is_lost(run: Exchange) -> None:
    run.round(0)
    new = change_key(folder_of(run), "ant")
    assert run.round(1, lambda site, reply: None if site == "ant" else reply) == ["bee"]
    assert run.book.standing.members.key_of("ant") != new.verifier
    run.restart_site("ant")
    assert run.round(2) == ["ant", "bee"]
    assert run.book.standing.members.key_of("ant") == new.verifier
    assert run.round(3) == ["ant", "bee"]
    assert run.parties["ant"].state.claim == ""
    assert run.wrong() == []


def test_a_key_is_changed_although_the_site_was_killed_before_it_changed_its_file(run: Exchange) -> None:
    """The claim is on the disk, the new key still lies beside the old one."""
    run.round(0)
    new = change_key(folder_of(run), "ant")
    old_key, new_key = ((folder_of(run) / name).read_bytes() for name in ("ant.key", "ant.next.key"))
    notices = run.opened(1)
    assert admitted(run, 1, notices["ant"])
    lost = run.parties["ant"].update(run.update("ant", 1))
    assert Word.unpack(lost).claim is not None
    state = state_in(run)
    (folder_of(run) / "ant.json").write_bytes(
        json.dumps(
            {**state, "record": "", "seq": state["seq"] - 1}, sort_keys=True, separators=(",", ":")
        ).encode()
    )
    (folder_of(run) / "ant.key").write_bytes(old_key)
    (folder_of(run) / "ant.next.key").write_bytes(new_key)
    (folder_of(run) / "ant.next.key").chmod(0o600)
    run.restart_site("ant")
    run.restart()
    assert run.round(1) == ["ant", "bee"]
    assert run.book.standing.members.key_of("ant") == new.verifier == run.parties["ant"].signer.verifier
    assert run.round(2) == ["ant", "bee"]
    assert run.wrong() == []


def test_an_update_that_is_sent_again_after_a_change_of_key_is_taken(run: Exchange) -> None:
    """Signed with the old key, lost, and asked for once more when the site has a new one."""
    run.round(0)
    assert admitted(run, 1, run.opened(1)["ant"])
    run.parties["ant"].update(run.update("ant", 1))  # lost
    new = change_key(folder_of(run), "ant")
    run.restart()
    assert run.round(1) == ["ant", "bee"]
    assert run.round(2) == ["ant", "bee"]
    assert run.book.standing.members.key_of("ant") == new.verifier
    assert run.wrong() == []


def test_an_update_that_was_logged_before_a_crash_counts_once_after_a_change_of_key(run: Exchange) -> None:
    run.round(0)
    assert admitted(run, 1, run.opened(1)["ant"])
    assert run.take("ant", 1, run.parties["ant"].update(run.update("ant", 1))) is None
    change_key(folder_of(run), "ant")
    run.restart()
    assert run.round(1) == ["ant", "bee"]
    assert run.round(2) == ["ant", "bee"]
    assert run.wrong() == []


def test_a_site_that_waits_for_a_receipt_asks_for_its_new_key_meanwhile(run: Exchange) -> None:
    run.round(0)
    new = change_key(folder_of(run), "ant")
    assert not admitted(run, 1, bare(run.opened(1)["ant"]))
    run.book.heard("ant", run.parties["ant"].word())
    assert run.book.standing.members.key_of("ant") == new.verifier
    assert run.round(1) == ["ant", "bee"]
    assert run.wrong() == []


# -- its memory ----------------------------------------------------------------------------------------------------


def test_a_damaged_memory_is_not_taken_for_none(run: Exchange) -> None:
    run.round(0)
    path = folder_of(run) / "ant.json"
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(StateError, match="is damaged") as said:
            run.restart_site("ant")
    assert said.value.hint is not None
    assert "restore it" in said.value.hint
    table = json.loads(good)
    for key, value in table.items():
        for wrong in (None, [], {}, True, 1.5, "x\n", -1, "\u00e9"):
            if key == "admitted" and wrong is True:
                continue
            if wrong == "\u00e9" and isinstance(value, str) and key in ("run", "policy", "coordinator"):
                continue
            if key == "earlier" and wrong in ([], {}):
                continue
            if key in ("covered", "round") and wrong == -1:
                continue
            if key in ("run", "policy", "coordinator") and wrong == "x\n":
                continue
            path.write_bytes(
                json.dumps(
                    {**table, key: wrong}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
                ).encode()
            )
            with pytest.raises(StateError, match="is damaged"):
                run.restart_site("ant")
    for table_ in ({**table, "more": 1}, [], [table], None):
        path.write_bytes(json.dumps(table_, sort_keys=True, separators=(",", ":")).encode())
        with pytest.raises(StateError, match="is damaged"):
            run.restart_site("ant")
    path.write_bytes(good)
    run.restart_site("ant")
    assert run.round(1) == ["ant", "bee"]


def test_the_key_of_another_site_is_not_taken(run: Exchange) -> None:
    (folder_of(run) / "ant.key").unlink(missing_ok=True)
    shutil.copy(folder_of(run, "bee") / "bee.key", folder_of(run) / "ant.key")
    with pytest.raises(ConfigError, match="is 'bee', not 'ant'"):
        run.restart_site("ant")
    (folder_of(run) / "ant.key").chmod(0o644)
    with pytest.raises(ConfigError, match="others than its owner"):
        run.restart_site("ant")


def test_a_salt_in_the_memory_opens_what_was_committed_to(run: Exchange) -> None:
    """Who erases an update has to know that its site still has the salt of its newest one."""
    run.round(0)
    update = next(said for said in run.statements if said.kind == "update" and said.sender == "ant")
    record = Record.read(Fields(bytes.fromhex(state_in(run)["record"]), "the record"))
    assert commitment(salt_for(record.salt, FRAME), FRAME, frame_of("ant", 0)) == update["commit"]


def test_phloem_errors_only(run: Exchange) -> None:
    """Whatever bytes a coordinator attaches."""
    run.round(0)
    good = run.opened(1)["ant"]
    for data in (b"\0", b"\x21", b"\x22\x08" + bytes(40), good[:-1], good + b"\0", b"\x21\x04" + bytes(140)):
        with pytest.raises(PhloemError):
            admitted(run, 1, data)

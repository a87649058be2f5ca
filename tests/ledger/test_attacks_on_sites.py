"""What a lying coordinator, or somebody on the wire, makes a site believe: nothing that the log does not vouch for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.ledger.attacks import MADE, ORIGIN, Clock, Small, spare_the_disk

from phloem.errors import FormatError, PhloemError, ProofError, StateError
from phloem.ledger.exchange import Base, Carried
from phloem.ledger.folder import LedgerFolder
from phloem.ledger.kinds import DELTA
from phloem.ledger.log import Log
from phloem.ledger.notice import Notice
from phloem.ledger.party import Party
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import Signer
from phloem.tlog.merkle import prove_inclusion, tree_hash
from phloem.tlog.note import Note, signed
from phloem.wire.messages import Item, Order, Reply, Status


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
    """A run whose sites ask for a receipt in every round, after two of them."""
    found = Small(tmp_path)
    found.round()
    found.round()
    return found


def altered(order: bytes, change: Callable[[Notice], Notice | None]) -> bytes:
    """An order with another notice, or with none."""
    found = Order.unpack(order)
    notice = change(Notice.unpack(found.attachment))
    return replace(found, attachment=b"" if notice is None else notice.pack()).pack()


def refuses(small: Small, order: bytes, words: str, site: str = "cat") -> None:
    """The site says so, keeps its state, and takes the honest order afterwards."""
    before, at = small.party(site).state, small.sites[site].at
    with pytest.raises((ProofError, FormatError, StateError), match=words):
        small.sites[site].receive(order)
    assert small.party(site).state == before
    assert small.sites[site].at is at


def silent(small: Small, order: bytes, site: str = "cat") -> None:
    """The site does not train, and says why."""
    work = small.sites[site].receive(order)
    assert not work.train
    reply = Reply.unpack(small.sites[site].reply(None))
    assert (reply.status, reply.frame) == (Status.REFUSED, b"")
    assert "no receipt" in reply.reason


def trains(small: Small, order: bytes, site: str = "cat") -> None:
    assert small.sites[site].receive(order).train


# -- notices -------------------------------------------------------------------------------------------------------


def test_an_order_without_a_notice_is_refused(small: Small) -> None:
    order = small.orders()["cat"]
    refuses(small, altered(order, lambda notice: None), "no word of the ledger")
    trains(small, order)


def test_an_order_without_a_record_is_refused(small: Small) -> None:
    order = small.orders()["cat"]
    refuses(small, altered(order, lambda notice: replace(notice, record=None)), "not signed for the ledger")
    trains(small, order)


def test_a_site_that_never_met_the_log_asks_which_one_it_is(tmp_path: Path) -> None:
    small = Small(tmp_path)
    order = small.orders()["cat"]
    refuses(
        small, altered(order, lambda notice: replace(notice, introduction=None)), "has not said which log"
    )
    trains(small, order)


def test_a_notice_for_another_site_has_another_update_in_its_receipt(small: Small) -> None:
    order, other = small.orders()["cat"], small.orders()["bee"]
    refuses(small, other, "does not show this site's last update")
    trains(small, order)


def test_a_record_signed_by_another_key_is_refused(small: Small) -> None:
    stranger = Signer.new("coordinator")
    order = small.orders()["cat"]
    key = small.folder.coordinator_key.verifier

    def resigned(notice: Notice) -> Notice:
        record = notice.record
        assert record is not None
        return replace(notice, record=replace(record, signature=stranger.sign(b"whatever")))

    refuses(small, altered(order, resigned), "is not over this entry")
    assert key != stranger.verifier
    trains(small, order)


def test_a_coordinator_that_comes_back_with_another_key_is_refused(small: Small) -> None:
    order = small.orders()["cat"]
    intro = introduction(small)

    def introduced(**changes: object) -> bytes:
        return altered(order, lambda notice: replace(notice, introduction=replace(intro, **changes)))

    another = str(Signer.new("coordinator").verifier)
    refuses(small, introduced(coordinator=another), "came back with another key")
    refuses(small, introduced(policy=intro.policy + b"# more\n"), "another key or policy")
    trains(small, introduced())


def introduction(small: Small) -> object:
    from phloem.ledger.notice import Introduction

    key = str(small.folder.coordinator_key.verifier)
    return Introduction(small.run, small.folder.policy.pack(), key)


def test_a_run_cannot_be_called_another_one_in_the_middle_of_it(small: Small) -> None:
    """Else a site would forget what it has seen, and could be shown another history under a new name."""
    order = small.orders()["cat"]
    intro = introduction(small)
    for changes in (
        {"run": "run-2"},
        {"run": "run-2", "policy": intro.policy + b"# another\n"},  # type: ignore[attr-defined]
    ):
        other = replace(intro, **changes)  # type: ignore[type-var]
        refuses(
            small,
            altered(order, lambda notice, other=other: replace(notice, introduction=other)),  # type: ignore[misc]
            "another one in the middle of it",
        )
    trains(small, order)


def test_another_run_in_the_same_log_does_not_make_a_site_forget_the_log(tmp_path: Path) -> None:
    one = Small(tmp_path / "one")
    one.round()
    other = one.fork(tmp_path / "other")  # before ant saw more
    one.round()
    one.end()
    one.close()
    two = Small(tmp_path / "one", joins=one, run="run-2")
    assert two.round().refused == {}  # the coordinator proves from what it knows that they saw
    two.close()
    other.close()
    lying = Small(tmp_path / "other", joins=other, run="run-3", sites=("ant",))
    lying.sites["ant"].party = Party(
        tmp_path / "one" / "sites" / "ant", "ant", "strict", "x", clock=other.clock
    )
    order = lying.orders()["ant"]
    silent(lying, order, "ant")  # whatever grew from an older checkpoint is not enough


# -- receipts ------------------------------------------------------------------------------------------------------


def without_receipt(order: bytes) -> bytes:
    return altered(order, lambda notice: replace(notice, covered=None, own=None))


def test_without_a_receipt_a_strict_site_does_not_train_and_says_so_and_trains_again_after(
    small: Small,
) -> None:
    orders = small.orders()
    silent(small, without_receipt(orders["cat"]))
    for site, order in orders.items():
        if site != "cat":
            small.coordinator.receive(site, small.exchange.reply(site, order))
    reply = small.sites["cat"].reply(None)
    assert small.coordinator.receive("cat", reply) is not None
    assert [update.site for update in small.coordinator.close().accepted] == ["ant", "bee"]
    assert small.round().refused == {}
    assert [update.site for update in small.results[-1].accepted] == ["ant", "bee", "cat"]
    audit = small.audit()
    assert audit.verdict == "valid"


def test_under_a_lag_a_site_trains_as_long_as_its_last_receipt_lasts_and_then_no_more(tmp_path: Path) -> None:
    small = Small(tmp_path, "lagged 2")
    small.round()
    trained = []
    for _ in range(4):
        orders = small.orders()
        work = small.sites["cat"].receive(without_receipt(orders["cat"]))
        trained.append(work.train)
        small.coordinator.receive("cat", small.exchange.reply("cat", without_receipt(orders["cat"])))
        small.coordinator.close()
    assert trained == [True, True, False, False]
    trains(small, small.orders()["cat"])


def test_a_receipt_of_a_later_round_is_none_for_a_round_that_is_opened_again(small: Small) -> None:
    """A site that lost its state may be sent back to an old round; its trunk is not the one that it knew."""
    for _ in range(3):
        small.round()
    party = small.party("cat")
    order = Order.unpack(small.orders()["cat"])
    carried = Carried(DELTA, order.items[-1].frame, "int8")
    base = Base("0" * 64)
    entry = small.book.opened(1, base, {"cat": "{}"}, {"cat": carried})["cat"]
    from phloem.ledger.exchange import Sent

    sent = Sent(1, base, carried.frame, carried.codec, small.book.raw_bytes, DELTA)
    bare = replace(Notice.unpack(entry), covered=None, own=None).pack()
    assert party.state.covered == 4
    assert not party.admit(bare, sent, merged=False)


def test_a_receipt_of_another_log_is_refused(small: Small, tmp_path: Path) -> None:
    order = small.orders()["cat"]
    stranger = Signer.new(ORIGIN)

    def resigned(notice: Notice) -> Notice:
        assert notice.covered is not None
        text = Note.unpack(notice.covered.note).text
        return replace(notice, covered=replace(notice.covered, note=signed(text, [stranger])))

    refuses(small, altered(order, resigned), "is not signed by a log of the policy")
    trains(small, order)


def test_a_receipt_without_the_quorum_is_refused(tmp_path: Path) -> None:
    small = Small(tmp_path, witnesses=3)
    small.round()
    order = small.orders()["cat"]

    def stripped(keep: int) -> Callable[[Notice], Notice]:
        def change(notice: Notice) -> Notice:
            assert notice.covered is not None
            note = Note.unpack(notice.covered.note)
            return replace(
                notice,
                covered=replace(
                    notice.covered, note=replace(note, signatures=note.signatures[: 1 + keep]).pack()
                ),
            )

        return change

    for keep in (0, 1):
        refuses(small, altered(order, stripped(keep)), "lacks the quorum")
    trains(small, altered(order, stripped(2)))


def test_a_receipt_for_another_trunk_is_refused(small: Small) -> None:
    order = small.orders()["cat"]

    def moved(notice: Notice) -> Notice:
        assert notice.covered is not None
        index = notice.covered.index - 1
        size = Checkpoint.unpack(Note.unpack(notice.covered.note).text).size
        proof = tuple(prove_inclusion(index, size, small.log.read))
        return replace(notice, covered=replace(notice.covered, index=index, inclusion=proof))

    refuses(small, altered(order, moved), "does not show the trunk of this round")
    trains(small, order)


def test_a_receipt_that_is_older_than_the_trunk_is_refused(small: Small) -> None:
    small.opening = small.orders()
    before = Notice.unpack(Order.unpack(small.opening["cat"]).attachment)
    small.round()
    order = small.orders()["cat"]
    with pytest.raises(ProofError, match="does not show the trunk of this round"):
        small.sites["cat"].receive(altered(order, lambda notice: replace(notice, covered=before.covered)))
    trains(small, order)


# -- forks ---------------------------------------------------------------------------------------------------------


def shown(small: Small, log: Log, order: bytes, **changes: object) -> bytes:
    """The order with the checkpoint of another log under the same key, which has the entry about this trunk."""

    def change(notice: Notice) -> Notice:
        assert notice.covered is not None
        note = small.folder.log_key
        root = tree_hash(log.size, log.read)
        checkpoint = signed(Checkpoint(ORIGIN, log.size, root).pack(), [note])
        proof = tuple(prove_inclusion(notice.covered.index, log.size, log.read))
        return replace(
            notice,
            own=None,
            covered=replace(notice.covered, note=checkpoint, inclusion=proof, **changes),
        )

    return altered(order, change)


def rewritten(small: Small, path: Path, place: int = 0) -> Log:
    """The same entries but one."""
    rows = small.entries()
    rows[place] = b"another entry"
    log = Log.create(path, ORIGIN)
    log.append(rows)
    return log


def test_a_log_that_does_not_continue_what_the_site_has_seen_is_refused(small: Small, tmp_path: Path) -> None:
    order = small.orders()["cat"]
    with rewritten(small, tmp_path / "other.db") as log:
        refuses(small, shown(small, log, order), "the log has forked")
        silent(small, shown(small, log, order, old=0, consistency=()))
        silent(small, shown(small, log, order, old=5, consistency=()))  # it has never seen one of that size
        refuses(small, shown(small, log, order, old=3, consistency=()), "the log has forked")
    assert (small.party("cat").folder / "cat.checkpoint").exists()


def test_a_log_that_grew_from_an_older_checkpoint_and_forked_after_it_is_not_enough(
    small: Small, tmp_path: Path
) -> None:
    """Else the coordinator could prove from before the fork for ever."""
    party = small.party("cat")
    before = party.state.size
    small.round()
    order = small.orders()["cat"]
    from phloem.tlog.merkle import prove_consistency

    with rewritten(small, tmp_path / "other.db", before + 1) as log:
        proof = tuple(prove_consistency(before, log.size, log.read))
        silent(small, shown(small, log, order, old=before, consistency=proof))
    assert party.state.size > before
    trains(small, order)


def test_two_trees_of_one_size_are_refused(small: Small, tmp_path: Path) -> None:
    order = small.orders()["cat"]
    trains(small, order)
    with rewritten(small, tmp_path / "other.db") as log:
        assert log.size == small.party("cat").state.size
        refuses(small, shown(small, log, order, old=0, consistency=()), "the log has forked.*two trees")


def test_a_smaller_log_than_the_site_has_seen_is_refused(small: Small, tmp_path: Path) -> None:
    party = small.party("cat")
    order = small.orders()["cat"]
    with Log.create(tmp_path / "other.db", ORIGIN) as log:
        log.append(small.entries()[: party.state.size - 1])

        def change(notice: Notice) -> Notice:
            assert notice.covered is not None
            root = tree_hash(log.size, log.read)
            note = signed(Checkpoint(ORIGIN, log.size, root).pack(), [small.folder.log_key])
            return replace(notice, covered=replace(notice.covered, note=note))

        refuses(small, altered(order, change), "the log has forked")
    trains(small, order)


# -- its own update ------------------------------------------------------------------------------------------------


def test_a_site_whose_update_was_merged_and_is_not_in_the_log_says_so(small: Small) -> None:
    order = small.orders()["cat"]
    refuses(
        small, altered(order, lambda notice: replace(notice, own=None)), "was merged, and the log does not"
    )

    def another(notice: Notice) -> Notice:
        assert notice.own is not None
        assert notice.covered is not None
        size = Checkpoint.unpack(Note.unpack(notice.covered.note).text).size
        index = notice.own.index - 2
        own = replace(notice.own, index=index, inclusion=tuple(prove_inclusion(index, size, small.log.read)))
        return replace(notice, own=own)

    refuses(small, altered(order, another), "does not show this site's last update")
    trains(small, order)


def test_a_site_keeps_the_receipt_of_its_own_update(small: Small) -> None:
    from phloem.tlog.proof import Receipt

    trains(small, small.orders()["cat"])
    party = small.party("cat")
    receipt = Receipt.unpack((party.folder / "cat.tlog-proof").read_bytes())
    receipt.check(bytes.fromhex(party.state.leaf), small.folder.policy)


# -- two models ----------------------------------------------------------------------------------------------------


def test_another_trunk_under_the_same_notice_is_refused(small: Small) -> None:
    """A site takes part in no round in which it got another model than the log says."""
    order = Order.unpack(small.orders()["cat"])
    other = small.results[0].frame
    items = (*order.items[:-1], Item(order.items[-1].accepted, other))
    refuses(small, replace(order, items=items).pack(), "different histories|another state")
    small.sites["cat"].receive(order.pack())


def test_another_trunk_that_the_coordinator_signs_and_does_not_log_is_refused(small: Small) -> None:
    """It signs what cat got; the log has what the others got."""
    from phloem.ledger.entry import Statement
    from phloem.ledger.exchange import Sent
    from phloem.ledger.record import Record

    order = Order.unpack(small.orders()["cat"])
    notice = Notice.unpack(order.attachment)
    assert notice.record is not None
    base, frame = Base("0" * 64), b"another frame"
    sent = Sent(2, base, frame, "int8", small.book.raw_bytes, DELTA)
    salt = bytes(32)
    said = Statement(
        "broadcast",
        small.run,
        "coordinator",
        notice.record.seq,
        notice.record.time,
        notice.record.prev,
        sent.fields(salt, ""),
    )
    record = Record.of(said.signed(small.folder.coordinator_key), salt)
    with pytest.raises(ProofError, match="does not show the trunk of this round"):
        small.party("cat").admit(replace(notice, record=record).pack(), sent, merged=True)


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["the first notice", "a later one"])
@pytest.mark.parametrize("bit", [0x01, 0x10, 0x80])
def test_a_notice_of_which_any_byte_was_changed_is_refused_or_means_the_same(
    first: bool, bit: int, tmp_path: Path
) -> None:
    small = Small(tmp_path)
    if not first:
        small.round()
    order = small.orders()["cat"]
    found = Order.unpack(order)
    party, site = small.party("cat"), small.sites["cat"]
    before, at = party.state, site.at
    site.receive(order)
    after = party.state
    taken: list[int] = []
    for place in range(len(found.attachment)):
        party.state = party._kept = before
        party._tells = True
        site.at = at
        changed = bytearray(found.attachment)
        changed[place] ^= bit
        try:
            work = site.receive(replace(found, attachment=bytes(changed)).pack())
        except PhloemError:
            assert party.state == before
            continue
        if work.train and replace(party.state, claim="", admitted=False) != replace(
            after, claim="", admitted=False
        ):
            taken.append(place)
    assert taken == []


def test_a_notice_cut_off_or_with_more_at_its_end_is_refused(small: Small) -> None:
    order = small.orders()["cat"]
    found = Order.unpack(order)
    before = small.party("cat").state
    for size in range(len(found.attachment)):
        with pytest.raises(PhloemError):
            small.sites["cat"].receive(replace(found, attachment=found.attachment[:size]).pack())
    with pytest.raises(FormatError, match="after its end"):
        small.sites["cat"].receive(replace(found, attachment=found.attachment + b"\0").pack())
    assert small.party("cat").state == before
    trains(small, order)


# -- a policy of one's own -----------------------------------------------------------------------------------------


def test_a_site_with_a_policy_of_its_own_does_not_take_another_log(tmp_path: Path) -> None:
    small = Small(tmp_path / "honest")
    other = LedgerFolder.create(tmp_path / "other", ORIGIN)
    lying = Small(tmp_path / "lying", clock=Clock())
    policy = tmp_path / "policy.txt"
    for folder, fine in ((small.folder, True), (other, False)):
        policy.write_bytes(folder.policy.pack())
        run = small if fine else lying
        run.sites["cat"].party = Party(
            run.root / "sites" / "cat", "cat", "strict", "x", policy, clock=run.clock
        )
        order = run.orders()["cat"]
        if fine:
            trains(run, order)
        else:
            with pytest.raises(ProofError, match="not signed by a log of the policy"):
                run.sites["cat"].receive(order)

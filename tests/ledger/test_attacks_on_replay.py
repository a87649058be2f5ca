"""A coordinator that owns all its keys and a whole run's directory: what only merging again can find."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from tests.ledger.attacks import History, names, spare_the_disk, words
from tests.tiny import table

import phloem
from phloem import canonical
from phloem.job.directory import RunDirectory
from phloem.job.ledger import Payloads, ledger_of
from phloem.job.replay import Merges, replay
from phloem.ledger.audit import Audit, Auditor
from phloem.ledger.book import Book
from phloem.ledger.commitments import FRAME, WEIGHT, commitment
from phloem.ledger.entry import Statement
from phloem.ledger.exchange import Base, Sent
from phloem.ledger.findings import Verdict
from phloem.ledger.log import Log
from phloem.ledger.notice import Word
from phloem.ledger.record import Record, member_statement
from phloem.ledger.salts import Salt, Salts
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.merge import WeightedMerge
from phloem.rounds.result import Received
from phloem.tensors import state_digest
from phloem.tlog.keys import Signer
from phloem.wire import frame as frames

ROUNDS = 6
RECIPE = table(
    rounds=ROUNDS,
    ledger={"receipts": "strict"},
    sites={"count": 3, "away": [{"site": "site-1", "first": 1, "last": 4}]},
    task={"features": 40},  # then a key-frame is less than four deltas
    up={"codec": "none"},
    down={"codec": "none"},
)


@pytest.fixture(autouse=True)
def memory_instead_of_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for the disk."""
    spare_the_disk(monkeypatch)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phloem.build(RECIPE, out=tmp_path_factory.mktemp("honest") / "run").path


@pytest.fixture
def run(honest: Path, tmp_path: Path) -> Path:
    """A copy of an honest run, in the hands of whoever made it."""
    shutil.copytree(honest, tmp_path / "run")
    return tmp_path / "run"


def audited(root: Path, *, again: bool = True) -> Audit:
    """The audit of a run as the command makes it, with every merge computed again."""
    folder, name = ledger_of(root)
    payloads, merges = Payloads(folder, root), Merges(name)
    with folder.log() as log:
        audit = Auditor(folder.policy, open_=payloads, each=merges.take).run(log, log.checkpoints())
    if again:
        audit.replayed = replay(root, merges, payloads.salts, audit.findings)
    payloads.salts.close()
    return audit


def history_of(root: Path) -> History:
    folder, _ = ledger_of(root)
    with folder.log() as log:
        rows, notes = log.entries(0, log.size), log.checkpoints()
    keys = {"coordinator": folder.coordinator_key}
    return History.of(rows, keys, folder.log_key, folder.policy, notes)


def put_back(root: Path, history: History) -> None:
    """The rewritten log is the run's, and its only checkpoint is one of now."""
    folder, _ = ledger_of(root)
    rows = history.seal()
    for path in folder.root.glob("log.db*"):
        path.unlink()
    with Log.create(folder.root / "log.db", history.log_key.name) as log:
        log.append(rows)
        log.sign([history.log_key])


def known(root: Path, *salts: Salt) -> None:
    """The attacker's salts fit its commitments."""
    found = Salts(ledger_of(root)[0].root / "salts.db")
    found.put(salts)
    found.close()


def lied(audit: Audit, *found: str) -> None:
    assert names(audit) == set(found), words(audit)
    assert audit.verdict is Verdict.INVALID


def test_an_honest_run_is_valid_and_was_broadcast_in_every_form(run: Path) -> None:
    audit = audited(run)
    assert (audit.verdict, words(audit), audit.replayed) == (Verdict.VALID, [], ROUNDS)
    forms = {line.said["form"] for line in history_of(run).find("broadcast")}
    assert forms == {"held", "delta", "key-frame"}


# -- merges --------------------------------------------------------------------------------------------------------


def test_another_result_than_the_updates_give_is_found(run: Path) -> None:
    history = history_of(run)
    output = {"chain": "0" * 64}
    history.change(history.find("aggregate")[-1], output=output)
    history.change(history.find("round-open")[-1], base=output)
    history.change(history.find("broadcast")[-1], base=output)
    history.change(history.one("model-release"), base=output)
    put_back(run, history)
    assert audited(run, again=False).verdict is Verdict.VALID  # what a log alone says
    lied(audited(run), "wrong-aggregate")


def built(tmp_path: Path) -> Path:
    return phloem.build(RECIPE, out=tmp_path / "lying").path


def test_a_coordinator_that_adds_something_of_its_own_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = WeightedMerge.step

    def poisoned(self: WeightedMerge, layout: Any, updates: Any) -> Any:
        found = step(self, layout, updates)
        return None if found is None else [np.asarray(array + np.float32(0.01)) for array in found]

    with monkeypatch.context() as patch:
        patch.setattr(WeightedMerge, "step", poisoned)
        root = built(tmp_path)
    assert audited(root, again=False).verdict is Verdict.VALID
    audit = audited(root)
    lied(audit, "wrong-aggregate")
    assert audit.replayed == 0


def test_a_coordinator_that_leaves_one_out_and_says_that_it_did_not_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Coordinator._decoded

    def fewer(self: Coordinator, folded: Any, refused: Any) -> Iterator[Any]:
        for weight, arrays in decoded(self, folded, refused):
            yield (1e-9 if folded[-1].site == "site-0" else weight), arrays

    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "_decoded", fewer)
        root = built(tmp_path)
    lied(audited(root), "wrong-aggregate")


def test_other_weights_than_the_sites_signed_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the coordinator commits to the weights that it really used, and the merge is right with them."""
    check = Coordinator._check

    def heavier(self: Coordinator, site: str, reply: Any) -> Any:
        reason, found = check(self, site, reply)
        if found is not None and site == "site-2":
            found = Received(site, 50 * found.examples, found.frame)
        return reason, found

    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "_check", heavier)
        root = built(tmp_path)
    assert audited(root, again=False).verdict is Verdict.VALID
    audit = audited(root)
    lied(audit, "wrong-aggregate")
    assert "'site-2' was merged with another weight than it signed" in words(audit)[0]


def test_other_weights_than_were_logged_are_found(run: Path) -> None:
    history = history_of(run)
    merge = history.find("aggregate")[-1]
    weights = canonical.dumps({str(place): 1 for place in merge.said["inputs"]})
    salt, commit = bytes(32), commitment(bytes(32), WEIGHT, weights)
    history.change(merge, weights=commit)
    put_back(run, history)
    known(run, Salt(commit, salt, canonical.digest(weights)))
    audit = audited(run)
    lied(audit, "wrong-aggregate")
    assert "not those that were logged" in words(audit)[0]


def test_another_rule_than_the_plans_is_found(run: Path) -> None:
    history = history_of(run)
    for merge in history.find("aggregate"):
        history.change(merge, rule="0" * 64)
    put_back(run, history)
    assert "wrong-aggregate" in names(audited(run))


def test_a_merge_that_was_never_logged_is_found(run: Path) -> None:
    """The model went on after the log had ended."""
    history = history_of(run)
    last = history.find("aggregate")[-1]
    history.lines = history.lines[: history.place(last)]
    put_back(run, history)
    audit = audited(run)
    lied(audit, "missing-entry", "wrong-release")
    assert f"a merge of round {ROUNDS - 1}, and the log has none" in "".join(words(audit))


def test_a_directory_that_names_another_run_is_found(run: Path) -> None:
    path = run / "ledger" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "run": "another"}))
    audit = audited(run)
    lied(audit, "missing-entry")
    assert audit.replayed == 0


def test_a_directory_with_another_plan_is_found(run: Path, tmp_path: Path) -> None:
    other = phloem.build({**RECIPE, "seed": 1}, out=tmp_path / "other").path
    shutil.rmtree(other / "ledger")
    shutil.copytree(run / "ledger", other / "ledger")
    assert {"wrong-aggregate"} <= names(audited(other))


def test_a_merge_with_somebody_who_is_not_in_the_plan_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator lets in a site of its own, beside those that were agreed on, and merges what it sends.

    Sites see the bitmap of those in the plan, which is right.
    """
    dog, opened, decoded = Signer.new("dog"), Book.opened, Coordinator._decoded

    def asking(self: Book, number: int, base: Base, codecs: Any, carried: Any) -> Any:
        return opened(self, number, base, {**codecs, "dog": "none"} if codecs else {}, carried)

    def sent_by_dog(book: Book, number: int, frame: bytes) -> None:
        seen, time = book.journal.seen, int(book.clock())
        if book.standing.members.key_of("dog") is None:
            said = member_statement(book.run, "dog", 0, time, seen, dog.verifier, "add")
            book._write([], before=[said.signed(dog, book.journal.signer)])
        sent = Sent(number, book.rounds[number].base, frame, "none", book.raw_bytes, "", 10)
        salt, seq = bytes(32), book.standing.senders.of("dog").seq + 1
        said = Statement("update", book.run, "dog", seq, time, seen, sent.fields(salt, "coordinator"))
        record = Record.of(said.signed(dog), salt)
        assert book.received("dog", number, Word(record).pack(), frame, 10, None) is None

    def more(self: Coordinator, folded: Any, refused: Any) -> Iterator[Any]:
        yield from decoded(self, folded, refused)
        if folded and self.book is not None:
            last = folded[-1]
            sent_by_dog(self.book, self.round, last.frame)
            folded.append(Received("dog", 10, last.frame))
            yield 10.0, frames.unpack(last.frame, self.layout).decode()

    with monkeypatch.context() as patch:
        patch.setattr(Book, "opened", asking)
        patch.setattr(Coordinator, "_decoded", more)
        root = built(tmp_path)
    assert audited(root, again=False).verdict is Verdict.VALID
    audit = audited(root)
    lied(audit, "wrong-aggregate")
    assert "'dog' was merged, and is no site of the plan" in "".join(words(audit))


# -- broadcasts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["delta", "key-frame", "held"])
def test_a_broadcast_of_another_trunk_than_the_chain_names_is_found(form: str, run: Path) -> None:
    """A key-frame's chain is only said: in rounds in which no state is compared, its sites could not tell."""
    history = history_of(run)
    line = history.find("broadcast", form=form)[-1]
    frame, salt = b"another trunk", bytes(32)
    commit = commitment(salt, FRAME, frame)
    store = RunDirectory.open(run)[0].store
    known(run, Salt(commit, salt, store.put(frame)))
    history.change(line, commit=commit, bytes=len(frame))
    put_back(run, history)
    found = names(audited(run))
    assert "two-models" in found
    assert found <= {"two-models", "forked-history"}


def test_a_broadcast_that_claims_to_be_smaller_than_it_is_is_found(run: Path) -> None:
    for field in ("bytes", "rawBytes"):
        history = history_of(run)
        line = history.find("broadcast")[-1]
        history.change(line, **{field: line.said[field] + 1})
        copy = run.parent / field
        shutil.copytree(run, copy)
        put_back(copy, history)
        assert "two-models" in names(audited(copy))


def test_a_broadcast_that_was_erased_leaves_the_audit_undecided(run: Path) -> None:
    """Else it would be the way to hide what was sent."""
    history = history_of(run)
    line = history.one("broadcast", form="key-frame")
    fields = {"entry": history.place(line), "leaf": line.entry.leaf.hex(), "reason": "asked"}
    history.insert(len(history.lines), history.say("erasure", "coordinator", fields, history.lines[-1]))
    put_back(run, history)
    found = Salts(ledger_of(run)[0].root / "salts.db")
    found.destroy(line.said["commit"])
    found.close()
    audit = audited(run)
    assert (audit.verdict, names(audit)) == (Verdict.UNDECIDED, {"missing-payload"})


# -- what is beside the log ----------------------------------------------------------------------------------------


def test_a_model_that_was_swapped_after_it_was_given_out_is_found(run: Path) -> None:
    path = run / "model.safetensors"
    state = load(path.read_bytes())
    state["bias"] = state["bias"] + 1
    path.write_bytes(save(state))
    audit = audited(run)
    lied(audit, "wrong-release")
    assert audit.replayed == ROUNDS


def test_a_model_given_out_that_is_not_what_the_merges_give_is_found(run: Path) -> None:
    """The log names the very file that is there."""
    path = run / "model.safetensors"
    state = load(path.read_bytes())
    state["bias"] = state["bias"] + 1
    model = save(state, metadata={"phloem.state": state_digest(state)})
    path.write_bytes(model)
    history = history_of(run)
    history.change(history.one("model-release"), digest=canonical.digest(model))
    put_back(run, history)
    assert audited(run, again=False).verdict is Verdict.VALID
    audit = audited(run)
    lied(audit, "wrong-release")
    assert "not what the merges give" in words(audit)[-1]


@pytest.mark.parametrize("content", [b"", b"no model", bytes(100)], ids=["empty", "words", "zeros"])
def test_a_model_given_out_that_is_no_model_is_found(content: bytes, run: Path) -> None:
    (run / "model.safetensors").write_bytes(content)
    history = history_of(run)
    history.change(history.one("model-release"), digest=canonical.digest(content))
    put_back(run, history)
    lied(audited(run), "wrong-release")


def test_a_model_that_was_never_given_out_is_found(run: Path) -> None:
    history = history_of(run)
    history.drop(history.one("model-release"))
    put_back(run, history)
    lied(audited(run), "wrong-release")


def test_a_model_that_is_gone_leaves_the_audit_undecided(run: Path) -> None:
    (run / "model.safetensors").unlink()
    audit = audited(run)
    assert (audit.verdict, names(audit)) == (Verdict.UNDECIDED, {"missing-payload"})


def test_metrics_that_were_changed_after_they_were_measured_are_found(run: Path) -> None:
    path = run / "rounds.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["metrics"]["accuracy"] = 0.99
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    audit = audited(run)
    lied(audit, "swapped-payload")
    assert audit.findings.rows[0].round == 2


def test_a_frame_that_is_gone_leaves_the_audit_undecided_and_ends_the_replay_there(run: Path) -> None:
    history = history_of(run)
    update = history.one("update", "site-0", round=3)
    found = Salts(ledger_of(run)[0].root / "salts.db")
    salt = found.get(update.said["commit"])
    found.close()
    assert salt is not None
    RunDirectory.open(run)[0].store.forget(salt.content)
    audit = audited(run)
    assert (audit.verdict, names(audit), audit.replayed) == (Verdict.UNDECIDED, {"missing-payload"}, 3)


def test_salts_that_are_gone_leave_the_audit_undecided(run: Path) -> None:
    found = Salts(ledger_of(run)[0].root / "salts.db")
    for line in history_of(run).find("update", "site-2"):
        found.destroy(line.said["weight"])
    found.close()
    audit = audited(run)
    assert (audit.verdict, names(audit), audit.replayed) == (Verdict.UNDECIDED, {"missing-payload"}, 0)


def test_a_run_without_its_commits_cannot_be_replayed(run: Path) -> None:
    (run / "refs" / "trunk").unlink()
    with pytest.raises(phloem.PhloemError):
        audited(run)


# -- what no replay can find ---------------------------------------------------------------------------------------


def test_an_update_that_was_refused_for_a_made_up_reason_is_only_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says that it came, and why it is not in the model; only who has the frame can say that this is a lie."""
    received = Book.received

    def unfair(self: Book, site: str, number: int, *rest: Any) -> str | None:
        *most, reason, digest = rest
        reason = "damaged frame" if site == "site-2" else reason
        return received(self, site, number, *most, reason, digest)

    with monkeypatch.context() as patch:
        patch.setattr(Book, "received", unfair)
        root = built(tmp_path)
    audit = audited(root)
    assert (audit.verdict, audit.replayed) == (Verdict.VALID, ROUNDS)
    outcomes = {line.said["outcome"] for line in history_of(root).find("received")}
    assert outcomes == {"taken", "damaged frame"}
    assert replace(audit).runs.popitem()[1].sites.keys() == {"site-0", "site-1"}

"""A site's part in the ledger: it signs what it sends, and trains on nothing that the log does not vouch for.

    NAME.key     its private key
    NAME.json    the run it is in, the newest checkpoint that it verified, and its last record
    NAME.ID.json                          the same of a run that it was in before
    NAME.checkpoint, NAME.tlog-proof      that checkpoint, and the receipt of its own newest entry, for later disputes

Everything is on the disk before it leaves, so that a number is never used for two updates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from phloem import canonical
from phloem.errors import FormatError, ProofError, StateError, StoreError
from phloem.ledger.commitments import new_salt
from phloem.ledger.entry import Entry, Seen, Statement
from phloem.ledger.exchange import Sent
from phloem.ledger.folder import read_policy
from phloem.ledger.keys import key_at, read_key, write_key
from phloem.ledger.notice import Covered, Introduction, Notice, Own, Word
from phloem.ledger.record import Claim, Fields, Record
from phloem.ledger.settings import lag_of
from phloem.store.files import write_durably
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import NOTE, Signer, VerifierKey
from phloem.tlog.merkle import check_consistency, check_inclusion
from phloem.tlog.policy import Policy
from phloem.tlog.proof import Receipt

_NO_ROUND = -1
_MOST_EARLIER = 64


@dataclass(frozen=True)
class _State:
    """What a site must not forget; `covered` is the newest round whose trunk it has a receipt for."""

    run: str = ""
    policy: str = ""
    coordinator: str = ""
    admitted: bool = False
    claim: str = ""  # that is not granted yet
    seq: int = 0
    size: int = 0
    root: str = Seen().root.hex()
    earlier: tuple[tuple[int, str], ...] = ()  # size and root of checkpoints before that one, the newest last
    covered: int = _NO_ROUND
    record: str = ""  # of the last update
    round: int = _NO_ROUND
    frame: str = ""  # its digest, and the chain that it was made from
    chain: str = ""
    leaf: str = ""

    def __post_init__(self) -> None:
        for one in fields(self):
            if type(getattr(self, one.name)) is not type(one.default):
                raise ValueError(f"'{one.name}' is of another type")
        hashes = (self.root, *(root for _, root in self.earlier))
        sizes = (self.seq, self.size, self.covered + 1, self.round + 1, *(size for size, _ in self.earlier))
        if {len(bytes.fromhex(text)) for text in hashes} != {32} or min(sizes) < 0:
            raise ValueError("a checkpoint or a number in it cannot be")
        for text in (self.claim, self.record, self.frame, self.chain, self.leaf):
            bytes.fromhex(text)

    @property
    def seen(self) -> Seen:
        return Seen(self.size, bytes.fromhex(self.root))


class Party:
    """The site `name` of a run, with its key and its memory in `folder`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        receipts: str,
        software: str,
        policy: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.name, self.lag, self.software, self.clock = (
            folder,
            name,
            lag_of(receipts),
            software,
            clock,
        )
        self.signer = key_at(folder / f"{name}.key", name)
        self.pinned = None if policy is None else read_policy(policy).pack()
        self.state = self._read(f"{name}.json")
        self._tells = True  # which checkpoint it saw last
        self._kept = self.state  # what the disk has

    # -- orders --------------------------------------------------------------------------------------------------

    def admit(self, attachment: bytes, sent: Sent, *, merged: bool, begins: bool = True) -> bool:
        """Whether the site may train on the trunk that an order brought.

        `sent` is what the order was found to carry; `merged`: it says that the site's last update was merged;
        `begins`: the site holds nothing of the run yet, so that it may be another run than the one before.

        Raises:
            ProofError: the coordinator did not sign this, or the log has forked, or denies an entry of this site.
            FormatError: the notice is damaged. Nothing changed.
        """
        if not attachment:
            raise ProofError("the order has no word of the ledger, which this site asks for")
        notice = Notice.unpack(attachment)
        state = self.state
        if notice.introduction is not None:
            state = self._met(state, notice.introduction, begins=begins)
        if not state.run:
            raise ProofError("the coordinator has not said which log it keeps")
        if notice.record is None:
            raise ProofError("the order's frame is not signed for the ledger")
        coordinator = VerifierKey.parse(state.coordinator)
        entry = notice.record.entry(state.run, coordinator, sent, "")
        if notice.key == self.signer.verifier.id:
            state = replace(state, claim="", admitted=True)
        if notice.covered is not None:
            merged = merged and state.round == sent.round - 1
            state = self._verified(state, notice.covered, notice.own, entry, sent.round, merged=merged)
        self._tells = self._tells or state.seen != self.state.seen
        self.state = state  # written before anything leaves
        # A receipt for a later round is none for a round that is opened again: its trunk may be another one.
        return self.lag is None or sent.round - self.lag <= state.covered <= sent.round

    def _met(self, state: _State, intro: Introduction, *, begins: bool) -> _State:
        policy = intro.policy if self.pinned is None else self.pinned
        found = Policy.parse(policy)
        try:
            text = policy.decode()
        except UnicodeDecodeError as error:
            raise ProofError("the coordinator's policy is not UTF-8") from error
        key = VerifierKey.parse(intro.coordinator)
        if key.type != NOTE or not found.logs:
            raise ProofError("the coordinator's key, or the policy, is not fit for a log of exchanges")
        if state.run not in ("", intro.run) and not begins:
            raise ProofError(f"the coordinator calls the run '{state.run}' another one in the middle of it")
        known = state if state.run == intro.run else self._read(self._memory_of(intro.run))
        if known.run:
            if known.coordinator != intro.coordinator or known.policy.encode() != policy:
                raise ProofError(
                    "the coordinator came back with another key or policy than it had in this run"
                )
            return known
        if state.policy.encode() == policy:  # the same log, of which it remembers how it was
            return _State(
                intro.run,
                state.policy,
                intro.coordinator,
                size=state.size,
                root=state.root,
                earlier=state.earlier,
            )
        return _State(intro.run, text, intro.coordinator)

    def _verified(
        self, state: _State, covered: Covered, own: Own | None, entry: Entry, number: int, *, merged: bool
    ) -> _State:
        policy = Policy.parse(state.policy.encode())
        checkpoint = policy.check(covered.note)
        known = {size: bytes.fromhex(root) for size, root in (*state.earlier, (state.size, state.root))}
        for seen in (Seen(size, root) for size, root in known.items() if size):
            proof = covered.proof_from(seen.size)
            if proof is not None:
                self._check_grown(seen, checkpoint, proof)
        if checkpoint.size == state.size and checkpoint.root.hex() != state.root:
            raise self._forked(f"two trees of {state.size} entries")
        if state.size not in (0, checkpoint.size) and covered.proof_from(state.size) is None:
            # Perhaps it forgot what this site saw last: it is told, and proves from there next time. Until then there
            # is no receipt: what grew from an older checkpoint may have forked after it.
            self._tells = True
            return state
        _check_in(checkpoint, covered.index, entry.leaf, covered.inclusion, "the trunk of this round")
        if own is not None and state.leaf:
            receipt = Receipt(own.index, own.inclusion, covered.note)
            try:
                _check_in(
                    checkpoint, own.index, bytes.fromhex(state.leaf), own.inclusion, "this site's last update"
                )
            except ProofError:
                if merged:
                    raise
            else:
                self._copy(f"{self.name}.tlog-proof", receipt.pack())
        elif merged and state.leaf:
            raise ProofError("this site's last update was merged, and the log does not have it")
        self._copy(f"{self.name}.checkpoint", covered.note)
        earlier = (*state.earlier, (state.size, state.root))[-_MOST_EARLIER:]
        root = checkpoint.root.hex()
        return replace(state, size=checkpoint.size, root=root, earlier=earlier, covered=number)

    def _check_grown(self, seen: Seen, checkpoint: Checkpoint, proof: tuple[bytes, ...]) -> None:
        try:
            check_consistency(seen.size, checkpoint.size, seen.root, checkpoint.root, proof)
        except ProofError as error:
            raise self._forked(error.message) from error

    def _forked(self, words: str) -> ProofError:
        hint = f"keep {self.folder / self.name}.checkpoint, it is evidence"
        return ProofError(f"the log has forked, or its proof is damaged: {words}", hint=hint)

    # -- replies -------------------------------------------------------------------------------------------------

    def update(self, sent: Sent) -> bytes:
        """What to attach to an update: its record, which is the same one if the update is sent again."""
        state, digest = self.state, sent.digest.hex()
        if state.record and (state.frame, state.chain) == (digest, sent.base.chain):
            record = Record.read(Fields(bytes.fromhex(state.record), "the last record"))
            claim = self._claim() if state.claim else None  # no change of key before it is settled
            self._write(self.state)
            seen = self.state.seen if self.state.seen != record.prev else None  # since then
            return Word(record, claim, seen).pack()
        claim = self._claim()
        salt, seq = new_salt(), self.state.seq
        to = VerifierKey.parse(state.coordinator).name
        said = Statement(sent.kind, state.run, self.name, seq, self._now(), state.seen, sent.fields(salt, to))
        entry = said.signed(self.signer)
        record = Record.of(entry, salt)
        self._write(
            replace(
                self.state,
                seq=seq + 1,
                record=record.pack().hex(),
                round=sent.round,
                frame=digest,
                chain=sent.base.chain,
                leaf=entry.leaf.hex(),
            )
        )
        self._tells = False
        return Word(record, claim).pack()

    def word(self) -> bytes:
        """What to attach to any other reply."""
        if not self.state.run:
            return b""
        claim, seen = self._claim(), self.state.seen if self._tells else None
        self._write(self.state)
        return Word(None, claim, seen).pack()

    def _claim(self) -> Claim | None:
        """The wish to be let in, or to change its key, as long as it is not granted."""
        state = self.state
        if state.claim:
            return Claim.read(Fields(bytes.fromhex(state.claim), "the last claim"))
        fresh = self.folder / f"{self.name}.next.key"
        if state.admitted and not fresh.exists():
            return None
        new = read_key(fresh) if state.admitted else self.signer
        old = self.signer if state.admitted else None
        claim = Claim.made(state.run, state.seq, self._now(), state.seen, self.software, new, old)
        self._write(replace(state, seq=state.seq + 1, claim=claim.pack().hex()))
        if old is not None:  # from now on it signs with the new one
            fresh.replace(self.folder / f"{self.name}.key")
            self.signer = new
        return claim

    def _now(self) -> int:
        return int(self.clock())

    # -- the disk ------------------------------------------------------------------------------------------------

    def _memory_of(self, run: str) -> str:
        """The file for a run that is not the newest: who is called back to it must not number anew."""
        return f"{self.name}.{sha256(run.encode()).hexdigest()[:16]}.json"

    def _read(self, name: str) -> _State:
        path = self.folder / name
        try:
            table: dict[str, Any] = canonical.loads(path.read_bytes()) if path.exists() else {}
            earlier = tuple((size, root) for size, root in table.pop("earlier", ()))
            return _State(**table, earlier=earlier)
        except (AttributeError, FormatError, OSError, TypeError, ValueError) as error:
            raise StateError(
                f"{path} is damaged: {error}", hint="restore it; without it this site's numbers begin anew"
            ) from error

    def _write(self, state: _State) -> None:
        if state != self._kept:
            if self._kept.run not in ("", state.run):
                self._put(self._memory_of(self._kept.run), canonical.dumps(self._kept))
            self._put(f"{self.name}.json", canonical.dumps(state))
            self.state = self._kept = state

    def _copy(self, name: str, content: bytes) -> None:
        """Puts something in place for people, which may be lost in a power cut."""
        beside = self.folder / f".{name}"
        try:
            beside.write_bytes(content)
            beside.replace(self.folder / name)
        except OSError as error:
            raise StoreError(f"{self.folder / name} cannot be written: {error.strerror}") from error

    def _put(self, name: str, content: bytes) -> None:
        try:
            write_durably(self.folder / name, content, 0o600)
        except OSError as error:
            raise StoreError(f"{self.folder / name} cannot be written: {error.strerror}") from error


def change_key(folder: Path, name: str) -> Signer:
    """A new key for the site `name`, which it changes to with its next reply.

    Raises:
        NotFoundError: the site has none yet.
    """
    read_key(folder / f"{name}.key")
    new = Signer.new(name)
    write_key(folder / f"{name}.next.key", new)
    return new


def _check_in(checkpoint: Checkpoint, index: int, leaf: bytes, proof: tuple[bytes, ...], what: str) -> None:
    try:
        if index >= checkpoint.size:
            raise ProofError(f"a tree of {checkpoint.size} entries has no entry {index}")
        check_inclusion(index, checkpoint.size, leaf, proof, checkpoint.root)
    except ProofError as error:
        raise ProofError(f"the receipt does not show {what}: {error.message}") from error

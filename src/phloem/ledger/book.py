"""The coordinator's part in the ledger: everything that it does is in the log before it takes effect.

    round-open → broadcast → (update → received)* → aggregate → eval → the next round-open → …

After a crash `Standing` is read from the log again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from phloem import canonical
from phloem.errors import FormatError, ProofError, StateError
from phloem.ledger.commitments import FRAME, METRICS, WEIGHT, commitment, new_salt, salt_for
from phloem.ledger.entry import Entry, Seen, key_name, signed_text
from phloem.ledger.exchange import Base, Carried, Merged, Sent
from phloem.ledger.findings import NOTE
from phloem.ledger.folder import LedgerFolder
from phloem.ledger.journal import Journal
from phloem.ledger.kinds import TAKEN
from phloem.ledger.notice import Covered, Introduction, Notice, Own, Word
from phloem.ledger.record import Record
from phloem.ledger.salts import Salt
from phloem.ledger.senders import SKEW_SECONDS
from phloem.ledger.settings import LedgerSettings
from phloem.ledger.standing import Heard, Opened, Standing, printable
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.merkle import prove_consistency, prove_inclusion, tree_hash
from phloem.tlog.note import Note

_PAGE = 1000  # entries read at a time
_MOST_SENT = 6  # checkpoints from which is proved, to a site that has not answered
_ROUNDS_KEPT = 64  # rounds back for which a late update is still understood


class Book:
    """One run's ledger, at its coordinator."""

    def __init__(
        self,
        folder: LedgerFolder,
        settings: LedgerSettings,
        run: str,
        plan: str,
        raw_bytes: int,
        software: str,
        *,
        say: Callable[[str], None] = lambda words: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Goes on with `run` if the log has entries of it; otherwise begins it.

        Raises:
            StateError: the log has the run under another plan.
        """
        self.run, self.plan, self.raw_bytes, self.settings = run, plan, raw_bytes, settings
        self.say, self.clock = say, clock
        self.journal = Journal(folder, run, clock)
        self.log, self.salts = self.journal.log, self.journal.salts
        self.sites: dict[str, Heard] = {}
        self._sealed_in: dict[int, int] = {}  # the round in which a checkpoint of that size was sent
        self.rounds: dict[int, Opened] = {}
        try:
            newest = self.log.checkpoints()[-_MOST_SENT:]  # that sites may have seen already
            self._before = tuple(Checkpoint.unpack(Note.unpack(note).text).size for note in newest)
            self.standing = self._read_again() or self._begin(software)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the files; everything is in them."""
        self.journal.close()

    # -- the run's beginning -------------------------------------------------------------------------------------

    def _begin(self, software: str) -> Standing:
        fields = {
            "key": str(self.journal.signer.verifier),
            "name": self.journal.signer.name,
            "origin": self.log.origin,
            "plan": self.plan,
            "policy": sha256(self.journal.policy.pack()).hexdigest(),
            "receipts": self.settings.receipts,
            "retention": self.settings.retention,
            "software": software,
        }
        index = self.journal.size
        (entry,) = self.journal.write([("genesis", fields)])
        return Standing(index, entry)

    def _read_again(self) -> Standing | None:
        """Where the run stands in the log; what its sites saw of the log, in this run or another, is read as well."""
        found: Standing | None = None
        size = self.log.size
        for start in range(0, size, _PAGE):
            rows = self.log.entries(start, min(start + _PAGE, size))
            for index, data in enumerate(rows, start):
                entry = Entry.unpack(data)
                said = entry.statement
                if said.sender != self.journal.signer.name:
                    self.sites[said.sender] = Heard(said.prev, sent=self._before)
                elif said.run == self.run:
                    self.journal.seq = said.seq + 1
                if said.run != self.run:
                    continue
                self.journal.written += len(data)
                if found is not None:
                    found.take(index, entry)
                else:
                    found = Standing(index, entry)
        if found is not None and found.plan != self.plan:
            raise StateError(f"the log has the run '{self.run}' under another plan")
        return found

    def _write(
        self,
        said: Sequence[tuple[str, Mapping[str, Any]]],
        before: Sequence[Entry] = (),
        *,
        later: bool = False,
    ) -> list[tuple[int, Entry]]:
        """What was made of these, after the entries of others, and where it is in the log now, or `later`."""
        index = self.journal.size
        rows = list(enumerate([*before, *self.journal.write(said, before, later=later)], index))
        for place, entry in rows:
            self.standing.take(place, entry)
        return rows[len(before) :]

    # -- down ----------------------------------------------------------------------------------------------------

    def opened(
        self, number: int, base: Base, codecs: Mapping[str, str], carried: Mapping[str, Carried]
    ) -> dict[str, bytes]:
        """The notice for every site in `carried`; those in `codecs` are asked to train, and send in that codec.

        Raises:
            StateError: too few witnesses signed what the sites have to see.
        """
        fields = {
            "asked": sorted(codecs),
            "base": base.to_json(),
            "plan": self.plan,
            "reached": sorted(carried),
            "round": number,
        }
        forms = {one.form: one for one in carried.values()}
        sent = {
            form: Sent(number, base, one.frame, one.codec, self.raw_bytes, form, sha256=one.sha256)
            for form, one in sorted(forms.items())
        }
        salts = {form: new_salt() for form in sent}
        self.journal.keep([_salt_of(sent[form], salts[form]) for form in sent])
        said = [("round-open", fields)]
        said += [("broadcast", one.fields(salts[form], "")) for form, one in sent.items()]
        entries = dict(zip(sent, self._write(said)[1:], strict=True))
        self.rounds[number] = Opened(base, dict(codecs))
        self.rounds.pop(number - _ROUNDS_KEPT, None)
        behind = self._behind(number, carried, closing=not codecs)
        note = self._sealed(number, behind, closing=not codecs)
        return {
            site: self._notice(
                site,
                number,
                Record.of(entries[one.form][1], salts[one.form]),
                entries[one.form][0],
                note if site in behind else None,
            ).pack()
            for site, one in carried.items()
        }

    def _behind(self, number: int, sites: Mapping[str, Carried], *, closing: bool) -> set[str]:
        """The sites that are to have a receipt now: half the time before their last one runs out."""
        lag = self.settings.lag
        if closing:
            return set(sites)
        if lag is None:
            return set()
        wait = max(1, lag // 2)
        known = {site: self.sites.get(site, Heard()).covered for site in sites}
        return {site for site, covered in known.items() if covered < 0 or number - covered >= wait}

    def _sealed(self, number: int, behind: set[str], *, closing: bool) -> bytes | None:
        """A checkpoint of now that the policy believes; None where nobody needs one, or the witnesses can wait."""
        if not behind:
            return None
        note = self.journal.checkpoint()
        self._sealed_in[self.journal.seen.size] = number
        self._sealed_in.pop(min(self._sealed_in) if len(self._sealed_in) > _ROUNDS_KEPT else -1, None)
        try:
            self.journal.policy.check(note)
        except ProofError as error:
            lag = self.settings.lag
            oldest = min(self.sites.get(site, Heard()).covered for site in behind)
            if (lag and oldest >= 0 and number - oldest < lag) or (closing and lag is None):
                self.say(f"{error.message}; the run goes on under the rule '{self.settings.receipts}'")
                return None
            raise StateError(
                error.message, hint="bring the witnesses back, then resume; or relax [ledger] receipts"
            ) from error
        return note

    def _notice(self, site: str, number: int, record: Record, index: int, note: bytes | None) -> Notice:
        key = self.standing.members.key_of(site)
        intro = None
        if key is None:
            intro = Introduction(self.run, self.journal.policy.pack(), str(self.journal.signer.verifier))
        id_ = b"" if key is None else key.id
        if note is None:
            return Notice(record, id_, intro)
        known, size = self.sites.setdefault(site, Heard(sent=self._before)), self.journal.seen.size
        inclusion = tuple(prove_inclusion(index, size, self.log.read))
        first, *others = (
            (old, tuple(prove_consistency(old, size, self.log.read)) if old else ())
            for old in (known.seen.size, *(old for old in known.sent if known.seen.size < old < size))
        )
        known.sent = (*known.sent, size)[-_MOST_SENT:]
        own, update = None, self.standing.of(site).update
        if update is not None:
            own = Own(update, tuple(prove_inclusion(update, size, self.log.read)))
        return Notice(record, id_, intro, Covered(note, index, inclusion, *first, tuple(others)), own)

    # -- up ------------------------------------------------------------------------------------------------------

    def heard(self, site: str, attachment: bytes) -> None:
        """Takes in what a reply says besides its update: a claim, a checkpoint.

        Raises:
            ProofError: the claim is not to be granted, or the site has seen another history of this log.
            FormatError: the word is damaged.
        """
        word = Word.unpack(attachment)
        after = word.claim is not None and word.record is not None and word.record.seq < word.claim.seq
        if word.claim is not None and not after:  # one that came after the update will come again
            self._grant(site, word)
        for seen in (None if word.record is None else word.record.prev, word.seen):
            if seen is not None:
                self._saw(site, seen)

    def _saw(self, site: str, seen: Seen) -> None:
        if self._root(seen.size) != seen.root:
            raise ProofError(f"'{site}' has seen another history of this log")
        known = self.sites.setdefault(site, Heard())
        known.covered, known.sent = max(known.covered, self._sealed_in.get(seen.size, -1)), ()
        known.seen = seen

    def _root(self, size: int) -> bytes | None:
        if size > self.log.size:
            return None
        return tree_hash(size, self.log.read) if size else Seen().root

    def _grant(self, site: str, word: Word) -> None:
        assert word.claim is not None
        old = self.standing.members.key_of(site)
        if old is not None and str(old) == word.claim.key:
            return  # it did not hear yet that it is in
        pinned = self.settings.members.get(site)
        if pinned is not None and old is None and pinned != word.claim.key:
            raise ProofError(f"'{site}' comes with another key than [ledger.members] says")
        entry = word.claim.entry(self.run, site, old)
        if old is None:
            signature = self.journal.signer.sign(signed_text(entry.payload))
            entry = Entry(
                entry.payload, (*entry.signatures, (key_name(self.journal.signer.verifier), signature))
            )
        self._check_next(site, entry)
        self.standing.members.check(entry)
        self._write([], before=[entry])

    def received(
        self,
        site: str,
        number: int,
        attachment: bytes,
        frame: bytes,
        examples: int,
        reason: str | None,
        digest: str = "",
    ) -> str | None:
        """Writes down a site's update and what comes of it; why it cannot be taken after all, None if it can.

        `reason` is why it is refused, whatever the ledger says; `digest` is the frame's, where it is known already.
        """
        opened = self.rounds.get(number)
        try:
            record = Word.unpack(attachment).record
            if record is None:
                raise ProofError("the update is not signed for the ledger")
            key = self.standing.members.key_of(site)
            if key is None:
                raise ProofError("the sender is no member of the run")
            if opened is None or site not in opened.codecs:
                raise ProofError("the update answers no order that the ledger knows")
            codec = opened.codecs[site]
            sent = Sent(number, opened.base, frame, codec, self.raw_bytes, "", examples, digest)
            entry = record.entry(self.run, key, sent, self.journal.signer.name)
            known = self.standing.of(site)
            if known.update is not None and known.leaf == entry.leaf:  # it was written down before a crash
                opened.updates.setdefault(site, known.update)
                reason = reason or (None if known.outcome == TAKEN else known.outcome)
                return self._judged(site, number, opened, reason)
            self._check_next(site, entry)
        except (FormatError, ProofError) as error:
            reason = reason or error.message
            if opened is not None:
                opened.refused.setdefault(site, reason)
            return reason
        weight, content = entry.statement["weight"], sha256(b"%d" % examples).hexdigest()
        self.journal.keep([_salt_of(sent, record.salt), Salt(weight, salt_for(record.salt, WEIGHT), content)])
        reason = self._judged(site, number, opened, reason)
        index = self.journal.size
        outcome = TAKEN if reason is None else printable(reason)
        fields = {"entry": index, "leaf": entry.leaf.hex(), "outcome": outcome, "round": number}
        # one that is taken counts when it is merged
        self._write([("received", fields)], before=[entry], later=reason is None)
        if reason is None or site not in opened.updates:
            opened.updates[site] = index
        return reason

    def _judged(self, site: str, number: int, opened: Opened, reason: str | None) -> str | None:
        """Why an update is refused; what a merge before an interruption had not, one after it has not, either."""
        done = self.standing.done.get(number)
        if reason is None and done is not None and site not in done.sites:
            reason = f"round {number} was merged without it, before an interruption"
        if reason is not None:
            opened.refused[site] = reason
        return reason

    def _check_next(self, site: str, entry: Entry) -> None:
        """Nothing, if an audit will have nothing against this entry of a site."""
        said = entry.statement
        for name, words in self.standing.senders.faults(said, self._root):
            if name != NOTE:
                raise ProofError(words)
        ahead = said.time - int(self.clock())
        if ahead > SKEW_SECONDS:
            raise ProofError(f"the clock of '{site}' is {ahead} s ahead of the coordinator's")

    # -- the merge -----------------------------------------------------------------------------------------------

    def merged(
        self,
        number: int,
        rule: str,
        merged: Sequence[Merged],
        refused: Mapping[str, str],
        output: Base,
    ) -> None:
        """Writes down which updates make the next trunk, and why others do not; before the trunk moves.

        Raises:
            StateError: before an interruption the same round gave another trunk, which the log has for ever.
        """
        opened, done = self.rounds[number], self.standing.done.get(number)
        if done is not None and done.output != output.to_json():
            raise StateError(
                f"round {number} was merged before the interruption, and now comes out different",
                hint=f"bring back what was merged then, of {', '.join(sorted(done.sites))}, and resume again",
            )
        inputs = {one.site: opened.updates[one.site] for one in merged}
        weights = canonical.dumps({str(inputs[one.site]): one.examples for one in merged})
        salt = new_salt()
        fields: dict[str, Any] = {
            "base": opened.base.to_json(),
            "excluded": opened.left_out(inputs.keys(), refused, self.standing.taken(number)),
            "inputs": sorted(inputs.values()),
            "output": output.to_json(),
            "round": number,
            "rule": rule,
            "weights": commitment(salt, WEIGHT, weights),
        }
        self.journal.keep([Salt(fields["weights"], salt, sha256(weights).hexdigest())])
        self._write([("aggregate", fields)])

    def measured(self, number: int, part: str, metrics: Mapping[str, Any]) -> None:
        """Writes down a commitment to what was measured of a round's trunk."""
        salt, content = new_salt(), canonical.dumps(metrics)
        found = commitment(salt, METRICS, content)
        self.journal.keep([Salt(found, salt, sha256(content).hexdigest())])
        self._write([("eval", {"metrics": found, "part": part, "round": number})], later=True)

    def released(self, number: int, base: Base, file: str, digest: str) -> bytes:
        """Writes down that the model in `file` is given out; the checkpoint that has it."""
        self._write(
            [("model-release", {"base": base.to_json(), "digest": digest, "file": file, "round": number})]
        )
        return self.journal.checkpoint()


def _salt_of(sent: Sent, secret: bytes) -> Salt:
    salt = salt_for(secret, FRAME)
    return Salt(sent.commitment(salt), salt, sent.digest.hex())

"""The rules of one run: what every entry must be, given those before it.

    genesis → (round-open → broadcast → (update → received)* → aggregate → eval)* → model-release

A run that was interrupted opens rounds again. What is merged again must come out the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phloem.errors import ConfigError, PhloemError, ProofError
from phloem.ledger.entry import Entry, Statement
from phloem.ledger.findings import NOTE, Findings
from phloem.ledger.history import History
from phloem.ledger.kinds import ADD, REVOKE, TAKEN
from phloem.ledger.members import Members
from phloem.ledger.senders import SKEW_SECONDS, RootAt, Senders

_ROUNDS_KEPT = 64


@dataclass(slots=True)
class Update:
    """An update entry, and what the coordinator said to it."""

    site: str
    round: int
    base: Mapping[str, str]
    leaf: bytes
    time: int
    outcome: str | None = None
    merged: bool = False
    left: bool = False  # out of the merge, with a reason


@dataclass
class Opened:
    """A round since it was opened last."""

    number: int
    base: Mapping[str, str]
    asked: frozenset[str]
    entry: int
    forms: dict[str, int] = field(default_factory=dict)
    updates: dict[int, Update] = field(default_factory=dict)
    merged: bool = False


class RunRules:
    """One run's entries, one after the other."""

    def __init__(
        self, index: int, genesis: Entry, findings: Findings, root_at: RootAt, pinned: Mapping[str, str]
    ) -> None:
        """`pinned` are the keys that members must have, by name.

        Raises:
            ProofError, FormatError: the run's first entry is no genesis.
        """
        said = genesis.statement
        if said.kind != "genesis":
            raise ProofError(f"the run '{said.run}' begins with an entry of kind '{said.kind}'")
        self.members = Members(genesis)
        self.findings, self.root_at, self.pinned = findings, root_at, pinned
        self.genesis = said
        self.entries = 0
        self.outputs: dict[int, Mapping[str, str]] = {}
        self.bases: dict[int, Mapping[str, str]] = {}
        self.updates: dict[int, Update] = {}  # of the last rounds
        self.opened: Opened | None = None
        self.again: list[int] = []
        self.counts: dict[str, int] = {}
        self.sites: dict[str, int] = {}  # merged updates by site
        self._kept: deque[tuple[int, ...]] = deque()
        self._waiting: dict[int, dict[int, Update]] = {}  # taken before an interruption, by round
        self._senders = Senders(said)
        self._rule: str | None = None
        self._merged: dict[int, int] = {}  # a hash of whose updates a round was merged from
        self._anchored = 0
        self.history = History()
        self._entered = {said.sender: index}  # the entries that let members in
        self._common(index, said)

    @property
    def rounds(self) -> int:
        """How many rounds were merged."""
        return len(self.outputs)

    def take(self, index: int, entry: Entry) -> None:
        """The next entry of this run."""
        try:
            said = self.members.check(entry)
        except ProofError as error:
            name = "retired-key" if " after it " in error.message else "forged-sender"
            self.findings.add(name, error.message, index)
            return
        self._common(index, said)
        rule = getattr(self, f"_{said.kind.replace('-', '_')}")
        rule(index, said, entry)

    def finish(self) -> None:
        """Nothing more comes."""
        if self.opened is not None:
            self._leave(self.opened, ended=True)
        for name in self.members.names:
            self._check_pinned(name)
        unknown = [name for name in self.members.names if name not in self.pinned]
        if self.pinned and unknown:
            words = f"keys of members that the auditor does not know: {', '.join(unknown):.200}"
            self.findings.add(NOTE, words)

    # -- every entry ---------------------------------------------------------------------------------------------

    def _common(self, index: int, said: Statement) -> None:
        self.entries += 1
        self.counts[said.kind] = self.counts.get(said.kind, 0) + 1
        self.history.take(index, said, self.members.coordinator)
        for name, words in self._senders.faults(said, lambda size: self._root_at(size, index)):
            self.findings.add(name, words, index)
        self._senders.take(index, said)

    def _root_at(self, size: int, index: int) -> bytes | None:
        return self.root_at(size) if size <= index else None

    def _check_pinned(self, name: str) -> None:
        """A member's key is the one that the auditor knows, or one of those was changed to the other."""
        wanted = self.pinned.get(name)
        if wanted is not None and wanted not in self.members.keys_of(name):
            words = f"'{name}' has another key than the auditor knows"
            self.findings.add("forged-sender", words, self._entered.get(name))

    def _by_coordinator(self, index: int, said: Statement) -> bool:
        if said.sender == self.members.coordinator:
            return True
        self.findings.add("unlawful", f"'{said.sender}' may make no entry of kind '{said.kind}'", index)
        return False

    # -- by kind -------------------------------------------------------------------------------------------------

    def _genesis(self, index: int, said: Statement, entry: Entry) -> None:
        self.findings.add("two-models", f"the run '{said.run}' is begun twice", index)

    def _member(self, index: int, said: Statement, entry: Entry) -> None:
        name = str(said["name"])
        if said["action"] == ADD:
            self._entered[name] = index
        elif said["action"] == REVOKE:
            self._check_pinned(name)
        for words in self.members.remarks(said):
            self.findings.add(NOTE, words, index)
        self.members.take(said)

    def _round_open(self, index: int, said: Statement, entry: Entry) -> None:
        if not self._by_coordinator(index, said):
            return
        number, base = said["round"], said["base"]
        if said["plan"] != self.genesis["plan"]:
            words = f"round {number} is opened under another plan than the run was begun with"
            self.findings.add("unlawful", words, index, number)
        before = self.opened
        if before is not None:
            self._leave(before, ended=False)
        if number > max(self.outputs, default=-1) + 1:
            self.findings.add("wrong-base", f"round {number} is opened before the one before it", index)
        expected = self.outputs.get(number - 1)
        if expected is not None and not _same(base, expected):
            self.findings.add(
                "two-models", f"round {number} starts from another trunk than was merged", index, number
            )
        known = self.bases.setdefault(number, base)
        if not _same(known, base):
            self.findings.add(
                "two-models", f"round {number} is opened again from another trunk", index, number
            )
        opened = Opened(number, base, frozenset(said["asked"]), index)
        if before is not None and number <= before.number:
            self.again.append(number)
        self.opened = opened

    def _leave(self, opened: Opened, *, ended: bool) -> None:
        """A round is over, or opened again."""
        for index, update in opened.updates.items():
            if update.outcome is None:
                words = f"the coordinator never answered the update of '{update.site}'"
                self.findings.add("dropped-update", words, index, update.round)
            elif update.outcome == TAKEN and not update.merged and not update.left:
                if opened.merged or update.round != opened.number:
                    self._dropped(index, update)
                else:
                    self._waiting.setdefault(opened.number, {})[index] = update
        self._kept.append(tuple(opened.updates))
        if len(self._kept) > _ROUNDS_KEPT:
            for index in self._kept.popleft():
                del self.updates[index]
        if opened.asked and not opened.merged and ended:
            self.findings.add(NOTE, f"round {opened.number} was not finished", opened.entry, opened.number)

    def _dropped(self, index: int, update: Update) -> None:
        words = f"the update of '{update.site}' was taken and left out"
        self.findings.add("dropped-update", words, index, update.round)

    def _broadcast(self, index: int, said: Statement, entry: Entry) -> None:
        if not self._by_coordinator(index, said):
            return
        number, opened = said["round"], self.opened
        if opened is None or number != opened.number or not _same(said["base"], opened.base):
            self.findings.add(
                "two-models", f"another trunk is broadcast than round {number} starts from", index, number
            )
        elif said["form"] in opened.forms:
            self.findings.add(
                "two-models",
                f"two frames bring the trunk of round {number} as '{said['form']}'",
                index,
                number,
            )
        else:
            opened.forms[said["form"]] = index

    def _update(self, index: int, said: Statement, entry: Entry) -> None:
        number, opened = said["round"], self.opened
        update = Update(said.sender, number, said["base"], entry.leaf, said.time)
        self.updates[index] = update
        if said.sender == self.members.coordinator:
            self.findings.add("unlawful", "the coordinator sends itself an update", index, number)
        if opened is None or said["to"] != self.members.coordinator:
            self.findings.add("wrong-base", "an update outside any round", index, number)
            return
        opened.updates[index] = update
        if number > opened.number or not _same(said["base"], self.bases.get(number, {})):
            self.findings.add(
                "wrong-base", f"the update of '{said.sender}' is made from another trunk", index, number
            )
        elif number == opened.number and not opened.forms:
            words = f"the update of '{said.sender}' is made from a trunk that was never broadcast"
            self.findings.add("wrong-base", words, index, number)

    def _received(self, index: int, said: Statement, entry: Entry) -> None:
        if not self._by_coordinator(index, said):
            return
        update = self.updates.get(said["entry"])
        if update is None or (update.leaf.hex(), update.round) != (said["leaf"], said["round"]):
            self.findings.add("dropped-update", f"entry {said['entry']} is no such update", index)
        elif update.outcome is not None:
            self.findings.add("replayed-update", f"entry {said['entry']} is received twice", index)
        else:
            update.outcome = str(said["outcome"])
            if said.time + SKEW_SECONDS < update.time:
                words = f"is said to be received {update.time - said.time} s before it was made"
                self.findings.add("back-dated", words, said["entry"])

    def _aggregate(self, index: int, said: Statement, entry: Entry) -> None:
        if not self._by_coordinator(index, said):
            return
        number, opened = said["round"], self.opened
        if opened is None or opened.number != number or not _same(said["base"], opened.base):
            self.findings.add(
                "wrong-aggregate", f"a merge of round {number}, which is not open", index, number
            )
            return
        if opened.merged:
            self.findings.add("two-models", f"round {number} is merged twice", index, number)
        opened.merged = True
        if said["rule"] != (self._rule or said["rule"]):
            self.findings.add("wrong-aggregate", "merged by another rule than before", index, number)
        self._rule = said["rule"]
        self._check_inputs(index, said, opened)
        self._check_excluded(index, said, opened)
        self._check_waiting(opened)
        known = self.outputs.setdefault(number, said["output"])
        sites = hash(frozenset(self.updates[place].site for place in said["inputs"] if place in self.updates))
        if not _same(known, said["output"]) or self._merged.setdefault(number, sites) != sites:
            self.findings.add(
                "two-models", f"round {number} was merged again, and came out different", index, number
            )

    def _check_inputs(self, index: int, said: Statement, opened: Opened) -> None:
        number, sites = said["round"], set()
        for place in said["inputs"]:
            update = self.updates.get(place)  # one from before an interruption may be sent again
            if update is None or update.round != number:
                name = "wrong-aggregate" if update is None or not update.merged else "replayed-update"
                self.findings.add(name, f"input {place} is no update of round {number}", index, number)
                continue
            if update.outcome != TAKEN or not _same(update.base, opened.base):
                self.findings.add(
                    "wrong-aggregate", f"input {place} was refused, or is from another trunk", index, number
                )
            if update.site in sites or update.site not in opened.asked:
                self.findings.add(
                    "wrong-aggregate", f"'{update.site}' is merged twice, or was not asked", index, number
                )
            sites.add(update.site)
            update.merged = True
            if number not in self.outputs:
                self.sites[update.site] = self.sites.get(update.site, 0) + 1

    def _check_excluded(self, index: int, said: Statement, opened: Opened) -> None:
        number = said["round"]
        named = {row["site"] for row in said["excluded"]}
        merged = {self.updates[place].site for place in said["inputs"] if place in self.updates}
        for site in sorted(opened.asked - merged - named):
            self.findings.add(
                "dropped-update", f"'{site}' was asked, and is neither merged nor left out", index, number
            )
        for row in said["excluded"]:
            site, place = row["site"], row.get("entry")
            update = None if place is None else self.updates.get(place)
            if site in merged:
                self.findings.add("wrong-aggregate", f"'{site}' is merged and left out", index, number)
            elif update is not None and (update.site, update.round) == (site, number):
                update.left = True
            elif place is not None:
                words = (
                    f"'{site}' is left out with entry {place}, which is no update of its own in this round"
                )
                self.findings.add("dropped-update", words, index, number)

    def _check_waiting(self, opened: Opened) -> None:
        """What was taken before an interruption is merged, left out with a reason, or was sent anew."""
        waiting = self._waiting.pop(opened.number, {})
        newest = {update.site: index for index, update in {**waiting, **opened.updates}.items()}
        for index, update in waiting.items():
            if not update.merged and not update.left and newest[update.site] == index:
                self._dropped(index, update)

    def _eval(self, index: int, said: Statement, entry: Entry) -> None:
        self._by_coordinator(index, said)

    def _complaint(self, index: int, said: Statement, entry: Entry) -> None:
        words = f"'{said.sender}' complains about '{said['against']}': {said['about']}"
        self.findings.add("complaint", words, index)

    def _erasure(self, index: int, said: Statement, entry: Entry) -> None:
        if self._by_coordinator(index, said):
            words = f"the payload of entry {said['entry']} was destroyed: {said['reason']}"
            self.findings.add(NOTE, words, index)

    def _anchor(self, index: int, said: Statement, entry: Entry) -> None:
        if not self._by_coordinator(index, said):
            return
        if said["size"] > index or self.root_at(said["size"]) != bytes.fromhex(said["root"]):
            self.findings.add(
                "rolled-back-anchor",
                f"a tree of {said['size']} entries was anchored that is not this one",
                index,
            )
        elif said["size"] < self._anchored:
            self.findings.add("rolled-back-anchor", "an older tree was anchored than before", index)
        self._anchored = max(self._anchored, said["size"])

    def _model_release(self, index: int, said: Statement, entry: Entry) -> None:
        if not self._by_coordinator(index, said):
            return
        number = said["round"]
        output = self.outputs.get(number - 1) if number else self.bases.get(0)
        if output is None or not _same(said["base"], output):
            self.findings.add("wrong-release", "the model given out is not the trunk that was merged", index)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two bases can be the same trunk: the chain always, the state where both have it."""
    states = {base["state"] for base in (one, other) if "state" in base}
    return one.get("chain") == other.get("chain") and len(states) <= 1


def rules_for(
    index: int, entry: Entry, findings: Findings, root_at: RootAt, pinned: Mapping[str, str]
) -> RunRules | None:
    """The rules of the run that begins with this entry; None, and a finding, if it does not."""
    try:
        return RunRules(index, entry, findings, root_at, pinned)
    except PhloemError as error:
        name = "unlawful" if isinstance(error, ConfigError) else "forged-sender"
        findings.add(name, error.message, index)
        return None

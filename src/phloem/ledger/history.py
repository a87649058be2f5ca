"""What happened in a run, round by round, for people to look at: no rule depends on it.

Of long runs the newest rounds are kept, of many events the first; `rounds_left` and `events_left` count the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from phloem.ledger.entry import Statement
from phloem.ledger.kinds import NO_UPDATE, TAKEN

ROUNDS_KEPT = 2000
CELLS_KEPT = 200_000  # names of sites in all rounds that are kept, some 20 MB
SITES_KEPT = 10_000
EVENTS_KEPT = 1000
_EVENTS = frozenset({"genesis", "member", "complaint", "erasure", "anchor", "model-release"})


class Part(StrEnum):
    """What a site had to do with a round."""

    MERGED = "merged"
    LEFT_OUT = "left out"  # its update came, or it says itself why none did; nothing of it is in the model
    ABSENT = "absent"  # it was asked, and sent nothing
    OPEN = "open"  # the round was never merged


@dataclass(slots=True)
class Round:
    """One round.

    Attributes:
        entry, time: of the entry that opened it last; the time is what the coordinator claims.
        base, output: the trunk that it started from, and that came of it.
        opened: how often it was opened.
        down: bytes of the frame to the sites, by its form; the log does not say which site got which.
        up, raw: bytes of all updates, and what they would take as float32.
        updates: their entries and senders.
        answers: what the coordinator said to the sites' updates.
        reasons: why the merge has nothing of a site.
    """

    number: int
    entry: int
    time: int
    base: Mapping[str, str]
    asked: tuple[str, ...]
    opened: int = 1
    down: dict[str, int] = field(default_factory=dict)
    up: int = 0
    raw: int = 0
    updates: dict[int, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    merge: int | None = None
    merged: frozenset[str] = frozenset()
    reasons: dict[str, str] = field(default_factory=dict)
    output: Mapping[str, str] | None = None

    def parts(self) -> dict[str, Part]:
        """What every site had to do with it that was asked or sent something, by name."""
        sent, merged = set(self.updates.values()), self.merge is not None
        found = {}
        for site in sorted({*self.asked, *sent, *self.reasons}):
            if site in self.merged:
                found[site] = Part.MERGED
            elif not merged and self.answers.get(site, TAKEN) == TAKEN:
                found[site] = Part.OPEN
            else:
                silent = site not in sent and self.reason(site) in ("", NO_UPDATE)
                found[site] = Part.ABSENT if silent else Part.LEFT_OUT
        return found

    def reason(self, site: str) -> str:
        """Why nothing of the site was merged; empty where nobody says why.

        What the coordinator said to an update counts for more than what it knew when it merged: a late update comes
        after that.
        """
        answer = self.answers.get(site, TAKEN)
        return self.reasons.get(site, "") if answer == TAKEN else answer

    @property
    def cells(self) -> int:
        """How many names it holds."""
        return len(self.asked) + len(self.updates) + len(self.reasons)


@dataclass(slots=True)
class Site:
    """One site in all rounds: how often it was asked, sent an update and was merged, and the bytes that it sent."""

    asked: int = 0
    sent: int = 0
    merged: int = 0
    up: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """An entry outside of the rounds; `fields` are those of its kind."""

    entry: int
    kind: str
    sender: str
    time: int
    fields: Mapping[str, object]


class History:
    """One run."""

    def __init__(self) -> None:
        self.rounds: dict[int, Round] = {}
        self.rounds_left = 0
        self.sites: dict[str, Site] = {}
        self.events: list[Event] = []
        self.events_left = 0
        self.first = self.last = -1  # what the first entry and the newest claim as their time
        self._cells = 0

    def take(self, index: int, said: Statement, coordinator: str) -> None:
        """The next entry of the run, which its sender has signed."""
        kind = said.kind
        self.first, self.last = (said.time if self.first < 0 else self.first), max(self.last, said.time)
        if kind == "update":
            self._update(index, said)
        elif kind in _EVENTS:
            self._event(index, said)
        elif said.sender == coordinator:
            if kind == "received":
                self._received(said)
            elif kind == "round-open":
                self._open(index, said)
            elif kind == "broadcast" and (row := self.rounds.get(said["round"])) is not None:
                row.down[said["form"]] = said["bytes"]
            elif kind == "aggregate":
                self._merge(index, said)

    def _event(self, index: int, said: Statement) -> None:
        if len(self.events) < EVENTS_KEPT:
            self.events.append(Event(index, said.kind, said.sender, said.time, said.fields))
        else:
            self.events_left += 1

    def _open(self, index: int, said: Statement) -> None:
        number, asked = said["round"], tuple(map(sys.intern, said["asked"]))
        before = self.rounds.get(number)
        new: Iterable[str] = asked
        if before is None:
            row = self.rounds[number] = Round(number, index, said.time, said["base"], asked)
            self._cells += row.cells
            self._trim()
        else:
            new = set(asked).difference(before.asked)
            self._cells += len(asked) - len(before.asked)
            before.entry, before.time, before.asked = index, said.time, asked
            before.opened += 1
            before.answers.clear()
        for name in new:
            if (site := self._site(name)) is not None:
                site.asked += 1

    def _update(self, index: int, said: Statement) -> None:
        site = self._site(said.sender)
        if site is not None:
            site.sent += 1
            site.up += said["bytes"]
        row = self.rounds.get(said["round"])
        if row is not None:
            row.updates[index] = sys.intern(said.sender)
            row.up += said["bytes"]
            row.raw += said["rawBytes"]
            self._cells += 1
            self._trim()

    def _received(self, said: Statement) -> None:
        row = self.rounds.get(said["round"])
        sender = None if row is None else row.updates.get(said["entry"])
        if row is not None and sender is not None:
            row.answers[sender] = sys.intern(said["outcome"])

    def _merge(self, index: int, said: Statement) -> None:
        row = self.rounds.get(said["round"])
        if row is None:
            return
        merged = frozenset(row.updates[place] for place in said["inputs"] if place in row.updates)
        for name in merged - row.merged:
            if (site := self._site(name)) is not None:
                site.merged += 1
        self._cells -= len(row.reasons)
        row.merge, row.merged, row.output = index, merged, said["output"]
        row.reasons = {line["site"]: sys.intern(line["reason"]) for line in said["excluded"]}
        self._cells += len(row.reasons)
        self._trim()

    def _site(self, name: str) -> Site | None:
        found = self.sites.get(name)
        if found is None and len(self.sites) < SITES_KEPT:
            found = self.sites[sys.intern(name)] = Site()
        return found

    def _trim(self) -> None:
        while len(self.rounds) > 1 and (len(self.rounds) > ROUNDS_KEPT or self._cells > CELLS_KEPT):
            self._cells -= self.rounds.pop(next(iter(self.rounds))).cells
            self.rounds_left += 1

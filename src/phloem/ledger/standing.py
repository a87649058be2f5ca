"""Where a run stands, as its entries so far say: what a coordinator must know of them before it makes the next.

It is the same whether the entries were just made, or are read from the log after a crash.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from phloem.ledger.entry import Entry, Seen
from phloem.ledger.exchange import Base
from phloem.ledger.kinds import NO_UPDATE, TAKEN
from phloem.ledger.members import Members
from phloem.ledger.senders import Senders

_NOT_AGAIN = "not sent again after an interruption"
_MERGES_KEPT = 1000  # no snapshot is older


@dataclass
class Heard:
    """What is known of one site: the checkpoint that it saw last, and the round of its last receipt.

    `sent` are the sizes of newer checkpoints that it was sent and has not answered: it may have seen them or not.
    """

    seen: Seen = field(default_factory=Seen)
    covered: int = -1
    sent: tuple[int, ...] = ()


@dataclass(slots=True)
class Known:
    """Of one site: its newest entry's leaf; its newest update, with its place, its round, and what was said to it."""

    leaf: bytes = b""
    update: int | None = None
    round: int = -1
    outcome: str = TAKEN


@dataclass(frozen=True, slots=True)
class Done:
    """A merge: whose updates, and what came of it."""

    sites: frozenset[str]
    output: Mapping[str, str]


@dataclass
class Opened:
    """A round since it was opened: the trunk, in which codec who is asked to send, and what came of it, by site."""

    base: Base
    codecs: Mapping[str, str]
    updates: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def left_out(
        self, merged: Collection[str], refused: Mapping[str, str], taken: Mapping[str, int]
    ) -> list[dict[str, Any]]:
        """Who was asked, or was taken, and is not merged, and why: as an entry has it."""
        left = {site: reason for site, reason in refused.items() if site not in merged}
        for site in {*self.codecs, *taken} - {*merged, *left}:
            left[site] = self.refused.get(site, _NOT_AGAIN if site in taken else NO_UPDATE)
        places = {**taken, **self.updates}
        return [
            {"reason": printable(reason), "site": site} | ({"entry": places[site]} if site in places else {})
            for site, reason in sorted(left.items())
        ]


def printable(reason: str) -> str:
    """A reason as an entry can have it."""
    return "".join(letter if letter.isprintable() else "?" for letter in reason)[:400] or "no reason"


class Standing:
    """One run."""

    def __init__(self, index: int, genesis: Entry) -> None:
        """Of the run that begins so.

        Raises:
            ProofError: its coordinator did not sign that.
        """
        said = genesis.statement
        self.plan = str(said["plan"])
        self.members, self.senders = Members(genesis), Senders(said)
        self.sites: dict[str, Known] = {}
        self.done: dict[int, Done] = {}
        self._taken: dict[int, dict[str, int]] = {}  # and not merged yet: by round and site
        self._update: tuple[int, str, int] = (-1, "", -1)  # the newest, its sender and its round
        self.senders.take(index, said)

    def of(self, site: str) -> Known:
        """What is known of a site; nothing, before its first entry."""
        return self.sites.get(site) or Known()

    def taken(self, number: int) -> Mapping[str, int]:
        """The updates that were taken in a round that is not merged yet, by site."""
        return self._taken.get(number, {})

    def take(self, index: int, entry: Entry) -> None:
        """The next entry."""
        said = entry.statement
        self.members.take(said)
        self.senders.take(index, said)
        if said.sender != self.senders.coordinator:
            known = self.sites.setdefault(said.sender, Known())
            known.leaf = entry.leaf
            if said.kind == "update":
                known.update, known.round = index, said["round"]
                self._update = (index, said.sender, known.round)
        elif said.kind == "received":
            self._answered(said["entry"], str(said["outcome"]))
        elif said.kind == "aggregate":
            number = said["round"]
            taken = self._taken.pop(number, {})
            if number not in self.done:
                sites = frozenset(site for site, place in taken.items() if place in set(said["inputs"]))
                self.done[number] = Done(sites, said["output"])
                self.done.pop(number - _MERGES_KEPT, None)

    def _answered(self, place: int, outcome: str) -> None:
        """An answer stands right after its update."""
        index, site, number = self._update
        if place == index:
            self.sites[site].outcome = outcome
            if outcome == TAKEN:
                self._taken.setdefault(number, {})[site] = index

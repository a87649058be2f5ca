"""What any member's entry must be, given those before it: its number, its time, the checkpoint that it names.

The book asks before it takes a site's entry in, an audit asks afterwards, both with the same questions: so no site can
make entries that turn the log of an honest coordinator into one that an audit refuses.

A site's numbers may have gaps where the coordinator has said, in the log, that an update did not come.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from phloem.ledger.entry import Statement
from phloem.ledger.findings import NOTE
from phloem.ledger.settings import lag_of

SKEW_SECONDS = 300
"""How far the clocks of two members may be apart."""

RootAt = Callable[[int], bytes | None]
"""The root of the tree of so many entries; None for more than there are."""


@dataclass(slots=True)
class Sender:
    """What a member said last; `excuse`: why numbers after that may be missing, in the coordinator's words."""

    seq: int = -1
    time: int = 0
    seen: int = 0
    excuse: str = ""


class Senders:
    """The members of one run, and the rounds that they answer."""

    def __init__(self, genesis: Statement) -> None:
        """Of the run that begins so."""
        self.coordinator = genesis.sender
        self.receipts = str(genesis["receipts"])
        self._lag = lag_of(self.receipts)
        self._by_name: dict[str, Sender] = {}
        self._openings: list[int] = []  # entries that opened a round, and the times that they claim
        self._times: list[int] = []
        self._first: dict[int, int] = {}  # the time that a round was opened first, by its number
        self._shown: dict[int, int] = {}  # the entry that broadcast its trunk first
        self._round = -1

    def of(self, name: str) -> Sender:
        """What is known of a member; nothing, before its first entry."""
        return self._by_name.get(name) or Sender()

    def faults(self, said: Statement, root_at: RootAt) -> Iterator[tuple[str, str]]:
        """What is wrong with the next entry, as names of findings and words; under NOTE, what is worth knowing."""
        known = self.of(said.sender)
        if said.seq <= known.seq:
            name = "replayed-update" if said.kind == "update" else "out-of-order"
            yield name, f"number {said.seq} of '{said.sender}' comes after its number {known.seq}"
        elif said.seq != known.seq + 1:
            yield self._gap(said, known)
        yield from self._time(said, known)
        if root_at(said.prev.size) != said.prev.root:
            yield "forked-history", f"'{said.sender}' was shown another tree of {said.prev.size} entries"
        elif said.prev.size < known.seen:
            yield "forked-history", f"'{said.sender}' was shown an older tree than before"
        elif said.kind == "update" and not self._holds_receipt(said):
            rule = f"without the receipt that the rule '{self.receipts}' asks for"
            yield "unlawful", f"'{said.sender}' trained in round {said['round']} {rule}"

    def take(self, index: int, said: Statement) -> None:
        """The next entry, whatever is wrong with it."""
        known = self._by_name.setdefault(said.sender, Sender())
        known.seq, known.time = max(said.seq, known.seq), max(said.time, known.time)
        known.seen = max(said.prev.size, known.seen)
        if said.kind == "update":
            known.excuse = ""
        if said.sender != self.coordinator:
            return
        if said.kind == "round-open":
            self._open(index, said)
        elif said.kind == "broadcast":
            self._shown.setdefault(said["round"], index)
        elif said.kind == "aggregate":
            for row in said["excluded"]:
                if "entry" not in row:
                    self._excuse(row["site"], f"{row['reason']} (round {said['round']})")

    def _open(self, index: int, said: Statement) -> None:
        number = said["round"]
        self._openings.append(index)
        self._times.append(said.time)
        self._first.setdefault(number, said.time)
        if number <= self._round:
            for name in self._by_name:
                self._excuse(name, f"an interruption (round {self._round})")
        self._round = number

    def _excuse(self, name: str, words: str) -> None:
        if name != self.coordinator:
            self._by_name.setdefault(name, Sender()).excuse = words

    def _gap(self, said: Statement, known: Sender) -> tuple[str, str]:
        first, last = known.seq + 1, said.seq - 1
        gone = f"number {first}" if first == last else f"numbers {first} to {last}"
        if not known.excuse:
            return "missing-entry", f"{gone} of '{said.sender}' must stand before this, and not in the log"
        words = f"{gone} of '{said.sender}' never came to the log; the coordinator says: {known.excuse}"
        return NOTE, words

    def _time(self, said: Statement, known: Sender) -> Iterator[tuple[str, str]]:
        if said.time + SKEW_SECONDS < known.time:
            words = f"'{said.sender}' claims a time {known.time - said.time} s before its last"
            yield "back-dated", words
        if said.sender == self.coordinator:
            return
        place = bisect_left(self._openings, said.prev.size)  # rounds that it had seen opened
        floor = self._times[place - 1] if place else 0
        if said.kind == "update":
            floor = max(floor, self._first.get(said["round"], 0))
        if said.time + SKEW_SECONDS < floor:
            words = f"'{said.sender}' claims a time {floor - said.time} s before the round that it has seen opened"
            yield "back-dated", words

    def _holds_receipt(self, said: Statement) -> bool:
        """Whether the checkpoint that the sender of an update names has a trunk that is new enough."""
        needed = -1 if self._lag is None else said["round"] - self._lag
        return needed < 0 or said.prev.size > self._shown.get(needed, -1)

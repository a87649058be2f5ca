"""What an audit finds, each kind of wrong under a name of its own: `MEANINGS` has the names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

NOTE = "note"
MEANINGS: Mapping[str, str] = {
    "damaged-entry": "an entry that cannot be read",
    "rewritten-history": "the entries are not those that a checkpoint was signed over",
    "truncated-history": "entries are missing that a checkpoint has",
    "forked-history": "somebody was shown another history than this one",
    "unsigned-checkpoint": "a checkpoint without the log's signature, or with a bad one",
    "no-quorum": "too few witnesses signed",
    "forged-sender": "an entry that its sender did not sign, or who is no member",
    "retired-key": "an entry signed with a key that had been changed or put out",
    "out-of-order": "a member's entries in another order than it made them",
    "missing-entry": "a member made an entry that is not here",
    "back-dated": "an entry claims a time that it cannot be from",
    "wrong-base": "an update, or a round, from another trunk than was broadcast",
    "two-models": "two different trunks for one round",
    "replayed-update": "an update that counts twice",
    "dropped-update": "an update that was neither merged nor left out with a reason",
    "wrong-aggregate": "a merge of other updates than it may have, or with another result than they give",
    "swapped-payload": "a payload that is not what was committed to",
    "missing-payload": "a payload or a salt that should be here and is not",
    "wrong-release": "a model given out that is not the run's",
    "rolled-back-anchor": "an anchor of a checkpoint that is not of this history",
    "unlawful": "an entry that its sender has no right to make",
    "complaint": "a member complains",
    "note": "worth knowing",
}

_MOST = 1000  # findings kept of one name; the rest is counted


class Verdict(StrEnum):
    """What a finding means for the whole."""

    VALID = "valid"
    UNDECIDED = "cannot decide"
    INVALID = "invalid"


_UNDECIDED = frozenset({"no-quorum", "missing-payload", "complaint"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found; `entry` and `round` where it is about one."""

    name: str
    words: str
    entry: int | None = None
    round: int | None = None

    @property
    def verdict(self) -> Verdict:
        """What it means for the whole."""
        if self.name == NOTE:
            return Verdict.VALID
        return Verdict.UNDECIDED if self.name in _UNDECIDED else Verdict.INVALID

    def __str__(self) -> str:
        where = "" if self.entry is None else f"entry {self.entry}: "
        return f"{self.name}: {where}{self.words}"


@dataclass
class Findings:
    """What an audit has found so far."""

    rows: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, words: str, entry: int | None = None, round_number: int | None = None) -> None:
        """One more."""
        self.counts[name] += 1
        if self.counts[name] <= _MOST:
            self.rows.append(Finding(name, words, entry, round_number))

    @property
    def verdict(self) -> Verdict:
        """Invalid if anything is, undecided if anything is, valid otherwise."""
        found = {row.verdict for row in self.rows}
        for verdict in (Verdict.INVALID, Verdict.UNDECIDED):
            if verdict in found:
                return verdict
        return Verdict.VALID

    def to_json(self) -> list[dict[str, Any]]:
        """The findings as JSON."""
        return [
            {"name": row.name, "words": row.words}
            | ({} if row.entry is None else {"entry": row.entry})
            | ({} if row.round is None else {"round": row.round})
            for row in self.rows
        ]

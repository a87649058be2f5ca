"""An audit: every entry of a log read again, by somebody who trusts nobody but its policy.

The tree is made anew from the entries. Every checkpoint that is known, whoever kept it, must be one of that tree.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

from phloem.errors import FormatError, ProofError
from phloem.ledger.commitments import FRAME, commitment_to
from phloem.ledger.entry import Entry, Statement
from phloem.ledger.findings import NOTE, Findings, Verdict
from phloem.ledger.kinds import DELTA
from phloem.ledger.rules import RunRules, rules_for
from phloem.ledger.senders import SKEW_SECONDS
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, cosigned_time
from phloem.tlog.merkle import EMPTY_ROOT, Node, leaf_hash, node_hash, tree_hash
from phloem.tlog.note import Note
from phloem.tlog.policy import Policy

_PAGE = 2000

# A cosignature counts if its time is at most ten minutes from the log's clock (`quorum.MOST_SECONDS_APART`), which may
# be SKEW_SECONDS from a site's; asking for it takes a while, too.
_WITNESS_SKEW_SECONDS = 600 + SKEW_SECONDS + 60


class Source(Protocol):
    """Where entries come from: a log, an export, a bundle."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def entries(self, start: int, end: int) -> list[bytes]:
        """Those from `start` to before `end`."""
        ...

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """The hashes of these nodes of their tree."""
        ...


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens a commitment, as far as it is there."""

    salt: bytes | None
    content: bytes | None


Open = Callable[[str], Opening]


@dataclass(frozen=True, slots=True)
class _Payload:
    """What an entry commits to; `kept`: whoever has the run has it."""

    run: str
    sender: str
    commit: str
    bytes: int
    is_update: bool
    kept: bool


class Tree:
    """The tree over the entries so far, all of its nodes, 64 bytes an entry."""

    def __init__(self) -> None:
        self.levels: list[bytearray] = [bytearray()]
        self.size = 0
        self._roots: dict[int, bytes] = {0: EMPTY_ROOT}

    def add(self, leaf: bytes) -> None:
        """One more leaf."""
        level, number = 0, self.size
        self.levels[0] += leaf
        while number & 1:
            row = self.levels[level]
            node = node_hash(bytes(row[-64:-32]), bytes(row[-32:]))
            level, number = level + 1, number >> 1
            if level == len(self.levels):
                self.levels.append(bytearray())
            self.levels[level] += node
        self.size += 1

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """The hashes of these nodes."""
        return [bytes(self.levels[n.level][32 * n.number : 32 * n.number + 32]) for n in nodes]

    def root_at(self, size: int) -> bytes | None:
        """The root of the first `size` entries; None if there are not so many."""
        if size > self.size:
            return None
        if size not in self._roots:
            if len(self._roots) > 1 << 16:
                self._roots = {0: EMPTY_ROOT}
            self._roots[size] = tree_hash(size, self.read)
        return self._roots[size]


@dataclass
class Audit:
    """What an audit found."""

    origin: str = ""
    size: int = 0
    root: bytes = EMPTY_ROOT
    findings: Findings = field(default_factory=Findings)
    runs: dict[str, RunRules] = field(default_factory=dict)
    checkpoints: int = 0
    opened: int = 0
    replayed: int | None = None
    vouched: int = 0  # entries that a checkpoint under the policy has
    witnesses: list[str] = field(default_factory=list)
    newest: bytes = b""  # that checkpoint
    committed: int = 0  # entries that commit to a payload

    @property
    def verdict(self) -> Verdict:
        """The whole in a word."""
        return self.findings.verdict

    def to_json(self) -> dict[str, Any]:
        """The audit as JSON."""
        return {
            "verdict": str(self.verdict),
            "origin": self.origin,
            "entries": self.size,
            "vouched": self.vouched,
            "root": self.root.hex(),
            "checkpoints": self.checkpoints,
            "witnesses": self.witnesses,
            "payloads_opened": self.opened,
            "rounds_replayed": self.replayed,
            "findings": self.findings.to_json(),
            "runs": {
                name: {
                    "rounds": run.rounds,
                    "entries": run.entries,
                    "kinds": run.counts,
                    "members": run.members.names,
                    "updates_merged": run.sites,
                    "rounds_again": run.again,
                }
                for name, run in self.runs.items()
            },
        }


class Auditor:
    """Reads a log from its beginning to its end."""

    def __init__(
        self,
        policy: Policy,
        *,
        members: Mapping[str, str] | None = None,
        open_: Open | None = None,
        each: Callable[[int, Entry], None] | None = None,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        """`members` are keys that the auditor knows, `each` is told every entry that can be read."""
        self.policy, self.pinned, self.open, self.each = policy, members or {}, open_, each
        self.progress = progress
        self.tree = Tree()
        self.audit = Audit()
        self.findings = self.audit.findings
        self._erased: set[tuple[str, int]] = set()
        self._merged: set[int] = set()  # the updates that merges name
        self._payloads: dict[int, _Payload] = {}
        self._times = array("q")  # that entries claim; -1 where one cannot be read
        self._after = array("q")  # an entry was made after the checkpoint of so many
        self._nameless: set[str] = set()  # runs without a beginning

    def run(self, source: Source, notes: Iterable[bytes]) -> Audit:
        """The audit of all entries, against these checkpoints, which somebody may have kept for long."""
        size = source.size
        for start in range(0, size, _PAGE):
            for index, data in enumerate(source.entries(start, min(start + _PAGE, size)), start):
                self._take(index, data)
            self.progress(min(start + _PAGE, size), size)
        for run in self.audit.runs.values():
            run.finish()
            for number in sorted(set(run.again)):
                self.findings.add(
                    NOTE, f"round {number} was opened again after an interruption", None, number
                )
        self.audit.size, self.audit.root = self.tree.size, self.tree.root_at(self.tree.size) or EMPTY_ROOT
        self._check_notes(notes)
        self._check_origins()
        self._check_payloads()
        return self.audit

    def _take(self, index: int, data: bytes) -> None:
        self.tree.add(leaf_hash(data))
        self._times.append(-1)
        self._after.append(0)
        try:
            entry = Entry.unpack(data)
            said = entry.statement
        except FormatError as error:
            self.findings.add("damaged-entry", error.message, index)
            return
        run = self.audit.runs.get(said.run)
        if run is not None:
            run.take(index, entry)
        elif said.run not in self._nameless:
            run = rules_for(index, entry, self.findings, self.tree.root_at, self.pinned)
            if run is None:
                self._nameless.add(said.run)
            else:
                self.audit.runs[said.run] = run
        own = run is not None and said.sender == run.members.coordinator
        self._times[index], self._after[index] = said.time, index if own else min(index, said.prev.size)
        self._take_payload(index, said)
        if self.each is not None:
            self.each(index, entry)

    def _take_payload(self, index: int, said: Statement) -> None:
        if said.kind == "erasure":
            place = said["entry"]
            if place >= index or self.tree.read([Node(0, place)])[0].hex() != said["leaf"]:
                self.findings.add("unlawful", f"the erasure of entry {place} names another entry", index)
            self._erased.add((said.run, place))
        elif said.kind in ("update", "broadcast") and said["bytes"]:
            self.audit.committed += 1
            if self.open is not None:
                self._payloads[index] = _Payload(
                    said.run,
                    said.sender,
                    said["commit"],
                    said["bytes"],
                    said.kind == "update",
                    said.fields.get("form") == DELTA,
                )
        elif said.kind == "aggregate":
            self._merged.update(said["inputs"])

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _check_notes(self, notes: Iterable[bytes]) -> None:
        times: list[tuple[int, int]] = []
        for data in notes:
            self.audit.checkpoints += 1
            try:
                note = Note.unpack(data)
                checkpoint = Checkpoint.unpack(note.text)
                good = note.verified([*self.policy.logs, *self.policy.witnesses.values()])
            except (FormatError, ProofError) as error:
                self.findings.add("unsigned-checkpoint", error.message)
                continue
            if not any(key in good and key.name == checkpoint.origin for key in self.policy.logs):
                self.findings.add(
                    "unsigned-checkpoint",
                    f"the checkpoint of {checkpoint.size} entries is not signed by a log of the policy",
                )
                continue
            same = self._check_tree(checkpoint)
            if same:
                at = [cosigned_time(s) for k, s in good.items() if k.type == COSIGNATURE]
                times += [(checkpoint.size, time) for time in at]
            signed = {name for name, key in self.policy.witnesses.items() if key in good}
            if self.policy.quorum_of(signed):
                self.audit.origin = checkpoint.origin
                if same and checkpoint.size >= self.audit.vouched:
                    self.audit.vouched, self.audit.witnesses = checkpoint.size, sorted(signed)
                    self.audit.newest = data
        if not self.audit.origin and self.tree.size:
            self.findings.add("no-quorum", "no checkpoint is signed as the policy demands")
        elif self.audit.vouched < self.tree.size:
            left = self.tree.size - self.audit.vouched
            self.findings.add(NOTE, f"{left} entries are newer than the newest checkpoint under the policy")
        self._check_times(sorted(times))

    def _check_tree(self, checkpoint: Checkpoint) -> bool:
        """Whether the tree had this root when it had so many entries."""
        root = self.tree.root_at(checkpoint.size)
        if root is None:
            self.findings.add(
                "truncated-history",
                f"a signed checkpoint has {checkpoint.size} entries, here are {self.tree.size}",
            )
        elif root != checkpoint.root:
            self.findings.add(
                "rewritten-history",
                f"the first {checkpoint.size} entries are not those that the log signed",
            )
        return root == checkpoint.root

    def _check_origins(self) -> None:
        """A run stands in the log that it was begun in; what it says of the policy may have changed."""
        policy = sha256(self.policy.pack()).hexdigest()
        for name, run in self.audit.runs.items():
            if self.audit.origin and run.genesis["origin"] != self.audit.origin:
                words = f"the run '{name}' was begun in the log '{run.genesis['origin']}', not in this one"
                self.findings.add("forked-history", words)
            elif run.genesis["policy"] != policy:
                self.findings.add(NOTE, f"the run '{name}' was begun under another policy than this audit's")

    def _check_times(self, times: Sequence[tuple[int, int]]) -> None:
        """No entry is older than a cosignature on the checkpoint that it was made after, or newer than one that has it.

        What a site made may have waited: it is not older than the checkpoint that it names. What the coordinator made
        stands where it was made.
        """
        sizes = [size for size, _ in times]
        newest_before, oldest_after = [0], [1 << 62]
        for _, time in times:
            newest_before.append(max(time, newest_before[-1]))
        for _, time in reversed(times):
            oldest_after.append(min(time, oldest_after[-1]))
        oldest_after.reverse()
        for index, time in enumerate(self._times):
            before = newest_before[bisect_right(sizes, self._after[index])]
            after = oldest_after[bisect_right(sizes, index)]
            words = ""
            if 0 <= time < before - _WITNESS_SKEW_SECONDS:
                words = f"claims a time {before - time} s before a checkpoint that was there before it"
            elif time > after + _WITNESS_SKEW_SECONDS:
                words = f"claims a time {time - after} s after a checkpoint that has it"
            if words:
                self.findings.add("back-dated", words, index)

    # -- payloads ------------------------------------------------------------------------------------------------

    def _check_payloads(self) -> None:
        first: dict[bytes, int] = {}  # updates, by their frame's digest
        for index, payload in self._payloads.items():
            assert self.open is not None
            found = self.open(payload.commit)
            erased = (payload.run, index) in self._erased
            if found.salt is None or found.content is None:
                if (payload.kept or index in self._merged) and not erased:
                    what = "salt" if found.salt is None else "payload"
                    words = f"its {what} is not here, and no erasure says why"
                    self.findings.add("missing-payload", words, index)
                continue
            if erased:
                words = "its payload is here, though it is said to be erased"
                self.findings.add("missing-payload", words, index)
            digest = sha256(found.content).digest()
            fits = commitment_to(found.salt, FRAME, digest) == payload.commit
            if len(found.content) != payload.bytes or not fits:
                self.findings.add("swapped-payload", "the payload is not what was committed to", index)
                continue
            self.audit.opened += 1
            if payload.is_update:
                place = first.setdefault(digest, index)
                if (other := self._payloads[place].sender) != payload.sender:
                    words = f"'{payload.sender}' sent the same frame as '{other}' in entry {place}"
                    self.findings.add(NOTE, words, index)

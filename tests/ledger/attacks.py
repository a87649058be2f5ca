"""A workshop for liars: a small honest run with real keys, frames and proofs, and its log in an attacker's hands.

`Small` is the run, carried by hand: every message may be altered or lost, coordinator and sites may be restarted.
`History` is a log that an attacker rewrites. It gives the attacker all that its keys can do: whatever is signed with a
key in `keys` is made anew, its numbers, checkpoints and references fitted to what stands before it; what is signed
with other keys stays as it is, to the byte.
"""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.exchange import Exchange
from tests.tlog.trees import Tree

from phloem import canonical
from phloem.errors import FormatError
from phloem.ledger.audit import Audit, Auditor, Opening
from phloem.ledger.book import Book
from phloem.ledger.bundle import Bundle, needed
from phloem.ledger.entry import EMPTY_ROOT, Entry, Seen, Statement
from phloem.ledger.exchange import Base
from phloem.ledger.findings import NOTE
from phloem.ledger.folder import LedgerFolder
from phloem.ledger.log import Log
from phloem.ledger.party import Party
from phloem.ledger.settings import LedgerSettings
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.result import RoundResult
from phloem.rounds.site import Site
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, Signer
from phloem.tlog.merkle import Node, prove_inclusion, tree_hash
from phloem.tlog.note import Note, signed
from phloem.tlog.policy import Policy
from phloem.tlog.proof import Receipt
from phloem.wire.messages import Reply

ORIGIN, RUN = "example.org/log", "run-1"
START = 1_800_000_000
SITES = ("ant", "bee", "cat")
_CONNECT = sqlite3.connect
Tamper = Callable[[str, bytes], bytes | None]


class _Quick(sqlite3.Connection):
    """A connection that does not wait for the disk."""

    def execute(self, sql: str, /, *more: Any) -> sqlite3.Cursor:
        return super().execute("PRAGMA synchronous = OFF" if "synchronous" in sql else sql, *more)


def spare_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk: these tests lose no power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(sqlite3, "connect", functools.partial(_CONNECT, factory=_Quick))


class Clock:
    """A clock that a test sets, and that goes on by a second whenever somebody looks."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        self.now += 1
        return self.now


class Cosigners:
    """Witnesses in this process (`phloem.ledger.quorum.Witnesses`); those in `away` do not answer."""

    def __init__(self, count: int, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.signers = [Signer.new(f"witness.example/{n}", COSIGNATURE) for n in range(count)]
        self.away: set[str] = set()
        self.missing: dict[str, str] = {}

    @property
    def lines(self) -> list[str]:
        """As a recipe names them."""
        return [f"w{n} {signer.verifier} http://127.0.0.1:9" for n, signer in enumerate(self.signers)]

    def cosign(self, log: Log, note: bytes) -> bytes:
        """The same note with the cosignatures, which the log keeps."""
        present = [signer for signer in self.signers if signer.name not in self.away]
        cosigned = Note.unpack(note).signed(present, self.clock).pack()
        log.keep(cosigned)
        return cosigned


MADE: list[Small] = []  # for a fixture to close


class Small:
    """One run in memory, with its ledger on the disk."""

    def __init__(
        self,
        root: Path,
        receipts: str = "strict",
        *,
        sites: tuple[str, ...] = SITES,
        witnesses: int = 0,
        run: str = RUN,
        joins: Small | None = None,
        clock: Clock | None = None,
        behind: int = 0,
        members: Mapping[str, str] | None = None,
        **plan: Any,
    ) -> None:
        """`joins` is a run before this one, whose log, sites' folders and clock it shares; the coordinator's clock is
        so many seconds `behind`.
        """
        self.root, self.run, self.receipts = root, run, receipts
        self.clock = clock or (Clock() if joins is None else joins.clock)
        self.behind = behind
        self.cosigners = Cosigners(witnesses, self.clock) if joins is None else joins.cosigners
        self.settings = LedgerSettings(receipts, witnesses=self.cosigners.lines, members=dict(members or {}))
        self.folder = LedgerFolder(root / "ledger")
        if joins is None:
            LedgerFolder.create(root / "ledger", ORIGIN, self.settings)
        self.exchange = Exchange(sites, **plan)
        self.said: list[str] = []
        self.results: list[RoundResult] = []
        self.contents: dict[str, bytes] = {}  # frames by digest, as a run's store has them
        self.reopen()
        self.opening: dict[str, bytes] | None = None

    # -- who takes part --------------------------------------------------------------------------------------------

    @property
    def coordinator(self) -> Coordinator:
        return self.exchange.coordinator

    @property
    def sites(self) -> dict[str, Site]:
        return self.exchange.sites

    @property
    def log(self) -> Log:
        return self.book.log

    def party(self, name: str) -> Party:
        found = self.sites[name].party
        assert found is not None
        return found

    def reopen(self) -> None:
        """Coordinator and sites as they are after a start of their processes, from what is on the disk."""
        self.open_book()
        MADE.append(self)
        for name in self.sites:
            self.restart(name)

    def open_book(self) -> None:
        plan, layout = self.exchange.plan, self.exchange.layout
        self.book = Book(
            self.folder,
            self.settings,
            self.run,
            plan.digest,
            4 * layout.size,
            "pkg:pypi/phloem@0",
            say=self.said.append,
            clock=lambda: self.clock() - self.behind,
        )
        if self.cosigners.signers:
            self.book.journal.witnesses = self.cosigners  # type: ignore[assignment]
        self.coordinator.book = self.book

    def restart(self, name: str) -> None:
        """One site's process ends, and begins again with what is on its disk."""
        folder = self.root / "sites" / name
        self.sites[name].party = Party(folder, name, self.receipts, "pkg:pypi/phloem@0", clock=self.clock)

    def close(self) -> None:
        self.book.close()

    # -- rounds ----------------------------------------------------------------------------------------------------

    def orders(self, reachable: set[str] | None = None, train: set[str] | None = None) -> dict[str, bytes]:
        return self.exchange.orders(reachable, train)

    def round(
        self,
        reachable: set[str] | None = None,
        train: set[str] | None = None,
        *,
        tamper: Tamper = lambda site, message: message,
        late: frozenset[str] = frozenset(),
        examples: int = 10,
    ) -> RoundResult:
        """A whole round; `tamper` may change a reply on its way, or lose it (None). Those in `late` come too late."""
        opening, self.opening = self.opening, None
        if opening is None:
            opening = self.orders(reachable, train)
        waiting = {}
        for site, order in opening.items():
            message = tamper(site, self.exchange.reply(site, order, examples))
            if message is not None:
                self.keep(_frame_in(message))
            if message is not None and site in late:
                waiting[site] = message
            elif message is not None:
                self.coordinator.receive(site, message)
        number = self.coordinator.round
        result = self.coordinator.close()
        for site, message in waiting.items():
            self.coordinator.receive(site, message)
        self.book.measured(number, "stop", {"accuracy": 0.5})
        self.keep(result.frame)
        self.results.append(result)
        return result

    def keep(self, frame: bytes) -> None:
        """Puts a frame where a run's store has it."""
        self.contents[sha256(frame).hexdigest()] = frame

    def open(self, commit: str) -> Opening:
        """What opens a commitment, as whoever has the run can say."""
        salt = self.book.salts.get(commit)
        return Opening(None, None) if salt is None else Opening(salt.salt, self.contents.get(salt.content))

    def end(self) -> bytes:
        """Brings the last trunk to the sites and gives the model out; the last checkpoint."""
        for site, order in self.orders(None, set()).items():
            self.coordinator.receive(site, self.exchange.reply(site, order))
        base = Base(self.coordinator.chain.hex(), self.coordinator.digest)
        return self.book.released(self.coordinator.round, base, "model.safetensors", "0" * 64)

    def fork(self, root: Path) -> Small:
        """A second log that begins as this one, and a second coordinator, for the same sites."""
        self.book.journal.checkpoint()
        shutil.copytree(self.folder.root, root / "ledger")
        other = object.__new__(Small)
        other.__dict__.update(self.__dict__)
        other.root, other.folder, other.said = root, LedgerFolder(root / "ledger"), []
        other.exchange = object.__new__(Exchange)
        other.exchange.__dict__.update(self.exchange.__dict__)
        facts, arrays, state = self.coordinator.save()
        other.exchange.coordinator = Coordinator(self.exchange.plan, self.exchange.state)
        other.coordinator.load(
            canonical.loads(canonical.dumps(facts)), arrays, state, list(self.coordinator.recent)
        )
        other.open_book()
        MADE.append(other)
        return other

    def saved(self) -> Callable[[], None]:
        """What brings coordinator and sites back to where they are now, as a resume from a snapshot does."""
        facts, arrays, state = self.coordinator.save()
        facts = canonical.loads(canonical.dumps(facts))
        recent = list(self.coordinator.recent)
        of_sites = {name: site.save() for name, site in self.sites.items()}

        def resume() -> None:
            self.book.close()
            plan, first = self.exchange.plan, self.exchange.state
            self.exchange.coordinator = Coordinator(plan, first)
            self.coordinator.load(facts, arrays, state, list(recent))
            self.exchange.sites = {name: Site(name, plan, first) for name in of_sites}
            for name, (told, owed, at) in of_sites.items():
                self.sites[name].load(told, owed, at)
            self.opening = None
            self.reopen()

        return resume

    # -- looked at -------------------------------------------------------------------------------------------------

    def entries(self) -> list[bytes]:
        return self.log.entries(0, self.log.size)

    def audit(self, **more: Any) -> Audit:
        """The audit of the log as it is, against all its checkpoints and one of now."""
        self.book.journal.checkpoint()
        return Auditor(self.folder.policy, **more).run(self.log, self.log.checkpoints())

    def history(self) -> History:
        """The log in the hands of whoever has the coordinator's key and the log's."""
        self.book.journal.checkpoint()
        keys = {"coordinator": self.folder.coordinator_key}
        return History.of(
            self.entries(), keys, self.folder.log_key, self.folder.policy, self.log.checkpoints()
        )

    def key_of(self, name: str) -> Signer:
        return self.party(name).signer


@dataclass
class Entries:
    """A list as a source for audits."""

    rows: Sequence[bytes]

    @property
    def size(self) -> int:
        return len(self.rows)

    def entries(self, start: int, end: int) -> list[bytes]:
        return list(self.rows[start:end])

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        return Tree(self.rows).read(nodes)


@dataclass(eq=False)
class Line:
    """One entry. `refers` are the lines that it speaks of, `seen` the last line of the checkpoint that it names."""

    entry: Entry
    said: Statement
    refers: dict[int, Line] = field(default_factory=dict)
    seen: Line | None = None
    by: tuple[Signer, ...] | None = None  # who signs it, whatever `keys` say
    raw: bytes | None = None  # the entry as it is
    fixed: frozenset[str] = frozenset()  # of "seq", "prev", "refers": what the attacker set by hand

    @property
    def kind(self) -> str:
        return self.said.kind


@dataclass
class History:
    """A log as a list of lines, and what its attacker holds."""

    lines: list[Line]
    keys: dict[str, Signer]
    log_key: Signer
    policy: Policy
    notes: list[bytes]

    @classmethod
    def of(
        cls,
        rows: Sequence[bytes],
        keys: Mapping[str, Signer],
        log_key: Signer,
        policy: Policy,
        notes: Iterable[bytes] = (),
    ) -> History:
        lines: list[Line] = []
        for row in rows:
            entry = Entry.unpack(row)
            said = entry.statement
            refers = {place: lines[place] for place in _references(said) if place < len(lines)}
            seen = lines[said.prev.size - 1] if said.prev.size else None
            lines.append(Line(entry, said, refers, seen))
        return cls(lines, dict(keys), log_key, policy, list(notes))

    def copy(self) -> History:
        """Another one that starts from the same lines."""
        again = {line: replace(line) for line in self.lines}
        for line in again.values():
            line.refers = {place: again[other] for place, other in line.refers.items()}
            line.seen = None if line.seen is None else again[line.seen]
        return History(list(again.values()), dict(self.keys), self.log_key, self.policy, list(self.notes))

    # -- found -----------------------------------------------------------------------------------------------------

    def find(self, kind: str, sender: str | None = None, **fields: Any) -> list[Line]:
        """The lines of a kind, whose sender or fields are these."""
        return [
            line
            for line in self.lines
            if line.kind == kind
            and sender in (None, line.said.sender)
            and all(line.said.fields.get(name) == value for name, value in fields.items())
        ]

    def one(self, kind: str, sender: str | None = None, **fields: Any) -> Line:
        """The first of them."""
        return self.find(kind, sender, **fields)[0]

    def answer_to(self, update: Line) -> Line:
        """The `received` to an update."""
        return next(line for line in self.find("received") if update in line.refers.values())

    def place(self, line: Line) -> int:
        return self.lines.index(line)

    # -- changed ---------------------------------------------------------------------------------------------------

    def change(self, line: Line, *, by: tuple[Signer, ...] | None = None, **changes: Any) -> Line:
        """Lets the line say something else: `seq`, `time`, `prev`, `run`, `sender`, or fields of its kind."""
        common = {k: changes.pop(k) for k in ("seq", "time", "prev", "run", "sender", "kind") if k in changes}
        line.said = replace(line.said, fields={**line.said.fields, **changes}, **common)
        line.fixed |= common.keys() & {"seq", "prev"}
        if {"entry", "leaf", "inputs", "excluded"} & changes.keys():
            line.fixed |= {"refers"}
        if by is not None:
            line.by = by
        return line

    def drop(self, *lines: Line) -> None:
        """Takes lines out, and out of what the attacker's own lines refer to."""
        for line in lines:
            at = self.place(line)
            for other in self.lines:
                if other.seen is line:
                    other.seen = self.lines[at - 1] if at else None
            self.lines.remove(line)

    def drop_all(self, site: str, number: int) -> None:
        """An update and the answer to it were never there."""
        update = self.one("update", site, round=number)
        self.drop(self.answer_to(update), update)

    def insert(self, at: int, said: Statement, *by: Signer, like: Line | None = None) -> Line:
        """A new line before the one at `at`, signed with these keys, or with the attacker's."""
        seen = self.lines[at - 1] if like is None and at else (None if like is None else like.seen)
        line = Line(Entry(b"", ()), said, {}, seen, by or None)
        if said.kind in ("received", "erasure", "aggregate"):
            line.fixed |= {"refers"}
        self.lines.insert(at, line)
        return line

    def again(self, line: Line, at: int) -> Line:
        """A copy of a line, to the byte, before the one at `at`."""
        found = replace(line, raw=line.entry.pack())
        self.lines.insert(at, found)
        return found

    def move(self, line: Line, at: int) -> None:
        self.lines.remove(line)
        self.lines.insert(at, line)

    def say(self, kind: str, sender: str, fields: Mapping[str, Any], like: Line) -> Statement:
        """A statement with the number and time of the line `like`."""
        return Statement(kind, like.said.run, sender, like.said.seq, like.said.time, like.said.prev, fields)

    # -- made ------------------------------------------------------------------------------------------------------

    def seal(self) -> list[bytes]:
        """The entries, made anew where the attacker's keys can."""
        tree, rows = Tree(), []
        places: dict[Line, int] = {}
        leaves: dict[Line, bytes] = {}
        numbers: dict[tuple[str, str], int] = {}
        for line in self.lines:
            row = line.raw if line.raw is not None else self._made(line, tree, places, leaves, numbers).pack()
            said = line.said
            numbers[said.run, said.sender] = max(said.seq, numbers.get((said.run, said.sender), -1))
            places[line] = tree.size
            tree.append(row)
            rows.append(row)
            leaves[line] = Entry.unpack(row).leaf
        return rows

    def _made(
        self,
        line: Line,
        tree: Tree,
        places: Mapping[Line, int],
        leaves: Mapping[Line, bytes],
        numbers: Mapping[tuple[str, str], int],
    ) -> Entry:
        said = line.said
        signers = line.by or ((self.keys[said.sender],) if said.sender in self.keys else ())
        if not signers or (line.by is None and said.kind == "member" and said.sender != "coordinator"):
            return line.entry
        if "seq" not in line.fixed and line.by is None:
            said = replace(said, seq=numbers.get((said.run, said.sender), -1) + 1)
        if "prev" not in line.fixed:
            size = places[line.seen] + 1 if line.seen in places else 0
            said = replace(said, prev=Seen(size, tree_hash(size, tree.read) if size else EMPTY_ROOT))
        if "refers" not in line.fixed:
            said = replace(said, fields=_referring(said, line.refers, places, leaves))
        line.said = said
        return said.signed(*signers)

    def note(self, rows: Sequence[bytes] | None = None, size: int | None = None) -> bytes:
        """A checkpoint of the sealed log, signed with the log's key."""
        tree = Tree(self.seal() if rows is None else rows)
        size = tree.size if size is None else size
        root = tree_hash(size, tree.read) if size else EMPTY_ROOT
        return signed(Checkpoint(self.log_key.name, size, root).pack(), [self.log_key])

    def bundle(self, wanted: Iterable[int], payloads: Callable[[str], Opening] | None = None) -> Bundle:
        """What `phloem ledger prove` makes of some entries of the sealed log."""
        rows = self.seal()
        tree, note = Tree(rows), self.note(rows)
        entries = [(index, Entry.unpack(row)) for index, row in enumerate(rows)]
        found = Bundle(self.policy.pack())
        for index in needed(entries, wanted):
            found.entries[index] = rows[index]
            proof = tuple(prove_inclusion(index, tree.size, tree.read))
            found.receipts[index] = Receipt(index, proof, note).pack()
        for index in wanted if payloads is not None else ():
            assert payloads is not None
            opened = payloads(entries[index][1].statement["commit"])
            assert opened.salt is not None
            assert opened.content is not None
            found.salts[index], found.payloads[index] = opened.salt, opened.content
        return found

    def audit(
        self, kept: Iterable[bytes] = (), *, notes: Iterable[bytes] | None = None, **more: Any
    ) -> Audit:
        """The audit of the sealed log, under checkpoints that somebody kept and the attacker's own newest one."""
        rows = self.seal()
        own = [self.note(rows)] if notes is None else list(notes)
        return Auditor(self.policy, **more).run(Entries(rows), [*kept, *own])


def _frame_in(message: bytes) -> bytes:
    try:
        return Reply.unpack(message).frame
    except FormatError:
        return b""


def _references(said: Statement) -> list[int]:
    """The entries that a statement names."""
    if said.kind in ("received", "erasure"):
        return [said["entry"]]
    if said.kind == "aggregate":
        return [*said["inputs"], *(row["entry"] for row in said["excluded"] if "entry" in row)]
    return []


def _referring(
    said: Statement, refers: Mapping[int, Line], places: Mapping[Line, int], leaves: Mapping[Line, bytes]
) -> dict[str, Any]:
    """The fields of a statement with references to where the lines stand now; to none that are gone."""
    now = {old: places[line] for old, line in refers.items() if line in places}
    fields = dict(said.fields)
    if said.kind in ("received", "erasure") and said["entry"] in now:
        fields["entry"], fields["leaf"] = now[said["entry"]], leaves[refers[said["entry"]]].hex()
    elif said.kind == "aggregate":
        fields["inputs"] = sorted(now[place] for place in said["inputs"] if place in now)
        fields["excluded"] = [
            {**row, "entry": now[row["entry"]]} if row.get("entry") in now else row
            for row in said["excluded"]
        ]
    return fields


def names(audit: Audit) -> set[str]:
    """What was found, besides what is only worth knowing."""
    return set(audit.findings.counts) - {NOTE}


def notes_in(audit: Audit) -> list[str]:
    """What is only worth knowing, in words."""
    return [row.words for row in audit.findings.rows if row.name == NOTE]


def words(audit: Audit) -> list[str]:
    """All that was found, in words."""
    return [str(row) for row in audit.findings.rows]

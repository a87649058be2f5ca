"""A run's ledger in a test: a coordinator's book and sites' parties that really exchange, without anything to learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.ledger.samples import CODEC, ORIGIN, RUN, SOFTWARE, TIME, digest

from phloem.ledger.audit import Audit, Auditor
from phloem.ledger.book import Book
from phloem.ledger.entry import Entry, Statement
from phloem.ledger.exchange import Base, Carried, Merged, Sent
from phloem.ledger.folder import LedgerFolder
from phloem.ledger.party import Party
from phloem.ledger.settings import LedgerSettings
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.note import Note

PLAN, RULE, RAW = digest("plan"), digest("rule"), 4_000


def base(number: int) -> Base:
    """The trunk at the beginning of a round."""
    return Base(digest(f"chain {number}"), digest(f"state {number}"))


def frame_of(site: str, number: int) -> bytes:
    return f"what {site} learned in round {number}".encode()


_OPEN: list[Book] = []


def close_all() -> None:
    """Closes every book that was opened here."""
    while _OPEN:
        _OPEN.pop().close()


@dataclass
class Clock:
    """Seconds that pass when they are looked at."""

    now: float = float(TIME)

    def __call__(self) -> float:
        self.now += 1
        return self.now


@dataclass
class Exchange:
    """One run: its folder, its book, and its sites, each of which may be closed and opened again."""

    root: Path
    names: tuple[str, ...] = ("ant", "bee")
    settings: LedgerSettings = field(default_factory=LedgerSettings)
    run: str = RUN
    policy: Path | None = None  # that the sites were given beforehand
    clock: Clock = field(default_factory=Clock)
    said: list[str] = field(default_factory=list)
    merged: dict[int, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = LedgerFolder(self.root / "ledger")
        if not self.folder.exists:
            LedgerFolder.create(self.folder.root, ORIGIN, self.settings)
        self.book = self.open_book()
        self.parties = {name: self.open_party(name) for name in self.names}

    def open_book(self) -> Book:
        """The coordinator after a start."""
        found = Book(
            self.folder, self.settings, self.run, PLAN, RAW, SOFTWARE, say=self.said.append, clock=self.clock
        )
        _OPEN.append(found)
        return found

    def open_party(self, name: str) -> Party:
        """A site after a start."""
        return Party(
            self.root / "sites" / name, name, self.settings.receipts, SOFTWARE, self.policy, clock=self.clock
        )

    def restart(self) -> None:
        """The coordinator stops, and starts again."""
        self.book.close()
        self.book = self.open_book()

    def restart_site(self, name: str) -> None:
        self.parties[name] = self.open_party(name)

    # -- one round, step by step ---------------------------------------------------------------------------------

    def carried(self, number: int) -> Carried:
        return Carried("delta", f"step {number}".encode(), "int8") if number else Carried("held")

    def broadcast(self, number: int) -> Sent:
        """What a site finds in an order."""
        one = self.carried(number)
        return Sent(number, base(number), one.frame, one.codec, RAW, one.form)

    def update(self, site: str, number: int, examples: int = 100) -> Sent:
        """What a site sends."""
        return Sent(number, base(number), frame_of(site, number), CODEC, RAW, "", examples)

    def opened(
        self, number: int, sites: Iterable[str] | None = None, *, closing: bool = False
    ) -> dict[str, bytes]:
        """The notices of a round."""
        names = self.names if sites is None else tuple(sites)
        codecs = {} if closing else dict.fromkeys(names, CODEC)
        return self.book.opened(number, base(number), codecs, dict.fromkeys(names, self.carried(number)))

    def answer(self, site: str, number: int, notice: bytes) -> tuple[bytes, bool]:
        """What a site attaches to its reply, and whether that is an update."""
        party = self.parties[site]
        merged = site in self.merged.get(number - 1, [])
        if party.admit(notice, self.broadcast(number), merged=merged):
            return party.update(self.update(site, number)), True
        return party.word(), False

    def take(self, site: str, number: int, attachment: bytes, *, update: bool = True) -> str | None:
        """Why a reply is refused; None if it is taken."""
        self.book.heard(site, attachment)
        if not update:
            return "silent"
        reason = self.book.received(site, number, attachment, frame_of(site, number), 100, None)
        self.book.journal.flush()  # so that a crash after this leaves it in the log
        return reason

    def close(self, number: int, sites: Iterable[str], refused: Mapping[str, str] | None = None) -> None:
        """Merges the updates of these sites."""
        names = sorted(sites)
        merged = [Merged(name, 100) for name in names]
        self.book.merged(number, RULE, merged, refused or {}, base(number + 1))
        self.merged[number] = names
        self.book.measured(number, "stop", {"accuracy": 0.5, "round": number})

    def round(
        self, number: int, tamper: Callable[[str, bytes], bytes | None] = lambda site, reply: reply
    ) -> list[str]:
        """A whole round; `tamper` may change what a site attaches, or lose the reply (None)."""
        taken = []
        for site, notice in self.opened(number).items():
            attachment, update = self.answer(site, number, notice)
            arrived = tamper(site, attachment)
            if arrived is not None and self.take(site, number, arrived, update=update) is None:
                taken.append(site)
        self.close(number, taken)
        return taken

    def finish(self, number: int) -> None:
        """The closing order, and the model."""
        for site, notice in self.opened(number, closing=True).items():
            self.parties[site].admit(
                notice, self.broadcast(number), merged=site in self.merged.get(number - 1, [])
            )
        self.book.released(number, base(number), "model.safetensors", digest("model"))

    # -- what came of it -----------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[Entry]:
        with self.folder.log() as log:
            return [Entry.unpack(data) for data in log.entries(0, log.size)]

    @property
    def statements(self) -> list[Statement]:
        return [entry.statement for entry in self.entries]

    def kinds(self) -> list[str]:
        return [said.kind for said in self.statements]

    def audit(self) -> Audit:
        """The log, read by somebody else."""
        with self.folder.log() as log:
            found = Auditor(self.folder.policy).run(log, log.checkpoints())
        numbers = [(said.sender, said.seq) for said in self.statements]
        assert len(set(numbers)) == len(numbers), "a number was used twice"
        return found

    def wrong(self) -> list[str]:
        """What the audit finds, but for notes."""
        return [str(row) for row in self.audit().findings.rows if row.name != "note"]


def checkpoint_in(note: bytes) -> Checkpoint:
    return Checkpoint.unpack(Note.unpack(note).text)

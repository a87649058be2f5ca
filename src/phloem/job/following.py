"""A rank above 0 of a run with the engine "torch": its sites, and a replica of rank 0's coordinator.

It does what rank 0 tells, and merges every round by itself from the replies of all ranks. Before its sites train it
compares what it came to, trunk and orders, with rank 0's.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from phloem.engines.base import Answer
from phloem.engines.host import initial_state_of
from phloem.engines.shelf import read_tensors
from phloem.engines.torch.engine import blobs_of, digest_of
from phloem.engines.torch.part import Part, private
from phloem.engines.torch.ranks import Ranks, Said
from phloem.errors import PhloemError, StateError
from phloem.job.directory import reading
from phloem.job.merging import asked_by, last_orders, merge, next_orders
from phloem.job.schedule import Schedule
from phloem.ledger.exchange import Base, Carried, Merged
from phloem.recipe import Recipe
from phloem.rounds.choose import DOWN, ToldChoice
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.plan import Choice
from phloem.store.files import Store

if TYPE_CHECKING:
    from phloem.ledger.book import Book


class ToldBook:
    """In place of the ledger, which rank 0 keeps: what rank 0 says that the ledger said."""

    def __init__(self) -> None:
        self.attachments: dict[str, bytes] = {}
        self.merged_sites: set[str] = set()

    def opened(
        self, number: int, base: Base, codecs: Mapping[str, str], carried: Mapping[str, Carried]
    ) -> dict[str, bytes]:
        """The notices of this rank's sites."""
        return self.attachments

    def heard(self, site: str, attachment: bytes) -> None:
        """Nothing: rank 0 took it in."""

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
        """Why an update is not merged; None if rank 0 merged it."""
        return reason or (None if site in self.merged_sites else "rank 0 did not take it")

    def merged(
        self, number: int, rule: str, merged: Sequence[Merged], refused: Mapping[str, str], output: Base
    ) -> None:
        """Nothing: rank 0 wrote it down."""


class Follower:
    """One rank's side of a run, from `open` to the end of it."""

    def __init__(self, ranks: Ranks, recipe: Recipe) -> None:
        """Raises as `Part`."""
        self.ranks, self.schedule = ranks, Schedule(recipe)
        self.part = Part(ranks, recipe)
        state = initial_state_of(self.part.host.task, recipe)
        self.book = None if recipe.ledger is None else ToldBook()
        self.told = ToldChoice() if recipe.adapts else None  # what rank 0 chose
        book = cast("Book | None", self.book)
        self.coordinator = Coordinator(self.part.host.plan, state, choose=self.told, book=book)
        self.store: Path | None = None  # what this rank keeps of the run until its end
        self._saved: dict[str, dict[str, Any]] = {}
        self._stale: set[str] = set()
        self._merge: Callable[[], None] | None = None  # of the last round, where it waits for rank 0's word
        self._problem: PhloemError | None = None

    def do(self, said: Said) -> None:
        """What rank 0 tells.

        Raises:
            PhloemError: it failed, at whichever rank.
        """
        head = said.head
        if head["do"] == "deliver":
            self._deliver(said)
        elif head["do"] == "ledger":
            self.part.join_ledger(Path(head["folder"]))
        elif head["do"] == "spill":
            self.store = Path(head["store"])
            self.part.spill_to(self.store)
        elif head["do"] == "save":
            self.store = Path(head["store"])
            before, self._saved = blobs_of(self._saved), self.part.save(self.store)
            self._stale |= before
        else:
            self.store = Path(head["store"])
            self._load(self.store, head["saved"], head["standing"])

    # -- rounds ----------------------------------------------------------------------------------------------

    def _deliver(self, said: Said) -> None:
        head, orders = said.head, dict[str, bytes]()
        self._forget(head["trunks"])
        try:
            orders = self._orders(said)
            self._compare(orders, head)
        except PhloemError as error:
            self._problem = self._problem or error
        answers = self.part.deliver(orders, self._problem)
        if head["last"]:
            return
        asked = asked_by(orders)
        self._merge = lambda: self._merged(asked, answers)
        if self.book is None and self.told is None:
            self._settle()

    def _orders(self, said: Said) -> dict[str, bytes]:
        if self.book is not None:
            self.book.merged_sites = set(said.head["merged"] or ())
            at, self.book.attachments = 0, {}
            for site, size in said.head["attachments"]:
                self.book.attachments[site] = said.payload[at : at + size]
                at += size
        self._take_choices(said.head)
        return (
            last_orders(self.coordinator)
            if said.head["last"]
            else next_orders(self.coordinator, self.schedule)
        )

    def _take_choices(self, head: Mapping[str, Any]) -> None:
        """Merges the last round with the codec that rank 0 chose for it, and takes what it chose for this one."""
        plan, number = self.coordinator.plan, self.coordinator.round
        if self.told is not None and self._merge is not None:
            self.told.told[DOWN, number] = Choice(json.loads(head["codec"]))
            number += 1
        self._settle()
        if self.told is not None:
            self.told.owed = head["owed"]
            for site, packed in head["choices"].items():
                chosen = Choice.unpack(bytes.fromhex(packed)) if packed else plan.up_in(number)
                self.told.told[site, number] = chosen

    def _settle(self) -> None:
        """Merges the last round; what is wrong with it is told when rank 0 has told what it came to."""
        merge_now, self._merge = self._merge, None
        if merge_now is not None:
            try:
                merge_now()
            except PhloemError as error:
                self._problem = error

    def _merged(self, asked: set[str], answers: Mapping[str, Answer]) -> None:
        messages = {site: answer.message for site, answer in answers.items()}
        merge(self.coordinator, self.schedule, asked, messages, self.coordinator.receive)

    def _compare(self, orders: Mapping[str, bytes], head: Mapping[str, Any]) -> None:
        rank, number, chain = self.ranks.rank, self.coordinator.round, self.coordinator.chain.hex()
        hint = "compare versions and machines of the two ranks; on one machine, report this as a bug"
        if head["chain"] not in (None, chain):
            raise StateError(
                f"rank {rank} merged round {number - 1} to the trunk {chain[:12]}, rank 0 to {head['chain'][:12]}",
                hint=hint,
            )
        own = [site for site in self.part.host.sites if site in orders]
        if digest_of(orders, own) != head["orders"]:
            raise StateError(f"rank {rank} has other orders for round {number} than rank 0", hint=hint)

    # -- saved and restored ----------------------------------------------------------------------------------

    def _forget(self, trunks: Sequence[str]) -> None:
        """Lets go of what only an older snapshot named; in rank 0's newest, by now durable, sites stand on `trunks`."""
        if self._stale and self.store is not None:
            store = Store(self.store)
            needed = blobs_of(self._saved) | set(
                trunks
            )  # where ranks share a disk, other ranks' trunks lie there too
            for digest in self._stale - needed:
                store.forget(digest)
            self._stale &= needed

    def _load(self, path: Path, saved: dict[str, dict[str, Any]], standing: Mapping[str, Any]) -> None:
        blobs = [standing["arrays"], standing["state"], *standing["frames"]]
        self.part.fetch(path, blobs_of(saved) | set(blobs))

        def loaded() -> Said:
            store = private(path)
            with reading("the snapshot"):
                self.part.host.load(store, saved)
                self.coordinator.load(
                    standing["coordinator"],
                    read_tensors(store, standing["arrays"]),
                    read_tensors(store, standing["state"]),
                    [store.get(digest) for digest in standing["frames"]],
                )
            return Said({})

        self.ranks.together(loaded)
        self._saved = saved

    def finish(self) -> None:
        """Removes what only a resume needed; on another machine than rank 0's the run's directory, if it is empty."""
        if self.store is not None:
            shutil.rmtree(self.store, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.store.parent.rmdir()

"""The main job: builds a model from branches at many sites, round after round, and writes down what it cost."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.numpy import save as save_tensors

from phloem import canonical
from phloem.engines.base import Engine
from phloem.errors import StateError
from phloem.job.account import Account, Merging, take_up
from phloem.job.adapting import Adaptation, told_in_short
from phloem.job.clock import Clock
from phloem.job.directory import RunDirectory
from phloem.job.merging import asked_by, last_orders, merge, next_orders
from phloem.job.record import RoundRecord, summarize, without_nan
from phloem.job.schedule import Schedule
from phloem.job.watch import Watcher
from phloem.ledger.exchange import Base
from phloem.recipe import Recipe
from phloem.rounds.coordinator import DIVERGED, Coordinator
from phloem.rounds.result import RoundResult
from phloem.tasks.checked import CheckedTask
from phloem.tensors import Layout, State, state_digest

if TYPE_CHECKING:
    from phloem.ledger.book import Book


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its directory.
        state: the final model, float32 arrays by name.
        summary: what `summary.json` says.
        records: one per round.
    """

    path: Path
    state: State
    summary: dict[str, Any]
    records: list[RoundRecord] = field(repr=False)


@dataclass
class Runner:
    """One run between its start (or resume) and its end."""

    recipe: Recipe
    directory: RunDirectory
    coordinator: Coordinator
    engine: Engine
    task: CheckedTask
    watch: Watcher
    records: list[RoundRecord]
    head: str | None
    closing: RoundRecord | None = None  # the last round, if only its result has still to reach the sites

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.recipe)
        self.layout = Layout.of(self.coordinator.state)
        self.clock = Clock(self.recipe)
        self.account = Account(self.recipe, self.clock, self.coordinator.plan, self.layout.size)
        self.adaptation = Adaptation.of(self.recipe, self.coordinator, self.clock, self.task.metric)

    def run(self) -> Run:
        """Every round that is left, then the end."""
        self.watch.started(self.recipe, self.task.metric, self.layout.size, tuple(self.records))
        if self.closing is not None:
            self._close(self.closing, last_orders(self.coordinator))
            return self._end()
        opening = next_orders(self.coordinator, self.schedule)
        unpaid = opening if not self.records else {}
        while not self._over():
            opening = self._round(opening, unpaid)
            unpaid = {}
        return self._end()

    @property
    def _last(self) -> RoundRecord | None:
        return self.records[-1] if self.records else None

    def _over(self) -> bool:
        if not self.records:
            return False
        rounds, last = self.recipe.rounds, self.records[-1]
        reached = rounds.target is not None and self.task.metric.reached(last.metric, rounds.target)
        trained = sum(record.trained for record in self.records)
        return (rounds.stop == "target" and reached) or trained >= rounds.max

    def _round(self, orders: dict[str, bytes], unpaid: dict[str, bytes]) -> dict[str, bytes]:
        """One round, from orders in the sites' hands to the orders that bring its result."""
        started = time.perf_counter()
        number = self.coordinator.round
        asked = asked_by(orders)
        answers = self.engine.deliver(orders)
        failures = dict(self.engine.failures)
        messages = {site: answer.message for site, answer in answers.items()}
        merged = merge(self.coordinator, self.schedule, asked, messages, self._receive)
        result, refused = merged.result, merged.refused
        for site, failure in failures.items():
            if site in asked:
                refused[site] = failure.reason
            if failure.lost:
                self.coordinator.place(site, 0)
        metrics = self.task.evaluate(self.coordinator.state, "stop")
        if self.coordinator.book is not None:
            self.coordinator.book.measured(number, "stop", without_nan(metrics))
        record = RoundRecord(
            number,
            metrics[self.task.metric.name],
            metrics,
            [update.site for update in result.accepted],
            refused,
            nmse_down=result.nmse_down,
            state=result.state,
            kept=None if self.recipe.prune is None else self.coordinator.kept.size,
        )
        if self.adaptation is not None:
            line = self.adaptation.observe(record, result, orders, answers, self._last)
            if line is not None:
                self.directory.add_decision(line)
        self.records.append(record)
        last = self._over()
        if last:
            following = last_orders(self.coordinator)
        else:
            following = next_orders(self.coordinator, self.schedule)
        before = self.records[-2] if len(self.records) > 1 else None
        merging = Merging(merged.codec_seconds, result.choice, len(result.accepted))
        self.account.round(record, before, orders, answers, following, unpaid, merging)
        record.commit = self.head = self.directory.commit(self.head, self._commit(record, result))
        record.wall_seconds = time.perf_counter() - started
        if last:
            self._snapshot(record)
            self._close(self.records.pop(), following)
            return following
        self.directory.append(record)
        if self.coordinator.round % self.recipe.run.snapshot_every == 0:
            self._snapshot()
        self.watch.round(record)
        return following

    def _close(self, record: RoundRecord, orders: dict[str, bytes]) -> None:
        """Brings the last round's result to the sites, adds what they answer, and writes the round down."""
        started = time.perf_counter()
        for site, answer in self.engine.deliver(orders).items():
            self._receive(site, answer.message)
            take_up(record, record.per_site[site], answer)
            record.codec_seconds += answer.codec_seconds
        self.account.add_up(record, self._last)
        record.wall_seconds += time.perf_counter() - started
        self.records.append(record)
        self.directory.append(record)
        self.watch.round(record)

    def _receive(self, site: str, message: bytes) -> str | None:
        reason = self.coordinator.receive(site, message)
        if reason is not None and reason.startswith(DIVERGED) and self.engine.trusted:
            raise StateError(
                f"site '{site}' {reason}",
                hint="sites and coordinator must decode alike: report this run directory as a bug",
            )
        return reason

    def _commit(self, record: RoundRecord, result: RoundResult) -> dict[str, Any]:
        """The round as a merge commit of one-commit branches; blobs first, so that it never dangles."""
        keep = self.recipe.run.keep_updates
        inputs = []
        for update in result.accepted:
            frame = self.directory.store.put(update.frame) if keep else canonical.digest(update.frame)
            inputs.append({"site": update.site, "examples": update.examples, "frame": frame})
        frame = self.directory.store.put(result.frame) if keep else canonical.digest(result.frame)
        return {
            "kind": "round",
            "version": 0,
            "round": record.round,
            "plan": self.coordinator.plan.digest,
            "frame": frame,
            "chain": result.chain.hex(),
            "state": result.state,
            "inputs": inputs,
            "refused": dict(sorted(record.refused.items())),
            **({} if record.kept is None else {"kept": record.kept}),
            **({} if self.adaptation is None else {"down": result.choice.config}),
            "metric": record.metric if math.isfinite(record.metric) else None,
        }

    def _snapshot(self, closing: RoundRecord | None = None) -> None:
        """What a resume starts from; `closing` is the last round, whose result the sites have still to get."""
        facts, arrays, state = self.coordinator.save()
        private = self.directory.private
        self.directory.save_snapshot(
            {
                "commit": self.head,
                "round": self.coordinator.round,
                "coordinator": facts,
                "arrays": private.put(save_tensors(arrays)),
                "state": private.put(save_tensors(state)),
                "frames": [private.put(frame) for frame in self.coordinator.recent],
                "sites": self.engine.save(private),
                **({} if closing is None else {"closing": closing.to_json()}),
            }
        )

    def _end(self) -> Run:
        state = self.coordinator.state
        digest = state_digest(state)
        tests = self.task.evaluate(state, "test")
        end = {
            "test": tests,
            "state_digest": digest,
            "commit": self.head,
            "chain": self.coordinator.chain.hex(),
            "plan": self.coordinator.plan.digest,
            "data_digest": data_digest(self.task),
            "description": self.recipe.description,
        }
        summary = summarize(self.recipe, self.task.metric, self.records, self.layout.size, end)
        model = save_tensors(state, metadata={"phloem.state": digest})
        if self.adaptation is not None:
            summary["choices"] = told_in_short(self.directory.decisions(), self.adaptation.choice.controller)
        if self.coordinator.book is not None:
            summary["ledger"] = self._released(self.coordinator.book, canonical.digest(model))
        self.directory.write("model.safetensors", model)
        self.directory.write("summary.json", json.dumps(summary, indent=2, sort_keys=True).encode() + b"\n")
        self.directory.finish()
        self.watch.finished(summary)
        return Run(self.directory.root, state, summary, self.records)

    def _released(self, book: Book, digest: str) -> dict[str, Any]:
        """The last entry of the run, that the model is given out; what the summary says of the ledger."""
        coordinator = self.coordinator
        base = Base(coordinator.chain.hex(), coordinator.digest)
        note = book.released(coordinator.round, base, "model.safetensors", digest)
        self.directory.write("ledger/checkpoint", note)
        return {
            "run": book.run,
            "origin": book.log.origin,
            "receipts": book.settings.receipts,
            "entries": book.log.size,
            "bytes_of_entries": book.journal.written,
            "bytes_on_the_wire": sum(record.ledger_bytes for record in self.records),
            "root": book.journal.seen.root.hex(),
        }


def data_digest(task: Any) -> str | None:
    """The digest of the task's data, where the task names it."""
    digest = getattr(task, "data_digest", None)
    return digest if isinstance(digest, str) else None

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
from phloem.engines.base import Answer, Engine
from phloem.errors import StateError
from phloem.job.directory import RunDirectory
from phloem.job.merging import asked_by, last_orders, merge, next_orders
from phloem.job.record import RoundRecord, SiteRecord, summarize, without_nan
from phloem.job.schedule import Schedule
from phloem.job.watch import Watcher
from phloem.ledger.exchange import Base
from phloem.recipe import Recipe
from phloem.rounds.choose import Timing
from phloem.rounds.coordinator import DIVERGED, Coordinator, RoundResult
from phloem.tasks.checked import CheckedTask
from phloem.tensors import Layout, State, state_digest
from phloem.wire.messages import Order, Reply, Status

if TYPE_CHECKING:
    from phloem.ledger.book import Book

_KEPT_TIMINGS = 8


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

    def _over(self) -> bool:
        if not self.records:
            return False
        rounds, last = self.recipe.rounds, self.records[-1]
        reached = rounds.target is not None and self.task.metric.reached(last.metric, rounds.target)
        return (rounds.stop == "target" and reached) or len(self.records) >= rounds.max

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
        self.records.append(record)
        last = self._over()
        if last:
            following = last_orders(self.coordinator)
        else:
            following = next_orders(self.coordinator, self.schedule)
        self._account(record, answers, following, unpaid, merged.codec_seconds)
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
            self._take_up(record, record.per_site[site], answer)
            record.codec_seconds += answer.codec_seconds
        self._add_up(record, self.records[-1] if self.records else None)
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

    def _account(
        self,
        record: RoundRecord,
        answers: dict[str, Answer],
        following: dict[str, bytes],
        unpaid: dict[str, bytes],
        codec_seconds: float,
    ) -> None:
        """Counts what crosses the boundary: `len` of every message, frames apart from the rest."""
        up_seconds = down_seconds = 0.0
        record.per_site = {name: SiteRecord() for name in self.recipe.sites.all}
        for name, row in record.per_site.items():
            link = self.recipe.link_of(name)
            row.status = "away" if name not in answers else row.status
            if name in answers:
                reply = self._take_up(record, row, answers[name])
                row.metrics = dict(answers[name].metrics)
                row.status = "silent" if reply.status is Status.SILENT else "accepted"
                seconds = link.up_seconds(len(answers[name].message))
                up_seconds = max(up_seconds, seconds + link.train_seconds)
                self._time(
                    name, record.round, len(answers[name].message), seconds, answers[name].codec_seconds
                )
            row.status = "refused" if name in answers and name in record.refused else row.status
            for messages in (following, unpaid):
                if name in messages:
                    order = Order.unpack(messages[name])
                    row.down += order.frame_bytes
                    row.control += len(messages[name]) - order.frame_bytes
                    record.ledger_bytes += len(order.attachment)
                    row.frames_down += len(order.items)
                    down_seconds = max(down_seconds, link.down_seconds(len(messages[name])))
        record.seconds = up_seconds + down_seconds
        record.train_seconds = sum(a.train_seconds for a in answers.values())
        record.codec_seconds = codec_seconds + sum(a.codec_seconds for a in answers.values())
        self._add_up(record, self.records[-2] if len(self.records) > 1 else None)

    def _take_up(self, record: RoundRecord, row: SiteRecord, answer: Answer) -> Reply:
        """Counts one answer."""
        reply = Reply.unpack(answer.message)
        row.up += reply.frame_bytes
        row.control += len(answer.message) - reply.frame_bytes
        record.ledger_bytes += len(reply.attachment)
        row.examples += reply.examples
        row.frames_up += reply.status is Status.UPDATE
        return reply

    def _add_up(self, record: RoundRecord, before: RoundRecord | None) -> None:
        """The sums over sites, and over the rounds so far."""
        rows, size = record.per_site.values(), self.layout.size
        frames_up, frames_down = sum(row.frames_up for row in rows), sum(row.frames_down for row in rows)
        record.bytes_up, record.bytes_down = sum(r.up for r in rows), sum(r.down for r in rows)
        record.control_bytes = sum(r.control for r in rows)
        record.bits_per_parameter_up = 8 * record.bytes_up / (size * frames_up) if frames_up else 0.0
        record.bits_per_parameter_down = 8 * record.bytes_down / (size * frames_down) if frames_down else 0.0
        spent = record.bytes_up + record.bytes_down + record.control_bytes
        record.total_bytes = spent + (before.total_bytes if before else 0)
        record.total_seconds = record.seconds + (before.total_seconds if before else 0.0)

    def _time(self, site: str, number: int, size: int, seconds: float, codec_seconds: float) -> None:
        past = self.coordinator.timings.get(site, ())
        now = Timing(number, size, seconds, codec_seconds)
        self.coordinator.timings[site] = (*past, now)[-_KEPT_TIMINGS:]

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

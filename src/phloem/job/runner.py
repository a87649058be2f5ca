"""The main job: builds a model from branches at many sites, round after round, and writes down what it cost."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors

from phloem import canonical
from phloem.codecs.casts import NoCompression
from phloem.engines.host import Answer, initial_state_of, load_task_of, plan_for, read_tensors
from phloem.engines.local import LocalEngine
from phloem.errors import ConfigError, StateError
from phloem.job.directory import RunDirectory
from phloem.job.record import RoundRecord, SiteRecord, read_summary, summarize
from phloem.job.schedule import Schedule
from phloem.job.watch import Watcher
from phloem.recipe import Recipe
from phloem.rounds import events
from phloem.rounds.choose import Timing
from phloem.rounds.coordinator import DIVERGED, Coordinator, RoundResult
from phloem.rounds.plan import Plan
from phloem.tensors import Layout, State, state_digest
from phloem.wire import frame as frames
from phloem.wire.messages import Order, Reply, Status

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
    engine: LocalEngine
    evaluate: Callable[[State, str], dict[str, float]]
    task: Any
    watch: Watcher
    records: list[RoundRecord]
    head: str | None

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.recipe)
        self.layout = Layout.of(self.coordinator.state)

    def run(self) -> Run:
        """Every round that is left, then the end."""
        self.watch.started(self.recipe, self.task.metric, self.layout.size, tuple(self.records))
        opening = self._orders()
        unpaid = opening if not self.records else {}
        while not self._over():
            opening = self._round(opening, unpaid)
            unpaid = {}
        return self._end()

    def _orders(self) -> dict[str, bytes]:
        number = self.coordinator.round
        reachable = self.schedule.reachable(number)
        return self.coordinator.orders(reachable, self.schedule.trains(number, reachable))

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
        asked = {site for site, message in orders.items() if Order.unpack(message).train}
        answers = self.engine.deliver(orders)
        late = self.schedule.late(number, asked)
        for site, answer in answers.items():
            if site not in late:
                self._receive(site, answer.message)
        codec_started = time.perf_counter()
        result = self.coordinator.close()
        codec_seconds = time.perf_counter() - codec_started
        refused = dict(result.refused)
        for site in sorted(late):
            reason = self._receive(site, answers[site].message)
            refused[site] = reason or "late"
        metrics = self.evaluate(self.coordinator.state, "stop")
        record = RoundRecord(
            number,
            metrics[self.task.metric.name],
            metrics,
            [update.site for update in result.accepted],
            refused,
            nmse_down=result.nmse_down,
            state=result.state,
        )
        self.records.append(record)
        last = self._over()
        if last:
            everyone = set(self.recipe.sites.all)
            following = self.coordinator.orders(everyone, set())
            acknowledgements = self.engine.deliver(following)
            for site, answer in acknowledgements.items():
                self._receive(site, answer.message)
        else:
            following, acknowledgements = self._orders(), {}
        self._account(record, answers, following, acknowledgements, unpaid, codec_seconds)
        record.commit = self.head = self.directory.commit(self.head, self._commit(record, result))
        record.wall_seconds = time.perf_counter() - started
        self.directory.append(record)
        if not last and self.coordinator.round % self.recipe.run.snapshot_every == 0:
            self._snapshot()
        self.watch.round(record)
        return following

    def _receive(self, site: str, message: bytes) -> str | None:
        reason = self.coordinator.receive(site, message)
        if reason is not None and reason.startswith(DIVERGED):
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
        acknowledgements: dict[str, Answer],
        unpaid: dict[str, bytes],
        codec_seconds: float,
    ) -> None:
        """Counts what crossed the boundary: `len` of every message, frames apart from the rest."""
        up_seconds = down_seconds = 0.0
        frames_up = frames_down = 0
        record.per_site = {name: SiteRecord() for name in self.recipe.sites.all}
        for name, row in record.per_site.items():
            link = self.recipe.link_of(name)
            row.status = "away" if name not in answers else row.status
            for answer in (answers.get(name), acknowledgements.get(name)):
                if answer is None:
                    continue
                reply = Reply.unpack(answer.message)
                row.up += reply.frame_bytes
                row.control += len(answer.message) - reply.frame_bytes
                row.examples += reply.examples
                frames_up += reply.status is Status.UPDATE
            if name in answers:
                reply = Reply.unpack(answers[name].message)
                row.status = "silent" if reply.status is Status.SILENT else "accepted"
                row.status = "refused" if name in record.refused else row.status
                seconds = link.up_seconds(len(answers[name].message))
                up_seconds = max(up_seconds, seconds + link.train_seconds)
                self._time(
                    name, record.round, len(answers[name].message), seconds, answers[name].codec_seconds
                )
            for messages in (following, unpaid):
                if name in messages:
                    order = Order.unpack(messages[name])
                    row.down += order.frame_bytes
                    row.control += len(messages[name]) - order.frame_bytes
                    frames_down += len(order.items)
                    down_seconds = max(down_seconds, link.down_seconds(len(messages[name])))
        rows = record.per_site.values()
        record.bytes_up, record.bytes_down = sum(r.up for r in rows), sum(r.down for r in rows)
        record.control_bytes = sum(r.control for r in rows)
        size = self.layout.size
        record.bits_per_parameter_up = 8 * record.bytes_up / (size * frames_up) if frames_up else 0.0
        record.bits_per_parameter_down = 8 * record.bytes_down / (size * frames_down) if frames_down else 0.0
        record.seconds = up_seconds + down_seconds
        record.train_seconds = sum(a.train_seconds for a in answers.values())
        record.codec_seconds = codec_seconds + sum(a.codec_seconds for a in answers.values())
        before = self.records[-2] if len(self.records) > 1 else None
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
            "metric": record.metric if math.isfinite(record.metric) else None,
        }

    def _snapshot(self) -> None:
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
            }
        )

    def _end(self) -> Run:
        state = self.coordinator.state
        digest = state_digest(state)
        tests = self.evaluate(state, "test")
        end = {
            "test": tests,
            "state_digest": digest,
            "commit": self.head,
            "chain": self.coordinator.chain.hex(),
            "plan": self.coordinator.plan.digest,
            "description": self.recipe.description,
        }
        summary = summarize(self.recipe, self.task.metric, self.records, self.layout.size, end)
        self.directory.write("model.safetensors", save_tensors(state, metadata={"phloem.state": digest}))
        self.directory.write("summary.json", json.dumps(summary, indent=2, sort_keys=True).encode() + b"\n")
        self.directory.finish()
        self.watch.finished(summary)
        return Run(self.directory.root, state, summary, self.records)


def start(recipe: Recipe, root: Path, watch: Watcher, emit: events.Emit = events.ignore) -> Run:
    """A new run in `root`, to its end."""
    task = load_task_of(recipe)
    state = initial_state_of(task, recipe)
    plan = plan_for(recipe, state)
    RunDirectory.check_free(root)
    with contextlib.closing(
        LocalEngine(recipe, emit)
    ) as engine:  # data that lack are found before a file is made
        directory = RunDirectory.create(root, recipe, plan)
        with directory.claimed():
            head = _genesis(directory, recipe, plan, state)
            return _drive(recipe, directory, task, Coordinator(plan, state, emit), watch, engine, [], head)


def resume(
    root: Path, watch: Watcher, emit: events.Emit = events.ignore, expect: Recipe | None = None
) -> Run:
    """A run that was interrupted, from its last snapshot to its end; a finished one is only read.

    Raises:
        ConfigError: there is no run, or it was started from another recipe than `expect`.
        StateError: another version, or task, data or libraries that no longer give the same plan; or another
            process is at work on it.
    """
    directory, recipe, plan_digest = RunDirectory.open(root)
    if expect is not None and _result_of(expect) != _result_of(recipe):
        raise ConfigError(
            f"{root} was started from another recipe", hint="resume it with the same recipe and --set"
        )
    if (root / "summary.json").exists():
        directory.sweep()  # it may have been killed at its very end
        directory.finish()
        return read(root)
    with directory.claimed():
        directory.sweep()
        return _go_on(directory, recipe if expect is None else expect, plan_digest, watch, emit)


def _go_on(
    directory: RunDirectory, recipe: Recipe, plan_digest: str, watch: Watcher, emit: events.Emit
) -> Run:
    root = directory.root
    task = load_task_of(recipe)
    state = initial_state_of(task, recipe)
    plan = plan_for(recipe, state)
    if plan.digest != plan_digest:
        raise StateError(
            f"{root} was started under another plan: the task now gives another first state",
            hint="use the versions of libraries and data that the run was started with",
        )
    snapshot = directory.load_snapshot()
    coordinator = Coordinator(plan, state, emit)
    if snapshot is None:
        directory.keep_records([])
        head = _genesis(directory, RunDirectory.open(root)[1], plan, state)
        with contextlib.closing(LocalEngine(recipe, emit)) as engine:
            return _drive(recipe, directory, task, coordinator, watch, engine, [], head)
    records = directory.records()[: snapshot["round"]]
    if len(records) < snapshot["round"]:
        raise StateError(f"{root}/rounds.jsonl lacks rounds that the snapshot has", hint="restore the file")
    directory.keep_records(records)
    private = directory.private
    coordinator.load(
        snapshot["coordinator"],
        read_tensors(private, snapshot["arrays"]),
        read_tensors(private, snapshot["state"]),
        [private.get(digest) for digest in snapshot["frames"]],
    )
    head = snapshot["commit"]
    with contextlib.closing(LocalEngine(recipe, emit)) as engine:
        engine.load(private, snapshot["sites"])
        return _drive(recipe, directory, task, coordinator, watch, engine, records, head)


def read(root: Path) -> Run:
    """A finished run, from its directory."""
    directory, _, _ = RunDirectory.open(root)
    summary = read_summary(root)
    try:
        state = dict(load_file(root / "model.safetensors"))
    except (OSError, SafetensorError) as error:
        raise StateError(f"{root}/model.safetensors is damaged: {error}", hint="restore the file") from error
    return Run(root, state, summary, directory.records())


def write_summary(root: Path, text: bytes) -> None:
    """Replaces a finished run's `summary.json`."""
    RunDirectory.open(root)[0].write("summary.json", text)


def _result_of(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides the result."""
    table = recipe.to_json()
    return {key: value for key, value in table.items() if key not in ("run", "description")}


def _genesis(directory: RunDirectory, recipe: Recipe, plan: Plan, state: State) -> str:
    """The first commit: everything that a stranger needs to replay the run from its frames."""
    store, layout = directory.store, Layout.of(state)
    what = {
        key: value for key, value in recipe.to_json().items() if key != "run"
    }  # not how one machine ran it
    content = {
        "kind": "genesis",
        "version": 0,
        "recipe": store.put(canonical.dumps(what)),
        "plan": store.put(canonical.dumps(plan)),
        "layout": store.put(layout.to_json()),
        "state": plan.initial_state,
        "frame": store.put(frames.pack(NoCompression(), layout.arrays(state), layout, key_frame=True)),
        "chain": plan.genesis.hex(),
    }
    return directory.commit(None, content)


def _drive(
    recipe: Recipe,
    directory: RunDirectory,
    task: Any,
    coordinator: Coordinator,
    watch: Watcher,
    engine: LocalEngine,
    records: list[RoundRecord],
    head: str | None,
) -> Run:
    def evaluate(state: State, part: str) -> dict[str, float]:
        figures = {name: float(value) for name, value in task.evaluate(state, part).items()}
        if task.metric.name not in figures:
            raise ConfigError(
                f"the task's evaluate() gave no '{task.metric.name}', the metric it is judged by"
            )
        return figures

    return Runner(recipe, directory, coordinator, engine, evaluate, task, watch, records, head).run()

"""A run from its start, or from its last snapshot, to its end; and a finished run read again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from phloem import canonical
from phloem.codecs.lossless import Lossless
from phloem.engines.base import Engine
from phloem.engines.host import initial_state_of, load_task_of, plan_for
from phloem.engines.local import LocalEngine
from phloem.engines.shelf import read_tensors
from phloem.errors import ConfigError, StateError
from phloem.job.adapting import chooser_for
from phloem.job.directory import Marker, RunDirectory, claimed, reading
from phloem.job.ledger import open_book
from phloem.job.record import RoundRecord, read_summary
from phloem.job.runner import Run, Runner, data_digest
from phloem.job.watch import Watcher
from phloem.recipe import Recipe
from phloem.rounds import events
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.plan import Plan
from phloem.tensors import Layout, State
from phloem.wire import frame as frames

if TYPE_CHECKING:
    from phloem.ledger.book import Book

MakeEngine = Callable[[Recipe, events.Emit], Engine]


def start(
    recipe: Recipe,
    root: Path,
    watch: Watcher,
    claims: contextlib.ExitStack,
    emit: events.Emit = events.ignore,
    engine_of: MakeEngine = LocalEngine,
) -> Run:
    """A new run in `root`, to its end; the directory stays claimed until `claims` closes."""
    task = load_task_of(recipe, claims)
    state = initial_state_of(task, recipe)
    plan = plan_for(recipe, state)
    RunDirectory.check_free(root)
    # the engine first: data that lack are found before a file is made
    with contextlib.closing(engine_of(recipe, emit)) as engine:
        directory = RunDirectory.create(root, recipe, plan, data_digest(task), claims)
        head = _genesis(directory, recipe, plan, state, data_digest(task))
        _spill(engine, recipe, directory)
        book = _book(directory, recipe, plan, state, engine, claims)
        coordinator = Coordinator(
            plan, state, emit, chooser_for(recipe, plan, Layout.of(state).size), book=book
        )
        return Runner(recipe, directory, coordinator, engine, task, watch, [], head).run()


def resume(
    root: Path,
    watch: Watcher,
    claims: contextlib.ExitStack,
    emit: events.Emit = events.ignore,
    expect: Recipe | None = None,
    engine_of: MakeEngine = LocalEngine,
) -> Run:
    """A run that was interrupted, from its last snapshot to its end; a finished one is only read.

    Raises:
        ConfigError: there is no run, or it was started from another recipe than `expect`.
        StateError: another version, or task, data or libraries that no longer give the same plan; or another
            process is at work on it.
    """
    directory, recipe, marker = RunDirectory.open(root)
    if expect is not None:
        check_same(root, expect)
    claims.enter_context(claimed(root))
    directory.sweep()
    if (root / "summary.json").exists():
        directory.finish()  # it may have been killed at its very end
        return read(root)
    return _go_on(
        directory, recipe, recipe if expect is None else expect, marker, watch, claims, emit, engine_of
    )


def _go_on(
    directory: RunDirectory,
    original: Recipe,
    recipe: Recipe,
    marker: Marker,
    watch: Watcher,
    claims: contextlib.ExitStack,
    emit: events.Emit,
    engine_of: MakeEngine,
) -> Run:
    root = directory.root
    task = load_task_of(recipe, claims)
    state = initial_state_of(task, recipe)
    plan = plan_for(recipe, state)
    data = data_digest(task)
    if data != marker.data:
        raise StateError(f"{root} was started with other data", hint="bring the data back, or start again")
    if plan.digest != marker.plan:
        raise StateError(
            f"{root} was started under another plan: the task now gives another first state",
            hint="use the versions of libraries and data that the run was started with",
        )
    snapshot = directory.load_snapshot()
    coordinator = Coordinator(plan, state, emit, chooser_for(recipe, plan, Layout.of(state).size))
    if snapshot is None:
        directory.keep_records([])
        head = _genesis(directory, original, plan, state, data)
        with contextlib.closing(engine_of(recipe, emit)) as engine:
            _spill(engine, recipe, directory)
            coordinator.book = _book(directory, recipe, plan, state, engine, claims)
            return Runner(recipe, directory, coordinator, engine, task, watch, [], head).run()
    private = directory.private
    with reading(f"the snapshot of {root}"):
        done = snapshot["round"] - ("closing" in snapshot)
        records = directory.records()[:done]
        if len(records) < done:
            raise StateError(
                f"{root}/rounds.jsonl lacks rounds that the snapshot has", hint="restore the file"
            )
        coordinator.load(
            snapshot["coordinator"],
            read_tensors(private, snapshot["arrays"]),
            read_tensors(private, snapshot["state"]),
            [private.get(digest) for digest in snapshot["frames"]],
        )
        head, sites = str(snapshot["commit"]), snapshot["sites"]
        closing = RoundRecord.from_json(snapshot["closing"]) if "closing" in snapshot else None
        directory.store.get(head)
    directory.keep_records(records, snapshot["round"])
    with contextlib.closing(engine_of(recipe, emit)) as engine:
        _spill(engine, recipe, directory)
        with reading(f"the snapshot of {root}"):
            engine.load(private, sites)
        coordinator.book = _book(directory, recipe, plan, state, engine, claims)
        return Runner(recipe, directory, coordinator, engine, task, watch, records, head, closing).run()


def _spill(engine: Engine, recipe: Recipe, directory: RunDirectory) -> None:
    if recipe.run.residuals == "disk":
        engine.spill_to(directory.private)


def _book(
    directory: RunDirectory,
    recipe: Recipe,
    plan: Plan,
    state: State,
    engine: Engine,
    claims: contextlib.ExitStack,
) -> Book | None:
    """The run's ledger, which its sites join; open until `claims` closes."""
    book = open_book(directory, recipe, plan, Layout.of(state).size)
    if book is not None:
        claims.callback(book.close)
        engine.join_ledger(directory.private.root / "ledger")
    return book


def read(root: Path) -> Run:
    """A finished run, from its directory."""
    directory, _, _ = RunDirectory.open(root)
    summary = read_summary(root)
    try:
        state = dict(load_file(root / "model.safetensors"))
    except (OSError, SafetensorError) as error:
        raise StateError(f"{root}/model.safetensors is damaged: {error}", hint="restore the file") from error
    return Run(root, state, summary, directory.records())


def with_summary(run: Run, **more: Any) -> Run:
    """A finished run with `more` in its summary, which is written again."""
    summary = {**run.summary, **more}
    text = json.dumps(summary, indent=2, sort_keys=True).encode() + b"\n"
    RunDirectory.open(run.path)[0].write("summary.json", text)
    return dataclasses.replace(run, summary=summary)


def check_same(root: Path, recipe: Recipe) -> None:
    """Nothing, if the run in `root` was started from `recipe`, however it is run.

    Raises:
        ConfigError: there is no run, or it is another recipe's.
    """
    if _result_of(recipe) != _result_of(RunDirectory.open(root)[1]):
        raise ConfigError(
            f"{root} was started from another recipe", hint="resume it with the same recipe and --set"
        )


def _result_of(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides the result."""
    table = recipe.to_json()
    if table["ledger"] is not None:
        del table["ledger"]["folder"]
    return {key: value for key, value in table.items() if key not in ("run", "description")}


def _genesis(directory: RunDirectory, recipe: Recipe, plan: Plan, state: State, data: str | None) -> str:
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
        "data": data,
        "state": plan.initial_state,
        "frame": store.put(frames.pack(Lossless(), layout.arrays(state), layout, key_frame=True)),
        "chain": plan.genesis.hex(),
    }
    return directory.commit(None, content)

"""Where sites live: holds some of a run's sites with their data, answers orders, saves what only it knows.

A host may share the coordinator's process or be a worker of its own (`phloem.engines.worker`); it is given bytes
and gives bytes either way, and the result does not depend on which.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from phloem.engines.base import Answer
from phloem.engines.shelf import Shelf, read_tensors
from phloem.engines.start import check_start, read_start
from phloem.errors import ConfigError
from phloem.memory import spare_bytes
from phloem.planner import levels
from phloem.planner.settings import MEASURED
from phloem.recipe import Recipe
from phloem.rounds import events
from phloem.rounds.merge import MergeRule
from phloem.rounds.plan import Plan, limits_for
from phloem.rounds.site import Site
from phloem.seeds import seed_for
from phloem.store.files import Store
from phloem.tasks.base import Memory, Task, load_task
from phloem.tasks.checked import CheckedTask
from phloem.tensors import Layout, State, as_float32, state_digest
from phloem.wire.messages import Reply, Status


def plan_for(recipe: Recipe, state: State) -> Plan:
    """The plan of a recipe: every party derives the same one from the recipe and the first state."""
    layout = Layout.of(state)
    up, down = recipe.codecs
    configs: list[Mapping[str, Any]] = [up, down]
    configs += [c for stage in recipe.later for c in (stage.up, stage.down)]
    names = {str(config["codec"]) for config in configs + (levels.configs() if recipe.adapts else [])}
    return Plan(
        run=recipe.name,
        seed=recipe.seed,
        sites=recipe.sites.all,
        layout=layout.digest,
        initial_state=state_digest(state),
        up=up,
        down=down,
        codecs=tuple(sorted(names | {"lossless"})),
        later=tuple(recipe.later),
        merge=MergeRule(recipe.rounds.division, recipe.server),
        clip_norm=recipe.rounds.clip_norm,
        prune=recipe.prune,
        **limits_for(layout),
    )


def load_task_of(recipe: Recipe, restore: contextlib.ExitStack | None = None) -> CheckedTask:
    """The recipe's task, its answers checked; torch, where it is used, gets one thread: sums have one order.

    `restore` gives torch its threads back when it closes.
    """
    task = load_task(recipe.task_name, recipe.sites.all, recipe.seed, recipe.task_options)
    torch = sys.modules.get("torch")
    if torch is not None:
        if restore is not None:
            restore.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
    return CheckedTask(task, recipe.task_name)


def initial_state_of(task: Task, recipe: Recipe) -> State:
    """The state of round 0, the task's own or the recipe's `start`, checked: float arrays, all finite."""
    state = {
        name: np.array(as_float32(tensor, name))
        for name, tensor in task.initial_state(seed_for(recipe.seed, "initial")).items()
    }
    if recipe.start:
        own, state = state, read_start(recipe.start)
        check_start(state, own, recipe.start)
    broken = [name for name, array in state.items() if not np.isfinite(array).all()]
    if broken:
        raise ConfigError(f"the task's initial state holds NaN or infinity in '{broken[0]}'")
    return state


def software() -> str:
    """This software as the ledger names it (a package URL)."""
    return f"pkg:pypi/phloem@{metadata.version('phloem')}"


class Host:
    """Some sites of one run, with their tasks' data and memory."""

    def __init__(
        self,
        recipe: Recipe,
        sites: Sequence[str],
        emit: events.Emit = events.ignore,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`options` are the task's options that hold at this machine only, such as where its data lie."""
        self.recipe = recipe
        self.task = load_task_of(replace(recipe, task={**recipe.task, **options}) if options else recipe)
        state = initial_state_of(self.task, recipe)
        self.plan = plan_for(recipe, state)
        self.trunks: dict[bytes, State] = {}
        self._trunks_room = 4
        self.sites = {name: Site(name, self.plan, state, emit, self.trunks) for name in sites}
        self.shards = {name: self.task.shard(name) for name in sites}
        self.memory: dict[str, Memory] = {name: {} for name in sites}
        self.shelf: Shelf | None = None
        self.spills = False
        self.measures = recipe.adapt.clock == MEASURED
        self._moved: set[str] = set()  # sites that own something else than the shelf has

    def deliver(self, name: str, order: bytes) -> Answer:
        """Lets one site apply an order, train if asked to, and reply."""
        self._pick_up(name)
        try:
            return self._deliver(name, self.sites[name], order)
        finally:
            self._put_down(name)
            self._forget_trunks()

    def _deliver(self, name: str, site: Site, order: bytes) -> Answer:
        started = time.perf_counter()
        work = site.receive(order)
        received = finished = time.perf_counter()

        def spent() -> tuple[float, float, float, float]:
            encoding = time.perf_counter() - finished
            return finished - received, encoding, received - started, spare_bytes()

        if not work.train:  # what is owed is encoded all the same
            message = site.reply(None, spent=spent if self.measures else None)
            return Answer(message, 0.0, time.perf_counter() - started, {})
        seed = seed_for(self.recipe.seed, "train", name, work.round)
        start = {tensor: array.copy() for tensor, array in site.at.state.items()}
        trained, memory, examples, metrics = self.task.train(
            start, self.shards[name], self.memory[name], seed, site=name, keep=site.kept.by_name()
        )
        finished = time.perf_counter()
        message = site.reply(trained, examples, spent=spent if self.measures else None)
        if Reply.unpack(message).status is Status.UPDATE:
            self.memory[name] = memory  # a broken update leaves the memory as it was, too
        codec_seconds = (received - started) + (time.perf_counter() - finished)
        return Answer(message, finished - received, codec_seconds, metrics)

    def _forget_trunks(self) -> None:
        """Lets go of states that no site stands on any more."""
        if len(self.trunks) <= self._trunks_room:
            return
        needed = {site.at.chain for site in self.sites.values()}
        for chain in set(self.trunks) - needed:
            del self.trunks[chain]
        self._trunks_room = len(self.trunks) + 4

    def join_ledger(self, folder: Path, policy: Path | None = None) -> None:
        """From now on the sites sign what they send, with keys in `folder`, and ask for receipts as the recipe says.

        They judge by the policy in that file; without one by what the coordinator says when they meet it first.
        """
        from phloem.ledger.party import Party

        assert self.recipe.ledger is not None
        for name, site in self.sites.items():
            site.party = Party(folder, name, self.recipe.ledger.receipts, software(), policy)

    def spill_to(self, store: Store) -> None:
        """From now on residuals and memories of sites that are not at work lie in `store`, not in memory."""
        self.shelf, self.spills = Shelf(store), True

    def _pick_up(self, name: str) -> None:
        if self.spills and self.shelf is not None and name in self.shelf:
            owed, self.memory[name] = self.shelf.take(name)
            self.sites[name].own(owed)

    def _put_down(self, name: str) -> None:
        self._moved.add(name)
        if self.spills and self.shelf is not None:
            self._put(self.shelf, name)
            self.sites[name].own({})
            self.memory[name] = {}

    def _put(self, shelf: Shelf, name: str) -> None:
        shelf.put(name, self.sites[name].owned(), self.memory[name])
        self._moved.discard(name)

    def _shelf_in(self, store: Store) -> Shelf:
        if self.shelf is None or self.shelf.store.root != store.root:
            self.shelf, self.spills = Shelf(store), False
            self._moved = set(self.sites)
        return self.shelf

    def save(self, store: Store) -> dict[str, dict[str, Any]]:
        """Puts what only these sites know into `store`; gives for each the digests to find it by."""
        shelf = self._shelf_in(store)
        trunks: dict[str, str] = {}
        saved = {}
        for name, site in self.sites.items():
            if name in self._moved or name not in shelf:
                self._put(shelf, name)
            facts, _, _ = site.save()
            if facts["chain"] not in trunks:
                trunks[facts["chain"]] = store.put(save_tensors(site.at.state))
            saved[name] = facts | {"state": trunks[facts["chain"]]}
        for name, digest in shelf.pin(self.sites).items():
            saved[name]["owns"] = digest
        return saved

    def load(self, store: Store, saved: dict[str, dict[str, Any]]) -> None:
        """Stands again where `save` was called."""
        shelf = self._shelf_in(store)
        trunks: dict[str, State] = {}
        for name, site in self.sites.items():
            facts = saved[name]
            if facts["state"] not in trunks:
                trunks[facts["state"]] = read_tensors(store, facts["state"])
            site.load(facts, {}, trunks[facts["state"]])
            shelf.adopt(name, facts["owns"])
            if not self.spills:
                owed, self.memory[name] = shelf.take(name)
                site.own(owed)
        self._moved.clear()
        shelf.pin(self.sites)

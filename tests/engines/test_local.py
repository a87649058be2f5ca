from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny import ROOT, table

from phloem.engines.host import Host, initial_state_of, load_task_of, plan_for
from phloem.engines.local import LocalEngine
from phloem.engines.worker import WorkerHost
from phloem.errors import ConfigError, StateError
from phloem.recipe import load_recipe
from phloem.rounds import events
from phloem.rounds.coordinator import Coordinator
from phloem.store.files import Store
from phloem.tensors import state_digest
from phloem.wire.messages import Reply, Status


class Run:
    """A coordinator over an engine, round by round."""

    def __init__(self, emit: events.Emit = events.ignore, **recipe: Any) -> None:
        self.recipe = load_recipe(table(**recipe))
        state = initial_state_of(load_task_of(self.recipe), self.recipe)
        self.coordinator = Coordinator(plan_for(self.recipe, state), state, emit)
        self.engine = LocalEngine(self.recipe, emit)
        self.messages: list[tuple[bytes, bytes]] = []

    def round(self) -> Any:
        sites = set(self.recipe.sites.all)
        orders = self.coordinator.orders(sites, sites)
        answers = self.engine.deliver(orders)
        for site, answer in answers.items():
            self.messages.append((orders[site], answer.message))
            self.coordinator.receive(site, answer.message)
        return self.coordinator.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *failure: object) -> None:
        self.engine.close()


@pytest.fixture(scope="module")
def in_this_process() -> Iterator[Run]:
    with Run(count=5) as run:
        for _ in range(4):
            run.round()
        yield run


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_any_number_of_workers_gives_the_same_bytes_and_digests(in_this_process: Run, workers: int) -> None:
    with Run(count=5, run={"workers": workers}) as run:
        assert len(run.engine.hosts) == min(workers, 5)
        for _ in range(4):
            run.round()
        assert run.messages == in_this_process.messages
        assert run.coordinator.chain == in_this_process.coordinator.chain
        assert state_digest(run.coordinator.state) == state_digest(in_this_process.coordinator.state)


def test_a_task_that_prints_does_no_harm(in_this_process: Run, capfd: pytest.CaptureFixture[str]) -> None:
    with Run(count=5, run={"workers": 2}, task={"print_noise": True}) as run:
        for _ in range(4):
            run.round()
        assert state_digest(run.coordinator.state) == state_digest(in_this_process.coordinator.state)
    captured = capfd.readouterr()
    assert "noise from site-3" in captured.err
    assert "noise" not in captured.out


def test_a_worker_that_dies_while_training_is_one_sentence() -> None:
    with Run(count=4, run={"workers": 2}, task={"dying_site": "site-1", "fault_from": 1}) as run:
        run.round()
        with pytest.raises(
            StateError, match=r"the worker with site-1, site-3 ended with exit code 7"
        ) as caught:
            run.round()
        assert caught.value.hint is not None
        assert "\n" not in str(caught.value)


def test_a_worker_that_was_killed_between_rounds_is_one_sentence_and_closing_is_quiet() -> None:
    with Run(count=2, run={"workers": 2}) as run:
        run.round()
        host = run.engine.hosts[1]
        assert isinstance(host, WorkerHost)
        os.kill(host.process.pid, signal.SIGKILL)
        host.process.wait()
        with pytest.raises(StateError, match="the worker with site-1 ended with exit code -9"):
            run.round()


def test_a_worker_whose_task_cannot_be_built_says_why_and_leaves_no_process() -> None:
    recipe = load_recipe(table(run={"workers": 2}))
    with pytest.raises(ConfigError, match="did you mean 'Blobs'"):
        LocalEngine(load_recipe({**recipe.to_json(), "task": {"name": "tests.tiny:Blob"}}))


def test_errors_keep_their_kind_message_and_hint_across_processes() -> None:
    found = []
    for workers in (0, 2):
        with Run(run={"workers": workers}, task={"bad_shape_site": "site-2"}) as run:
            with pytest.raises(ConfigError, match="site 'site-2' trained a model of another shape") as caught:
                run.round()
            found.append((caught.value.message, caught.value.hint))
    assert found[0] == found[1]


def test_events_of_all_sites_arrive_whatever_process_they_live_in() -> None:
    found = []
    for workers in (0, 2):
        heard: list[events.Event] = []
        with Run(emit=heard.append, run={"workers": workers}) as run:
            run.round()
        found.append(sorted(map(repr, heard)))
    assert found[0] == found[1]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_listener_that_raises_reaches_the_caller_from_any_process(workers: int) -> None:
    def object_to_updates(event: events.Event) -> None:
        if isinstance(event, events.UpdateSent):
            raise PermissionError(event.site)

    with Run(emit=object_to_updates, run={"workers": workers}) as run, pytest.raises(PermissionError):
        run.round()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_only_sites_know_survives_saving_memory_with_0d_counters_included(
    tmp_path: Path, workers: int
) -> None:
    with Run(run={"workers": workers}) as whole, Run(run={"workers": 0}) as other:
        for _ in range(2):
            whole.round()
        saved = whole.engine.save(Store(tmp_path))
        facts, arrays, state = whole.coordinator.save()
        other.engine.load(Store(tmp_path), saved)
        other.coordinator.load(facts, arrays, state, list(whole.coordinator.recent))
        host = other.engine.hosts[0]
        assert isinstance(host, Host)
        assert host.memory["site-1"]["times"].shape == ()
        assert host.memory["site-1"]["times"] == 2
        assert host.memory["site-1"]["speed"].dtype == np.float64
        whole.messages.clear()
        for _ in range(3):
            whole.round()
            other.round()
        assert whole.messages == other.messages
        assert whole.coordinator.chain == other.coordinator.chain


def test_a_broken_update_leaves_the_sites_memory_as_it_was() -> None:
    with Run(task={"nan_site": "site-1", "fault_from": 1}) as run:
        run.round()
        host = run.engine.hosts[0]
        assert isinstance(host, Host)
        before = host.memory["site-1"]["speed"].copy()
        result = run.round()
        assert list(result.refused) == ["site-1"]
        assert np.array_equal(host.memory["site-1"]["speed"], before)
        assert host.memory["site-1"]["times"] == 1
        assert host.memory["site-0"]["times"] == 2


def test_an_order_delivered_twice_trains_once() -> None:
    with Run() as run:
        run.round()
        orders = run.coordinator.orders({"site-0"}, {"site-0"})
        first = run.engine.deliver(orders)["site-0"]
        again = run.engine.deliver(orders)["site-0"]
        assert again.message == first.message
        assert again.train_seconds == 0.0
        assert Reply.unpack(first.message).status is Status.UPDATE


def test_only_the_sites_that_were_given_orders_answer() -> None:
    with Run(run={"workers": 2}) as run:
        orders = run.coordinator.orders({"site-1"}, set())
        assert list(run.engine.deliver(orders)) == ["site-1"]
        assert run.engine.deliver({}) == {}


def test_a_first_state_with_nan_is_refused() -> None:
    recipe = load_recipe(table())
    task = load_task_of(recipe)
    good = task.initial_state(0)
    task.initial_state = lambda seed: {**good, "bias": np.full(3, np.nan)}  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="initial state holds NaN or infinity in 'bias'"):
        initial_state_of(task, recipe)


@pytest.mark.slow
def test_digits_gives_the_same_digest_for_any_number_of_workers() -> None:
    pytest.importorskip("torch")
    found = set()
    for workers in (0, 1, 2):
        recipe = load_recipe(ROOT / "examples" / "digits.toml", [f"run.workers={workers}", "sites.count=4"])
        state = initial_state_of(load_task_of(recipe), recipe)
        coordinator = Coordinator(plan_for(recipe, state), state)
        engine = LocalEngine(recipe)
        sites = set(recipe.sites.all)
        for _ in range(3):
            for site, answer in engine.deliver(coordinator.orders(sites, sites)).items():
                coordinator.receive(site, answer.message)
            coordinator.close()
        engine.close()
        found.add((state_digest(coordinator.state), coordinator.chain))
    assert len(found) == 1

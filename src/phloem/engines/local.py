"""The local engine: every site on this machine, in this process or in a few worker processes.

Same bytes and same digests for any number of workers: a site always trains in one thread from seeds of its own,
and only bytes cross between processes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

from phloem.engines.base import Answer, Failure
from phloem.engines.host import Host
from phloem.engines.worker import WorkerHost
from phloem.recipe import Recipe
from phloem.rounds import events
from phloem.store.files import Store


class LocalEngine:
    """Carries orders to sites and brings their answers back."""

    trusted = True
    failures: Mapping[str, Failure] = MappingProxyType({})  # what fails on this machine ends the run

    def __init__(self, recipe: Recipe, emit: events.Emit = events.ignore) -> None:
        names = recipe.sites.all
        lock = threading.Lock()

        def emit_in_turn(event: events.Event) -> None:
            with lock:
                emit(event)

        workers = min(recipe.run.workers, len(names))
        self.hosts: list[Host | WorkerHost] = []
        if workers == 0:
            self.hosts.append(Host(recipe, names, emit_in_turn))
        else:
            self._open(recipe, workers, emit_in_turn)

    def _open(self, recipe: Recipe, workers: int, emit: events.Emit) -> None:
        """Starts all workers, then waits for them; they get their data at the same time."""
        names, hosts = recipe.sites.all, []
        try:
            for n in range(workers):
                hosts.append(WorkerHost(recipe, names[n::workers], emit))
                self.hosts.append(hosts[-1])
            for host in hosts:
                host.opened()
        except BaseException:  # Ctrl-C too: nobody waits for workers that are still reading their data
            for host in hosts:
                host.kill()
            self.close()
            raise

    def deliver(self, orders: dict[str, bytes]) -> dict[str, Answer]:
        """Every site's answer to its order."""

        def through(host: Host | WorkerHost) -> list[tuple[str, Answer]]:
            return [(name, host.deliver(name, orders[name])) for name in host.sites if name in orders]

        return dict(sorted(self._by_host(through)))

    def join_ledger(self, folder: Path) -> None:
        """From now on sites sign what they send, with keys in `folder`, and ask for receipts."""
        for host in self.hosts:
            host.join_ledger(folder)

    def spill_to(self, store: Store) -> None:
        """From now on what sites own besides the trunk lies in `store` while they are not at work."""
        for host in self.hosts:
            host.spill_to(store)

    def save(self, store: Store) -> dict[str, dict[str, Any]]:
        """What every site needs to stand again where it is, as digests in `store`."""
        return dict(sorted(self._by_host(lambda host: host.save(store).items())))

    def load(self, store: Store, saved: dict[str, dict[str, Any]]) -> None:
        """Puts every site where `save` found it."""
        for host in self.hosts:
            host.load(store, {name: saved[name] for name in host.sites})

    def close(self) -> None:
        """Ends the worker processes, if there are any."""
        for host in self.hosts:
            if isinstance(host, WorkerHost):
                host.close()

    def _by_host(self, call: Any) -> list[tuple[str, Any]]:
        if len(self.hosts) == 1:
            with self._interruptible():
                return list(call(self.hosts[0]))
        with ThreadPoolExecutor(len(self.hosts)) as pool, self._interruptible():
            parts: Iterable[Iterable[tuple[str, Any]]] = pool.map(call, self.hosts)
            return [pair for part in parts for pair in part]

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """On Ctrl-C nobody waits for sites that are still training."""
        try:
            yield
        except KeyboardInterrupt:
            for host in self.hosts:
                if isinstance(host, WorkerHost):
                    host.kill()
            raise

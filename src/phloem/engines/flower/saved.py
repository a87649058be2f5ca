"""The strategy's own record of a run: everything between two rounds, in one directory, so that it can go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.serverapp.strategy import Strategy
from safetensors.numpy import save as save_tensors

from phloem.engines.flower import memory
from phloem.engines.flower.exchange import Exchange
from phloem.engines.flower.greeting import plan_from_json, plan_to_json
from phloem.engines.shelf import read_tensors
from phloem.errors import ConfigError
from phloem.store.files import Store
from phloem.store.snapshot import load_snapshot, save_snapshot

_NAME = "strategy"
VERSION = 1


class Record:
    """One run's directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._first: memory.Numbers = {}  # the strategy's numbers as it was made

    def exists(self) -> bool:
        """Whether a round was saved here."""
        return (self.root / "refs" / _NAME).exists()

    def begin(self, strategy: Strategy) -> None:
        """Notes the strategy's numbers before its first round."""
        self._first = memory.numbers_of(strategy)

    def save(self, exchange: Exchange, strategy: Strategy, number: int) -> None:
        """Keeps everything after round `number`; durable when this returns."""
        store = Store(self.root)
        facts, arrays, state = exchange.coordinator.save()
        numbers = memory.numbers_of(strategy)
        first = self._first
        snapshot: dict[str, Any] = {
            "version": VERSION,
            "round": number,
            "token": exchange.token.hex(),
            "plan": plan_to_json(exchange.plan),
            "manifest": exchange.manifest.to_json(),
            "nodes": exchange.nodes.save(),
            "coordinator": facts,
            "arrays": store.put(save_tensors(arrays)),
            "state": store.put(save_tensors(state)),
            "frames": [store.put(frame) for frame in exchange.coordinator.recent],
            "exact": store.put(exchange.manifest.pack_exact(exchange.exact)),
            "remembered": store.put(save_tensors(memory.arrays_of(strategy))),
            "numbers": {
                path: [first[path].hex() if path in first else "", n.hex()] for path, n in numbers.items()
            },
            "ledgers": memory.ledgers_of(strategy),
        }
        save_snapshot(store, _NAME, snapshot)

    def load(self, exchange: Exchange, strategy: Strategy) -> int:
        """Puts everything back; gives the number of rounds that are done.

        Raises:
            ConfigError: the record is of another run: other arrays, codecs, name, seed or strategy.
        """
        store = Store(self.root)
        snapshot = load_snapshot(store, _NAME)
        assert snapshot is not None
        first = {"initial_state": snapshot["plan"]["initial_state"]}  # what the run began with, seeded or not
        same = {**plan_to_json(exchange.plan), **first} == snapshot["plan"]
        if snapshot["version"] != VERSION or not same or exchange.manifest.to_json() != snapshot["manifest"]:
            raise ConfigError(
                f"{self.root} holds another run: other arrays, codecs, name or seed",
                hint="choose another `state` directory, or start with what that run was started with",
            )
        exchange.plan = exchange.coordinator.plan = plan_from_json(snapshot["plan"])
        exchange.coordinator.load(
            snapshot["coordinator"],
            read_tensors(store, snapshot["arrays"]),
            dict(sorted(read_tensors(store, snapshot["state"]).items())),
            [store.get(digest) for digest in snapshot["frames"]],
        )
        exchange.token = bytes.fromhex(snapshot["token"])
        exchange.nodes.load(snapshot["nodes"])
        exchange.exact = exchange.manifest.unpack_exact(store.get(snapshot["exact"]))
        exchange.set_arrays()
        moved = {path: pair for path, pair in snapshot["numbers"].items() if pair[0] != pair[1]}
        self._first |= {path: float.fromhex(first) for path, (first, _) in moved.items() if first}
        memory.restore(
            strategy,
            {path: float.fromhex(now) for path, (_, now) in moved.items()},
            read_tensors(store, snapshot["remembered"]),
            snapshot["ledgers"],
        )
        return int(snapshot["round"])

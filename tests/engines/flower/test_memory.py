"""How much a strategy holds at once, and what it remembers of the strategies inside."""

from __future__ import annotations

import gc
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg, Strategy
from tests.engines.flower.inside import Inside, arrays_in, grid_of, plain_grid, record, same

import phloem.flower
from phloem.engines.flower import memory
from phloem.errors import ConfigError

pytestmark = pytest.mark.service("flower")

MODEL_BYTES = 2 << 20


class Nothing(dict[int, Any]):
    """Keeps no message."""

    def setdefault(self, node: int, default: Any = None) -> Any:
        return []


def large() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    shape = (16, MODEL_BYTES // 64 // 16)
    return {f"layer{n}": draw.normal(size=shape).astype(np.float32) for n in range(16)}


def nudged(arrays: Any, node: int, number: int) -> Any:
    for place, array in enumerate(arrays.values()):
        array[place, ::7] += np.float32(0.01)
    return arrays


class Measured(phloem.flower.Compressed):
    """The most memory inside the strategy's own calls, in models; the nodes are in this process too."""

    peak = 0.0

    def configure_train(self, *args: Any) -> Any:
        return self._measured(super().configure_train, args)

    def aggregate_train(self, *args: Any) -> Any:
        return self._measured(super().aggregate_train, args)

    def _measured(self, call: Any, args: Any) -> Any:
        gc.collect()
        tracemalloc.reset_peak()
        result = call(*args)
        self.peak = max(self.peak, tracemalloc.get_traced_memory()[1] / MODEL_BYTES)
        return result


def run(strategy: Strategy, grid: Inside) -> float:
    """The most memory of all, in models, the nodes' own too."""
    grid.received = Nothing()
    first = record(large())
    random.seed(0)
    tracemalloc.start()
    try:
        strategy.start(grid, first, num_rounds=2)
        return tracemalloc.get_traced_memory()[1] / MODEL_BYTES
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_sites(tmp_path: Path) -> None:
    peaks = []
    for count in (2, 8):
        strategy = Measured(FedAvg(fraction_evaluate=0.0), bits=0.1)
        run(strategy, grid_of(tmp_path / str(count), range(1, count + 1), train=nudged))
        peaks.append(strategy.peak)
    plain = run(FedAvg(fraction_evaluate=0.0), plain_grid(range(1, 9), train=nudged))
    assert peaks[1] < peaks[0] + 0.5
    assert peaks[1] < 11.5
    assert plain > 9


class Remembering(FedAvg):
    """Keeps its memory in every form there is."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.rounds, self.flag = 1.5, 0, True
        self.array: Any = np.arange(3.0)
        self.scalar: Any = np.float32(2.5)
        self.table: Any = {"a/b": np.ones(2), "#1": np.float64(3.0), "@x": np.zeros((), np.int64)}
        self.items: Any = [np.ones((2, 0)), np.float32(1.0)]
        self.record: Any = ArrayRecord({name: Array(np.ones(2, np.float16)) for name in "zyxab"})
        self.words, self.mixed, self.nothing, self.empty = "text", [1, np.ones(1)], None, {}
        self.odd = {1: np.ones(1)}


def test_arrays_in_every_form_come_back_in_that_form() -> None:
    one, other = Remembering(), Remembering()
    found = memory.arrays_of(one)
    other.array, other.scalar, other.record = None, None, None
    other.table, other.items = {}, None
    shuffled = dict(sorted(found.items(), key=lambda row: row[0][::-1]))
    memory.restore(other, {"norm": 0.5, "rounds": 7.0, "nothing": 2.5}, shuffled, {})
    assert (other.norm, other.rounds, other.nothing) == (0.5, 7, 2.5)
    assert isinstance(other.rounds, int)
    assert same(
        {"a": other.array, "s": np.asarray(other.scalar)}, {"a": one.array, "s": np.asarray(one.scalar)}
    )
    assert same(other.table, {name: np.asarray(array) for name, array in one.table.items()})
    assert [array.shape for array in other.items] == [(2, 0), ()]
    assert list(other.table) == list(one.table)
    assert same(arrays_in(other.record), arrays_in(one.record))
    assert list(other.record) == list("zyxab")
    assert {path.partition("/")[0].partition("#")[0].partition("@")[0] for path in found} == {
        "array", "scalar", "table", "items", "record",
    }  # fmt: skip


def test_what_another_strategy_remembers_is_refused_before_anything_changed() -> None:
    strategy = FedAvg()
    before = dict(vars(strategy))
    for numbers, arrays, ledgers in (
        ({"norm": 1.0}, {}, {}),
        ({"fraction_train": 0.5}, {"m_t/0:w": np.ones(1)}, {}),
        ({}, {}, {"accountant": {}}),
    ):
        with pytest.raises(ConfigError, match="another strategy"):
            memory.restore(strategy, numbers, arrays, ledgers)
    assert vars(strategy) == before


def test_numbers_that_json_does_not_have_outlive_a_restart(tmp_path: Path) -> None:
    class Endless(FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.best: float | None = float("-inf")
            self.worst: float | None = None

        def aggregate_train(self, *args: Any) -> Any:
            self.best, self.worst = max(self.best or 0.0, 1.0), float("nan")
            return super().aggregate_train(*args)

    def run(strategy: Strategy, rounds: int) -> None:
        grid = grid_of(tmp_path, (1, 2), train=lambda arrays, node, number: arrays)
        first = record({"w": np.ones(4, np.float32)})
        phloem.flower.Compressed(strategy, bits=1.0, state=tmp_path / "run").start(
            grid, first, num_rounds=rounds
        )

    run(Endless(), 1)
    again = Endless()
    run(again, 1)
    assert again.best == 1.0
    assert again.worst is not None
    assert np.isnan(again.worst)

"""What a node keeps between messages: the trunk as it once was with the orders since, and what it owes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from tests.engines.flower.inside import Inside, grid_of, model, record, same

import phloem.flower
from phloem.engines.flower.shelf import NodeShelf
from phloem.store.files import Store
from phloem.store.snapshot import load_snapshot
from phloem.tensors import state_digest

pytestmark = pytest.mark.service("flower")

ROWS = 4000  # the model is much larger than an order


def learned(tmp_path: Path, rounds: int, inner: Any = None, first: Any = None) -> tuple[Any, Inside]:
    grid = grid_of(tmp_path, (1, 2))
    strategy = phloem.flower.Compressed(inner or FedAvg(), bits=0.1)
    strategy.start(grid, record(first or model(ROWS)), num_rounds=rounds)
    return strategy, grid


def shelf_of(tmp_path: Path, node: int) -> NodeShelf:
    return NodeShelf(tmp_path / f"node-{node}", node)


def snapshot_of(tmp_path: Path, node: int) -> tuple[dict[str, Any], Store]:
    (folder,) = (tmp_path / f"node-{node}" / str(node)).iterdir()
    store = Store(folder)
    snapshot = load_snapshot(store, "site")
    assert snapshot is not None
    return snapshot, store


@pytest.mark.parametrize("rounds", [1, 2, 4, 5, 9, 10])
def test_a_node_stands_where_the_strategy_does_however_many_orders_it_kept(
    tmp_path: Path, rounds: int
) -> None:
    strategy, _ = learned(tmp_path, rounds)
    coordinator = strategy._exchange.coordinator
    for node in (1, 2):
        standing = shelf_of(tmp_path, node).open(strategy._exchange.token.hex())
        assert standing is not None
        assert standing.site.at.round == coordinator.round
        assert standing.site.at.chain == coordinator.chain
        assert state_digest(standing.site.at.state) == state_digest(coordinator.state)
        kept = len(standing.kept.orders)
        assert kept <= 5
        assert kept == rounds % 5


def test_what_is_kept_is_as_good_as_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _ = learned(tmp_path / "kept", 7)
    monkeypatch.setattr("phloem.engines.flower.shelf._MOST_ORDERS", 0)
    written, _ = learned(tmp_path / "written", 7)
    assert snapshot_of(tmp_path / "written", 1)[0]["since"] == []
    one, other = kept._exchange.coordinator.state, written._exchange.coordinator.state
    assert same(one, other)


def test_to_evaluate_writes_the_order_alone(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, (1, 2))
    before: dict[str, str] = {}

    def after(message: Any) -> Any:
        if message.metadata.src_node_id == 1 and message.has_content():
            snapshot, _ = snapshot_of(tmp_path, 1)
            blobs = {key: snapshot[key] for key in ("state", "owed", "run") if key in snapshot}
            if message.metadata.message_type == "evaluate" and "state" in before:
                assert blobs == before
                assert len(snapshot["since"]) == 1
            before.update(blobs)
        return message

    grid.alter_up = after
    phloem.flower.Compressed(FedAvg(), bits=0.1).start(grid, record(model(ROWS)), num_rounds=3)
    assert before


def test_a_node_that_only_evaluates_writes_the_trunk_now_and_then(tmp_path: Path) -> None:
    class FirstNodeTrains(FedAvg):
        def configure_train(self, *arguments: Any) -> Any:
            return [m for m in super().configure_train(*arguments) if m.metadata.dst_node_id == 1]

    strategy, _ = learned(tmp_path, 12, FirstNodeTrains())
    standing = shelf_of(tmp_path, 2).open(strategy._exchange.token.hex())
    assert standing is not None
    assert standing.site.at.round == 12
    assert len(standing.kept.orders) <= 5
    assert same(standing.site.at.state, strategy._exchange.coordinator.state)


def test_the_disk_holds_two_models_and_little_more(tmp_path: Path) -> None:
    learned(tmp_path, 6)
    _, store = snapshot_of(tmp_path, 1)
    size = sum(len(store.get(digest)) for digest in store.digests())
    one = sum(4 * array.size for array in model(ROWS).values() if array.dtype.kind == "f")
    assert 2 * one < size < 2.2 * one


def test_a_damaged_order_is_a_node_that_holds_nothing(tmp_path: Path) -> None:
    strategy, _ = learned(tmp_path, 3)
    snapshot, store = snapshot_of(tmp_path, 1)
    digest = snapshot["orders"][0]
    path = store.root / "objects" / digest[:2] / digest[2:]
    path.write_bytes(path.read_bytes()[:-1])
    assert shelf_of(tmp_path, 1).open(strategy._exchange.token.hex()) is None


def test_a_model_of_zeros_whose_key_frame_is_smaller_than_a_step(tmp_path: Path) -> None:
    zeros = {"weight": np.zeros((4000, 8), np.float32)}
    strategy, _ = learned(tmp_path, 3, first=zeros)
    for node in (1, 2):
        standing = shelf_of(tmp_path, node).open(strategy._exchange.token.hex())
        assert standing is not None
        assert same(standing.site.at.state, strategy._exchange.coordinator.state)


def test_arrays_that_an_app_gives_back_when_it_evaluates_travel(tmp_path: Path) -> None:
    app = ClientApp(mods=[phloem.flower.mod()])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays, metrics = message.content["arrays"], MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def give_back(message: Message, context: Context) -> Message:
        return Message(RecordDict({"same": message.content["arrays"]}), reply_to=message)

    found: list[Any] = []

    class Looks(FedAvg):
        def aggregate_evaluate(self, number: int, replies: Any) -> None:
            found.extend(replies)

    config = {n: {"phloem-state": str(tmp_path / f"node-{n}")} for n in (1, 2)}
    strategy = phloem.flower.Compressed(Looks(), bits=1.0)
    strategy.start(Inside({1: app, 2: app}, config), record(model()), num_rounds=1)
    assert len(found) == 2
    for reply in found:
        arrays = reply.content["same"]
        wanted = strategy._exchange.arrays
        assert all(arrays[name].data == wanted[name].data for name in wanted)

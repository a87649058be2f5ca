"""What goes wrong: nodes, lines, disks, coordinators and versions; every time in words, and the run goes on."""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, Strategy
from tests.engines.flower.inside import (
    Inside,
    Seen,
    app_with,
    arrays_in,
    floats,
    grid_of,
    model,
    record,
    same,
    trained,
)

import phloem.flower
from phloem import canonical
from phloem.engines.flower.records import Payload, packed, unpacked
from phloem.errors import ConfigError
from phloem.wire.messages import Order, Reply, Status

pytestmark = pytest.mark.service("flower")


def run(strategy: Strategy, grid: Inside, rounds: int = 3, arrays: Any = None) -> dict[str, Any]:
    random.seed(0)
    first = record(model() if arrays is None else arrays)
    return arrays_in(strategy.start(grid, first, num_rounds=rounds).arrays)


def compressed(state: Path | None = None, inner: Strategy | None = None) -> phloem.flower.Compressed:
    return phloem.flower.Compressed(inner or FedAvg(), bits=1.0, state=state)


def only(node: int, kind: str, number: int, change: Callable[[Message], Message | None]) -> Any:
    """Changes the replies of one node to its messages of one kind with arrays, the one of round `number` alone."""
    turn = Counter[str]()

    def alter(message: Message) -> Message | None:
        meta = message.metadata
        who = meta.src_node_id if meta.src_node_id != 1 or meta.reply_to_message_id else meta.dst_node_id
        if who != node or meta.message_type != kind or not message.has_content():
            return message
        if not message.content.array_records:
            return message
        turn["seen"] += 1
        return change(message) if turn["seen"] == number else message

    return alter


def repacked(message: Message, change: Callable[[Payload], Payload]) -> Message:
    content = RecordDict(dict(message.content.items()))
    for key, found in message.content.array_records.items():
        content[key] = packed(change(Payload.unpack(unpacked(found))).pack())
    message.content = content
    return message


def everybody_agrees(seen: Seen, nodes: set[int], number: int) -> bool:
    """Whether all these nodes trained in that round, and from the same bits."""
    held = {node: arrays for node, kind, n, arrays in seen if (kind, n) == ("train", number)}
    first = next(iter(held.values()))
    return set(held) == nodes and all(same(first, arrays) for arrays in held.values())


# -- sites ---------------------------------------------------------------------------------------------------------


def garbage(message: Message) -> Message:
    return repacked(message, lambda p: Payload(p.token, bytes(range(200)), p.exact))


def other_run(message: Message) -> Message:
    return repacked(message, lambda p: Payload(b"01234567", p.message, p.exact))


def other_base(message: Message) -> Message:
    def change(payload: Payload) -> Payload:
        reply = Reply.unpack(payload.message)
        return Payload(
            payload.token,
            Reply(reply.round, reply.site, reply.status, b"another!", None, 1, reply.frame).pack(),
            payload.exact,
        )

    return repacked(message, change)


def other_state(message: Message) -> Message:
    def change(payload: Payload) -> Payload:
        reply = Reply.unpack(payload.message)
        return Payload(
            payload.token,
            Reply(reply.round, reply.site, reply.status, reply.chain, b"another!", 1, reply.frame).pack(),
            payload.exact,
        )

    return repacked(message, change)


def no_counters(message: Message) -> Message:
    return repacked(message, lambda p: Payload(p.token, p.message))


def without_pack(message: Message) -> Message:
    message.content = RecordDict({k: v for k, v in message.content.items() if not isinstance(v, ArrayRecord)})
    return message


def not_packed(message: Message) -> Message:
    message.content["arrays"] = record(model())
    return message


def two_packs(message: Message) -> Message:
    message.content["more"] = packed(b"more")
    return message


def missing_part(message: Message) -> Message:
    message.content["arrays"] = ArrayRecord({"1": message.content["arrays"]["0"]})
    return message


FAULTS = {
    garbage: "expected a reply",
    other_run: "belongs to another run",
    other_base: "trained on another trunk than ours",
    other_state: "holds another state than the trunk",
    no_counters: "without the tensors that are not floating point",
    without_pack: "the mod must be the first",
    not_packed: "the mod must be the first",
    two_packs: "the mod must be the first",
    missing_part: "has no part 0",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_reply_that_is_refused_leaves_the_trunk_as_if_it_were_lost(
    fault: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: Seen = []
    grid = grid_of(tmp_path / "a", seen=seen)
    grid.alter_up = only(2, "train", 2, fault)
    with caplog.at_level(logging.WARNING, "flwr"):
        found = run(compressed(), grid, 4)
    assert f"node 2: {FAULTS[fault]}" in caplog.text or FAULTS[fault] in caplog.text
    assert "phloem: node 2" in caplog.text
    assert everybody_agrees(seen, {1, 2, 3}, 4)
    lost = grid_of(tmp_path / "b")
    lost.alter_up = only(2, "train", 2, lambda message: None)
    assert same(found, run(compressed(), lost, 4))


def test_a_nan_update_is_refused_by_the_node_itself_and_does_not_stay_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(arrays: Any, node: int, number: int) -> Any:
        out = trained(arrays, node, number)
        if (node, number) == (2, 2):
            out["bias"] = out["bias"] * np.float32(np.nan)
        return out

    seen: Seen = []
    with caplog.at_level(logging.WARNING, "flwr"):
        found = run(compressed(), grid_of(tmp_path, train=broken, seen=seen), 4)
    assert "node 2: refused by the site itself: tensor 'bias' holds NaN or infinity" in caplog.text
    assert all(np.isfinite(array).all() for array in found.values())
    assert everybody_agrees(seen, {1, 2, 3}, 4)


def test_counters_that_are_not_numbers_are_refused_in_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(arrays: Any, node: int, number: int) -> Any:
        out = trained(arrays, node, number)
        return out | {"seen": np.array(np.nan)} if (node, number) == (2, 2) else out

    with caplog.at_level(logging.WARNING, "flwr"):
        found = run(compressed(), grid_of(tmp_path, train=broken))
    assert "array 'seen' holds NaN or infinity" in caplog.text
    assert found["seen"] == 6


@pytest.mark.parametrize("change", ["extra", "missing", "shape", "two records"])
def test_an_app_that_trains_another_model_is_told_so(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def other(arrays: Any, node: int, number: int) -> Any:
        out = trained(arrays, node, number)
        if (node, number) != (2, 2):
            return out
        if change == "extra":
            return out | {"head": np.zeros(3, np.float32)}
        if change == "missing":
            return {name: array for name, array in out.items() if name != "bias"}
        return out | {"bias": np.zeros(9, np.float32)}

    grid = grid_of(tmp_path, train=other if change != "two records" else None)
    if change == "two records":

        def second(message: Message, context: Any, call_next: Any) -> Message:
            out = call_next(message, context)
            if "arrays" in out.content and message.content["config"]["server-round"] == 2:
                out.content["more"] = record(floats())
            return out

        grid.apps[2] = app_with(phloem.flower.mod(), second)
    with caplog.at_level(logging.WARNING, "flwr"):
        run(compressed(), grid)
    words = {
        "extra": "array 'head' is not part of the model",
        "missing": "array 'bias' is missing",
        "shape": "array 'bias': expected shape (8,), found (9,)",
        "two records": "the app replied with 2 array records, expected one",
    }
    assert words[change] in caplog.text


@pytest.mark.parametrize("change", ["bytes", "shape", "names", "nan", "words"])
def test_a_broken_whole_model_is_refused_like_a_broken_frame(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def alter(message: Message) -> Message:
        arrays = dict(message.content["arrays"].items())
        if change == "bytes":
            arrays["bias"] = Array("float32", (8,), "numpy.ndarray", b"\x93NUMPY garbage")
        elif change == "shape":
            arrays["bias"] = Array(np.zeros((8, 2), np.float32))
        elif change == "names":
            arrays["head"] = arrays.pop("bias")
        elif change == "nan":
            arrays["bias"] = Array(np.full(8, np.nan, np.float32))
        else:
            arrays["bias"] = Array(np.full(8, "words"))
        message.content["arrays"] = ArrayRecord(arrays)
        return message

    results = []
    for turn, fault in enumerate((alter, lambda message: None)):
        grid = grid_of(tmp_path / str(turn), (1, 2))
        grid.apps[3] = app_with()
        grid.alter_up = only(3, "train", 2, fault)
        with caplog.at_level(logging.WARNING, "flwr"):
            results.append(run(compressed(), grid))
    assert "phloem: node 3: " in caplog.text
    assert same(*results)


def test_an_update_that_comes_twice_counts_once(tmp_path: Path) -> None:
    once = run(compressed(), grid_of(tmp_path / "once"), 4)
    grid = grid_of(tmp_path / "twice")
    grid.shuffle = lambda replies: [*replies, *replies[:1]]
    assert same(run(compressed(), grid, 4), once)


def test_a_refusal_in_an_evaluation_costs_no_later_update(tmp_path: Path) -> None:
    whole = run(compressed(), grid_of(tmp_path / "whole"))
    grid = grid_of(tmp_path / "broken")
    seen = Counter[int]()

    def alter(message: Message) -> Message:
        if message.metadata.message_type != "evaluate" or not message.has_content():
            return message
        if not message.content.array_records or message.metadata.src_node_id != 2:
            return message
        seen[2] += 1

        def late(payload: Payload) -> Payload:
            reply = Reply.unpack(payload.message)
            moved = Reply(reply.round, reply.site, Status.UPDATE, reply.chain, reply.state, 1, b"frame")
            return Payload(payload.token, moved.pack(), payload.exact)

        return repacked(message, late)

    grid.alter_up = alter
    assert same(run(compressed(), grid), whole)
    assert seen[2] == 3


# -- lines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("way", ["down", "up"])
def test_a_lost_message_costs_one_round_of_one_node(kind: str, way: str, tmp_path: Path) -> None:
    seen: Seen = []
    grid = grid_of(tmp_path, seen=seen)
    lose = only(2, kind, 2, lambda message: None)
    setattr(grid, f"alter_{way}", lose)
    run(compressed(), grid, 4)
    assert everybody_agrees(seen, {1, 2, 3}, 3)
    assert everybody_agrees(seen, {1, 2, 3}, 4)
    assert max(size for node, _, size, _ in grid.down[10:] if node == 2) < 700  # deltas, not the model


@pytest.mark.parametrize("fault", ["lost", "refused", "raised"])
def test_an_unanswered_greeting_is_repeated_in_the_next_round(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: Seen = []
    grid = grid_of(tmp_path, seen=seen)
    turn = Counter[int]()

    def alter(message: Message) -> Message | None:
        turn[message.metadata.src_node_id] += 1
        first = message.metadata.src_node_id == 2 and turn[2] == 1
        return None if first else message

    def damaged(message: Message) -> Message:
        if message.metadata.src_node_id == 2 and "phloem" in message.content and not turn[2]:
            turn[2] += 1
            message.content["phloem"] = ConfigRecord({"answer": b"[1]" if fault == "refused" else b"{"})
        return message

    grid.alter_up = alter if fault == "lost" else damaged
    with caplog.at_level(logging.WARNING, "flwr"):
        run(compressed(), grid)
    assert "phloem: node 2" in caplog.text
    assert not [n for n, kind, number, _ in seen if (n, kind, number) == (2, "train", 1)]
    assert everybody_agrees(seen, {1, 2, 3}, 2)


def test_a_node_that_returns_after_five_rounds_is_sent_deltas(tmp_path: Path) -> None:
    seen: Seen = []
    grid = grid_of(tmp_path, seen=seen)
    away = {"now": False}
    grid.alter_down = lambda m: None if away["now"] and m.metadata.dst_node_id == 2 else m

    def measure(number: int, arrays: ArrayRecord) -> None:
        away["now"] = 1 <= number < 6

    strategy = phloem.flower.Compressed(FedAvg(), bits=0.3)
    random.seed(0)
    strategy.start(grid, record(model(400)), num_rounds=8, evaluate_fn=measure)
    assert [n for node, kind, n, _ in seen if (node, kind) == (2, "train")] == [1, 7, 8]
    assert everybody_agrees(seen, {1, 2, 3}, 7)
    back = [
        t.bytes
        for t in strategy.traffic
        if (t.node, t.round, t.direction, t.phase) == (2, 7, "down", "train")
    ]
    key = max(t.bytes for t in strategy.traffic)
    assert 0 < back[0] < key / 5


def test_a_node_that_joins_in_the_fourth_round_holds_what_all_hold(tmp_path: Path) -> None:
    seen: Seen = []
    grid = grid_of(tmp_path, (1, 2, 3, 4), seen=seen)
    new = grid.apps.pop(4)

    def measure(number: int, arrays: ArrayRecord) -> None:
        if number == 3:
            grid.apps[4] = new

    random.seed(0)
    compressed().start(grid, record(model()), num_rounds=5, evaluate_fn=measure)
    assert everybody_agrees(seen, {1, 2, 3}, 3)
    assert everybody_agrees(seen, {1, 2, 3, 4}, 4)
    assert everybody_agrees(seen, {1, 2, 3, 4}, 5)


# -- disks ---------------------------------------------------------------------------------------------------------


def blobs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "objects" in path.parts)


def flipped(folder: Path) -> None:
    for path in blobs(folder):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def emptied(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


@pytest.mark.parametrize("harm", [shutil.rmtree, flipped, emptied], ids=["removed", "flipped", "emptied"])
def test_a_node_whose_disk_is_harmed_is_sent_the_model_again(
    harm: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: Seen = []
    grid = grid_of(tmp_path, seen=seen)

    def measure(number: int, arrays: ArrayRecord) -> None:
        if number == 2:
            harm(tmp_path / "node-2")

    random.seed(0)
    with caplog.at_level(logging.WARNING, "flwr"):
        compressed().start(grid, record(model()), num_rounds=4, evaluate_fn=measure)
    assert "node 2" in caplog.text or "holds nothing of the run" in caplog.text
    assert everybody_agrees(seen, {1, 2, 3}, 4)


@pytest.mark.parametrize("blob", [0, 1, 2])
def test_any_one_damaged_blob_is_noticed(blob: int, tmp_path: Path) -> None:
    seen: Seen = []
    grid = grid_of(tmp_path, seen=seen)

    def measure(number: int, arrays: ArrayRecord) -> None:
        if number == 2:
            path = blobs(tmp_path / "node-2")[blob]
            path.write_bytes(path.read_bytes()[:-1])

    random.seed(0)
    compressed().start(grid, record(model()), num_rounds=4, evaluate_fn=measure)
    assert everybody_agrees(seen, {1, 2, 3}, 4)


def test_a_disk_that_refuses_is_an_error_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grid = grid_of(tmp_path)
    (tmp_path / "file").write_text("no directory")
    grid.config = {**grid.config, 2: {"phloem-state": str(tmp_path / "file")}}
    with caplog.at_level(logging.WARNING, "flwr"):
        run(compressed(), grid)
    assert "node 2 refused the greeting" in caplog.text
    assert "say where this node may write" in caplog.text


def test_a_node_works_for_two_runs_at_once(tmp_path: Path) -> None:
    grids = [grid_of(tmp_path) for _ in range(2)]
    alone = run(compressed(), grid_of(tmp_path / "alone"), 4)
    strategies = [compressed(tmp_path / f"run-{turn}") for turn in range(2)]
    for rounds in (1, 2):
        for grid, strategy in zip(grids, strategies, strict=True):
            run(strategy, grid, rounds)
    for grid in grids:
        grid.down.clear()
    found = [run(strategy, grid, 4) for grid, strategy in zip(grids, strategies, strict=True)]
    assert same(found[0], alone)
    assert same(found[1], alone)
    assert max(size for grid in grids for _, _, size, _ in grid.down) < 700


def test_what_a_node_left_under_an_older_number_is_forgotten_after_a_week_too(tmp_path: Path) -> None:
    week = time.time() - 8 * 86_400
    for node, used in (("1234", week), ("5678", time.time())):
        reference = tmp_path / "node-1" / node / "0102030405060708" / "refs" / "site"
        reference.parent.mkdir(parents=True)
        reference.touch()
        os.utime(reference, (used, used))
    (tmp_path / "node-1" / "the user's own").mkdir()
    os.utime(tmp_path / "node-1" / "the user's own", (week, week))
    phloem.flower.Compressed(FedAvg(), bits=1.0).start(grid_of(tmp_path), record(model()), num_rounds=1)
    left = {path.name: any(path.iterdir()) for path in (tmp_path / "node-1").iterdir()}
    assert left == {"1": True, "1234": False, "5678": True, "the user's own": False}


def test_a_run_that_nobody_went_on_with_for_a_week_is_forgotten_and_no_other(tmp_path: Path) -> None:
    first, second = compressed(tmp_path / "first"), compressed(tmp_path / "second")
    run(first, grid_of(tmp_path), 1)
    run(second, grid_of(tmp_path), 1)
    runs = tmp_path / "node-1" / "1"
    (old,) = (path for path in runs.iterdir() if path.name == first._exchange.token.hex())
    week = time.time() - 8 * 86_400
    os.utime(old / "refs" / "site", (week, week))
    run(compressed(), grid_of(tmp_path), 1)
    assert not old.exists()
    assert len(list(runs.iterdir())) == 2


# -- coordinators --------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class Dying(FedAdam):
    """Dies inside its third aggregation, once."""

    alive = True

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        out = super().aggregate_train(server_round, replies)
        if server_round == 3 and Dying.alive:
            Dying.alive = False
            raise Killed
        return out


def test_a_coordinator_killed_before_it_merged_asks_again_and_nobody_trains_twice(tmp_path: Path) -> None:
    Dying.alive = False
    whole = run(compressed(tmp_path / "a", Dying()), grid_of(tmp_path / "nodes-a"), 5)
    Dying.alive = True
    seen: Seen = []
    grid = grid_of(tmp_path / "nodes-b", seen=seen)
    with pytest.raises(Killed):
        run(compressed(tmp_path / "b", Dying()), grid, 5)
    assert same(run(compressed(tmp_path / "b", Dying()), grid, 5), whole)
    counts = Counter((node, number) for node, kind, number, _ in seen if kind == "train")
    assert set(counts.values()) == {1}
    assert len(counts) == 15


def test_a_coordinator_killed_while_replies_come_in_loses_nothing(tmp_path: Path) -> None:
    whole = run(compressed(tmp_path / "a"), grid_of(tmp_path / "nodes-a"), 4)
    seen: Seen = []
    grid = grid_of(tmp_path / "nodes-b", seen=seen)

    def die(message: Message) -> Message:
        raise Killed

    grid.alter_up = only(2, "train", 3, die)
    with pytest.raises(Killed):
        run(compressed(tmp_path / "b"), grid, 4)
    grid.alter_up = lambda message: message
    assert same(run(compressed(tmp_path / "b"), grid, 4), whole)
    counts = Counter((node, number) for node, kind, number, _ in seen if kind == "train")
    assert set(counts.values()) == {1}


def test_a_coordinator_killed_in_its_first_round_begins_anew(tmp_path: Path) -> None:
    grid = grid_of(tmp_path / "nodes")

    def die(message: Message) -> Message:
        raise Killed

    grid.alter_up = only(3, "train", 1, die)
    with pytest.raises(Killed):
        run(compressed(tmp_path / "run"), grid)
    grid.alter_up = lambda message: message
    found = run(compressed(tmp_path / "run"), grid)
    assert same(found, run(compressed(), grid_of(tmp_path / "other")))


def test_nodes_follow_a_coordinator_that_is_put_back_to_an_earlier_round(tmp_path: Path) -> None:
    seen: Seen = []
    grid = grid_of(tmp_path / "nodes", seen=seen)
    run(compressed(tmp_path / "run"), grid, 2)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    run(compressed(tmp_path / "run"), grid, 4)
    seen.clear()
    run(compressed(tmp_path / "copy"), grid, 3)
    assert everybody_agrees(seen, {1, 2, 3}, 3)
    run(compressed(tmp_path / "copy"), grid, 4)
    seen.clear()
    run(compressed(tmp_path / "run"), grid, 5)  # the other fork, one round ahead
    assert everybody_agrees(seen, {1, 2, 3}, 5)


def test_a_merge_that_is_not_finite_names_the_array_and_leaves_the_trunk(tmp_path: Path) -> None:
    class Diverging(FedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            if server_round == 2 and diverges:
                arrays["seen"] = Array(np.array(99.0))
                arrays["weight"] = Array(arrays["weight"].numpy() * np.float32(np.inf))
            return arrays, metrics

    grid = grid_of(tmp_path / "nodes")
    diverges = True
    with pytest.raises(ConfigError, match="model with NaN or infinity in array 'weight'"):
        run(compressed(tmp_path / "run", Diverging()), grid)
    diverges = False
    found = run(compressed(tmp_path / "run", Diverging()), grid)
    assert same(found, run(compressed(), grid_of(tmp_path / "other")))


def test_a_merge_to_another_model_is_refused_in_words(tmp_path: Path) -> None:
    class Growing(FedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            arrays["head"] = Array(np.zeros(3, np.float32))
            return arrays, metrics

    with pytest.raises(ConfigError, match="merged to another model: array 'head'"):
        run(compressed(inner=Growing()), grid_of(tmp_path))


# -- versions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["down", "up"])
def test_ends_of_different_versions_say_so_and_the_others_go_on(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def older(message: Message) -> Message:
        node = message.metadata.dst_node_id if way == "down" else message.metadata.src_node_id
        if node == 2 and message.has_content() and "phloem" in message.content.config_records:
            found = dict(message.content["phloem"].items())
            for key, data in found.items():
                found[key] = canonical.dumps(canonical.loads(data) | {"protocol": 99, "phloem": "9.9"})
            message.content["phloem"] = ConfigRecord(found)
        return message

    seen: Seen = []
    grid = grid_of(tmp_path, seen=seen)
    setattr(grid, f"alter_{way}", older)
    with caplog.at_level(logging.WARNING, "flwr"):
        run(compressed(), grid)
    assert "speaks protocol 99 (phloem 9.9), expected 1" in caplog.text
    assert "install the same release" in caplog.text
    assert {node for node, *_ in seen} == {1, 3}


def test_an_order_that_a_node_cannot_follow_is_answered_in_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def diverge(message: Message) -> Message:
        def change(payload: Payload) -> Payload:
            order = Order.unpack(payload.message)
            other = Order(order.round, order.train, order.chain, b"another!", order.start, order.items)
            return Payload(payload.token, other.pack(), payload.exact)

        return repacked(message, change)

    seen: Seen = []
    grid = grid_of(tmp_path, seen=seen)
    grid.alter_down = only(2, "train", 2, diverge)
    with caplog.at_level(logging.WARNING, "flwr"):
        run(compressed(), grid)
    assert "decoded another state than the coordinator" in caplog.text
    assert everybody_agrees(seen, {1, 2, 3}, 3)

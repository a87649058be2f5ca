"""What everybody holds, what crosses, and what stays as it was."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedXgbBagging, Strategy
from tests.engines.flower.inside import (
    Inside,
    Seen,
    app_with,
    arrays_in,
    floats,
    grid_of,
    model,
    plain_grid,
    record,
    same,
    trained,
)

import phloem.flower
from phloem.engines.flower.records import unpacked
from phloem.errors import ConfigError

pytestmark = pytest.mark.service("flower")

NONE = {"codec": "none"}


def run(strategy: Strategy, grid: Inside, arrays: Any = None, rounds: int = 3, **more: Any) -> Any:
    random.seed(0)
    return strategy.start(grid, record(model() if arrays is None else arrays), num_rounds=rounds, **more)


class Watched(Strategy):
    """An inner strategy whose every call is kept: what it was given and what it made, as it was then."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        self.trunks: dict[int, dict[str, Any]] = {}
        self.made: list[tuple[RecordDict, RecordDict]] = []
        self.replies: list[list[Message]] = []

    def summary(self) -> None: ...

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.trunks[server_round] = arrays_in(arrays)
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        self.made += [(m.content, copy.deepcopy(m.content)) for m in messages]
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        self.replies.append(list(replies))
        return self.inner.aggregate_train(server_round, self.replies[-1])

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(self.inner.configure_evaluate(server_round, arrays, config, grid))
        self.made += [(m.content, copy.deepcopy(m.content)) for m in messages]
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.inner.aggregate_evaluate(server_round, list(replies))


# -- who holds what ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # FedAdam's own, on an empty tensor's moments
@pytest.mark.parametrize("inner", [FedAvg, FedAdam])
@pytest.mark.parametrize(
    "codec", [{"bits": 0.5}, {"bits": 3.0, "effort": "best"}, {"up": NONE, "down": NONE}]
)
def test_everybody_holds_the_strategys_arrays_to_the_bit(tmp_path: Path, inner: Any, codec: Any) -> None:
    seen: Seen = []
    grid = grid_of(tmp_path, seen=seen)
    watched = Watched(inner())
    after: dict[int, dict[str, Any]] = {}

    def measure(number: int, arrays: ArrayRecord) -> None:
        after[number] = arrays_in(arrays)

    result = run(phloem.flower.Compressed(watched, **codec), grid, rounds=4, evaluate_fn=measure)
    assert len(seen) == 4 * 6
    for _, kind, number, arrays in seen:
        trunk = watched.trunks[number] if kind == "train" else after[number]
        assert same(arrays, trunk)
    assert same(arrays_in(result.arrays), after[4])
    assert same(watched.trunks[4], after[3])
    assert {n: a.dtype for n, a in arrays_in(result.arrays).items()} == {
        n: a.dtype for n, a in model().items()
    }


def test_counters_and_masks_arrive_exactly(tmp_path: Path) -> None:
    seen: Seen = []
    result = run(phloem.flower.Compressed(FedAvg(), bits=0.5), grid_of(tmp_path, seen=seen))
    assert arrays_in(result.arrays)["seen"] == 6
    assert same({"m": arrays_in(result.arrays)["mask"]}, {"m": model()["mask"]})
    assert all(same({"r": arrays["ranks"]}, {"r": model()["ranks"]}) for *_, arrays in seen)


def test_the_order_of_replies_does_not_change_a_bit(tmp_path: Path) -> None:
    results = []
    for turn, shuffle in enumerate(
        (list, lambda replies: replies[::-1], lambda replies: replies[3:] + replies[:3])
    ):
        grid = grid_of(tmp_path / str(turn), range(1, 8))
        grid.shuffle = shuffle
        strategy = phloem.flower.Compressed(FedAvg(), up=NONE, down=NONE)
        results.append(arrays_in(run(strategy, grid, rounds=2).arrays))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


# -- what crosses --------------------------------------------------------------------------------------------------


def test_traffic_is_what_crossed_the_grid_and_packed_messages_have_one_array(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    grid.apps[4] = app_with()
    strategy = phloem.flower.Compressed(FedAvg(), bits=1.0)
    run(strategy, grid)
    for way, crossed in (("down", grid.down), ("up", grid.up)):
        counted = [t for t in strategy.traffic if t.direction == way and t.phase != "greet"]
        rows = sorted((t.node, t.phase, t.bytes) for t in counted)
        arrays = sorted(row[:3] for row in crossed if row[3] > 0)
        empty = [t for t in counted if t.bytes == 0]
        assert {t.node for t in empty} <= {4}  # a reply to evaluate has no arrays
        assert [row for row in rows if row[2] > 0] == arrays
        assert {row[3] for row in crossed if row[0] != 4} <= {0, 1}
    assert {t.compressed for t in strategy.traffic if t.node == 4 and t.phase != "greet"} == {False}
    greeted = [(t.node, t.direction) for t in strategy.traffic if t.phase == "greet" and t.bytes > 0]
    assert sorted(greeted) == [
        (1, "down"),
        (1, "up"),
        (2, "down"),
        (2, "up"),
        (3, "down"),
        (3, "up"),
        (4, "down"),
    ]
    assert {t.round for t in strategy.traffic} == {1, 2, 3}


def test_after_the_first_model_no_message_carries_it_again(tmp_path: Path) -> None:
    big = {"w": np.ones((300, 300), np.float32), "mask": np.tril(np.ones((512, 512), bool))}
    big["w"] += np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    grid = grid_of(tmp_path)
    run(phloem.flower.Compressed(FedAvg(), bits=0.1), grid, big)
    sizes = [size for _, _, size, _ in grid.down if size]
    assert min(sizes[:3]) > 200_000
    assert max(sizes[3:]) < 8_000
    assert max(size for _, _, size, _ in grid.up) < 8_000


def test_what_frames_leave_out_is_sent_later(tmp_path: Path) -> None:
    def steady(arrays: Any, node: int, number: int) -> Any:
        return {"w": arrays["w"] + drift}

    drift = np.random.default_rng(1).normal(size=(50, 40)).astype(np.float32) ** 3 * 0.01
    first = {"w": np.zeros((50, 40), np.float32)}
    distances = {}
    for rounds in (1, 20):
        grid = grid_of(tmp_path / str(rounds), (1, 2), train=steady)
        result = run(phloem.flower.Compressed(FedAvg(), bits=0.3), grid, first, rounds)
        wanted = rounds * drift
        distances[rounds] = np.linalg.norm(arrays_in(result.arrays)["w"] - wanted) / np.linalg.norm(wanted)
    assert distances[1] > 0.4
    assert distances[20] < 0.2


# -- apps and mods of all kinds ------------------------------------------------------------------------------------


def test_without_the_mod_a_run_is_plain_flowers(tmp_path: Path) -> None:
    plain = arrays_in(run(FedAvg(), plain_grid(), floats()).arrays)
    grid = plain_grid()
    ours = arrays_in(run(phloem.flower.Compressed(FedAvg(), up=NONE, down=NONE), grid, floats()).arrays)
    for name in plain:
        np.testing.assert_allclose(ours[name], plain[name], rtol=1e-5, atol=1e-6)
    assert {count for *_, count in grid.down} == {0, len(floats())}


def test_nodes_with_and_without_the_mod_work_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: Seen = []
    grid = grid_of(tmp_path, (1, 2), seen=seen)
    grid.apps[3] = app_with(seen=seen)
    watched = Watched(FedAvg())
    with caplog.at_level(logging.WARNING, "flwr"):
        run(phloem.flower.Compressed(watched, bits=1.0), grid)
    assert "node 3 has no phloem mod" in caplog.text
    for node, kind, number, arrays in seen:
        if kind == "train":
            assert same(arrays, watched.trunks[number]), node
    assert {node for node, *_ in seen} == {1, 2, 3}


def test_the_mod_lets_other_strategies_messages_pass_as_they_are(tmp_path: Path) -> None:
    mod = phloem.flower.mod(state=tmp_path)
    grid = plain_grid()
    content = RecordDict({"arrays": record(model()), "phloem": ConfigRecord({"mine": 1})})
    message = Message(content, 1, "train")
    reply = Message(RecordDict(), reply_to=message)
    got: list[Message] = []

    def call_next(inner: Message, context: Context) -> Message:
        got.append(inner)
        return reply

    assert mod(message, Context(1, 1, {}, RecordDict(), {}), call_next) is reply
    assert got[0] is message
    assert not any(tmp_path.iterdir())
    with_mod = arrays_in(run(FedAvg(), grid_of(tmp_path)).arrays)
    assert same(with_mod, arrays_in(run(FedAvg(), grid).arrays))


def test_keys_of_the_users_own_pass_both_ways(tmp_path: Path) -> None:
    heard: list[Any] = []
    app = ClientApp(mods=[phloem.flower.mod(state=tmp_path)])

    @app.train()
    def on_train(message: Message, context: Context) -> Message:
        heard.append(dict(message.content["config"]))
        content = RecordDict(
            {
                "weights": record(trained(arrays_in(message.content["arrays"]), context.node_id, 1)),
                "metrics": MetricRecord({"num-examples": 2, "loss": float("nan"), "curve": [0.5, 0.25]}),
                "notes": ConfigRecord({"words": "yes", "raw": b"\x00\xff", "flags": [True, False], "n": 3}),
            }
        )
        return Message(content, reply_to=message)

    @app.evaluate()
    def on_evaluate(message: Message, context: Context) -> Message:
        heard.append(dict(message.content["config"]))
        content = RecordDict(
            {"metrics": MetricRecord({"num-examples": 1}), "plot": record({"line": np.ones(3, np.float32)})}
        )
        return Message(content, reply_to=message)

    watched = Watched(FedAvg())
    strategy = phloem.flower.Compressed(watched, bits=1.0)
    grid = Inside({1: app, 2: app}, {})
    config = {"mine": "hello", "list": [1.5, 2.5], "key": b"\x01"}
    result = run(
        strategy, grid, rounds=1, train_config=ConfigRecord(config), evaluate_config=ConfigRecord(config)
    )
    assert heard == 4 * [{**config, "server-round": 1}]
    for message in watched.replies[0]:
        assert list(message.content.array_records) == ["weights"]
        assert dict(message.content["notes"]) == {
            "words": "yes",
            "raw": b"\x00\xff",
            "flags": [True, False],
            "n": 3,
        }
        assert message.content["metrics"]["curve"] == [0.5, 0.25]
        assert np.isnan(message.content["metrics"]["loss"])
        assert "phloem" not in message.content
    assert not result.evaluate_metrics_clientapp[1]
    rows = [t.bytes for t in strategy.traffic if t.phase == "evaluate" and t.direction == "up"]
    assert sorted(rows) == sorted(size for _, kind, size, _ in grid.up if kind == "evaluate")


# -- what stays as it was ------------------------------------------------------------------------------------------


def test_nobodys_records_are_changed(tmp_path: Path) -> None:
    given = record(model())
    before = copy.deepcopy(given)
    watched = Watched(FedAvg())
    random.seed(0)
    phloem.flower.Compressed(watched, bits=1.0).start(grid_of(tmp_path), given, num_rounds=3)
    assert given == before
    assert watched.made
    for content, then in watched.made:
        arrays = [name for name, value in then.items() if isinstance(value, ArrayRecord)]
        assert list(content) == list(then)
        assert all(content[name] == then[name] for name in arrays)


def test_arrays_that_the_caller_changes_between_rounds_reach_everybody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Changing(phloem.flower.Compressed):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            if server_round == 2 and anew:
                return record({name: array * 0 for name, array in arrays_in(arrays).items()}), metrics
            if server_round == 2:
                arrays["bias"] = Array(np.full(8, 7, np.float32))
            return arrays, metrics

    for anew in (True, False):
        seen: Seen = []
        strategy = Changing(FedAvg(), bits=1.0)
        with caplog.at_level(logging.WARNING, "flwr"):
            run(strategy, grid_of(tmp_path / str(anew), seen=seen), rounds=4)
        assert "not those of the last round" in caplog.text
        caplog.clear()
        third = [arrays for _, kind, number, arrays in seen if (kind, number) == ("train", 3)]
        assert len(third) == 3
        for arrays in third:
            assert (arrays["bias"] == (0 if anew else 7)).all()
        assert {t.round for t in strategy.traffic} == {1, 2, 3, 4}  # nothing that crossed is forgotten


class Trees(FedAvg):
    """Bytes in, bytes out, as FedXgbBagging does with a library of its own."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        return next(iter(replies)).content["arrays"], MetricRecord()


def test_a_model_without_floating_point_passes_uncompressed(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    trees = {"0": np.frombuffer(b'{"learner": 1}', np.uint8)}
    app = app_with(phloem.flower.mod(state=tmp_path), train=lambda arrays, node, number: arrays)
    with caplog.at_level(logging.WARNING, "flwr"):
        strategy = phloem.flower.Compressed(Trees(fraction_evaluate=0.0), bits=1.0)
        result = run(strategy, Inside({1: app, 2: app}, {}), trees, rounds=2)
    assert same(arrays_in(result.arrays), trees)
    assert caplog.text.count("nothing is compressed: no array is floating point") == 1
    assert not strategy.traffic
    assert isinstance(phloem.flower.Compressed(FedXgbBagging()).strategy, FedXgbBagging)


def test_a_caller_who_goes_back_to_the_first_arrays_is_believed(tmp_path: Path) -> None:
    first = record({"w": np.linspace(0, 1, 50)})

    class Restarting(phloem.flower.Compressed):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            return (first, metrics) if server_round == 2 else (arrays, metrics)

    seen: Seen = []
    grid = grid_of(tmp_path, seen=seen)
    Restarting(FedAvg(), bits=1.0).start(grid, first, num_rounds=3)
    begun = {number: arrays for _, kind, number, arrays in seen if kind == "train"}
    assert same(begun[3], begun[1])
    assert not same(begun[2], begun[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_first_model_that_is_not_finite_is_left_to_flower(
    bad: float, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    first = floats() | {"bias": np.full(8, bad, np.float32)}
    with caplog.at_level(logging.WARNING, "flwr"):
        run(phloem.flower.Compressed(FedAvg(), bits=1.0), grid_of(tmp_path), first, rounds=1)
    assert "nothing is compressed: array 'bias' holds NaN or infinity" in caplog.text


def test_codecs_that_do_not_exist_are_refused_when_the_strategy_is_made() -> None:
    for wrong in (
        {"up": {"codec": "gzip"}},
        {"down": {"codec": "int8", "blok": 3}},
        {"bits": -1.0},
        {"effort": "most"},
    ):
        with pytest.raises(ConfigError):
            phloem.flower.Compressed(FedAvg(), **wrong)


def test_a_strategy_that_trains_nobody_keeps_its_model(tmp_path: Path) -> None:
    strategy = phloem.flower.Compressed(FedAvg(fraction_train=0.0), bits=1.0)
    result = run(strategy, grid_of(tmp_path), floats(), rounds=2)
    assert same(arrays_in(result.arrays), floats())
    assert same(arrays_in(strategy.start(grid_of(tmp_path), record(floats()), num_rounds=0).arrays), floats())


def test_a_second_start_goes_on_with_what_nodes_hold(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    strategy = phloem.flower.Compressed(FedAvg(), bits=1.0)
    first = run(strategy, grid, rounds=2)
    grid.down.clear()
    strategy.start(grid, first.arrays, num_rounds=1)
    assert max(size for _, _, size, _ in grid.down) < 250


def test_half_precision_beyond_its_range_becomes_its_largest_number(tmp_path: Path) -> None:
    def growing(arrays: Any, node: int, number: int) -> Any:
        return {"h": np.full(20, 65504, np.float16)}

    first = {"h": np.full(20, 65000, np.float16)}
    result = run(
        phloem.flower.Compressed(FedAvg(), bits=0.5), grid_of(tmp_path, train=growing), first, rounds=5
    )
    assert np.isfinite(arrays_in(result.arrays)["h"]).all()


def test_a_packed_record_is_a_flower_record_like_any_other(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    run(phloem.flower.Compressed(FedAvg(), bits=1.0), grid, rounds=1)
    packs = [m.content["arrays"] for m in grid.received[1] if "arrays" in m.content]
    again = ArrayRecord.inflate(packs[0].deflate(), packs[0].children)
    assert unpacked(again) == unpacked(packs[0])
    assert packs[0].count_bytes() > 0
